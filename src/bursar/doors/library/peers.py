"""The way to providers other than a client's own, whose keys the environment holds: for tiers that list several.

Nothing of the caller's that may be a credential goes there: of his headers only those named here are sent on, with the
provider's own key. One pool of connections for a guard, and one for each of its event loops.
"""

import asyncio
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

from bursar.doors import credentials
from bursar.drivers.life import Shipment, TransportFailure
from bursar.policy import Provider

_SENT_ON = frozenset((
    "accept", "accept-encoding", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta"
))  # fmt: skip
_ENDPOINTS = (
    re.compile(r"/chat/completions\Z|/responses\Z|/embeddings\Z"),
    re.compile(r"/v1/messages\Z|/messages\Z"),
    re.compile(r"(?:/v1beta|/v1)/models/[^/]+\Z"),
)
"""What of a path every provider of a family knows, below its base URL."""


Connect: TypeAlias = Callable[..., Any]
"""connect("httpx2" | "httpx", asynchronous=bool): a new client of that library, which the guard closes."""


class Peers:
    """Sends shipments to providers by name. Thread-safe; a forked child makes one of its own."""

    def __init__(
        self, providers: Mapping[str, Provider], keys: Mapping[str, str], connect: Connect | None = None
    ) -> None:
        self._providers, self._keys, self._connect = providers, keys, connect or _connect
        self.reach = frozenset(name for name in providers if name in keys)
        """The providers that can be sent to."""
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = weakref.WeakKeyDictionary()

    def request(self, module: Any, shipment: Shipment, timeout: Mapping[str, Any]) -> Any:
        """What is sent, as a request of that HTTP library. timeout: the caller's own, in seconds."""
        provider = self._providers.get(shipment.provider)
        key = self._keys.get(shipment.provider)
        if provider is None or key is None:
            raise TransportFailure(f"no key of {shipment.provider} is known here", unsent=True)
        kept = [pair for pair in shipment.headers if pair[0] in _SENT_ON]
        return module.Request(
            "POST",
            provider.base_url.rstrip("/") + endpoint(shipment.path),
            headers=[*kept, credentials.header(provider.api, key)],
            content=shipment.body,
            extensions={"timeout": dict(timeout)},
        )

    def client(self, module: Any) -> Any:
        """The blocking client of that HTTP library."""
        with self._lock:
            return self._of(self._clients, module, asynchronous=False)

    def async_client(self, module: Any) -> Any:
        """The running loop's client of that HTTP library."""
        here = asyncio.get_running_loop()
        with self._lock:
            if here not in self._loops:  # a client keeps its loop alive, though nobody can use either any more
                for gone in [loop for loop in self._loops if loop.is_closed()]:
                    del self._loops[gone]
            return self._of(self._loops.setdefault(here, {}), module, asynchronous=True)

    def _of(self, clients: dict[str, Any], module: Any, *, asynchronous: bool) -> Any:
        name = module.__name__
        if name not in clients:
            clients[name] = self._connect(name, asynchronous=asynchronous)
        return clients[name]

    def close(self) -> None:
        """Let go of the blocking connections."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    async def aclose(self) -> None:
        """Let go of the running loop's."""
        with self._lock:
            clients = self._loops.pop(asyncio.get_running_loop(), {})
        for client in clients.values():
            await client.aclose()


def endpoint(path: str) -> str:
    """A client's path as it stands below another provider's base URL; its query is its own provider's.

    Gemini alone tells there that a stream is to be one of events.
    """
    bare, _, query = path.partition("?")
    found = next((match for pattern in _ENDPOINTS if (match := pattern.search(bare)) is not None), None)
    if found is None:
        return bare
    told = found[0]
    if told == "/messages":
        return "/v1" + told
    return f"{told}?alt=sse" if "/models/" in told and "alt=sse" in query.split("&") else told


def _connect(library: str, *, asynchronous: bool) -> Any:
    module = import_module(library)
    limits = module.Limits(max_connections=1000, max_keepalive_connections=100)
    return (module.AsyncClient if asynchronous else module.Client)(limits=limits)
