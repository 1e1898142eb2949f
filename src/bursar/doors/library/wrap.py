"""Which clients can be wrapped, and where their transports are. In place: proxies, TLS, limits and hooks stay.

Known by shape, so that no SDK is imported here. What is not known raises TypeError and says what is.
"""

import functools
import sys
from collections.abc import Iterator
from typing import Any

from bursar.doors.library.desk import Desk
from bursar.doors.library.transport import Door, transports

_SUPPORTED = (
    "OpenAI, AsyncOpenAI, AzureOpenAI and other clients of the openai SDK, Anthropic, AsyncAnthropic, a google-genai "
    "Client, or an httpx2 or httpx client; for anything else pass http_client=guard.http_client() where it takes one"
)


def wrap(desk: Desk, client: Any, provider: str | None) -> None:
    """Put the desk's transports around those of every HTTP client that this client sends by."""
    found = list(_http_clients(desk, client, provider))
    if not found:
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise TypeError(f"cannot wrap a {kind}: expected {_SUPPORTED}")
    for http in found:
        wrap_http(desk, http, provider)


def module_of(http: Any) -> Any:
    """httpx2 or httpx, whichever this client is of; None: neither."""
    for name in ("httpx2", "httpx"):
        module = sys.modules.get(name)
        if module is not None and isinstance(http, (module.Client, module.AsyncClient)):
            return module
    return None


def wrap_http(desk: Desk, http: Any, provider: str | None) -> None:
    """Wrap the transport and every mount (proxies) of one HTTP client. Twice is once: the last desk counts."""
    module = module_of(http)
    kinds = transports(module)
    kind = kinds.asynchronous if isinstance(http, module.AsyncClient) else kinds.sync
    http._transport = _around(desk, http._transport, kind, provider)
    http._mounts = {pattern: mount and _around(desk, mount, kind, provider) for pattern, mount in http._mounts.items()}


def _around(desk: Desk, transport: Any, kind: Any, provider: str | None) -> Any:
    if not isinstance(transport, Door):
        return kind(desk, transport, provider)
    transport.desk, transport.provider = desk, provider or transport.provider
    return transport


def _http_clients(desk: Desk, client: Any, provider: str | None) -> Iterator[Any]:
    if module_of(client) is not None:
        yield client
    elif module_of(inner := getattr(client, "_client", None)) is not None:
        yield inner
    elif hasattr(google := getattr(client, "_api_client", None), "_httpx_client"):
        yield from _google(desk, google, provider)


def _google(desk: Desk, api: Any, provider: str | None) -> Iterator[Any]:
    """google-genai: its sync client, and its async one, which makes a client for every event loop."""
    if module_of(api._httpx_client) is not None:
        yield api._httpx_client
    http = api._async_httpx_client
    if http is None or getattr(api._http_options, "aiohttp_client", None) is not None:
        raise TypeError(
            "this google-genai Client sends its async calls by aiohttp, where Bursar cannot see them: "
            "give it http_options=HttpOptions(httpx_async_client=guard.http_client(asynchronous=True))"
        )
    # It prefers aiohttp wherever that is installed; its own httpx client does the same work and can be seen.
    api._use_aiohttp = _never
    yield http
    fresh = getattr(http, "_inner_client_cls", None)
    if fresh is not None:
        yield from list(http._loop_clients.values())
        http._inner_client_cls = _Wrapping(desk, fresh, provider)


def _never() -> bool:
    return False


class _Wrapping:
    """Makes google-genai's HTTP client of an event loop, wrapped."""

    def __init__(self, desk: Desk, fresh: Any, provider: str | None) -> None:
        self.fresh: Any = fresh.fresh if isinstance(fresh, _Wrapping) else fresh
        self._make = functools.partial(_made, desk, self.fresh, provider)

    def __call__(self, **kwargs: Any) -> Any:
        return self._make(**kwargs)


def _made(desk: Desk, fresh: Any, provider: str | None, **kwargs: Any) -> Any:
    http = fresh(**kwargs)
    wrap_http(desk, http, provider)
    return http
