"""What Bursar's own caches gave: by cache, by step, and where that is little, the reason that the rows tell. Pure.

A call "went past" the caches (bypass) where its step keeps no answers, its caller wanted none, its body does not carry
all that shapes the answer, or it asks about the present; it "missed" where it looked and found nothing.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

import msgspec

from bursar.insights import rows
from bursar.policy import StepRule
from bursar.rules.semantic.calibrate import estimate
from bursar.stores.base import Counters, Filters, Line, Store
from bursar.stores.semantic import COUNTS, Pool
from bursar.types import CacheState, Instant

_STATES: tuple[str, ...] = get_args(CacheState)
_NAMED = 3
_NONE = "(none)"


class Hits(msgspec.Struct, frozen=True):
    """Sums of one period."""

    caches: tuple[Line, ...]
    """By what became of the look-up, best first: hit, semantic_hit, coalesced, miss, bypass."""
    steps: tuple[Line, ...]
    """By step, most saved first; () where nothing was a hit."""
    past: tuple[Line, ...]
    """The rows that went past the caches, by step, most calls first; () where nobody wants the reason."""
    pools: tuple[Pool, ...] = ()
    """What the semantic cache has learned, of all time."""


def build(
    store: Store, since: Instant | None, until: Instant | None, tenant: str | None, pools: Sequence[Pool] = (),
    *, hits: bool = True, few: bool = True,
) -> Hits:  # fmt: skip
    """Ask the ledger's rollups, no more than is wanted. pools: the semantic cache's. hits: there are any. few: so few
    that the reason is wanted."""
    caches = store.spend("cache", since, until, Filters(tenant=tenant))
    steps = store.spend("step", since, until, Filters(tenant=tenant)) if hits else []
    past = store.spend("step", since, until, Filters(tenant=tenant, cache="bypass")) if few else []
    return Hits(
        tuple(sorted(caches, key=lambda line: _STATES.index(line.key or "bypass"))),
        tuple(sorted(steps, key=lambda line: (-line.counts.saved_nanos, -line.counts.hits, -line.counts.calls))),
        tuple(sorted(past, key=lambda line: -line.counts.calls)),
        tuple(pool for pool in pools if tenant in (None, pool.tenant)),
    )


def share(counts: Counters, total: Counters) -> float | None:
    """What was saved, of all that would have been paid: known dollars. None where that is nothing."""
    whole = total.saved_nanos + total.cost_nanos
    return counts.saved_nanos / whole if whole else None


def learned(pool: Pool) -> dict[str, Any]:
    """What one pool of the semantic cache has come to. wrong_of_hits: the measured share, low and high its 95 % bounds;
    None while nothing has been judged."""
    state = pool.state
    found = None if state is None else estimate(state)
    return {
        "pool": pool.pool[:12], "tenant": pool.tenant, "step": pool.step or None,
        **{name: getattr(pool, name) for name in COUNTS},
        "labels": 0 if state is None else len(state.labels), "threshold": None if state is None else state.threshold,
        "max_error": None if state is None else state.max_error, "alarms": 0 if state is None else state.alarms,
        "wrong_of_hits": None if found is None else found.rate, "low": None if found is None else found.low,
        "high": None if found is None else found.high,
    }  # fmt: skip


def reason(told: Hits, total: Counters, rules: Sequence[StepRule] | None) -> str | None:
    """Why so few calls are hits, as far as the rows and the rules can tell: the one reason that most calls have.

    rules: the configured ones, in order; None: not known, and then no step is said to have none.
    """
    missed = sum(line.counts.calls for line in told.caches if line.key == "miss")
    without = [line for line in told.past if rules is not None and not _keeps(line.key, rules)]
    skipped = [line for line in told.past if line not in without]
    found = (
        (_calls(without), f"are of steps that keep no answers ({_names(without)}): say so under [[steps]] cache"),
        (_calls(skipped), f"went past the caches ({_names(skipped)}): {_WHY_PAST}"),
        (missed, "looked and found nothing: no earlier call was equal within the scope, or its answer had expired"),
    )
    most, why = max(found, key=lambda one: one[0])
    return f"{most / total.calls:.0%} of the calls {why}." if most and total.calls else None


_WHY_PAST = (
    "their callers wanted no cache, their input is not all in the body (files, URLs, stored conversations), they ask "
    "about the present, or their step keeps no answers"
)


def _keeps(step: str | None, rules: Sequence[StepRule]) -> bool:
    """Whether a rule that keeps answers may hold for the step. A name that Bursar made up is no label of the call."""
    label = _NONE if step is None or step.startswith("auto:") else step
    for rule in rules:
        match = rule.match
        if match.step is not None and not fnmatchcase(label, match.step):
            continue
        if rule.response_cache is not None or rule.semantic_cache is not None:
            return True
        if match.agent is None and match.user_tier is None and not match.tags:
            return False
    return False


def _calls(lines: Sequence[Line]) -> int:
    return sum(line.counts.calls for line in lines)


def _names(lines: Sequence[Line]) -> str:
    named = ", ".join(line.key or _NONE for line in lines[:_NAMED])
    return named if len(lines) <= _NAMED else f"{named} and {len(lines) - _NAMED} more"


def as_json(told: Hits, total: Counters) -> dict[str, Any]:
    """{"saved_share", "by_cache": [{"cache", "call_share", "saved_share", ...}], "by_step": [{"step", "rate",
    "saved_share", ...}], "semantic": [{"step", "wrong_of_hits", "low", "high", ...}]}: the rest are the columns of
    every report. Shares of dollars are of what would have been paid.
    """
    return {
        "saved_share": share(total, total),
        "by_cache": [
            {
                **rows.line("cache", line),
                "call_share": line.counts.calls / total.calls if total.calls else None,
                "saved_share": share(line.counts, total),
            }
            for line in told.caches
        ],
        "by_step": [
            {
                **rows.line("step", line),
                "rate": line.counts.hits / line.counts.calls if line.counts.calls else None,
                "saved_share": share(line.counts, total),
            }
            for line in told.steps
        ],
        "semantic": [learned(pool) for pool in told.pools],
    }
