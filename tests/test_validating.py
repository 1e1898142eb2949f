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
from bursar.drivers.pool import Pool
from bursar.drivers.validating import Validators
from bursar.effects import Validate
from bursar.policy import Check, Policy
from bursar.stores.memory import MemoryStore
from bursar.types import Answer, Entry, Judgement
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

    @pytest.mark.parametrize(
        ("checks", "asked"),
        [((["yes", "no"],), 0), ((re.compile("yes"),), 1), ((["yes"], re.compile("(e+)+$|y")), 1),
         (({"type": "string", "pattern": "yes"},), 4)],
    )  # fmt: skip
    def test_only_labels_are_asked_where_they_are(
        self, checks: tuple[Any, ...], asked: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pattern may take any time, and so may a schema with one in it."""
        submits, threads = Pool.submit, list[str]()

        def submit(pool: Pool, work: Callable[[], None]) -> bool:
            threads.append("one more")
            return submits(pool, work)

        monkeypatch.setattr(Pool, "submit", submit)
        assert len(self.lived(*checks)) == max(1, asked)
        assert len(threads) == asked

    @pytest.mark.parametrize("fault", [KeyError, SystemExit, KeyboardInterrupt])
    def test_one_that_breaks_does_not_know(self, fault: type[BaseException]) -> None:
        """Whatever it raises: it ends neither the loop nor the process."""

        def breaks(text: str) -> bool:
            raise fault(text)

        assert [row.tier for row in self.lived(breaks)] == ["small", "mid"]


class TestThreads:
    """One works at a time, and one thread is given up; what is asked waits for as long as it has to."""

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bursar.drivers.validating.AT_ONCE", 1)
        monkeypatch.setattr("bursar.drivers.validating.HUNG", 1)

    def asking(self, function: Callable[[str], object]) -> Validate:
        return Validate(calling(), Answer(text="yes"), (Check("own", lambda answer: function(answer.text)),))

    def test_who_waits_for_a_thread_has_his_time_yet(self) -> None:
        """One that hangs costs those behind it time, and not their word."""
        never = threading.Event()

        async def main() -> list[Judgement]:
            here = Validators(seconds=0.02)
            asked = [lambda text: never.wait(20), *[lambda text: True] * 3]
            return await asyncio.gather(*[here.validated(self.asking(one)) for one in asked])

        words = asyncio.run(main())
        never.set()
        assert [word.ok for word in words] == [None, True, True, True]
        assert "did not answer within 0.02 s" in words[0].reason

    def test_where_all_threads_hang_nobody_is_asked(self) -> None:
        never = threading.Event()

        async def main() -> list[Judgement]:
            here = Validators(seconds=0.02)
            return [await here.validated(self.asking(lambda text: never.wait(20))) for _ in range(3)]

        words = asyncio.run(main())
        never.set()
        assert [word.ok for word in words] == [None] * 3 and "2 others hang" in words[2].reason

    def test_a_caller_who_leaves_gives_no_seat_away(self) -> None:
        """His validator works on; whoever is next begins behind it."""
        begun, go, order = threading.Event(), threading.Event(), list[str]()

        def first(text: str) -> bool:
            begun.set()
            assert go.wait(20)
            order.append("first")
            return True

        def second(text: str) -> bool:
            order.append("second")
            return True

        async def main() -> Judgement:
            here = Validators(seconds=20)
            leaving = asyncio.ensure_future(here.validated(self.asking(first)))
            await asyncio.to_thread(begun.wait, 20)
            leaving.cancel()
            following = asyncio.ensure_future(here.validated(self.asking(second)))
            for _ in range(20):
                await asyncio.sleep(0)
            go.set()
            return await following

        assert asyncio.run(main()).ok and order == ["first", "second"]


class TestRouter:
    def lived(self, policy: Policy, beside: Callable[["asyncio.Task[Any]"], None], seconds: float) -> list[Entry]:
        a_store = MemoryStore()

        async def main() -> None:
            driver = AsyncDriver(world(a_store), policy)
            driver.validators.seconds = seconds

            async def upstream(shipment: Shipment) -> Any:
                return AsyncWhole(shipment)

            serving = asyncio.ensure_future(driver.serve(calling(), upstream))
            for _ in range(50):
                await asyncio.sleep(0)
            beside(serving)
            await asyncio.wait((serving,))

        asyncio.run(main())
        return closed_rows(a_store)

    def test_the_loop_goes_on_while_it_thinks(self) -> None:
        """It waits for what the loop does next."""
        go = threading.Event()

        def router(call: Any, routed: Any) -> str | None:
            return "mid" if go.wait(20) and threading.current_thread() is not threading.main_thread() else None

        policy = rules(step(tier="auto", validators=validators(["yes"])), router=router)
        assert [row.tier for row in self.lived(policy, lambda serving: go.set(), 20)] == ["mid"]

    def test_one_that_hangs_has_no_wish(self) -> None:
        never = threading.Event()

        def router(call: Any, routed: Any) -> str | None:
            return "mid" if never.wait(20) else None

        policy = rules(step(tier="auto", validators=validators(["yes"])), router=router)
        assert [row.tier for row in self.lived(policy, lambda serving: None, 0.02)] == ["small"]
        never.set()

    def test_for_a_caller_who_has_left_it_is_not_asked_again(self) -> None:
        begun, go, asked = threading.Event(), threading.Event(), list[str]()

        def router(call: Any, routed: Any) -> str | None:
            asked.append(threading.current_thread().name)
            begun.set()
            return "mid" if go.wait(20) else None

        policy = rules(step(tier="auto", validators=validators(["yes"])), router=router)

        def leave(serving: "asyncio.Task[Any]") -> None:
            assert begun.wait(20)
            serving.cancel()

        assert self.lived(policy, leave, 20) == []
        go.set()
        assert len(asked) == 1
