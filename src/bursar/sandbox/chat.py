"""OpenAI Chat Completions, `POST /v1/chat/completions`: the shapes of openai-python's types, errors included."""

from collections.abc import Iterator
from typing import Any

from bursar.sandbox.asks import (
    Ask,
    Bad,
    Block,
    Choice,
    Json,
    Reply,
    Tool,
    ToolCall,
    chunks,
    content_text,
    dump,
    message_block,
    whole_number,
)
from bursar.sandbox.models import known
from bursar.sandbox.tokens import split
from bursar.types import Bucket

ID_PREFIX = "chatcmpl-"
STREAM_TYPE = "text/event-stream; charset=utf-8"
BILLS_HANGUP_WHOLE = True
"""The provider goes on generating, and billing, when its client hangs up."""

_LEAD = 3
"""<|start|>assistant<|sep|>"""

_FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tools": "tool_calls"}


def read(body: Json) -> Ask:
    """A request body -> Ask, or Bad."""
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        raise Bad(400, "Invalid 'messages': expected an array with at least one message.", param="messages")
    model, limit = body["model"], whole_number(body, "max_completion_tokens")
    old_limit = whole_number(body, "max_tokens")
    if old_limit is not None and (card := known(model)) and card.thinks:
        text = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise Bad(400, text, code="unsupported_parameter", param="max_tokens")
    tools = tuple(_tool(tool["function"]) for tool in body.get("tools") or () if "function" in tool)
    choice, choice_tool = _tool_choice(body.get("tool_choice"))
    form = body.get("response_format") or {}
    options = body.get("prompt_cache_options") or {}
    stop = body.get("stop") or ()
    stream_options = body.get("stream_options") or {}
    prompt, called = _tail(messages)
    return Ask(
        dialect="chat",
        model=model,
        blocks=_blocks(body, messages),
        prompt=prompt,
        stream=bool(body.get("stream")),
        tools=tools,
        choice=choice,
        choice_tool=choice_tool,
        called=called,
        schema=form["json_schema"].get("schema") if form.get("type") == "json_schema" else None,
        wants_json=form.get("type") == "json_object",
        max_tokens=limit if limit is not None else old_limit,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        n=whole_number(body, "n") or 1,
        effort=body.get("reasoning_effort"),
        include_usage=bool(stream_options.get("include_usage")),
        service_tier=body.get("service_tier"),
        cache_key=dump([body.get("prompt_cache_key"), form, body.get("reasoning_effort"), body.get("verbosity")]),
        explicit_cache=options.get("mode") == "explicit",
        lead=_LEAD,
        write_bucket="cache_write_30m",
    )


def _tool(function: Json) -> Tool:
    return Tool(function["name"], function.get("description") or "", function.get("parameters") or {})


def _tool_choice(value: Any) -> tuple[Any, str | None]:
    if isinstance(value, dict):
        return "any", (value.get("function") or value).get("name")
    return {"required": "any", "none": "none"}.get(value or "auto", "auto"), None


def _tail(messages: list[Json]) -> tuple[str, tuple[str, ...]]:
    """The last user text, and the tools called since."""
    called: list[str] = []
    for message in reversed(messages):
        if message.get("role") == "user":
            return content_text(message.get("content")), tuple(reversed(called))
        called += [call["function"]["name"] for call in reversed(message.get("tool_calls") or ()) if "function" in call]
    return "", tuple(reversed(called))


def _blocks(body: Json, messages: list[Json]) -> list[Block]:
    blocks = [Block("tools", split(dump(tool))) for tool in body.get("tools") or ()]
    if form := body.get("response_format"):
        blocks.append(Block("system", split(dump(form))))
    for message in messages:
        role, content = message["role"], message.get("content")
        text = content_text(content)
        if calls := message.get("tool_calls"):
            text += dump(calls)
        media, mark = media_and_mark(content)
        kind = "system" if role in ("system", "developer") else "message"
        blocks.append(message_block(role, text, media=media, mark=mark, kind=kind))
    return blocks


def media_and_mark(content: Any, bucket: Bucket = "cache_write_30m") -> tuple[int, Bucket | None]:
    """How many media parts a content has, and its explicit cache breakpoint."""
    if not isinstance(content, list):
        return 0, None
    media = sum(not isinstance(part.get("text"), str) and part.get("type") != "refusal" for part in content)
    marked = any((part.get("prompt_cache_breakpoint") or {}).get("mode") == "explicit" for part in content)
    return media, bucket if marked else None


def usage(reply: Reply) -> Json:
    """The usage object; cached and written tokens are inside prompt_tokens, reasoning inside completion_tokens."""
    details: Json = {"cached_tokens": reply.prompted.read, "audio_tokens": 0}
    if reply.model.caching == "breakpoints":
        details["cache_write_tokens"] = reply.prompted.written
    return {
        "prompt_tokens": reply.prompted.total,
        "completion_tokens": reply.output,
        "total_tokens": reply.prompted.total + reply.output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": reply.thoughts,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _call(call: ToolCall) -> Json:
    return {
        "id": f"call_{call.id}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def whole(reply: Reply) -> Json:
    """The answer that is not streamed."""
    choices = []
    for index, choice in enumerate(reply.choices):
        message: Json = {"role": "assistant", "content": None if choice.calls else choice.text, "refusal": None}
        if choice.calls:
            message["tool_calls"] = [_call(call) for call in choice.calls]
        else:
            message["annotations"] = []
        finish = _FINISH[choice.finish]
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": finish})
    head = {"id": reply.id, "object": "chat.completion", "created": reply.created, "model": reply.ask.model}
    tail = {"service_tier": reply.tier, "system_fingerprint": "fp_sandbox"}
    return {**head, "choices": choices, **({"usage": usage(reply)} if reply.usage else {}), **tail}


def frames(reply: Reply) -> Iterator[tuple[bytes, int]]:
    """The stream's events, each with the output tokens generated by its end."""
    head = dump(
        {
            "id": reply.id,
            "object": "chat.completion.chunk",
            "created": reply.created,
            "model": reply.ask.model,
            "service_tier": reply.tier,
            "system_fingerprint": "fp_sandbox",
        }
    )[:-1]
    usage_key = ',"usage":null' if reply.ask.include_usage else ""
    done = 0
    for index, choice in enumerate(reply.choices):
        for delta, finish, share in _deltas(choice, reply.chunk):
            piece = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield f'data: {head},"choices":[{dump(piece)}]{usage_key}}}\n\n'.encode(), done + share
        done += choice.thoughts + choice.visible
    if reply.ask.include_usage and reply.usage:
        yield f'data: {head},"choices":[],"usage":{dump(usage(reply))}}}\n\n'.encode(), done
    yield b"data: [DONE]\n\n", done


def _deltas(choice: Choice, size: int) -> Iterator[tuple[Json, str | None, int]]:
    """(delta, finish reason, output tokens of this choice so far)"""
    total = choice.thoughts + choice.visible
    if not choice.calls:
        yield {"role": "assistant", "content": "", "refusal": None}, None, 0
        for text, upto in chunks(choice.pieces, size):
            yield {"content": text}, None, choice.thoughts + choice.visible * upto // len(choice.pieces)
    for number, call in enumerate(choice.calls):
        first: Json = {"role": "assistant", "content": None} if number == 0 else {}
        function = {"name": call.name, "arguments": ""}
        start = {"index": number, "id": f"call_{call.id}", "type": "function", "function": function}
        yield {**first, "tool_calls": [start]}, None, 0
        for text, upto in chunks(call.pieces, size):
            so_far = choice.thoughts + choice.visible * upto // len(call.pieces)
            yield {"tool_calls": [{"index": number, "function": {"arguments": text}}]}, None, so_far
    yield {}, _FINISH[choice.finish], total


def error(bad: Bad, request_id: str) -> Json:
    """OpenAI's error body; all four keys are always there."""
    kinds = {401: "invalid_request_error", 403: "invalid_request_error", 404: "invalid_request_error"}
    codes = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
    kind = kinds.get(bad.status) or ("server_error" if bad.status >= 500 else "invalid_request_error")
    if bad.status == 429:
        kind = "insufficient_quota" if bad.code == "insufficient_quota" else "requests"
    code = bad.code or codes.get(bad.status)
    return {"error": {"message": bad.message, "type": kind, "param": bad.param, "code": code}}


def error_frame(bad: Bad, request_id: str, number: int) -> bytes:
    """An error in the middle of a stream: the SDK raises on any data with a truthy `error`."""
    return f"data: {dump(error(bad, request_id))}\n\n".encode()


def torn_frame(reply: Reply) -> bytes:
    """An event whose JSON breaks off."""
    return f'data: {{"id":"{reply.id}","object":"chat.completion.chunk","choices":[{{"index":0,"del\n\n'.encode()


def count(body: Json) -> int:
    """Input tokens of a body."""
    return read(body).prompt_tokens
