"""Answers that are read whole to be judged: the caller has, later, what he would have had, and a validator can see it.

Real SDKs, both doors, every dialect that streams; and who leaves while an answer is held back.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

import library_kit as kit
from attempts import planned
from bursar.doors.library.transport import Sending
from bursar.rules import retry
from bursar.sandbox import SandboxServer, Settings, Step, Task
from bursar.types import Abandoned, Answer, Call, Completed, Failed, Plan, ToolCall
from gateways import Running, running
from test_crossed import CLAUDE, GPT, KEYS, crossed

TRIP = {"city": "Oslo", "days": 2}
SURE = {"small": 1.0}
TASKS = (
    Task(kind="tools", match="plan it", right="Done.", tool_plan=(Step("get_weather", TRIP),), odds=SURE),
    Task(kind="chat", match="count", right="one two three four", odds=SURE),
)  # fmt: skip
WEATHER: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
COUNT, PLAN = kit.said("count"), kit.said("plan it")
MODELS = {"chat": GPT, "responses": GPT, "messages": CLAUDE, "gemini": "gemini-2.5-flash"}
PROVIDERS = {"chat": "openai", "responses": "openai", "messages": "anthropic", "gemini": "gemini"}


def held(call: Call, **more: Any) -> Plan:
    asks = call.api == "chat" and call.view.stream and not call.view.wants_usage
    provider = call.provider or PROVIDERS[call.api]
    return Plan(provider, call.view.model, call.view.model, add_usage=asks, judged=True, **more)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Settings(tasks=TASKS, clock=lambda: 1_795_000_000.0), credentials=KEYS) as gateway:
        yield gateway


def asked(gw: Running, api: str, said: Any, stream: bool) -> Any:
    """What the SDK makes of the answer, as plain data without ids."""
    if api == "chat":
        found: Any = gw.openai().chat.completions.create(model=GPT, messages=said, stream=stream)
    elif api == "responses":
        found = gw.openai().responses.create(model=GPT, input=said, stream=stream)
    elif api == "messages":
        found = gw.anthropic().messages.create(model=CLAUDE, max_tokens=99, messages=said, stream=stream)
    else:
        client = gw.gemini()
        ask: Any = client.models.generate_content_stream if stream else client.models.generate_content
        found = ask(model=MODELS[api], contents=said[0]["content"])
    parts = list(found) if stream else [found]
    return [_bare(part.model_dump(mode="json")) for part in parts]


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        mine = ("id", "item_id", "response_id", "sdk_http_response")
        return {key: _bare(one) for key, one in value.items() if key not in mine}
    return [_bare(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", sorted(MODELS))
def test_the_caller_has_what_he_would_have_had(
    server: Running, monkeypatch: pytest.MonkeyPatch, api: str, stream: bool
) -> None:
    """Event by event as relayed, hidden usage hidden too; the validator reads the text; the books agree."""
    server.fresh()
    plain = asked(server, api, COUNT, stream)
    outcomes = planned(monkeypatch, held)
    assert asked(server, api, COUNT, stream) == plain
    (outcome,) = outcomes
    assert isinstance(outcome, Completed) and outcome.body and outcome.keepable is None
    finish = {"chat": "stop", "responses": "completed", "messages": "end_turn", "gemini": "stop"}[api]
    assert outcome.answer == Answer(text="one two three four", finish_reason=finish)
    assert server.cost() == server.sandbox.bill.total_nanos() > 0
    assert [row.status for row in server.rows(2)] == ["completed"] * 2


def test_calls_of_tools_are_seen(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of a stream as out of a whole answer, crossed or not."""
    outcomes = planned(monkeypatch, held)
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
    ask = server.openai().chat.completions.create
    for stream in (False, True):
        found: Any = ask(model=GPT, messages=PLAN, tools=[tool], stream=stream)
        list(found)
    crossing = planned(monkeypatch, lambda call: crossed(call, judged=True))
    for stream in (False, True):
        found = ask(model=CLAUDE, messages=PLAN, tools=[tool], stream=stream)
        list(found)
    for outcome in (*outcomes, *crossing):
        assert isinstance(outcome, Completed) and outcome.answer is not None
        (call,) = outcome.answer.tool_calls
        assert call == ToolCall("get_weather", call.arguments) and json.loads(call.arguments) == TRIP
    assert {o.answer.finish_reason for o in crossing if isinstance(o, Completed) and o.answer} == {"tool_use"}
    assert len(outcomes) == len(crossing) == 2


def test_a_crossed_stream_is_held_back(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Translated whole, with its own content type and a length; kept as well as judged where both are asked for."""
    outcomes = planned(monkeypatch, lambda call: crossed(call, judged=True, keep=b"k"))
    answer = server.post(
        "/v1/chat/completions", {"model": CLAUDE, "messages": COUNT, "stream": True}, {"authorization": "Bearer k"}
    )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.text.endswith("data: [DONE]\n\n") and '"usage"' not in answer.text
    with server.anthropic().messages.stream(model=GPT, max_tokens=99, messages=COUNT) as told:
        assert told.get_final_text() == "one two three four"
    for outcome in outcomes:
        assert isinstance(outcome, Completed) and outcome.keepable and outcome.answer
        assert json.loads(outcome.keepable)["usage"] and outcome.answer.text == "one two three four"


@pytest.mark.parametrize("purpose", ["audit", "judge"])
def test_a_stream_that_is_asked_for_again(server: Running, monkeypatch: pytest.MonkeyPatch, purpose: str) -> None:
    """An audit or a sample of a streaming call is metered and judged like the call itself, and given to nobody."""
    server.fresh()
    outcomes = planned(monkeypatch, held, purpose=purpose)
    list(server.openai().chat.completions.create(model=GPT, messages=COUNT, stream=True))
    (outcome,) = outcomes
    assert isinstance(outcome, Completed) and outcome.answer and outcome.answer.text == "one two three four"
    row = server.row()
    assert (row.purpose, row.cost_status, row.cost_nanos) == (purpose, "final", server.sandbox.bill.total_nanos())


@pytest.mark.parametrize("fault", ["error-event:3", "cut:3", "malformed:2"])
@pytest.mark.parametrize("way", [held, crossed])
def test_what_breaks_while_it_is_held_back_may_be_tried_again(
    server: Running, monkeypatch: pytest.MonkeyPatch, fault: str, way: Any
) -> None:
    """Nobody has had a byte: an error, not a broken stream. What was read by then is booked."""
    server.fresh()
    outcomes = planned(monkeypatch, (lambda call: crossed(call, judged=True)) if way is crossed else held)
    ask = {"model": GPT, "messages": COUNT, "stream": True}
    headers = {"authorization": "Bearer k", "x-sandbox-fault": fault}
    answer = server.post("/v1/chat/completions", ask, headers)
    (outcome,) = outcomes
    row = server.row()
    if fault.startswith("malformed") and way is held:  # passed on as it is: the SDK will say so
        assert isinstance(outcome, Completed) and outcome.answer is None
        return
    assert isinstance(outcome, Failed) and not outcome.relayed and retry.retryable(outcome)
    assert answer.status_code == 502 and answer.json()["error"]["message"]
    assert row.status == "failed" and row.output_tokens and row.cost_nanos


# The library


@pytest.mark.parametrize("stream", [False, True])
def test_the_librarys_clients(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch, guard: Any, stream: bool
) -> None:
    """Sync and async SDKs read a held answer as they would a relayed one."""
    plain = _told(kit.openai(sandbox.url).chat.completions.create(model=GPT, messages=kit.ASK, stream=stream))
    outcomes = planned(monkeypatch, held)
    client = guard.wrap(kit.openai(sandbox.url))
    assert _told(client.chat.completions.create(model=GPT, messages=kit.ASK, stream=stream)) == plain

    async def main() -> Any:
        other = guard.wrap(kit.openai(sandbox.url, openai.AsyncOpenAI))
        found = await other.chat.completions.create(model=GPT, messages=kit.ASK, stream=stream)
        parts = [part async for part in found] if stream else [found]
        await other.close()
        return _told(parts)

    assert asyncio.run(main()) == plain
    assert all(isinstance(outcome, Completed) and outcome.answer for outcome in outcomes) and len(outcomes) == 2
    assert [row.status for row in kit.rows(guard)] == ["completed"] * 2


@pytest.fixture(scope="module", name="sandbox")
def provider() -> Iterator[SandboxServer]:
    with SandboxServer(Settings(tasks=TASKS, clock=lambda: 1_795_000_000.0, chunk_ms=2)) as one:
        yield one


def _told(found: Any) -> Any:
    parts = list(found) if not hasattr(found, "choices") else [found]
    return [_bare(part.model_dump(mode="json")) for part in parts]


class Impatient(httpx2.SyncByteStream):
    """A body in whose middle, or before whose last event, somebody presses Ctrl-C."""

    def __init__(self, inner: Any, pieces: int) -> None:
        self._inner, self._left = inner, pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._inner:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            told, last, _ = piece.partition(b"data: [DONE]")
            yield told
            if last:
                raise KeyboardInterrupt

    def close(self) -> None:
        self._inner.close()


class Interrupting(httpx2.HTTPTransport):
    """Interrupts every answer after some pieces of its body."""

    pieces = 3

    def handle_request(self, request: Any) -> Any:
        answer = super().handle_request(request)
        answer.stream = Impatient(answer.stream, self.pieces)
        return answer


@pytest.mark.parametrize("pieces", [0, 3, 99])
def test_an_interrupt_while_it_is_held_back(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch, guard: Any, pieces: int
) -> None:
    """Abandoned, once, with what had been read; never complete, for nothing is to be judged for nobody."""
    monkeypatch.setattr(Interrupting, "pieces", pieces)
    outcomes = planned(monkeypatch, held)
    http = httpx2.Client(transport=Interrupting())
    client = guard.wrap(openai.OpenAI(api_key="k", base_url=sandbox.url + "/v1", max_retries=0, http_client=http))
    with pytest.raises(KeyboardInterrupt):
        client.chat.completions.create(model=GPT, messages=COUNT, stream=True)
    (outcome,) = outcomes
    (row,) = kit.rows(guard)
    assert isinstance(outcome, Abandoned) and row.status == "abandoned"
    assert row.cost_status == ("final" if pieces == 99 else "estimated")
    if pieces == 99:  # the usage had been read
        assert row.cost_nanos == sandbox.bill.lines[-1].nanos


def test_a_cancelled_task_while_it_is_held_back(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch, guard: Any
) -> None:
    """The same of a task that is cancelled between two pieces of the answer."""
    outcomes = planned(monkeypatch, held)
    before = len(sandbox.requests)

    async def main() -> None:
        client = guard.wrap(kit.openai(sandbox.url, openai.AsyncOpenAI))
        late = {"x-sandbox-fault": "slow"}
        ask = client.chat.completions.create(model=GPT, messages=kit.ASK, stream=True, extra_headers=late)
        task = asyncio.ensure_future(ask)
        while len(sandbox.requests) == before:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()

    asyncio.run(main())
    (row,) = kit.rows(guard)
    assert isinstance(outcomes[0], Abandoned) and len(outcomes) == 1 and row.status == "abandoned"


def test_an_answer_that_is_given_need_not_be_the_last_one(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch, guard: Any
) -> None:
    """A later exchange of the same call, refused and of another kind: the client has the head of the answer he gets."""
    outcomes = planned(monkeypatch, held)
    client = guard.wrap(kit.openai(sandbox.url, max_retries=0))

    first = Sending.send

    def twice(self: Any, shipment: Any) -> Any:
        found = first(self, shipment)
        bad = type(shipment)(shipment.provider, shipment.path, shipment.headers, b"{}")
        first(self, bad).close()
        return found

    monkeypatch.setattr(Sending, "send", twice)
    raw = client.chat.completions.with_raw_response.create(model=GPT, messages=COUNT, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream") and "content-length" not in raw.headers
    said = "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse())
    assert said == "one two three four" and len(outcomes) == 1
