"""A gateway over a sandbox provider, both on real sockets, for tests of everything between them.

Leaving it proves what must hold whatever a test did: the ledger audits clean, no row is left open, and no exception
has left the application. Not a test itself.
"""

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import uvicorn
from anthropic import Anthropic, AsyncAnthropic
from google import genai
from google.genai.types import HttpOptions
from openai import AsyncOpenAI, OpenAI

from bursar.doors.gateway.access import key_hash, new_secret
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.meters import Meters
from bursar.doors.gateway.proxy import Settings as GatewaySettings
from bursar.doors.gateway.serve import options
from bursar.doors.telemetry.otel import Telemetry
from bursar.policy import Candidate, Drain, OnDisconnect, Policy, Provider, Retry
from bursar.rules.cards import compile_book
from bursar.sandbox import Got, SandboxServer
from bursar.sandbox import Settings as SandboxSettings
from bursar.stores.base import Key, Store
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry, Instant

TLS = ssl.create_default_context()
PRICES = compile_book({}, {"gemini": "google", "second": "openai"})
HASH_KEY = b"h" * 32
DEADLINE = 15.0
UNFINISHED = "an answer was left unfinished"
TIERS = {
    "small": (Candidate("openai", "gpt-4o-mini"), Candidate("second", "gpt-4.1-mini")),
    "claude": (Candidate("anthropic", "claude-haiku-4-5"),),
    "flash": (Candidate("gemini", "gemini-2.5-flash"),),
}


def create_key(
    store: Store, role: Literal["data", "admin"] = "data", tenant: str = "acme", trusted: frozenset[str] = frozenset()
) -> str:
    """The secret of a new key."""
    secret = new_secret()
    key = Key(
        key_id=f"key_{secret[4:12]}", name="test", tenant=tenant, role=role, hash=key_hash(secret, HASH_KEY),
        created_at=Instant(1), trusted_claims=trusted,
    )  # fmt: skip
    store.create_key(key)
    return secret


def until(holds: Callable[[], bool], what: str) -> None:
    """Returns when it holds; fails past the deadline."""
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.002)


class Running:
    """A gateway under test."""

    def __init__(self, sandbox: SandboxServer, store: Store, app: Gateway, errors: list[str], admin: str) -> None:
        self.sandbox, self.store, self.app, self.errors, self.admin = sandbox, store, app, errors, admin
        self.server: uvicorn.Server
        self.port = 0
        self.url = ""
        self._known: set[tuple[str, int]] = set()

    def fresh(self) -> None:
        """From here on: an empty bill, no requests recorded, only new rows."""
        self.sandbox.app.reset()
        self._known = {(row.request_id, row.attempt) for row in self._all()}

    def _all(self) -> list[Entry]:
        self.store.flush()
        rows: list[Entry] = []
        page = self.store.calls(limit=1000)
        while True:
            rows += page.items
            if page.next_cursor is None:
                return rows
            page = self.store.calls(limit=1000, cursor=page.next_cursor)

    def rows(self, count: int | None = None) -> list[Entry]:
        """The new rows in order, once there are so many of them and all are closed."""
        found: list[Entry] = []

        def settled() -> bool:
            found[:] = reversed([row for row in self._all() if (row.request_id, row.attempt) not in self._known])
            return (count is None or len(found) >= count) and all(row.status != "open" for row in found)

        until(settled, f"{count} closed rows, but {[(row.status, row.error) for row in found]}")
        assert count is None or len(found) == count, [(row.status, row.error) for row in found]
        return sorted(found, key=lambda row: (row.started_at, row.request_id, row.attempt))

    def row(self) -> Entry:
        (row,) = self.rows(1)
        return row

    def got(self) -> Got:
        """The one request that the provider got."""
        (got,) = self.sandbox.requests
        return got

    def cost(self) -> int:
        """What the ledger says that the new rows cost, all of it known."""
        costs = [row.cost_nanos for row in self.rows()]
        assert None not in costs
        return sum(cost or 0 for cost in costs)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """A JSON object, or bytes as they are."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        told: Any = {name: value.encode() for name, value in (headers or {}).items()}
        return httpx2.post(self.url + path, **content, headers=told, verify=TLS, timeout=DEADLINE)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        return httpx2.get(self.url + path, headers=dict(headers or {}), verify=TLS, timeout=DEADLINE)

    def openai(self, key: str = "k", **more: Any) -> OpenAI:
        http = httpx2.Client(verify=TLS)
        return OpenAI(api_key=key, base_url=self.url + "/v1", max_retries=0, http_client=http, **more)

    def async_openai(self) -> AsyncOpenAI:
        http = httpx2.AsyncClient(verify=TLS)
        return AsyncOpenAI(api_key="k", base_url=self.url + "/v1", max_retries=0, http_client=http)

    def anthropic(self, key: str = "k") -> Anthropic:
        return Anthropic(api_key=key, base_url=self.url, max_retries=0, http_client=httpx2.Client(verify=TLS))

    def async_anthropic(self) -> AsyncAnthropic:
        http = httpx2.AsyncClient(verify=TLS)
        return AsyncAnthropic(api_key="k", base_url=self.url, max_retries=0, http_client=http)

    def gemini(self, key: str = "k") -> genai.Client:
        args = {"verify": TLS}
        return genai.Client(api_key=key, http_options=HttpOptions(base_url=self.url, client_args=args))

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """What comes back for these bytes on a socket of their own, up to its end; `end`: nothing more is to come."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as one:
            with contextlib.suppress(OSError):  # the server may have had enough and hung up
                one.sendall(data)
                if end:
                    one.shutdown(socket.SHUT_WR)
            return received(one)


def received(one: socket.socket) -> bytes:
    """All that comes until the end."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := one.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


@contextmanager
def canned(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A provider that says the same to everybody and hangs up: its URL, and the requests as they came."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as one:
                        heard.append(one.recv(1 << 16))
                        one.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)


def streamed(url: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers with duplicates, and the body's bytes, with nothing decoded by a clever client."""
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=DEADLINE)
    try:
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


class _Server(uvicorn.Server):
    """Says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class _Errors(logging.Handler):
    """Keeps what asyncio and others log as an error; uvicorn's own log goes by another way, hence _watched."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage() + (f"\n{record.exc_info[1]!r}" if record.exc_info else ""))


def _watched(app: Gateway, kept: list[str]) -> Any:
    """The application, with a note of every exception that leaves it and every answer that it leaves unfinished."""

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        over = scope["type"] != "http"

        async def sent(message: Any) -> None:
            nonlocal over
            await send(message)
            over = over or (message["type"] == "http.response.body" and not message.get("more_body", False))

        async def got() -> Any:
            nonlocal over
            message = await receive()
            over = over or message["type"] == "http.disconnect"
            return message

        try:
            await app(scope, got, sent)
        except BaseException as fault:
            kept.append(repr(fault))
            raise
        if not over:
            kept.append(UNFINISHED)

    return watched


def policy(url: str, on_disconnect: OnDisconnect = "auto", retry: Retry | None = None, drain: Drain | None = None,
           **more: Any) -> Policy:  # fmt: skip
    """Four providers, all of them the sandbox at that URL."""
    providers = {
        "openai": Provider("openai", "openai", url + "/v1", "OPENAI_API_KEY"),
        "second": Provider("second", "openai", url + "/v1", "SECOND_API_KEY", catalog="openai"),
        "anthropic": Provider("anthropic", "anthropic", url, "ANTHROPIC_API_KEY"),
        "gemini": Provider("gemini", "gemini", url, "GEMINI_API_KEY", catalog="google"),
    }
    return Policy(
        prices=PRICES, providers=providers, tiers=TIERS, on_disconnect=on_disconnect,
        retry=retry or Retry(base_ms=1, cap_ms=4), drain=drain or Drain(), digest_key=b"d" * 32, **more,
    )  # fmt: skip


@contextmanager
def serving(app: Any) -> Iterator[tuple[_Server, int]]:
    """The application on a free loopback port, as `bursar serve` sets it up; on leaving a graceful shutdown."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        server = _Server(uvicorn.Config(app, log_config=None, **options()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="gateway", daemon=True)
        thread.start()
        assert server.ready.wait(DEADLINE)
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@contextmanager
def running(
    sandbox: SandboxSettings | None = None,
    *,
    path: Path | None = None,
    keyed: bool = False,
    settings: GatewaySettings | None = None,
    credentials: Mapping[str, str] | None = None,
    noisy: bool = False,
    upstream: str | None = None,
    clock: Callable[[], Instant] | None = None,
    telemetry: Callable[[Policy, Meters], Telemetry] | None = None,
    **rules: Any,
) -> Iterator[Running]:
    """A gateway over a sandbox: in memory, or on a SQLite ledger at `path`; `keyed`: an admin key `.admin` exists.

    upstream: where the providers are, if it is not the sandbox. clock: the store's, which windows go by.
    noisy: the test looks at `errors` itself.
    """
    told: Any = {} if clock is None else {"clock": clock}
    store: Store = MemoryStore(**told) if path is None else SqliteStore(path, **told)
    with SandboxServer(sandbox) as provider:
        admin = create_key(store, "admin") if keyed else ""
        rule = policy(upstream or provider.url, **rules)
        meters = Meters(store)
        hears = None if telemetry is None else telemetry(rule, meters)
        app = Gateway(
            rule, store, HASH_KEY, credentials or {}, settings or GatewaySettings(), meters=meters, telemetry=hears
        )
        gateway = Running(provider, store, app, [], admin)
        handler = _Errors(gateway.errors)
        logging.getLogger().addHandler(handler)
        try:
            with serving(_watched(app, gateway.errors)) as (server, port):
                gateway.server, gateway.port, gateway.url = server, port, f"http://127.0.0.1:{port}"
                yield gateway
                if not server.should_exit:
                    settled(gateway)
        finally:
            logging.getLogger().removeHandler(handler)
        assert noisy or gateway.errors == []


def settled(gateway: Running) -> None:
    """No row is open and the ledger audits clean."""
    gateway.rows()
    assert gateway.store.verify() == []
