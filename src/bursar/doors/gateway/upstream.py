"""The gateway's way to the providers: one aiohttp session, bytes in and out as they are.

Every failure is a TransportFailure; nothing is retried, redirected, decompressed or added here.
"""

import functools
from collections.abc import AsyncIterator, Mapping
from urllib.request import getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from bursar.doors import credentials
from bursar.drivers.life import HOP_BY_HOP, Shipment, TransportFailure
from bursar.policy import Provider
from bursar.types import Family, Headers

_CREDENTIALS = frozenset(("authorization", "x-api-key", "x-goog-api-key", "api-key"))
_NOT_FORWARDED = HOP_BY_HOP | {"host", "content-length", "expect", "origin", "referer", "cookie", "forwarded", "via"}
_TAKEN_OFF = _NOT_FORWARDED | _CREDENTIALS
_SKIP = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Exchange:
    """One answer of a provider under way."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        raw = response.raw_headers
        self.headers: Headers = tuple([(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in raw])

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            raise TransportFailure(_told(fault), fault) from fault

    def rest(self) -> bytes:
        """What has arrived and was not read yet."""
        content = self._response.content
        return b"" if content.exception() is not None else content.read_nowait()

    def cut(self) -> None:
        """Let go of it at once; a reader of chunks() gets a TransportFailure."""
        self._response.close()

    async def close(self) -> None:
        """Free the connection: back to the pool after the last byte, else closed, which cancels the provider."""
        self._response.close()


class Upstream:
    """Sends shipments. `keys` are the providers' own credentials by name; `replace` keeps the caller's from leaving."""

    def __init__(
        self, providers: Mapping[str, Provider], keys: Mapping[str, str], *, replace: bool, silence_seconds: float
    ) -> None:
        self._providers, self._keys, self._replace = providers, keys, replace
        self._silence_seconds = silence_seconds
        self._session: aiohttp.ClientSession | None = None
        self._proxies = {p.name: proxy_of(p.base_url) for p in providers.values()}

    async def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self._silence_seconds)
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, skip_auto_headers=_SKIP,
            cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=1 << 17, max_line_size=1 << 16,
            max_field_size=1 << 16,
        )  # fmt: skip

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __call__(self, shipment: Shipment, method: str = "POST") -> Exchange:
        if self._session is None:
            raise RuntimeError("the upstream was used before it was started")
        provider = self._providers[shipment.provider]
        headers = CIMultiDict(outgoing(shipment, provider.api, self._keys.get(provider.name), self._replace))
        try:
            url = _url(provider.base_url.rstrip("/") + shipment.path)
            response = await self._session.request(
                method,
                url,
                data=shipment.body or None,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxies[provider.name],
            )
        except aiohttp.ClientConnectorError as fault:
            raise TransportFailure(
                f"{provider.name} could not be reached: {_told(fault)}", fault, unsent=True
            ) from fault
        except (aiohttp.InvalidURL, ValueError) as fault:
            raise TransportFailure(f"the request cannot be sent: {_told(fault)}", fault, unsent=True) from fault
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            raise TransportFailure(f"{provider.name} gave no answer: {_told(fault)}", fault) from fault
        return Exchange(response)


@functools.lru_cache(128)
def _url(url: str) -> URL:
    return URL(url, encoded=True)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL (HTTPS_PROXY, NO_PROXY, ...): asked once, not on every call."""
    host = URL(url).host or ""
    return None if proxy_bypass(host) else getproxies().get(URL(url).scheme)


def outgoing(shipment: Shipment, family: Family, key: str | None, replace: bool) -> list[tuple[str, str]]:
    """The headers as they leave, with the one credential that this provider is to see.

    A caller's goes to the provider that he has addressed, and where he has asked for a tier to one without a key here.
    """
    kept = [pair for pair in shipment.headers if pair[0] not in _TAKEN_OFF]
    his = not replace and (shipment.home or key is None)
    own = [pair for pair in shipment.headers if pair[0] in _CREDENTIALS] if his else []
    if own:
        return kept + own
    if key is None:
        return kept
    return [*kept, credentials.header(family, key)]


def carries_credential(headers: Headers) -> bool:
    """True where the caller brought a key of his own."""
    return any(name in _CREDENTIALS for name, _ in headers)


def _told(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
