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


FIELDS: tuple[str, ...] = Counters.__struct_fields__
ZERO: Vector = (0,) * len(FIELDS)

DIMS: dict[str, tuple[str, str]] = {
    "provider|model": ("provider", "model"),
    "agent|model": ("agent_id", "model"),
    "agent|step": ("agent_id", "step"),
    "agent|user": ("agent_id", "user_id"),
    "user|session": ("user_id", "session_id"),
    "tier|api": ("tier", "api"),
    "cache|step": ("cache", "step"),
}
"""What is summed, as pairs of the row's columns: a pair answers for both its labels and for the one within the other.
Beside these there is one dimension for each tag, "tag:K", whose first key is the value."""

LABELS: dict[str, str] = {
    "agent": "agent_id", "step": "step", "user": "user_id", "session": "session_id", "model": "model", "tier": "tier",
    "provider": "provider", "api": "api", "cache": "cache",
}  # fmt: skip
"""What a report may ask by -> the row's column."""

Cell: TypeAlias = tuple[int, str, str, str, str]
"""A rollup's place: bucket_start, dimension, first and second key ("": no such label was given), tenant."""


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
    )


def negative(numbers: Vector) -> Vector:
    """What takes a row back."""
    return tuple([-number for number in numbers])


def cells(entry: Entry) -> list[Cell]:
    """Every rollup that one row counts in. An absent label and an empty one are both the key ""."""
    start, tenant = bucket(entry.started_at), entry.tenant
    agent, user, model = entry.agent_id or "", entry.user_id or "", entry.model or ""
    places = [
        (start, "provider|model", entry.provider, model, tenant),
        (start, "agent|model", agent, model, tenant),
        (start, "agent|step", agent, entry.step or "", tenant),
        (start, "agent|user", agent, user, tenant),
        (start, "user|session", user, entry.session_id or "", tenant),
        (start, "tier|api", entry.tier or "", entry.api, tenant),
        (start, "cache|step", entry.cache, entry.step or "", tenant),
    ]
    if entry.tags:
        places += [(start, "tag:" + name, value, "", tenant) for name, value in dict(entry.tags).items()]
    return places


_BINS_PER_DECADE = 20
EDGES = tuple(round(10 ** (step / _BINS_PER_DECADE)) for step in range(18 * _BINS_PER_DECADE))


def cost_bin(nanos: int) -> int:
    """The histogram's bin of a run's cost: twenty a decade from one nano-dollar up; 0: nothing (or a credit)."""
    return bisect_right(EDGES, nanos)
