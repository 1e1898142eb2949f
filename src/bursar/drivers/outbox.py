"""Deliveries claimed and recorded in the store's shared states: of all processes one at a time writes to a target.

A target's claims are one document. While one worker holds it, or the target has just failed, nobody else gets
anything: so messages arrive in their order. A worker that dies holds its claim until it runs out. A target that keeps
failing is left alone for longer and longer, up to an hour. Raises StoreFailure.
"""

from collections.abc import Iterable

import msgspec

from bursar.drivers.notify import Delivery
from bursar.rules.alarm.case import DELIVERIES, GIVEN_UP_US
from bursar.stores.states import Changed, States
from bursar.types import Instant

_MINUTE = 60_000_000
_LONGEST_US = 60 * _MINUTE
_REMEMBERED_US = 2 * GIVEN_UP_US
"""Longer than any message is pending, so that none is sent again."""


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """One target's claims."""

    busy_until: Instant = Instant(0)
    failures: int = 0
    """In a row."""
    done: dict[str, Instant] = {}
    """Message.key -> when it was delivered."""


class StateOutbox:
    """See notify.Outbox."""

    def __init__(self, states: States) -> None:
        self._states = states

    def claim(self, target: str, messages: tuple[str, ...], until: Instant) -> tuple[str, ...]:
        def change(body: bytes | None, now: Instant) -> Changed[tuple[str, ...]]:
            book = _read(body)
            ours = tuple(one for one in messages if one not in book.done)
            if not ours or now < book.busy_until:
                return Changed(body, ())
            return Changed(msgspec.json.encode(msgspec.structs.replace(book, busy_until=until)), ours)

        return self._states.update(DELIVERIES, "", target, change).result()

    def record(self, target: str, delivery: Delivery) -> None:
        def change(body: bytes | None, now: Instant) -> Changed[None]:
            after = _recorded(_read(body), delivery, now)
            return Changed(msgspec.json.encode(after), None, (msgspec.json.encode(delivery),))

        self._states.update(DELIVERIES, "", target, change).result()

    def delivered(self, targets: Iterable[str]) -> dict[str, frozenset[str]]:
        """By target: the messages that have reached it."""
        asked = tuple(targets)
        found = self._states.get(DELIVERIES, "", asked)
        return {target: frozenset(_read(found.get(target)).done) for target in asked}


class Probe:
    """An outbox for a message sent by hand: never held up, and only logged."""

    def __init__(self, states: States) -> None:
        self._states = states

    def claim(self, target: str, messages: tuple[str, ...], until: Instant) -> tuple[str, ...]:
        del target, until
        return messages

    def record(self, target: str, delivery: Delivery) -> None:
        line = msgspec.json.encode(delivery)
        self._states.update(DELIVERIES, "", target, lambda body, now: Changed(body, None, (line,))).result()


def _recorded(book: Book, delivery: Delivery, now: Instant) -> Book:
    done = {key: at for key, at in book.done.items() if now - at < _REMEMBERED_US}
    if delivery.status == "delivered":
        return Book(done=done | dict.fromkeys(delivery.messages, now))
    pause = min(_MINUTE << min(book.failures, 10), _LONGEST_US)
    return Book(busy_until=Instant(now + pause), failures=book.failures + 1, done=done)


def _read(body: bytes | None) -> Book:
    if body is None:
        return Book()
    try:
        return msgspec.json.decode(body, type=Book)
    except msgspec.MsgspecError:
        return Book()
