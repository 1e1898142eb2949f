"""Anthropic Messages. Source: the types of anthropic 2.13, wire.md section 1.5. Nothing here raises.

A stream says the input's usage first (message_start) and the output's last (message_delta); a later value that is not
null replaces an earlier one, key by key, and nothing is ever added up.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.types import Api, Block, Family, Headers, Instant, Reading, Terms, View
from bursar.wire import peek, splice
from bursar.wire.finish import JSON, SSE, Finish, event
from bursar.wire.meter import PlainMeter, Tally, fault, read_whole
from bursar.wire.patch import Patching, lowered
from bursar.wire.splice import Edits
from bursar.wire.usage import UsageFacts

_peek = peek.Peek("messages")
_APART = frozenset(
    {
        "model",
        "stream",
        "metadata",
        "service_tier",
        "speed",
        "inference_geo",
        "cache_control",
        "diagnostics",
        "messages",
        "tools",
        "system",
        "output_format",
    }
)
_INLINE = frozenset({"text", "thinking", "redacted_thinking", "tool_use", "tool_result"})
_SERVER_TOOL = re.compile(r"(?!custom$|bash_|text_editor_|memory_|computer_|browser_)")
_MARK = re.compile(rb'"cache_control"\s*+:\s*+(\{[^{}]*\})')
_SHAPING = frozenset({"tool_choice", "output_format", "output_config"})
_NULL = msgspec.Raw(b"null")

_FREE = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _Details(msgspec.Struct):
    category: Any = None


class _Content(msgspec.Struct):
    type: Any = None
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    content: Any = None
    input: msgspec.Raw = _NULL
    stop_reason: Any = None
    stop_details: _Details | None = None


class _Frame(msgspec.Struct):
    """A message without its content, for one whose blocks are not of the known shape."""

    id: Any = None
    model: Any = None
    stop_reason: Any = None
    stop_details: _Details | None = None
    usage: msgspec.Raw = _NULL
    error: Any = None


class _Message(_Frame):
    content: list[_Content] | None = None


class _Event(msgspec.Struct):
    type: Any = None
    message: msgspec.Raw = _NULL
    delta: _Content | None = None
    content_block: _Content | None = None
    usage: msgspec.Raw = _NULL
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_MESSAGE = msgspec.json.Decoder(_Message)
_FRAME = msgspec.json.Decoder(_Frame)


class MessagesTally(Tally):
    """What the events of one message said, or the whole of it."""

    api: Api = "messages"

    def __init__(self, view: View, headers: Headers) -> None:
        super().__init__(view, headers)
        self._usage: peek.Members = {}
        self._category: str | None = None
        self._empty = True
        self._stopped = False

    def add(self, data: bytes) -> None:
        event = peek.read(_EVENT, data)
        kind = event.type if event is not None else None
        if event is None or kind is None:
            self.malformed += 1
        elif kind == "content_block_delta" and event.delta is not None:
            self._hear(event.delta)
        elif kind == "content_block_start" and event.content_block is not None:
            self._empty = self._empty and event.content_block.type in ("text", "thinking")
        elif kind == "message_start":
            self._take(event.message, heard=True)
        elif kind == "message_delta":
            self._merge(event.usage)
            if event.delta is not None:
                self._stop(event.delta.stop_reason, event.delta.stop_details)
        elif kind == "message_stop":
            self.terminal = True
        elif kind == "error":
            self.error = fault(event.error)

    def whole(self, body: bytes) -> None:
        self._take(body, heard=False)
        self.terminal = self._stopped = not self.malformed

    def _take(self, raw: bytes | msgspec.Raw, *, heard: bool) -> None:
        message = peek.read(_MESSAGE, raw)
        frame = message or peek.read(_FRAME, raw)
        if frame is None:
            self.malformed += 1
            return
        self.note(frame.model, frame.id)
        self._merge(frame.usage)
        self._stop(frame.stop_reason, frame.stop_details)
        if frame.error is not None:
            self.error = fault(frame.error)
        for content in (message.content if message else None) or ():
            self._empty = self._empty and content.type in ("text", "thinking")
            self._hear(content)

    def _hear(self, content: _Content) -> None:
        for text in (content.text, content.thinking, content.partial_json, content.content):
            if text:
                self._empty = False
                self.say(text)
        if content.input != _NULL:
            self.say(bytes(content.input).decode("utf-8", "replace"))

    def _stop(self, reason: Any, details: _Details | None) -> None:
        if isinstance(reason, str):
            self.finish = reason
            self._stopped = True
        if details is not None:
            self._category = str(details.category) if details.category is not None else "null"

    def _merge(self, raw: msgspec.Raw) -> None:
        for key, value in (peek.members(raw) or {}).items():
            if value != _NULL or key not in self._usage:
                self._usage[key] = value.copy()

    def final(self) -> bool:
        return self.terminal or self._stopped

    def said(self) -> Any:
        return msgspec.json.decode(self._merged()) if self._usage else None

    def raw_usage(self) -> str | None:
        return self._merged().decode("utf-8", "replace") if self._usage else None

    def _merged(self) -> bytes:
        return msgspec.json.encode(self._usage)

    def facts(self) -> UsageFacts:
        return msgspec.structs.replace(
            super().facts(),
            refusal_category=self._category,
            content_empty=self._empty,
        )


class Messages(Patching):
    """POST /v1/messages"""

    api: Api = "messages"
    family: Family = "anthropic"

    def view(self, body: bytes, path: str, headers: Headers) -> View:
        del path, headers
        seen = _peek(body)
        if seen is None:
            return View(readable=False)
        found = seen.members
        return View(
            model=peek.text(found.get("model")),
            stream=peek.flag(found.get("stream")),
            max_output_tokens=peek.count(found.get("max_tokens")),
            terms=_asked(found),
            blocks=tuple(_blocks(seen)),
            claims=tuple(peek.claims(found)),
            opaque_input=_opaque(seen),
            cache_ttl=_cache_ttl(body) if seen.marked else None,
            output_floor=1 + _budget(found) if "thinking" in found else 1,
            prose=_SHAPING.isdisjoint(found) or _prose(found),
        )

    def path(self, path: str, *, model: str | None) -> str:
        """The path as it is: the model stands in the body."""
        del model
        return path

    def _limited(self, found: peek.Members, limit: int) -> Edits:
        return lowered(found, limit, "max_tokens")

    def _tools_off(self, found: peek.Members) -> Edits:
        """Whole: a tool_choice of that type takes no other member."""
        return {"tool_choice": b'{"type":"none"}'} if peek.listed(found.get("tools")) else {}

    def _noted(self, found: peek.Members, note: str) -> Edits:
        """One more text block of the last message, behind its cache marks; no system message, which few models take.

        Not where the note would become the cached end (automatic cache_control), where the answer goes on from an
        assistant's message, or where older models drop their thinking for a text beside tool results.
        """
        messages = peek.listed(found.get("messages"))
        message = peek.members(messages[-1] if messages else None) or {}
        if peek.first(found, "cache_control") is not None or peek.text(message.get("role")) not in ("user", "system"):
            return {}
        if _budget(found) and "tool_result" in peek.tool_types(message.get("content")):
            return {}
        return _one_more_block(found, message, note)

    def _hinted(self, found: peek.Members, hint: str) -> Edits:
        """One more text block of what the user said last, behind tool results; a message of his own behind others'.

        So roles alternate, and an answer that was to go on from an assistant's words begins anew. Where thinking or a
        cached end suffers by it (see _noted) it is told all the same.
        """
        messages = peek.listed(found.get("messages"))
        message = peek.members(messages[-1] if messages else None) or {}
        edits = _one_more_block(found, message, hint) if peek.text(message.get("role")) == "user" else {}
        if edits or not messages:
            return edits
        own = msgspec.json.encode({"role": "user", "content": [{"type": "text", "text": hint}]})
        return {"messages": splice.append(bytes(found["messages"]), own)}

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> PlainMeter:
        del hide_usage
        return PlainMeter(MessagesTally(view, headers))

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        return read_whole(MessagesTally(view, headers), body)

    def finish(self, text: str, view: View, *, model: str, request_id: str, at: Instant) -> Finish:
        del at
        block = {"type": "text", "text": text}
        message: dict[str, Any] = {
            "id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": _FREE,
        }  # fmt: skip
        if not view.stream:
            return Finish(JSON, msgspec.json.encode(message | {"content": [block], "stop_reason": "max_tokens"}))
        events: tuple[dict[str, Any], ...] = (
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block | {"text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": _FREE},
            {"type": "message_stop"},
        )
        return Finish(SSE, b"".join(event(data, name=data["type"]) for data in events))

    def error(self, status: int, kind: str, message: str, code: str | None = None) -> bytes:
        """The error object; its type follows from the status, as SDKs expect, where Anthropic names one for it."""
        name = ERROR_TYPES.get(status, "api_error" if status >= 500 else kind)
        error: dict[str, Any] = {"type": name, "message": message}
        if code is not None:
            error["details"] = {"error_code": code}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": None})

    def error_event(self, message: str, kind: str) -> bytes:
        """The dialect's own "error" event, which the SDK raises."""
        name = kind if kind in ERROR_TYPES.values() else "api_error"
        error = {"type": "error", "error": {"type": name, "message": message}}
        return b"event: error\ndata: " + msgspec.json.encode(error) + b"\n\n"


def _one_more_block(found: peek.Members, message: peek.Members, said: str) -> Edits:
    """The text behind all that the last message holds; nothing where that is neither a text nor blocks."""
    content, block = message.get("content"), msgspec.json.encode({"type": "text", "text": said})
    if peek.text(content) is not None:
        array = b'[{"type":"text","text":' + bytes(message["content"]) + b"}]"
    elif peek.listed(content):
        array = bytes(message["content"])
    else:
        return {}
    last = bytes(peek.listed(found["messages"])[-1])
    told = splice.set_members(last, {"content": splice.append(array, block)}, message)
    return {"messages": splice.set_last(bytes(found["messages"]), last, told)}


def _budget(found: peek.Members) -> int:
    """What thinking may take at the most, in tokens; max_tokens has to be more. 0: no budget is set."""
    thinking = peek.members(found.get("thinking")) or {}
    return (peek.count(thinking.get("budget_tokens")) or 0) if peek.text(thinking.get("type")) == "enabled" else 0


def _prose(found: peek.Members) -> bool:
    choice = peek.members(found.get("tool_choice")) or {}
    config = peek.members(found.get("output_config")) or {}
    structured = peek.first(found, "output_format") or peek.first(config, "format")
    return structured is None and peek.text(choice.get("type")) not in ("any", "tool")


def _asked(found: peek.Members) -> Terms:
    geo = peek.text(found.get("inference_geo"))
    return Terms(region=None if geo == "global" else geo, fast=peek.text(found.get("speed")) == "fast")


def _cache_ttl(body: bytes) -> str | None:
    """What all cache marks agree on: "5m" (also where unsaid) or "1h"; None where there are none or both."""
    ttls = {b"1h" if b'"1h"' in mark else b"5m" for mark in _MARK.findall(body)}
    return ttls.pop().decode() if len(ttls) == 1 else None


def _blocks(seen: peek.Seen) -> Iterator[Block]:
    found = seen.members
    if "tools" in found:
        yield seen.block("tools", found["tools"])
    if "system" in found:
        yield seen.block("system", found["system"])
    yield from seen.messages()
    if "output_format" in found:
        yield seen.block("format", found["output_format"])
    yield from peek.params(found, _APART)


def _opaque(seen: peek.Seen) -> bool:
    found = seen.members
    if peek.first(found, "container", "mcp_servers") is not None:
        return True
    if "tools" in found and any(kind and _SERVER_TOOL.match(kind) for kind in peek.tool_types(found["tools"])):
        return True
    return seen.any_item(lambda message: peek.elsewhere(message, _INLINE))
