"""A whole answer as a validator sees it, out of any wire format: its first choice's text, calls, end and refusal.

Total: what cannot be read, or is no answer, gives None, and of None no validator says that it passes.
Sources: the types of openai 3.57, anthropic 2.13 and google-genai 3.6.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bursar.types import Answer, Api, ToolCall
from bursar.wire import peek
from bursar.wire.replay.shape import Json, Misfit, obj, objs, read, text

_FAILURES = (Misfit, OverflowError, UnicodeEncodeError, *peek.UNREADABLE)


def said(api: Api, body: bytes) -> Answer | None:
    """What this whole answer (2xx) says."""
    reader = _READERS.get(api)
    try:
        return None if reader is None else reader(read(body))
    except _FAILURES:
        return None


def _chat(answer: Json) -> Answer:
    choice = _first(answer.get("choices"))
    message = obj(choice.get("message"))
    called = [call.get("function") or call.get("custom") for call in objs(message.get("tool_calls"))]
    if message.get("function_call"):
        called.append(message["function_call"])
    return Answer(
        text=_texts(message.get("content")),
        finish_reason=_word(choice.get("finish_reason")),
        refusal=_words(message.get("refusal")),
        tool_calls=tuple(ToolCall(text(one.get("name")), _written(one)) for one in map(obj, called)),
        likeliest=_likeliest(objs(obj(choice.get("logprobs") or {}).get("content")), "top_logprobs", "logprob"),
    )


def _responses(answer: Json) -> Answer:
    """finish_reason: the status, unless the answer was cut by a filter."""
    if answer.get("output") is None:
        raise Misfit("no output")
    items = objs(answer["output"])
    parts = [part for item in items if item.get("type") == "message" for part in objs(item.get("content"))]
    spoken = [part for part in parts if part.get("type") == "output_text"]
    refused = [text(part.get("refusal")) for part in parts if part.get("type") == "refusal"]
    calls = [item for item in items if item.get("type") in ("function_call", "custom_tool_call")]
    why = obj(answer.get("incomplete_details") or {}).get("reason")
    return Answer(
        text="".join(text(part.get("text")) for part in spoken),
        finish_reason=why if why == "content_filter" else _word(answer.get("status")),
        refusal="".join(refused) or None,
        tool_calls=tuple(ToolCall(text(call.get("name")), _written(call)) for call in calls),
        likeliest=_likeliest([one for part in spoken for one in objs(part.get("logprobs"))], "top_logprobs", "logprob"),
    )


def _messages(answer: Json) -> Answer:
    if answer.get("type") != "message":
        raise Misfit("no message")
    blocks = objs(answer.get("content"))
    reason, why = answer.get("stop_reason"), obj(answer.get("stop_details") or {}).get("explanation")
    return Answer(
        text="".join(text(block.get("text")) for block in blocks if block.get("type") == "text"),
        finish_reason=_word(reason),
        refusal=_words(why) if reason == "refusal" else None,
        tool_calls=tuple(_called(block, "input") for block in blocks if block.get("type") == "tool_use"),
    )


def _gemini(answer: Json) -> Answer:
    """A blocked prompt has no candidate: the reason for that is its end."""
    blocked = obj(answer.get("promptFeedback") or {}).get("blockReason")
    if blocked and not answer.get("candidates"):
        return Answer(finish_reason=_word(blocked))
    candidate = _first(answer.get("candidates"))
    parts = objs(obj(candidate.get("content") or {}).get("parts"))
    scored = objs(obj(candidate.get("logprobsResult") or {}).get("topCandidates"))
    return Answer(
        text="".join(text(part["text"]) for part in parts if "text" in part and not part.get("thought")),
        finish_reason=_word(candidate.get("finishReason")),
        tool_calls=tuple(_called(obj(part["functionCall"]), "args") for part in parts if part.get("functionCall")),
        likeliest=_likeliest(scored, "candidates", "logProbability"),
    )


_READERS: Mapping[str, Callable[[Json], Answer]] = {
    "chat": _chat, "responses": _responses, "messages": _messages, "gemini": _gemini,
}  # fmt: skip


def _first(choices: Any) -> Json:
    """The choice with the lowest index, which need not come first."""
    found = objs(choices)
    if not found:
        raise Misfit("no choice")
    return min(found, key=lambda choice: choice["index"] if isinstance(choice.get("index"), int) else 0)


def _texts(content: Any) -> str:
    """A text, or the texts of parts, as some providers of chat send them."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(text(part["text"]) for part in objs(content) if "text" in part)


def _written(call: Json) -> str:
    """What a call was given: a function's arguments, a custom tool's input."""
    return text(call["arguments"] if "arguments" in call else call.get("input"))


def _called(call: Json, given: str) -> ToolCall:
    return ToolCall(text(call.get("name")), msgspec.json.encode(obj(call.get(given) or {})).decode())


def _word(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) else None


def _words(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _likeliest(tokens: list[Json], candidates: str, score: str) -> tuple[float, float | None] | None:
    """Of the first token's candidates the two likeliest; where only one is told, no other was worth the telling."""
    if not tokens:
        return None
    told = [one.get(score) for one in objs(tokens[0].get(candidates))]
    scores = sorted((float(one) for one in told if isinstance(one, int | float)), reverse=True)
    return (scores[0], scores[1] if len(scores) > 1 else None) if scores else None
