"""OpenAI Responses. Source: the types of openai 3.57 (responses/), wire.md section 1.2. Nothing here raises.

Usage comes once, in the response inside the terminal event; there is no [DONE]. A background answer may come back
queued: it is pending until someone polls it.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.types import Api, Block, Headers, Instant, Reading, View
from bursar.wire import openai_base, peek, splice
from bursar.wire.finish import JSON, SSE, Finish, event
from bursar.wire.meter import PlainMeter, Tally, fault, read_whole
from bursar.wire.patch import lowered
from bursar.wire.splice import Edits
from bursar.wire.usage import UsageFacts

_peek = peek.Peek("input")
_APART = openai_base.APART | {"input", "instructions", "tools", "text"}
_INLINE = frozenset(
    {
        "message", "input_text", "output_text", "text", "refusal",
        "reasoning", "summary_text", "reasoning_text",
        "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
        "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output",
        "apply_patch_call", "apply_patch_call_output",
    }
)  # fmt: skip
"""Types of input items and of their parts that carry what they mean."""

_SHAPING = frozenset({"text", "tool_choice"})
_FLOOR = 16
"""A smaller max_output_tokens is refused: "integer below minimum value. Expected a value >= 16"."""

_CLIENT_TOOLS = frozenset({"function", "custom", "local_shell", "shell", "apply_patch", "namespace"})
_STATE = ("previous_response_id", "conversation", "prompt")
_OPENED = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDED = frozenset({"response.completed", "response.incomplete", "response.failed"})
_RUNNING = frozenset({"queued", "in_progress"})
_NULL = msgspec.Raw(b"null")
_FREE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


class _Action(msgspec.Struct):
    type: Any = None


class _Content(msgspec.Struct):
    text: Any = None
    refusal: Any = None


class _Item(msgspec.Struct):
    type: Any = None
    action: _Action | None = None
    content: list[_Content] | None = None
    summary: list[_Content] | None = None
    arguments: Any = None
    input: Any = None
    code: Any = None


class _Reason(msgspec.Struct):
    reason: Any = None


class _Frame(msgspec.Struct):
    """A response without its output, for one whose items are not of the known shape."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    status: Any = None
    background: Any = None
    incomplete_details: _Reason | None = None
    error: Any = None
    usage: msgspec.Raw = _NULL
    tool_usage: Any = None


class _Tool(msgspec.Struct):
    type: Any = None
    model: Any = None


class _Response(_Frame):
    output: list[_Item] | None = None
    tools: list[_Tool] | None = None


class _Event(msgspec.Struct):
    type: Any = None
    delta: Any = None
    response: msgspec.Raw = _NULL
    item: msgspec.Raw = _NULL
    message: Any = None
    code: Any = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)
_FRAME = msgspec.json.Decoder(_Frame)
_ITEM = msgspec.json.Decoder(_Item)


class ResponsesTally(Tally):
    """What the events of one response said, or the whole of it."""

    api: Api = "responses"

    def __init__(self, view: View, headers: Headers) -> None:
        super().__init__(view, headers)
        self._searches = 0
        self._file_searches = 0
        self._image_model: str | None = None
        self._tool_usage: Any = None

    def add(self, data: bytes) -> None:
        event = peek.read(_EVENT, data)
        if event is None or not isinstance(event.type, str):
            self.malformed += 1
        elif event.delta is not None:
            if event.type != "response.audio.delta":
                self.say(event.delta)
        elif event.type == "response.output_item.done":
            self._count([item] if (item := peek.read(_ITEM, event.item)) else [])
        elif event.type in _OPENED or event.type in _ENDED:
            self._take(event.response, heard=True)
            self.terminal = event.type in _ENDED
        elif event.type == "error":
            self.error = fault(event.error or {"code": event.code, "message": event.message})

    def whole(self, body: bytes) -> None:
        self._take(body, heard=False)
        self.terminal = not self.pending

    def _take(self, raw: bytes | msgspec.Raw, *, heard: bool) -> None:
        response = peek.read(_RESPONSE, raw)
        frame = response or peek.read(_FRAME, raw)
        if frame is None:
            self.malformed += 1
            return
        self.note(frame.model, frame.id, frame.service_tier)
        status = frame.status if isinstance(frame.status, str) else None
        running = status in _RUNNING
        self.pending = running and (not heard or frame.background is True or self.view.background)
        reason = frame.incomplete_details.reason if frame.incomplete_details else None
        self.finish = reason if isinstance(reason, str) else None if running else status
        if frame.error is not None:
            self.error = fault(frame.error)
        if frame.usage != _NULL:
            self.usage = frame.usage.copy()
        self._tool_usage = frame.tool_usage
        if response is not None:
            self._take_items(response, heard=heard)

    def _take_items(self, response: _Response, *, heard: bool) -> None:
        for tool in response.tools or ():
            if tool.type == "image_generation" and isinstance(tool.model, str):
                self._image_model = tool.model
        if response.output:  # the terminal event lists what the stream has already told one by one
            self._searches = self._file_searches = 0
            self._count(response.output)
        if not heard:
            self._hear(response.output or [])

    def _count(self, output: list[_Item]) -> None:
        for item in output:
            if item.type == "web_search_call":
                self._searches += item.action is not None and item.action.type == "search"
            self._file_searches += item.type == "file_search_call"

    def _hear(self, output: list[_Item]) -> None:
        for item in output:
            for content in (*(item.content or ()), *(item.summary or ())):
                self.say(content.text)
                self.say(content.refusal)
            for text in (item.arguments, item.input, item.code):
                self.say(text)

    def facts(self) -> UsageFacts:
        return msgspec.structs.replace(
            super().facts(),
            tool_usage=self._tool_usage,
            search_items=self._searches,
            file_searches=self._file_searches,
            image_model=self._image_model,
        )


class Responses(openai_base.OpenAIDialect):
    """POST .../responses"""

    api: Api = "responses"

    def view(self, body: bytes, path: str, headers: Headers) -> View:
        del headers
        seen = _peek(body)
        if seen is None:
            return View(model=openai_base.deployment(path), readable=False)
        found = seen.members
        return View(
            model=openai_base.deployment(path) or peek.text(found.get("model")),
            stream=peek.flag(found.get("stream")),
            max_output_tokens=peek.count(found.get("max_output_tokens")),
            terms=openai_base.asked(found),
            blocks=tuple(_blocks(seen)),
            claims=tuple(peek.claims(found)),
            background=peek.flag(found.get("background")),
            opaque_input=_opaque(seen),
            cache_ttl=openai_base.cache_ttl(found),
            output_floor=_FLOOR,
            prose=_SHAPING.isdisjoint(found) or _prose(found),
        )

    def _limited(self, found: peek.Members, limit: int) -> Edits:
        return lowered(found, limit, "max_output_tokens")

    def _tools_off(self, found: peek.Members) -> Edits:
        return openai_base.tools_off(found)

    def _noted(self, found: peek.Members, note: str) -> Edits:
        """One more input item; not into a conversation, which would keep it."""
        given = peek.first(found, "input")
        array = None if given is None or peek.first(found, "conversation") is not None else _as_items(given)
        if array is None:
            return {}
        return {"input": splice.append(array, openai_base.note_item(peek.listed(given), note))}

    def _hinted(self, found: peek.Members, hint: str) -> Edits:
        """One more input item, the first one where a prompt or a conversation of the provider's is all the input."""
        given, item = peek.first(found, "input"), openai_base.hint_item(hint)
        if given is None:
            return {"input": b"[" + item + b"]"}
        array = _as_items(given)
        return {} if array is None else {"input": splice.append(array, item)}

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> PlainMeter:
        del hide_usage
        return PlainMeter(ResponsesTally(view, headers))

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        return read_whole(ResponsesTally(view, headers), body)

    def finish(self, text: str, view: View, *, model: str, request_id: str, at: Instant) -> Finish:
        response = _unfinished(view, model, f"resp_{request_id}", at)
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item = {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "content": [part]}
        item["status"] = "incomplete"
        reason = {"reason": "max_output_tokens"}
        whole = {**response, "status": "incomplete", "incomplete_details": reason, "output": [item], "usage": _FREE}
        if not view.stream:
            return Finish(JSON, msgspec.json.encode(whole))
        events = enumerate(_events(response, item, part, whole))
        return Finish(SSE, b"".join(event({**data, "sequence_number": n}, name=data["type"]) for n, data in events))

    def error_event(self, message: str, kind: str) -> bytes:
        """The dialect's own "error" event. Which number it has in the sequence is not known: 0."""
        event = {"type": "error", "code": kind, "message": message, "param": None, "sequence_number": 0}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _as_items(given: msgspec.Raw) -> bytes | None:
    """The input as an array of items, what it holds as it was written; None: there is nothing in it."""
    if peek.text(given) is not None:
        return b'[{"role":"user","content":' + bytes(given) + b"}]"
    return bytes(given) if peek.listed(given) else None


def _unfinished(view: View, model: str, response_id: str, at: Instant) -> dict[str, Any]:
    return {
        "id": response_id,
        "object": "response",
        "created_at": at // 1_000_000,
        "status": "in_progress",
        "background": view.background,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": view.max_output_tokens,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def _events(
    response: dict[str, Any], item: dict[str, Any], part: dict[str, Any], whole: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The stream of an answer of one message, in the provider's order."""
    at: dict[str, Any] = {"output_index": 0}
    inner = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    text = part["text"]
    yield {"type": "response.created", "response": response}
    yield {"type": "response.in_progress", "response": response}
    yield {"type": "response.output_item.added", **at, "item": {**item, "status": "in_progress", "content": []}}
    yield {"type": "response.content_part.added", **inner, "part": {**part, "text": ""}}
    yield {"type": "response.output_text.delta", **inner, "delta": text, "logprobs": []}
    yield {"type": "response.output_text.done", **inner, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **inner, "part": part}
    yield {"type": "response.output_item.done", **at, "item": item}
    yield {"type": "response.incomplete", "response": whole}


def _prose(found: peek.Members) -> bool:
    text = peek.members(found.get("text")) or {}
    return not (openai_base.structured(text.get("format")) or openai_base.forces_a_tool(found.get("tool_choice")))


def _blocks(seen: peek.Seen) -> Iterator[Block]:
    found = seen.members
    if "tools" in found:
        yield seen.block("tools", found["tools"])
    if "instructions" in found:
        yield seen.block("system", found["instructions"])
    yield from seen.messages()
    if "text" in found:
        yield seen.block("format", found["text"])
    yield from peek.params(found, _APART)


def _opaque(seen: peek.Seen) -> bool:
    found = seen.members
    if peek.first(found, *_STATE) is not None:
        return True
    if "tools" in found and not peek.tool_types(found["tools"]) <= _CLIENT_TOOLS:
        return True
    return seen.any_item(_elsewhere)


def _elsewhere(item: peek.Part) -> bool:
    """An item that gives neither type nor role names what the provider keeps."""
    kind = "message" if item.type is None and isinstance(item.role, str) else item.type
    return not isinstance(kind, str) or kind not in _INLINE or peek.elsewhere(item, _INLINE)
