"""Doubles for your own test suite: a provider that answers by a script, without sockets, and a ledger in memory.

    with bursar.testing.Script() as provider, bursar.open(store=bursar.testing.ledger()) as guard:
        provider.answer("Paris", input_tokens=12, output_tokens=1)
        client = guard.wrap(OpenAI(api_key="test", http_client=provider.client()))
        ...                                  # whatever your agent does
        assert guard.ledger.calls().items[0].output_tokens == 1

An answer takes the shape of the request that it meets: chat completions, Responses, embeddings, Anthropic messages or
Gemini, whole or streamed. Leaving the `with` raises AssertionError where an answer was not asked for, or a request
found none; that request itself gets an HTTP 500 which SDKs do not retry.
"""

import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

from bursar.stores.base import Store
from bursar.stores.memory import MemoryStore
from bursar.types import Api
from bursar.wire import dialect as dialects

Json: TypeAlias = dict[str, Any]
_SSE = "text/event-stream"
_JSON = "application/json"


def ledger() -> Store:
    """An empty ledger in memory: `bursar.open(store=ledger())`. It ends with the process."""
    return MemoryStore()


class Request(msgspec.Struct, frozen=True):
    """One request as the provider got it; body is the decoded JSON."""

    api: Api
    path: str
    headers: Mapping[str, str]
    body: Json


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the script says to one request. Token counts are inclusive: cached ones are part of the input."""

    text: str = ""
    tools: tuple[tuple[str, Json], ...] = ()
    """Tool calls: (name, arguments)."""
    input_tokens: int = 10
    output_tokens: int = 5
    cached_tokens: int = 0
    model: str | None = None
    """The served model; None: the one asked for."""
    vector: tuple[float, ...] = (0.0, 1.0)
    """What embeddings get."""
    status: int = 200
    message: str = ""
    headers: Mapping[str, str] = {}


class Script:
    """A provider that gives the answers that it was told, in that order, whoever asks. Thread-safe."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._answers: list[Answer] = []
        self._missed: list[str] = []
        self._lock = threading.Lock()
        self._given = 0

    def answer(
        self,
        text: str = "",
        *,
        tools: Sequence[tuple[str, Json]] = (),
        input_tokens: int = 10,
        output_tokens: int = 5,
        cached_tokens: int = 0,
        model: str | None = None,
        vector: Sequence[float] = (0.0, 1.0),
    ) -> Self:
        """The next request gets this text, or these tool calls (name, arguments), and this usage."""
        told = Answer(
            text=text, tools=tuple(tools), input_tokens=input_tokens, output_tokens=output_tokens,
            cached_tokens=cached_tokens, model=model, vector=tuple(vector),
        )  # fmt: skip
        self._answers.append(told)
        return self

    def error(self, status: int, message: str = "as the script says", **headers: str) -> Self:
        """The next request gets this HTTP status; headers by name, `_` for `-`: retry_after="1"."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._answers.append(Answer(status=status, message=message, headers=named))
        return self

    def client(self, library: str | None = None, *, asynchronous: bool = False, **kwargs: Any) -> Any:
        """An httpx2 (or httpx) client that asks this script instead of the network, for an SDK's `http_client`.

        `bursar.open(connect=script.client)` has the guard ask it too, for providers other than the SDK's own.
        """
        module = import_module(library or ("httpx2" if find_spec("httpx2") else "httpx"))
        transport = module.MockTransport(lambda request: module.Response(**self._serve(request)))
        kind = module.AsyncClient if asynchronous else module.Client
        return kind(transport=transport, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.check()

    def check(self) -> None:
        """AssertionError where the script and what was asked do not agree."""
        left = len(self._answers)
        if self._missed:
            raise AssertionError(f"{len(self._missed)} requests found no answer left: {', '.join(self._missed[:5])}")
        if left:
            raise AssertionError(f"{left} of {left + self._given} answers of the script were never asked for")

    def _serve(self, request: Any) -> Json:
        path = request.url.path
        dialect = dialects.dialect_of(request.method, path)
        body = msgspec.json.decode(request.content) if request.content else {}
        view = dialect.view(request.content, path, ()) if dialect is not None else None
        with self._lock:
            told = self._answers.pop(0) if dialect is not None and self._answers else None
            self._given += told is not None
            api: Api = dialect.api if dialect is not None else "other"
            self.requests.append(Request(api, path, dict(request.headers), body))
        if dialect is None or view is None or told is None or api not in _RENDER:
            why = "the script has no answer left" if api in _RENDER else "the script speaks no such endpoint"
            self._missed.append(f"{request.method} {path} ({why})")
            told = Answer(status=500, message=why, headers={"x-should-retry": "false"})
        if told.status != 200:
            error = (dialect or dialects.OTHER).error(told.status, "script", told.message)
            return {"status_code": told.status, "headers": {"content-type": _JSON, **told.headers}, "content": error}
        whole, streamed = _RENDER[api]
        told = msgspec.structs.replace(told, model=told.model or (view.model if view else None))
        if view is not None and view.stream:
            asked = body.get("stream_options") or {}
            content = "".join(streamed(told, bool(asked.get("include_usage")))).encode()
            return {"status_code": 200, "headers": {"content-type": _SSE}, "content": content}
        return {"status_code": 200, "json": whole(told, body)}


def _event(data: Any, name: str | None = None) -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else msgspec.json.encode(data).decode()}\n\n"


def _arguments(arguments: Json) -> str:
    return msgspec.json.encode(arguments).decode()


# OpenAI chat completions


def _chat_usage(told: Answer) -> Json:
    return {
        "prompt_tokens": told.input_tokens,
        "completion_tokens": told.output_tokens,
        "total_tokens": told.input_tokens + told.output_tokens,
        "prompt_tokens_details": {"cached_tokens": told.cached_tokens},
    }


def _chat_said(told: Answer, *, numbered: bool) -> Json:
    calls = [
        {
            **({"index": at} if numbered else {}),
            "id": f"call_{at}",
            "type": "function",
            "function": {"name": name, "arguments": _arguments(arguments)},
        }
        for at, (name, arguments) in enumerate(told.tools)
    ]
    said: Json = {"role": "assistant", "content": None if calls else told.text, "refusal": None}
    return {**said, "tool_calls": calls} if calls else said


def _chat(told: Answer, body: Json) -> Json:
    finish = "tool_calls" if told.tools else "stop"
    message = _chat_said(told, numbered=False)
    return {
        **_chat_head(told, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": _chat_usage(told),
    }


def _chat_head(told: Answer, kind: str) -> Json:
    return {"id": "chatcmpl-script", "object": kind, "created": 0, "model": told.model}


def _chat_stream(told: Answer, wants_usage: bool) -> Iterator[str]:
    head = _chat_head(told, "chat.completion.chunk")
    quiet = {"usage": None} if wants_usage else {}
    said, finish = _chat_said(told, numbered=True), "tool_calls" if told.tools else "stop"
    yield _event({**head, "choices": [{"index": 0, "delta": said, "finish_reason": None}], **quiet})
    yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], **quiet})
    if wants_usage:
        yield _event({**head, "choices": [], "usage": _chat_usage(told)})
    yield _event("[DONE]")


# OpenAI Responses


def _responses_items(told: Answer) -> list[Json]:
    if told.tools:
        return [
            {
                "id": f"fc_{at}",
                "type": "function_call",
                "call_id": f"call_{at}",
                "name": name,
                "arguments": _arguments(arguments),
                "status": "completed",
            }
            for at, (name, arguments) in enumerate(told.tools)
        ]
    part = {"type": "output_text", "text": told.text, "annotations": [], "logprobs": []}
    return [{"id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": [part]}]


def _responses(told: Answer, body: Json) -> Json:
    return {
        "id": "resp_script",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": told.model,
        "output": _responses_items(told),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": told.input_tokens,
            "input_tokens_details": {"cached_tokens": told.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": told.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": told.input_tokens + told.output_tokens,
        },
    }


def _responses_stream(told: Answer, wants_usage: bool) -> Iterator[str]:
    whole = _responses(told, {})
    sent = iter(range(1_000_000))

    def event(kind: str, **data: Any) -> str:
        return _event({"type": kind, "sequence_number": next(sent), **data}, kind)

    yield event("response.created", response={**whole, "status": "in_progress", "output": [], "usage": None})
    for at, item in enumerate(whole["output"]):
        where = {"output_index": at, "item_id": item["id"]}
        if item["type"] == "message":
            part = item["content"][0]
            inside = {**where, "content_index": 0}
            yield event("response.output_item.added", output_index=at, item={**item, "content": []})
            yield event("response.content_part.added", **inside, part={**part, "text": ""})
            yield event("response.output_text.delta", **inside, delta=told.text, logprobs=[])
            yield event("response.output_text.done", **inside, text=told.text, logprobs=[])
            yield event("response.content_part.done", **inside, part=part)
        else:
            named = {"name": item["name"], "arguments": item["arguments"]}
            yield event("response.output_item.added", output_index=at, item={**item, "arguments": ""})
            yield event("response.function_call_arguments.delta", **where, delta=item["arguments"])
            yield event("response.function_call_arguments.done", **where, **named)
        yield event("response.output_item.done", output_index=at, item=item)
    yield event("response.completed", response=whole)


# OpenAI embeddings


def _embeddings(told: Answer, body: Json) -> Json:
    asked = body.get("input")
    count = len(asked) if isinstance(asked, list) and asked and not isinstance(asked[0], int) else 1
    vector: Any = list(told.vector)
    if body.get("encoding_format") == "base64":
        vector = b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return {
        "object": "list",
        "model": told.model,
        "data": [{"object": "embedding", "index": at, "embedding": vector} for at in range(count)],
        "usage": {"prompt_tokens": told.input_tokens, "total_tokens": told.input_tokens},
    }


# Anthropic messages


def _messages_blocks(told: Answer) -> list[Json]:
    if told.tools:
        return [
            {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": arguments}
            for at, (name, arguments) in enumerate(told.tools)
        ]
    return [{"type": "text", "text": told.text}]


def _messages(told: Answer, body: Json) -> Json:
    return {
        "id": "msg_script",
        "type": "message",
        "role": "assistant",
        "model": told.model,
        "content": _messages_blocks(told),
        "stop_reason": "tool_use" if told.tools else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": told.input_tokens - told.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": told.cached_tokens,
            "output_tokens": told.output_tokens,
        },
    }


def _messages_stream(told: Answer, wants_usage: bool) -> Iterator[str]:
    whole = _messages(told, {})

    def event(kind: str, **data: Any) -> str:
        return _event({"type": kind, **data}, kind)

    started = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield event("message_start", message=started)
    for at, block in enumerate(whole["content"]):
        if block["type"] == "text":
            empty: Json = {**block, "text": ""}
            delta: Json = {"type": "text_delta", "text": block["text"]}
        else:
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": _arguments(block["input"])}
        yield event("content_block_start", index=at, content_block=empty)
        yield event("content_block_delta", index=at, delta=delta)
        yield event("content_block_stop", index=at)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=ended, usage=whole["usage"])
    yield event("message_stop")


# Gemini


def _gemini(told: Answer, body: Json) -> Json:
    calls: list[Json] = [{"functionCall": {"name": name, "args": arguments}} for name, arguments in told.tools]
    parts = calls or [{"text": told.text}]
    return {
        "candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": told.input_tokens,
            "cachedContentTokenCount": told.cached_tokens,
            "candidatesTokenCount": told.output_tokens,
            "totalTokenCount": told.input_tokens + told.output_tokens,
        },
        "modelVersion": told.model,
        "responseId": "script",
    }


def _gemini_stream(told: Answer, wants_usage: bool) -> Iterator[str]:
    yield _event(_gemini(told, {}))


def _no_stream(told: Answer, wants_usage: bool) -> Iterator[str]:
    raise AssertionError("embeddings are not streamed")


_RENDER: dict[Api, tuple[Callable[[Answer, Json], Json], Callable[[Answer, bool], Iterator[str]]]] = {
    "chat": (_chat, _chat_stream),
    "responses": (_responses, _responses_stream),
    "embeddings": (_embeddings, _no_stream),
    "messages": (_messages, _messages_stream),
    "gemini": (_gemini, _gemini_stream),
}
