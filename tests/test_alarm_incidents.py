"""The life of an incident, as laws over whatever readings come: one for a cause, one end, no storm, no flapping."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules.alarm import Incident, Message, Quiet, Reading, Terms, advance, explains
from bursar.rules.alarm.quiet import silent
from bursar.rules.alarm.wording import as_json, text, title
from bursar.types import Instant

MS = 1000
MINUTE = 60_000 * MS
HOUR = 60 * MINUTE
NIGHT = Instant(1_767_571_200_000_000)
"""2026-01-05T00:00:00Z, a Monday."""
LIMIT = 1_000


def reading(value: int | None, level: int = 0, limit: int = LIMIT) -> Reading:
    state: Any = "unknown" if value is None else "over" if value > limit else "under"
    return Reading(
        rule="spend", subject="u1", state=state, value=value, limit=limit, why=f"value {value}", level=level
    )  # fmt: skip


Told = list[tuple[Instant, Message]]


def play(steps: Sequence[tuple[int, int | None, int]], terms: Terms) -> tuple[Told, list[Incident | None]]:
    """Readings so many minutes apart -> every message with its instant, and every state."""
    now, incident = NIGHT, None
    told: Told = []
    states: list[Incident | None] = []
    for minutes, value, level in steps:
        now = Instant(now + minutes * MINUTE)
        incident, messages = advance(incident, reading(value, level), now, terms)
        told += [(now, one) for one in messages]
        states.append(incident)
    return told, states


def kinds(values: Sequence[int | None], terms: Terms, minutes: int = 10) -> list[str]:
    told, _ = play([(minutes, value, 0) for value in values], terms)
    return [one.kind for _, one in told]


steps = st.lists(
    st.tuples(st.integers(1, 600), st.none() | st.integers(0, 4 * LIMIT) | st.integers(LIMIT - 120, LIMIT + 5),
              st.integers(0, 3)),
    max_size=80,
)  # fmt: skip
quiets = st.builds(
    Quiet, start=st.integers(0, 1439), end=st.integers(0, 1439), days=st.frozensets(st.integers(0, 6)),
    zone=st.sampled_from(["UTC", "America/New_York", "Asia/Kathmandu"]),
)  # fmt: skip
every_terms = st.builds(
    Terms,
    severity=st.sampled_from(["info", "warning", "critical"]),
    band=st.integers(0, 500_000),
    hold_ms=st.integers(0, 3_600_000),
    calm_ms=st.integers(0, 3_600_000),
    cooldown_ms=st.integers(0, 40_000_000),
    worse=st.integers(1_100_000, 3_000_000),
    update_ms=st.integers(0, 7_200_000),
    remind_ms=st.none() | st.integers(3_600_000, 90_000_000),
    unknown_ms=st.integers(3_600_000, 90_000_000),
    quiet=st.none() | quiets,
)


@settings(max_examples=300)
@given(steps, every_terms)
def test_an_incident_opens_once_and_ends_at_most_once(
    given_steps: list[tuple[int, int | None, int]], terms: Terms
) -> None:
    told, _ = play(given_steps, terms)
    by_incident: dict[str, list[Message]] = {}
    for _, one in told:
        by_incident.setdefault(one.incident, []).append(one)
    for messages in by_incident.values():
        found = [one.kind for one in messages]
        assert found.count("open") <= 1 and found.count("resolve") <= 1
        assert "open" not in found[1:] and "resolve" not in found[:-1]
        assert found[0] != "update"
        assert [one.number for one in messages] == list(range(1, len(messages) + 1))
    order = [one.incident for _, one in told]
    assert order == sorted(order, key=order.index)  # one is over before the next begins


@settings(max_examples=300)
@given(steps, every_terms)
def test_no_two_open_within_a_cooldown(given_steps: list[tuple[int, int | None, int]], terms: Terms) -> None:
    told, states = play(given_steps, terms)
    opened = sorted({one.opened_at for one in states if one is not None and one.opened_at is not None})
    assert all(later - earlier >= terms.cooldown_ms * MS for earlier, later in itertools.pairwise(opened))
    spoken = [at for at, one in told if one.kind == "open"]
    assert all(later - earlier >= terms.cooldown_ms * MS for earlier, later in itertools.pairwise(spoken))


@settings(max_examples=300)
@given(steps, every_terms)
def test_an_incident_is_only_told_of_when_it_may_be(
    given_steps: list[tuple[int, int | None, int]], terms: Terms
) -> None:
    told, _ = play(given_steps, terms)
    last: dict[str, Instant] = {}
    for at, one in told:
        assert terms.severity == "critical" or not silent(terms.quiet, at)
        if one.kind == "update":
            assert at - last[one.incident] >= terms.update_ms * MS
        last[one.incident] = at


@given(steps, every_terms)
def test_replay_gives_the_same(given_steps: list[tuple[int, int | None, int]], terms: Terms) -> None:
    """Through a store and back: a state is what it was."""
    now, incident = NIGHT, None
    again: Told = []
    for minutes, value, level in given_steps:
        now = Instant(now + minutes * MINUTE)
        stored = None if incident is None else msgspec.json.decode(msgspec.json.encode(incident), type=Incident)
        incident, messages = advance(stored, reading(value, level), now, terms)
        again += [(now, one) for one in messages]
    assert again == play(given_steps, terms)[0]


@given(st.lists(st.integers(901, 1_400), min_size=1, max_size=60))
def test_it_never_flaps_inside_its_band(values: list[int]) -> None:
    """From the limit down to 10 % below it an open incident stays open: one message, however the value swings."""
    terms = Terms(calm_ms=0, cooldown_ms=0)
    assert kinds([1_001, *values], terms) == ["open"]
    assert kinds([1_001, *values, 900], terms) == ["open", "resolve"]


@given(st.lists(st.none() | st.integers(0, LIMIT), max_size=40), every_terms)
def test_what_is_never_over_is_never_told(values: list[int | None], terms: Terms) -> None:
    told, states = play([(5, value, 0) for value in values], terms)
    assert not told and set(states) <= {None}


PLAIN = Terms(calm_ms=0, cooldown_ms=60 * 60_000)


def test_open_update_resolve() -> None:
    told, _ = play([(0, 1_500, 0), (60, 2_900, 0), (60, 3_000, 0), (60, 5_900, 0), (60, 100, 0)], PLAIN)
    assert [(one.kind, one.value, one.peak) for _, one in told] == [
        ("open", 1_500, 1_500), ("update", 3_000, 3_000), ("resolve", 100, 5_900),
    ]  # fmt: skip
    assert {one.since for _, one in told} == {NIGHT}
    assert told[-1][1].resolved_at == NIGHT + 4 * HOUR


def test_a_higher_level_is_told_once_and_not_before_the_last_message_is_old() -> None:
    told, _ = play([(0, 1_001, 1), (10, 1_002, 2), (50, 1_003, 2), (600, 1_003, 1), (600, 1_003, 2)], PLAIN)
    assert [(one.kind, at - NIGHT) for at, one in told] == [("open", 0), ("update", HOUR)]


def test_a_swinging_value_makes_no_storm() -> None:
    assert kinds([1_500, 3_100, 1_500] * 20, PLAIN, minutes=61) == ["open", "update"]


def test_what_was_told_once_is_not_told_again_when_it_comes_back() -> None:
    """An hour at half its peak, of which a higher level is told, and then at its peak again."""
    told, _ = play([(0, 4_000, 0), (60, 1_500, 1), (60, 4_000, 1), (60, 8_000, 1)], PLAIN)
    assert [(one.kind, one.value) for _, one in told] == [("open", 4_000), ("update", 1_500), ("update", 8_000)]


def test_reminders_only_where_they_are_asked_for() -> None:
    assert kinds([1_500] * 50, PLAIN, minutes=60) == ["open"]
    remind = Terms(calm_ms=0, remind_ms=24 * 60 * 60_000)
    assert kinds([1_500] * 50, remind, minutes=60) == ["open", "update", "update"]


def test_it_has_to_be_over_for_a_while_where_that_is_asked() -> None:
    terms = Terms(hold_ms=25 * 60_000, calm_ms=0)
    assert kinds([1_500, 1_500, 1_500, 0], terms) == []
    assert kinds([1_500, 1_500, None, 1_500], terms) == ["open"]


def test_it_has_to_be_calm_for_a_while() -> None:
    terms = Terms(calm_ms=25 * 60_000)
    assert kinds([1_500, 0, 0, 950, 0, 0, 0], terms) == ["open"]
    assert kinds([1_500, 0, 0, 950, 0, 0, 0, 0], terms) == ["open", "resolve"]


def test_what_is_not_known_changes_nothing_until_it_has_lasted() -> None:
    terms = Terms(calm_ms=0, unknown_ms=60 * 60_000)
    assert kinds([1_500, None, None, None, 1_500, None], terms) == ["open"]
    told, _ = play([(10, value, 0) for value in [1_500, *[None] * 6]], terms)
    assert [one.kind for _, one in told] == ["open", "resolve"]
    assert told[-1][1].value is None and "nothing has been known" in told[-1][1].why


def test_in_the_cooldown_it_is_silent_and_after_it_an_incident_of_its_own() -> None:
    told, states = play(
        [(0, 1_500, 0), (10, 0, 0), (10, 1_500, 0), (10, 1_500, 0), (39, 1_500, 0), (1, 1_500, 0)], PLAIN
    )
    assert [(one.kind, (at - NIGHT) // MINUTE) for at, one in told] == [("open", 0), ("resolve", 10), ("open", 70)]
    assert states[4] is not None and states[4].muted == 3
    assert len({one.incident for _, one in told}) == 2


def test_quiet_hours_hold_back_all_but_what_is_critical() -> None:
    """22:00 to 07:00, and it is midnight."""
    night = [(60, 1_500, 0)] * 4
    still_open = [*night, (240, 1_500, 0)]
    gone = [*night, (60, 0, 0), (180, 0, 0), (600, 0, 0)]
    terms = Terms(quiet=Quiet(), calm_ms=0)
    told, _ = play(still_open, terms)
    assert [(one.kind, at - NIGHT, one.since - NIGHT) for at, one in told] == [("open", 8 * HOUR, HOUR)]
    told, _ = play(gone, terms)
    assert [(one.kind, at - NIGHT) for at, one in told] == [("resolve", 8 * HOUR)]
    assert "until 2026-01-05T05:00:00Z" in text([told[0][1]])
    critical, _ = play(gone, msgspec.structs.replace(terms, severity="critical"))
    assert [(one.kind, at - NIGHT) for at, one in critical] == [("open", HOUR), ("resolve", 5 * HOUR)]


def test_no_end_is_lost_in_quiet_hours_however_soon_it_begins_again() -> None:
    terms = Terms(quiet=Quiet(), calm_ms=0, cooldown_ms=0)
    told, _ = play([(60, 1_500, 0), (60, 0, 0), (60, 1_500, 0), (300, 1_500, 0), (10, 1_500, 0)], terms)
    assert [(one.kind, one.since - NIGHT, at - NIGHT) for at, one in told] == [
        ("resolve", HOUR, 8 * HOUR), ("open", 8 * HOUR + 10 * MINUTE, 8 * HOUR + 10 * MINUTE),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("quiet", "hour", "expected"),
    [
        (Quiet(), 23, True), (Quiet(), 6, True), (Quiet(), 7, False), (Quiet(), 21, False),
        (Quiet(start=60, end=120), 1, True), (Quiet(start=60, end=120), 2, False),
        (Quiet(days=frozenset({6})), 6, True), (Quiet(days=frozenset({6})), 23, False),
        (Quiet(zone="Asia/Tokyo"), 14, True), (Quiet(zone="Asia/Tokyo"), 1, False), (Quiet(start=0, end=0), 12, True),
    ],
)  # fmt: skip
def test_quiet_hours_are_local_and_go_over_midnight(quiet: Quiet, hour: int, expected: bool) -> None:
    assert silent(quiet, Instant(NIGHT + hour * HOUR)) is expected


def test_what_another_alert_explains_opens_nothing_for_a_day_after() -> None:
    """The day is over because of an hour that has been told already."""
    hour, _ = advance(None, msgspec.structs.replace(reading(2_000), rule="hour"), NIGHT, Terms())
    assert hour is not None
    terms = Terms(explained_by=("hour",))
    assert explains([hour], terms, Instant(NIGHT + 100 * HOUR)) and not explains([hour], Terms(), NIGHT)
    assert advance(None, reading(2_000), NIGHT, terms, explained=True) == (None, ())
    ended = msgspec.structs.replace(hour, status="resolved", resolved_at=NIGHT)
    assert explains([ended], terms, Instant(NIGHT + 24 * HOUR - 1))
    assert not explains([ended], terms, Instant(NIGHT + 24 * HOUR))
    own, (opened,) = advance(None, reading(2_000), NIGHT, terms)
    assert opened.kind == "open"
    after, (update,) = advance(own, reading(9_000), Instant(NIGHT + HOUR), terms, explained=True)
    assert update.kind == "update" and after is not None and after.status == "open"


def test_a_reading_of_another_cause_is_a_mistake_of_the_caller() -> None:
    incident, _ = advance(None, reading(2_000), NIGHT, Terms())
    other = msgspec.structs.replace(reading(2_000), subject="u2")
    with pytest.raises(ValueError, match="is not of incident"):
        advance(incident, other, NIGHT, Terms())


def test_messages_in_words_and_for_machines() -> None:
    usd = 1_000_000_000
    told = Reading(
        rule="users", subject="u7", state="over", value=7 * usd // 2, limit=usd, why="spent $3.5, limit $1"
    )  # fmt: skip
    incident, (message,) = advance(None, told, NIGHT, Terms())
    assert incident is not None
    assert title([message]) == "Alert: users (u7)"
    assert text([message]) == "Alert: users (u7): spent $3.5, limit $1 (since 2026-01-05T00:00:00Z)"
    assert title([message, message]) == "2 messages, 2 new alerts"
    body = msgspec.json.decode(as_json([message], Instant(NIGHT + 1)))
    assert body == {
        "version": 1,
        "sent_at": "2026-01-05T00:00:00Z",
        "title": "Alert: users (u7)",
        "text": "Alert: users (u7): spent $3.5, limit $1 (since 2026-01-05T00:00:00Z)",
        "alerts": [
            {
                "id": f"{incident.id}:1", "kind": "open", "incident": incident.id, "alert": "users", "subject": "u7",
                "severity": "warning", "since": "2026-01-05T00:00:00Z", "resolved_at": None, "value": "3.5",
                "limit": "1", "peak": "3.5", "unit": "usd", "why": "spent $3.5, limit $1",
            }
        ],
    }  # fmt: skip
    share = msgspec.structs.replace(message, unit="ppm", value=815_000, limit=100_000, peak=815_000)
    (alert,) = msgspec.json.decode(as_json([share], NIGHT))["alerts"]
    assert (alert["value"], alert["limit"], alert["unit"]) == ("0.815", "0.1", "share")
