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

BETWEEN = "\x1f"
"""Between the two parts of a pair's key."""


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

LABELS: dict[str, str] = {
    "agent": "agent_id",
    "step": "step",
    "user": "user_id",
    "session": "session_id",
    "model": "model",
    "tier": "tier",
    "provider": "provider",
    "api": "api",
}
"""Rollup dimension -> the row's column."""

PAIRS: tuple[tuple[str, str], ...] = (
    ("agent", "step"),
    ("agent", "model"),
    ("agent", "user"),
    ("provider", "model"),
)
"""What reports ask across two labels."""

Cell: TypeAlias = tuple[int, str, str, str]
"""A rollup's place: bucket_start, dimension, key, tenant."""


def bucket(at: Instant | int) -> int:
    """The start of the quarter of an hour that holds this instant, in minutes since the epoch."""
    return at // BUCKET_US * 15


def vector(entry: Entry) -> Vector:
    """What one closed row adds."""
    status = entry.status
    asked = status not in ("hit", "refused")
    return (
        int(entry.attempt == 1 and entry.purpose == "call"),
        int(asked),
        int(status == "completed"),
        int(status == "failed"),
        int(status == "abandoned"),
        int(status == "expired"),
        int(status == "hit"),
        int(status == "refused"),
        entry.input_tokens or 0,
        entry.cached_tokens or 0,
        entry.cache_write_tokens or 0,
        entry.output_tokens or 0,
        entry.reasoning_tokens or 0,
        entry.cost_nanos or 0,
        entry.saved_nanos or 0,
        int(entry.cost_nanos is None),
        int(entry.cost_status == "estimated"),
        int(asked and (entry.input_tokens is None or entry.output_tokens is None)),
    )


def negative(numbers: Vector) -> Vector:
    """What takes a row back."""
    return tuple([-number for number in numbers])


def cells(entry: Entry) -> list[Cell]:
    """Every rollup that one row counts in. An absent label and an empty one are both the key ""."""
    start, tenant = bucket(entry.started_at), entry.tenant
    agent, step, user, session = (
        entry.agent_id or "", entry.step or "", entry.user_id or "", entry.session_id or "",
    )  # fmt: skip
    model, tier = entry.model or "", entry.tier or ""
    places = [
        (start, "total", "", tenant),
        (start, "agent", agent, tenant),
        (start, "step", step, tenant),
        (start, "user", user, tenant),
        (start, "session", session, tenant),
        (start, "model", model, tenant),
        (start, "tier", tier, tenant),
        (start, "provider", entry.provider, tenant),
        (start, "api", entry.api, tenant),
        (start, "agent|step", agent + BETWEEN + step, tenant),
        (start, "agent|model", agent + BETWEEN + model, tenant),
        (start, "agent|user", agent + BETWEEN + user, tenant),
        (start, "provider|model", entry.provider + BETWEEN + model, tenant),
    ]
    if entry.tags:
        places += [(start, "tag:" + name, value, tenant) for name, value in dict(entry.tags).items()]
    return places


_BINS_PER_DECADE = 20
_EDGES = tuple(round(10 ** (step / _BINS_PER_DECADE)) for step in range(18 * _BINS_PER_DECADE))


def cost_bin(nanos: int) -> int:
    """The histogram's bin of a run's cost: twenty a decade from one nano-dollar up; 0: nothing (or a credit)."""
    return bisect_right(_EDGES, nanos)
