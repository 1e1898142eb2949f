"""What a page shows, as data: tiles, tables, charts and remarks. The templates draw it; tests read it.

Pure. Nothing here is markup: texts are escaped where they are drawn.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, TypeAlias

import msgspec

FULL = 1000
"""Charts and bars are drawn on a field of so many units across."""
HEIGHT = 200


class Segment(msgspec.Struct, frozen=True):
    """A piece of a bar, in units of FULL."""

    x: float
    width: float
    look: str
    """Its class in the style sheet."""


class Form(msgspec.Struct, frozen=True):
    """A button that changes something: where it is sent, what it says, what it is about, and the fields it sends."""

    path: str
    button: str
    about: str
    fields: tuple[tuple[str, str], ...]


class Cell(msgspec.Struct, frozen=True):
    """One cell of a table. href: the rows behind it. bars: drawn beside the text. form: drawn instead of it."""

    text: str
    href: str | None = None
    bars: tuple[Segment, ...] = ()
    hint: str = ""
    look: str = ""
    depth: int = 0
    form: Form | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Columns whose name begins with "#" hold numbers."""

    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "Nothing in this period."
    note: str = ""
    more: tuple[str, str] | None = None
    """A link to the rest of a long list: its text and address."""


class Tile(msgspec.Struct, frozen=True):
    """One number, what it is and what to compare it with."""

    label: str
    value: str
    note: str = ""
    href: str | None = None
    look: str = ""


class Rect(msgspec.Struct, frozen=True):
    """A piece of a column: series counts from 0 at the bottom."""

    x: float
    y: float
    width: float
    height: float
    series: int
    hint: str
    href: str


class Series(msgspec.Struct, frozen=True):
    """One colour of a chart and its amounts, slot by slot."""

    name: str
    amounts: tuple[int, ...]
    href: str | None = None


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Stacked columns over time. table: the same numbers, for whoever cannot see or point."""

    kind: ClassVar[str] = "chart"
    title: str
    rects: tuple[Rect, ...]
    marks: tuple[str, ...]
    """What stands at the top, the middle and the foot of the scale."""
    ticks: tuple[str, ...]
    legend: tuple[Series, ...]
    table: Table
    note: str = ""


class Notes(msgspec.Struct, frozen=True):
    """What the numbers say, in sentences."""

    kind: ClassVar[str] = "notes"
    title: str
    lines: tuple[str, ...]


class Steps(msgspec.Struct, frozen=True):
    """An empty state: what to do next, with the lines to type."""

    kind: ClassVar[str] = "steps"
    title: str
    lines: tuple[tuple[str, str], ...]


Part: TypeAlias = Table | Chart | Notes | Steps


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One page."""

    title: str
    lead: str = ""
    tiles: tuple[Tile, ...] = ()
    parts: tuple[Part, ...] = ()
    fields: tuple[str, ...] = ()
    """The label filters that the page's form offers."""
    timed: bool = True
    """Whether the period changes what is shown."""
    live: bool = False
    """Whether it is asked for again while it is looked at."""


def bar(part: int, whole: int, look: str = "s0") -> tuple[Segment, ...]:
    """A share as one bar; nothing where there is no whole."""
    return (Segment(0, round(FULL * min(max(part / whole, 0), 1), 2), look),) if whole > 0 else ()


def stacked(*parts: tuple[int, str], whole: int) -> tuple[Segment, ...]:
    """Shares side by side, never beyond the field."""
    found, at = [], 0.0
    for part, look in parts:
        width = min(FULL * max(part, 0) / whole, FULL - at) if whole > 0 else 0
        found.append(Segment(round(at, 2), round(width, 2), look))
        at += width
    return tuple(segment for segment in found if segment.width)


def ceiling(most: int) -> int:
    """The end of a scale: 1, 2 or 5 times a power of ten, no less than the most (and 1)."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power >= most:
                return step * power
        power *= 10


def columns(series: Sequence[Series], hints: Sequence[Sequence[str]], hrefs: Sequence[str]) -> tuple[Rect, ...]:
    """Stacked columns of HEIGHT units at the ceiling; what is nothing or less is not drawn.

    hints: by series and slot; hrefs: by slot.
    """
    slots = len(hrefs)
    top = ceiling(max((sum(max(one.amounts[at], 0) for one in series) for at in range(slots)), default=0))
    pitch = FULL / slots if slots else FULL
    gap = min(pitch * 0.2, 6)
    found = []
    for at, href in enumerate(hrefs):
        foot = float(HEIGHT)
        for number, one in enumerate(series):
            height = HEIGHT * max(one.amounts[at], 0) / top
            if not height:
                continue
            foot -= height
            x, y, width, tall = (round(n, 3) for n in (at * pitch + gap / 2, foot, pitch - gap, height))
            found.append(Rect(x, y, width, tall, number, hints[number][at], href))
    return tuple(found)


def rows_of(lines: Iterable[Sequence[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows as a Table takes them."""
    return tuple(tuple(line) for line in lines)
