"""Where a request of a wrapped client becomes a Call, and the end of its life what the client is told. No HTTP library.

One desk serves every client of a guard, from any thread and event loop, and starts anew in a forked child.
"""

import asyncio
import atexit
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bursar.doors import attribution, ids
from bursar.doors.library import budget, context
from bursar.doors.library.budget import Finish
from bursar.doors.library.farewell import Farewell
from bursar.doors.library.peers import Connect, Peers
from bursar.doors.library.steps import Steps
from bursar.doors.library.tallies import Tallies
from bursar.doors.semantic import semantics
from bursar.doors.telemetry import Listeners, logs
from bursar.drivers.aio import AsyncDriver
from bursar.drivers.blocking import Driver
from bursar.drivers.world import StoreWorld
from bursar.policy import Policy
from bursar.rules.budget import claims
from bursar.rules.grant import Counter
from bursar.rules.listing import catalog_of, region_of
from bursar.stores.base import Store
from bursar.stores.semantic import Pool
from bursar.types import Call, Family, Headers, Tags
from bursar.wire import dialect as dialects
from bursar.wire.dialect import Dialect

if TYPE_CHECKING:
    from bursar.doors.telemetry.otel import Telemetry

_FAMILY_NAMES: Mapping[Family, str] = {"openai": "openai", "anthropic": "anthropic", "gemini": "gemini"}
_MOST_URLS = 4096
_TURNS = 16


class Desk:
    """The blocking driver, one asyncio driver a loop, and the books behind both."""

    def __init__(
        self,
        policy: Policy,
        store: Store,
        attempts: int = 1,
        finish: Finish | None = None,
        telemetry: "Telemetry | None" = None,
        credentials: Mapping[str, str] | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.policy, self.store, self.attempts, self.telemetry = policy, store, attempts, telemetry
        self._credentials, self._connect = credentials or {}, connect
        self.steps = Steps(policy)
        self.tallies = Tallies()
        self.farewell = Farewell(store, self.tallies, finish)
        resumed = functools.partial(budget.resumed, store)
        self.home = context.Home(self.tallies, self.run_id, self.steps.own, self.counters, self.suspended, resumed)
        self.closed = False
        self._providers: dict[tuple[str, Family], str | None] = {}
        self._start()
        me = weakref.ref(self)
        self._at_exit = functools.partial(_at_exit, me, store)
        atexit.register(self._at_exit)
        os.register_at_fork(before=functools.partial(_settle_down, me), after_in_child=functools.partial(_reborn, me))

    def _start(self) -> None:
        spans = () if self.telemetry is None else (self.telemetry.listen,)
        listeners = Listeners((self.tallies.settled, logs.listen, *spans))
        self.world = StoreWorld(
            self.store, listeners, semantics=semantics(self.policy, self.store), breakers=self.policy.breakers
        )
        self.driver = Driver(self.world, self.policy)
        self.peers = Peers(self.policy.providers, self._credentials, self._connect)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncDriver] = weakref.WeakKeyDictionary()

    def async_driver(self) -> AsyncDriver:
        """The running loop's driver."""
        loop = asyncio.get_running_loop()
        driver = self._loops.get(loop)
        if driver is None:
            driver = self._loops[loop] = AsyncDriver(self.world, self.policy)
        return driver

    def dialect(self, method: str, url: str, path: str, provider: str | None) -> Dialect | None:
        """The dialect to read the request by; None: it costs nothing, or goes to nobody known to sell models."""
        dialect = dialects.dialect_of(method, path)
        if dialect is not dialects.OTHER or dialect is None:
            return dialect
        if dialects.is_free(path) or self.provider(url, dialect, provider, default=False) is None:
            return None
        return dialect

    def provider(self, url: str, dialect: Dialect, fixed: str | None, *, default: bool = True) -> str | None:
        """Who answers at this URL: as wrap() was told, else as configured, else by the catalogue, else the family."""
        if fixed is not None:
            return fixed
        place = (url, dialect.family)
        if place not in self._providers:
            if len(self._providers) >= _MOST_URLS:
                self._providers.clear()
            self._providers[place] = self._known(url, dialect.family)
        return self._providers[place] or (_FAMILY_NAMES[dialect.family] if default else None)

    def _known(self, url: str, family: Family) -> str | None:
        speaking = (p for p in self.policy.providers.values() if p.api == family)
        bases = ((p.base_url.rstrip("/"), p.name) for p in speaking)
        fitting = [
            (len(base), name) for base, name in bases if url.startswith(base) and url[len(base) :][:1] in ("", "/")
        ]
        return max(fitting)[1] if fitting else catalog_of(url)

    def call(self, dialect: Dialect, url: str, path: str, headers: Headers, body: bytes, provider: str | None) -> Call:
        """The Call of a request. url: without query; path: with it."""
        view = dialect.view(body, path, headers)
        if dialect.family == "openai" and view.terms.region is None and (region := region_of(url)) is not None:
            view = msgspec.structs.replace(view, terms=msgspec.structs.replace(view.terms, region=region))
        now = self.world.clock()
        scope = context.current()
        tags = scope.tags if scope is not None else Tags()
        if view.claims:
            tags = context.merged(tags, attribution.read((), view.claims, None).tags)
        return Call(
            request_id=ids.request_id(now),
            api=dialect.api,
            view=view,
            body=body,
            headers=headers,
            path=path,
            tags=tags,
            received=now,
            provider=self.provider(url, dialect, provider),
            sdk_retry=_count(headers),
            attempts=self.attempts if dialect is not dialects.OTHER else 1,
            cache=scope.cache if scope is not None else None,
            origin="/".join(url.split("/", 3)[:3]),
            reach=self.peers.reach if self.policy.tiers else None,
        )

    def counters(self, tags: Tags) -> list[Counter]:
        """Where every budget stands that calls with these tags fall under. Blocks."""
        wanted = claims(tags, tags.step, self.policy)
        return self.store.balances(wanted) if wanted else []

    def suspended(self, tags: Tags) -> bool:
        """A breaker would refuse calls with these tags. Blocks, until all that is known of them has been looked at."""
        if not self.policy.breakers:
            return False
        self.store.flush()
        return self.world.breakers.suspends(tags)

    def pools(self) -> Sequence[Pool]:
        """What the semantic cache has learned by now. Blocks."""
        return self.world.semantics.meaning.pools() if self.world.semantics is not None else ()

    def run_id(self) -> str:
        return ids.run_id(self.world.clock())

    def flush(self, seconds: float) -> None:
        """Wait that long for what drains in the background; then until all rows so far are in the ledger."""
        swept = threading.Event()
        self.world.ready()
        self.world.later(swept.set)
        swept.wait(seconds)
        self.driver.wait(seconds)
        self._elsewhere(_ended, seconds)
        if self.world.semantics is not None:
            self.world.semantics.flush()
        self.store.flush()

    async def aflush(self, seconds: float) -> None:
        """The same without blocking the running loop."""
        await _turns()
        driver = self.async_driver()
        if driver.tasks:
            await asyncio.wait(list(driver.tasks), timeout=seconds)
        await asyncio.to_thread(self.flush, seconds)

    def close(self, seconds: float = 5.0) -> None:
        """Wait that long for drains; settle the rest by what was seen; close the ledger. Once."""
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self._at_exit)
        self._elsewhere(lambda driver: self._leave(driver, seconds), seconds + 1)
        for driver in list(self._loops.values()):
            driver.close()
        self.driver.close(seconds)
        self.peers.close()
        if self.telemetry is not None:
            self.telemetry.close(seconds)
        self.store.close()

    async def aclose(self, seconds: float = 5.0) -> None:
        """The same without blocking the running loop."""
        await _turns()
        await self._leave(self.async_driver(), seconds)
        await asyncio.to_thread(self.close, seconds)

    async def _leave(self, driver: AsyncDriver, seconds: float) -> None:
        """Let go of what is the running loop's."""
        await driver.aclose(seconds)
        await self.peers.aclose()

    def _elsewhere(self, end: Callable[[AsyncDriver], Coroutine[Any, Any, None]], seconds: float) -> None:
        """Have the loops of other threads end their drains; this thread's own loop cannot be waited for."""
        try:
            here: object = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, driver in list(self._loops.items()):
            if loop is not here and loop.is_running():
                waiting = asyncio.run_coroutine_threadsafe(end(driver), loop)
                try:
                    waiting.result(seconds)
                except TimeoutError:
                    waiting.cancel()

    def reborn(self) -> None:
        """In a forked child: new threads and locks; what was under way is the parent's to settle."""
        self.tallies.reborn()
        self._start()
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:  # its children end without atexit
            multiprocessing.register_after_fork(self, functools.partial(_close_with_process, multiprocessing))


async def _turns() -> None:
    """Let the loop close the generators that were dropped: it does so in tasks of its own, a few turns later."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def _ended(driver: AsyncDriver) -> None:
    if driver.tasks:
        await asyncio.wait(list(driver.tasks))


def _at_exit(desk: "weakref.ref[Desk]", store: Store) -> None:
    alive = desk()
    if alive is not None:
        alive.close()
    else:
        store.close()


def _settle_down(desk: "weakref.ref[Desk]") -> None:
    """Before a fork: no transaction of ours is under way, whose locks the child would take for its own."""
    alive = desk()
    if alive is not None and not alive.closed:
        alive.store.flush()


def _reborn(desk: "weakref.ref[Desk]") -> None:
    alive = desk()
    if alive is not None and not alive.closed:
        alive.reborn()


def _close_with_process(multiprocessing: Any, desk: Desk) -> None:
    multiprocessing.Finalize(desk, desk.close, exitpriority=10)


def _count(headers: Headers) -> int:
    told = next((value for name, value in headers if name == "x-stainless-retry-count"), "0")
    return int(told) if told.isdigit() and len(told) < 6 else 0
