"""Validators beside an event loop: somebody's own code runs in a thread, may hang there, and holds up nobody."""

import asyncio
import re
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from audit_kit import AsyncWhole, calling, closed_rows, world
from bursar.doors.validators import validators
from bursar.drivers.aio import AsyncDriver
from bursar.drivers.life import Shipment
from bursar.stores.memory import MemoryStore
from bursar.types import Entry
from route_kit import rules, step

SAID: ContextVar[str] = ContextVar("said", default="nobody's")


class TestBesideALoop:
    def lived(self, *checks: Any, seconds: float = 20.0, beside: Callable[[], None] = lambda: None) -> list[Entry]:
        """The rows of one call of a cascade from small to mid with these checks."""
        rule = step(cascade=("small", "mid"), validators=validators(list(checks)))
        policy, a_store = rules(rule), MemoryStore()

        async def main() -> None:
            driver = AsyncDriver(world(a_store), policy)
            driver.validators.seconds = seconds

            async def upstream(shipment: Shipment) -> Any:
                return AsyncWhole(shipment)

            serving = asyncio.ensure_future(driver.serve(calling(), upstream))
            for _ in range(50):
                await asyncio.sleep(0)
            beside()
            await serving

        asyncio.run(main())
        return closed_rows(a_store)

    def test_the_loop_goes_on_meanwhile(self) -> None:
        """The validator waits for what the loop does next; it runs in its caller's context."""
        go, seen = threading.Event(), list[Any]()

        def waits(text: str) -> bool:
            seen.append((threading.current_thread() is threading.main_thread(), text, SAID.get()))
            return go.wait(20)

        token = SAID.set("mine")
        try:
            assert [row.tier for row in self.lived(waits, beside=go.set)] == ["small"]
        finally:
            SAID.reset(token)
        assert seen == [(False, "yes", "mine")]

    def test_one_that_hangs_does_not_know(self) -> None:
        """It is no pass, and nothing waits for it at the end."""
        never = threading.Event()
        rows = self.lived(lambda text: never.wait(20), seconds=0.02)
        never.set()
        assert [row.tier for row in rows] == ["small", "mid"]

    def test_bursars_own_are_asked_where_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def never(*told: Any) -> bool:
            raise AssertionError("a thread was asked")

        monkeypatch.setattr("bursar.drivers.pool.Pool.submit", never)
        assert [row.tier for row in self.lived(["yes", "no"], re.compile("yes"))] == ["small"]

    @pytest.mark.parametrize("fault", [KeyError, SystemExit, KeyboardInterrupt])
    def test_one_that_breaks_does_not_know(self, fault: type[BaseException]) -> None:
        """Whatever it raises: it ends neither the loop nor the process."""

        def breaks(text: str) -> bool:
            raise fault(text)

        assert [row.tier for row in self.lived(breaks)] == ["small", "mid"]
