"""Audits behind the calls: each the life of a side call, in a thread or a task that nobody waits for.

Nothing here reaches the call: what goes wrong is logged, what does not fit is skipped and counted. A driver that
closes waits a little for what is under way, then settles the rest by what was seen of it.
"""

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from bursar.drivers.attempt import Attempt
from bursar.drivers.life import AsyncUpstream, Exchange, Life, TransportFailure, Upstream, never_sent
from bursar.drivers.pool import Pool
from bursar.drivers.world import StoreWorld
from bursar.effects import Audit, Effect, Send
from bursar.policy import Policy
from bursar.rules.route.auditing import Audit as Auditing
from bursar.stores.receipt import Receipt, heard
from bursar.types import Outcome, Verdict

log = logging.getLogger("bursar.routing")

AT_ONCE, WAITING = 4, 32
"""Audits of a driver under way, and those that wait for their turn."""


def read(attempt: Attempt, exchange: Exchange) -> Outcome:
    """The outcome of an answer that is not relayed."""
    try:
        for piece in exchange.chunks():
            attempt.take(piece)
            if attempt.over:
                break
        return attempt.whole()
    except TransportFailure as failure:
        return attempt.broke(failure)
    finally:
        exchange.close()


class Auditor:
    """One for a driver; thread-safe."""

    def __init__(self, world: StoreWorld) -> None:
        self._world = world
        self._pool = Pool("bursar-audit", AT_ONCE, WAITING)
        self._quiet = threading.Condition()
        self._asked = 0
        """Calls that may still be audited, and audits that are not over."""
        self._under_way: set[_Aside] = set()
        self._closing = False

    @property
    def skipped(self) -> int:
        """Audits that were due and found no room."""
        return self._pool.turned_away

    def ask(self, asked: Audit, upstream: Upstream, policy: Policy) -> None:
        """Audit this call, where one is due."""
        with self._quiet:
            self._asked += 1
        heard = functools.partial(self._heard, asked, upstream, policy)
        self._world.lore.due(asked, policy).add_done_callback(heard)

    def _heard(self, asked: Audit, upstream: Upstream, policy: Policy, due: Receipt[Auditing | None]) -> None:
        if due.exception() is not None or (found := due.result()) is None:
            self._over()  # the store has said why
        elif not self._pool.submit(functools.partial(self._live, asked, found, upstream, policy)):
            self._world.lore.unmade(asked, found)
            self._over()

    def _live(self, asked: Audit, found: Auditing, upstream: Upstream, policy: Policy) -> None:
        aside = _Aside(self._world, found, upstream, policy)
        with self._quiet:
            begins = not self._closing
            if begins:
                self._under_way.add(aside)
        try:
            verdict = aside.live() if begins else None
            if verdict is not None:
                self._world.lore.audited(asked, found, verdict)
            elif not begins:
                self._world.lore.unmade(asked, found)
        except Exception as fault:
            log.warning("an audit of the step %s broke: %r", asked.site.step, fault)
        finally:
            self._over(aside)

    def _over(self, aside: "_Aside | None" = None) -> None:
        with self._quiet:
            self._asked -= 1
            if aside is not None:
                self._under_way.discard(aside)
            self._quiet.notify_all()

    def wait(self, seconds: float) -> None:
        """Give what is asked and under way that long to end."""
        with self._quiet:
            self._quiet.wait_for(lambda: not self._asked, seconds)

    def close(self, seconds: float) -> None:
        """Begin no more, wait that long for what is under way, then settle it by what was seen."""
        with self._quiet:
            self._closing = True
        self.wait(seconds)
        with self._quiet:
            left = list(self._under_way)
        for aside in left:
            aside.cut()


class _Aside:
    """The life of a side call; its end is met once, by its own thread or by a driver that closes."""

    def __init__(self, world: StoreWorld, found: Auditing, upstream: Upstream, policy: Policy) -> None:
        self._world, self._upstream, self._call = world, upstream, found.call
        self._life = Life(found.call, policy, found.plan)
        self._lock = threading.Lock()
        self._over = False
        self._asked: Effect[Any] | Verdict | None = None
        self._attempt: Attempt | None = None
        self._exchange: Exchange | None = None

    def live(self) -> Verdict | None:
        """The end of it; None where it was cut."""
        asked = self._step(None)
        try:
            while asked is not None and not isinstance(asked, Verdict):
                asked = self._step(self._send(asked) if isinstance(asked, Send) else self._world.perform(asked))
        except BaseException:
            if self._over:
                return None  # what a thread meets whose exchange was closed under it
            if isinstance(asked, Send):
                self.cut()
            self._life.close()
            raise
        return asked

    def _step(self, answer: Any) -> Effect[Any] | Verdict | None:
        with self._lock:
            if self._over:
                return None
            self._asked = asked = self._life.step(answer)
            self._over = isinstance(asked, Verdict)
            return asked

    def _send(self, send: Send) -> Outcome:
        self._attempt = attempt = Attempt(send, self._world)
        try:
            self._exchange = exchange = self._upstream(attempt.shipment())
            attempt.head(exchange.status, exchange.headers)
            return read(attempt, exchange)
        except TransportFailure as failure:
            return attempt.broke(failure)

    def cut(self) -> None:
        """Settle what is open by what was seen of it."""
        with self._lock:
            if self._over or self._asked is None:
                self._over = True
                return
            self._over = True
            attempt = self._attempt
            ends = never_sent(self._call, self._world.clock) if attempt is None else attempt.hung_up
            self._world.conclude(self._life, self._asked, ends)
        if self._exchange is not None:
            with contextlib.suppress(Exception):
                self._exchange.close()


class AsyncAuditor:
    """One for a driver and its event loop. aside: lives the side call by the driver's own means."""

    def __init__(
        self, world: StoreWorld, aside: Callable[[Auditing, AsyncUpstream, Policy], Awaitable[Verdict]]
    ) -> None:
        self._world, self._aside = world, aside
        self._under_way: set[asyncio.Task[Any]] = set()
        self.skipped = 0
        """Audits that were due and found no room."""

    async def live(self, asked: Audit, upstream: AsyncUpstream, policy: Policy) -> None:
        """Audit this call, where one is due: in a task of its own."""
        try:
            found = await heard(self._world.lore.due(asked, policy))
            task = asyncio.current_task()
            if found is None or task is None:
                return
            if len(self._under_way) >= AT_ONCE + WAITING:
                self.skipped += 1
                self._world.lore.unmade(asked, found)
                return
            self._under_way.add(task)
            try:
                verdict = await self._aside(found, upstream, policy)
            finally:
                self._under_way.discard(task)
            self._world.lore.audited(asked, found, verdict)
        except Exception as fault:
            log.warning("an audit of the step %s broke: %r", asked.site.step, fault)

    async def cut(self, seconds: float) -> None:
        """Settle what is under way by what was seen of it."""
        left = [task for task in self._under_way if task.cancel()]
        if left:
            await asyncio.wait(left, timeout=seconds)
