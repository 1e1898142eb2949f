"""A stored answer in either shape: a whole one as the stream that it would have been, a stream as the whole answer.

SDKs make the same object of either. Total: what is malformed, not complete, or has no other shape gives None. Members
that are not known survive where the other shape has a place for them.
"""

import hashlib
from collections.abc import Iterator
from typing import Protocol

import msgspec

from bursar.types import Api, View
from bursar.wire import peek, sse
from bursar.wire.gemini import GeminiCutter
from bursar.wire.replay import chat, gemini, messages, responses
from bursar.wire.replay.shape import Json, Misfit, read, text

_FAILURES = (Misfit, OverflowError, UnicodeEncodeError, *peek.UNREADABLE)


class _Shape(Protocol):
    """A dialect that streams, as a module. All of it may raise Misfit."""

    def streamed(self, answer: Json, view: View, /) -> Iterator[bytes]: ...
    def gathered(self, datas: list[bytes], /) -> Json: ...
    def calls(self, answer: Json, /) -> Iterator[tuple[Json, str]]: ...
    def flaw(self, answer: Json, /, *, tools_ok: bool) -> str | None: ...


_SHAPES: dict[Api, _Shape] = {"chat": chat, "responses": responses, "messages": messages, "gemini": gemini}


def streamed(api: Api, body: bytes, view: View) -> bytes | None:
    """The whole SSE sequence of a whole answer, the dialect's own last event included.

    view: the request that is served; a chat stream says its usage only where that asked for it.
    """
    shape = _SHAPES.get(api)
    if shape is None:
        return None
    try:
        return b"".join(shape.streamed(read(body), view))
    except _FAILURES:
        return None


def gathered(api: Api, events: bytes) -> bytes | None:
    """The whole answer that a complete stream amounts to. Of Gemini both streams are read, SSE and JSON array.

    Gemini says the end of a candidate, not of the stream: whether one more was to come, only the transport knows.
    """
    shape = _SHAPES.get(api)
    if shape is None:
        return None
    cutter: sse.Cutter = GeminiCutter() if api == "gemini" else sse.Events()
    datas = cutter.read(events)
    rest = cutter.rest().strip()
    if rest and (last := cutter.data(rest)) is not None:
        datas.append(last)
    if events.lstrip()[:1] == b"[" and events.rstrip()[-1:] != b"]":
        return None
    try:
        return msgspec.json.encode(shape.gathered(datas))
    except _FAILURES:
        return None


def as_array(events: bytes) -> bytes:
    """The same stream as the JSON array that Gemini sends to who does not ask for alt=sse."""
    return b"[" + b",\r\n".join(sse.Events().read(events)) + b"]"


def renewed(api: Api, body: bytes, seed: str) -> bytes | None:
    """The whole answer with fresh ids for the tool calls that it asks of the caller, each a hash of seed and old id.

    For a hit: providers refuse a conversation in which a call's id stands twice. seed: what differs from hit to hit,
    the request's id. An answer without calls comes back as the same object.
    """
    shape = _SHAPES.get(api)
    try:
        answer = read(body)
        found = list(shape.calls(answer)) if shape is not None else []
        for holder, key in found:
            holder[key] = _fresh(text(holder.get(key)), seed)
        return msgspec.json.encode(answer) if found else body
    except _FAILURES:
        return None


def _fresh(old: str, seed: str) -> str:
    """An id of the old one's look: its prefix, and as many hex digits as it had characters, at least 16."""
    prefix, mark, tail = old.rpartition("_")
    digest = hashlib.sha256(f"{seed}\0{old}".encode()).hexdigest()
    return prefix + mark + digest[: max(16, len(tail))]


def unstorable(api: Api, body: bytes, *, tools_ok: bool = False) -> str | None:
    """Why a whole answer (2xx) must not be stored, in a word or two; None: it may be.

    Not stored (caching.md section 4): errors, refusals, cut, empty and pending answers, those without usage, and those
    that call tools, the provider's own too, unless tools_ok. What the request says against storing is not seen here.
    """
    try:
        answer = read(body)
        if answer.get("error"):
            return "error"
        if api == "embeddings":
            return _embeddings_flaw(answer)
        shape = _SHAPES.get(api)
        return "not read" if shape is None else shape.flaw(answer, tools_ok=tools_ok)
    except _FAILURES:
        return "malformed"


def _embeddings_flaw(answer: Json) -> str | None:
    if not isinstance(answer.get("usage"), dict):
        return "no usage"
    return None if answer.get("data") else "empty"
