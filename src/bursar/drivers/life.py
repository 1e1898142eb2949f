"""A call's life, driven one answer at a time, and one physical attempt of it: protocol without I/O.

Both drivers share this file; they differ only in how they wait. An `await` of anything but an effect inside the engine
raises TypeError here.
"""

import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import msgspec

from bursar.effects import Effect, Send
from bursar.engine import handle
from bursar.money import divide_up
from bursar.policy import Policy
from bursar.types import (
    Abandoned,
    Call,
    Completed,
    Entry,
    Failed,
    Headers,
    Hold,
    Instant,
    Kept,
    Outcome,
    Reading,
    Standing,
    Timing,
    Verdict,
)
from bursar.wire import dialect, marks, peek, replay
from bursar.wire.dialect import Meter

Clock = Callable[[], Instant]

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "proxy-connection")
)  # fmt: skip
_LONGEST_ERROR = 500
_LARGEST_KEPT = 4 << 20
"""Bytes of an answer that is kept."""


class TransportFailure(Exception):
    """The provider could not be reached or went away. `unsent`: no byte of the request can have arrived."""

    def __init__(self, error: str, cause: BaseException | None = None, *, unsent: bool = False) -> None:
        super().__init__(error)
        self.error, self.cause, self.unsent = error[:_LONGEST_ERROR], cause, unsent


class Life:
    """The coroutine of `engine.handle`, stepped by hand."""

    __slots__ = ("_coroutine",)

    def __init__(self, call: Call, policy: Policy) -> None:
        self._coroutine = handle(call, policy)

    def step(self, answer: Any) -> Effect[Any] | Verdict:
        """Answer the last question; get the next one, or the verdict."""
        try:
            asked = self._coroutine.send(answer)
        except StopIteration as done:
            verdict: Verdict = done.value
            return verdict
        if not isinstance(asked, Effect):
            raise TypeError(f"the engine awaited {asked!r}, which is no effect")
        return asked

    def close(self) -> None:
        """Give the life up between two questions: only where the world itself failed to answer one."""
        self._coroutine.close()


class Shipment(msgspec.Struct, frozen=True):
    """What leaves for the provider. `body` is the caller's very object where no edit was needed."""

    provider: str
    path: str
    headers: Headers
    body: bytes


class Answer(msgspec.Struct, frozen=True):
    """What a driver gives its door: a verdict, or the head of a stream and the relay that carries the rest."""

    entry: Entry | None
    verdict: Verdict | None
    status: int = 0
    headers: Headers = ()
    relay: Any = None
    standing: Standing | None = None
    """For a stream: the tightest budget as the hold found it."""


class Decoder(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Books(Protocol):
    """What an attempt needs of the world: the time, and a larger hold where its input is found larger."""

    clock: Clock

    def extend(self, hold: Hold, nanos: int, tokens: int) -> None: ...


class Attempt:
    """One physical attempt: what to send, how to read what comes back, and the outcome at whichever end it meets."""

    def __init__(self, send: Send, books: Books) -> None:
        call = send.call
        self.call, self.plan, self.entry = call, send.plan, send.entry
        self._books, self._hold = books, send.hold
        self._clock = clock = books.clock
        self._extends = send.hold.learned_input is not None
        self._dialect = dialect.of(call.api)
        self._view = call.view if send.plan.marks is None else marks.as_sent(call.view, send.plan.marks)
        self._sent = clock()
        self._first: Instant | None = None
        self._status: int | None = None
        self._meter: Meter | None = None
        self._decoder: Decoder | None = None
        self._trouble: str | None = None
        self._pieces: list[bytes] | None = None if send.plan.keep is None else []
        self._gathered = 0
        self.headers: Headers = ()

    def shipment(self) -> Shipment:
        """The call as this plan sends it: patched only where the plan differs from what the caller wrote."""
        call, plan = self.call, self.plan
        model = plan.model if plan.model != call.view.model else None
        marked = call.body if plan.marks is None else marks.apply(call.api, call.body, plan.marks)
        body = self._dialect.patch(
            marked, model=model, add_usage=plan.add_usage, output_limit=plan.output_limit, tools_off=plan.tools_off,
            note=plan.note,
        )  # fmt: skip
        headers = (*[pair for pair in call.headers if pair[0] != "accept-encoding"], ("accept-encoding", "identity"))
        return Shipment(plan.provider, self._dialect.path(call.path, model=model), headers, body)

    def head(self, status: int, headers: Headers) -> bool:
        """Take the answer's head; True where its body is to be relayed as it comes, False where read whole."""
        self._status = status
        kept = tuple([pair for pair in headers if pair[0] not in HOP_BY_HOP])
        told = dict(reversed(kept))
        if told.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate"):
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
            kept = tuple((k, v) for k, v in kept if k not in ("content-encoding", "content-length"))
        if self.call.purpose != "call":
            self.headers = kept
            return False
        streams = self.call.view.stream or not told.get("content-type", "").startswith("application/json")
        if not (200 <= status < 300 and streams):
            self.headers = kept
            return False
        self._meter = self._dialect.meter(self._view, kept, hide_usage=self.plan.add_usage)
        self.headers = tuple((k, v) for k, v in kept if k != "content-length") if self.plan.add_usage else kept
        return True

    def whole(self, body: bytes) -> Outcome:
        """The outcome of an answer that was read whole."""
        self._first = self._first or self._clock()
        status, timing = self._status or 0, self._timing()
        body = self._decoded(body, last=True)
        if 200 <= status < 300:
            reading = self._dialect.read(body, self._view, self.headers)
            return Completed(status, self.headers, body, reading, timing, self._keepable(body))
        text = body[:_LONGEST_ERROR].decode("utf-8", "replace")
        return Failed(
            status, self.headers, body, f"HTTP {status}: {text}", Reading(terms=self.call.view.terms), timing,
            retry_after_ms=retry_after_ms(self.headers, timing.ended),
        )  # fmt: skip

    def first_byte(self) -> None:
        """Note the instant of the answer's first byte."""
        if self._first is None:
            self._first = self._clock()

    def feed(self, chunk: bytes) -> bytes:
        """Meter a chunk of a relayed answer; the bytes to pass on, the same object unless an edit was asked for."""
        if self._first is None:
            self._first = self._clock()
        if self._decoder is not None:
            chunk = self._decoded(chunk)
        if self._pieces is not None:
            self._gather(chunk)
        passed = self._metered().feed(chunk)
        if self._extends:
            self._extend()
        return passed

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

    def ended(self) -> tuple[bytes, Outcome]:
        """The provider's end of a relayed answer: bytes still held back, and the outcome."""
        meter = self._metered()
        tail = self._decoded(b"", last=True)
        if tail and self._pieces is not None:
            self._gather(tail)
        tail = (meter.feed(tail) if tail else b"") + meter.close()
        return tail, self._completed(meter.reading(), self._whole())

    def hung_up(self, *, drained: bool = False) -> Outcome:
        """The caller went away. After the terminal event that is no abandonment: the answer was complete."""
        reading = self._metered().reading() if self._meter is not None else Reading(terms=self.call.view.terms)
        if self.terminal and not drained:
            # An SDK stops at the last event. Gemini's is that of a candidate: another may be to come.
            return self._completed(reading, None if self.call.api == "gemini" else self._whole())
        if self._trouble is not None and reading.error is None:
            reading = msgspec.structs.replace(reading, error=self._trouble)
        whole = self._whole() if drained else None
        return Abandoned(self._status, self.headers, reading, self._timing(), drained, whole)

    def drained(self) -> Outcome:
        """The caller had gone and the rest was read in the background, to the end or as far as it went."""
        return self.hung_up(drained=self._metered().reading().usage is not None)

    def note(self, failure: BaseException) -> None:
        """A drain met this: nobody is left to be told, the row will say so."""
        self._trouble = f"the background reading ended early: {failure!r}"[:_LONGEST_ERROR]

    def broke(self, failure: TransportFailure, partial: bytes = b"") -> Outcome:
        """The transport failed: before the head, in a body that was read whole (partial), or in mid-relay."""
        reading = Reading(terms=self.call.view.terms)
        if self._meter is not None:
            reading = self._meter.reading()
        elif partial:
            reading = msgspec.structs.replace(reading, output_units=peek.spoken(partial, self._length()))
        if self.terminal:
            return self._completed(reading)
        return Failed(
            self._status, self.headers, None, failure.error, reading, self._timing(),
            unsent=failure.unsent, relayed=self._meter is not None and self._first is not None, cause=failure.cause,
        )  # fmt: skip

    def error_event(self, failure: TransportFailure) -> bytes:
        """The dialect's own way to say in mid-stream that the answer ends here."""
        event = self._dialect.error_event(f"the provider's stream broke: {failure.error}", "api_error")
        return b"\n\n" + event if self._meter is not None and self._meter.midway else event

    def _completed(self, reading: Reading, keepable: bytes | None = None) -> Outcome:
        return Completed(self._status or 0, self.headers, None, reading, self._timing(), keepable)

    def _gather(self, chunk: bytes) -> None:
        """Put a piece of the answer aside; one that grows too large is not kept."""
        self._gathered += len(chunk)
        if self._gathered > _LARGEST_KEPT:
            self._pieces = None
        elif self._pieces is not None:
            self._pieces.append(chunk)

    def _whole(self) -> bytes | None:
        """The whole answer that the stream came to, where it may be kept."""
        if self._pieces is None:
            return None
        body = replay.gathered(self.call.api, b"".join(self._pieces))
        return None if body is None else self._keepable(body)

    def _keepable(self, body: bytes) -> bytes | None:
        plan = self.plan
        if plan.keep is None or len(body) > _LARGEST_KEPT:
            return None
        return body if replay.unstorable(self.call.api, body, tools_ok=plan.keep_tools) is None else None

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
        told = next((value for name, value in self.headers if name == "content-length"), "")
        return int(told) if told.isdecimal() else None

    def _timing(self) -> Timing:
        return Timing(self._sent, self._first, self._clock())


def never_sent(call: Call, clock: Clock) -> Callable[[], Outcome]:
    """The outcome of a Send that a cancellation or an interrupt forestalled."""

    def outcome() -> Outcome:
        now, reading = clock(), Reading(terms=call.view.terms)
        return Failed(None, (), None, "cancelled before it was sent", reading, Timing(now, None, now), unsent=True)

    return outcome


def shaped(call: Call, kept: Kept) -> Kept | None:
    """A kept answer as this call asks for it; None: it has no such shape."""
    body: bytes | None = kept.body
    if kept.tools and body is not None:
        body = replay.renewed(call.api, body, call.request_id)
    if body is None or not call.view.stream:
        return None if body is None else msgspec.structs.replace(kept, body=body)
    events = replay.streamed(call.api, body, call.view)
    if events is None:
        return None
    if call.api == "gemini" and "alt=sse" not in call.path:
        return msgspec.structs.replace(kept, body=replay.as_array(events))
    return msgspec.structs.replace(kept, body=events, content_type="text/event-stream")


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
