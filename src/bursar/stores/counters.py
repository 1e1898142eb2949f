"""From a settled row to what it adds to the rollups. Pure, and the one place that says what is counted.

A sum adds what is known; how often something was not known is counted beside it, so that no unknown passes for zero.
"""

from bisect import bisect_right
from typing import TypeAlias

import msgspec

from bursar.types import Entry, Instant

Vector: TypeAlias = tuple[int, ...]
"""The numbers of Counters, in its order."""

BUCKET_US = 900_000_000
"""Rollups are kept by the quarter of an hour: every time zone's hours and days are whole numbers of them."""

GRAINS = (15, 1_440, 40_320)
"""Minutes of a rollup's bucket: a quarter of an hour, a UTC day, four weeks; each a whole number of the one before.

What a long period comes to is added up from few buckets: the coarse ones in it, finer ones at its ends.
"""
DAYS = GRAINS[:2]


class Counters(msgspec.Struct, frozen=True):
    """What is summed. Tokens, nano-dollars and numbers of rows."""

    calls: int = 0
    """Requests: rows of purpose `call` with attempt 1."""
    attempts: int = 0
    """Rows that a provider was asked for: all but hits and refusals."""
    completed: int = 0
    failed: int = 0
    abandoned: int = 0
    expired: int = 0
    hits: int = 0
    refused: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0
    saved_nanos: int = 0
    unpriced: int = 0
    """Rows whose cost is unknown."""
    estimated: int = 0
    """Rows whose cost is Bursar's estimate."""
    unknown_usage: int = 0
    """Rows whose tokens are unknown."""
    passed: int = 0
    """Rows whose answer passed the step's validators."""
    rejected: int = 0
    """Rows whose answer did not; one that nobody could judge counts in neither."""


FIELDS: tuple[str, ...] = Counters.__struct_fields__
ZERO: Vector = (0,) * len(FIELDS)

DIMS: dict[str, tuple[str, str]] = {
    "provider|model": ("provider", "model"),
    "agent|model": ("agent_id", "model"),
    "agent|step": ("agent_id", "step"),
    "user_tier|user": ("user_tier", "user_id"),
    "agent|user": ("agent_id", "user_id"),
    "user|session": ("user_id", "session_id"),
    "tier|api": ("tier", "api"),
    "cache|step": ("cache", "step"),
    "step|tier": ("step", "tier"),
}
"""What is summed, as pairs of the row's columns: a pair answers for both its labels and for the one within the other,
the first pair that can; a user has one tier, so that users are few cells of theirs.
Beside these there is one dimension for each tag, "tag:K", whose first key is the value."""


def grains_of(dim: str) -> tuple[int, ...]:
    """The grains that a dimension is kept in: four weeks where there are many keys and most of them come again, the
    finest alone where few live longer than that: a day of sessions has nearly as many buckets as its quarters have."""
    if dim == "user|session":
        return GRAINS[:1]
    return GRAINS if dim in ("user_tier|user", "agent|user") else DAYS


LABELS: dict[str, str] = {
    "agent": "agent_id", "step": "step", "user": "user_id", "user_tier": "user_tier", "session": "session_id",
    "model": "model", "tier": "tier", "provider": "provider", "api": "api", "cache": "cache",
}  # fmt: skip
"""What a report may ask by -> the row's column."""

Cell: TypeAlias = tuple[int, int, str, str, str, str]
"""A rollup's place: grain, bucket_start, dimension, first and second key ("": no such label was given), tenant."""


def bucket(at: Instant | int) -> int:
    """The start of the quarter of an hour that holds this instant, in minutes since the epoch."""
    return at // BUCKET_US * 15


_COUNTED = {"completed": 2, "failed": 3, "abandoned": 4, "expired": 5, "hit": 6, "refused": 7}
"""status -> its place in FIELDS"""
_BY_STATUS: dict[str, Vector] = {
    status: tuple(int(at == place or (at == 1 and place < 6)) for at in range(1, 8))
    for status, place in _COUNTED.items()
}
"""status -> the counters from attempts to refused"""


def vector(entry: Entry) -> Vector:
    """What one closed row adds."""
    by_status = _BY_STATUS[entry.status]
    asked = by_status[0]
    return (
        int(entry.attempt == 1 and entry.purpose == "call"),
        *by_status,
        entry.input_tokens or 0,
        entry.cached_tokens or 0,
        entry.cache_write_tokens or 0,
        entry.output_tokens or 0,
        entry.reasoning_tokens or 0,
        entry.cost_nanos or 0,
        entry.saved_nanos or 0,
        int(entry.cost_nanos is None),
        int(entry.cost_status == "estimated"),
        asked if entry.input_tokens is None or entry.output_tokens is None else 0,
        int(entry.validated is True),
        int(entry.validated is False),
    )


def remarked(before: bool | None, after: bool | None) -> Vector:
    """What it changes that validators say something else of a row."""
    passed, rejected = (after is True) - (before is True), (after is False) - (before is False)
    return (*ZERO[:-2], passed, rejected)


def negative(numbers: Vector) -> Vector:
    """What takes a row back."""
    return tuple([-number for number in numbers])


def cells(entry: Entry) -> list[Cell]:
    """Every rollup of the finest grain that one row counts in. An absent label and an empty one are both the key ""."""
    grain, start, tenant = GRAINS[0], bucket(entry.started_at), entry.tenant
    agent, user, model = entry.agent_id or "", entry.user_id or "", entry.model or ""
    step, tier = entry.step or "", entry.tier or ""
    places = [
        (grain, start, "provider|model", entry.provider, model, tenant),
        (grain, start, "agent|model", agent, model, tenant),
        (grain, start, "agent|step", agent, step, tenant),
        (grain, start, "user_tier|user", entry.user_tier or "", user, tenant),
        (grain, start, "agent|user", agent, user, tenant),
        (grain, start, "user|session", user, entry.session_id or "", tenant),
        (grain, start, "tier|api", tier, entry.api, tenant),
        (grain, start, "cache|step", entry.cache, step, tenant),
        (grain, start, "step|tier", step, tier, tenant),
    ]
    if entry.tags:
        places += [(grain, start, "tag:" + name, value, "", tenant) for name, value in dict(entry.tags).items()]
    return places


_BINS_PER_DECADE = 20
EDGES = tuple(round(10 ** (step / _BINS_PER_DECADE)) for step in range(18 * _BINS_PER_DECADE))


def cost_bin(nanos: int) -> int:
    """The histogram's bin of a run's cost: twenty a decade from one nano-dollar up; 0: nothing (or a credit)."""
    return bisect_right(EDGES, nanos)
