"""Calendar windows: they tile time in every zone, and begin where the people who live there say that they begin."""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import get_args
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bursar.rules.window import bounds
from bursar.types import Instant, Window

SECOND = 1_000_000
HOUR = 3_600 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = Instant(0), Instant(4_102_444_800 * SECOND)  # 1970 to 2100
ZONES = sorted(available_timezones())
CALENDAR: list[Window] = [window for window in get_args(Window) if window != "lifetime"]


def at(text: str) -> Instant:
    return Instant((datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1))


def local(zone: str, instant: int) -> datetime:
    return (EPOCH + timedelta(microseconds=instant)).astimezone(ZoneInfo(zone))


def span(window: Window, zone: str, instant: int) -> tuple[int, int]:
    start, end = bounds(window, zone, Instant(instant))
    assert end is not None
    return start, end


def named(window: Window, day: date) -> date:
    """The first date of the window that a date is in."""
    if window == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if window == "month" else day


@cache
def changes(zone: str) -> tuple[int, ...]:
    """The instants, to the second, at which the zone's offset changes; found by asking the clock every fortnight."""
    found, step = [], 14 * 24 * HOUR
    for low in range(FIRST, LAST, step):
        high = low + step
        if local(zone, low).utcoffset() == local(zone, high).utcoffset():
            continue
        while high - low > SECOND:
            middle = (low + high) // 2 // SECOND * SECOND
            if local(zone, middle).utcoffset() == local(zone, low).utcoffset():
                low = middle
            else:
                high = middle
        found.append(high)
    return tuple(found)


@st.composite
def moments(draw: st.DrawFn, /) -> tuple[str, int]:
    """A zone and an instant, near a change of its clock as often as not."""
    zone = draw(st.sampled_from(ZONES))
    if draw(st.booleans()) and (turns := changes(zone)):
        return zone, draw(st.sampled_from(turns)) + draw(st.integers(-3 * HOUR, 3 * HOUR))
    return zone, draw(st.integers(FIRST, LAST))


@given(moment=moments(), window=st.sampled_from(CALENDAR))
@example(("America/St_Johns", at("1987-10-25T02:45:00+00:00")), "day")  # the clock falls back over midnight
@example(("Antarctica/Casey", at("2010-03-04T15:30:00+00:00")), "day")
@example(("Pacific/Apia", at("2011-12-30T10:00:00+00:00")), "day")
def test_windows_tile_time(moment: tuple[str, int], window: Window) -> None:
    """The window holds its instant; every instant in it is in this window alone; the next begins where it ends."""
    zone, instant = moment
    start, end = span(window, zone, instant)
    assert start <= instant < end
    for inside in (start, (start + end) // 2, end - 1):
        assert span(window, zone, inside) == (start, end)
    assert span(window, zone, end)[0] == end
    assert span(window, zone, start - 1)[1] == start


@given(moment=moments(), window=st.sampled_from(["day", "week", "month"]), part=st.floats(0, 1))
def test_a_window_begins_when_its_date_does(moment: tuple[str, int], window: Window, part: float) -> None:
    """At local midnight of a day, a Monday or a first of the month; where that is skipped, at the change over it."""
    zone, instant = moment
    start, end = span(window, zone, instant)
    first, before = local(zone, start), local(zone, start - 1)
    name = named(window, first.date())
    assert named(window, before.date()) < name
    if first.utcoffset() == before.utcoffset():
        assert first == datetime(name.year, name.month, name.day, tzinfo=ZoneInfo(zone))
    inside = local(zone, start + int(part * (end - 1 - start)))
    assert named(window, inside.date()) <= name < named(window, local(zone, end).date())


@given(moment=moments())
def test_an_hour_is_one_by_the_clock_on_the_wall(moment: tuple[str, int]) -> None:
    """It begins and ends at a full local hour or where the clock changes, and shows the same hour all through."""
    zone, instant = moment
    start, end = span("hour", zone, instant)
    assert 0 < end - start <= HOUR
    for edge in (start, end):
        wall, before = local(zone, edge), local(zone, edge - 1)
        assert (wall.minute, wall.second, wall.microsecond) == (0, 0, 0) or wall.utcoffset() != before.utcoffset()
    assert local(zone, start).hour == local(zone, end - 1).hour


@given(zone=st.sampled_from(ZONES), instant=st.integers(FIRST, LAST))
def test_a_lifetime_has_no_end(zone: str, instant: int) -> None:
    assert bounds("lifetime", zone, Instant(instant)) == (0, None)


@pytest.mark.parametrize(
    ("window", "zone", "instant", "start", "end"),
    [
        # By the published rules of each place, reckoned by hand.
        ("hour", "Asia/Kathmandu", "2026-11-28T10:50Z", "2026-11-28T10:15Z", "2026-11-28T11:15Z"),
        ("day", "Asia/Kathmandu", "2026-11-28T18:20Z", "2026-11-28T18:15Z", "2026-11-29T18:15Z"),
        ("day", "Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),  # 23 hours
        ("day", "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),  # 25 hours
        ("hour", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T00:00Z", "2026-10-25T01:00Z"),  # 2 o'clock
        ("hour", "Europe/Berlin", "2026-10-25T01:30Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"),  # and again
        ("week", "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-18T22:00Z", "2026-10-25T23:00Z"),
        ("month", "Europe/Berlin", "2026-03-31T22:30Z", "2026-03-31T22:00Z", "2026-04-30T22:00Z"),
        ("month", "UTC", "2024-02-29T23:59Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),  # a leap year
        ("month", "UTC", "2026-12-31T23:59Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("week", "UTC", "2027-01-01T00:00Z", "2026-12-28T00:00Z", "2027-01-04T00:00Z"),  # over the new year
        ("day", "America/Sao_Paulo", "2018-11-04T03:00Z", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),  # no midnight
        ("day", "America/Sao_Paulo", "2018-11-04T02:59Z", "2018-11-03T03:00Z", "2018-11-04T03:00Z"),
        ("day", "America/Sao_Paulo", "2018-02-18T02:30Z", "2018-02-17T02:00Z", "2018-02-18T03:00Z"),  # 11 p.m. twice
        ("day", "Pacific/Apia", "2011-12-30T09:59Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),  # the 29th, and then
        ("day", "Pacific/Apia", "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),  # the 31st
        ("hour", "Australia/Lord_Howe", "2026-04-04T14:45Z", "2026-04-04T14:00Z", "2026-04-04T15:00Z"),
        ("hour", "Australia/Lord_Howe", "2026-04-04T15:10Z", "2026-04-04T15:00Z", "2026-04-04T15:30Z"),  # half again
        ("day", "Australia/Lord_Howe", "2026-04-05T00:00Z", "2026-04-04T13:00Z", "2026-04-05T13:30Z"),
        ("day", "America/St_Johns", "2010-11-07T02:45Z", "2010-11-07T02:30Z", "2010-11-08T03:30Z"),  # back at 00:01
        ("day", "UTC", "1969-12-31T23:59Z", "1969-12-31T00:00Z", "1970-01-01T00:00Z"),
    ],
)
def test_cases_by_hand(window: Window, zone: str, instant: str, start: str, end: str) -> None:
    assert bounds(window, zone, at(instant)) == (at(start), at(end))
