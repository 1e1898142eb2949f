"""What a window should come to, from the windows before it. Pure, integers; None: too little is known to expect.

Medians, so that one incident of the past neither raises what is expected nor hides the next one.
"""

from collections.abc import Sequence

from bursar.money import divide_half_even
from bursar.types import PPM

WEEK = {"hour": 7 * 24, "day": 7}
"""Windows of a week. Hours are counted by the clock of physics: in the week of a change the places are one hour off."""
_WEEKS = 4
_NORMAL = 2_800_000
"""Millionths: the median absolute deviation times this is the standard deviation of what comes from what is expected.

1.48 for a large normal sample; 1.9 times that because places and levels are fitted to these same few windows, and are
uncertain themselves (measured: tests/test_alarm_days.py).
"""

Windows = Sequence[int | None]


def rolling(before: Windows, windows: int) -> int | None:
    """The mean of the last so many, exactly as the name says."""
    last = _last(before, windows)
    return None if last is None else divide_half_even(sum(last), windows)


def dearest(before: Windows, windows: int) -> int | None:
    """The most that one of the last so many came to."""
    last = _last(before, windows)
    return None if last is None else max(last)


def usual(before: Windows, week: int, ahead: int = 0) -> tuple[int, int] | None:
    """(expected, deviation) of the window `ahead` of the running one; None before there are four whole weeks.

    Expected: the median of its place in the last four weeks, times the level, which is how the windows of the last week
    stand to the medians of their own places. Deviation: how far off it a window usually comes, from how far those of
    all four weeks lie off their week's level.
    """
    known = _last(before, _WEEKS * week)
    if known is None:
        return None
    places = [_median(known[place::week]) for place in range(week)]
    level, spreads = PPM, []
    for first in range(0, len(known), week):
        ratios = [now * PPM // place for now, place in zip(known[first : first + week], places, strict=True) if place]
        level = _median(ratios) if ratios else PPM
        spreads += [abs(one - level) * PPM // level for one in ratios if level]
    expected = places[ahead % week] * level // PPM
    spread = _median(spreads) * _NORMAL // PPM if spreads else 0
    return expected, expected * spread // PPM


def _last(before: Windows, windows: int) -> list[int] | None:
    known = [value for value in before[-windows:] if value is not None]
    return known if len(known) == windows else None


def _median(values: list[int]) -> int:
    """Of an even number the mean of the two in the middle, rounded down."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
