"""The gateway as one ASGI application: the proxy, the admin API and the pages beside it, and a life of its own.

On shutdown the server lets requests under way finish; then drains get a few seconds, and what is still open is
settled by what was seen of it. Nothing is left unsettled but by a kill, which the next start books.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bursar.doors import dashboard
from bursar.doors.gateway import admin
from bursar.doors.gateway.access import Doorkeeper
from bursar.doors.gateway.meters import Meters
from bursar.doors.gateway.proxy import Proxy, Receive, Scope, Send, Settings
from bursar.doors.gateway.upstream import Upstream
from bursar.doors.semantic import semantics
from bursar.doors.telemetry import Listeners, logs
from bursar.drivers.aio import AsyncDriver
from bursar.drivers.watchman import Watchman
from bursar.drivers.world import StoreWorld
from bursar.policy import Policy
from bursar.stores.base import Store

if TYPE_CHECKING:
    from bursar.doors.telemetry.otel import Telemetry

SHUTDOWN_SECONDS = 10.0
WATCH_SECONDS = 12.0
"""Longer than one delivery may take: one that is cut off is sent again."""


class Gateway:
    """ASGI. `credentials`: each provider's own key, by its name; `hash_key`: what Bursar keys are hashed under.

    meters: where telemetry tells them what it lost; it is closed with the gateway. watchman: None: no alert is watched.
    """

    def __init__(
        self,
        policy: Policy,
        store: Store,
        hash_key: bytes,
        credentials: Mapping[str, str],
        settings: Settings,
        *,
        meters: Meters | None = None,
        telemetry: "Telemetry | None" = None,
        watchman: Watchman | None = None,
    ) -> None:
        self.store, self.telemetry, self.watchman = store, telemetry, watchman
        self.meters = meters or Meters(store)
        self._watching: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        spans = () if telemetry is None else (telemetry.listen,)
        listeners = Listeners((self.meters.listen, logs.listen, *spans))
        keyed = any(key.revoked_at is None for key in store.list_keys())
        self.world = StoreWorld(store, listeners, semantics=semantics(policy, store), breakers=policy.breakers)
        self.upstream = Upstream(policy.providers, credentials, replace=keyed, silence_seconds=settings.silence_seconds)
        self.driver = AsyncDriver(self.world, policy)
        doorkeeper = Doorkeeper(store, hash_key, time.monotonic, keyed=keyed)
        self.proxy = Proxy(self.driver, self.upstream, doorkeeper, settings, self.meters, telemetry)
        self.admin = admin.create(store, policy, doorkeeper, self.meters)
        self.pages = dashboard.create(store, policy, doorkeeper, hash_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http" if dashboard.serves(scope["path"]):
                await self.pages(scope, receive, send)
            case "http" if scope["path"].startswith("/bursar/") or scope["path"] in admin.PAGES:
                await self.admin(scope, receive, send)
            case "http":
                await self.proxy(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1003})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message: Any = await receive()
            if message["type"] == "lifespan.startup":
                await self.upstream.start()
                self._watch()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _watch(self) -> None:
        """Have the alerts watched, beside the calls."""
        if self.watchman is not None:
            self._watching = asyncio.create_task(self.watchman.live(self._ending))

    async def _unwatch(self) -> None:
        """A message that is being sent gets a few seconds; what is left is another worker's, or the next start's."""
        if self._watching is not None:
            self._ending.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._watching, WATCH_SECONDS)

    async def close(self) -> None:
        """Settle everything and let go of the store."""
        await self._unwatch()
        await self.driver.aclose(SHUTDOWN_SECONDS)
        await self.upstream.close()
        self.world.close()
        if self.telemetry is not None:
            await asyncio.to_thread(self.telemetry.close)
        self.store.close()
