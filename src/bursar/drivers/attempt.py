"""One physical attempt: what to send, how to read what comes back, and the outcome at whichever end it meets. No I/O.

The provider's own bytes are metered; the caller gets what the passage makes of them. An answer that is read whole, a
stream that is to be judged too, is kept here piece by piece: of a broken one what had come is booked.
"""

import zlib
from email.utils import parsedate_to_datetime
from typing import Protocol

import msgspec

from bursar.drivers import passage
from bursar.drivers.life import HOP_BY_HOP, LONGEST_ERROR, Clock, Shipment, TransportFailure
from bursar.effects import Send
from bursar.money import divide_up
from bursar.types import Abandoned, Completed, Failed, Headers, Hold, Instant, Outcome, Reading, Timing
from bursar.wire import dialect, peek, replay
from bursar.wire.dialect import Meter
from bursar.wire.said import said
from bursar.wire.translate import Stream

_LARGEST_KEPT = 4 << 20
"""Bytes of an answer that is kept."""
_UNTRANSLATED = "the provider's answer could not be translated into the caller's wire format"


class Decoder(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Books(Protocol):
    """What an attempt needs of the world: the time, and a larger hold where its input is found larger."""

    clock: Clock

    def extend(self, hold: Hold, nanos: int, tokens: int) -> None: ...


class Attempt:
    """One Send."""

    def __init__(self, send: Send, books: Books) -> None:
        self.call, self.plan, self.entry = send.call, send.plan, send.entry
        self._books, self._hold = books, send.hold
        self._clock = clock = books.clock
        self._extends = send.hold.learned_input is not None
        self._way = passage.of(send.call, send.plan)
        self._sent = clock()
        self._first: Instant | None = None
        self._status: int | None = None
        self._told: Headers = ()
        """The provider's headers; `headers` are the caller's."""
        self._meter: Meter | None = None
        self._voice: Stream | None = None
        self._decoder: Decoder | None = None
        self._trouble: str | None = None
        self._relays = False
        self._read: list[bytes] = []
        """An answer that is not relayed: as it came, or of a stream what the caller would have got."""
        self._pieces: list[bytes] | None = None if send.plan.keep is None and not send.plan.judged else []
        """A streamed answer as the provider said it, where it is kept or judged."""
        self._gathered = 0
        self.headers: Headers = ()

    def shipment(self) -> Shipment:
        """The call as this plan sends it; TransportFailure where it cannot be sent so."""
        return self._way.ship()

    def head(self, status: int, headers: Headers) -> bool:
        """Take the answer's head; True where its body is to be relayed as it comes, False where read whole."""
        self._status = status
        kept = tuple([pair for pair in headers if pair[0] not in HOP_BY_HOP])
        told = dict(reversed(kept))
        if told.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate"):
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
            kept = tuple((k, v) for k, v in kept if k not in ("content-encoding", "content-length"))
        self._told = kept
        json, own = told.get("content-type", "").startswith("application/json"), self.call.purpose == "call"
        streams = 200 <= status < 300 and (own or self.call.view.stream) and self._way.streams(json=json)
        self.headers = self._way.head(kept, stream=streams)
        if streams:
            self._meter = dialect.of(self._way.api).meter(self._way.view, kept, hide_usage=self.plan.add_usage)
            self._voice = self._way.opened(self._clock())
        self._relays = streams and own and not self.plan.judged
        return self._relays

    # --- read whole

    def take(self, piece: bytes) -> None:
        """A piece of an answer that is not relayed."""
        self._note_first()
        self._read.append(piece if self._meter is None else self.feed(piece))

    def whole(self) -> Outcome:
        """The outcome of an answer that was read whole."""
        self._note_first()
        if self._meter is not None:
            return self.ended()[1]
        status, timing = self._status or 0, self._timing()
        body = self._decoded(b"".join(self._read), last=True)
        if not 200 <= status < 300:
            text = body[:LONGEST_ERROR].decode("utf-8", "replace")
            return Failed(
                status, self.headers, self._way.error(body, status), f"HTTP {status}: {text}",
                Reading(terms=self._way.view.terms), timing, retry_after_ms=retry_after_ms(self._told, timing.ended),
            )  # fmt: skip
        reading = dialect.of(self._way.api).read(body, self._way.view, self._told)
        told = self._way.whole(body, timing.ended)
        if told is None:  # paid for, and no answer
            return Failed(status, self.headers, None, _UNTRANSLATED, reading, timing)
        answer = said(self._way.api, body) if self.plan.judged or self.call.purpose == "judge" else None
        return Completed(status, self.headers, told, reading, timing, self._keepable(told), answer)

    # --- relayed

    def feed(self, chunk: bytes) -> bytes:
        """Meter a chunk of a streamed answer; the bytes to pass on, the same object unless an edit was asked for."""
        if self._first is None:
            self._first = self._clock()
        if self._decoder is not None:
            chunk = self._decoded(chunk)
        if self._pieces is not None:
            self._gather(chunk)
        passed = self._metered().feed(chunk)
        if self._extends:
            self._extend()
        return passed if self._voice is None else self._voice.feed(passed)

    def _extend(self) -> None:
        """Hold the input as the provider has counted it, where it says so at the stream's beginning."""
        partial = self._metered().reading().partial
        if partial is None or partial.input_tokens is None:
            return
        self._extends = False
        more = partial.input_tokens - (self._hold.learned_input or 0)
        if more > 0:
            self._books.extend(self._hold, divide_up(more * self._hold.input_rate, 1_000_000), more)

    @property
    def terminal(self) -> bool:
        """The dialect's own last event has passed: whatever the caller does now, the answer is complete."""
        return self._meter is not None and self._meter.terminal

    @property
    def over(self) -> bool:
        """Nothing is to come that anybody waits for. Gemini's last event is that of a candidate: another may be."""
        return self._way.api != "gemini" and self.terminal

    def ended(self) -> tuple[bytes, Outcome]:
        """The provider's end of a streamed answer: bytes still held back, and the outcome."""
        meter = self._metered()
        tail = self._decoded(b"", last=True)
        if tail and self._pieces is not None:
            self._gather(tail)
        tail = (meter.feed(tail) if tail else b"") + meter.close()
        if self._voice is not None:
            tail = self._voice.feed(tail) + self._voice.close()
        if not self._relays:
            self._read.append(tail)
        return tail, self._completed(self._reading(), self._gathered_whole())

    def hung_up(self, *, drained: bool = False) -> Outcome:
        """The caller went away. After the terminal event that is no abandonment: the answer was complete.

        But of one that was not his yet: nothing is to be judged, and no other tried, for nobody.
        """
        reading = self._reading()
        if self.terminal and self._relays and not drained:
            return self._complete_by_event(reading)
        if self._trouble is not None and reading.error is None:
            reading = msgspec.structs.replace(reading, error=self._trouble)
        keepable = self._kept(self._gathered_whole()) if drained else None
        return Abandoned(self._status, self.headers, reading, self._timing(), drained, keepable)

    def drained(self) -> Outcome:
        """The caller had gone and the rest was read in the background, to the end or as far as it went."""
        return self.hung_up(drained=self._metered().reading().usage is not None)

    def note(self, failure: BaseException) -> None:
        """A drain met this: nobody is left to be told, the row will say so."""
        self._trouble = f"the background reading ended early: {failure!r}"[:LONGEST_ERROR]

    def broke(self, failure: TransportFailure) -> Outcome:
        """The transport failed: before the head, in a body that was read whole, or in mid-relay."""
        reading = self._reading()
        if self.terminal:
            return self._complete_by_event(reading)
        return Failed(
            self._status, self.headers, None, failure.error, reading, self._timing(),
            unsent=failure.unsent, relayed=self._relays and self._first is not None, cause=failure.cause,
        )  # fmt: skip

    def error_event(self, failure: TransportFailure) -> bytes:
        """The caller's dialect's own way to say in mid-stream that the answer ends here, if it was not said yet."""
        event = dialect.of(self.call.api).error_event(f"the provider's stream broke: {failure.error}", "api_error")
        if self._voice is not None:  # says whole events only
            return b"" if self._voice.over else event
        return b"\n\n" + event if self._meter is not None and self._meter.midway else event

    # --- outcomes

    def _reading(self) -> Reading:
        """What is known by now."""
        if self._meter is None:
            units = peek.spoken(b"".join(self._read), self._length()) if self._read else 0
            return Reading(terms=self._way.view.terms, output_units=units)
        reading = self._meter.reading()
        if self._voice is not None and self._voice.broken and reading.error is None:
            return msgspec.structs.replace(reading, error=_UNTRANSLATED)
        return reading

    def _complete_by_event(self, reading: Reading) -> Outcome:
        """An SDK stops at the last event."""
        return self._completed(reading, self._gathered_whole() if self.over else None)

    def _completed(self, reading: Reading, whole: bytes | None) -> Outcome:
        """A stream's end. whole: the provider's answer that it came to.

        An error event in one that nobody has had a byte of is an error like any other: another attempt may follow.
        """
        if reading.error is not None and not self._relays:
            return Failed(self._status, self.headers, None, reading.error, reading, self._timing())
        return Completed(
            self._status or 0, self.headers, None if self._relays else b"".join(self._read), reading, self._timing(),
            self._kept(whole), said(self._way.api, whole) if self.plan.judged and whole is not None else None,
        )  # fmt: skip

    def _gather(self, chunk: bytes) -> None:
        """Put a piece of the answer aside; one that grows too large is not kept."""
        self._gathered += len(chunk)
        if self._gathered > _LARGEST_KEPT and not self.plan.judged:
            self._pieces = None
        elif self._pieces is not None:
            self._pieces.append(chunk)

    def _gathered_whole(self) -> bytes | None:
        return None if self._pieces is None else replay.gathered(self._way.api, b"".join(self._pieces))

    def _kept(self, whole: bytes | None) -> bytes | None:
        """The provider's whole answer as the caller has it, where it may be kept."""
        if whole is None or self.plan.keep is None:
            return None
        told = self._way.whole(whole, self._clock())
        return None if told is None else self._keepable(told)

    def _keepable(self, body: bytes) -> bytes | None:
        plan = self.plan
        if plan.keep is None or len(body) > _LARGEST_KEPT:
            return None
        return body if replay.unstorable(self.call.api, body, tools_ok=plan.keep_tools) is None else None

    # --- bytes and time

    def _metered(self) -> Meter:
        if self._meter is None:
            raise RuntimeError("a body was fed before its head was taken")
        return self._meter

    def _decoded(self, data: bytes, *, last: bool = False) -> bytes:
        if self._decoder is None:
            return data
        try:
            plain = self._decoder.decompress(data)
            return plain + self._decoder.flush() if last else plain
        except zlib.error as fault:
            raise TransportFailure(f"the answer's compression is broken: {fault}", fault) from fault

    def _length(self) -> int | None:
        """The body's length in bytes, where the head told it."""
        told = next((value for name, value in self._told if name == "content-length"), "")
        return int(told) if told.isdecimal() else None

    def _note_first(self) -> None:
        if self._first is None:
            self._first = self._clock()

    def _timing(self) -> Timing:
        return Timing(self._sent, self._first, self._clock())


def retry_after_ms(headers: Headers, now: Instant) -> int | None:
    """What the provider asks to wait: retry-after-ms, else retry-after in seconds or as an HTTP date; None: nothing."""
    told = dict(headers)
    for name, scale in (("retry-after-ms", 1.0), ("retry-after", 1000.0)):
        try:
            return max(0, int(float(told[name]) * scale))
        except (KeyError, ValueError, OverflowError):
            continue
    return _until_date(told.get("retry-after", ""), now)


def _until_date(text: str, now: Instant) -> int | None:
    try:
        return max(0, int(parsedate_to_datetime(text).timestamp() * 1000) - now // 1000)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
