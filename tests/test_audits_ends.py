"""How audits under way end: a driver that closes, a loop that does, a kill, a full queue, a fault, a closed client."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import books
import bursar
import library_kit as kit
import routing_kit as routes
from audit_kit import (
    RULES,
    STEP,
    AsyncSilent,
    AsyncWhole,
    Mood,
    Silent,
    Whole,
    auto,
    book_of,
    calling,
    closed_rows,
    is_audit,
    policy,
    world,
)
from books import Opener
from bursar.drivers import auditor
from bursar.drivers.aio import AsyncDriver
from bursar.drivers.blocking import Driver
from bursar.drivers.life import Shipment, TransportFailure
from bursar.sandbox import SandboxServer
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Completed

opened, path, template = books.opened, books.path, books.template


class TestEnds:
    def test_what_is_under_way_is_settled_by_a_driver_that_closes(self, opened: Opener) -> None:
        """Abandoned, once, whatever its thread meets then; what waits for its turn is never begun."""
        a_store = opened()
        driver = Driver(world(a_store, opened.watch), RULES)
        silent: list[Silent] = []
        begun = threading.Semaphore(0)

        def upstream(shipment: Shipment) -> Whole:
            if not is_audit(shipment):
                return Whole(shipment)
            silent.append(Silent(shipment))
            begun.release()
            return silent[-1]

        for number in range(auditor.AT_ONCE + 3):
            answer = driver.serve(calling(number), upstream)
            assert answer.verdict is not None and isinstance(answer.verdict.outcome, Completed)
        for _ in range(auditor.AT_ONCE):
            assert begun.acquire(timeout=20)
        driver.close(0.0)
        rows = [row for row in closed_rows(a_store) if row.purpose == "audit"]
        assert {row.status for row in rows} == {"abandoned"} and auditor.AT_ONCE <= len(rows) == len(silent)
        assert all(one.closed.is_set() for one in silent)
        driver.audits.wait(20)
        assert [row for row in closed_rows(a_store) if row.purpose == "audit"] == rows
        assert book_of(a_store).tiers == {}

    def test_the_same_on_an_event_loop(self, opened: Opener) -> None:
        a_store = opened()

        async def main() -> None:
            driver = AsyncDriver(world(a_store, opened.watch), RULES)
            begun = asyncio.Event()

            async def upstream(shipment: Shipment) -> Any:
                if not is_audit(shipment):
                    return AsyncWhole(shipment)
                begun.set()
                return AsyncSilent(shipment)

            await driver.serve(calling(), upstream)
            await begun.wait()
            await driver.aclose(0.01)
            assert driver.tasks == set()

        asyncio.run(main())
        assert [(row.purpose, row.status) for row in closed_rows(a_store)] == [
            ("call", "completed"), ("audit", "abandoned"),
        ]  # fmt: skip

    def test_a_loop_that_ends_takes_them_with_it(self, opened: Opener) -> None:
        """asyncio.run() cancels what is left; nobody has closed anything."""
        a_store = opened()

        async def main() -> None:
            driver = AsyncDriver(world(a_store, opened.watch), RULES)
            begun = asyncio.Event()

            async def upstream(shipment: Shipment) -> Any:
                if not is_audit(shipment):
                    return AsyncWhole(shipment)
                begun.set()
                return AsyncSilent(shipment)

            await driver.serve(calling(), upstream)
            await begun.wait()

        asyncio.run(main())
        assert [row.status for row in closed_rows(a_store)] == ["completed", "abandoned"]

    def test_a_kill_in_the_middle(self, path: Path) -> None:
        """Its row expires at its hold, and what was pledged for it stays spent; the call is booked as it was."""

        def work() -> None:
            a_store = SqliteStore(path)
            driver = Driver(world(a_store), RULES)

            def upstream(shipment: Shipment) -> Whole:
                if is_audit(shipment):
                    a_store.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                return Whole(shipment)

            driver.serve(calling(), upstream)
            driver.wait(20)

        assert books.in_child(work) == -signal.SIGKILL
        a_store = SqliteStore(path)
        call, audit = closed_rows(a_store)
        assert (call.status, audit.status, audit.purpose) == ("completed", "expired", "audit")
        assert audit.cost_nanos == audit.hold_nanos and (audit.hold_nanos or 0) > 0
        book = book_of(a_store)
        assert book.tiers == {} and book.audits_nanos == 10 * 1_000 + 5 * 4_000
        a_store.close()

    def test_no_room(self, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        """What does not fit is skipped and counted, and its pledge given back; the calls have their answers."""
        monkeypatch.setattr(auditor, "AT_ONCE", 1)
        monkeypatch.setattr(auditor, "WAITING", 1)
        a_store = opened()
        driver = Driver(world(a_store, opened.watch), RULES)
        go = threading.Event()

        def upstream(shipment: Shipment) -> Whole:
            assert not is_audit(shipment) or go.wait(20)
            return Whole(shipment)

        for number in range(6):
            driver.serve(calling(number), upstream)
            a_store.flush()
        go.set()
        driver.wait(20)
        made = [row for row in closed_rows(a_store) if row.purpose == "audit"]
        assert (len(made), driver.audits.skipped) == (2, 4)
        assert book_of(a_store).audits_nanos == sum(row.cost_nanos or 0 for row in made)
        driver.close()

    def test_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As at the end of the interpreter: skipped like one that finds no room."""
        a_store = MemoryStore()
        driver = Driver(world(a_store), RULES)

        def none_left(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("bursar.drivers.pool.threading.Thread.start", none_left)
        driver.serve(calling(), Whole)
        driver.wait(0)
        assert [row.purpose for row in closed_rows(a_store)] == ["call"] and driver.audits.skipped == 1
        assert book_of(a_store).audits_nanos == 0

    def test_no_room_on_an_event_loop(self, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(auditor, "AT_ONCE", 1)
        monkeypatch.setattr(auditor, "WAITING", 0)
        a_store = opened()

        async def main() -> int:
            driver = AsyncDriver(world(a_store, opened.watch), RULES)
            go, begun = asyncio.Event(), asyncio.Event()

            async def upstream(shipment: Shipment) -> Any:
                if is_audit(shipment):
                    begun.set()
                    await go.wait()
                return AsyncWhole(shipment)

            await driver.serve(calling(), upstream)
            await begun.wait()
            for number in (1, 2):
                await driver.serve(calling(number), upstream)
            while len(driver.tasks) > 1:
                await asyncio.sleep(0)
            go.set()
            await driver.aclose(20)
            return driver.audits.skipped

        assert asyncio.run(main()) == 2
        assert len([row for row in closed_rows(a_store) if row.purpose == "audit"]) == 1

    @pytest.mark.parametrize("fault", [TransportFailure("gone"), RuntimeError("a proxy of somebody's own broke")])
    def test_a_fault_is_the_audits_own(
        self, opened: Opener, caplog: pytest.LogCaptureFixture, fault: Exception
    ) -> None:
        """Its row says so, or the log; the call does not hear of it."""
        a_store = opened()
        driver = Driver(world(a_store, opened.watch), RULES)

        def upstream(shipment: Shipment) -> Whole:
            if is_audit(shipment):
                raise fault
            return Whole(shipment)

        with caplog.at_level(logging.WARNING, "bursar.routing"):
            driver.serve(calling(), upstream)
            driver.wait(20)
        row = closed_rows(a_store)[1]
        assert (row.purpose, row.status) == ("audit", "failed" if isinstance(fault, TransportFailure) else "abandoned")
        assert ("somebody's own" in caplog.text) == isinstance(fault, RuntimeError)
        driver.close()

    def test_after_its_client_is_closed_it_fails_quietly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waiting: list[Callable[[], None]] = []
        ask = auditor.Auditor.ask
        monkeypatch.setattr(auditor.Auditor, "ask", lambda *told: waiting.append(lambda: ask(*told)))
        with SandboxServer(Mood().settings()) as server:
            guard = bursar.Guard(policy(server.url, auto()), MemoryStore())
            with guard:
                with routes.openai(guard, server.url) as client, guard.step(STEP):
                    routes.chat(client, routes.GPT_MID, max_tokens=24)
                (later,) = waiting
                later()
                (row,) = [row for row in kit.rows(guard) if row.purpose == "audit"]
                assert (row.status, row.cost_nanos) == ("failed", 0) and "client was closed" in (row.error or "")
                assert len(server.requests) == 1
