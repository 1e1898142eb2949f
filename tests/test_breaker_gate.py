"""Whose breaker a call stands under: trust, runs inside runs, and that a row comes back to where its call was asked."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

import worlds
from bursar.policy.breakers import Breaker, Ceiling, Errors, Loop
from bursar.policy.budgets import Match
from bursar.rules import book
from bursar.rules.breaker.gate import admitted, asked, gates, identity, tags_of
from bursar.rules.breaker.life import CLOSED, State
from bursar.types import Block, Instant, Kin, Plan, Purpose, Refused, Scope, Tags

NOON = Instant(1_764_000_000_000_000)
USD = 1_000_000_000
ERRORS = Errors(failures=2, of=4)
SCOPES: tuple[Scope, ...] = ("run", "session", "user", "agent", "step", "tenant", "global")


def rule(scope: Scope, name: str = "b", trigger: Any = ERRORS, **more: Any) -> Breaker:
    return Breaker(name=name, scope=scope, trigger=trigger, suspend_ms=60_000, **more)


def subjects(tags: Tags, *rules: Breaker, purpose: Purpose = "call") -> list[tuple[str, str]]:
    return [(gate.subject, gate.tenant) for gate in gates(tags, tags.step, rules, purpose)]


FULL = Tags(
    tenant="acme", run_id="r", parent_run_id="p", session_id="s", user_id="u", agent_id="a", step="plan", key_id="k"
)


def test_each_scope_has_its_own_id() -> None:
    ids = {scope: subjects(msgspec.structs.replace(FULL, parent_run_id=None), rule(scope))[0] for scope in SCOPES}
    assert ids == {
        "run": ("r", "acme"), "session": ("s", "acme"), "user": ("u", "acme"), "agent": ("a", "acme"),
        "step": ("plan", "acme"), "tenant": ("acme", "acme"), "global": ("(all)", ""),
    }  # fmt: skip
    assert subjects(Tags(), rule("session")) == [("(none)", "default")]


def test_what_a_key_may_not_state_is_the_keys_own() -> None:
    tags = msgspec.structs.replace(FULL, trusted=frozenset(("user",)))
    assert subjects(tags, rule("user"), rule("session")) == [("u", "acme"), ("key:k", "acme")]
    assert subjects(tags, rule("run")) == [("key:k", "acme")]  # the parent that it names is no other
    assert subjects(tags, rule("user", match=Match(agent="a"))) == []
    assert subjects(tags, rule("user", match=Match(agent="(none)"))) == [("u", "acme")]


def test_a_runs_breakers_stand_over_the_runs_inside_it() -> None:
    assert subjects(FULL, rule("run")) == [("r", "acme"), ("p", "acme")]
    line = (Kin("r", "a"), Kin("p", "lead"), Kin("root", "boss"))
    known = msgspec.structs.replace(FULL, line=line)
    assert subjects(known, rule("run")) == [("r", "acme"), ("p", "acme"), ("root", "acme")]
    assert subjects(known, rule("run", match=Match(agent="boss"))) == [("root", "acme")]
    assert subjects(known, rule("run", match=Match(step="plan"))) == [("r", "acme")]
    assert subjects(known, rule("session")) == [("s", "acme")]


def test_what_is_asked_in_the_background_is_nobodys() -> None:
    every = [rule(scope) for scope in SCOPES]
    purpose: Purpose
    for purpose in ("audit", "refresh"):
        assert subjects(FULL, *every, purpose=purpose) == [("acme", "acme"), ("(all)", "")]
    assert len(subjects(FULL, *every, purpose="judge")) == len(SCOPES) + 1


def test_a_step_that_nobody_named_is_no_step() -> None:
    tags = msgspec.structs.replace(FULL, step="auto:1f0c2a9b")
    assert subjects(tags, rule("step")) == [("(none)", "acme")]


labels = st.none() | st.sampled_from(["a", "b", "auto:12", "(none)", "key:k"])
lines = st.lists(st.builds(Kin, st.sampled_from("xyz"), labels, labels), max_size=3).map(tuple)
everybody = st.builds(
    Tags, tenant=st.sampled_from(["acme", "other"]), run_id=labels, parent_run_id=labels, session_id=labels,
    user_id=labels, user_tier=labels, agent_id=labels, step=labels, tags=st.sampled_from([(), (("kind", "deep"),)]),
    key_id=st.none() | st.just("k"),
    trusted=st.none() | st.frozensets(st.sampled_from(["user", "session", "run", "agent", "step", "tags"])),
    line=lines,
)  # fmt: skip
matches = st.builds(Match, labels, labels, labels, st.sampled_from([(), (("kind", "d*"),)]))
rulebooks = st.lists(st.builds(rule, st.sampled_from(SCOPES), st.sampled_from("mn"), match=matches), max_size=5)


@given(everybody, rulebooks, st.sampled_from([(), (Block("system", b"be brief"),)]))
def test_a_row_comes_back_to_the_breakers_that_its_call_was_asked_of(
    tags: Tags, rules: list[Breaker], blocks: tuple[Block, ...]
) -> None:
    call = msgspec.structs.replace(worlds.call(blocks=blocks), tags=tags)
    entry = book.opening(call, Plan("openai", "gpt-4o"), 1, NOON, worlds.policy())
    again = tags_of(entry, tags.trusted, tags.line)
    before = gates(tags, tags.step, rules)
    assert before == gates(again, entry.step, rules)
    assert len({gate.id for gate in before}) == len(before)


texts = st.text(max_size=8)


@given(texts, st.sampled_from(SCOPES), texts, texts, texts, st.sampled_from(SCOPES), texts, texts)
def test_two_breakers_have_two_names(
    name: str, scope: Scope, subject: str, tenant: str, name2: str, scope2: Scope, subject2: str, tenant2: str
) -> None:
    one, two = identity(rule(scope, name), subject, tenant), identity(rule(scope2, name2), subject2, tenant2)
    assert (one == two) == ((name, scope, subject, tenant) == (name2, scope2, subject2, tenant2))


def test_who_stays_shut_for_longest_speaks() -> None:
    over = gates(FULL, None, (rule("user", "short"), rule("session", "long"), rule("agent", "half")))
    short, long, half = over
    states = {
        short.id: State(status="open", why="x", until=Instant(NOON + 60_000_000)),
        long.id: State(status="open", why="y", until=None),
        half.id: State(status="open", why="z", until=NOON),
    }
    told = asked(over, states, NOON, "r1")
    assert isinstance(told, Refused) and (told.budget, told.retry_after_ms) == ("breaker:long", None)
    del states[long.id]
    told = asked(over, states, NOON, "r1")
    assert isinstance(told, Refused) and (told.budget, told.retry_after_ms) == ("breaker:short", 60_000)
    del states[short.id]
    assert asked(over, states, NOON, "r1") == (half,)


def test_ceilings_are_claims_and_the_rest_are_not() -> None:
    rules = (rule("session", "dollars", Ceiling(over_nanos=5 * USD)), rule("global", "all", Ceiling(over_nanos=USD)))
    over = gates(FULL, None, (*rules, rule("user", "loop", Loop())))
    assert asked(over, {}, NOON, "r1") == ()
    claims = admitted(over, {over[0].id: CLOSED}, NOON).ceilings
    assert [(c.budget, c.scope, c.key, c.tenant, c.limit_nanos) for c in claims] == [
        ("breaker:dollars", "session", "s", "acme", 5 * USD),
        ("breaker:all", "global", "(all)", "", USD),
    ]
