"""What calls really use, in bins of a twentieth of a decade: high quantiles of it, exact to about 12 %. Pure.

Two are kept: the output tokens of each step, so that a hold can be what the step usually needs, and reported per
estimated input tokens of each model, so that input can be held at what it usually comes to.
"""

from bisect import bisect_right
from collections.abc import Mapping
from typing import TypeAlias

from bursar.stores.counters import EDGES
from bursar.types import Entry

SketchKey: TypeAlias = tuple[str, str, str, str]
"""kind, first and second key, tenant: ("output", agent, step, tenant) or ("input", provider, model sent, "")."""

_FEWEST = 100
"""Fewer observations than this tell nothing about a p99.9."""
INPUT_SCALE = 1_000
"""Ratios of input are kept in thousandths."""


class Sketch:
    """Counts by bin; never changed once made, so that any thread may read it."""

    __slots__ = ("_high", "bins")

    def __init__(self, bins: Mapping[int, int]) -> None:
        self.bins = bins
        self._high = _high(bins)

    def high(self) -> int | None:
        """The p99.9, as the largest value of its bin; None: too few were seen."""
        return self._high

    def plus(self, gains: Mapping[int, int]) -> "Sketch":
        """These counts too."""
        return Sketch({**self.bins, **{at: self.bins.get(at, 0) + count for at, count in gains.items()}})


def _high(bins: Mapping[int, int]) -> int | None:
    count = sum(bins.values())
    if count < _FEWEST:
        return None
    above = count // 1000
    for at in sorted(bins, reverse=True):
        above -= bins[at]
        if above < 0:
            return EDGES[min(at, len(EDGES) - 1)] - 1
    return None


def output_key(entry: Entry) -> SketchKey:
    """Where a row's output is counted."""
    return "output", entry.agent_id or "", entry.step or "", entry.tenant


def input_key(provider: str, model: str) -> SketchKey:
    """Where a model's input is counted, by the name that was sent."""
    return "input", provider, model, ""


def output_bin(entry: Entry) -> int | None:
    """The bin of a whole answer's output. One that our own limit cut would have been longer: it counts twice that."""
    if entry.status != "completed" or entry.output_tokens is None:
        return None
    cut = entry.output_limit is not None and entry.output_tokens >= entry.output_limit
    return bisect_right(EDGES, entry.output_tokens * (2 if cut else 1))


def input_bin(estimated: float, reported: float) -> int:
    """The bin of reported per estimated tokens."""
    return bisect_right(EDGES, int(-(-reported * INPUT_SCALE // estimated)))
