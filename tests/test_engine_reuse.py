"""Answers that are given again, as golden traces of whole lives; and the laws of the key that they are found by."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.policy import Budget, Match, ResponseCache, StepRule
from bursar.rules import reuse
from bursar.rules.route import ladder
from bursar.types import Block, Call, Completed, Outcome, Refused, Tags, Verdict, View
from worlds import T0, Scripted, abandoned, call, completed, failed, policy

RULE = StepRule(match=Match(step="extract"), response_cache=ResponseCache(ttl_ms=86_400_000))
POLICY = policy(steps=(RULE,))
SENT = ["reserve openai/gpt-4o #1 hold 407000", "send openai/gpt-4o", "settle #1 completed final 30000"]
GIVEN = "settle #1 hit final 0"


def whole(**more: Any) -> Completed:
    """An answer that the driver found fit to be kept."""
    return replace(completed(), keepable=b'{"id":"answer"}', **more)


def lived(world: Scripted, a_call: Call | None = None, rules: Any = POLICY) -> tuple[list[str], Verdict]:
    world.trace.clear()
    world.spare = True
    verdict = world.live(a_call or extracting(), rules)
    return list(world.trace), verdict


def extracting(**more: Any) -> Call:
    return replace(call(), tags=Tags(step="extract", user_id="u1"), **more)


def test_the_second_of_two_equal_calls_is_given_the_first_ones_answer() -> None:
    """It asks no budget, sends nothing, costs nothing, and its row says what it saved."""
    world = Scripted([whole()])
    first, _ = lived(world)
    assert first == ["recall", "join -> leads", *SENT, "keep"]
    second, verdict = lived(world, extracting(request_id="req_2"))
    assert second == ["recall", GIVEN]
    row = verdict.entry
    assert row is not None and (row.cache, row.cost_nanos, row.saved_nanos) == ("hit", 0, 30_000)
    assert isinstance(verdict.outcome, Completed) and verdict.outcome.body == b'{"id":"answer"}'


def test_without_a_rule_nothing_is_kept() -> None:
    """The caller's word can only narrow."""
    world = Scripted([completed(), completed()])
    assert lived(world, call())[0] == SENT
    assert lived(world, replace(call(), cache="on"))[0] == SENT


@pytest.mark.parametrize("outcome", [completed(), failed(400), failed(503), abandoned()])
def test_what_may_not_be_kept_is_not(outcome: Outcome) -> None:
    """Errors, cut answers, abandoned ones: who waits for them goes on by himself, or leads where that may help."""
    trace, _ = lived(Scripted([outcome]), extracting(attempts=1))
    again = not isinstance(outcome, Completed) and getattr(outcome, "status", None) != 400
    assert trace[-1] == ("land again" if again else "land")


def test_an_answer_that_a_budget_made_shorter_is_not_kept() -> None:
    """A step's own output limit is the step's; what is left of a budget is this caller's affair alone."""
    rules = policy(steps=(replace(RULE, max_output_tokens=50),))
    trace, _ = lived(Scripted([whole()]), rules=rules)
    assert trace[3] == "send openai/gpt-4o limit 50" and trace[-1] == "keep"
    short = policy(steps=(RULE,), budgets=(Budget(name="b", scope="global", limit_nanos=400_000),))
    trace, _ = lived(Scripted([whole()]), rules=short)
    assert trace[3].startswith("send openai/gpt-4o limit") and trace[-1] == "land"


def test_an_equal_call_under_way_is_waited_for() -> None:
    """Its answer is this one's too; where it comes to nothing the call goes its own way, and keeps what it gets."""
    world = Scripted([whole()])
    lived(world)
    (kept,) = world.kept.values()
    waiting = Scripted([whole()])
    waiting.joins = [kept, "alone"]
    trace, verdict = lived(waiting)
    assert trace == ["recall", "join -> kept", GIVEN]
    assert verdict.entry is not None and verdict.entry.cache == "coalesced"
    assert lived(waiting)[0] == ["recall", "join -> alone", *SENT, "keep"]


def test_a_stale_answer_is_given_while_one_call_fetches_a_fresh_one() -> None:
    """Within its hard limit; the one that leads goes to the provider."""
    rule = replace(RULE, response_cache=ResponseCache(ttl_ms=1, stale_ms=10**9))
    rules = policy(steps=(rule,))
    world = Scripted([whole(), whole()])
    lived(world, rules=rules)
    for key, kept in list(world.kept.items()):
        world.kept[key] = replace(kept, fresh_until=T0)
    world.joins = ["alone"]
    assert lived(world, rules=rules)[0] == ["recall", "join at once -> alone", GIVEN]
    assert lived(world, rules=rules)[0] == ["recall", "join at once -> leads", *SENT, "keep"]


def test_what_the_caller_wants() -> None:
    """refresh asks anew and keeps; off does neither; only takes a kept answer or none; no-store does not keep."""
    world = Scripted([whole(), whole(), whole()])
    assert lived(world, extracting(cache="only"))[1].outcome == reuse.MISS
    assert lived(world, extracting(cache="off"))[0] == SENT
    assert lived(world, extracting(cache="refresh"))[0] == [*SENT, "keep"]
    assert lived(world, extracting(cache="only"))[0] == ["recall", GIVEN]
    world.kept.clear()
    assert lived(world, extracting(no_store=True))[0] == ["recall", *SENT]
    refused = lived(world, replace(call(), cache="only"))[1]
    assert isinstance(refused.outcome, Refused) and refused.entry is not None and refused.entry.http_status == 504


@pytest.mark.parametrize(
    "view",
    [{"opaque_input": True}, {"background": True}, {"blocks": (Block("message", b'"What is new today?"'),)}],
    ids=["files", "background", "now"],
)
def test_what_may_be_another_answer_tomorrow_is_asked_anew(view: dict[str, Any]) -> None:
    """Input that is not in the body, answers that come later, questions about the present."""
    trace, _ = lived(Scripted([whole()]), replace(call(**view), tags=Tags(step="extract")))
    assert trace[1:] == SENT[1:]


# --- the key


BODY = {
    "model": "gpt-4o",
    "messages": [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Who?"}],
    "tools": [{"type": "function", "function": {"name": "look"}}],
    "temperature": 0.5,
    "seed": 1,
    "x_unknown": {"a": [1, None]},
}
HINTS: dict[str, Any] = {
    "stream": True, "stream_options": {"include_usage": True}, "user": "u", "metadata": {"a": "b"},
    "service_tier": "flex", "prompt_cache_key": "k", "safety_identifier": "s",
}  # fmt: skip


def key_of(body: Any, scope: str = "user:default:u1", tenant: str = "default", **more: Any) -> bytes | None:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    a_call = Call("r", "chat", View(model="gpt-4o"), raw, (), "/chat/completions", Tags(tenant=tenant), T0, **more)
    plans = ladder.own(a_call, POLICY)
    assert not isinstance(plans, Refused)
    return reuse.key(a_call, plans[0], scope, b"secret")


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5) | st.floats(-1e3, 1e3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(BODY)), json)
def test_whatever_may_shape_the_answer_is_in_the_key(name: str, value: Any) -> None:
    """Any other value of any member, known or not, is another key."""
    if name == "model" or value == BODY[name]:
        return
    assert key_of({**BODY, name: value}) != key_of(BODY)


@given(st.permutations(sorted(BODY)), st.dictionaries(st.sampled_from(sorted(HINTS)), json, max_size=4))
def test_order_spelling_and_hints_are_not(order: list[str], hints: dict[str, Any]) -> None:
    """The order of members, the spelling of numbers, who asks, how it is sent and billed, cache marks."""
    assert key_of({**{name: BODY[name] for name in order}, **hints}) == key_of(BODY)
    raw = msgspec.json.encode(BODY)
    assert key_of(raw.replace(b"0.5", b"5e-1").replace(b'"seed":1', b'"seed":1.0')) == key_of(BODY)
    marked = raw.replace(b'"Be exact."', b'"Be exact.","cache_control":{"type":"ephemeral"}')
    assert key_of(marked) == key_of(BODY)


def test_no_scope_tenant_or_place_shares_a_key() -> None:
    """Law 7; and a tier that comes to another model tomorrow is another key."""
    keys = {
        key_of(BODY),
        key_of(BODY, scope="user:default:u2"),
        key_of(BODY, tenant="other"),
        key_of(BODY, provider="spare"),
        key_of({**BODY, "messages": [{"role": "user", "content": "Who?"}]}),
    }
    assert len(keys) == 5 and None not in keys
    assert key_of(b"[1]") is None and key_of(b"no json") is None


def test_an_untrusted_user_is_his_key() -> None:
    """Who may not say who he is is given the answers of his own key only."""
    cache = ResponseCache(ttl_ms=1)
    honest = reuse.scope(Tags(user_id="u1"), cache)
    assert reuse.scope(Tags(user_id="u1", key_id="k", trusted=frozenset()), cache) != honest
    assert reuse.scope(Tags(user_id="u2"), cache) != honest
    shared = replace(cache, scope="tenant")
    assert reuse.scope(Tags(user_id="u1"), shared) == reuse.scope(Tags(user_id="u2"), shared)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 10**9))
def test_an_answer_lives_a_tenth_more_or_less(digest: bytes, ttl_ms: int) -> None:
    lives = reuse.expiry(digest, ttl_ms, T0) - T0
    assert ttl_ms * 900 - 1 <= lives <= ttl_ms * 1100
