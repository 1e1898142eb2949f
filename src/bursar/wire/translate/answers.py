"""Whole answers and their terms in the caller's dialect: stop reasons, usage, content. What does not fit is a Misfit.

A chat completion's stop sequence is not told apart from its end, so a messages caller reads end_turn for both.
Thinking is left out, as no translated request asked for it. Counts that the provider did not tell are null, never 0.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.types import Instant
from bursar.wire.replay.shape import Json, Misfit, obj, objs, read, text

_TO_CHAT = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_TO_MESSAGES = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
_CHAT_TIER = {"standard": "default", "priority": "priority"}
_MESSAGES_TIER = {"default": "standard", "priority": "priority"}
SILENT = ("thinking", "redacted_thinking")
"""Blocks that a chat completion does not show."""


def chat_finish(reason: Any) -> str:
    """finish_reason of a stop_reason; a turn that is only paused has none."""
    if (found := _TO_CHAT.get(text(reason))) is None:
        raise Misfit(f"stop_reason {reason}")
    return found


def messages_stop(reason: Any, *, calls: bool, refused: bool) -> str:
    """stop_reason of a finish_reason. OpenAI says stop after a call that it was told to make, and of a refusal."""
    if (found := _TO_MESSAGES.get(text(reason))) is None:
        raise Misfit(f"finish_reason {reason}")
    if refused:
        return "refusal"
    return found if found not in ("end_turn", "tool_use") else "tool_use" if calls else "end_turn"


def details(stop: str) -> Json | None:
    """stop_details: chat tells no category."""
    return {"type": "refusal", "category": None, "explanation": None} if stop == "refusal" else None


# --- usage


def chat_usage(usage: Json) -> Json:
    """A messages usage as a chat usage: what was read from and written to the cache is inside prompt_tokens."""
    fresh, output = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    read_, written = _count(usage.get("cache_read_input_tokens")), _count(usage.get("cache_creation_input_tokens"))
    prompt = None if fresh is None else fresh + (read_ or 0) + (written or 0)
    inside = {"cached_tokens": read_, "cache_write_tokens": written}
    thought = _count(obj(usage.get("output_tokens_details") or {}).get("thinking_tokens"))
    out: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": None if prompt is None or output is None else prompt + output,
        "prompt_tokens_details": {key: count for key, count in inside.items() if count is not None},
    }
    return out if thought is None else {**out, "completion_tokens_details": {"reasoning_tokens": thought}}


def messages_usage(usage: Json) -> Json:
    """A chat usage as a messages usage: input_tokens is without what was read from or written to the cache."""
    prompt, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    inside = obj(usage.get("prompt_tokens_details") or {})
    read_, written = _count(inside.get("cached_tokens")), _count(inside.get("cache_write_tokens"))
    fresh = None if prompt is None else prompt - (read_ or 0) - (written or 0)
    thought = _count(obj(usage.get("completion_tokens_details") or {}).get("reasoning_tokens"))
    out: Json = {
        "input_tokens": None if fresh is None or fresh < 0 else fresh,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read_,
        "output_tokens": output,
    }
    return out if thought is None else {**out, "output_tokens_details": {"thinking_tokens": thought}}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def tier(told: Any, table: Mapping[str, str]) -> Json:
    """service_tier, where the other dialect has a word for it."""
    found = table.get(told) if isinstance(told, str) else None
    return {} if found is None else {"service_tier": found}


# --- heads


def chat_head(message: Json, kind: str, at: Instant) -> Json:
    """What a completion, and every chunk of one, begins with. created: seconds since the epoch."""
    head = {"id": text(message.get("id")), "object": kind, "created": at // 1_000_000, "model": message.get("model")}
    return {**head, **tier(obj(message.get("usage") or {}).get("service_tier"), _CHAT_TIER)}


def messages_head(answer: Json) -> Json:
    """A message in which nothing is said yet."""
    return {
        "id": text(answer.get("id")), "type": "message", "role": "assistant", "model": answer.get("model"),
        "content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None,
    }  # fmt: skip


def messages_tier(answer: Json) -> Json:
    """The service tier as usage says it."""
    return tier(answer.get("service_tier"), _MESSAGES_TIER)


# --- whole answers


def to_chat(body: bytes, at: Instant) -> Json:
    """A message as a chat completion."""
    message = read(body)
    if message.get("type") != "message":
        raise Misfit("no message")
    texts: list[str] = []
    calls: list[Json] = []
    for block in objs(message.get("content")):
        kind = block.get("type")
        if kind == "text":
            texts.append(text(block.get("text")))
        elif kind == "tool_use":
            calls.append(chat_call(block, msgspec.json.encode(obj(block.get("input"))).decode()))
        elif kind not in SILENT:
            raise Misfit(f"a {kind} block")
    why = obj(message.get("stop_details") or {}).get("explanation")
    told: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": why}
    if calls:
        told["tool_calls"] = calls
    finish = chat_finish(message.get("stop_reason"))
    choice = {"index": 0, "message": told, "logprobs": None, "finish_reason": finish}
    usage = message.get("usage")
    counted = {} if usage is None else {"usage": chat_usage(obj(usage))}
    return {**chat_head(message, "chat.completion", at), "choices": [choice], **counted}


def chat_call(block: Json, arguments: str) -> Json:
    """A tool_use block as a tool call."""
    function = {"name": text(block.get("name")), "arguments": arguments}
    return {"id": text(block.get("id")), "type": "function", "function": function}


def to_messages(body: bytes) -> Json:
    """A chat completion as a message."""
    answer = read(body)
    choices = objs(answer.get("choices"))
    if answer.get("error") or len(choices) != 1:
        raise Misfit("not one choice")
    told = obj(choices[0].get("message"))
    refusal = told.get("refusal")
    cut = choices[0].get("finish_reason") == "length"
    blocks: list[Json] = [{"type": "text", "text": text(one)} for one in (told.get("content"), refusal) if one]
    calls = [tool_use(call, cut=cut) for call in objs(told.get("tool_calls"))]
    if told.get("function_call") or told.get("audio"):
        raise Misfit("an answer of a kind that was not asked for")
    stop = messages_stop(choices[0].get("finish_reason"), calls=bool(calls), refused=bool(refusal))
    ended = {"content": [*blocks, *calls], "stop_reason": stop, "stop_details": details(stop)}
    usage = {**messages_usage(obj(answer.get("usage") or {})), **messages_tier(answer)}
    return {**messages_head(answer), **ended, "usage": usage}


def tool_use(call: Json, *, cut: bool) -> Json:
    """A tool call as a block. cut: by the output limit; arguments that break off are then an empty input."""
    function = obj(call.get("function"))
    written = text(function.get("arguments"))
    try:
        given = read(written.encode()) if written.strip() else {}
    except (msgspec.MsgspecError, Misfit):
        if not cut:
            raise
        given = {}
    return {"type": "tool_use", "id": text(call.get("id")), "name": text(function.get("name")), "input": given}
