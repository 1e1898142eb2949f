"""Ledger rows as the contract writes them for machines: dollars as decimal strings, times as ISO 8601, None as null.

Pure. One spelling for the admin API, `--json` and exports.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from bursar.money import format_usd
from bursar.stores.base import Counters, Key, Line, Run
from bursar.types import Entry, Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOKENS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_HIDDEN = frozenset(("blocks", "request", "response", "terms", "hold_nanos", "input_estimate", "output_estimate"))


def iso(at: Instant | int) -> str:
    """Microseconds since the epoch -> "2026-11-24T18:00:00.123456Z"."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def usd(nanos: int | None) -> str | None:
    """Nano-dollars -> a decimal string; unknown stays None."""
    return None if nanos is None else format_usd(nanos)


def call(entry: Entry) -> dict[str, Any]:
    """One row of the ledger, in the contract's columns. Digests and captured bodies are left out."""
    row: dict[str, Any] = {}
    for name in entry.__struct_fields__:
        value = getattr(entry, name)
        if name in _HIDDEN:
            continue
        if name == "tags":
            row[name] = dict(value)
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
