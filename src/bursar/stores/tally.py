"""Everything that one transaction adds to the books beside its rows. Pure: both stores count with it.

A row is added when it closes and, where a late real outcome corrects an expired one, the old one is taken back first:
so the books move by the difference.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from bursar.stores.counters import Cell, Vector, cells, grains_of, negative, remarked, vector
from bursar.stores.forest import Forest, Shelf
from bursar.stores.sketch import SketchKey, input_bin, input_key, output_bin, output_key
from bursar.types import Entry, Ratios

ModelKey: TypeAlias = tuple[str, str]
"""provider, the model that was sent"""

DECAY = 1 - 1 / 200
"""The learned ratios look back over about two hundred answers of a model."""


class Factor(msgspec.Struct, frozen=True):
    """Decayed sums of estimated and reported tokens, and what the sums before them have decayed to."""

    input_estimated: float = 0.0
    input_reported: float = 0.0
    output_estimated: float = 0.0
    output_reported: float = 0.0
    decay: float = 1.0

    def ratios(self, input_high: float | None = None) -> Ratios:
        return Ratios(
            input=self.input_reported / self.input_estimated if self.input_estimated > 0 else 1.0,
            output=self.output_reported / self.output_estimated if self.output_estimated > 0 else 1.0,
            input_high=input_high,
        )

    def then(self, later: "Factor") -> "Factor":
        """These sums, decayed, with later ones added."""
        fade = later.decay
        return Factor(
            self.input_estimated * fade + later.input_estimated,
            self.input_reported * fade + later.input_reported,
            self.output_estimated * fade + later.output_estimated,
            self.output_reported * fade + later.output_reported,
            self.decay * fade,
        )


def evidence(entry: Entry) -> Factor | None:
    """What a row teaches about our estimates: only a completed answer whose own usage was reported does."""
    if entry.status != "completed" or entry.usage is None or entry.cost_status == "estimated":
        return None
    told_in, told_out = entry.input_tokens, entry.output_tokens
    guess_in, guess_out = entry.input_estimate or 0, entry.output_estimate or 0
    knows_in, knows_out = told_in is not None and guess_in > 0, told_out is not None and guess_out > 0
    if not (knows_in or knows_out):
        return None
    return Factor(
        guess_in if knows_in else 0.0,
        (told_in or 0) if knows_in else 0.0,
        guess_out if knows_out else 0.0,
        (told_out or 0) if knows_out else 0.0,
        DECAY,
    )


class Tally:
    """The changes of one transaction."""

    __slots__ = ("_found", "factors", "forest", "sketches")

    def __init__(self, shelf: Shelf) -> None:
        self.forest = Forest(shelf)
        self.factors: dict[ModelKey, Factor] = {}
        self.sketches: dict[SketchKey, dict[int, int]] = {}
        self._found: defaultdict[Cell, list[Vector]] = defaultdict(list)

    def open(self, entry: Entry) -> None:
        """A row begins: its run is known from now on."""
        self.forest.enrol(entry)

    def close(self, entry: Entry, sent_model: str | None) -> None:
        """A row has ended."""
        self._count(entry, vector(entry))
        self.forest.add(entry)
        lesson = evidence(entry)
        if lesson is not None and sent_model is not None:
            key = (entry.provider, sent_model)
            self.factors[key] = self.factors.get(key, Factor()).then(lesson)
            if lesson.input_estimated > 0:
                self._sketch(input_key(*key), input_bin(lesson.input_estimated, lesson.input_reported))
        output = output_bin(entry)
        if output is not None:
            self._sketch(output_key(entry), output)

    def take_back(self, entry: Entry) -> None:
        """A row that had been booked is about to be corrected."""
        self._count(entry, negative(vector(entry)))
        self.forest.add(entry, -1)

    def mark(self, entry: Entry, validated: bool | None) -> None:
        """A closed row is about to say something else of its answer than it does."""
        if entry.validated is not validated:
            self._count(entry, remarked(entry.validated, validated))

    def rollups(self) -> dict[Cell, Vector]:
        """What every rollup gains, of every grain."""
        return rolled({cell: found[0] if len(found) == 1 else _sum(found) for cell, found in self._found.items()})

    def _sketch(self, key: SketchKey, at: int) -> None:
        bins = self.sketches.setdefault(key, {})
        bins[at] = bins.get(at, 0) + 1

    def _count(self, entry: Entry, numbers: Vector) -> None:
        found = self._found
        for cell in cells(entry):
            found[cell].append(numbers)


def add(one: Vector, other: Vector) -> Vector:
    """The sum, number by number."""
    return tuple(map(int.__add__, one, other))


def rolled(finest: Mapping[Cell, Vector]) -> dict[Cell, Vector]:
    """Rollups of the finest grain, and what they come to in the coarser ones."""
    found = dict(finest)
    for (_, start, dim, *keys), numbers in finest.items():
        for grain in grains_of(dim)[1:]:
            at: Cell = (grain, start - start % grain, dim, keys[0], keys[1], keys[2])
            found[at] = add(found[at], numbers) if at in found else numbers
    return found


def _sum(vectors: list[Vector]) -> Vector:
    return tuple(map(sum, zip(*vectors, strict=True)))
