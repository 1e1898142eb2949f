"""Marks for the provider's prompt cache: spliced in without touching content, and what they save on a real bill."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.policy import Card
from bursar.rules import digest
from bursar.rules.cards import compile_book
from bursar.rules.prompt.habits import Habits, Row, observe
from bursar.rules.prompt.known import rules_of
from bursar.rules.prompt.place import place
from bursar.sandbox import SandboxServer, Settings
from bursar.sandbox.bill import Line
from bursar.sandbox.messages import read as sandbox_read
from bursar.types import Api, Instant, Mark, Marks, Terms, View
from bursar.wire import marks
from bursar.wire.dialect import Dialect, dialect_of, of
from library_kit import TLS
from prompt_kit import HOUR, KINDS, SYSTEM, Clock, best, buckets, paid, uncached, words

PRICES = compile_book({}, {})


class Marking(httpx2.BaseTransport):
    """Does by hand what the engine is to do: place before a call, observe after it."""

    def __init__(self, clock: Clock, provider: str, *, on: bool = True, cold: int = 0) -> None:
        self.cold = cold
        self.inner = httpx2.HTTPTransport(verify=TLS)
        self.clock, self.provider, self.on = clock, provider, on
        self.habits = Habits()
        self.sent: list[Marks] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        dialect = dialect_of(request.method, request.url.path)
        assert dialect is not None
        body = request.read()
        view = dialect.view(body, request.url.path, ())
        at = Instant(int(self.clock() * 1_000_000))
        packed, _ = digest.pack(view.blocks, b"key")
        row = Row(at=at, api=dialect.api, provider=self.provider, model=view.model, blocks=packed)
        chosen = self._place(row, dialect.api, body) if self.on else Marks()
        self.sent.append(chosen)
        headers = [(key, value) for key, value in request.headers.raw if key.lower() != b"content-length"]
        marked = marks.apply(dialect.api, body, chosen)
        sent = httpx2.Request(request.method, request.url, headers=headers, content=marked)
        answer = self.inner.handle_request(sent)
        told = dialect.read(answer.read(), view, ()).usage
        assert told is not None
        usage = {
            "input_tokens": told.input_tokens,
            "cached_tokens": told.cached_tokens,
            "cache_write_tokens": told.cache_write_tokens,
        }
        self.habits = observe(self.habits, msgspec.structs.replace(row, **usage, marks=chosen))
        return answer

    def _place(self, row: Row, api: Api, body: bytes) -> Marks:
        card = PRICES.card(self.provider, row.model or "", Terms(), row.at)
        assert isinstance(card, Card)
        rules = rules_of(api, row.model)
        return place(row, marks.spots(api, body), self.habits, card.rates, rules, site="agent", cold=self.cold)


class Sim:
    """An agent at a provider of its own, with the markers on or off."""

    def __init__(self, kind: str, server: SandboxServer, clock: Clock, *, on: bool = True, cold: int = 0) -> None:
        server.app.reset()
        provider, self.model, make = KINDS[kind]
        self.clock, self.server = clock, server
        self.marking = Marking(clock, provider, on=on, cold=cold)
        self.turn = make(server.url, self.marking)

    def converse(
        self, turns: int, name: str, *, system: str = SYSTEM, gap_s: float = 20, size: int = 380
    ) -> list[Line]:
        """The bill of a conversation: each turn adds what was answered and a question, 500 tokens at most."""
        said: list[Any] = []
        start = len(self.server.bill.lines)
        for n in range(turns):
            self.turn(system, said, self.model, f"{name} {n}" + words(size, "word"))
            self.clock.now += gap_s
        return self.server.bill.lines[start:]

    def paid(self, lines: list[Line]) -> int:
        return paid(self.model, lines)

    def uncached(self, lines: list[Line]) -> int:
        return uncached(self.model, lines)

    def best(self, lines: list[Line]) -> int:
        return best(self.model, lines)


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server(clock: Clock) -> Iterator[SandboxServer]:
    with SandboxServer(Settings(clock=clock)) as server:
        yield server


# --- the bill


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_with_a_long_system_prompt_pays_a_fraction(kind: str, server: SandboxServer, clock: Clock) -> None:
    """6,000 tokens of system prompt, at most 500 new ones a turn, once its habits are known: 60 % less input cost over
    five turns, 80 % over twenty, never more than without, and within 5 % of the best.
    """

    def day(on: bool) -> tuple[Sim, list[Line]]:
        sim = Sim(kind, server, clock, on=on)
        for n in range(2):
            sim.converse(5, f"yesterday {n}")
            clock.now += 2 * HOUR
        return sim, sim.converse(20, "today")

    _, off = day(False)
    sim, on = day(True)
    sizes = [sum(buckets(line).values()) for line in on]
    assert sizes == [sum(buckets(line).values()) for line in off], "the content is the same"
    assert 6000 < sizes[0] <= 6500 and all(later - size <= 500 for size, later in itertools.pairwise(sizes))
    assert sim.paid(on[:5]) <= 0.4 * sim.uncached(on[:5]) and sim.paid(on[:5]) <= sim.paid(off[:5])
    assert sim.paid(on) <= 0.2 * sim.uncached(on) and sim.paid(on) <= sim.paid(off)
    assert sim.paid(on[:5]) <= 1.05 * sim.best(on[:5]) and sim.paid(on) <= 1.05 * sim.best(on)


@pytest.mark.parametrize("kind", ["haiku", "sonnet"])
def test_a_guess_at_the_first_call_reaches_the_same_without_history(
    kind: str, server: SandboxServer, clock: Clock
) -> None:
    """Nothing known and the system prompt marked on a guess: 60 % over five turns, 80 % over twenty."""
    sim = Sim(kind, server, clock, cold=500_000)
    lines = sim.converse(20, "today")
    assert sim.paid(lines[:5]) <= 0.4 * sim.uncached(lines[:5]) and sim.paid(lines) <= 0.2 * sim.uncached(lines)


@pytest.mark.parametrize("kind", KINDS)
def test_one_shot_calls_pay_no_write_premium(kind: str, server: SandboxServer, clock: Clock) -> None:
    """Prompts that never return, long enough to be cached: not one token is written once that is known."""
    sim = Sim(kind, server, clock)
    for n in range(18):
        sim.converse(1, f"learn {n}", system=words(4200, f"a{n}"))
    lines = [line for n in range(5) for line in sim.converse(1, f"one {n}", system=words(4200, f"b{n}"))]
    assert all(set(buckets(line)) == {"input"} for line in lines) and sim.paid(lines) == sim.uncached(lines)


@pytest.mark.parametrize("kind", ["sonnet", "responses"])
def test_a_shared_prompt_with_one_shot_questions(kind: str, server: SandboxServer, clock: Clock) -> None:
    """The system prompt is read, the questions are not written."""
    sim = Sim(kind, server, clock)
    for n in range(18):
        sim.converse(1, f"learn {n}")
    line = sim.converse(1, "now")[0]
    if kind == "sonnet":
        assert buckets(line).keys() == {"cache_read", "input"} and buckets(line)["cache_read"] == 6000
    else:  # instructions take no breakpoint: what cannot be marked is not written either
        assert buckets(line).keys() == {"input"}


def test_an_hour_for_slow_conversations(server: SandboxServer, clock: Clock) -> None:
    """Turns ten minutes apart outlive five minutes: they are written for an hour, and that pays."""
    sim = Sim("haiku", server, clock)
    for n in range(4):
        sim.converse(6, f"learn {n}", gap_s=600)
    lines = sim.converse(8, "now", gap_s=600)
    assert "cache_write_5m" not in lines[-1].usage and lines[-1].usage["cache_read"] > 6000
    assert sim.paid(lines) < 0.5 * sim.uncached(lines)


def test_a_turn_of_many_blocks_still_finds_the_old_end(server: SandboxServer, clock: Clock) -> None:
    """Thirty content blocks in one message are beyond a marker's look-back: the old end keeps a marker."""
    sim = Sim("sonnet", server, clock)
    for n in range(2):
        sim.converse(5, f"learn {n}")
    said: list[Any] = []
    sim.turn(SYSTEM, said, sim.model, "first" + words(300, "word"))
    many: Any = [{"type": "text", "text": f"result {n}"} for n in range(30)]
    sim.turn(SYSTEM, said, sim.model, many)
    first, second = server.bill.lines[-2:]
    assert second.usage["cache_read"] >= sum(buckets(first).values())


# --- the bytes

WORDS = st.sampled_from(["hi", "é \u00e9", 'say "cache_control": {}', "\\u0061", " ", "", "\n", "x" * 50])
TEXT = WORDS.map(lambda text: {"type": "text", "text": text})
IMAGE = st.just({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}})
USE = st.just({"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1.50, None]}})
RESULT = WORDS.map(
    lambda text: {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]}
)
THOUGHT = st.just({"type": "thinking", "thinking": "hm", "signature": "s"})
PARTS = {
    "messages": st.one_of(TEXT, IMAGE, USE, RESULT, THOUGHT),
    "chat": st.one_of(TEXT, st.just({"type": "image_url", "image_url": {"url": "u"}})),
    "responses": st.one_of(
        WORDS.map(lambda text: {"type": "input_text", "text": text}),
        WORDS.map(lambda text: {"type": "output_text", "text": text}),
    ),
}
TOOL = {
    "messages": {"name": "f", "input_schema": {"type": "object"}},
    "chat": {"type": "function", "function": {"name": "f"}},
    "responses": {"type": "function", "name": "f", "parameters": {}},
}
BULK = {"messages": "messages", "chat": "messages", "responses": "input"}


@st.composite
def bodies(draw: st.DrawFn, api: str) -> dict[str, Any]:
    contents = st.one_of(WORDS, st.lists(PARTS[api], max_size=3))
    roles = st.sampled_from(["user", "assistant", "system"])
    items: st.SearchStrategy[Any] = st.builds(lambda role, content: {"role": role, "content": content}, roles, contents)
    if api == "responses":
        items = items | st.just({"type": "function_call_output", "call_id": "c", "output": "o"})
    body: dict[str, Any] = {"model": "m"}
    if draw(st.booleans()):
        body["tools"] = [TOOL[api]] * draw(st.integers(0, 3))
    front = {"messages": "system", "responses": "instructions"}.get(api)
    if front and draw(st.booleans()):
        body[front] = draw(WORDS if api == "responses" else WORDS | st.lists(TEXT, max_size=2))
    body[BULK[api]] = draw(st.lists(items, min_size=1, max_size=4))
    if api == "responses" and draw(st.booleans()):
        body["input"] = draw(WORDS)
    body.update(draw(st.fixed_dictionaries({}, optional={"temperature": st.just(1.50), "max_tokens": st.just(9)})))
    return body


def unmarked(value: Any) -> Any:
    """The parsed body without marks, a text that became one part a text again. Pairs in order: no key may move."""
    if isinstance(value, list):
        return [unmarked(item) for item in value]
    if not isinstance(value, tuple):
        return value
    pairs = [(key, item) for key, item in value if key not in ("cache_control", "prompt_cache_breakpoint")]
    return tuple(
        (key, unmarked(item)) for key, item in pairs if key not in ("prompt_cache_options", "prompt_cache_key")
    )


def plain(value: Any) -> Any:
    """Texts and arrays of one text told apart no more."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, tuple):
        return value
    return tuple((key, plain(_as_parts(key, item))) for key, item in value)


def _as_parts(key: str, item: Any) -> Any:
    if key in ("content", "system") and isinstance(item, str):
        return [(("type", "text"), ("text", item))]
    return item


def parsed(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=tuple)


def written(body: Any, indent: int | None, ascii_only: bool) -> bytes:
    separators = (",", ":") if indent is None else None
    return json.dumps(body, indent=indent, ensure_ascii=ascii_only, separators=separators).encode()


def is_within(short: bytes, long: bytes) -> bool:
    """All bytes of the short one stand in the long one, in their order."""
    rest = iter(long)
    return all(byte in rest for byte in short)


@pytest.mark.parametrize("api", list(BULK))
@settings(max_examples=120, deadline=None)
@given(data=st.data(), indent=st.sampled_from([None, None, 1]), ascii_only=st.booleans())
def test_marks_change_no_byte_of_content(api: Api, data: st.DataObject, indent: int | None, ascii_only: bool) -> None:
    """Without the marks the body is the caller's; it stays readable, block by block; each mark stands at its block."""
    body = written(data.draw(bodies(api)), indent, ascii_only)
    seen = view(of(api), body)
    spots = marks.spots(api, body)
    content = [block for block in seen.blocks if block.kind in ("tools", "system", "message")]
    assert len(spots) == len(content) and seen.blocks[: len(content)] == tuple(content)
    able = [number for number, spot in enumerate(spots) if spot.takes]
    chosen = sorted(data.draw(st.sets(st.sampled_from(able), max_size=4))) if able else []
    found = Marks(tuple(Mark(number, "5m") for number in chosen), explicit=data.draw(st.booleans()))
    marked = marks.apply(api, body, found)
    if not chosen and not (found.explicit and api != "messages"):
        assert marked is body
    assert is_within(body, marked)
    if api == "responses" and isinstance(json.loads(body)["input"], str) and chosen:
        assert json.loads(marked)["input"][0]["content"][0]["text"] == json.loads(body)["input"]
        return
    same, was = (parsed(raw.replace(b'"input_text"', b'"text"')) for raw in (marked, body))
    assert plain(unmarked(same)) == plain(was)
    where = [n for n, raw in enumerate(raw_blocks(api, marked)) if any(mark in raw for mark in MARKED)]
    assert where == chosen
    assert marks.spots(api, marked) == (() if marked is not body else spots), "now the marks are somebody's own"


MARKED = ('"cache_control":{"type":"ephemeral"}', '"prompt_cache_breakpoint":{"mode":"explicit"}')


def view(dialect: Dialect, body: bytes) -> View:
    return dialect.view(body, "/x", ())


def raw_blocks(api: str, body: bytes) -> list[str]:
    """The blocks as they stand in a body, marks and all, told apart by another parser."""
    found = json.loads(body)
    fronts = [found[key] for key in ("tools", "functions", "system", "instructions") if key in found]
    bulk = found[BULK[api]]
    return [written(block, None, True).decode() for block in [*fronts, *(bulk if isinstance(bulk, list) else [bulk])]]


@settings(max_examples=120, deadline=None)
@given(body=bodies("messages"), indent=st.sampled_from([None, 2]))
def test_the_provider_finds_each_mark_where_the_count_of_parts_says(body: dict[str, Any], indent: int | None) -> None:
    """The sandbox's own reading: a mark at the end of block i is on content block parts(0..i) - 1."""
    raw = written(body, indent, True)
    spots = marks.spots("messages", raw)
    if not all(spot.takes for spot in spots):
        return
    chosen = tuple(Mark(number, "1h") for number in range(len(spots)))[-4:]
    ask = sandbox_read({**json.loads(marks.apply("messages", raw, Marks(chosen))), "model": "m", "max_tokens": 5})
    ends = list(itertools.accumulate(spot.parts for spot in spots))
    assert [n for n, block in enumerate(ask.blocks) if block.mark] == [ends[mark.block] - 1 for mark in chosen]
    assert {block.mark for block in ask.blocks if block.mark} == {"cache_write_1h"}


HI: Any = [{"role": "user", "content": "hi"}]
OWN: list[tuple[Api, dict[str, Any]]] = [
    ("messages", {"messages": HI, "cache_control": {"type": "ephemeral"}}),
    ("messages", {"messages": HI, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]}),
    ("messages", {"messages": HI, "tools": [{"name": "f", "input_schema": {}, "cache_control": None}]}),
    ("chat", {"messages": HI, "prompt_cache_options": {"mode": "implicit"}}),
    ("chat", {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}]}]}),
    ("responses", {"input": HI, "previous_response_id": "r"}),
    ("responses", {"input": HI, "conversation": {"id": "c"}}),
    ("responses", {"input": HI, "prompt": {"id": "p"}}),
    ("embeddings", {"input": "hi"}),
    ("gemini", {"contents": []}),
]  # fmt: skip


@pytest.mark.parametrize(("api", "body"), OWN)
def test_a_callers_own_marks_are_never_touched(api: Api, body: dict[str, Any]) -> None:
    """Where the caller steers the cache himself, or the provider keeps the input, nothing at all is added."""
    raw = written(body, None, True)
    assert marks.spots(api, raw) == ()
    assert marks.apply(api, raw, Marks((Mark(0, "5m"),), explicit=True, key="k")) is raw


UNMARKABLE: list[tuple[Api, dict[str, Any]]] = [
    ("messages", {"system": "", "messages": [{"role": "user", "content": "\n"}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}),
    ("messages", {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}]}]}),
    ("messages", {"messages": [], "tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}),
    ("chat", {"messages": [{"role": "assistant", "content": None, "tool_calls": []}], "tools": [{"type": "function"}]}),
    ("chat", {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]}),
    ("responses", {"instructions": "s", "input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}),
    ("responses", {"input": [{"role": "assistant", "content": "said"}, {"type": "reasoning", "summary": []}]}),
]


@pytest.mark.parametrize(("api", "body"), UNMARKABLE)
def test_what_takes_no_mark_gets_none(api: Api, body: dict[str, Any]) -> None:
    """Empty texts, thinking, tools loaded later, what the types know no breakpoint for: the provider would refuse."""
    raw = written(body, None, True)
    found = marks.spots(api, raw)
    assert found and not any(spot.takes for spot in found)
    assert marks.apply(api, raw, Marks((Mark(0, "5m"),))) is raw


def test_a_name_spelled_with_escapes_is_still_the_callers() -> None:
    """JSON allows it, and a provider would read it."""
    raw = b'{"messages":[{"role":"user","content":"hi"}],"cache\\u005fcontrol":{"type":"ephemeral"}}'
    assert marks.apply("messages", raw, Marks((Mark(0, "5m"),))) is raw


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"messages":1}', b'{"messages":[1,{"role":[]}]}', b'{"messages":"x"}']
)
def test_what_cannot_be_read_is_left_alone(raw: bytes) -> None:
    """No mark on what is no content, no exception."""
    for api in ("messages", "chat", "responses"):
        assert not any(spot.takes for spot in marks.spots(api, raw))
        assert marks.apply(api, raw, Marks(tuple(Mark(n, "5m") for n in range(4)))) is raw


def test_marks_are_spelled_as_the_providers_want_them() -> None:
    """To the byte."""
    raw = b'{"system":"s","messages":[{"role":"user","content":"a"}, '
    raw += b'{"role":"user","content":[{"type":"text","text":"b"}]}]}'
    assert marks.apply("messages", raw, Marks((Mark(0, "1h"), Mark(2, "5m")))) == (
        b'{"system":[{"cache_control":{"type":"ephemeral","ttl":"1h"},"type":"text","text":"s"}],'
        b'"messages":[{"role":"user","content":"a"}, {"role":"user","content":'
        b'[{"cache_control":{"type":"ephemeral"},"type":"text","text":"b"}]}]}'
    )
    raw = b'{"input":"a"}'
    assert marks.apply("responses", raw, Marks((Mark(0, "30m"),), explicit=True)) == (
        b'{"prompt_cache_options":{"mode":"explicit"},"input":[{"role":"user","content":'
        b'[{"prompt_cache_breakpoint":{"mode":"explicit"},"type":"input_text","text":"a"}]}]}'
    )
    raw = b'{"messages":[]}'
    assert marks.apply("chat", raw, Marks(key="k")) == b'{"prompt_cache_key":"k","messages":[]}'
    raw = b'{"messages":[],"prompt_cache_key":"mine"}'
    assert marks.apply("chat", raw, Marks(key="k")) is raw
