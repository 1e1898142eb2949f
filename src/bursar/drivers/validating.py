"""Validators beside an event loop: somebody's own code runs in a thread, with its caller's context, and may hang there.

Bursar's own take no time and run where they are asked. Whoever does not answer in time, and whoever finds no room,
does not know: never a pass.
"""

import asyncio
from contextlib import suppress
from contextvars import copy_context

from bursar.drivers import lore
from bursar.drivers.pool import Pool
from bursar.effects import Validate
from bursar.rules import validate
from bursar.types import Judgement

SECONDS = 60.0
"""So long a validator may take."""
AT_ONCE, WAITING = 32, 1_000


class Validators:
    """Those of one event loop."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._pool = Pool("bursar-validator", AT_ONCE, WAITING)

    async def ask(self, asked: Validate) -> Judgement:
        """The word of all checks."""
        if quick(asked):
            return lore.validated(asked)
        loop, context = asyncio.get_running_loop(), copy_context()
        future: asyncio.Future[Judgement] = loop.create_future()

        def tell(word: Judgement) -> None:
            if not future.done():
                future.set_result(word)

        def work() -> None:
            word = Judgement(ok=None, reason="the validator broke")
            try:
                word = context.run(lore.validated, asked)
            finally:
                with suppress(RuntimeError):  # no loop is left to be told
                    loop.call_soon_threadsafe(tell, word)

        if not self._pool.submit(work):
            return Judgement(ok=None, reason="too many validators are under way")
        if (await asyncio.wait((future,), timeout=self.seconds))[0]:
            return future.result()
        return Judgement(ok=None, reason=f"the validator did not answer within {self.seconds:g} s")


def quick(asked: Validate) -> bool:
    """Whether all the checks are Bursar's own."""
    return all(getattr(check.run, "__module__", None) == validate.__name__ for check in asked.checks)
