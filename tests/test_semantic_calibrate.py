"""The learned threshold keeps its bound: certifies, stands down, tightens; the same labels give the same state."""

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules.semantic import calibrate
from bursar.rules.semantic.calibrate import Calibration, begin, decide, estimate, observe, score
from bursar.rules.semantic.score import NAMES, pack


def features(strength: float) -> bytes:
    """A candidate whose evidence is strong (1) or weak (-1) in every respect that counts for it."""
    return pack([1.0, strength, strength, strength, strength, *[0.0] * (len(NAMES) - 5)])


def play(
    state: Calibration, requests: int, wrong: Callable[[float], float], seed: int = 0
) -> tuple[Calibration, int, int]:
    """A stream of candidates of random strength, wrong with a chance of it -> (state, hits, wrong hits)."""
    chance, hits, bad = random.Random(seed), 0, 0
    for number in range(requests):
        strength = chance.uniform(-1, 1)
        right = chance.random() >= wrong(strength)
        found = features(strength)
        decision = decide(state, score(state, found), 0.9, f"{seed}-{number}")
        if decision == "serve":
            hits, bad = hits + 1, bad + (not right)
        elif decision != "pass":
            state = observe(state, found, right, audited=decision == "audit")
    return state, hits, bad


def safe_above(edge: float) -> Callable[[float], float]:
    return lambda strength: 0.01 if strength > edge else 0.6


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_holds_where_some_reuse_is_safe(seed: int) -> None:
    """Strong candidates are served after some hundred labels, and at most 5 % of the hits are wrong."""
    state, hits, bad = play(begin(0.05, f"s{seed}"), 3_000, safe_above(0.2), seed)
    assert state.threshold is not None and hits > 600
    assert bad <= 0.05 * hits
    told = estimate(state)
    assert told is not None and told.low <= told.rate <= told.high <= 0.05


def test_nothing_is_served_before_the_certificate() -> None:
    """Not even a sure thing: the first hit needs enough labels for Wilson's bound."""
    state, asked = begin(0.05, "s"), 0
    while decide(state, score(state, features(1)), 1.0, str(asked)) in ("ask", "pass"):
        state, asked = observe(state, features(1), True, audited=False), asked + 1
    assert 52 <= asked <= 120


@pytest.mark.parametrize("seed", range(3))
def test_it_stands_down_where_reuse_is_unsafe(seed: int) -> None:
    """Wrong three times in ten whatever the evidence: no hit at all."""
    state, hits, _ = play(begin(0.05, "s"), 2_000, lambda _: 0.3, seed)
    assert (state.threshold, hits, estimate(state)) == (None, 0, None)


def test_sure_hits_do_not_pay_for_bad_ones() -> None:
    """Half of the traffic never wrong, a tenth wrong half the time: the average fits, the tenth is not served."""
    state, hits, bad = play(
        begin(0.05, "s"), 4_000, lambda strength: 0.0 if strength > 0 else 0.5 if strength > -0.2 else 1.0
    )
    assert hits > 1_000 and bad <= 0.02 * hits
    assert state.threshold is not None and state.threshold >= 0.8


def test_failed_audits_tighten_at_once() -> None:
    """A certified namespace whose answers go stale: within a dozen failed audits it alarms and serves no more of it."""
    state, _, _ = play(begin(0.05, "s"), 2_000, safe_above(0.2))
    assert state.threshold is not None
    before, audits = state, 0
    while state.alarms == before.alarms:
        state, audits = observe(state, features(0.6), False, audited=True), audits + 1
        assert audits <= 12
    assert state.tightened == before.tightened + 1
    assert decide(state, score(state, features(0.6)), 0.9, "next") in ("ask", "pass")
    state, _, _ = play(state, 6_000, safe_above(0.2), seed=9)
    assert state.threshold is not None, "calm labels certify it again"


def test_the_floor_holds() -> None:
    """Below the caller's cosine nothing is served, whatever the score."""
    state, _, _ = play(begin(0.05, "s", floor=0.8), 2_000, safe_above(0.2))
    sure = score(state, features(1))
    assert decide(state, sure, 0.79, "r") == "ask"
    assert {decide(state, sure, 0.81, str(number)) for number in range(100)} == {"serve", "audit"}


def test_audits_are_a_tenth_and_a_hash() -> None:
    state = msgspec.structs.replace(begin(0.05, "s"), threshold=0.5)
    chosen = [decide(state, 0.9, 1.0, str(number)) for number in range(5_000)]
    assert 400 < chosen.count("audit") < 600
    assert chosen == [decide(state, 0.9, 1.0, str(number)) for number in range(5_000)]
    assert chosen != [decide(msgspec.structs.replace(state, seed="t"), 0.9, 1.0, str(n)) for n in range(5_000)]


def test_a_judges_error_is_taken_out() -> None:
    """A judge that calls 6 % of equal answers different stops the certificate, until its error is told."""
    always = [(features(0.9), number % 16 != 0) for number in range(1_200)]
    blind, told = begin(0.05, "s"), begin(0.05, "s", judge_error=(0.06, 0.0))
    for found, right in always:
        blind, told = (observe(state, found, right, audited=False) for state in (blind, told))
    assert blind.threshold is None
    assert told.threshold is not None


@given(
    labels=st.lists(st.tuples(st.floats(-1, 1), st.booleans(), st.booleans()), max_size=130), cut=st.integers(0, 130)
)
@settings(max_examples=25, deadline=None)
def test_a_restart_changes_nothing(labels: list[tuple[float, bool, bool]], cut: int) -> None:
    """Saved and loaded at any label, the state goes on as if it had not been; all of it is finite."""
    straight = saved = begin(0.05, "s")
    for number, (strength, right, audited) in enumerate(labels):
        if number == cut:
            saved = msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=Calibration)
        straight = observe(straight, features(strength), right, audited=audited)
        saved = observe(saved, features(strength), right, audited=audited)
    assert saved == straight
    assert all(abs(weight) < 100 for weight in straight.weights)


def test_the_window_bounds_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old labels leave; a full state is small enough to save at every certificate."""
    monkeypatch.setattr(calibrate, "WINDOW", 100)
    state = begin(0.05, "s")
    for number in range(250):
        state = observe(state, features(number % 7 / 7), number % 3 > 0, audited=False)
    assert len(state.labels) == 100
    assert len(msgspec.msgpack.encode(state)) < 3_000 + 100 * 30


@pytest.mark.parametrize(("max_error", "judge"), [(0.0, (0.0, 0.0)), (1.5, (0.0, 0.0)), (0.05, (0.6, 0.5))])
def test_nonsense_is_refused(max_error: float, judge: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        begin(max_error, "s", judge_error=judge)
