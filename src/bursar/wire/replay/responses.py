"""OpenAI Responses in either shape. Source: the types of openai 3.57 (responses/) and its accumulator.

The terminal event carries the whole answer, so that is what a stream amounts to; where a provider leaves its output
out, the items that were told done are the output. The deltas of a replay say what the items say, in the order of types.
"""

from collections.abc import Iterator
from typing import TypeAlias

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
)

_ENDS = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
_LATER = ("completed_at", "error", "incomplete_details", "usage", "tool_usage")
"""What a response does not know before its end."""
_PHASES = {
    "web_search_call": ("in_progress", "searching"),
    "file_search_call": ("in_progress", "searching"),
    "code_interpreter_call": ("in_progress", "interpreting"),
    "image_generation_call": ("in_progress", "generating"),
    "mcp_call": ("in_progress",),
    "mcp_list_tools": ("in_progress",),
}
"""The events that tell how far a hosted tool is, before the one that tells its end."""
_WRITTEN = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "code_interpreter_call": ("code", "response.code_interpreter_call_code"),
}
"""The member of a call that comes in deltas, and the name of their events."""
_SPOKEN = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "reasoning_text": ("text", "response.reasoning_text"),
}
"""The same of a part of a content."""
_PLAIN = frozenset({"message", "reasoning", "compaction"})

_Event: TypeAlias = tuple[str, Json]


def streamed(answer: Json, view: View) -> Iterator[bytes]:
    """The events of a response that has ended."""
    del view
    for number, (kind, data) in enumerate(_told(answer)):
        yield event({"type": kind, "sequence_number": number, **data}, kind)


def _told(answer: Json) -> Iterator[_Event]:
    kind = next((kind for kind, status in _ENDS.items() if status == answer.get("status")), None)
    if kind is None or not isinstance(answer.get("output"), list):
        raise Misfit("not ended")
    unknown = {key: None for key in _LATER if key in answer}
    started = {"response": {**answer, **unknown, "status": "in_progress", "output": []}}
    yield "response.created", started
    yield "response.in_progress", started
    for index, item in enumerate(objs(answer["output"])):
        yield "response.output_item.added", {"output_index": index, "item": _begun(item)}
        yield from _item(item, {"item_id": item.get("id") or "", "output_index": index})
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield kind, {"response": answer}


def _begun(item: Json) -> Json:
    """An item that has said nothing yet."""
    kind = text(item.get("type"))
    begun = {**item, "status": "in_progress"} if isinstance(item.get("status"), str) else dict(item)
    if kind in _WRITTEN and isinstance(item.get(_WRITTEN[kind][0]), str):
        begun[_WRITTEN[kind][0]] = ""
    if kind in ("message", "reasoning"):
        begun.update((key, []) for key in ("content", "summary") if isinstance(item.get(key), list))
    return begun


def _item(item: Json, where: Json) -> Iterator[_Event]:
    """What happens between an item's beginning and its end."""
    kind = text(item.get("type"))
    if kind in ("message", "reasoning"):
        for index, part in enumerate(objs(item.get("summary"))):
            yield from _summary(part, {**where, "summary_index": index})
        for index, part in enumerate(objs(item.get("content"))):
            yield from _part(part, {**where, "content_index": index})
    for phase in _PHASES.get(kind, ()):
        yield f"response.{kind}.{phase}", where
    if kind in _WRITTEN:
        key, name = _WRITTEN[kind]
        written = item.get(key)
        if isinstance(written, str):
            yield from ((f"{name}.delta", {**where, "delta": piece}) for piece in pieces(written))
            called = {"name": item.get("name")} if kind == "function_call" else {}
            yield f"{name}.done", {**where, **called, key: written}
    if kind in _PHASES:
        failed = kind.startswith("mcp_") and (item.get("status") == "failed" or item.get("error"))
        yield f"response.{kind}.{'failed' if failed else 'completed'}", where


def _summary(part: Json, where: Json) -> Iterator[_Event]:
    said, name = text(part.get("text")), "response.reasoning_summary"
    yield f"{name}_part.added", {**where, "part": {**part, "text": ""}}
    yield from ((f"{name}_text.delta", {**where, "delta": piece}) for piece in pieces(said))
    yield f"{name}_text.done", {**where, "text": said}
    yield f"{name}_part.done", {**where, "part": part}


def _part(part: Json, where: Json) -> Iterator[_Event]:
    """A part of a content; with logprobs its text is not cut, so that they stand with what they score."""
    kind = text(part.get("type"))
    if kind not in _SPOKEN:
        raise Misfit("a part that is not known")
    key, name = _SPOKEN[kind]
    said, scores = text(part.get(key)), part.get("logprobs") or []
    scored = {"logprobs": scores} if kind == "output_text" else {}
    notes = objs(part.get("annotations"))
    empty: Json = {member: [] for member in ("annotations", "logprobs") if isinstance(part.get(member), list)}
    yield "response.content_part.added", {**where, "part": {**part, key: "", **empty}}
    for piece in [said] if scores else pieces(said):
        yield f"{name}.delta", {**where, "delta": piece, **scored}
    for number, note in enumerate(notes):
        yield "response.output_text.annotation.added", {**where, "annotation_index": number, "annotation": note}
    yield f"{name}.done", {**where, key: said, **scored}
    yield "response.content_part.done", {**where, "part": part}


def gathered(datas: list[bytes]) -> Json:
    """The response that the terminal event carries."""
    done: dict[int, Json] = {}
    answer: Json | None = None
    for data in datas:
        told = read(data)
        kind = told.get("type")
        if kind == "error" or answer is not None or not isinstance(kind, str):
            raise Misfit("an error event, or more after the end")
        if kind == "response.output_item.done":
            done[place(told.get("output_index"))] = obj(told.get("item"))
        elif kind in _ENDS:
            answer = obj(told.get("response"))
            if answer.get("status", _ENDS[kind]) != _ENDS[kind]:
                raise Misfit("an end that contradicts itself")
    if answer is None:
        raise Misfit("no end")
    return answer if isinstance(answer.get("output"), list) else {**answer, "output": list(in_order(done))}


def calls(answer: Json) -> Iterator[tuple[Json, str]]:
    """Where the ids of the caller's tools stand: (object, key), both the call's and its item's."""
    for item in objs(answer.get("output")):
        if "call_id" in item:
            yield from ((item, key) for key in ("call_id", "id") if item.get(key) is not None)


def flaw(answer: Json, *, tools_ok: bool) -> str | None:
    """Why this answer must not be stored."""
    status = answer.get("status")
    if answer.get("background") or status in ("queued", "in_progress"):
        return "pending"
    if status != "completed" or answer.get("incomplete_details"):
        reason = obj(answer.get("incomplete_details") or {}).get("reason")
        return "refusal" if reason == "content_filter" else f"cut: {reason or status}"
    if not isinstance(answer.get("usage"), dict):
        return "no usage"
    items = objs(answer.get("output"))
    parts = [part for item in items if item.get("type") == "message" for part in objs(item.get("content"))]
    if any(part.get("type") == "refusal" for part in parts):
        return "refusal"
    called = any(text(item.get("type")) not in _PLAIN for item in items)
    unfinished = (f"cut: {item['status']}" for item in items if item.get("status", "completed") != "completed")
    said = called or any(part.get("text") for part in parts)
    return first_flaw(["tool calls" if called and not tools_ok else None, *unfinished, None if said else "empty"])
