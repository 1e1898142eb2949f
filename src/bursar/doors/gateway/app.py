"""The gateway as one ASGI application: the proxy, the admin API and the pages beside it, and a life of its own.

On shutdown the server lets requests under way finish; then drains get a few seconds, and what is still open is
settled by what was seen of it. Nothing is left unsettled but by a kill, which the next start books.
"""

import time
from collections.abc import Mapping
from typing import Any

from bursar.doors import dashboard
from bursar.doors.gateway import admin
from bursar.doors.gateway.access import Doorkeeper
from bursar.doors.gateway.proxy import Proxy, Receive, Scope, Send, Settings
from bursar.doors.gateway.upstream import Upstream
from bursar.doors.semantic import semantics
from bursar.drivers.aio import AsyncDriver
from bursar.drivers.world import StoreWorld
from bursar.policy import Policy
from bursar.stores.base import Store

SHUTDOWN_SECONDS = 10.0


class Gateway:
    """ASGI. `credentials`: each provider's own key, by its name; `hash_key`: what Bursar keys are hashed under."""

    def __init__(
        self, policy: Policy, store: Store, hash_key: bytes, credentials: Mapping[str, str], settings: Settings
    ) -> None:
        self.store = store
        keyed = any(key.revoked_at is None for key in store.list_keys())
        self.world = StoreWorld(store, semantics=semantics(policy, store))
        self.upstream = Upstream(policy.providers, credentials, replace=keyed, silence_seconds=settings.silence_seconds)
        self.driver = AsyncDriver(self.world, policy)
        doorkeeper = Doorkeeper(store, hash_key, time.monotonic, keyed=keyed)
        self.proxy = Proxy(self.driver, self.upstream, doorkeeper, settings)
        self.admin = admin.create(store, policy, doorkeeper)
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
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def close(self) -> None:
        """Settle everything and let go of the store."""
        await self.driver.aclose(SHUTDOWN_SECONDS)
        await self.upstream.close()
        self.world.close()
        self.store.close()
