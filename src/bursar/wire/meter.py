"""Metering a streamed answer while its bytes pass: the same objects in and out, read in batches off the relay's path.

A tally keeps what one dialect's events said; a meter cuts the stream into events and feeds it. Nothing here fails: an
event that cannot be read is counted in `malformed` and passes like any other. Bytes kept are bounded by BATCH, apart
from one unfinished event.
"""

import re
from typing import Any

import msgspec

from bursar.rules import estimate
from bursar.types import Api, Headers, Reading, Terms, Usage, View
from bursar.wire import peek
from bursar.wire.sse import Cutter, Events, only_event
from bursar.wire.usage import UsageFacts, read_terms, read_usage

BATCH = 16 << 10
"""Bytes that a meter lets lie before it reads them: a small stream is read once, at its end."""

_TEXTS = 256
"""Pieces of output that wait to be weighed together."""

_ERROR_LENGTH = 300

_NOTHING = msgspec.Raw()
_JSON: "msgspec.json.Decoder[Any]" = msgspec.json.Decoder()


def fault(error: Any) -> str:
    """ "type: message", shortened, for providers quote what the caller sent."""
    found = error if isinstance(error, dict) else {"message": error}
    name = next((found[key] for key in ("type", "status", "code") if found.get(key) not in (None, "error")), "error")
    return f"{name}: {found.get('message')}"[:_ERROR_LENGTH]


class Tally:
    """What an answer has said so far. A dialect adds how its events are read (`add`) and a whole answer (`whole`)."""

    api: Api = "other"

    def __init__(self, view: View, headers: Headers) -> None:
        self.view = view
        self.headers = headers
        self.model: str | None = None
        self.response_id: str | None = None
        self.service_tier: str | None = None
        self.finish: str | None = None
        self.error: str | None = None
        self.usage: msgspec.Raw = _NOTHING
        self.terminal = False
        self.pending = False
        self.malformed = 0
        self.hidden = False
        """The event just added is one that only we asked for."""
        self._texts: list[str] = []
        self._milli = 0

    def add(self, data: bytes) -> None:
        """One event's data."""

    def whole(self, body: bytes) -> None:
        """An answer that is one JSON object."""

    def final(self) -> bool:
        """True where the usage at hand is the provider's last word."""
        return self.terminal

    def said(self) -> Any:
        """The usage object so far, decoded, or None."""
        return peek.read(_JSON, self.usage) if self.usage else None

    def raw_usage(self) -> str | None:
        """The same as it came."""
        return bytes(self.usage).decode("utf-8", "replace") if self.usage else None

    def facts(self) -> UsageFacts:
        """What beside the usage object matters for its meaning."""
        return UsageFacts(
            model=self.model,
            stop_reason=self.finish,
            service_tier=self.service_tier,
            cache_ttl=self.view.cache_ttl,
        )

    def note(self, model: Any, response_id: Any, tier: Any = None) -> None:
        """Names as the provider gives them; a later event may correct an earlier one."""
        if isinstance(model, str) and model:
            self.model = model
        if isinstance(response_id, str) and response_id:
            self.response_id = response_id
        if isinstance(tier, str):
            self.service_tier = tier

    def say(self, text: Any) -> None:
        """Output that was seen, to be weighed."""
        if type(text) is str:
            self._texts.append(text)
            if len(self._texts) > _TEXTS:
                self._weigh()

    def _weigh(self) -> None:
        self._milli += estimate.weigh("".join(self._texts).encode("utf-8", "surrogatepass"))
        self._texts.clear()

    def reading(self) -> Reading:
        """The tally as it stands; may be asked at any time."""
        self._weigh()
        facts, said = self.facts(), self.said()
        usage: Usage | None = read_usage(self.api, said, facts) if said is not None else None
        terms: Terms = read_terms(self.api, said, facts, self.view.terms)
        final = self.final()
        return Reading(
            usage=usage if final else None,
            partial=None if final else usage,
            raw_usage=self.raw_usage(),
            model=self.model,
            terms=terms,
            response_id=self.response_id,
            finish_reason=self.finish,
            output_units=estimate.tokens(self._milli),
            terminal=self.terminal,
            error=self.error,
            pending=self.pending,
            malformed=self.malformed,
        )


def read_whole(tally: Tally, body: bytes) -> Reading:
    """An answer that came whole; one that cannot be read says so as its error."""
    tally.whole(body)
    if tally.malformed and tally.error is None:
        tally.error = "malformed: the answer is not the JSON object that its dialect promises"
    return tally.reading()


class PlainMeter:
    """Relays every chunk as it is and reads later."""

    __slots__ = ("_cutter", "_size", "_tally", "_waiting")

    def __init__(self, tally: Tally, cutter: Cutter | None = None) -> None:
        self._tally = tally
        self._cutter: Cutter = cutter or Events()
        self._waiting: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        """The same object."""
        self._waiting.append(chunk)
        self._size += len(chunk)
        if self._size >= BATCH:
            self._read()
        return chunk

    def _read(self) -> None:
        if self._waiting:
            batch = b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            add = self._tally.add
            for data in self._cutter.read(batch):
                add(data)

    def close(self) -> bytes:
        """The stream has ended: an event that lacks its blank line still counts. Nothing is held back."""
        self._read()
        finish(self._tally, self._cutter)
        return b""

    def reading(self) -> Reading:
        self._read()
        return self._tally.reading()

    @property
    def terminal(self) -> bool:
        """The dialect's last event was seen."""
        self._read()
        return self._tally.terminal

    @property
    def midway(self) -> bool:
        """What was relayed ends inside an event: two line ends must precede an event of ours."""
        self._read()
        return bool(self._cutter.tail)


class HidingMeter:
    """Relays all but the events that the tally calls hidden. Holds back no more than an event that may be one."""

    __slots__ = ("_committed", "_drop_newline", "_events", "_released", "_tally", "_visible")

    def __init__(self, tally: Tally, visible: re.Pattern[bytes]) -> None:
        """visible: what tells, found in the beginning of an event, that it will not be hidden."""
        self._tally = tally
        self._visible = visible
        self._events = Events()
        self._released = 0
        """Bytes of the unfinished event that the caller has already."""
        self._committed = False
        """There are more than comments among them: it can no longer be hidden."""
        self._drop_newline = False

    def feed(self, chunk: bytes) -> bytes:
        """The chunk itself, unless something is cut out of it or held back."""
        if not self._events.tail and not self._drop_newline and (data := only_event(chunk)) is not None:
            self._tally.add(data)
            return b"" if self._tally.hidden else chunk
        self._released -= self._events.trim()
        fresh = self._released == len(self._events.tail)
        if self._drop_newline and chunk:  # the LF of a hidden event's last CRLF, cut apart from its CR
            self._drop_newline = False
            fresh, chunk = fresh and chunk[:1] != b"\n", chunk.removeprefix(b"\n")
        out = [self._pass(event) for event in self._events.feed(chunk)]
        if tail := self._events.tail:
            out.append(self._pass_tail(tail))
        elif len(out) == 1 and fresh and len(out[0]) == len(chunk):
            return chunk
        relayed = b"".join(out)
        return chunk if fresh and len(relayed) == len(chunk) else relayed

    def _pass(self, event: bytes) -> bytes:
        released, committed = self._released, self._committed
        self._released, self._committed, self._drop_newline = 0, False, False
        data = self._events.data(event)
        if data is None:
            return event[released:]
        self._tally.add(data)
        if committed or not self._tally.hidden:
            return event[released:]
        self._drop_newline = event.endswith(b"\r")
        return _without_fields(event)[released:]

    def _pass_tail(self, tail: bytearray) -> bytes:
        self._drop_newline = False
        released, head = self._released, _head(tail)
        if not self._committed and head < len(tail):
            start = bytes(tail[head : head + _LARGEST_HIDDEN])
            self._committed = len(start) == _LARGEST_HIDDEN or self._visible.search(start) is not None
        self._released = len(tail) if self._committed else max(released, head)
        return bytes(tail[released : self._released])

    def close(self) -> bytes:
        """What was held back, the stream having ended inside an event; if that was whole after all, it stays hidden."""
        rest, released, committed = bytes(self._events.tail), self._released, self._committed
        self._released, self._committed, self._tally.hidden = 0, False, False
        event = self._events.data(rest) is not None
        finish(self._tally, self._events)
        hide = event and self._tally.hidden and not committed
        return (_without_fields(rest) if hide else rest)[released:]

    def reading(self) -> Reading:
        return self._tally.reading()

    @property
    def terminal(self) -> bool:
        """The dialect's last event was seen."""
        return self._tally.terminal

    @property
    def midway(self) -> bool:
        """What was relayed ends inside an event: two line ends must precede an event of ours."""
        return self._released > 0


class NoMeter:
    """For answers that are not read: everything passes, and the end of the bytes is the only end there is."""

    __slots__ = ("terminal",)

    midway = False

    def __init__(self) -> None:
        self.terminal = False

    def feed(self, chunk: bytes) -> bytes:
        """The same object."""
        return chunk

    def close(self) -> bytes:
        self.terminal = True
        return b""

    def reading(self) -> Reading:
        return Reading(terminal=self.terminal)


def finish(tally: Tally, cutter: Cutter) -> None:
    """What the end of the bytes left over: an event without its blank line, a plain JSON answer, or half an event."""
    rest = cutter.rest()
    broken = tally.malformed
    data = cutter.data(rest)
    if data is not None:
        tally.add(data)
    elif rest.lstrip()[:1] == b"{":
        tally.whole(rest)
    tally.malformed = broken  # half an event is the cut's fault, not the provider's


_LARGEST_HIDDEN = 16 << 10
"""Bytes. A longer unfinished event is not the usage chunk, which has a few hundred."""
_HEAD = re.compile(rb"(?:\xef\xbb\xbf)?+(?:[\r\n]|:[^\r\n]*+)*+")
_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r)?+")


def _head(event: bytes | bytearray) -> int:
    """Length of the blank lines and comments that an event's first field comes after: they are nobody's."""
    match = _HEAD.match(event)
    return match.end() if match else 0


def _without_fields(event: bytes) -> bytes:
    """What is left of a hidden event: comments and the blank lines before it."""
    head = _head(event)
    return event[:head] + b"".join(line for line in _LINE.findall(event, head) if line.startswith(b":"))
