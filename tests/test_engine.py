"""Golden traces: whole lives of calls, effect by effect, in a scripted world."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from bursar.drivers.life import Life
from bursar.engine import handle
from bursar.policy import Candidate
from bursar.rules import retry
from bursar.types import Call, Completed, Failed, Outcome, Part, Reading, Refused, Usage
from worlds import TIMING, Scripted, abandoned, call, completed, failed, policy

TIER = {"mid": (Candidate("openai", "gpt-4o"), Candidate("spare", "gpt-4o-spare"), Candidate("anthropic", "claude"))}


def lived(outcomes: list[Outcome], a_call: Call | None = None, **changes: Any) -> list[str]:
    world = Scripted(outcomes)
    world.live(a_call or call(), policy(**changes))
    return world.trace


def test_a_plain_call() -> None:
    """Row open, bytes sent, row closed at the reported tokens' price: 10 in at $1, 5 out at $4 a million."""
    assert lived([completed()]) == snapshot(
        ["reserve openai/gpt-4o #1 hold 407000", "send openai/gpt-4o", "settle #1 completed final 30000"]
    )


def test_retries_and_failover_inside_a_tier() -> None:
    """A provider that stays down is tried three times, then the next of the same wire family; each attempt a row."""
    assert lived([failed(), failed(), failed(), completed()], call(model="mid"), tiers=TIER) == snapshot(
        [
            "lore",
            "reserve openai/gpt-4o #1 hold 407000",
            "send openai/gpt-4o",
            "settle #1 failed final 0",
            "pause 411",
            "reserve openai/gpt-4o #2 hold 407000",
            "send openai/gpt-4o",
            "settle #2 failed final 0",
            "pause 866",
            "reserve openai/gpt-4o #3 hold 407000",
            "send openai/gpt-4o",
            "settle #3 failed final 0",
            "reserve spare/gpt-4o-spare #4 hold 407000",
            "send spare/gpt-4o-spare",
            "settle #4 completed final 30000",
        ]
    )


def test_retry_after_is_obeyed() -> None:
    """The provider's own wait is kept to the millisecond."""
    assert lived([failed(429, retry_after_ms=1234), completed()]) == snapshot(
        [
            "reserve openai/gpt-4o #1 hold 407000",
            "send openai/gpt-4o",
            "settle #1 failed final 0",
            "pause 1234",
            "reserve openai/gpt-4o #2 hold 407000",
            "send openai/gpt-4o",
            "settle #2 completed final 30000",
        ]
    )


def test_too_long_a_wait_is_not_waited_for() -> None:
    """A provider that asks for an hour is left for the next one at once."""
    assert lived([failed(429, retry_after_ms=3_600_000), completed()], call(model="mid"), tiers=TIER) == snapshot(
        [
            "lore",
            "reserve openai/gpt-4o #1 hold 407000",
            "send openai/gpt-4o",
            "settle #1 failed final 0",
            "reserve spare/gpt-4o-spare #2 hold 407000",
            "send spare/gpt-4o-spare",
            "settle #2 completed final 30000",
        ]
    )


def test_an_error_of_the_caller_is_his() -> None:
    """A 400 is not retried, costs nothing and is known to."""
    assert lived([failed(400)]) == snapshot(
        ["reserve openai/gpt-4o #1 hold 407000", "send openai/gpt-4o", "settle #1 failed final 0"]
    )


def test_the_providers_word_on_retrying_wins() -> None:
    """x-should-retry: false ends it even on a 500."""
    assert lived([failed(500, (("x-should-retry", "false"),))]) == snapshot(
        ["reserve openai/gpt-4o #1 hold 407000", "send openai/gpt-4o", "settle #1 failed final 0"]
    )


def test_a_stream_that_broke_under_the_callers_eyes() -> None:
    """After the first byte nothing is tried again; what was metered is booked as an estimate, by the learned ratio."""
    assert lived([failed(200, relayed=True, reading=Reading(output_units=7))], call(stream=True)) == snapshot(
        [
            "reserve openai/gpt-4o #1 hold 407000",
            "send openai/gpt-4o +usage",
            "learned?",
            "settle #1 failed estimated 63000",
        ]
    )


def test_an_abandoned_stream() -> None:
    """A hang-up settles once, at what was seen."""
    assert lived([abandoned(output_units=3)], call(stream=True)) == snapshot(
        [
            "reserve openai/gpt-4o #1 hold 407000",
            "send openai/gpt-4o +usage",
            "learned?",
            "settle #1 abandoned estimated 31000",
        ]
    )


def test_an_abandoned_claude_stream_keeps_what_the_provider_said() -> None:
    """Input and cache are exact from message_start; only the output is ours to estimate."""
    said = Usage((Part({"input": 100, "cache_read": 900, "output": 1}),), input_tokens=1000, output_tokens=1)
    assert lived([abandoned(output_units=3, partial=said)], call("messages", model="claude", stream=True)) == snapshot(
        [
            "reserve anthropic/claude #1 hold 407000",
            "send anthropic/claude",
            "learned?",
            "settle #1 abandoned estimated 214000",
        ]
    )


def test_a_request_that_was_never_answered_is_unknown_not_free() -> None:
    """It may have been generated and billed: no price is invented, in neither direction."""
    assert lived([failed(None)], call(attempts=1)) == snapshot(
        ["reserve openai/gpt-4o #1 hold 407000", "send openai/gpt-4o", "learned?", "settle #1 failed unpriced unpriced"]
    )


def test_a_request_that_never_left_is_free() -> None:
    """No connection, no bill."""
    assert lived([failed(None, unsent=True)], call(attempts=1)) == snapshot(
        ["reserve openai/gpt-4o #1 hold 407000", "send openai/gpt-4o", "settle #1 failed final 0"]
    )


def test_a_background_response_is_booked_at_its_hold() -> None:
    """It has not ended: the most that it can cost, marked as an estimate, rather than nothing."""
    pending = Completed(200, (), b"{}", Reading(pending=True, model="gpt-4o"), TIMING)
    assert lived([pending], call("responses"))[-1] == snapshot("settle #1 completed estimated 407000")


def test_an_unknown_model_is_never_free() -> None:
    """It is sent (the default policy measures) and booked as unpriced."""
    assert lived([completed(model="mystery")], call(model="mystery")) == snapshot(
        ["reserve openai/mystery #1 hold unknown", "send openai/mystery", "settle #1 completed unpriced unpriced"]
    )


def test_a_ceiling_for_an_unknown_model() -> None:
    """With unknown_price = "ceiling" it is booked at the provider's dearest rates, and marked as an estimate."""
    assert lived([completed(model="mystery")], call(model="mystery"), unknown_price="ceiling")[-1] == snapshot(
        "settle #1 completed estimated 150000"
    )


def test_an_unknown_model_can_be_refused() -> None:
    """With unknown_price = "refuse" nothing is sent, and the refusal is a row."""
    assert lived([], call(model="mystery"), unknown_price="refuse") == snapshot(["settle #1 refused final 0"])


def test_a_refused_reserve_sends_nothing() -> None:
    """The verdict is the refusal."""
    world = Scripted([], refuse=lambda attempt: True)
    verdict = world.live(call(), policy())
    assert isinstance(verdict.outcome, Refused)
    assert world.trace == snapshot(["refused openai/gpt-4o #1 policy", "settle #1 refused final 0"])


def test_an_unknown_provider_is_said() -> None:
    """A model that names a provider nobody configured is refused before anything is opened."""
    world = Scripted([])
    verdict = world.live(call(model="acme/mystery"), policy())
    assert isinstance(verdict.outcome, Refused)
    assert verdict.outcome.reason == snapshot(
        "unknown provider 'acme' in model 'acme/mystery': configured are openai, spare, anthropic ([providers])"
    )
    assert world.trace == ["settle #1 refused final 0"]


outcomes = st.one_of(
    st.builds(completed, st.integers(0, 10**6), st.integers(0, 10**6)),
    st.sampled_from([408, 429, 500, 503, 529, 400, 401, 404]).map(failed),
    st.just(failed(None)),
    st.just(failed(200, relayed=True)),
    st.builds(abandoned, output_units=st.integers(0, 10**5)),
)


@given(st.lists(outcomes, min_size=9, max_size=9), st.integers(1, 3), st.booleans())
def test_every_reserve_is_settled_exactly_once(script: list[Outcome], attempts: int, tier: bool) -> None:
    """Law 5 and law 6, whatever the providers do: as many rows as attempts, each opened, sent and closed once."""
    world = Scripted(script)
    life_call = call(attempts=attempts, model="mid" if tier else "gpt-4o")
    try:
        verdict = world.live(life_call, policy(tiers=TIER))
    except AssertionError as unconsumed:
        assert "never asked for" in str(unconsumed)
        verdict = None
    verbs = [line.split()[0] for line in world.trace if line.split()[0] not in ("learned?", "pause", "lore")]
    assert verbs == ["reserve", "send", "settle"] * (len(verbs) // 3)
    assert len(world.settled) == len({entry.attempt for entry in world.settled}) <= attempts * (3 if tier else 1)
    for entry in world.settled:
        assert (entry.cost_nanos is None) == (entry.cost_status == "unpriced")
        assert entry.status in ("completed", "failed", "abandoned")
    used = script[: len(world.settled)]
    assert all(isinstance(o, Failed) and retry.retryable(o) for o in used[:-1])
    if verdict is not None and isinstance(used[-1], Completed):
        assert verdict.outcome is used[-1]


@given(st.integers(1, 40), st.text(max_size=20))
def test_backoff_is_bounded_and_reproducible(turn: int, request_id: str) -> None:
    """The same request waits the same time in production and in replay, never above the cap."""
    a_call = call()
    first = retry.wait_ms(a_call, failed(500), turn, policy())
    assert first == retry.wait_ms(a_call, failed(500), turn, policy())
    assert first is not None and 0 <= first <= policy().retry.cap_ms
    assert 0 <= retry.draw("seed", request_id, "probe") < 1


def test_an_await_of_anything_but_an_effect_is_a_bug() -> None:
    """The driver raises on it."""

    class Stray:
        def __await__(self) -> Any:
            yield "not an effect"

    async def engine() -> None:
        await Stray()

    life = Life(call(), policy())
    life.close()
    life._coroutine = engine()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="no effect"):
        life.step(None)
    assert handle is not None
