"""Calendar windows: when the one that holds an instant began and when it ends, in a time zone. Pure; total.

A day is the local calendar day, 23 or 25 hours long where the clock changes. It begins at the first instant that bears
its date: where the clock falls back over midnight, what is lived again belongs to the day that has begun. An hour is a
whole local clock hour, cut where the clock changes inside it; one that is lived twice counts as two. Weeks begin on
Monday (ISO 8601).
"""

import functools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from bursar.types import Instant, Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000
_HOUR = 3_600 * _SECOND
_QUARTER = _HOUR // 4
"""Today's offsets are whole quarters of an hour, so windows begin with one."""


def bounds(window: Window, zone: str, at: Instant) -> tuple[Instant, Instant | None]:
    """The window's first instant (0 for a lifetime) and the first one after it (None for a lifetime)."""
    if window == "lifetime":
        return Instant(0), None
    known = _latest(window, zone, at // _QUARTER)
    if known[0] <= at < known[1]:
        return Instant(known[0]), Instant(known[1])
    start, end = _bounds(window, zone, at)
    return Instant(start), Instant(end)


@functools.lru_cache(1024)
def _latest(window: Window, zone: str, quarter: int) -> tuple[int, int]:
    """The window at the beginning of this quarter of an hour: nearly always the one that is asked for."""
    return _bounds(window, zone, quarter * _QUARTER)


def _bounds(window: Window, zone: str, at: int) -> tuple[int, int]:
    tz = ZoneInfo(zone)
    local = (_EPOCH + timedelta(microseconds=at)).astimezone(tz)
    if window == "hour":
        # By the offset in force, so that neither of the two 1 o'clocks of an autumn night is lost in the other.
        offset = local.utcoffset() or timedelta(0)
        shift = offset // timedelta(microseconds=1)
        start = (at + shift) // _HOUR * _HOUR - shift
        return _within_offset(tz, start, start + _HOUR, at)
    first = _first(window, local.date())
    after = _next(window, first)
    start, end = _midnight(tz, first), _midnight(tz, after)
    while at >= end:
        after = _next(window, after)
        start, end = end, _midnight(tz, after)
    return start, end


def _first(window: Window, day: date) -> date:
    if window == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if window == "month" else day


def _next(window: Window, first: date) -> date:
    if window == "month":
        return (first + timedelta(days=32)).replace(day=1)
    return first + timedelta(days=7 if window == "week" else 1)


def _midnight(tz: ZoneInfo, day: date) -> int:
    """The first instant that bears this date or a later one: midnight, or where that is skipped, the change over it."""
    before, after = (
        (datetime(day.year, day.month, day.day, tzinfo=tz, fold=fold) - _EPOCH) // timedelta(microseconds=1)
        for fold in (0, 1)
    )
    if before <= after:
        return before
    return _change(tz, after, before + _SECOND) or before


def _within_offset(tz: ZoneInfo, start: int, end: int, at: int) -> tuple[int, int]:
    """An hour cut where the clock changes inside it, so that hours never overlap."""
    change = _change(tz, start, end)
    if change is None:
        return start, end
    return (change, end) if at >= change else (start, change)


def _change(tz: ZoneInfo, start: int, end: int) -> int | None:
    """The instant in (start, end) at which the offset changes; None: it does not."""
    low, high = start // _SECOND, (end - 1) // _SECOND
    before, after = _offset(tz, low), _offset(tz, high)
    if before == after:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(tz, middle) == before:
            low = middle
        else:
            high = middle
    return high * _SECOND


def _offset(tz: ZoneInfo, second: int) -> timedelta | None:
    return (_EPOCH + timedelta(seconds=second)).astimezone(tz).utcoffset()
