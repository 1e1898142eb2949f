"""Somebody's own code beside an event loop: validators and routers run in threads, with their caller's context.

Only what takes no time runs where it is asked. Whoever finds all threads busy waits for one: his time begins with his
work. Whoever does not answer in time does not know, never a pass; his thread is given up, and so many may hang. A
router that does not answer has no wish.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TypeVar

from bursar.drivers import lore
from bursar.drivers.lore import Lorekeeper
from bursar.drivers.pool import Pool
from bursar.effects import Lore, Validate
from bursar.rules import validate
from bursar.rules.route.known import Known
from bursar.types import Judgement

SECONDS = 60.0
"""So long one may take."""
AT_ONCE, HUNG = 32, 96
"""How many work at once, and for how many more that do not come back threads are given up."""
_log = logging.getLogger("bursar.routing")

T = TypeVar("T")


class Unanswered(Exception):
    """It did not answer, and why."""


class Validators:
    """Those of one event loop, and its router. seconds: how long one may take."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._pool = Pool("bursar-validator", AT_ONCE + HUNG, AT_ONCE)
        self._seats = asyncio.Semaphore(AT_ONCE)
        self._hung = 0
        """Threads that were given up and have not come back."""

    async def validated(self, asked: Validate) -> Judgement:
        """The word of all checks."""
        if quick(asked):
            return lore.validated(asked)
        try:
            return await self._ask("the validator", partial(lore.validated, asked))
        except Unanswered as why:
            return Judgement(ok=None, reason=str(why))

    async def known(self, asked: Lore, keeper: Lorekeeper) -> Known:
        """All that a tier is chosen by; without its router's wish where it does not answer."""
        if asked.router is None or asked.course.mode != "learned":
            return keeper.known(asked)
        try:
            return await self._ask("the router", partial(keeper.known, asked))
        except Unanswered as why:
            _log.warning("the chain decides: %s", why)
            return keeper.known(replace(asked, router=None))

    async def _ask(self, who: str, work: Callable[[], T]) -> T:
        """What the work comes to. The seat is free again once it is done, or given up, whoever still waits for it."""
        await self._seats.acquire()
        loop, context = asyncio.get_running_loop(), copy_context()
        future: asyncio.Future[T | Unanswered] = loop.create_future()

        def end(found: T | Unanswered, *, hangs: bool = False) -> None:
            if not future.done():
                timer.cancel()
                self._seats.release()
                self._hung += hangs
                future.set_result(found)
            elif not hangs:
                self._hung -= 1

        def run() -> None:
            found: T | Unanswered = Unanswered(f"{who} broke")
            try:
                found = context.run(work)
            finally:
                with suppress(RuntimeError):  # no loop is left to be told
                    loop.call_soon_threadsafe(end, found)

        late = Unanswered(f"{who} did not answer within {self.seconds:g} s")
        timer = loop.call_later(self.seconds, partial(end, late, hangs=True))
        if self._hung > HUNG or not self._pool.submit(run):
            end(Unanswered(f"{who} was not asked: {self._hung} others hang"))
        await asyncio.wait((future,))
        if isinstance(found := future.result(), Unanswered):
            raise found
        return found


def quick(asked: Validate) -> bool:
    """Whether all the checks are lists of labels: a pattern may take any time, and so may a schema that holds one."""
    return all(
        getattr(check.run, "__module__", None) == validate.__name__
        and check.run.__qualname__.startswith(f"{validate.labels.__name__}.")
        for check in asked.checks
    )
