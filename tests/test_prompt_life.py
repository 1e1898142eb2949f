"""The provider's prompt cache in the life of a call: what an agent saves, through both doors, with the real SDKs.

The bill is the sandbox's own; ledgers are empty at first, and the clock is moved by hand.
"""

import asyncio
import itertools
import json
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from anthropic import Anthropic, AsyncAnthropic, InternalServerError
from openai import OpenAI

import bursar
from bursar.policy import Budget, Card, Policy
from bursar.rules import book, budget, estimate
from bursar.rules.prompt import marking
from bursar.sandbox import SandboxServer, Settings
from bursar.sandbox.bill import Line
from bursar.stores.base import StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Block, Bucket, Entry, Mark, Marks, Plan, Ratios, Refused, Terms, View
from bursar.wire import marks as wire_marks
from bursar.wire.dialect import of
from library_kit import PRICES, TLS, rows
from prompt_kit import (
    AUTO,
    HOUR,
    KINDS,
    SYSTEM,
    Clock,
    agent,
    best,
    buckets,
    guard_on,
    library,
    paid,
    through,
    uncached,
    words,
    written,
)
from worlds import T0, call

DOORS = ["library", "gateway"]
CLAUDE = ["haiku", "sonnet"]
LETTERS = string.ascii_lowercase


def unmarked(value: Any) -> Any:
    """A parsed body without marks, a text of one part a text again."""
    if isinstance(value, dict):
        hints = ("cache_control", "prompt_cache_breakpoint", "prompt_cache_options", "prompt_cache_key")
        return {key: unmarked(item) for key, item in value.items() if key not in hints}
    if isinstance(value, list):
        bare = [unmarked(item) for item in value]
        return bare[0]["text"] if len(bare) == 1 and bare[0].keys() == {"type", "text"} else bare
    return value


def marks_in(body: Any) -> int:
    return json.dumps(body).count('"cache_control"')


# --- what is saved


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_agent_with_a_long_system_prompt(kind: str, door: str) -> None:
    """6,000 tokens of system prompt, at most 500 new ones a turn, no history: 60 % less input cost over five turns,
    80 % over twenty, within 5 % of the best, never more than without; the content is the same, every row the bill's.
    """
    with agent(door, kind, ()) as plain:
        off, asked = plain.converse(20, "today"), plain.sent()
    with agent(door, kind) as one:
        on, sent = one.converse(20, "today"), one.sent()
        booked = one.ledger()
    sizes = [sum(buckets(line).values()) for line in on]
    assert 6000 < sizes[0] <= 6500 and all(later - size <= 500 for size, later in itertools.pairwise(sizes))
    assert [unmarked(body) for body in sent] == [unmarked(body) for body in asked]
    model = KINDS[kind][1]
    for turns, share in ((5, 0.4), (20, 0.2)):
        cost = paid(model, on[:turns])
        assert cost <= share * uncached(model, on[:turns]) and cost <= 1.05 * best(model, on[:turns])
        assert cost <= paid(model, off[:turns])
        assert kind not in CLAUDE or cost <= share * paid(model, off[:turns])
    assert [row.cost_nanos for row in booked] == [line.nanos for line in on]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_do_not_teach_each_other_wrong(kind: str) -> None:
    """An agent beside one-shot calls saves as much as one alone; one-shot calls beside an agent are not written."""
    with library(kind) as (guard, one):
        with guard.step("classify"):
            for n in range(12):
                one.converse(1, f"{n}", system="brief", size=5000)
        with guard.step("research"):
            lines = one.converse(20, "today")
        for turns, share in ((5, 0.4), (20, 0.2)):
            cost = paid(one.model, lines[:turns])
            assert cost <= share * uncached(one.model, lines[:turns])
            assert cost <= 1.05 * best(one.model, lines[:turns])
        with guard.step("classify"):
            assert written(one.converse(1, "after", system="brief", size=5000)) == 0
        with guard.step("extract"):
            assert kind not in CLAUDE or written(one.converse(1, "new", system="other", size=5000)) == 0


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", CLAUDE)
def test_long_questions_that_never_return_are_never_written(kind: str, door: str) -> None:
    """One-shot calls of 5,000 tokens each: not a token is written, from the first call on."""
    with agent(door, kind) as one:
        lines = [line for n in range(12) for line in one.converse(1, f"{n}", system=f"short {n}", size=5000)]
    assert written(lines) == 0 and paid(one.model, lines) == uncached(one.model, lines)


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_step_of_prompts_that_never_return(kind: str) -> None:
    """Long system prompts too, each one new. Claude: the first of all is written, on a guess. OpenAI, whose habit is to
    write: once eight were seen, none is."""
    with library(kind) as (guard, one), guard.step("classify"):
        lines = [line for n in range(24) for line in one.converse(1, f"{n}", system=words(6000, f"rule{LETTERS[n]}"))]
    assert sum(written([line]) > 0 for line in lines) == (1 if kind in CLAUDE else 8)
    assert written(lines[8:]) == 0 and paid(one.model, lines[8:]) == uncached(one.model, lines[8:])


@pytest.mark.parametrize("kind", CLAUDE)
def test_nameless_steps_of_prompts_that_never_return(kind: str) -> None:
    """Each is a new step, and a new guess, until the tenant's new steps have taught better."""
    with agent("library", kind) as one:
        lines = [line for n in range(24) for line in one.converse(1, f"{n}", system=words(6000, f"rule{LETTERS[n]}"))]
        assert len({row.step for row in one.ledger()}) == 24
    assert 0 < sum(written([line]) > 0 for line in lines) <= 12 and written(lines[12:]) == 0


# --- what is known, and from where


@pytest.mark.parametrize("kind", CLAUDE)
def test_a_restart_knows_what_the_ledger_knows(kind: str, tmp_path: Path) -> None:
    """Rows of calls that were sent without any marks teach as well: the first call marked is marked right."""
    clock, lines = Clock(), list[Line]()
    for steps in ((), AUTO):
        store = SqliteStore(tmp_path / "books.db")
        with SandboxServer(Settings(clock=clock)) as sandbox, guard_on(store, clock, steps) as guard:
            one = through(guard, kind, sandbox, clock)
            lines = one.converse(5, "again" if steps else "before")
            clock.now += HOUR
    assert buckets(lines[0]).keys() == {"cache_write_5m"}
    assert paid(one.model, lines) <= 1.005 * best(one.model, lines)


class Asked(MemoryStore):
    """Counts how often habits are read."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Any] = []

    def recent(self, *site: Any) -> list[Entry]:
        self.reads.append(site[:2])
        if self.fails:
            raise StoreFailure("the disk is gone: look after it")
        return super().recent(*site)


def test_many_first_calls_at_once_read_the_ledger_once() -> None:
    """Blocking and asyncio: whoever comes first reads for all, and nobody waits on the event loop."""
    clock, store = Clock(), Asked()
    text: Any = [{"role": "user", "content": "hi"}]
    with SandboxServer(Settings(clock=clock)) as sandbox, guard_on(store, clock) as guard:
        http = guard.http_client("httpx2", verify=TLS)
        client = Anthropic(api_key="k", base_url=sandbox.url, http_client=http)

        def ask(n: int) -> None:
            client.messages.create(model="claude-haiku-4-5", max_tokens=10, system=SYSTEM, messages=text)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(16)))
        assert len(store.reads) == 2 and store.reads[1] == ("default", None)

        async def crowd() -> None:
            web = guard.http_client("httpx2", asynchronous=True, verify=TLS)
            async with AsyncAnthropic(api_key="k", base_url=sandbox.url, http_client=web) as peer:
                more = {"model": "claude-haiku-4-5", "max_tokens": 10, "system": words(6000, "law"), "messages": text}
                await asyncio.gather(*[peer.messages.create(**more) for _ in range(16)])

        asyncio.run(crowd())
        assert len(store.reads) == 3, "the tenant's are known"
        assert {row.status for row in rows(guard)} == {"completed"}


class Slow(MemoryStore):
    """Its history is not read before it may be."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may = threading.Event(), threading.Event()

    def recent(self, *site: Any) -> list[Entry]:
        self.asked.set()
        assert self.may.wait(15)
        return super().recent(*site)


def test_a_caller_who_leaves_while_the_history_is_read_leaves_nothing() -> None:
    """Cancelled on the event loop: nothing is sent, no row stays open, and the loop has not waited."""
    clock, store = Clock(), Slow()

    async def leave(guard: bursar.Guard, url: str) -> None:
        web = guard.http_client("httpx2", asynchronous=True, verify=TLS)
        async with AsyncAnthropic(api_key="k", base_url=url, http_client=web) as client:
            text: Any = [{"role": "user", "content": "hi"}]
            call = asyncio.ensure_future(
                client.messages.create(model="claude-haiku-4-5", max_tokens=10, system=SYSTEM, messages=text)
            )
            await asyncio.to_thread(store.asked.wait, 15)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            store.may.set()

    with SandboxServer(Settings(clock=clock)) as sandbox, guard_on(store, clock) as guard:
        asyncio.run(leave(guard, sandbox.url))
        assert rows(guard) == [] and sandbox.requests == []


def test_a_ledger_that_cannot_be_read_is_no_history() -> None:
    """The call goes its way."""
    clock, store = Clock(), Asked()
    store.fails = True
    with SandboxServer(Settings(clock=clock)) as sandbox, guard_on(store, clock) as guard:
        one = through(guard, "haiku", sandbox, clock)
        lines = one.converse(5, "today")
    assert paid(one.model, lines) <= 0.4 * uncached(one.model, lines)


def test_an_error_teaches_nothing() -> None:
    """A refused call and its repetition are no returning prompt: only what was answered is learned from."""
    with agent("library", "haiku") as one:
        client = one.client()
        fault = {"x-sandbox-fault": "500"}
        for n in range(6):
            text: Any = [{"role": "user", "content": f"{n}" + words(5000, "word")}]
            for headers in (fault, {}):
                with pytest.raises(InternalServerError) if headers else nullcontext():
                    client.messages.create(model=one.model, max_tokens=10, messages=text, extra_headers=headers)
        assert [row.status for row in one.ledger()].count("failed") == 6
        assert not any(map(marks_in, one.sent()))


# --- what is left alone


@pytest.mark.parametrize("door", DOORS)
def test_off_is_the_default_and_changes_no_byte(door: str) -> None:
    """Without the step's word nothing is added, and nothing is read."""
    with agent(door, "haiku", ()) as one:
        one.converse(3, "today")
        assert not any(map(marks_in, one.sent()))
        assert all("prompt_cache" not in json.dumps(body) for body in one.sent())


@pytest.mark.parametrize("door", DOORS)
def test_a_callers_own_markers_stay_alone(door: str) -> None:
    """Not one is added to a body that has some, however well its prompts return."""
    with agent(door, "haiku") as one:
        client = one.client()
        system: Any = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
        for n in range(4):
            text: Any = [{"role": "user", "content": f"question {n}"}]
            client.messages.create(model=one.model, max_tokens=10, system=system, messages=text)
        assert [marks_in(body) for body in one.sent()] == [1] * 4
        assert [body["system"] for body in one.sent()] == [system] * 4


@pytest.mark.parametrize("door", DOORS)
def test_a_streamed_conversation_is_marked_alike(door: str) -> None:
    """The stream's usage teaches, and is booked at its prices."""
    with agent(door, "sonnet") as one:
        client = one.client()
        said: list[Any] = []
        for n in range(5):
            said.append({"role": "user", "content": f"{n}" + words(380, "word")})
            with client.messages.stream(model=one.model, max_tokens=100, system=SYSTEM, messages=said) as stream:
                said.append({"role": "assistant", "content": stream.get_final_text()})
            one.clock.now += 20
        lines, booked = one.sandbox.bill.lines, one.ledger()
        assert paid(one.model, lines) <= 1.05 * best(one.model, lines)
        assert [row.cost_nanos for row in booked] == [line.nanos for line in lines]


def test_a_final_answer_without_tools_writes_no_messages() -> None:
    """Entries of messages hang on tool_choice: what is written beside "none" would never be read."""
    system, tools, one = Block("system", b"s" * 40), Block("tools", b"t" * 40), Block("message", b"m" * 40)
    marks = Marks((Mark(0, "1h"), Mark(1, "5m"), Mark(2, "5m")), covered=30)

    def narrowed(*blocks: Block, **more: Any) -> Marks | None:
        asked = call("messages", blocks=blocks)
        plan = Plan("anthropic", "claude-haiku-4-5", marks=marks, **more)
        return marking.narrowed(plan, book.opening(asked, plan, 1, T0, Policy(prices=PRICES))).marks

    fronts = sum(estimate.tokens(estimate.weigh(block.raw)) for block in (tools, system))
    assert narrowed(tools, system, one, tools_off=True) == Marks((Mark(0, "1h"), Mark(1, "5m")), covered=fronts)
    assert narrowed(tools, system, one) is marks
    assert narrowed(system, one, one, tools_off=True) is marks, "there are no tools to take away"


def test_a_lifetime_of_ours_is_booked_where_the_answer_does_not_tell_it() -> None:
    """Without the split of Anthropic's usage what was written goes by the marks that asked for it."""
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 0, "output_tokens": 1}
    answer = json.dumps({"type": "message", "id": "m", "model": "m", "usage": usage, "stop_reason": "end_turn"})
    for ttls, bucket in ((("1h",), "cache_write_1h"), (("5m",), "cache_write_5m"), ((), "cache_write_5m")):
        marks = Marks(tuple(Mark(0, ttl) for ttl in ttls))  # type: ignore[arg-type]
        read = of("messages").read(answer.encode(), wire_marks.as_sent(View(model="m"), marks), ())
        assert read.usage is not None and read.usage.parts[0].buckets[bucket] == 100  # type: ignore[index]


@pytest.mark.parametrize("door", DOORS)
def test_older_openai_models_get_a_steady_key(door: str) -> None:
    """One prompt_cache_key for a step's conversation, and nothing else; a caller's own stays."""
    with agent(door, "chat") as one:
        one.model = "gpt-4o"
        one.converse(6, "today")
        http = httpx2.Client(transport=one.transport)
        client = OpenAI(api_key="k", base_url=one.url + "/v1", http_client=http, max_retries=0)
        text: Any = [{"role": "user", "content": "hi"}]
        client.chat.completions.create(model=one.model, messages=text, prompt_cache_key="mine")
        *sent, last = one.sent()
    (key,) = {body["prompt_cache_key"] for body in sent}
    assert key.startswith("bursar-") and last["prompt_cache_key"] == "mine"
    assert not any("breakpoint" in json.dumps(body) or "options" in json.dumps(body) for body in sent)


# --- what is held


def test_a_hold_covers_the_dearest_marker() -> None:
    """Law 3: the hour's premium is held where a marker asks for it, and only there."""
    body = json.dumps({"model": "claude-haiku-4-5", "max_tokens": 10, "messages": []}).encode()
    asked = msgspec.structs.replace(call("messages"), view=of("messages").view(body, "/v1/messages", ()), body=body)
    limits = (Budget(name="b", scope="tenant", limit_nanos=10**12),)
    policy = Policy(prices=PRICES, budgets=limits)
    card = PRICES.card("anthropic", "claude-haiku-4-5", Terms(), T0)
    assert isinstance(card, Card)
    cases: tuple[tuple[Marks | None, Bucket], ...] = (
        (None, "cache_write_5m"),
        (Marks((Mark(0, "5m"),)), "cache_write_5m"),
        (Marks((Mark(0, "1h"), Mark(1, "5m"))), "cache_write_1h"),
    )
    for marks, bucket in cases:
        plan = Plan("anthropic", "claude-haiku-4-5", marks=marks)
        entry = book.held(book.opening(asked, plan, 1, T0, policy), asked, plan, policy)
        rate = card.rates[bucket]
        assert entry.hold_nanos == -(-(entry.input_estimate or 0) * rate // 10**6) + 10 * card.rates["output"] // 10**6
        ask = budget.ask(asked, plan, entry, budget.Rung((plan,), clamp=True), 0, Ratios(), policy)
        assert not isinstance(ask, Refused) and ask.input_cost == ask.input_tokens * rate


def test_slow_turns_are_written_for_an_hour_and_held_for_it() -> None:
    """Ten minutes apart: once that is known an hour is paid for, and no row costs more than it held."""
    budgets = (Budget(name="all", scope="tenant", limit_nanos=10**12),)
    with agent("library", "haiku", budgets=budgets) as one:
        for n in range(4):
            one.converse(6, f"learn {n}", gap_s=600)
        lines = one.converse(8, "now", gap_s=600)
        booked = one.ledger()
    assert "cache_write_5m" not in lines[-1].usage and lines[-1].usage["cache_read"] > 6000
    assert paid(one.model, lines) < 0.5 * uncached(one.model, lines)
    assert all(row.charges and (row.cost_nanos or 0) <= row.charges[0].nanos for row in booked)
