"""The blocking driver: lives calls in the caller's thread. What differs from aio.py is only how it waits.

If the store cannot answer a Reserve nothing is sent and its failure reaches the door, unless there is an answer to be
given already. Once bytes have left, every end
(the last byte, an error, close, garbage collection, an interrupt) settles exactly once.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bursar.drivers.attempt import Attempt
from bursar.drivers.auditor import Auditor, read
from bursar.drivers.life import Answer, Exchange, Life, TransportFailure, Upstream, never_sent
from bursar.drivers.world import StoreWorld
from bursar.effects import Audit, Effect, Join, Reserve, Send
from bursar.policy import Drain, Policy
from bursar.rules import hangup
from bursar.stores.base import StoreFailure
from bursar.types import Call, Outcome, Verdict


class Driver:
    """Lives calls on one world; keeps what streams and what drains, so that close() leaves nothing unsettled."""

    def __init__(self, world: StoreWorld, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.drains = Drains(policy.drain)
        self.audits = Auditor(world)

    def serve(self, call: Call, upstream: Upstream, policy: Policy | None = None) -> Answer:
        """Live the call: an Answer with the verdict, or with a relay in which the life is parked.

        policy: the driver's own, with another rule for the call's step; None: as it is.
        """
        run = _Run(self, call, upstream, policy or self.policy)
        return run.drive(run.life.step(None))

    def wait(self, seconds: float) -> None:
        """Give running drains and audits that long to end."""
        limit = time.monotonic() + seconds
        self.drains.wait(seconds)
        self.audits.wait(max(0.0, limit - time.monotonic()))

    def close(self, seconds: float = 5.0) -> None:
        """Wait that long for what is under way behind the calls; then settle the rest by what was seen of it."""
        limit = time.monotonic() + seconds
        self.drains.close(seconds)
        self.audits.close(max(0.0, limit - time.monotonic()))
        self.world.close(seconds)


class _Run:
    """One call under way."""

    __slots__ = ("call", "driver", "life", "policy", "upstream")

    def __init__(self, driver: Driver, call: Call, upstream: Upstream, policy: Policy) -> None:
        self.driver, self.call, self.upstream, self.policy = driver, call, upstream, policy
        self.life = Life(call, policy)

    def drive(self, asked: Effect[Any] | Verdict) -> Answer:
        world, life = self.driver.world, self.life
        try:
            while not isinstance(asked, Verdict):
                if isinstance(asked, Send):
                    sent = self._send(asked)
                    if isinstance(sent, Answer):
                        return sent
                    asked = life.step(sent)
                elif isinstance(asked, Audit):
                    self.driver.audits.ask(asked, self.upstream, self.policy)
                    asked = life.step(None)
                else:
                    asked = life.step(self._performed(asked))
        except BaseException as fault:
            if isinstance(asked, Reserve | Join) and not isinstance(fault, Exception):
                # Interrupted while it waited: what was or will be granted must not stay held.
                world.conclude(life, asked, never_sent(self.call, world.clock))
            life.close()
            world.flights.leave(self.call.request_id)
            raise
        return Answer(asked.entry, asked, standing=asked.standing)

    def _performed(self, asked: Effect[Any]) -> Any:
        try:
            return self.driver.world.perform(asked)
        except StoreFailure as failure:
            return self.life.unheld(failure)

    def _send(self, send: Send) -> Outcome | Answer:
        attempt = Attempt(send, self.driver.world)
        try:
            exchange = self.upstream(attempt.shipment())
            if attempt.head(exchange.status, exchange.headers):
                parked = _Parked(self, attempt, exchange, self._chunks(exchange))
                return Answer(send.entry, None, exchange.status, attempt.headers, Relay(parked), send.hold.standing)
            return read(attempt, exchange)
        except TransportFailure as failure:
            return attempt.broke(failure)
        except BaseException:
            self.driver.world.conclude(self.life, send, attempt.hung_up)
            raise

    def _chunks(self, exchange: Exchange) -> Iterator[bytes]:
        """The body; its first bytes are awaited here where the engine may still try again: nobody is answered yet."""
        chunks = exchange.chunks()
        if self.call.attempts == 1:
            return chunks
        try:
            first = next(chunks, None)
        except BaseException:
            exchange.close()
            raise
        return itertools.chain(() if first is None else (first,), chunks)


class _Parked:
    """A life parked at Send while its answer streams; its end is met once, from whichever thread."""

    def __init__(self, run: _Run, attempt: Attempt, exchange: Exchange, chunks: Iterator[bytes]) -> None:
        self.run, self.attempt, self.exchange, self.chunks = run, attempt, exchange, chunks
        self.verdict: Verdict | None = None
        self.over = False
        self._left = False
        self._lock = threading.Lock()
        run.driver.world.ready()
        run.driver.drains.watch(self)
        self.flights = run.driver.world.flights
        self.flights.handed(attempt.plan.keep, attempt.entry.request_id)

    def end(self, outcome: Outcome) -> None:
        """Close the exchange and settle with this outcome, unless an end has been met already."""
        with self._lock:
            if self.over:
                return
            self.over = True
        driver = self.run.driver
        try:
            self.exchange.close()
        finally:
            driver.drains.forget(self)
            life = self.run.life
            self.verdict = driver.world.conclude(life, life.step(outcome), self.attempt.hung_up)

    def hang_up(self) -> None:
        """The caller is done or gone: read on in the background where that tells the bill, else cancel."""
        with self._lock:
            if self.over or self._left:
                return
            self._left = True
        run = self.run
        driver = run.driver
        wants = not self.attempt.terminal and (
            hangup.drains(self.attempt.entry, driver.policy) or driver.world.flights.awaited(self.attempt.plan.keep)
        )
        if not (wants and run.driver.drains.take(self)):
            self.end(self.attempt.hung_up())

    def drain(self, late: Callable[[], bool]) -> None:
        """Read to the end for the usage's sake, until it is too late."""
        self.flights.asked(self.attempt.plan.keep, self.attempt.entry.request_id)
        try:
            for chunk in self.chunks:
                self.attempt.feed(chunk)
                if late():
                    break
            else:
                self.attempt.ended()
        except TransportFailure as failure:
            self.attempt.note(failure)
        finally:
            self.end(self.attempt.drained())


class Relay:
    """The bytes of a streamed answer. Iterate it; close it at any time, any number of times; dropping it closes it."""

    def __init__(self, parked: _Parked) -> None:
        self._parked = parked

    @property
    def verdict(self) -> Verdict | None:
        """The end of the call's life; None while it is under way."""
        return self._parked.verdict

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        parked, attempt = self._parked, self._parked.attempt
        parked.flights.asked(attempt.plan.keep, attempt.entry.request_id)
        while not parked.over:
            try:
                chunk = next(parked.chunks, None)
                if chunk is None:
                    passed, outcome = attempt.ended()
                    parked.end(outcome)
                else:
                    passed = attempt.feed(chunk)
            except TransportFailure as failure:
                parked.end(attempt.broke(failure))
                raise
            if passed:
                if not parked.over:
                    parked.flights.handed(attempt.plan.keep, attempt.entry.request_id)
                return passed
        raise StopIteration

    def close(self) -> None:
        """The caller is done, or gone."""
        self._parked.hang_up()

    def __del__(self) -> None:
        if not self._parked.over:
            self._parked.run.driver.world.later(self._parked.hang_up)


class Drains:
    """Streams under way, and those whose callers are gone: each read to its end by a thread, within the bounds."""

    def __init__(self, bounds: Drain) -> None:
        self._bounds = bounds
        self._lock = threading.Lock()
        self._watched: set[_Parked] = set()
        self._threads: set[threading.Thread] = set()
        self._closing = False

    def watch(self, parked: _Parked) -> None:
        with self._lock:
            self._watched.add(parked)

    def forget(self, parked: _Parked) -> None:
        with self._lock:
            self._watched.discard(parked)

    def take(self, parked: _Parked) -> bool:
        """Read it on in the background; False where the bounds or a shutdown forbid it."""
        with self._lock:
            if self._closing or len(self._threads) >= self._bounds.streams:
                return False
            thread = threading.Thread(target=self._drain, args=(parked,), name="bursar-drain", daemon=True)
            self._threads.add(thread)
        thread.start()
        return True

    def _drain(self, parked: _Parked) -> None:
        limit = time.monotonic() + self._bounds.seconds
        try:
            parked.drain(lambda: time.monotonic() > limit)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def wait(self, seconds: float) -> None:
        """Give running drains that long to end."""
        limit = time.monotonic() + seconds
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))

    def close(self, seconds: float) -> None:
        """Wait that long for what drains; then settle all that is left by what was seen of it."""
        with self._lock:
            self._closing = True
        self.wait(seconds)
        with self._lock:
            left = list(self._watched)
        for parked in left:
            parked.end(parked.attempt.hung_up())
