"""What came of an attempt: what was read, when, and how it ended."""

from typing import TypeAlias

import msgspec

from bursar.types.judging import Answer
from bursar.types.words import Headers, Instant, Terms, Usage


class Reading(msgspec.Struct, frozen=True):
    """What a meter knows about an answer, whole or cut short."""

    usage: Usage | None = None
    """None: the provider has not said (yet)."""
    partial: Usage | None = None
    """What the provider had said before the stream was cut (Anthropic: input and cache, exact); usage is None then."""
    raw_usage: str | None = None
    """The provider's usage as JSON text, as it came (merged for Anthropic streams)."""
    model: str | None = None
    terms: Terms = Terms()
    response_id: str | None = None
    finish_reason: str | None = None
    output_units: int = 0
    """The estimator's count, in tokens, of the output that was seen."""
    terminal: bool = False
    """The dialect's own last event was seen."""
    error: str | None = None
    """An error event in the stream, as "type: message", shortened."""
    pending: bool = False
    """A background response that has not ended: its usage comes later."""
    malformed: int = 0
    """Events of the stream that could not be read; they were passed on."""


class Timing(msgspec.Struct, frozen=True):
    """When an attempt was sent, gave its first byte and ended; None: it never did."""

    sent: Instant
    first_byte: Instant | None
    ended: Instant


class Completed(msgspec.Struct, frozen=True):
    """A 2xx answer that came to its end. body is None where it was streamed through to the caller.

    Of a stream that was held back to be judged it is all that the caller would have got.
    """

    status: int
    headers: Headers
    body: bytes | None
    reading: Reading
    timing: Timing
    keepable: bytes | None = None
    """The whole answer, of a plan that keeps, where it may be kept."""
    answer: Answer | None = None
    """The same as a validator sees it, of a plan that is judged; None: it cannot be read."""


class Failed(msgspec.Struct, frozen=True):
    """An error status, a transport failure, or a stream that broke. status is None where no answer came."""

    status: int | None
    headers: Headers
    body: bytes | None
    error: str
    reading: Reading
    timing: Timing
    unsent: bool = False
    """The request never left (no connection): nothing can be owed for it."""
    relayed: bool = False
    """The caller has already had the first byte: no other attempt may follow."""
    retry_after_ms: int | None = None
    cause: BaseException | None = None
    """The transport's own exception, raised again unchanged where the door is a client's transport."""


class Abandoned(msgspec.Struct, frozen=True):
    """The caller went away: what had been read by then; drained is True where the rest was read in the background."""

    status: int | None
    headers: Headers
    reading: Reading
    timing: Timing
    drained: bool = False
    keepable: bytes | None = None
    """As of a completed one: read to its end though its caller had gone."""


Outcome: TypeAlias = Completed | Failed | Abandoned
