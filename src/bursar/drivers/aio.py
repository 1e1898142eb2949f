"""The asyncio driver: lives calls on an event loop. What differs from blocking.py is only how it waits.

A cancelled task, a closed generator and a stream that nobody holds any more settle once each: an end never waits, so
that nothing can cancel it, and where no loop is left to run a drain what was seen is what is booked.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

from bursar.drivers import flights
from bursar.drivers.life import Answer, Attempt, Life, Shipment, TransportFailure, never_sent
from bursar.drivers.world import StoreWorld
from bursar.effects import Effect, Habit, Join, Nearby, Pause, Reserve, Send
from bursar.policy import Policy
from bursar.rules import hangup
from bursar.stores.receipt import hand_over
from bursar.types import Call, Headers, Joined, Outcome, Verdict


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


class AsyncDriver:
    """Lives calls on one world; keeps what streams and what drains, so that close() leaves nothing unsettled."""

    def __init__(self, world: StoreWorld, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.watched: set[_Parked] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.drains = 0

    async def serve(self, call: Call, upstream: AsyncUpstream) -> Answer:
        """Live the call: an Answer with the verdict, or with a relay in which the life is parked."""
        run = _Run(self, call, upstream)
        return await run.drive(run.life.step(None))

    async def wait(self, effect: Reserve | Pause | Join | Habit | Nearby) -> Any:
        """Perform an effect that takes a while, without blocking the loop; the others take none."""
        match effect:
            case Reserve(entry, ask):
                return await self.world.store.reserve_async(entry, ask)
            case Join(key, call, waits):
                loop = asyncio.get_running_loop()
                future: asyncio.Future[Joined] = loop.create_future()
                receipt = self.world.flights.join(key, call.request_id, waits=waits)
                receipt.add_done_callback(functools.partial(hand_over, future), loop.call_soon_threadsafe)
                while not (await asyncio.wait((future,), timeout=flights.STALL_SECONDS))[0]:
                    if self.world.flights.stalled(key):
                        self.world.flights.leave(call.request_id)
                        return "alone"
                return self.world.joined(call, future.result())
            case Habit(call, entry):
                self.world.ready()
                prompts = self.world.prompts
                return prompts.known(call, entry) or await asyncio.to_thread(prompts.look, call, entry)
            case Nearby(question, vector):
                semantics = self.world.semantics
                if semantics is None:
                    return None
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(semantics.lookers, semantics.around, question, vector)
            case Pause(ms):
                return await asyncio.sleep(ms / 1000)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it in a task that nobody awaits and nothing collects before it is done."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def aclose(self, seconds: float = 5.0) -> None:
        """Wait that long for drains under way; then settle whatever is left by what was seen of it."""
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=seconds)
        self.close()

    def close(self) -> None:
        """Settle whatever is left, now, with no loop to wait on."""
        for parked in list(self.watched):
            parked.end(parked.attempt.hung_up())


class _Run:
    """One call under way."""

    __slots__ = ("call", "driver", "life", "upstream")

    def __init__(self, driver: AsyncDriver, call: Call, upstream: AsyncUpstream) -> None:
        self.driver, self.call, self.upstream = driver, call, upstream
        self.life = Life(call, driver.policy)

    async def drive(self, asked: Effect[Any] | Verdict) -> Answer:
        life, driver = self.life, self.driver
        try:
            while not isinstance(asked, Verdict):
                if isinstance(asked, Send):
                    sent = await self._send(asked)
                    if isinstance(sent, Answer):
                        return sent
                    asked = life.step(sent)
                elif isinstance(asked, Reserve | Pause | Join | Habit | Nearby):
                    asked = life.step(await driver.wait(asked))
                else:
                    asked = life.step(driver.world.perform(asked))
        except asyncio.CancelledError:
            if not isinstance(asked, Verdict | Send):
                driver.world.conclude(life, asked, never_sent(self.call, driver.world.clock))
            raise
        except BaseException:
            life.close()
            driver.world.flights.leave(self.call.request_id)
            raise
        return Answer(asked.entry, asked, standing=asked.standing)

    async def _send(self, send: Send) -> Outcome | Answer:
        attempt = Attempt(send, self.driver.world)
        try:
            exchange = await self.upstream(attempt.shipment())
            if attempt.head(exchange.status, exchange.headers):
                chunks = exchange.chunks()
                parked = _Parked(self, attempt, exchange, chunks, await self._early(exchange, chunks))
                return Answer(
                    send.entry, None, exchange.status, attempt.headers, AsyncRelay(parked), send.hold.standing
                )
            return await _read(attempt, exchange)
        except TransportFailure as failure:
            return attempt.broke(failure)
        except BaseException:
            self.driver.world.conclude(self.life, send, attempt.hung_up)
            raise

    async def _early(self, exchange: AsyncExchange, chunks: AsyncIterator[bytes]) -> list[bytes | None]:
        """Where the engine may try again: the first bytes, for until they are here nobody has been answered."""
        if self.call.attempts == 1:
            return []
        try:
            return [await anext(chunks, None)]
        except BaseException:
            await exchange.close()
            raise


async def _read(attempt: Attempt, exchange: AsyncExchange) -> Outcome:
    pieces: list[bytes] = []
    try:
        async for piece in exchange.chunks():
            attempt.first_byte()
            pieces.append(piece)
        return attempt.whole(b"".join(pieces))
    except TransportFailure as failure:
        return attempt.broke(failure, b"".join(pieces))
    finally:
        await exchange.close()


class _Parked:
    """A life parked at Send while its answer streams; its end is met once and never waits."""

    def __init__(
        self,
        run: _Run,
        attempt: Attempt,
        exchange: AsyncExchange,
        chunks: AsyncIterator[bytes],
        early: list[bytes | None],
    ) -> None:
        self.run, self.attempt, self.exchange = run, attempt, exchange
        self.chunks, self.early = chunks, early
        self.loop = asyncio.get_running_loop()
        self.verdict: Verdict | None = None
        self.over = False
        self.reading = False
        """A chunk is being awaited: a second reader has to wait for it."""
        self._left = False
        self._counted = False
        run.driver.world.ready()
        run.driver.watched.add(self)
        self.flights = run.driver.world.flights
        self.flights.handed(attempt.plan.keep, attempt.entry.request_id)

    def end(self, outcome: Outcome) -> None:
        """Settle with this outcome, unless an end has been met already."""
        if self.over:
            return
        self.over = True
        driver, life = self.run.driver, self.run.life
        driver.watched.discard(self)
        driver.drains -= self._counted
        self.verdict = driver.world.conclude(life, life.step(outcome), self.attempt.hung_up)

    async def close(self, outcome: Outcome) -> None:
        self.end(outcome)
        await self.exchange.close()

    def hang_up(self) -> bool:
        """The caller is done or gone: read on in the background where that tells the bill, else cancel.

        True where the exchange is left to the caller of this to close.
        """
        if self.over or self._left:
            return False
        self._left = True
        driver = self.run.driver
        wants = not self.attempt.terminal and (
            hangup.drains(self.run.call, self.attempt.entry, driver.policy)
            or driver.world.flights.awaited(self.attempt.plan.keep)
        )
        if wants and driver.drains < driver.policy.drain.streams:
            driver.drains += 1
            self._counted = True
            self.flights.asked(self.attempt.plan.keep, self.attempt.entry.request_id)
            if not self.reading:
                driver.background(self.drain())
            return False
        if not self.reading and (rest := self.exchange.rest()):
            self.attempt.feed(rest)
        self.end(self.attempt.hung_up())
        return True

    def leave(self) -> None:
        """hang_up() where nobody can wait for the exchange to close."""
        if self.hang_up():
            self.run.driver.background(self.exchange.close())

    def is_to_drain(self) -> bool:
        """The caller hung up while a chunk was being awaited, and the rest is still to be read."""
        return self._left and not self.over

    def left(self) -> bool:
        """The caller has hung up."""
        return self._left

    async def drain(self) -> None:
        """Read to the end for the usage's sake, within the bounds."""
        driver = self.run.driver
        try:
            async with asyncio.timeout(driver.policy.drain.seconds):
                if self.early:
                    self.attempt.feed(self.early.pop() or b"")
                async for chunk in self.chunks:
                    self.attempt.feed(chunk)
                self.attempt.ended()
        except (TransportFailure, TimeoutError) as failure:
            self.attempt.note(failure)
        finally:
            await self.close(self.attempt.drained())

    def dropped(self) -> None:
        """Nobody holds the relay any more: called by the collector, from any thread, with or without a loop."""
        if self.over:
            return
        if self.loop.is_running():
            self.loop.call_soon_threadsafe(self.leave)
        else:
            self.run.driver.world.later(lambda: self.end(self.attempt.hung_up()))


class AsyncRelay:
    """The bytes of a streamed answer. Iterate it; close it at any time, any number of times; dropping it closes it."""

    def __init__(self, parked: _Parked) -> None:
        self._parked = parked

    @property
    def verdict(self) -> Verdict | None:
        """The end of the call's life; None while it is under way."""
        return self._parked.verdict

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        parked, attempt = self._parked, self._parked.attempt
        parked.flights.asked(attempt.plan.keep, attempt.entry.request_id)
        while not parked.over:
            try:
                parked.reading = True
                chunk = parked.early.pop() if parked.early else await anext(parked.chunks, None)
                parked.reading = False
                if chunk is None:
                    passed, outcome = attempt.ended()
                    await parked.close(outcome)
                else:
                    passed = attempt.feed(chunk)
                    if parked.is_to_drain():
                        parked.run.driver.background(parked.drain())
                        break
            except TransportFailure as failure:
                await parked.close(attempt.broke(failure))
                if parked.left():
                    break
                raise
            except BaseException:
                parked.reading = False
                self.hang_up()
                raise
            if passed:
                if not parked.over:
                    parked.flights.handed(attempt.plan.keep, attempt.entry.request_id)
                return passed
        raise StopAsyncIteration

    def hang_up(self) -> None:
        """The caller is gone; also while another task awaits the next chunk, which then gets the end."""
        self._parked.leave()

    async def aclose(self) -> None:
        """The caller is done, or gone."""
        if self._parked.hang_up():
            await self._parked.exchange.close()

    def error_event(self, failure: TransportFailure) -> bytes:
        """The dialect's own word for a stream that broke."""
        return self._parked.attempt.error_event(failure)

    def __del__(self) -> None:
        self._parked.dropped()
