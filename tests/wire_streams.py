"""Streams as the providers send them, built from the SDKs' own event types, and ways to cut them."""

from collections.abc import Iterable
from typing import Any

from anthropic.types import (
    InputJSONDelta,
    Message,
    MessageDeltaUsage,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawContentBlockStopEvent,
    RawMessageDeltaEvent,
    RawMessageStartEvent,
    RawMessageStopEvent,
    TextBlock,
    TextDelta,
)
from anthropic.types import Usage as AnthropicUsage
from anthropic.types.raw_message_delta_event import Delta
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import (
    Choice,
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
)
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseOutputItemDoneEvent,
    ResponseTextDeltaEvent,
    ResponseUsage,
)

SAID = ("Hello", " wörld", "\n\n", "数字", ' "quoted" data: [DONE]', " 😀")
CHAT_USAGE = CompletionUsage(
    prompt_tokens=120,
    completion_tokens=40,
    total_tokens=160,
    prompt_tokens_details=PromptTokensDetails(cached_tokens=100),
    completion_tokens_details=CompletionTokensDetails(reasoning_tokens=16),
)


def sse(events: Iterable[Any], *, end: str = "\n", named: bool = False) -> list[bytes]:
    """Each event as its own bytes."""
    out = []
    for event in events:
        name = f"event: {event.type}{end}" if named else ""
        out.append(f"{name}data: {event.to_json(indent=None, exclude_unset=True)}{end}{end}".encode())
    return out


def chunk(*choices: Choice, usage: CompletionUsage | None = None) -> ChatCompletionChunk:
    return ChatCompletionChunk(
        id="chatcmpl-7", choices=list(choices), created=1763900000, model="gpt-6.1-sol-2026-06-01",
        object="chat.completion.chunk", service_tier="flex", usage=usage,
    )  # fmt: skip


def chat_stream(*, usage: bool, end: str = "\n") -> list[bytes]:
    """A chat stream; with the usage chunk right before [DONE] where asked."""
    call = ChoiceDeltaToolCall(
        index=0, id="call_1", function=ChoiceDeltaToolCallFunction(name="f", arguments='{"usage":{"a":1}}')
    )
    said = [Choice(index=0, delta=ChoiceDelta(content=text)) for text in SAID]
    events = [
        chunk(Choice(index=0, delta=ChoiceDelta(role="assistant", content=""))),
        *(chunk(choice) for choice in said),
        chunk(Choice(index=0, delta=ChoiceDelta(tool_calls=[call]))),
        chunk(Choice(index=0, delta=ChoiceDelta(), finish_reason="tool_calls")),
        *([chunk(usage=CHAT_USAGE)] if usage else []),
    ]
    return [*sse(events, end=end), f"data: [DONE]{end}{end}".encode()]


def messages_stream(*, stop: bool = True) -> list[bytes]:
    """An Anthropic stream: input told first, output last and cumulative."""
    usage = AnthropicUsage(
        input_tokens=2679, output_tokens=3, cache_read_input_tokens=500, cache_creation_input_tokens=None
    )
    start = Message(
        id="msg_1", content=[], model="claude-sonnet-5-5", role="assistant", type="message",
        stop_reason=None, stop_sequence=None, usage=usage,
    )  # fmt: skip
    tool = InputJSONDelta(type="input_json_delta", partial_json='{"q":1}')
    block = TextBlock(type="text", text="", citations=None)
    head: list[Any] = [
        RawMessageStartEvent(type="message_start", message=start),
        RawContentBlockStartEvent(type="content_block_start", index=0, content_block=block),
        *(_delta(TextDelta(type="text_delta", text=text)) for text in SAID),
        _delta(tool),
    ]
    tail: list[Any] = [
        RawContentBlockStopEvent(type="content_block_stop", index=0),
        RawMessageDeltaEvent(
            type="message_delta",
            delta=Delta(stop_reason="end_turn", stop_sequence=None),
            usage=MessageDeltaUsage(output_tokens=510, input_tokens=None),
        ),
        RawMessageStopEvent(type="message_stop"),
    ]
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    return [*sse(head, named=True), ping, *(sse(tail, named=True) if stop else [])]


def _delta(delta: Any) -> RawContentBlockDeltaEvent:
    return RawContentBlockDeltaEvent(type="content_block_delta", index=0, delta=delta)


def response(status: str, output: list[Any], usage: ResponseUsage | None) -> Response:
    return Response.model_validate(
        {
            "id": "resp_1", "created_at": 1, "model": "gpt-6.1-sol", "object": "response", "output": output,
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "status": status,
            "service_tier": "priority", "usage": usage and usage.to_dict(),
        }
    )  # fmt: skip


RESPONSES_USAGE = ResponseUsage.model_validate(
    {
        "input_tokens": 1000, "output_tokens": 50, "total_tokens": 1050,
        "input_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 10},
    }
)  # fmt: skip

SEARCH = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
OPENED = {"id": "ws_2", "type": "web_search_call", "status": "completed", "action": {"type": "open_page", "url": "u"}}


def responses_stream(*, complete: bool = True) -> list[bytes]:
    """A Responses stream: named events, the usage in the last one only, no [DONE]."""
    events: list[Any] = [
        ResponseCreatedEvent(type="response.created", sequence_number=0, response=response("in_progress", [], None)),
        *(
            ResponseTextDeltaEvent(
                type="response.output_text.delta",
                delta=text,
                content_index=0,
                item_id="m",
                logprobs=[],
                output_index=0,
                sequence_number=1,
            )
            for text in SAID
        ),
        ResponseOutputItemDoneEvent.model_validate(
            {"type": "response.output_item.done", "output_index": 0, "sequence_number": 2, "item": SEARCH}
        ),
    ]
    last = ResponseCompletedEvent(
        type="response.completed", sequence_number=3, response=response("completed", [SEARCH, OPENED], RESPONSES_USAGE)
    )
    return sse([*events, last] if complete else events, named=True)


def gemini_chunks() -> list[dict[str, Any]]:
    """Gemini chunks, each a whole response with running usage, as the wire has them (camelCase)."""
    body: list[dict[str, Any]] = [
        {
            "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}],
            "usageMetadata": {"promptTokenCount": 30, "totalTokenCount": 30 + n, "candidatesTokenCount": n},
            "modelVersion": "gemini-3.8-flash",
            "responseId": "r1",
        }
        for n, text in enumerate(SAID, 1)
    ]
    body[-1]["candidates"][0]["finishReason"] = "STOP"
    body[-1]["candidates"][0]["groundingMetadata"] = {"webSearchQueries": ["a", "b"]}
    body[-1]["usageMetadata"] = {
        "promptTokenCount": 30, "candidatesTokenCount": 12, "thoughtsTokenCount": 8, "totalTokenCount": 50,
    }  # fmt: skip
    return body
