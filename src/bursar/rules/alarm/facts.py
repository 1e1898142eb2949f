"""What the rules read of the ledger, gathered by whoever can ask it. None is not known: never zero.

A window from before the ledger's first row is None; one in which nothing was called is 0.
"""

from typing import Literal, TypeAlias

import msgspec

from bursar.types import Instant


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Spend by consecutive windows of one size. Feeds Spike (28 days or 672 hours) and Forecast (days)."""

    subject: str = ""
    """Whose spend it is: "" for everybody's."""
    window: Literal["hour", "day"]
    zone: str = "UTC"
    before: tuple[int | None, ...]
    """Nano-dollars of the windows that are over, the latest last. Hours are consecutive, whatever the clocks do."""
    start: Instant
    """Of the running window."""
    current: int | None
    """Nano-dollars known of the running window so far."""
    unpriced: int = 0
    """Rows of the running window of unknown cost: `current` is a lower bound then."""
    month: int | None = None
    """Nano-dollars of the calendar month so far, the running day included; for Forecast."""
    month_unpriced: int = 0


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What one subject has spent in a window. Feeds Cap."""

    subject: str
    nanos: int | None
    unpriced: int = 0


class Budgeted(msgspec.Struct, frozen=True, kw_only=True):
    """A budget's counter: nano-dollars or tokens, the unit is the same for all. Feeds Threshold."""

    subject: str
    """Budget, scope and key."""
    limit: int
    settled: int | None
    held: int = 0
    tokens: bool = False


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Runs and what they cost together, late and before. Feeds Drift."""

    subject: str = ""
    runs: int
    nanos: int | None
    runs_before: int
    nanos_before: int | None
    unpriced: int = 0
    """Late runs of which not all the cost is known."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Some of all rows, late and (for Falling) before. Feeds Share and Falling."""

    subject: str = ""
    part: int | None
    whole: int | None
    part_before: int | None = None
    whole_before: int | None = None


class Strangers(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one model that has no price. Feeds Stranger."""

    subject: str
    """provider/model"""
    rows: int | None


class Tightened(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of the semantic cache. Feeds Wrong."""

    subject: str
    """Tenant and step, and the pool's id."""
    times: int
    """How often its target stands halved."""
    wrong: int
    judged: int
    """Answers that were compared with a fresh one so far, and those of them that were wrong."""


Facts: TypeAlias = Series | Spent | Budgeted | Costs | Pair | Strangers | Tightened
