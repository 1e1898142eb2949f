"""The asyncio driver: lives calls on an event loop. What differs from blocking.py is only how it waits.

A cancelled task, a closed generator and a stream that nobody holds any more settle once each: an end never waits, so
that nothing can cancel it, and where no loop is left to run a drain what was seen is what is booked.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextvars import Context
from dataclasses import replace
from typing import Any

from bursar.drivers import flights
from bursar.drivers.attempt import Attempt
from bursar.drivers.auditor import AsyncAuditor
from bursar.drivers.life import Answer, AsyncExchange, AsyncUpstream, Life, TransportFailure, never_sent, unheard
from bursar.drivers.validating import Validators
from bursar.drivers.world import StoreWorld
from bursar.effects import Admit, Audit, Effect, Habit, Join, Lore, Nearby, Pause, Reserve, Send, Validate
from bursar.policy import Policy
from bursar.rules import hangup
from bursar.rules.route.auditing import Audit as Auditing
from bursar.stores.base import StoreFailure
from bursar.stores.receipt import heard
from bursar.types import Call, Outcome, Plan, Verdict


class AsyncDriver:
    """Lives calls on one world; keeps what streams and what drains, so that close() leaves nothing unsettled."""

    def __init__(self, world: StoreWorld, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.watched: set[_Parked] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.drains = 0
        self.validators = Validators()
        self.audits = AsyncAuditor(world, self._aside)

    async def serve(
        self,
        call: Call,
        upstream: AsyncUpstream,
        policy: Policy | None = None,
        gone: "asyncio.Future[Any] | None" = None,
    ) -> Answer:
        """Live the call: an Answer with the verdict, or with a relay in which the life is parked.

        policy: the driver's own, with another rule for the call's step; None: as it is. gone: done once the caller has
        left: what is billed in any case is then read to its end, and nothing follows it; all else is given up, with a
        CancelledError.
        """
        run = _Run(self, call, upstream, policy or self.policy)
        if gone is None:
            return await run.drive(run.life.step(None))
        run.task = asyncio.current_task()
        gone.add_done_callback(run.left)
        try:
            return await run.drive(run.life.step(None))
        finally:
            gone.remove_done_callback(run.left)
            run.let_go()

    async def wait(self, effect: Reserve | Admit | Pause | Join | Habit | Nearby | Validate | Lore) -> Any:
        """Perform an effect that takes a while, without blocking the loop; the others take none."""
        match effect:
            case Reserve(entry, ask):
                return await self.world.store.reserve_async(entry, ask)
            case Admit(call):
                return await self.world.breakers.admit_async(call)
            case Join(key, call, waits):
                future = heard(self.world.flights.join(key, call.request_id, waits=waits))
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
            case Validate():
                return await self.validators.validated(effect)
            case Lore():
                return await self.validators.known(effect, self.world.lore)
            case Pause(ms):
                return await asyncio.sleep(ms / 1000)

    def background(self, work: Coroutine[Any, Any, None], context: Context | None = None) -> None:
        """Run it in a task that nobody awaits and nothing collects before it is done."""
        task = asyncio.get_running_loop().create_task(work, context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def reads_on(self, attempt: Attempt) -> bool:
        """Whether an answer is read to its end though its caller has left: it tells the bill, or others wait for it."""
        wants = hangup.drains(attempt.entry, self.policy) or self.world.flights.awaited(attempt.plan.keep)
        return wants and self.drains < self.policy.drain.streams

    def audit(self, asked: Audit, upstream: AsyncUpstream, policy: Policy) -> None:
        """Audit this call, where one is due: behind it, and in no context of its caller's."""
        self.background(self.audits.live(asked, upstream, policy), Context())

    async def _aside(self, found: Auditing, upstream: AsyncUpstream, policy: Policy) -> Verdict:
        run = _Run(self, found.call, upstream, policy, found.plan)
        answer = await run.drive(run.life.step(None))
        if answer.verdict is None:
            raise RuntimeError("a side call was to be relayed")
        return answer.verdict

    async def aclose(self, seconds: float = 5.0) -> None:
        """Wait that long for what is under way behind the calls; then settle the rest by what was seen of it."""
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=seconds)
        await self.audits.cut(seconds)
        self.close()

    def close(self) -> None:
        """Settle whatever is left, now, with no loop to wait on."""
        for parked in list(self.watched):
            parked.end(parked.attempt.hung_up())


class _Run:
    """One call under way."""

    __slots__ = ("call", "driver", "gone", "headed", "life", "limit", "policy", "sending", "task", "upstream")

    def __init__(
        self, driver: AsyncDriver, call: Call, upstream: AsyncUpstream, policy: Policy, plan: Plan | None = None
    ) -> None:
        self.driver, self.call, self.upstream, self.policy = driver, call, upstream, policy
        self.life = Life(call, policy, plan)
        self.task: asyncio.Task[Any] | None = None
        """Whose caller may leave; None: nobody watches for that, or his answer is his own business by now."""
        self.gone = False
        self.sending: Attempt | None = None
        self.headed = False
        """The head of its answer is there."""
        self.limit: asyncio.TimerHandle | None = None

    async def drive(self, asked: Effect[Any] | Verdict) -> Answer:
        life, driver = self.life, self.driver
        try:
            while not isinstance(asked, Verdict):
                if isinstance(asked, Send):
                    sent = await self._send(asked)
                    if isinstance(sent, Answer):
                        return sent
                    asked = life.step(unheard(sent) if self.gone else sent)
                    if self.gone:
                        asked = driver.world.conclude(life, asked, never_sent(self.call, driver.world.clock))
                elif isinstance(asked, Reserve | Admit | Pause | Join | Habit | Nearby | Validate | Lore):
                    try:
                        asked = life.step(await driver.wait(asked))
                    except StoreFailure as failure:
                        asked = life.step(life.unheld(failure))
                elif isinstance(asked, Audit):
                    driver.audit(asked, self.upstream, self.policy)
                    asked = life.step(None)
                else:
                    asked = life.step(driver.world.perform(asked))
        except asyncio.CancelledError:
            if not isinstance(asked, Verdict | Send):
                alone = replace(asked, router=None) if isinstance(asked, Lore) else asked
                driver.world.conclude(life, alone, never_sent(self.call, driver.world.clock))
            raise
        except BaseException:
            life.close()
            driver.world.flights.leave(self.call.request_id)
            raise
        return Answer(asked.entry, asked, standing=asked.standing)

    def left(self, _: object = None) -> None:
        """The caller is gone. Before there is a head nobody knows what is owed: it is waited for in any case."""
        if self.task is None:
            return
        self.gone, driver = True, self.driver
        if self.sending is None or (self.headed and not driver.reads_on(self.sending)):
            self.task.cancel()
        else:
            driver.drains += 1
            self.limit = self.task.get_loop().call_later(driver.policy.drain.seconds, self.task.cancel)

    def let_go(self) -> None:
        """The call is answered, or over."""
        self.task = None
        if self.limit is not None:
            self.limit.cancel()
            self.driver.drains -= 1

    async def _send(self, send: Send) -> Outcome | Answer:
        self.sending = attempt = Attempt(send, self.driver.world)
        self.headed = False
        try:
            exchange = await self.upstream(attempt.shipment())
            self.headed = True
            if attempt.head(exchange.status, exchange.headers):
                chunks = exchange.chunks()
                parked = _Parked(self, attempt, exchange, chunks, await self._early(exchange, chunks))
                return Answer(
                    send.entry, None, exchange.status, attempt.headers, AsyncRelay(parked), send.hold.standing
                )
            if self.gone and self.call.view.stream and not self.driver.reads_on(attempt):
                await exchange.close()
                return attempt.hung_up()
            return await _read(attempt, exchange)
        except TransportFailure as failure:
            return attempt.broke(failure)
        except BaseException:
            self.driver.world.conclude(self.life, send, attempt.hung_up)
            raise
        finally:
            self.sending = None

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
    try:
        async for piece in exchange.chunks():
            attempt.take(piece)
            if attempt.over:
                break
        return attempt.whole()
    except TransportFailure as failure:
        return attempt.broke(failure)
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
        self.left = False
        """The caller has hung up."""
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
        if self.over or self.left:
            return False
        self.left = True
        driver = self.run.driver
        if not self.attempt.terminal and driver.reads_on(self.attempt):
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
        return self.left and not self.over

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
                if parked.left:
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
