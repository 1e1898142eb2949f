"""A streamed answer in the caller's dialect, while it passes. Total, and the same however the bytes are cut.

Each event is translated by itself. What is malformed or does not fit becomes the caller's own error event, and after
that nothing follows. A stream that breaks off breaks off here too: its end is never made up.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from bursar.types import Api, Instant
from bursar.wire import dialect, peek, sse
from bursar.wire.replay.shape import Json, Misfit, event, obj, objs, place, read, text, update
from bursar.wire.translate import answers

FAILURES = (Misfit, OverflowError, UnicodeEncodeError, *peek.UNREADABLE)
_BROKEN = "The provider's stream could not be read."


class _Voice(Protocol):
    """Translates one event's data at a time; may raise FAILURES."""

    over: bool

    def hear(self, data: bytes, /) -> Iterator[bytes]: ...
    def end(self) -> Iterator[bytes]: ...


class Converter:
    """A stream of one dialect in, a stream of the other out."""

    def __init__(self, voice: _Voice, caller: Api) -> None:
        self._voice = voice
        self._caller = dialect.of(caller)
        self._cutter = sse.Events()
        self.broken = False
        """The provider's words could not be translated."""

    @property
    def over(self) -> bool:
        """Nothing follows."""
        return self._voice.over

    def feed(self, chunk: bytes) -> bytes:
        """The caller's events for what this chunk completes; often none."""
        return b"".join(out for data in self._cutter.read(chunk) for out in self._heard(data))

    def close(self) -> bytes:
        """The stream came to its end: what was still to be said. Not for a broken one."""
        rest = self._cutter.rest().strip()
        data = self._cutter.data(rest) if rest else None
        return b"".join([*([] if data is None else self._heard(data)), *self._heard(None)])

    def _heard(self, data: bytes | None) -> list[bytes]:
        """What an event, or the end of the stream, comes to."""
        out: list[bytes] = []
        if self._voice.over:
            return out
        try:
            for one in self._voice.end() if data is None else self._voice.hear(data):
                out.append(one)
        except FAILURES:
            self._voice.over = self.broken = True
            out.append(self._caller.error_event(_BROKEN, "api_error"))
        return out


def fault(told: Any) -> tuple[str, str]:
    """An error's words and kind, whatever it looks like."""
    found = told if isinstance(told, dict) else {"message": told}
    message, kind = found.get("message"), found.get("type")
    return message if isinstance(message, str) else _BROKEN, kind if isinstance(kind, str) else "api_error"


# --- messages in, chat out


class ChatVoice:
    """Chunks out of a message's events. usage: the caller asked for the usage chunk."""

    def __init__(self, at: Instant, *, usage: bool) -> None:
        self.over = False
        self._at = at
        self._head: Json | None = None
        self._wants_usage = usage
        self._usage: Json = {}
        self._finished = False
        self._calls = 0
        self._block: Json = {}
        self._index = -1
        self._told = False
        """Something of the open call's input was said."""

    def hear(self, data: bytes) -> Iterator[bytes]:
        told = read(data)
        kind = told.get("type")
        if kind == "ping":
            yield b": ping\n\n"
        elif kind == "error":
            self.over = True
            yield dialect.of("chat").error_event(*fault(told.get("error")))
        elif kind == "message_start":
            yield from self._start(obj(told.get("message")))
        elif kind == "content_block_start":
            yield from self._open(told)
        elif kind == "content_block_delta":
            yield from self._delta(place(told.get("index")), obj(told.get("delta")))
        elif kind == "content_block_stop":
            yield from self._stop(place(told.get("index")))
        elif kind == "message_delta":
            yield from self._finish(told)
        elif kind == "message_stop":
            yield from self._done()
        else:
            raise Misfit(f"a {kind} event")

    def end(self) -> Iterator[bytes]:
        """Nothing: a message that came to its end has said so."""
        yield from ()

    def _start(self, message: Json) -> Iterator[bytes]:
        if self._head is not None:
            raise Misfit("a second message")
        self._head = answers.chat_head(message, "chat.completion.chunk", self._at)
        update(self._usage, obj(message.get("usage") or {}))
        yield self._chunk({"role": "assistant", "content": None, "refusal": None})

    def _check(self, index: int) -> None:
        if index != self._index:
            raise Misfit("a block that is not open")

    def _open(self, told: Json) -> Iterator[bytes]:
        self._check(-1)
        self._block, self._index = obj(told.get("content_block")), place(told.get("index"))
        kind = self._block.get("type")
        if kind == "text":
            yield self._chunk({"content": text(self._block.get("text"))})
        elif kind == "tool_use":
            self._told = False
            yield self._chunk({"tool_calls": [{"index": self._calls, **answers.chat_call(self._block, "")}]})
        elif kind not in answers.SILENT:
            raise Misfit(f"a {kind} block")

    def _delta(self, index: int, delta: Json) -> Iterator[bytes]:
        self._check(index)
        kind, block = delta.get("type"), self._block.get("type")
        if kind == "text_delta" and block == "text":
            yield self._chunk({"content": text(delta.get("text"))})
        elif kind == "input_json_delta" and block == "tool_use":
            if written := text(delta.get("partial_json")):
                self._told = True
                yield self._arguments(written)
        elif block not in answers.SILENT:
            raise Misfit(f"a {kind} delta")

    def _stop(self, index: int) -> Iterator[bytes]:
        """A call that takes nothing is told without a delta; chat callers read its arguments as JSON all the same."""
        self._check(index)
        if self._block.get("type") == "tool_use":
            if not self._told:
                yield self._arguments(msgspec.json.encode(obj(self._block.get("input") or {})).decode())
            self._calls += 1
        self._block, self._index = {}, -1

    def _arguments(self, written: str) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._calls, "function": {"arguments": written}}]})

    def _finish(self, told: Json) -> Iterator[bytes]:
        update(self._usage, obj(told.get("usage") or {}))
        delta = obj(told.get("delta"))
        if delta.get("stop_reason") is not None and not self._finished:
            self._finished = True
            why = obj(delta.get("stop_details") or {}).get("explanation")
            yield self._chunk({} if why is None else {"refusal": why}, answers.chat_finish(delta["stop_reason"]))

    def _done(self) -> Iterator[bytes]:
        if not self._finished:
            raise Misfit("no stop reason")
        self.over = True
        if self._wants_usage and self._usage:
            yield event({**(self._head or {}), "choices": [], "usage": answers.chat_usage(self._usage)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        if self._head is None:
            raise Misfit("no message has begun")
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self._head, "choices": [choice], **({"usage": None} if self._wants_usage else {})})


# --- chat in, messages out


class _Track:
    """A content block to be: how it starts, and what of it waits for its turn."""

    def __init__(self, start: Json) -> None:
        self.start = start
        self.waiting: list[Json] = []


class MessagesVoice:
    """A message's events out of chunks.

    Blocks come one after the other, while the parts of chat's calls may come in any order: so the first call is passed
    on as it comes, and what begins after it waits until all is said. message_start counts 0 tokens, as chat tells its
    usage last; message_delta has the counts.
    """

    def __init__(self) -> None:
        self.over = False
        self._begun = False
        self._tracks: list[_Track] = []
        self._calls: dict[int, _Track] = {}
        self._live = 0
        self._finish: Any = None
        self._refused = False
        self._usage: Json = {}

    def hear(self, data: bytes) -> Iterator[bytes]:
        if data.strip() == b"[DONE]":
            yield from self._done()
            return
        chunk = read(data)
        if chunk.get("error"):
            self.over = True
            yield dialect.of("messages").error_event(*fault(chunk["error"]))
            return
        choices = objs(chunk.get("choices"))
        if choices and not self._begun:  # Azure's first chunk has none, nor an id
            self._begun = True
            start = {**answers.messages_head(chunk), "usage": {"input_tokens": 0, "output_tokens": 0}}
            yield _event("message_start", message=start)
        if chunk.get("usage") is not None:
            self._usage = answers.messages_usage(obj(chunk["usage"]))
        for choice in choices:
            yield from self._choice(choice)

    def end(self) -> Iterator[bytes]:
        """Some providers leave [DONE] out: an answer that has its finish reason is whole."""
        if self._finish is not None:
            yield from self._done()

    def _choice(self, choice: Json) -> Iterator[bytes]:
        if place(choice.get("index")) != 0:
            raise Misfit("more than one choice")
        delta = obj(choice.get("delta") or {})
        if delta.get("function_call") or delta.get("audio"):
            raise Misfit("an answer of a kind that was not asked for")
        self._refused = self._refused or bool(delta.get("refusal"))
        for key in ("content", "refusal"):
            if delta.get(key):
                yield from self._text(text(delta[key]))
        for call in objs(delta.get("tool_calls")):
            yield from self._call(place(call.get("index")), call)
        if choice.get("finish_reason") is not None:
            self._finish = text(choice["finish_reason"])

    def _text(self, piece: str) -> Iterator[bytes]:
        if not self._tracks or self._tracks[-1].start["type"] != "text":
            yield from self._begin(_Track({"type": "text", "text": ""}))
        yield from self._say(self._tracks[-1], {"type": "text_delta", "text": piece})

    def _call(self, number: int, call: Json) -> Iterator[bytes]:
        function = obj(call.get("function") or {})
        if number not in self._calls:
            start = {"type": "tool_use", "id": text(call.get("id")), "name": text(function.get("name")), "input": {}}
            self._calls[number] = _Track(start)
            yield from self._begin(self._calls[number])
        if written := function.get("arguments"):
            yield from self._say(self._calls[number], {"type": "input_json_delta", "partial_json": text(written)})

    def _begin(self, track: _Track) -> Iterator[bytes]:
        """Opens a block, or lets it wait for the call that is open. A text ends where something else begins."""
        self._tracks.append(track)
        last = len(self._tracks) - 1
        if last and self._live == last - 1 and self._tracks[self._live].start["type"] == "text":
            yield _event("content_block_stop", index=self._live)
            self._live = last
        if self._live == last:
            yield _event("content_block_start", index=last, content_block=track.start)

    def _say(self, track: _Track, delta: Json) -> Iterator[bytes]:
        if track is self._tracks[self._live]:
            yield _event("content_block_delta", index=self._live, delta=delta)
        else:
            track.waiting.append(delta)

    def _done(self) -> Iterator[bytes]:
        self.over = True
        for index, track in enumerate(self._tracks):
            if index > self._live:
                yield _event("content_block_start", index=index, content_block=track.start)
                for delta in track.waiting:
                    yield _event("content_block_delta", index=index, delta=delta)
            if index >= self._live:
                yield _event("content_block_stop", index=index)
        stop = answers.messages_stop(self._finish, calls=bool(self._calls), refused=self._refused)
        ended = {"stop_reason": stop, "stop_sequence": None, "stop_details": answers.details(stop)}
        yield _event("message_delta", delta=ended, usage=self._usage or answers.messages_usage({}))
        yield _event("message_stop")


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, kind)
