"""Anthropic Messages. Source: the types of anthropic 2.13, wire.md section 1.5. Nothing here raises.

A stream says the input's usage first (message_start) and the output's last (message_delta); a later value that is not
null replaces an earlier one, key by key, and nothing is ever added up.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.types import Api, Block, Family, Headers, Reading, Terms, View
from bursar.wire import peek, splice
from bursar.wire.meter import PlainMeter, Tally, fault, read_whole
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
_NULL = msgspec.Raw(b"null")

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


class Messages:
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
        )

    def path(self, path: str, *, model: str | None) -> str:
        """The path as it is: the model stands in the body."""
        del model
        return path

    def patch(self, body: bytes, *, model: str | None = None, add_usage: bool = False) -> bytes:
        """The body with that model; the same object where nothing changes."""
        del add_usage
        return splice.set_model(body, model)

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> PlainMeter:
        del hide_usage
        return PlainMeter(MessagesTally(view, headers))

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        return read_whole(MessagesTally(view, headers), body)

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
