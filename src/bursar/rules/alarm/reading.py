"""What a rule says of one subject at one moment: over, under, or not known, with value, limit and the sentence why."""

from typing import Literal, Protocol, TypeAlias

import msgspec

from bursar.money import format_usd
from bursar.types import PPM

Unit: TypeAlias = Literal["nanos", "ppm", "rows"]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Over exactly where value > limit; what falls is told as how far it fell, so that more is always worse."""

    rule: str
    subject: str
    state: Literal["over", "under", "unknown"]
    value: int | None = None
    limit: int | None = None
    unit: Unit = "nanos"
    why: str
    level: int = 0
    """How bad on the rule's own ladder (the budget's thresholds, the number of subjects): a step up is told."""

    @property
    def cause(self) -> str:
        """What an incident is of: one at a time for each."""
        return f"{self.rule}\0{self.subject}"


class Measured(Protocol):
    @property
    def value(self) -> int | None: ...
    @property
    def limit(self) -> int | None: ...


def ratio(of: Measured) -> int:
    """Value over limit, in millionths: how bad, whatever the unit. What is not known is no worse than nothing."""
    return (of.value or 0) * PPM // max(1, of.limit or 0)


def show(value: int | None, unit: Unit) -> str:
    """For people: "$4.20", "81.5 %", "12"."""
    if value is None:
        return "unknown"
    if unit == "ppm":
        return f"{value // 10_000}.{value % 10_000 // 1_000} %"
    return f"${usd(value)}" if unit == "nanos" else str(value)


def usd(nanos: int) -> str:
    """Dollars to the cent where that is not too coarse."""
    cents = 10_000_000
    return format_usd(nanos // cents * cents if abs(nanos) >= 100 * cents else nanos)
