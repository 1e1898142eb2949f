"""Chat Completions in either shape. Source: the types of openai 3.57 and how its accumulator adds deltas up.

A stream says a choice's text, calls and logprobs in parts that are joined, and everything else once or as it stands at
last. Audio has no other shape: what is streamed is raw PCM.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from bursar.types import View
from bursar.wire.replay.shape import (
    Json,
    Misfit,
    event,
    first_flaw,
    in_order,
    obj,
    objs,
    pieces,
    place,
    read,
    text,
    update,
    without,
)

_WHOLE, _CHUNK = "chat.completion", "chat.completion.chunk"
_HEAD = ("id", "created", "model", "service_tier", "system_fingerprint")
"""What every chunk repeats; what is not among them stands in the first one."""
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_CALLS = ("tool_calls", "function_call")
_SPOKEN = (("function", "arguments"), ("custom", "input"))
_NAMES = frozenset({"role", "id", "type", "index"})
"""Members that are said again, not added to."""


def streamed(answer: Json, view: View) -> Iterator[bytes]:
    """The chunks of an answer; its usage only for a caller who asked for it."""
    if answer.get("object", _WHOLE) != _WHOLE or answer.get("error"):
        raise Misfit("no completion")
    usage, moderation = answer.get("usage") if view.wants_usage else None, answer.get("moderation")
    head = {key: answer[key] for key in _HEAD if key in answer} | {"object": _CHUNK}
    once = without(answer, "object", "choices", "usage", *_HEAD, *(["moderation"] if moderation else []))
    tail = {} if usage is None else {"usage": None}
    choices = objs(answer.get("choices"))
    if [choice.get("index") for choice in choices] != list(range(len(choices))) or not choices:
        raise Misfit("choices out of order")
    for choice in choices:
        for step in _steps(choice):
            yield event({**head, **once, "choices": [step], **tail})
            once = {}
    if moderation:
        yield event({**head, "choices": [], "moderation": moderation, **tail})
    if usage is not None:
        yield event({**head, "choices": [], "usage": obj(usage)})
    yield b"data: [DONE]\n\n"


def _steps(choice: Json) -> Iterator[Json]:
    """The choice as its chunks have it: the logprobs with the text, which then is not cut.

    Never in the choice's first chunk: of a second choice the SDK's helper would count them twice.
    """
    finish, logprobs = text(choice.get("finish_reason")), choice.get("logprobs")
    quiet = {"logprobs": None} if "logprobs" in choice else {}
    once = without(choice, "index", "message", "logprobs", "finish_reason")
    deltas = [*_deltas(obj(choice.get("message")), in_one=logprobs is not None), {}]
    for number, delta in enumerate(deltas, 1):
        scored = {"logprobs": logprobs} if logprobs is not None and number == 2 else quiet
        ended = finish if number == len(deltas) else None
        yield {"index": choice["index"], "delta": delta, **scored, "finish_reason": ended, **once}
        once = {}


def _deltas(message: Json, *, in_one: bool) -> Iterator[Json]:
    """The message's deltas: its role and empty text, the text, the calls, then whatever else it has."""
    if message.get("audio") is not None:
        raise Misfit("audio")
    said = {key: message[key] for key in _TEXTS if isinstance(message.get(key), str)}
    calls = [key for key in _CALLS if message.get(key)]
    plain = {key: value for key, value in message.items() if key not in said and key not in calls}
    yield {key: value for key, value in plain.items() if key == "role" or not value} | dict.fromkeys(said, "")
    for key, words in said.items():
        yield from ({key: piece} for piece in ([words] if in_one and words else pieces(words)))
    if "tool_calls" in calls:
        for number, call in enumerate(objs(message["tool_calls"])):
            for part in _call(call):
                yield {"tool_calls": [{"index": number, **part}]}
    if "function_call" in calls:
        for part in _call({"function": message["function_call"]}):
            yield {"function_call": part["function"]}
    if late := {key: value for key, value in plain.items() if key != "role" and value}:
        yield late


def _call(call: Json) -> Iterator[Json]:
    spoken = [(kind, key, obj(call[kind])) for kind, key in _SPOKEN if call.get(kind) is not None]
    yield without(call, "index") | {kind: {**body, key: ""} for kind, key, body in spoken}
    for kind, key, body in spoken:
        yield from ({kind: {key: piece}} for piece in pieces(text(body.get(key))))


def gathered(datas: list[bytes]) -> Json:
    """The completion that the chunks amount to, which must have come to [DONE] with every choice finished."""
    answer: Json = {}
    told: defaultdict[int, list[Json]] = defaultdict(list)
    for data in datas:
        if data.lstrip().startswith(b"[DONE]"):
            break
        chunk = read(data)
        if chunk.get("error"):
            raise Misfit("an error event")
        for choice in objs(chunk.get("choices")):
            told[place(choice.get("index"))].append(choice)
        update(answer, without(chunk, "choices", "obfuscation"))
    else:
        raise Misfit("no [DONE]")
    if not told:
        raise Misfit("no choices")
    if answer.get("usage") is None:
        answer.pop("usage", None)
    return {**answer, "object": _WHOLE, "choices": [_choice(parts) for parts in in_order(told)]}


def _choice(parts: list[Json]) -> Json:
    choice: Json = {"message": _joined([obj(part.get("delta") or {}) for part in parts])}
    if scored := [part["logprobs"] for part in parts if "logprobs" in part]:
        choice["logprobs"] = _joined(scored)
    for part in parts:
        if "message" in part:
            raise Misfit("a chunk with a message")
        update(choice, without(part, "delta", "logprobs"))
    text(choice.get("finish_reason"))
    if choice["message"].get("audio") is not None:
        raise Misfit("audio")
    return choice


def _joined(values: list[Any], key: str = "") -> Any:
    """What a member comes to that was said in these parts: texts and arrays on end, objects member by member."""
    told = [value for value in values if value is not None]
    if key == "tool_calls" and told:
        return _calls([call for calls in told for call in objs(calls)])
    if len(told) < 2 and not (told and isinstance(told[0], dict)):
        return told[0] if told else None
    if key in _NAMES:
        return _agreed([value for value in told if value != ""] or told)
    if all(isinstance(value, str) for value in told):
        return "".join(told)
    if all(isinstance(value, dict) for value in told):
        keys = dict.fromkeys(name for value in told for name in value)
        return {name: _joined([value[name] for value in told if name in value], name) for name in keys}
    if all(isinstance(value, list) for value in told):
        return _listed([one for value in told for one in value])
    return _agreed(told)


def _agreed(told: list[Any]) -> Any:
    if any(value != told[0] for value in told):
        raise Misfit("said twice, and not the same")
    return told[0]


def _calls(parts: list[Json]) -> list[Json]:
    return [without(call, "index") for call in _by_index(parts)]


def _listed(parts: list[Any]) -> list[Any]:
    """Entries that name their index are parts of one entry, as with reasoning_details."""
    if parts and all(isinstance(part, dict) and "index" in part for part in parts):
        return _by_index(parts)
    return parts


def _by_index(parts: list[Json]) -> list[Json]:
    found: defaultdict[int, list[Json]] = defaultdict(list)
    for part in parts:
        found[place(part.get("index"))].append(part)
    return [_joined(told) for told in in_order(found)]


def flaw(answer: Json, *, tools_ok: bool) -> str | None:
    """Why this answer must not be stored."""
    choices = objs(answer.get("choices"))
    if not choices or not isinstance(answer.get("usage"), dict):
        return "no usage" if choices else "empty"
    return first_flaw(_choice_flaw(choice, tools_ok=tools_ok) for choice in choices)


def calls(answer: Json) -> Iterator[tuple[Json, str]]:
    """Where the ids of the caller's tools stand: (object, key)."""
    for choice in objs(answer.get("choices")):
        for call in objs(obj(choice.get("message")).get("tool_calls")):
            yield call, "id"


def _choice_flaw(choice: Json, *, tools_ok: bool) -> str | None:
    message, finish = obj(choice.get("message")), choice.get("finish_reason")
    called = any(message.get(key) for key in _CALLS)
    if message.get("refusal") or finish == "content_filter":
        return "refusal"
    if finish not in ("stop", "tool_calls", "function_call"):
        return f"cut: {finish}"
    if called:
        return None if tools_ok else "tool calls"
    return None if message.get("content") and finish == "stop" else "empty"
