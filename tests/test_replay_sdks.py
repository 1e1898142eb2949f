"""What the SDKs make of a replay is what they make of the provider's own answer, over sockets and in both shapes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from openai import AsyncOpenAI
from pydantic import BaseModel

from bursar.sandbox import SandboxServer
from bursar.types import Api, View
from bursar.wire import replay
from bursar.wire.dialect import dialect_of, of
from gateways import serving
from library_kit import TLS
from library_kit import anthropic as anthropic_client
from library_kit import gemini as gemini_client
from library_kit import openai as openai_client
from replays import (
    ASKED,
    CHATS,
    COUNTS,
    GEMINIS,
    HI,
    LINES,
    MESSAGES,
    RESPONSES,
    STORED,
    Json,
    accumulated,
    claude,
    encode,
    google_client,
    gpt,
    parsed,
    plain,
    stream_of,
    whole_of,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
"""Answers hold members that no SDK knows."""

# What the SDKs make of it


@settings(max_examples=25, deadline=None)
@given(answer=CHATS)
def test_openai_chat(answer: Json) -> None:
    """The helper's final completion is the completion that came whole; its usage only where it was asked for."""
    for choice in answer["choices"]:  # the helper raises at a cut, and cannot take custom calls from anyone's stream
        choice["finish_reason"] = "stop"
        if any(call["type"] == "custom" for call in choice["message"].get("tool_calls", ())):
            del choice["message"]["tool_calls"]
    stream = stream_of("chat", answer)
    assert accumulated("chat", stream) == parsed("chat", encode(answer))
    silent = stream_of("chat", answer, View())
    chunks = list(gpt(silent).chat.completions.create(model="m", messages=HI, stream=True))
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)
    asked = list(gpt(stream).chat.completions.create(model="m", messages=HI, stream=True))
    assert plain(asked[-1].usage) == plain(COUNTS) and asked[-1].choices == []
    assert len(asked) == len(chunks) + 1
    assert whole_of("chat", silent) == {key: one for key, one in answer.items() if key != "usage"}


@settings(max_examples=25, deadline=None)
@given(answer=RESPONSES)
def test_openai_responses(answer: Json) -> None:
    """The helper follows every event, deltas included, and ends with the response that came whole."""
    stream, whole = stream_of("responses", answer), parsed("responses", encode(answer))
    raw: list[Any] = list(gpt(stream).responses.create(model="m", input="hi", stream=True))
    assert plain(raw[-1].response) == whole
    assert [event.sequence_number for event in raw] == list(range(len(raw)))
    with gpt(stream).responses.stream(model="m", input="hi") as events:
        told: list[Any] = list(events)
    if answer["status"] == "completed":
        assert accumulated("responses", stream) == whole
    for index, item in enumerate(answer["output"]):
        where = [event for event in told if getattr(event, "output_index", None) == index]
        assert plain(where[-1].item) == plain(item)
        said = "".join(event.delta for event in where if event.type.endswith(".delta"))
        assert said == "".join(_said(item))
        if item["type"] == "function_call" and said:
            assert [event.snapshot for event in where if event.type.endswith(".delta")][-1] == said


def _said(item: Json) -> Iterator[str]:
    """What an item says in deltas, in their order."""
    for part in (*item.get("summary", ()), *item.get("content", ())):
        yield part.get("text") or part.get("refusal") or ""
    yield item.get("arguments") or item.get("input") or item.get("code") or ""


@settings(max_examples=25, deadline=None)
@given(answer=MESSAGES)
def test_anthropic(answer: Json) -> None:
    """Both helpers' final messages are the message that came whole; compaction is known to the beta's alone."""
    whole: Any = claude(encode(answer)).beta.messages.create(model="m", max_tokens=9, messages=HI)
    with claude(stream_of("messages", answer)).beta.messages.stream(model="m", max_tokens=9, messages=HI) as events:
        assert plain(events.get_final_message()) == plain(whole)
    answer = {key: one for key, one in answer.items() if key != "context_management"}
    answer["content"] = [block for block in answer["content"] if block["type"] != "compaction"]
    stream = stream_of("messages", answer)
    assert accumulated("messages", stream) == parsed("messages", encode(answer))
    with claude(stream).messages.stream(model="m", max_tokens=9, messages=HI) as told:
        assert "".join(told.text_stream) == "".join(block.get("text", "") for block in answer["content"])


@settings(max_examples=25, deadline=None)
@given(answer=GEMINIS)
def test_google_genai(answer: Json) -> None:
    """The chunks tell the text, the parts and the end of the answer that came whole, which comes last."""
    stream = stream_of("gemini", answer)
    assert accumulated("gemini", stream) == parsed("gemini", encode(answer))
    array = replay.as_array(stream)
    assert whole_of("gemini", array) == answer
    assert replay.gathered("gemini", array[:-1]) is None
    chunks = list(google_client(stream).models.generate_content_stream(model="m", contents="hi"))
    ends = [one.index for chunk in chunks for one in chunk.candidates or () if one.finish_reason is not None]
    assert ends == list(range(len(answer["candidates"])))


class Trip(BaseModel):
    city: str
    days: int


async def hits(scope: Any, receive: Any, send: Any) -> None:
    """A server that answers everything from store, in the shape that is asked."""
    body, path = (await receive())["body"], scope["path"]
    dialect = dialect_of("POST", path)
    assert dialect is not None
    view, content = dialect.view(body, path, ()), encode(STORED[dialect.api])
    kind = b"application/json"
    if view.stream:
        content, kind = stream_of(dialect.api, STORED[dialect.api], view), b"text/event-stream"
        if dialect.api == "gemini" and b"alt=sse" not in scope["query_string"]:
            content, kind = replay.as_array(content), b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": content})


def test_structured_output_over_sockets() -> None:
    """Helpers that parse find the same object in both shapes, blocking and asyncio; so does who streams an array."""
    trip = Trip(city="Oslo", days=2)

    async def main() -> None:
        client: Any = openai_client(url, AsyncOpenAI)
        async with client, client.chat.completions.stream(model="m", messages=HI, response_format=Trip) as chunks:
            assert (await chunks.get_final_completion()).choices[0].message.parsed == trip

    with serving(hits) as (_, port):
        url = f"http://127.0.0.1:{port}"
        asyncio.run(main())
        with openai_client(url) as gpt_client, anthropic_client(url) as claude_client:
            whole = gpt_client.chat.completions.parse(model="m", messages=HI, response_format=Trip)
            assert whole.choices[0].message.parsed == trip
            with gpt_client.responses.stream(model="m", input="hi", text_format=Trip) as events:
                response = events.get_final_response()
            assert response == gpt_client.responses.parse(model="m", input="hi", text_format=Trip)
            assert response.output_parsed == trip
            with claude_client.messages.stream(model="m", max_tokens=9, messages=HI, output_format=Trip) as told:
                assert told.get_final_message().parsed_output == trip
        client = gemini_client(url)
        text = "".join(chunk.text or "" for chunk in client.models.generate_content_stream(model="m", contents="hi"))
        assert text == client.models.generate_content(model="m", contents="hi").text == LINES
        array = httpx2.Client(verify=TLS).post(f"{url}/v1beta/models/m:streamGenerateContent", json={}).json()
        assert array == [STORED["gemini"]]


# The sandbox's own streams

WEATHER: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: Json = {"name": "get_weather", "description": "Weather", "parameters": WEATHER}
HEADERS = {"authorization": "Bearer k", "x-api-key": "k", "x-goog-api-key": "k", "anthropic-version": "2023-06-01"}
ASKS: dict[Api, tuple[str, Json, list[Json]]] = {
    "chat": ("/v1/chat/completions", {"model": "gpt-4o", "messages": HI, "stream_options": {"include_usage": True}}, [
        {}, {"n": 3}, {"model": "gpt-5-mini"},
        {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"},
    ]),
    "responses": ("/v1/responses", {"model": "gpt-4o", "input": "hi"}, [
        {}, {"model": "gpt-5-mini"}, {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"},
    ]),
    "messages": ("/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 4000, "messages": HI}, [
        {}, {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"tools": [{"name": "get_weather", "input_schema": WEATHER}], "tool_choice": {"type": "any"}},
    ]),
    "gemini": ("/v1beta/models/gemini-2.5-flash", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}, [
        {}, {"generationConfig": {"candidateCount": 2, "thinkingConfig": {"includeThoughts": True}}},
        {"tools": [{"functionDeclarations": [FUNCTION]}], "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer() as server:
        yield server


@pytest.mark.parametrize("api", ASKS)
def test_the_sandbox_streams_gather(sandbox: SandboxServer, api: Api) -> None:
    """Into what the SDK accumulates from them, and what the same request gets unstreamed; and may be streamed again."""
    path, base, variants = ASKS[api]
    http = httpx2.Client(verify=TLS, headers=HEADERS)
    paths = (":streamGenerateContent?alt=sse", ":generateContent") if api == "gemini" else ("", "")
    asked: tuple[Json, Json] = ({"stream": True}, {"stream_options": None})
    for variant in variants:
        sse, whole = (
            http.post(sandbox.url + path + end, json={**base, **variant, **more}).content
            for end, more in zip(paths, asked, strict=True)
        )
        answer = whole_of(api, sse)
        assert accumulated(api, sse) == parsed(api, encode(answer))
        assert whole_of(api, stream_of(api, answer)) == answer
        dialect = of(api)
        read, told = (dialect.read(body, ASKED, ()) for body in (whole, encode(answer)))
        assert (told.finish_reason, told.output_units) == (read.finish_reason, read.output_units)
        called = "tools" in variant
        assert replay.unstorable(api, encode(answer)) == ("tool calls" if called else None)
        assert replay.unstorable(api, whole, tools_ok=called) is None
