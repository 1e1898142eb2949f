"""OpenAI Responses. Source: the types of openai 3.57 (responses/), wire.md section 1.2. Nothing here raises.

Usage comes once, in the response inside the terminal event; there is no [DONE]. A background answer may come back
queued: it is pending until someone polls it.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.types import Api, Block, Headers, Reading, View
from bursar.wire import openai_base, peek
from bursar.wire.meter import PlainMeter, Tally, fault, read_whole
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

_CLIENT_TOOLS = frozenset({"function", "custom", "local_shell", "shell", "apply_patch", "namespace"})
_STATE = ("previous_response_id", "conversation", "prompt")
_OPENED = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDED = frozenset({"response.completed", "response.incomplete", "response.failed"})
_RUNNING = frozenset({"queued", "in_progress"})
_NULL = msgspec.Raw(b"null")


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
        )

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> PlainMeter:
        del hide_usage
        return PlainMeter(ResponsesTally(view, headers))

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        return read_whole(ResponsesTally(view, headers), body)

    def error_event(self, message: str, kind: str) -> bytes:
        """The dialect's own "error" event. Which number it has in the sequence is not known: 0."""
        event = {"type": "error", "code": kind, "message": message, "param": None, "sequence_number": 0}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


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
