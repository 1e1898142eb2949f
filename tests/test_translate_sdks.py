"""SDKs of one dialect served by the other provider: real clients, real sockets, the sandbox's real answers.

Between client and sandbox stands a server that does nothing but translate, in whole chunks or byte by byte.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel

from bursar.sandbox import SandboxServer, Settings, Step, Task
from bursar.types import Api, Instant
from bursar.wire import translate
from bursar.wire.dialect import of
from gateways import serving

AT = Instant(1_795_000_000_000_000)
GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TRIP = {"city": "Oslo", "days": 2}
SURE = {"small": 1.0}
TASKS = (
    Task(kind="tools", match="plan it", right="All done.", tool_plan=(Step("get_weather", TRIP),), odds=SURE),
    Task(kind="tools", match="just go", right="Gone.", tool_plan=(Step("go", {}),), odds=SURE),
    Task(kind="chat", match="count", right="one two three four", odds=SURE),
)  # fmt: skip
PLAN: Any = [{"role": "user", "content": "plan it"}]
HI: Any = [{"role": "user", "content": "Which ships lie in the harbour?"}]


class Crossing:
    """The translating server; `cut` says in which pieces it feeds a stream."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.cut = "chunks"
        self.sent: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        source: Api = "chat" if scope["path"].endswith("/chat/completions") else "messages"
        target: Api = "messages" if source == "chat" else "chat"
        model = CLAUDE if source == "chat" else GPT
        found = translate.request(body, source, target, model=model, max_output=4_000)
        if isinstance(found, translate.Refusal):
            await self._send(send, 400, [of(source).error(400, "invalid_request_error", found.reason)])
            return
        self.sent.append(json.loads(found.body))
        headers = {"authorization": "Bearer k", "x-api-key": "k", "content-type": "application/json"}
        fault = {k.decode(): v.decode() for k, v in scope["headers"] if k.startswith(b"x-sandbox")}
        view = of(source).view(body, scope["path"], ())
        async with (
            httpx.AsyncClient() as client,
            client.stream(
                "POST", self.upstream + ("/v1" if target == "chat" else "") + found.path, content=found.body,
                headers={**headers, **dict(found.headers_needed), **fault},
            ) as answer,
        ):  # fmt: skip
            if answer.status_code != 200:
                told = translate.error(await answer.aread(), answer.status_code, source, target)
                await self._send(send, answer.status_code, [told])
            elif view.stream:
                stream = translate.stream(source, target, at=AT, wants_usage=view.wants_usage)
                pieces = [stream.feed(piece) for piece in await self._pieces(answer)]
                await self._send(send, 200, [*pieces, stream.close()], b"text/event-stream")
            else:
                told_whole = translate.answer(await answer.aread(), source, target, at=AT)
                assert told_whole is not None
                await self._send(send, 200, [told_whole])

    async def _pieces(self, answer: httpx.Response) -> list[bytes]:
        chunks: list[bytes] = []
        try:
            async for chunk in answer.aiter_bytes():
                chunks.append(chunk)
        except httpx.RemoteProtocolError:
            pass  # a stream that was cut: what came is all there is
        if self.cut == "bytes":
            return [bytes([one]) for one in b"".join(chunks)]
        return chunks if self.cut == "chunks" else [b"".join(chunks)]

    async def _send(self, send: Any, status: int, parts: list[bytes], kind: bytes = b"application/json") -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        for part in parts:
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Settings(tasks=TASKS, clock=lambda: 1_795_000_000.0, retry_after_s=0.001)) as running:
        yield running


@pytest.fixture(scope="module")
def server(sandbox: SandboxServer) -> Iterator[tuple[Crossing, str]]:
    crossing = Crossing(sandbox.url)
    with serving(crossing) as (_, port):
        yield crossing, f"http://127.0.0.1:{port}"


@pytest.fixture(params=["chunks", "bytes", "one"])
def crossing(request: pytest.FixtureRequest, server: tuple[Crossing, str]) -> Crossing:
    server[0].cut = request.param
    server[0].sent.clear()
    return server[0]


@pytest.fixture(scope="module")
def oai(server: tuple[Crossing, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server[1] + "/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(server: tuple[Crossing, str]) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server[1], api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def at_home(sandbox: SandboxServer) -> Iterator[tuple[openai.OpenAI, anthropic.Anthropic]]:
    """The same providers' own clients, to compare with."""
    with (
        openai.OpenAI(base_url=sandbox.url + "/v1", api_key="k", max_retries=0) as chat,
        anthropic.Anthropic(base_url=sandbox.url, api_key="k", max_retries=0) as messages,
    ):
        yield chat, messages


def chat_tool(name: str = "get_weather", schema: Any = WEATHER) -> Any:
    return {"type": "function", "function": {"name": name, "description": "Weather", "parameters": schema}}


def claude_tool(name: str = "get_weather", schema: Any = WEATHER) -> Any:
    return {"name": name, "description": "Weather", "input_schema": schema}


class Trip(BaseModel):
    city: str
    days: int


# An OpenAI caller, served by Claude


def test_openai_text(crossing: Crossing, oai: openai.OpenAI, at_home: Any) -> None:
    """Whole, streamed and by the helper: Claude's own words, reason and counts, in the caller's shape."""
    native = at_home[1].messages.create(model=CLAUDE, max_tokens=4_000, messages=HI)
    whole = oai.chat.completions.create(model=GPT, messages=HI)
    assert whole.choices[0].message.content == native.content[0].text
    assert (whole.choices[0].finish_reason, whole.model, whole.created) == ("stop", CLAUDE, 1_795_000_000)
    assert whole.usage is not None and whole.usage.prompt_tokens == native.usage.input_tokens
    assert whole.usage.total_tokens == native.usage.input_tokens + native.usage.output_tokens
    chunks = list(oai.chat.completions.create(model=GPT, messages=HI, stream=True))
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == native.content[0].text
    with oai.chat.completions.stream(model=GPT, messages=HI, stream_options={"include_usage": True}) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.usage == whole.usage


def test_openai_tools(crossing: Crossing, oai: openai.OpenAI) -> None:
    """A call, whole and streamed, its result sent back, and the answer to that."""
    whole = oai.chat.completions.create(model=GPT, messages=PLAN, tools=[chat_tool()]).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.tool_calls and whole.message.content is None
    call: Any = whole.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", TRIP)
    with oai.chat.completions.stream(model=GPT, messages=PLAN, tools=[chat_tool()]) as events:
        seen = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
        streamed: Any = events.get_final_completion().choices[0]
    assert len(seen) > 1 and "".join(event.arguments_delta for event in seen) == call.function.arguments
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments
    assert (streamed.finish_reason, streamed.message.content) == ("tool_calls", None)
    back: Any = [*PLAN, whole.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    last = oai.chat.completions.create(model=GPT, messages=back, tools=[chat_tool()])
    assert last.choices[0].message.content == "All done."
    assert crossing.sent[-1]["messages"][-1]["content"][0]["type"] == "tool_result"


def test_openai_call_without_arguments(crossing: Crossing, oai: openai.OpenAI) -> None:
    """A call that takes nothing has arguments that are JSON, in both shapes."""
    asked: Any = {"model": GPT, "messages": [{"role": "user", "content": "just go"}]}
    tools = [chat_tool("go", {"type": "object", "properties": {}})]
    whole: Any = oai.chat.completions.create(**asked, tools=tools).choices[0].message.tool_calls
    with oai.chat.completions.stream(**asked, tools=tools) as events:
        streamed: Any = events.get_final_completion().choices[0].message.tool_calls
    assert [json.loads(calls[0].function.arguments) for calls in (whole, streamed)] == [{}, {}]


def test_openai_structured_output(crossing: Crossing, oai: openai.OpenAI) -> None:
    """The helpers that parse find the object, whole and streamed."""
    parsed = oai.chat.completions.parse(model=GPT, messages=HI, response_format=Trip).choices[0].message.parsed
    with oai.chat.completions.stream(model=GPT, messages=HI, response_format=Trip) as events:
        streamed = events.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Trip) and streamed == parsed
    assert crossing.sent[-1]["output_config"]["format"]["schema"]["required"] == ["city", "days"]


def test_openai_limits(crossing: Crossing, oai: openai.OpenAI) -> None:
    """The output limit, a stop sequence and thinking, which is billed and not shown."""
    cut = oai.chat.completions.create(model=GPT, messages=HI, max_completion_tokens=3).choices[0]
    assert cut.finish_reason == "length"
    said: Any = [{"role": "user", "content": "count"}]
    stopped = oai.chat.completions.create(model=GPT, messages=said, stop=[" three"]).choices[0]
    assert (stopped.finish_reason, stopped.message.content) == ("stop", "one two")


def test_openai_errors(crossing: Crossing, oai: openai.OpenAI) -> None:
    """Claude's errors are OpenAI's: by status, with the same words; in the middle of a stream too."""
    with pytest.raises(openai.RateLimitError) as limited:
        oai.chat.completions.create(model=GPT, messages=HI, extra_headers={"x-sandbox-fault": "429"})
    assert limited.value.type == "rate_limit_error"
    with pytest.raises(openai.InternalServerError):
        oai.chat.completions.create(model=GPT, messages=HI, stream=True, extra_headers={"x-sandbox-fault": "529"})
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        oai.chat.completions.create(model=GPT, messages=HI, logprobs=True)
    for fault in ("error-event:3", "malformed:3"):
        with pytest.raises(openai.APIError) as broken:
            list(oai.chat.completions.create(
                model=GPT, messages=HI, stream=True, extra_headers={"x-sandbox-fault": fault}
            ))  # fmt: skip
        assert broken.value.message


def test_openai_cut(crossing: Crossing, oai: openai.OpenAI) -> None:
    """A stream that breaks off has no end made up for it."""
    chunks = list(
        oai.chat.completions.create(model=GPT, messages=HI, stream=True, extra_headers={"x-sandbox-fault": "cut:3"})
    )
    assert chunks and all(chunk.choices[0].finish_reason is None for chunk in chunks)


# An Anthropic caller, served by GPT


def test_anthropic_text(crossing: Crossing, claude: anthropic.Anthropic, at_home: Any) -> None:
    """Whole, streamed and by the helper: GPT's own words, reason and counts, in the caller's shape."""
    native = at_home[0].chat.completions.create(model=GPT, messages=HI, max_completion_tokens=999)
    whole: Any = claude.messages.create(model=CLAUDE, max_tokens=999, messages=HI)
    assert whole.content[0].text == native.choices[0].message.content
    assert (whole.stop_reason, whole.model) == ("end_turn", GPT)
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (
        native.usage.prompt_tokens, native.usage.completion_tokens,
    )  # fmt: skip
    raw = list(claude.messages.create(model=CLAUDE, max_tokens=999, messages=HI, stream=True))
    assert [event.type for event in raw[:2]] == ["message_start", "content_block_start"]
    assert [event.type for event in raw[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    with claude.messages.stream(model=CLAUDE, max_tokens=999, messages=HI) as told:
        text = "".join(told.text_stream)
        final: Any = told.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert (final.usage.input_tokens, final.usage.output_tokens) == (
        whole.usage.input_tokens,
        whole.usage.output_tokens,
    )


def test_anthropic_tools(crossing: Crossing, claude: anthropic.Anthropic) -> None:
    """A call, whole and streamed, its result sent back, and the answer to that."""
    asked: Any = {"model": CLAUDE, "max_tokens": 999, "tools": [claude_tool()]}
    whole: Any = claude.messages.create(messages=PLAN, **asked)
    assert whole.stop_reason == "tool_use"
    assert (whole.content[0].name, whole.content[0].input) == ("get_weather", TRIP)
    with claude.messages.stream(messages=PLAN, **asked) as told:
        parts = [event.partial_json for event in told if event.type == "input_json"]
        final: Any = told.get_final_message()
    assert len(parts) > 1 and json.loads("".join(parts)) == whole.content[0].input
    assert (final.stop_reason, final.content[0].input) == ("tool_use", whole.content[0].input)
    result = {"type": "tool_result", "tool_use_id": whole.content[0].id, "content": "rain"}
    turn = {"role": "assistant", "content": [whole.content[0].model_dump(exclude_none=True)]}
    back: Any = [*PLAN, turn, {"role": "user", "content": [result]}]
    last: Any = claude.messages.create(messages=back, **asked)
    assert last.content[0].text == "All done."
    assert [message["role"] for message in crossing.sent[-1]["messages"]] == ["user", "assistant", "tool"]


def test_anthropic_structured_output(crossing: Crossing, claude: anthropic.Anthropic) -> None:
    """The helpers that parse find the object, whole and streamed."""
    parsed = claude.messages.parse(model=CLAUDE, max_tokens=999, messages=HI, output_format=Trip).parsed_output
    with claude.messages.stream(model=CLAUDE, max_tokens=999, messages=HI, output_format=Trip) as told:
        streamed = told.get_final_message().parsed_output
    assert isinstance(parsed, Trip) and streamed == parsed
    assert crossing.sent[-1]["response_format"]["json_schema"]["strict"] is True


def test_anthropic_limits(crossing: Crossing, claude: anthropic.Anthropic) -> None:
    """The output limit, a stop sequence, and what chat has no place for."""
    cut = claude.messages.create(model=CLAUDE, max_tokens=3, messages=HI)
    assert cut.stop_reason == "max_tokens"
    said: Any = [{"role": "user", "content": "count"}]
    stopped: Any = claude.messages.create(model=CLAUDE, max_tokens=99, messages=said, stop_sequences=[" three"])
    assert (stopped.stop_reason, stopped.content[0].text) == ("end_turn", "one two")


def test_anthropic_errors(crossing: Crossing, claude: anthropic.Anthropic) -> None:
    """GPT's errors are Anthropic's: by status, with the same words; in the middle of a stream too."""
    asked: Any = {"model": CLAUDE, "max_tokens": 99, "messages": HI}
    with pytest.raises(anthropic.RateLimitError) as limited:
        claude.messages.create(**asked, extra_headers={"x-sandbox-fault": "quota"})
    assert limited.value.body["error"]["details"]["error_code"] == "insufficient_quota"  # type: ignore[index]
    with pytest.raises(anthropic.InternalServerError):
        claude.messages.create(**asked, extra_headers={"x-sandbox-fault": "500"})
    with pytest.raises(anthropic.BadRequestError, match="top_k"):
        claude.messages.create(**asked, extra_body={"top_k": 5})
    for fault in ("error-event:3", "malformed:3"):
        with pytest.raises(anthropic.APIStatusError) as broken:
            list(claude.messages.create(**asked, stream=True, extra_headers={"x-sandbox-fault": fault}))
        assert broken.value.body["error"]["message"]  # type: ignore[index]


def test_anthropic_cut(crossing: Crossing, claude: anthropic.Anthropic) -> None:
    """A stream that breaks off has no end made up for it; one that lacks only its usage ends with unknown counts."""
    asked: Any = {"model": CLAUDE, "max_tokens": 99, "messages": HI, "stream": True}
    cut = list(claude.messages.create(**asked, extra_headers={"x-sandbox-fault": "cut:3"}))
    assert cut and not {"message_delta", "message_stop"} & {event.type for event in cut}
    silent: Any = list(claude.messages.create(**asked, extra_headers={"x-sandbox-fault": "no-usage"}))
    assert silent[-2].usage.output_tokens is None and silent[-1].type == "message_stop"


def test_asyncio(server: tuple[Crossing, str]) -> None:
    """The asyncio clients read the same."""

    async def main() -> None:
        server[0].cut = "bytes"
        chat = openai.AsyncOpenAI(base_url=server[1] + "/v1", api_key="k", max_retries=0)
        claude = anthropic.AsyncAnthropic(base_url=server[1], api_key="k", max_retries=0)
        asked: Any = {"model": CLAUDE, "max_tokens": 99, "messages": PLAN, "tools": [claude_tool()]}
        async with chat, chat.chat.completions.stream(model=GPT, messages=PLAN, tools=[chat_tool()]) as events:
            final: Any = await events.get_final_completion()
        assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == TRIP
        async with claude, claude.messages.stream(**asked) as told:
            message: Any = await told.get_final_message()
        assert message.content[0].input == TRIP

    asyncio.run(main())
