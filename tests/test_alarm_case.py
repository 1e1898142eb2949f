"""What is kept of one cause, whoever moves it: a message is given once, and stays until it is delivered or too old."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bursar.policy.alerts import Terms
from bursar.rules.alarm import Message, Reading, case
from bursar.rules.alarm.case import GIVEN_UP_US, Case
from bursar.types import Instant

MINUTE = 60_000_000
TERMS = Terms(calm_ms=5 * 60_000, cooldown_ms=20 * 60_000, update_ms=10 * 60_000, remind_ms=30 * 60_000)

Step = tuple[int, str, int]
"""Minutes later, the reading's state, its value"""

STEPS = st.lists(
    st.tuples(st.integers(0, 90), st.sampled_from(["over", "under", "unknown"]), st.integers(0, 400)), max_size=40
)


def reading(state: Any, value: int) -> Reading:
    known = None if state == "unknown" else value + 101 if state == "over" else value % 100
    return Reading(rule="r", subject="s", state=state, value=known, limit=100, why="so")


def kept(one: Case) -> Case:
    """As it comes back from the store."""
    return case.read(case.write(one))


@given(STEPS)
def test_every_message_is_pending_until_it_is_settled(steps: list[Step]) -> None:
    """Numbers count from 1 without a gap; nothing that was given is lost before its day is over."""
    now, state, told = 0, Case(), list[Any]()
    for minutes, word, value in steps:
        now += minutes * MINUTE
        state, messages = case.moved(kept(state), reading(word, value), Instant(now), TERMS)
        told += messages
        assert state.pending == tuple(one for one in told if now - one.at < GIVEN_UP_US)
        assert kept(state) == state or (state.incident is None and not state.pending)
    assert len({one.key for one in told}) == len(told)
    for incident in {one.incident for one in told}:
        own = [one for one in told if one.incident == incident]
        assert [one.number for one in own] == list(range(1, len(own) + 1))
        assert own[0].kind == "open" and all(one.kind != "open" for one in own[1:])
        assert [one.kind for one in own].count("resolve") <= 1 and "resolve" not in [one.kind for one in own[:-1]]


@given(STEPS, st.integers(2, 5))
def test_a_reading_that_many_workers_bring_moves_it_once(steps: list[Step], workers: int) -> None:
    """All judge the same moment; one after the other they move the document: only the first is given a message."""
    now, alone, together = 0, Case(), Case()
    for minutes, word, value in steps:
        now += (minutes + 1) * MINUTE
        alone, expected = case.moved(alone, reading(word, value), Instant(now), TERMS)
        given_ = list[Message]()
        for _ in range(workers):
            together, messages = case.moved(kept(together), reading(word, value), Instant(now), TERMS)
            given_ += messages
        assert tuple(given_) == expected
        assert together.pending == alone.pending


@given(STEPS, st.data())
def test_settling_takes_what_is_delivered_and_nothing_else(steps: list[Step], data: st.DataObject) -> None:
    now, state = 0, Case()
    for minutes, word, value in steps:
        now += minutes * MINUTE
        state, _ = case.moved(state, reading(word, value), Instant(now), TERMS)
    done = frozenset(data.draw(st.sets(st.sampled_from([one.key for one in state.pending]))) if state.pending else ())
    after = case.settled(state, done, Instant(now))
    assert after.incident == state.incident
    assert [one.key for one in after.pending] == [one.key for one in state.pending if one.key not in done]
    assert case.settled(state, frozenset(), Instant(now + GIVEN_UP_US)).pending == ()


def test_without_targets_nothing_is_kept_to_be_sent() -> None:
    state, messages = case.moved(Case(), reading("over", 1), Instant(0), TERMS, sent=False)
    assert len(messages) == 1 and state.pending == ()


def test_nothing_to_keep_is_no_document() -> None:
    assert case.write(Case()) is None
    assert case.read(None) == case.read(b"\xff") == case.read(msgspec.json.encode({"incident": 7})) == Case()
