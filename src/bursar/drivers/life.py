"""A call's life, driven one answer at a time: protocol without I/O, and what doors and drivers hand each other.

Both drivers share this file; they differ only in how they wait. An `await` of anything but an effect inside the engine
raises TypeError here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol

import msgspec

from bursar.effects import Effect, Reserve, Send
from bursar.engine import NOTHING, beside, handle
from bursar.policy import Policy
from bursar.stores.base import StoreFailure
from bursar.types import (
    Abandoned,
    Call,
    Completed,
    Entry,
    Failed,
    Headers,
    Instant,
    Kept,
    Outcome,
    Plan,
    Reading,
    Refused,
    Standing,
    Timing,
    Verdict,
)
from bursar.wire import replay

Clock = Callable[[], Instant]

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "proxy-connection")
)  # fmt: skip
LONGEST_ERROR = 500


class TransportFailure(Exception):
    """The provider could not be reached or went away. `unsent`: no byte of the request can have arrived."""

    def __init__(self, error: str, cause: BaseException | None = None, *, unsent: bool = False) -> None:
        super().__init__(error)
        self.error, self.cause, self.unsent = error[:LONGEST_ERROR], cause, unsent


class Life:
    """The coroutine of `engine.handle`, stepped by hand; with a plan, of a call behind another: `engine.beside`."""

    __slots__ = ("_answered", "_asked", "_coroutine", "_purpose")

    def __init__(self, call: Call, policy: Policy, plan: Plan | None = None) -> None:
        self._coroutine = handle(call, policy) if plan is None else beside(call, plan, NOTHING, policy)
        self._purpose = call.purpose
        self._asked: Effect[Any] | None = None
        self._answered = False
        """There is an answer of the call's own, paid for."""

    def step(self, answer: Any) -> Effect[Any] | Verdict:
        """Answer the last question; get the next one, or the verdict."""
        if isinstance(answer, Completed) and isinstance(self._asked, Send):
            self._answered = self._answered or self._asked.call.purpose == self._purpose
        try:
            asked = self._coroutine.send(answer)
        except StopIteration as done:
            verdict: Verdict = done.value
            return verdict
        if not isinstance(asked, Effect):
            raise TypeError(f"the engine awaited {asked!r}, which is no effect")
        self._asked = asked
        return asked

    def unheld(self, failure: StoreFailure) -> Refused:
        """What a Reserve is answered with that the ledger could not take: nothing more is sent, and what there is of
        an answer is given. Raises the failure where there is none."""
        if not (self._answered and isinstance(self._asked, Reserve)):
            raise failure
        return Refused(f"the ledger cannot be written, so nothing more was sent: {failure}")

    def close(self) -> None:
        """Give the life up between two questions: only where the world itself failed to answer one."""
        self._coroutine.close()


class Shipment(msgspec.Struct, frozen=True):
    """What leaves for the provider. `body` is the caller's very object where no edit was needed."""

    provider: str
    path: str
    headers: Headers
    body: bytes
    home: bool = False
    """It is the provider that the caller has addressed himself: a credential of his among the headers is for it."""


class Exchange(Protocol):
    """An answer under way: its head, and its body as it comes. chunks() raises TransportFailure."""

    status: int
    headers: Headers

    def chunks(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


Upstream = Callable[[Shipment], Exchange]
"""The door's way to the provider; raises TransportFailure where no head comes back."""


class AsyncExchange(Protocol):
    """An answer under way: its head, and its body as it comes. chunks() raises TransportFailure."""

    status: int
    headers: Headers

    def chunks(self) -> AsyncIterator[bytes]: ...
    async def close(self) -> None: ...
    def rest(self) -> bytes:
        """What has arrived and was not read yet: generated, and so owed, though nobody will see it."""
        ...


AsyncUpstream = Callable[[Shipment], Awaitable[AsyncExchange]]
"""The door's way to the provider; raises TransportFailure where no head comes back."""


class Answer(msgspec.Struct, frozen=True):
    """What a driver gives its door: a verdict, or the head of a stream and the relay that carries the rest."""

    entry: Entry | None
    verdict: Verdict | None
    status: int = 0
    headers: Headers = ()
    relay: Any = None
    standing: Standing | None = None
    """For a stream: the tightest budget as the hold found it."""


def never_sent(call: Call, clock: Clock) -> Callable[[], Outcome]:
    """The outcome of a Send that a cancellation or an interrupt forestalled."""

    def outcome() -> Outcome:
        now, reading = clock(), Reading(terms=call.view.terms)
        return Failed(None, (), None, "cancelled before it was sent", reading, Timing(now, None, now), unsent=True)

    return outcome


def unheard(outcome: Outcome) -> Outcome:
    """The outcome of an answer that was read to its end though its caller had left: nothing follows from it."""
    if not isinstance(outcome, Completed):
        return outcome
    return Abandoned(outcome.status, outcome.headers, outcome.reading, outcome.timing, True, outcome.keepable)


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
