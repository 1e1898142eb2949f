"""The answer that a store still owes: resolved a batch at a time, heard by threads and event loops.

Whoever waits is woken once a batch: threads one by one, an event loop by a single call into it. A loop that has closed
in the meantime has nobody left to tell: that is logged, and the books stand.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
Post = Callable[..., object]
"""How to run a function elsewhere, as post(function, *arguments): a loop's call_soon_threadsafe."""

log = logging.getLogger("bursar.stores")


class Receipt(Generic[T]):
    """Owed: a T. All receipts of one store share its gate."""

    __slots__ = ("_ears", "_error", "_gate", "_hurry", "_over", "_value")

    def __init__(self, gate: threading.Lock, hurry: Callable[[], None] | None = None) -> None:
        """hurry is called where somebody begins to wait for what the store would else take its time with."""
        self._gate, self._hurry = gate, hurry
        self._over = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._ears: list[tuple[Callable[[Receipt[T]], object], Post | None]] = []

    def done(self) -> bool:
        return self._over

    def result(self, timeout: float | None = None) -> T:
        """Block until the answer is there (TimeoutError after that many seconds); raises what the store raised."""
        if not self._over:
            bell = threading.Lock()
            bell.acquire()
            self.add_done_callback(lambda _: bell.release())
            if not bell.acquire(timeout=-1 if timeout is None else timeout):
                raise TimeoutError(f"the store gave no answer within {timeout} s")
        if self._error is not None:
            raise self._error
        return cast(T, self._value)

    def exception(self) -> BaseException | None:
        """What went wrong; None where nothing did, or not yet."""
        return self._error

    def add_done_callback(self, hear: "Callable[[Receipt[T]], object]", post: Post | None = None) -> None:
        """Call hear(self) once the answer is there: in the store's thread, or wherever post takes it."""
        with self._gate:
            if not self._over:
                self._ears.append((hear, post))
                waits = True
            else:
                waits = False
        if waits:
            if self._hurry is not None:
                self._hurry()
        elif post is None:
            hear(self)
        else:
            post(hear, self)


Answer = tuple[Receipt[Any], Any, BaseException | None]


def resolve(gate: threading.Lock, answers: Iterable[Answer]) -> None:
    """Hand out a whole batch of answers: one passage of the gate, one call into each loop."""
    heard: list[tuple[Receipt[Any], Callable[[Receipt[Any]], object], Post | None]] = []
    with gate:
        for receipt, value, error in answers:
            receipt._value, receipt._error, receipt._over = value, error, True
            heard.extend((receipt, hear, post) for hear, post in receipt._ears)
            receipt._ears.clear()
    afar: dict[Post, list[tuple[Callable[[Receipt[Any]], object], Receipt[Any]]]] = {}
    for receipt, hear, post in heard:
        if post is None:
            hear(receipt)
        else:
            afar.setdefault(post, []).append((hear, receipt))
    for post, calls in afar.items():
        try:
            post(_tell, calls)
        except RuntimeError as closed:
            log.debug("%d answers had no event loop left to go to: %s", len(calls), closed)


def _tell(calls: list[tuple[Callable[[Receipt[Any]], object], Receipt[Any]]]) -> None:
    for hear, receipt in calls:
        hear(receipt)


def hand_over(future: asyncio.Future[Any], receipt: Receipt[Any]) -> None:
    """Into the loop's own future; a waiter that was cancelled hears nothing."""
    if future.done():
        return
    fault = receipt.exception()
    if fault is not None:
        future.set_exception(fault)
    else:
        future.set_result(receipt.result())


def heard(receipt: Receipt[T]) -> asyncio.Future[T]:
    """The receipt as a future of the running loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    receipt.add_done_callback(functools.partial(hand_over, future), loop.call_soon_threadsafe)
    return future
