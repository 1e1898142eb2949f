"""What a breaker remembers of late calls to know whether it trips. Frozen, bounded."""

from typing import Literal, TypeAlias

import msgspec

from bursar.rules.breaker.loop import NOTHING, Circle, Thread
from bursar.types import Instant


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered for one trigger; the fields that it does not read stay empty."""

    start: Instant = Instant(0)
    """Of the ceiling's window."""
    spent: int = 0
    minutes: tuple[tuple[int, int], ...] = ()
    """(minute since the epoch, nano-dollars), the latest last, for the velocity's span and the hour before."""
    threads: tuple[Thread, ...] = ()
    circle: Circle = NOTHING
    runs: tuple[tuple[bytes, Instant], ...] = ()
    """Digests of sub-agent runs and when they were last seen: one more than the limit at most."""
    attempts: tuple[tuple[Instant, bool], ...] = ()
    """When and whether it failed, for as many as the trigger looks at."""


NONE = Evidence()
HOUR_MINUTES = 60

By: TypeAlias = Literal["rule", "probe", "hand"]
"""Who changed a breaker: its trigger, a probe (or the clock), or somebody by name."""
