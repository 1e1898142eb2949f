"""Ledger rows as the contract writes them for machines: dollars as decimal strings, times as ISO 8601, None as null.

Pure. One spelling for the admin API, `--json` and exports.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bursar.money import format_usd
from bursar.rules import grant
from bursar.stores.base import BudgetLine, Counters, Key, Line, Run, Toucher
from bursar.types import Entry, Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOKENS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_HIDDEN = frozenset(
    ("blocks", "request", "response", "terms", "hold_nanos", "charges", "input_estimate", "output_estimate")
)

TOLD = ("verdict", "decision", "marks")
"""Columns of JSON texts of our own."""


def iso(at: Instant | int) -> str:
    """Microseconds since the epoch -> "2026-11-24T18:00:00.123456Z"."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def usd(nanos: int | None) -> str | None:
    """Nano-dollars -> a decimal string; unknown stays None."""
    return None if nanos is None else format_usd(nanos)


def call(entry: Entry) -> dict[str, Any]:
    """One row of the ledger, in the contract's columns. Digests and captured bodies are left out.

    What was judged and decided is told as it is kept, JSON.
    """
    row: dict[str, Any] = {}
    for name in entry.__struct_fields__:
        value = getattr(entry, name)
        if name in _HIDDEN:
            continue
        if name == "tags":
            row[name] = dict(value)
        elif name in TOLD:
            row[name] = None if value is None else msgspec.json.decode(value)
        elif name == "started_at":
            row[name] = iso(value)
        elif name.endswith("_nanos"):
            row[name.removesuffix("_nanos") + "_usd"] = usd(value)
        else:
            row[name] = value
    return row


def counters(counts: Counters) -> dict[str, Any]:
    """Sums over rows: money as *_usd. A sum of which no row knew its part is None, never 0."""
    told: dict[str, Any] = {}
    for name in counts.__struct_fields__:
        value = getattr(counts, name)
        if name.endswith("_nanos"):
            told[name.removesuffix("_nanos") + "_usd"] = format_usd(value)
        else:
            told[name] = value
    if counts.unpriced and counts.unpriced == counts.attempts + counts.hits + counts.refused:
        told["cost_usd"] = None
    if counts.attempts and counts.unknown_usage == counts.attempts:
        told |= {name: told[name] or None for name in _TOKENS}
    return told


def line(by: str, item: Line) -> dict[str, Any]:
    """One line of a report; the key stands under the name of what it was asked by."""
    told: dict[str, Any] = {by: item.key, **counters(item.counts)}
    if item.runs is not None:
        told["runs"] = item.runs
    return told


def run(item: Run) -> dict[str, Any]:
    """One run's totals. A cost of which no row knew its part is None, never 0."""
    told: dict[str, Any] = {}
    for name in item.__struct_fields__:
        value = getattr(item, name)
        if name.endswith("_at"):
            told[name] = None if value is None else iso(value)
        elif name.endswith("_nanos"):
            told[name.removesuffix("_nanos") + "_usd"] = usd(value)
        else:
            told[name] = value
    for within in ("", "tree_"):
        if told[within + "unpriced"] and told[within + "unpriced"] == told[within + "rows"]:
            told[within + "cost_usd"] = None
    return told


def budget(item: BudgetLine, touchers: Iterable[Toucher] | None = None) -> dict[str, Any]:
    """One counter in the window that is running. What it does not limit is None; remaining is below 0 after an overrun.

    used: the share of the limit that is spent or held, of the two sides the larger; None of a limit of 0. overrun: what
    was spent beyond the limit. touchers: who it was charged with, where that was asked for.
    """
    claim, balance, start, end = item.counter.claim, item.counter.balance, item.counter.start, item.counter.end
    nanos, tokens = balance.settled_nanos + balance.held_nanos, balance.settled_tokens + balance.held_tokens
    told: dict[str, Any] = {
        "name": claim.budget,
        "scope": claim.scope,
        "key": claim.key,
        "tenant": claim.tenant or None,
        "window": claim.window,
        "timezone": claim.zone,
        "started_at": iso(start) if start else None,
        "resets_at": None if end is None else iso(end),
        "state": grant.state(item.counter),
        "on_exhausted": claim.on_exhausted,
        "limit_usd": usd(claim.limit_nanos),
        "limit_tokens": claim.limit_tokens,
        "settled_usd": format_usd(balance.settled_nanos),
        "settled_tokens": balance.settled_tokens,
        "held_usd": format_usd(balance.held_nanos),
        "held_tokens": balance.held_tokens,
        "remaining_usd": None if claim.limit_nanos is None else format_usd(claim.limit_nanos - nanos),
        "remaining_tokens": None if claim.limit_tokens is None else claim.limit_tokens - tokens,
        "used": _used((claim.limit_nanos, nanos), (claim.limit_tokens, tokens)),
        "overrun_usd": usd(_over(balance.settled_nanos, claim.limit_nanos)),
        "overrun_tokens": _over(balance.settled_tokens, claim.limit_tokens),
        "rows": item.rows,
        "touched_at": iso(item.touched_at),
    }
    if touchers is not None:
        told["touchers"] = [toucher(one) for one in touchers]
    return told


def _used(*sides: tuple[int | None, int]) -> float | None:
    return max((taken / limit for limit, taken in sides if limit), default=None)


def _over(settled: int, limit: int | None) -> int | None:
    return None if limit is None else max(0, settled - limit)


def toucher(item: Toucher) -> dict[str, Any]:
    """Whose rows a counter was charged with, and how much."""
    return {
        "agent_id": item.agent_id,
        "user_id": item.user_id,
        "step": item.step,
        "rows": item.rows,
        "usd": format_usd(item.nanos),
        "tokens": item.tokens,
    }


def key(item: Key) -> dict[str, Any]:
    """A Bursar key, without what would open a door."""
    return {
        "key_id": item.key_id,
        "name": item.name,
        "tenant": item.tenant,
        "role": item.role,
        "trusted_claims": sorted(item.trusted_claims),
        "created_at": iso(item.created_at),
        "revoked_at": None if item.revoked_at is None else iso(item.revoked_at),
    }
