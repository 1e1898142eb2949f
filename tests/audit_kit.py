"""Steps of which audits decide: by every door on real stores, and by drivers whose provider is a function.

Not a test itself.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import openai
from msgspec.structs import replace

import bursar
import library_kit as kit
import routing_kit as routes
from bursar.drivers.life import Shipment, TransportFailure
from bursar.drivers.lore import AUDITS
from bursar.drivers.world import StoreWorld
from bursar.policy import Match, Policy, Provider, Retry, Routing, StepRule
from bursar.rules.route.auditing import Book
from bursar.sandbox import SandboxServer, Settings, Task
from bursar.stores.base import Store
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Call, Entry, Headers
from gateways import running, until
from route_kit import asking as a_call
from route_kit import rules, step
from routing_kit import GPT_MID, OWN, RIGHT, WRONG

Way = Literal["blocking", "asyncio", "gateway"]
WAYS: tuple[Way, ...] = ("blocking", "asyncio", "gateway")
STEP = "extract"


class Mood:
    """What the small model of a sandbox is like at the moment."""

    def __init__(self) -> None:
        self.bad = threading.Event()

    def settings(self, right: str = RIGHT, wrong: str = WRONG) -> Settings:
        told: Any = {"kind": "extract", "right": right, "wrong": wrong}
        worse = Task(match=lambda prompt: self.bad.is_set(), odds={"small": 0.0, "mid": 1.0}, **told)
        well = Task(match=lambda prompt: True, odds={"small": 1.0, "mid": 1.0}, **told)
        return Settings(tasks=(worse, well), clock=lambda: 1_700_000_000.0)


def auto(**more: Any) -> StepRule:
    return StepRule(match=Match(step=STEP), tier="auto", **more)


def policy(url: str, *rules: StepRule, share: float = 100.0, agreement: float = 0.9, **more: Any) -> Policy:
    """gpt-4o-mini below gpt-4o; every call is audited that may be, unless told otherwise."""
    return Policy(
        prices=kit.PRICES, tiers=OWN, steps=rules or (auto(),), retry=Retry(base_ms=1, cap_ms=4), digest_key=b"d" * 32,
        providers={"openai": Provider("openai", "openai", url + "/v1", "OPENAI_API_KEY")},
        routing=Routing(audit_share=share, agreement=agreement), **more,
    )  # fmt: skip


class Asker:
    """Asks the caller's model, gpt-4o, for the step, one call after the other; each audit is over before the next."""

    def __init__(
        self, store: Store, server: SandboxServer, ask: Callable[[str], str], still: Callable[[], None]
    ) -> None:
        self.store, self.server, self._ask, self._still = store, server, ask, still
        self.asked = 0

    def __call__(self, times: int = 1) -> str:
        text = ""
        for _ in range(times):
            self.asked += 1
            text = self._ask(f"Who buys, in case {self.asked}?")
            self._still()
        return text

    def rows(self, purpose: str | None = None) -> list[Entry]:
        """All closed rows, in order."""
        self.store.flush()
        found = list(self.store.calls(limit=10_000).items)
        assert all(row.status != "open" for row in found) and self.store.verify() == []
        found.sort(key=lambda row: (row.started_at, row.request_id))
        return [row for row in found if purpose in (None, row.purpose)]

    def served(self) -> list[str | None]:
        """The tiers that served the calls."""
        return [row.tier for row in self.rows("call")]

    def billed(self) -> None:
        """The rows cost what the provider billed, to the nano-dollar."""
        costs = [row.cost_nanos for row in self.rows() if row.status == "completed"]
        assert None not in costs and sum(cost or 0 for cost in costs) == self.server.bill.total_nanos()

    def book(self) -> Book:
        return book_of(self.store)


@contextmanager
def asking(way: Way, settings: Settings, path: Path | None = None, *rules: StepRule, **more: Any) -> Iterator[Asker]:
    """By that door. path: of a SQLite ledger; None: in memory."""
    if way == "gateway":
        with running(settings, path=path, credentials={"openai": "sk"}) as gateway:
            driver = gateway.app.proxy.driver
            driver.policy = policy(gateway.sandbox.url, *rules, **more)

            def post(text: str) -> str:
                ask = {"model": GPT_MID, "messages": kit.said(text), "max_tokens": 24}
                answer = gateway.post("/v1/chat/completions", ask, {"x-bursar-step": STEP})
                return str(answer.json()["choices"][0]["message"]["content"])

            def still() -> None:
                until(lambda: not driver.tasks, "no audit is under way")
                gateway.store.flush()

            yield Asker(gateway.store, gateway.sandbox, post, still)
        return
    store: Store = MemoryStore() if path is None else SqliteStore(path)
    with SandboxServer(settings) as server:
        guard = bursar.Guard(policy(server.url, *rules, **more), store)
        with _by_loop(guard, server, store) if way == "asyncio" else _by_thread(guard, server, store) as asker:
            yield asker


@contextmanager
def _by_thread(guard: bursar.Guard, server: SandboxServer, store: Store) -> Iterator[Asker]:
    with guard, routes.openai(guard, server.url) as client:

        def ask(text: str) -> str:
            with guard.step(STEP):
                return routes.chat_text(routes.chat(client, GPT_MID, text, max_tokens=24))

        yield Asker(store, server, ask, guard.flush)


@contextmanager
def _by_loop(guard: bursar.Guard, server: SandboxServer, store: Store) -> Iterator[Asker]:
    with asyncio.Runner() as runner:
        client = routes.openai(guard, server.url, openai.AsyncOpenAI)

        async def ask(text: str) -> str:
            with guard.step(STEP):
                return routes.chat_text(await routes.chat(client, GPT_MID, text, max_tokens=24))

        yield Asker(store, server, lambda text: runner.run(ask(text)), lambda: runner.run(guard.aflush()))
        runner.run(client.close())
        runner.run(guard.aclose())


def book_of(store: Store) -> Book:
    """What is kept of the one step."""
    store.flush()
    (state,) = store.states.list(AUDITS).items
    return msgspec.json.decode(state.body, type=Book)


# Drivers without a socket


def reply(shipment: Shipment) -> bytes:
    asked = json.loads(shipment.body)
    message = {"role": "assistant", "content": "yes"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"id": "x", "object": "chat.completion", "model": asked["model"], "choices": choices,
                       "usage": usage}).encode()  # fmt: skip


class Whole:
    """An answer that is there."""

    status = 200
    headers: Headers = (("content-type", "application/json"),)

    def __init__(self, shipment: Shipment) -> None:
        self.body = reply(shipment)

    def chunks(self) -> Iterator[bytes]:
        yield self.body

    def close(self) -> None:
        """Nothing is open."""


class Silent(Whole):
    """One that does not come before it is closed."""

    def __init__(self, shipment: Shipment) -> None:
        super().__init__(shipment)
        self.closed = threading.Event()

    def chunks(self) -> Iterator[bytes]:
        assert self.closed.wait(20)
        raise TransportFailure("it was closed")

    def close(self) -> None:
        self.closed.set()


class AsyncSilent(Silent):
    async def chunks(self) -> AsyncIterator[bytes]:  # type: ignore[override]
        await asyncio.get_running_loop().create_future()
        yield b""

    async def close(self) -> None:  # type: ignore[override]
        self.closed.set()

    def rest(self) -> bytes:
        return b""


class AsyncWhole(Whole):
    async def chunks(self) -> AsyncIterator[bytes]:  # type: ignore[override]
        yield self.body

    async def close(self) -> None:  # type: ignore[override]
        """Nothing is open."""

    def rest(self) -> bytes:
        return b""


def is_audit(shipment: Shipment) -> bool:
    return bool(json.loads(shipment.body)["model"] == "mini")


RULES = rules(step(tier="auto"), routing=Routing(audit_share=100.0, agreement=0.9))


def calling(number: int = 0) -> Call:
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Is it?"}]}).encode()
    return replace(a_call("gpt-4o"), request_id=f"req_{number}", body=body)


def world(a_store: Any, a_watch: Any = None) -> StoreWorld:
    return StoreWorld(a_store) if a_watch is None else StoreWorld(a_store, clock=a_watch)


def closed_rows(a_store: Any) -> list[Entry]:
    a_store.flush()
    assert a_store.verify() == []
    rows: list[Entry] = sorted(a_store.calls(limit=1000).items, key=lambda row: (row.request_id, row.attempt))
    assert all(row.status != "open" for row in rows)
    return rows
