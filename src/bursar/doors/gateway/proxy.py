"""The gateway's hot path, raw ASGI: bytes -> Call -> driver -> bytes. A fault of the caller is an error in his dialect.

Nothing a caller sends makes a traceback: unreadable bodies go on as they are, oversized ones get 413, bad headers 400.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from bursar.doors import attribution, ids
from bursar.doors.gateway import replies
from bursar.doors.gateway.access import Denied, Doorkeeper
from bursar.doors.gateway.replies import Reply
from bursar.doors.gateway.upstream import Upstream, carries_credential
from bursar.drivers.aio import AsyncDriver, AsyncRelay
from bursar.drivers.life import Answer, Shipment, TransportFailure
from bursar.stores.base import Key, StoreFailure
from bursar.types import Call, Family, Headers
from bursar.wire import dialect as dialects
from bursar.wire.dialect import Dialect

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class TooLarge(Exception):
    """The body passes the limit."""


class Settings(msgspec.Struct, frozen=True):
    """What the proxy itself is told by the configuration."""

    max_body_bytes: int = 32 << 20
    passthrough: tuple[str, ...] = ()
    """Path prefixes that Bursar keys may use though nothing prices them."""
    attempts: int = 3


class Proxy:
    """The endpoints that cost money, and what passes beside them."""

    def __init__(self, driver: AsyncDriver, upstream: Upstream, doorkeeper: Doorkeeper, settings: Settings) -> None:
        self.driver, self.upstream, self.doorkeeper, self.settings = driver, upstream, doorkeeper, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        dialect = dialects.dialect_of(scope["method"], path)
        speaks = dialect or dialects.of(_api_by_headers(headers))
        try:
            headers, query = _key_out_of_query(headers, query)
            key = self.doorkeeper.admit(headers, "data")
            body = await _body(receive, headers, self.settings.max_body_bytes)
            if body is None:
                return
            if dialect is None or dialects.is_free(path) or dialect.api == "other":
                self._may_pass(path, headers, key)
            if dialect is None or dialects.is_free(path):
                await self._pass(scope, headers, _target(path, query, _family(headers)), body, receive, send)
                return
            call, reply = self._call(dialect, path, query, headers, body, key)
            if reply is None:
                answer = await self.driver.serve(call, self.upstream)
                if answer.relay is not None:
                    await self._relay(answer, call, receive, send)
                    return
                if answer.verdict is None:
                    raise RuntimeError("a driver answered with neither verdict nor relay")
                reply = replies.of_verdict(answer.verdict, call.request_id, dialect)
        except Denied as denied:
            reply = replies.error(speaks, denied.status, str(denied))
        except attribution.BadHeader as bad:
            reply = replies.error(speaks, 400, str(bad), code="invalid_header")
        except TooLarge as large:
            reply = replies.error(speaks, 413, str(large), code="request_too_large")
        except StoreFailure as failure:
            reply = replies.error(speaks, 503, f"the ledger cannot be written, so nothing was sent: {failure}")
            reply.headers.append((b"x-should-retry", b"false"))
        await _send_whole(send, reply)

    def _call(
        self, dialect: Dialect, path: str, query: str, headers: Headers, body: bytes, key: Key | None
    ) -> tuple[Call, Reply | None]:
        """The Call, and an answer where the request itself already decides it."""
        view = dialect.view(body, path, headers)
        facts = attribution.KeyFacts(key.key_id, key.tenant, key.trusted_claims) if key else None
        asked = attribution.read(headers, view.claims, facts)
        now = self.driver.world.clock()
        call = Call(
            request_id=ids.request_id(now),
            api=dialect.api,
            view=view,
            body=body,
            headers=asked.forwarded,
            path=_target(path, query, _family(headers) if dialect.api == "other" else dialect.family),
            tags=asked.tags,
            received=now,
            sdk_retry=_count(headers, "x-stainless-retry-count"),
            attempts=self.settings.attempts,
        )
        if asked.cache == "only":
            told = "x-bursar-cache: only, and no cached answer is known"
            return call, replies.error(dialect, 504, told, code="cache_miss")
        return call, None

    def _may_pass(self, path: str, headers: Headers, key: Key | None) -> None:
        listed = any(path.startswith(prefix) for prefix in self.settings.passthrough)
        if not listed and (key is not None or not carries_credential(headers)):
            raise Denied(
                403,
                f"{path:.80} is not a path that Bursar prices: it passes with your own provider key, "
                "or listed under [gateway] passthrough",
            )

    async def _relay(self, answer: Answer, call: Call, receive: Receive, send: Send) -> None:
        relay: AsyncRelay = answer.relay
        attempts = answer.entry.attempt if answer.entry else 1
        ours = replies.bursar_headers(call.request_id, answer.entry, attempts, final=False)
        length = next((int(v) for k, v in answer.headers if k == "content-length" and v.isdigit()), None)
        start = {"type": "http.response.start", "status": answer.status}
        gone = asyncio.ensure_future(_until_gone(receive))
        gone.add_done_callback(lambda _: relay.hang_up())
        try:
            await send({**start, "headers": [*replies.raw(answer.headers, length), *ours]})
            try:
                async for chunk in relay:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TransportFailure as failure:
                await send({"type": "http.response.body", "body": relay.error_event(failure), "more_body": True})
                if length is not None:
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            await relay.aclose()

    async def _pass(
        self, scope: Scope, headers: Headers, target: str, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Forward what costs nothing: no row, no reading."""
        family = _family(headers)
        provider = next((p for p in self.driver.policy.providers.values() if p.api == family), None)
        if provider is None:
            raise Denied(404, f"no provider of the {family} family is configured: add one under [providers]")
        forwarded = tuple((k, v) for k, v in headers if not attribution.is_attribution(k))
        try:
            exchange = await self.upstream(Shipment(provider.name, target, forwarded, body), scope["method"])
        except TransportFailure as failure:
            await _send_whole(send, replies.error(dialects.of(_api_by_headers(headers)), 502, failure.error))
            return
        try:
            raw = replies.raw(exchange.headers, None)
            await send({"type": "http.response.start", "status": exchange.status, "headers": _end_to_end(raw)})
            async for chunk in exchange.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await exchange.close()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_whole(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


async def _body(receive: Receive, headers: Headers, limit: int) -> bytes | None:
    """The whole request body; None where the caller left before its end. Raises TooLarge."""
    told = next((v for k, v in headers if k == "content-length"), "0")
    if told.isdigit() and int(told) > limit:
        raise TooLarge(f"the body has {told} bytes and the limit is {limit}: raise [gateway] max_body_bytes")
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the body has over {limit} bytes: raise [gateway] max_body_bytes")
        if not message.get("more_body", False):
            return b"".join([*pieces, piece]) if pieces else piece
        pieces.append(piece)


def _headers(scope: Scope) -> Headers:
    return tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"])


def _end_to_end(headers: replies.RawHeaders) -> replies.RawHeaders:
    return [
        (k, v) for k, v in headers if k not in (b"connection", b"transfer-encoding", b"keep-alive", b"date", b"server")
    ]


def _key_out_of_query(headers: Headers, query: str) -> tuple[Headers, str]:
    """Gemini clients may put the key into the URL, where it would be logged and sent on: make it a header."""
    if "key=" not in query:
        return headers, query
    pairs = parse_qsl(query, keep_blank_values=True)
    secret = next((v for k, v in pairs if k == "key"), None)
    if secret is None:
        return headers, query
    rest = urlencode([(k, v) for k, v in pairs if k != "key"])
    return (*headers, ("x-goog-api-key", secret)), rest


def _target(path: str, query: str, family: Family) -> str:
    """The path below a provider's base URL, as that family's SDKs count it: OpenAI's base holds the /v1."""
    if family == "openai" and path.startswith("/v1/"):
        path = path.removeprefix("/v1")
    return f"{path}?{query}" if query else path


def _family(headers: Headers) -> Family:
    told = dict(headers)
    if "anthropic-version" in told:
        return "anthropic"
    return "gemini" if "x-goog-api-key" in told else "openai"


def _api_by_headers(headers: Headers) -> Any:
    return {"anthropic": "messages", "gemini": "gemini", "openai": "chat"}[_family(headers)]


def _count(headers: Headers, name: str) -> int:
    told = next((v for k, v in headers if k == name), "0")
    return int(told) if told.isdigit() and len(told) < 6 else 0
