"""Each alert rule by value: what it says of which facts, and where it says that it does not know."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules import window
from bursar.rules.alarm import (
    DEFAULTS,
    Budgeted,
    Cap,
    Costs,
    Drift,
    Facts,
    Falling,
    Forecast,
    Pair,
    Reading,
    Rule,
    Series,
    Share,
    Spent,
    Spike,
    Stranger,
    Strangers,
    Threshold,
    baseline,
    judge,
    together,
)
from bursar.types import Instant

USD = 1_000_000_000
DAY = 86_400_000_000
MONDAY = Instant(1_767_571_200_000_000)
"""2026-01-05T00:00:00Z"""
NOON = Instant(MONDAY + DAY // 2)

WEEK = [100, 100, 100, 100, 100, 40, 40]
"""From Monday on, in dollars."""


def days(*dollars: int | None, current: int | None = 0, **more: Any) -> Series:
    before = tuple(None if one is None else one * USD for one in dollars)
    today = None if current is None else current * USD
    return Series(window="day", before=before, start=MONDAY, current=today, **more)


def said(rule: Rule, facts: Facts, now: Instant = NOON) -> tuple[str, int | None, int | None]:
    reading = judge(rule, facts, now)
    return reading.state, reading.value, reading.limit


LITERAL = Spike(name="daily spike", of="rolling_7d_mean")
USUAL = Spike(name="daily spike")


def test_a_rolling_mean_is_of_the_seven_days_before_and_counts_weekends_like_any_day() -> None:
    """120 % of (5 x 100 + 2 x 40) / 7 = $99.43: an ordinary Monday of $100 is over, which is what was asked for."""
    limit = 580 * USD // 7 * 6 // 5
    state, value, found = said(LITERAL, days(*WEEK, current=100))
    assert (state, value) == ("over", 100 * USD)
    assert found is not None and abs(found - limit) <= 1
    assert said(LITERAL, days(*WEEK, current=99))[0] == "under"
    assert said(LITERAL, days(*[900, 900], *WEEK, current=99))[0] == "under"


def test_the_usual_monday_is_that_of_the_last_four_weeks() -> None:
    assert said(USUAL, days(*WEEK * 4, current=100)) == ("under", 100 * USD, 120 * USD)
    assert said(USUAL, days(*WEEK * 4, current=121)) == ("over", 121 * USD, 120 * USD)


def test_a_saturday_is_measured_by_saturdays() -> None:
    saturday = Instant(MONDAY + 5 * DAY)
    before = (*(WEEK * 4)[5:], *WEEK[:5])
    facts = Series(window="day", before=tuple(one * USD for one in before), start=saturday, current=49 * USD)
    assert said(USUAL, facts, saturday) == ("over", 49 * USD, 48 * USD)


def test_growth_is_followed_and_incidents_of_the_past_hardly_change_what_is_expected() -> None:
    grown = [one * factor for factor in (10, 11, 12, 13) for one in WEEK]
    _, _, limit = said(USUAL, days(*grown, current=0))
    assert limit is not None and 13 * 100 * USD * 119 // 100 <= limit <= 13 * 100 * USD * 121 // 100
    spoiled = [*grown]
    spoiled[14] *= 50
    spoiled[23] *= 50
    after = said(USUAL, days(*spoiled, current=0))[2]
    assert after is not None and limit <= after <= limit * 105 // 100
    steady = [*WEEK * 4]
    steady[14] *= 50
    steady[23] *= 50
    assert said(USUAL, days(*steady, current=0))[2] == 120 * USD


def test_what_is_usual_is_wider_where_the_days_differ_and_not_where_the_level_moves() -> None:
    rule = Spike(name="s", noise=5)
    growing = [one * factor for factor in (8, 12, 9, 11) for one in WEEK]
    assert said(rule, days(*growing, current=0))[2] == said(USUAL, days(*growing, current=0))[2]
    noisy = [100, 70, 130, 100, 60, 50, 30, 120, 100, 80, 140, 90, 40, 45, 90, 120, 100, 70, 120, 30, 50, *WEEK]
    wide, narrow = said(rule, days(*noisy, current=0))[2], said(USUAL, days(*noisy, current=0))[2]
    assert wide is not None and narrow is not None and wide > narrow


def test_before_four_weeks_the_dearest_of_seven_days_stands_in() -> None:
    assert said(USUAL, days(*WEEK, current=120))[0] == "under"
    assert said(USUAL, days(*WEEK, current=121)) == ("over", 121 * USD, 120 * USD)


@pytest.mark.parametrize("before", [[], [100] * 6, [None, *[100] * 6], [100, 100, None, 100, 100, 100, 100]])
@pytest.mark.parametrize("of", ["usual", "rolling_7d_mean"])
def test_a_cold_start_says_nothing_but_what_it_was_told(before: list[int | None], of: Any) -> None:
    assert said(Spike(name="s", of=of), days(*before, current=10**6))[0] == "unknown"
    cold = Spike(name="s", of=of, cold_nanos=50 * USD)
    assert said(cold, days(*before, current=51)) == ("over", 51 * USD, 50 * USD)
    assert said(cold, days(*before, current=50))[0] == "under"


def test_small_change_is_nobodys_incident() -> None:
    facts = Series(window="day", before=(USD // 100,) * 28, start=MONDAY, current=USD)
    assert said(USUAL, facts) == ("under", USD, USD)


def test_hours_are_measured_by_the_hours_of_earlier_weeks() -> None:
    hours = [3 * USD if 8 <= hour % 24 < 20 else USD for hour in range(4 * 7 * 24)]
    rule = Spike(name="h", window="hour", over=2_000_000)
    night = Series(window="hour", before=tuple(hours), start=MONDAY, current=2 * USD + 1)
    assert said(rule, night, MONDAY) == ("over", 2 * USD + 1, 2 * USD)
    nine = Instant(MONDAY + 9 * DAY // 24)
    day = Series(window="hour", before=tuple(hours[9:] + hours[:9]), start=nine, current=6 * USD)
    assert said(rule, day, nine) == ("under", 6 * USD, 6 * USD)


def test_unknown_costs_make_a_sum_a_lower_bound() -> None:
    assert said(USUAL, days(*WEEK * 4, current=121, unpriced=3))[0] == "over"
    assert said(USUAL, days(*WEEK * 4, current=1, unpriced=3)) == ("unknown", None, 120 * USD)
    assert said(USUAL, days(*WEEK * 4, current=None))[0] == "unknown"


def test_yesterdays_facts_say_nothing_of_today() -> None:
    assert said(USUAL, days(*WEEK * 4, current=500), Instant(MONDAY + DAY))[0] == "unknown"
    assert said(USUAL, days(*WEEK * 4, current=500), Instant(MONDAY - 1))[0] == "unknown"


def test_a_users_hour_over_its_cap() -> None:
    rule = Cap(name="users", limit_nanos=5 * USD)
    assert said(rule, Spent(subject="u1", nanos=5 * USD)) == ("under", 5 * USD, 5 * USD)
    assert said(rule, Spent(subject="u1", nanos=5 * USD + 1))[0] == "over"
    assert said(rule, Spent(subject="u1", nanos=USD, unpriced=1))[0] == "unknown"
    assert said(rule, Spent(subject="u1", nanos=None))[0] == "unknown"
    assert (
        judge(rule, Spent(subject="u1", nanos=1), NOON).cause != judge(rule, Spent(subject="u2", nanos=1), NOON).cause
    )


@pytest.mark.parametrize(
    ("settled", "state", "level"), [(0, "under", 0), (799, "under", 0), (800, "over", 1), (999, "over", 1),
                                    (1000, "over", 2), (1100, "over", 2)]
)  # fmt: skip
def test_a_budget_tells_of_each_threshold(settled: int, state: str, level: int) -> None:
    reading = judge(Threshold(name="b"), Budgeted(subject="b", limit=1000, settled=settled), NOON)
    assert (reading.state, reading.level, reading.unit) == (state, level, "ppm")


def test_a_budget_of_nothing_is_used_up() -> None:
    assert judge(Threshold(name="b"), Budgeted(subject="b", limit=0, settled=0), NOON).level == 2


def test_runs_that_have_become_dearer() -> None:
    rule = Drift(name="d")
    costs: dict[str, Any] = {"runs": 20, "runs_before": 100, "nanos_before": 100 * USD}
    assert said(rule, Costs(nanos=27 * USD, **costs)) == ("over", 27 * USD // 20, 1_300_000_000)
    assert said(rule, Costs(nanos=26 * USD, **costs))[0] == "under"
    assert said(rule, Costs(nanos=26 * USD, unpriced=1, **costs))[0] == "unknown"
    assert said(rule, Costs(runs=19, nanos=99 * USD, runs_before=100, nanos_before=USD))[0] == "unknown"


def test_a_hit_rate_that_has_fallen_beyond_chance() -> None:
    rule = Falling(name="h")
    before: dict[str, Any] = {"part_before": 500, "whole_before": 1000}
    assert said(rule, Pair(part=300, whole=1000, **before)) == ("over", 400_000, 300_000)
    assert said(rule, Pair(part=360, whole=1000, **before))[0] == "under"
    assert said(rule, Pair(part=700, whole=1000, **before)) == ("under", 0, 300_000)
    assert said(rule, Pair(part=30, whole=99, **before))[0] == "unknown"
    few: dict[str, Any] = {"part_before": 4, "whole_before": 100}
    assert said(rule, Pair(part=2, whole=100, **few)) == ("under", 300_000, 300_000)
    assert said(rule, Pair(part=0, whole=100, part_before=0, whole_before=100))[0] == "under"


@pytest.mark.parametrize("of", ["unpriced", "estimated", "failed", "escalated"])
def test_too_large_a_share_of_the_rows(of: Any) -> None:
    rule = Share(name="s", of=of, over=100_000)
    assert said(rule, Pair(part=10, whole=100)) == ("under", 100_000, 100_000)
    assert said(rule, Pair(part=11, whole=100)) == ("over", 110_000, 100_000)
    assert said(rule, Pair(part=49, whole=49))[0] == "unknown"
    assert of in judge(rule, Pair(part=11, whole=100), NOON).why


def test_a_model_without_a_price() -> None:
    reading = judge(Stranger(name="m"), Strangers(subject="openai/gpt-9", rows=1), NOON)
    assert (reading.state, reading.value) == ("over", 1)
    assert '[prices."openai/gpt-9"]' in reading.why
    assert judge(Stranger(name="m"), Strangers(subject="openai/gpt-9", rows=0), NOON).state == "under"
    assert judge(Stranger(name="m"), Strangers(subject="openai/gpt-9", rows=None), NOON).state == "unknown"


def test_the_month_as_it_would_end() -> None:
    """Monday 5 January at noon: $480 so far, half of this Monday and 26 days to come, seven at weekends."""
    coming = 50 + 19 * 100 + 7 * 40
    rule = Forecast(name="f", limit_nanos=(480 + coming) * USD - 1)
    facts = days(*WEEK * 4, current=50, month=480 * USD)
    assert said(rule, facts) == ("over", (480 + coming) * USD, (480 + coming) * USD - 1)
    mean = (580 * USD + 3) // 7
    assert said(rule, days(*WEEK, current=50, month=480 * USD))[1] == 480 * USD + mean // 2 + 26 * mean
    assert said(rule, days(100, current=50, month=480 * USD))[0] == "unknown"
    assert said(rule, days(*WEEK * 4, current=50))[0] == "unknown"


def test_facts_of_another_kind_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="Cap does not read Pair"):
        judge(Cap(name="c", limit_nanos=1), Pair(part=1, whole=1), NOON)
    with pytest.raises(TypeError, match="reads hours"):
        judge(Spike(name="c", window="hour"), days(*WEEK), NOON)


def read(subject: str, value: int | None, limit: int = 10, rule: str = "users") -> Reading:
    state: Any = "unknown" if value is None else "over" if value > limit else "under"
    return Reading(rule=rule, subject=subject, state=state, value=value, limit=limit, why=f"${value}")


def test_many_subjects_are_one_reading_that_names_the_worst() -> None:
    found = together([read("a", 11), read("b", 30), read("c", 2), read("d", None), read("e", 12)])
    assert (found.state, found.subject, found.value, found.level) == ("over", "", 30, 1)
    assert found.why == "b: $30, the worst of 3"
    assert together([read(str(number), 11) for number in range(100)]).level == 6
    assert together([read("a", 1), read("b", None)]).state == "unknown"
    assert together([read("a", 1), read("b", 7)]).value == 7
    for mistaken in ([], [read("a", 1), read("a", 1, rule="hour")]):
        with pytest.raises(ValueError, match="one rule"):
            together(mistaken)


@given(st.lists(st.builds(read, st.text(max_size=3), st.none() | st.integers(0, 30)), min_size=1))
def test_together_is_over_if_one_is_and_under_only_if_all_are(readings: list[Reading]) -> None:
    states = {one.state for one in readings}
    expected = "over" if "over" in states else "under" if states == {"under"} else "unknown"
    assert together(readings).state == expected


@given(st.lists(st.integers(0, 10**15), min_size=28, max_size=40), st.integers(1, 1000))
def test_what_is_usual_scales_with_money(before: list[int], factor: int) -> None:
    """Ten times the spend, ten times the expectation: to the rounding of a level in millionths."""
    plain, scaled = baseline.usual(before, 7), baseline.usual([one * factor for one in before], 7)
    assert plain is not None and scaled is not None
    assert abs(scaled[0] - plain[0] * factor) <= factor + plain[0] * factor // 50_000 or min(before) < 10**6


@given(st.lists(st.none() | st.integers(0, 10**12), max_size=60), st.none() | st.integers(0, 10**13), st.integers(0, 5))
def test_a_spike_is_over_only_above_a_limit_that_it_tells(
    before: list[int | None], current: int | None, unpriced: int
) -> None:
    for rule, _ in DEFAULTS:
        if isinstance(rule, Spike) and rule.window == "day":
            facts = Series(window="day", before=tuple(before), start=MONDAY, current=current, unpriced=unpriced)
            reading = judge(rule, facts, NOON)
            if reading.state == "unknown":
                assert reading.value is None and (len(before) < 7 or None in before[-7:] or unpriced or current is None)
            else:
                assert reading.value is not None and reading.limit is not None
                assert (reading.state == "over") == (reading.value > reading.limit)
                assert reading.limit >= rule.least_nanos
                assert not (reading.state == "under" and unpriced)


def test_the_defaults_name_each_rule_once() -> None:
    names = [rule.name for rule, _ in DEFAULTS]
    assert len(set(names)) == len(names)
    assert window.bounds("day", "UTC", NOON)[0] == MONDAY
