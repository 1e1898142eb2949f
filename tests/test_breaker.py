"""Breakers: what trips them and what does not, one probe at a time, and that nothing they remember grows."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.policy.breakers import Breaker, Ceiling, Errors, FanOut, Growth, Loop, Trigger, Velocity
from bursar.rules import digest
from bursar.rules.breaker.life import CLOSED, Pardon, State, admits, claim, refused, reset, watch
from bursar.rules.breaker.telling import facts, reached, says_reached, suspended
from bursar.types import Api, Block, BlockKind, Entry, Instant, Refused
from bursar.wire import dialect

NOON = Instant(1_764_000_000_000_000)
MINUTE = 60_000_000
USD = 1_000_000_000
HALF_HOUR_MS = 30 * 60_000


def row(number: int = 0, **told: Any) -> Entry:
    """A completed attempt that cost a cent."""
    given: dict[str, Any] = {
        "request_id": f"r{number}", "attempt": 1, "run_id": "run", "parent_run_id": None, "session_id": "s",
        "user_id": None, "user_tier": None, "agent_id": None, "step": None, "tenant": "default", "tags": (),
        "key_id": None, "started_at": NOON, "api": "chat", "provider": "openai", "requested_model": "gpt-4o",
        "model": "gpt-4o", "tier": None, "route_reason": "caller", "stream": False, "status": "completed",
        "cost_nanos": USD // 100,
    }  # fmt: skip
    return Entry(**{**given, **told})


def talk(*messages: str, system: str = "You are an agent.") -> bytes:
    """A request's digests, as a row keeps them."""
    kinds: list[tuple[BlockKind, str]] = [("tools", '[{"name":"search"}]'), ("system", system)]
    kinds += [("message", text) for text in messages]
    blocks = tuple(Block(kind, text.encode()) for kind, text in [*kinds, ("params", '{"temperature":0}')])
    return digest.pack(blocks, b"key")[0]


def rule(trigger: Trigger, suspend_ms: int | None = HALF_HOUR_MS, **more: Any) -> Breaker:
    return Breaker(name="loop", scope="session", trigger=trigger, suspend_ms=suspend_ms, **more)


def fed(breaker: Breaker, rows: Sequence[Entry], state: State = CLOSED, every: int = MINUTE // 6) -> State:
    for number, one in enumerate(rows):
        state = watch(state, one, Instant(NOON + number * every), breaker)
    return state


def turns(number: int, turn: Any) -> list[Entry]:
    """A conversation of so many requests, each longer by what `turn` gives for it."""
    said = ["Find the cheapest flight."]
    found = []
    for index in range(number):
        found.append(row(index, blocks=talk(*said)))
        said += turn(index)
    return found


def call_id(index: int) -> str:
    return "call_" + hashlib.sha256(f"{index}".encode()).hexdigest()[:24]


def same_tool(index: int) -> list[str]:
    """The same call and the same result, as OpenAI writes them: with an id of its own each time."""
    return [
        f'{{"role":"assistant","tool_calls":[{{"id":"{call_id(index)}","function":{{"name":"search","arguments":"{{}}"}}}}]}}',
        f'{{"role":"tool","tool_call_id":"{call_id(index)}","content":"No results were found for this query."}}',
    ]


def same_tool_without_ids(index: int) -> list[str]:
    """As Gemini writes them."""
    return ['{"functionCall":{"name":"search","args":{}}}', '{"functionResponse":{"name":"search","response":{}}}']


def other_work(index: int) -> list[str]:
    """What a healthy agent does: calls and results of all sorts and lengths."""
    size = 20 + int(hashlib.sha256(f"size{index}".encode()).hexdigest()[:3], 16)
    return [f'{{"tool_calls":[{{"id":"{call_id(index)}","q":"{index}"}}]}}', f'{{"content":"{"word " * size}"}}']


LOOP = rule(Loop(repeats=8))


def trips_at(breaker: Breaker, rows: Sequence[Entry]) -> int | None:
    """The number of the request after which it is open."""
    state = CLOSED
    for number, one in enumerate(rows):
        state = watch(state, one, Instant(NOON + number * MINUTE // 6), breaker)
        if state.status == "open":
            return number + 1
    return None


def test_the_same_turn_again_and_again_is_a_loop() -> None:
    """The ninth request is the one that has made the same turn for the eighth time."""
    assert trips_at(LOOP, turns(100, same_tool_without_ids)) == 9
    state = fed(LOOP, turns(9, same_tool_without_ids))
    assert state.why == "the same turn 8 times"


def test_turns_that_differ_by_their_ids_alone_take_twice_as_many() -> None:
    assert trips_at(LOOP, turns(100, same_tool)) == 17
    assert trips_at(rule(Loop(alike=None)), turns(100, same_tool)) is None
    assert trips_at(rule(Loop(alike=30)), turns(100, same_tool)) == 31


ARGUMENTS = {"query": "cheapest flight", "day": 3}


def asked(api: Api, number: int) -> bytes:
    """A request after so many calls of one tool, with the ids that the provider gave them."""
    chat: list[Any] = [{"role": "user", "content": "Find the cheapest flight."}]
    items, contents = list(chat), [{"role": "user", "parts": [{"text": "Find the cheapest flight."}]}]
    messages: list[Any] = list(chat)
    for index in range(number):
        name, found = call_id(index), "No results."
        said = {"name": "search", "arguments": json.dumps(ARGUMENTS)}
        chat += [
            {"role": "assistant", "tool_calls": [{"id": name, "type": "function", "function": said}]},
            {"role": "tool", "tool_call_id": name, "content": found},
        ]
        items += [
            {"type": "function_call", "call_id": name, **said},
            {"type": "function_call_output", "call_id": name, "output": found},
        ]
        use = {"type": "tool_use", "id": name, "name": "search", "input": ARGUMENTS}
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": name, "content": found}
        if index == number - 1:
            result["cache_control"] = {"type": "ephemeral"}  # the mark moves on with every turn
        messages += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        contents += [
            {"role": "model", "parts": [{"functionCall": {"name": "search", "args": ARGUMENTS}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "search", "response": {"result": found}}}]},
        ]
    bodies = {"chat": {"messages": chat}, "responses": {"input": items}, "messages": {"messages": messages}}
    return json.dumps({"model": "m", **bodies.get(api, {"contents": contents})}).encode()


@pytest.mark.parametrize(("api", "at"), [("chat", 17), ("responses", 17), ("messages", 17), ("gemini", 9)])
def test_a_runaway_tool_call_is_seen_in_every_dialect(api: Api, at: int) -> None:
    """Gemini's calls bear no ids, so its turns are the very same."""
    rows = []
    for number in range(40):
        view = dialect.of(api).view(asked(api, number), "/models/m:generateContent", ())
        rows.append(row(number, api=api, blocks=digest.pack(view.blocks, b"key")[0]))
    assert trips_at(LOOP, rows) == at


def test_two_calls_in_turn_are_a_loop_too() -> None:
    def pair(index: int) -> list[str]:
        return ['{"call":"open the door"}'] if index % 2 else ['{"call":"close it and look at what is behind"}', "ok"]

    assert trips_at(LOOP, turns(100, pair)) == 16


def test_the_same_request_again_and_again_is_a_loop() -> None:
    again = [row(number, blocks=talk("Summarise this.")) for number in range(100)]
    assert trips_at(LOOP, again) == 8
    stamped = [row(number, blocks=talk(f"It is 12:00:{number:02}.", "Summarise this.")) for number in range(60)]
    assert trips_at(LOOP, stamped) == 16


def test_a_healthy_agent_is_left_alone() -> None:
    assert trips_at(LOOP, turns(150, other_work)) is None
    (thread,) = fed(LOOP, turns(150, other_work)).evidence.threads
    assert len(thread.turns) == 24 and all(len(turn.sizes) <= 8 for turn in thread.turns)


def test_the_same_question_of_many_runs_is_no_loop() -> None:
    many = [row(number, run_id=f"run{number}", blocks=talk("Hello")) for number in range(100)]
    assert trips_at(LOOP, many) is None


def test_retries_and_hits_are_no_turns() -> None:
    blocks = talk("Summarise this.")
    retried = [row(1, attempt=1 + number, blocks=blocks) for number in range(50)]
    assert trips_at(LOOP, retried) is None
    assert trips_at(LOOP, [row(number, status="hit", blocks=blocks) for number in range(50)]) is None
    assert trips_at(LOOP, [row(number, sdk_retry=1, blocks=blocks) for number in range(50)]) is None


def test_rows_whose_digests_nobody_can_read_say_nothing() -> None:
    assert trips_at(LOOP, [row(number, blocks=raw) for number in range(50) for raw in (b"", b"\x01\x02")]) is None


def test_a_conversation_that_was_silent_for_long_begins_anew() -> None:
    rows = turns(60, same_tool_without_ids)
    assert fed(LOOP, rows, every=31 * MINUTE).status == "closed"
    assert fed(LOOP, rows, every=29 * MINUTE).status == "open"


GROWTH = rule(Growth(turns=30, times=10, tokens=20_000))


def test_a_context_that_grows_without_end() -> None:
    def longer(index: int) -> list[str]:
        return [f"{index} " + "word " * 1_000]

    at = trips_at(GROWTH, turns(100, longer))
    assert at is not None and at >= 31
    state = fed(GROWTH, turns(100, longer))
    assert state.why.startswith(f"the context has grown {at - 1} turns in a row, to about ")
    compacted = [*turns(29, longer), *turns(29, longer), *turns(29, longer)]
    assert trips_at(GROWTH, compacted) is None
    assert trips_at(GROWTH, turns(100, same_tool)) is None  # long, but small


def test_a_fan_out_beyond_its_limit() -> None:
    breaker = rule(FanOut(over_runs=50))
    children = [row(number, run_id=f"child{number}", parent_run_id="root") for number in range(60)]
    assert trips_at(breaker, children) == 51
    busy = [row(number, run_id=f"child{number % 50}", parent_run_id="root") for number in range(500)]
    assert trips_at(breaker, busy) is None
    assert trips_at(breaker, [row(number, run_id=f"root{number}") for number in range(60)]) is None
    assert fed(breaker, children, every=MINUTE // 2).status == "closed"  # twenty in ten minutes


def test_errors_that_pile_up() -> None:
    breaker = rule(Errors(failures=10, of=20))
    failing = [row(number, status="failed") for number in range(20)]
    assert trips_at(breaker, failing) == 10
    mixed = [row(number, status="failed" if number % 2 else "completed") for number in range(40)]
    assert trips_at(breaker, mixed) == 20
    healthy = [row(number, status="completed" if number % 3 else "failed") for number in range(100)]
    assert trips_at(breaker, healthy) is None
    assert fed(breaker, failing, every=2 * MINUTE).status == "closed"


def test_dollars_a_minute() -> None:
    breaker = rule(Velocity(over_nanos=USD, minutes=5))
    assert trips_at(breaker, [row(number, cost_nanos=USD // 5) for number in range(200)]) == 26
    assert trips_at(breaker, [row(number, cost_nanos=USD // 6) for number in range(200)]) is None
    assert fed(breaker, [row(number, cost_nanos=USD) for number in range(200)], every=MINUTE).status == "closed"


def test_a_jump_is_measured_against_the_hour_before() -> None:
    breaker = rule(Velocity(over_nanos=USD // 10, minutes=5, times=3_000_000))
    steady = [row(number, cost_nanos=USD) for number in range(70)]
    state = CLOSED
    for number, one in enumerate(steady):
        # While there is no hour before, the amount alone decides and would have opened it.
        state = watch(state, one, Instant(NOON + (number - 70) * MINUTE), breaker)
        state = msgspec.structs.replace(state, status="closed", why="")
    assert watch(state, row(cost_nanos=10 * USD), NOON, breaker).status == "closed"
    assert watch(state, row(cost_nanos=12 * USD), NOON, breaker).status == "open"


CEILING = rule(Ceiling(over_nanos=5 * USD), suspend_ms=None)


def test_a_ceiling_is_reached_at_its_amount() -> None:
    almost = fed(CEILING, [row(cost_nanos=5 * USD - 1)])
    assert almost.status == "closed"
    state = watch(almost, row(cost_nanos=1), NOON, CEILING)
    assert (state.status, state.until, state.why) == ("open", None, "the ceiling of $5 is reached")
    assert fed(CEILING, [row(cost_nanos=None, hold_nanos=5 * USD)]).status == "open"


def test_a_ceiling_of_a_day_begins_anew_with_the_day() -> None:
    daily = rule(Ceiling(over_nanos=5 * USD, window="day"))
    state = watch(CLOSED, row(cost_nanos=4 * USD), NOON, daily)
    assert watch(state, row(cost_nanos=4 * USD), Instant(NOON + 24 * 60 * MINUTE), daily).status == "closed"
    opened = watch(state, row(cost_nanos=4 * USD), NOON, daily)
    late = watch(opened, row(cost_nanos=USD), NOON, daily)
    assert late.evidence.spent == 9 * USD and late.status == "open"
    same_day = admits(opened, Instant(NOON + 31 * MINUTE), daily, "p").state
    assert watch(same_day, row(request_id="p"), Instant(NOON + 32 * MINUTE), daily).status == "open"
    tomorrow = Instant(NOON + 24 * 60 * MINUTE)
    probing = admits(opened, tomorrow, daily, "p").state
    closed = watch(probing, row(request_id="p"), tomorrow, daily)
    assert (closed.status, closed.evidence.spent) == ("closed", USD // 100)


def test_a_ceiling_is_a_claim_and_its_refusal_opens_the_breaker() -> None:
    found = claim(CLOSED, CEILING, "s7", "acme", NOON)
    assert found is not None
    assert (found.budget, found.scope, found.key, found.tenant) == ("breaker:loop", "session", "s7", "acme")
    assert (found.limit_nanos, found.window, found.max_share) == (5 * USD, "lifetime", 1_000_000)
    state = refused(CLOSED, NOON, CEILING)
    assert (state.status, state.why) == ("open", "the ceiling of $5 is reached")
    assert refused(state, Instant(NOON + 1), CEILING) == state
    assert claim(CLOSED, LOOP, "s7", "acme", NOON) is None
    with pytest.raises(ValueError, match="has no ceiling"):
        refused(CLOSED, NOON, LOOP)


OPEN = fed(LOOP, turns(9, same_tool_without_ids))
OPENED = Instant(NOON + 8 * MINUTE // 6)
THEN = Instant(OPENED + HALF_HOUR_MS * 1000)


def test_open_refuses_and_says_until_when() -> None:
    found = admits(OPEN, OPENED, LOOP, "x")
    assert (found.kind, found.retry_after_ms) == ("refuse", HALF_HOUR_MS)
    assert admits(OPEN, Instant(THEN - 1), LOOP, "x").retry_after_ms == 1
    assert admits(CLOSED, OPENED, LOOP, "x").kind == "pass"
    shut = fed(CEILING, [row(cost_nanos=5 * USD)])
    assert admits(shut, Instant(NOON + 10**15), CEILING, "x").kind == "refuse"
    assert admits(shut, NOON, CEILING, "x").retry_after_ms is None


def test_half_open_lets_one_probe_through_and_recovers() -> None:
    probing = admits(OPEN, THEN, LOOP, "p")
    assert (probing.kind, probing.state.status) == ("probe", "half_open")
    assert admits(probing.state, THEN, LOOP, "q").kind == "refuse"
    assert admits(probing.state, THEN, LOOP, "p").kind == "probe"
    closed = watch(probing.state, row(request_id="p", blocks=talk("Something else.")), THEN, LOOP)
    assert (closed.status, closed.why, closed.changed and closed.changed.why) == ("closed", "", "the probe went well")
    assert admits(closed, THEN, LOOP, "q").kind == "pass"


def test_a_probe_that_goes_on_with_the_loop_is_suspended_for_longer_each_time() -> None:
    state, now, waits = OPEN, THEN, []
    for number in range(9, 16):
        blocks = turns(number + 1, same_tool_without_ids)[-1].blocks
        state = admits(state, now, LOOP, f"p{number}").state
        state = watch(state, row(request_id=f"p{number}", blocks=blocks), now, LOOP)
        assert state.status == "open" and state.until is not None and state.why == OPEN.why
        waits.append((state.until - now) // (HALF_HOUR_MS * 1000))
        now = state.until
    assert waits == [2, 4, 8, 16, 32, 32, 32]
    assert state.since == OPENED


def test_a_probe_that_fails_shuts_it_and_one_that_comes_to_nothing_does_not_count() -> None:
    probing = admits(OPEN, THEN, LOOP, "p").state
    assert watch(probing, row(request_id="p", status="failed"), THEN, LOOP).status == "open"
    for status in ("abandoned", "expired", "refused", "hit"):
        freed = watch(probing, row(request_id="p", status=status), THEN, LOOP)
        assert (freed.status, freed.probe) == ("half_open", None)
        assert admits(freed, THEN, LOOP, "q").kind == "probe"


def test_a_probe_of_which_nothing_is_heard_is_given_up() -> None:
    probing = admits(OPEN, THEN, LOOP, "p").state
    later = Instant(THEN + LOOP.probe_ms * 1000)
    assert admits(probing, Instant(later - 1), LOOP, "q").kind == "refuse"
    second = admits(probing, later, LOOP, "q")
    assert second.kind == "probe"
    assert watch(second.state, row(request_id="p"), later, LOOP) == second.state
    assert watch(second.state, row(request_id="q"), later, LOOP).status == "closed"


def test_errors_recover_with_the_first_probe_that_succeeds() -> None:
    breaker = rule(Errors(failures=3, of=5), suspend_ms=60_000)
    state = fed(breaker, [row(number, status="failed") for number in range(3)], every=0)
    then = Instant(NOON + MINUTE)
    state = admits(state, then, breaker, "p").state
    assert watch(state, row(request_id="p"), then, breaker).status == "closed"


def test_every_change_leaves_a_line_of_audit() -> None:
    assert OPEN.changed is not None
    assert (OPEN.changed.before, OPEN.changed.after, OPEN.changed.by) == ("closed", "open", "rule")
    probing = admits(OPEN, THEN, LOOP, "p").state.changed
    assert probing is not None and (probing.after, probing.by) == ("half_open", "probe")
    closed = reset(OPEN, THEN, "ann")
    assert closed.status == "closed" and closed.changed is not None
    assert (closed.changed.by, closed.changed.who, closed.changed.at) == ("hand", "ann", THEN)
    assert closed.changed.why == "reset; it was the same turn 8 times"
    assert watch(closed, row(blocks=talk("Go on.")), THEN, LOOP).status == "closed"


def test_a_reset_forgives_what_the_ceiling_has_counted_in_its_window() -> None:
    daily = rule(Ceiling(over_nanos=5 * USD, window="day"))
    midnight = Instant(NOON - NOON % (24 * 60 * MINUTE))
    closed = reset(refused(CLOSED, NOON, daily), NOON, "ann", Pardon(4 * USD, midnight))
    today = claim(closed, daily, "s7", "acme", NOON)
    tomorrow = claim(closed, daily, "s7", "acme", Instant(NOON + 24 * 60 * MINUTE))
    assert today is not None and tomorrow is not None
    assert (today.limit_nanos, tomorrow.limit_nanos) == (9 * USD, 5 * USD)
    opened = refused(closed, NOON, daily)
    probing = admits(opened, Instant(NOON + HALF_HOUR_MS * 1000), daily, "p").state
    recovered = watch(probing, row(request_id="p"), Instant(NOON + HALF_HOUR_MS * 1000), daily)
    assert opened.pardon == recovered.pardon == closed.pardon


def test_the_suspended_caller_is_told_why_and_until_when() -> None:
    assert dict(facts(OPEN, LOOP)) == {
        "breaker": "loop", "scope": "session", "why": "the same turn 8 times", "since": "2025-11-24T16:01:20Z",
        "until": "until 2025-11-24T16:31:20Z",
    }  # fmt: skip
    found = suspended(OPEN, LOOP, "s7", 1_000)
    assert (found.kind, found.budget, found.retry_after_ms, found.on_exhausted) == (
        "suspended", "breaker:loop", 1_000, "finish"
    )  # fmt: skip
    assert found.reason.startswith("the breaker 'loop' suspends session s7: the same turn 8 times; since ")
    assert found.standing is not None and (found.standing.state, found.standing.scope) == ("suspended", "session")
    shut = fed(CEILING, [row(cost_nanos=5 * USD)])
    assert dict(facts(shut, CEILING))["until"] == "until it is reset"


def test_a_refused_claim_is_said_as_its_breaker_says_it() -> None:
    by_claim = Refused(
        "used up", kind="exhausted", budget="breaker:loop", facts=(("scope", "session s7, lifetime"), ("spent", "$5"))
    )
    found = reached(by_claim, (LOOP_ELSEWHERE, CEILING), NOON)
    assert (found.kind, found.retry_after_ms, dict(found.facts)["spent"]) == ("suspended", None, "$5")
    assert dict(found.facts)["why"] == "the ceiling of $5 is reached"
    mine, other = (claim(CLOSED, CEILING, who, "acme", NOON) for who in ("s7", "s8"))
    assert mine is not None and other is not None
    assert says_reached(found.reason, CEILING, mine) and not says_reached(found.reason, CEILING, other)
    for held in (Refused("", kind="held", budget="breaker:loop"), Refused("", kind="exhausted", budget="loop")):
        assert reached(held, (CEILING,), NOON) is held
    assert reached(by_claim, (LOOP,), NOON) is by_claim and reached(by_claim, (), NOON) is by_claim


LOOP_ELSEWHERE = msgspec.structs.replace(LOOP, name="another")


# --- laws

triggers = st.sampled_from(
    [
        Ceiling(over_nanos=USD // 20), Ceiling(over_nanos=USD // 20, window="hour"), Velocity(over_nanos=USD // 50),
        Velocity(over_nanos=USD // 100, times=2_000_000), Loop(repeats=2, alike=3), Growth(turns=2, times=1, tokens=1),
        FanOut(over_runs=2), Errors(failures=2, of=4),
    ]
)  # fmt: skip
breakers = st.builds(rule, triggers, st.none() | st.integers(0, 3_600_000))
texts = st.lists(st.sampled_from(["a", "b", "word " * 50]), max_size=4)
rows = st.builds(
    lambda number, run, parent, status, cost, said: row(
        number, run_id=run, parent_run_id=parent, status=status, cost_nanos=cost, blocks=talk(*said)
    ),
    st.integers(0, 6),
    st.none() | st.sampled_from("abcd"),
    st.none() | st.just("root"),
    st.sampled_from(["completed", "failed", "abandoned", "expired", "refused", "hit"]),
    st.none() | st.integers(0, USD // 20),
    texts,
)
events = st.lists(st.tuples(st.integers(0, 40 * MINUTE), st.integers(0, 6) | rows), max_size=60)


def played(breaker: Breaker, given_events: list[tuple[int, int | Entry]], stored: bool = False) -> list[Any]:
    """Calls ask and rows end -> everything that came of it."""
    now, state = NOON, CLOSED
    found: list[Any] = []
    for micros, event in given_events:
        now = Instant(now + micros)
        if stored:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)
        if isinstance(event, int):
            asked = admits(state, now, breaker, f"r{event}")
            state = asked.state
            found.append((now, f"r{event}", asked))
        else:
            state = watch(state, event, now, breaker)
            found.append((now, event, state))
    return found


@settings(max_examples=200)
@given(breakers, events)
def test_exactly_one_probe_is_let_through_at_a_time(
    breaker: Breaker, given_events: list[tuple[int, int | Entry]]
) -> None:
    probe: tuple[str, int] | None = None
    open_until: int | None = 0
    for now, who, what in played(breaker, given_events):
        if isinstance(what, State):
            probe = probe if what.status == "half_open" and what.probe is not None else None
            open_until = what.until if what.status == "open" else 0
        elif what.kind == "probe":
            assert probe is None or probe[0] == who or now >= probe[1]
            assert open_until is not None and now >= open_until
            probe = probe if probe is not None and probe[0] == who else (who, now + breaker.probe_ms * 1000)
        elif what.kind == "pass":
            assert what.state.status == "closed" and probe is None
        else:
            assert what.state.status != "closed"


@given(breakers, events)
def test_replay_gives_the_same_through_a_store_too(
    breaker: Breaker, given_events: list[tuple[int, int | Entry]]
) -> None:
    assert played(breaker, given_events) == played(breaker, given_events, stored=True)


@given(breakers, events)
def test_only_a_rule_opens_only_a_probe_or_a_hand_closes(
    breaker: Breaker, given_events: list[tuple[int, int | Entry]]
) -> None:
    before = CLOSED
    for _, _, what in played(breaker, given_events):
        after = what if isinstance(what, State) else what.state
        if after.status != before.status:
            assert after.changed is not None and after.changed != before.changed
            assert (after.changed.before, after.changed.after) == (before.status, after.status)
            allowed = {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}
            assert (before.status, after.status) in allowed
        before = after


@pytest.mark.parametrize(
    "trigger",
    [Ceiling(over_nanos=10**18), Velocity(over_nanos=10**18), Loop(repeats=1_000, alike=None), Growth(turns=10**9),
     FanOut(over_runs=100), Errors(failures=99, of=50)],
)  # fmt: skip
def test_what_is_remembered_does_not_grow_with_what_was_seen(trigger: Trigger) -> None:
    breaker = rule(trigger)
    state, sizes = CLOSED, []
    for number in range(4_000):
        one = row(number, run_id=f"run{number % 90}", parent_run_id="root", blocks=talk(f"{number % 7}" * 99))
        state = watch(state, one, Instant(NOON + number * MINUTE // 30), breaker)
        sizes.append(len(msgspec.msgpack.encode(state)))
    assert state.status == "closed"
    assert max(sizes[2_000:]) <= max(sizes[:2_000]) + 16
