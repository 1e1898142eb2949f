"""The gateway's hot path, raw ASGI: bytes -> Call -> driver -> bytes. A fault of the caller is an error in his dialect.

Nothing a caller sends makes a traceback: unreadable bodies go on as they are, oversized ones get 413, bad headers 400.
What a path means is read from it decoded; what is sent on is the path as it came, so that no decoded byte reaches a
request line. A path with dot segments is refused: it could mean one thing here and another at the provider.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, unquote_plus

import msgspec

from bursar.doors import attribution, ids
from bursar.doors.gateway import replies
from bursar.doors.gateway.access import Denied, Doorkeeper
from bursar.doors.gateway.meters import Meters
from bursar.doors.gateway.replies import Reply
from bursar.doors.gateway.upstream import Upstream, carries_credential
from bursar.doors.gateway.watch import Watched
from bursar.drivers.aio import AsyncDriver, AsyncRelay
from bursar.drivers.life import HOP_BY_HOP, Answer, Shipment, TransportFailure
from bursar.policy import Provider
from bursar.rules import budget
from bursar.rules.route import ladder
from bursar.stores.base import Key, StoreFailure
from bursar.types import Call, Family, Headers, Refused, Verdict
from bursar.wire import dialect as dialects
from bursar.wire.dialect import Dialect

if TYPE_CHECKING:
    from bursar.doors.telemetry.otel import Telemetry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


_TRICK = re.compile(r"(?:\A|[/\\])\.{1,2}(?:[/\\;?#]|\Z)|[\x00-\x1f\x7f]")
_TWO_SEGMENTS = re.compile(r"/models/([^/:?]+)/([^/:?]+(?=:))")
_MODELS = re.compile(r"(?:/v1(?:beta)?)?/models(?:/[^/]+)?/?")
_COUNTS = re.compile(r"(?:/v1(?:beta)?)?/(?:messages/count_tokens|responses/input_tokens|models/[^/:]+:countTokens)/?")
_MOST_HEADERS = 256
_LARGEST_HEAD = 128 << 10


class TooLarge(Exception):
    """The body passes the limit."""


class Settings(msgspec.Struct, frozen=True):
    """What the proxy itself is told by the configuration."""

    max_body_bytes: int = 32 << 20
    passthrough: tuple[str, ...] = ()
    """Path prefixes that Bursar keys may use though nothing prices them."""
    attempts: int = 3
    silence_seconds: float = 600
    """How long a provider may keep silent before the attempt counts as failed."""


class Request(NamedTuple):
    """The head of a request."""

    method: str
    path: str
    """Decoded: what it means."""
    raw: str
    """As it came: what is sent on."""
    query: str
    headers: Headers


class Proxy:
    """The endpoints that cost money, and what passes beside them."""

    def __init__(
        self,
        driver: AsyncDriver,
        upstream: Upstream,
        doorkeeper: Doorkeeper,
        settings: Settings,
        meters: Meters,
        telemetry: "Telemetry | None",
    ) -> None:
        self.driver, self.upstream, self.doorkeeper, self.settings = driver, upstream, doorkeeper, settings
        self.meters, self.telemetry = meters, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _request(scope)
        dialect = dialects.dialect_of(asked.method, asked.path)
        speaks = dialects.of(_api_by_headers(asked.headers)) if dialect in (None, dialects.OTHER) else dialect
        try:
            _check(asked)
            started = perf_counter()
            key = self.doorkeeper.admit(asked.headers, "data")
            spent = perf_counter() - started
            body = await _body(receive, asked.headers, self.settings.max_body_bytes)
            if body is None:
                return
            free = dialect is None or dialects.is_free(asked.path)
            if free or dialect is dialects.OTHER:
                self._may_pass(asked, key)
            if dialect is None or free:
                await self._pass(asked, body, receive, send)
                return
            call = self._call(dialect, asked, body, key)
            trace = None if self.telemetry is None else self.telemetry.follow(call, asked.headers)
            watch = Watched(self.upstream, trace, spent)
            gone = asyncio.ensure_future(_until_gone(receive))
            try:
                reply = await self._answer(call, watch, speaks, gone, send)
            finally:
                gone.cancel()
            if reply is None:
                return
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

    async def _answer(
        self, call: Call, watch: Watched, speaks: Dialect, gone: "asyncio.Future[None]", send: Send
    ) -> Reply | None:
        """What is to be said; None where it has been, or where nobody is left to hear it."""
        try:
            answer = await self.driver.serve(call, watch, gone=gone)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not gone.done() or task is None or task.uncancel():
                raise  # the server is closing
            return None
        if answer.relay is not None:
            seconds = watch.added()
            if answer.entry is not None and answer.entry.attempt == 1:
                self.meters.added("provider", seconds)
            await self._relay(answer, call, gone, send)
            return None
        if answer.verdict is None:
            raise RuntimeError("a driver answered with neither verdict nor relay")
        if gone.done():
            return None
        reply = replies.of_verdict(answer.verdict, call, speaks, self.driver.policy)
        self._measure(answer.verdict, watch)
        return reply

    def _measure(self, verdict: Verdict, watch: Watched) -> None:
        """What Bursar added, where nothing else was waited for: no pause before a retry, no other call's answer."""
        seconds = watch.added()
        if isinstance(verdict.outcome, Refused):
            self.meters.added("refusal", seconds)
        elif verdict.attempts < 2 and (verdict.entry is None or verdict.entry.cache != "coalesced"):
            self.meters.added("provider" if verdict.attempts else "cache", seconds)

    def _call(self, dialect: Dialect, asked: Request, body: bytes, key: Key | None) -> Call:
        path = _one_segment(asked.raw) if dialect.family == "gemini" else asked.raw
        other = dialect is dialects.OTHER
        view = dialect.view(body, path, asked.headers)
        facts = attribution.KeyFacts(key.key_id, key.tenant, key.trusted_claims) if key else None
        said = attribution.read(asked.headers, view.claims, facts)
        now = self.driver.world.clock()
        call = Call(
            request_id=ids.request_id(now),
            api=dialect.api,
            view=view,
            body=body,
            headers=said.forwarded,
            path=_target(path, asked.query, _family(asked.headers) if other else dialect.family),
            tags=said.tags,
            tier=said.tier,
            received=now,
            provider=self._by_headers(asked.headers).name if other else None,
            sdk_retry=_count(asked.headers, "x-stainless-retry-count"),
            attempts=self.settings.attempts,
            max_cost_nanos=said.max_cost_nanos,
            cache=said.cache,
            no_store=said.no_store,
        )
        if other:
            self._unlimited(call, asked.path)
            return call
        return msgspec.structs.replace(call, home=ladder.home(call, self.driver.policy))

    def _may_pass(self, asked: Request, key: Key | None) -> None:
        """Lists of models and counts of tokens for everybody; the rest as contract.md section 3 says."""
        pattern = {"POST": _COUNTS, "GET": _MODELS, "HEAD": _MODELS}.get(asked.method)
        if pattern is not None and pattern.fullmatch(asked.path):
            return
        listed = any(asked.path.startswith(prefix) for prefix in self.settings.passthrough)
        if not listed and (key is not None or not carries_credential(asked.headers)):
            raise Denied(
                403,
                f"{asked.path:.80} is not a path that Bursar prices: it passes with your own provider key, "
                "or listed under [gateway] passthrough",
            )

    def _unlimited(self, call: Call, path: str) -> None:
        """What nothing prices cannot be held: no limit may stand over it."""
        claims = budget.claims(call.tags, call.tags.step, self.driver.policy)
        name = claims[0].budget if claims else "x-bursar-max-cost-usd" if call.max_cost_nanos is not None else None
        if name is not None:
            raise Denied(
                403,
                f"{path:.80} is not a path that Bursar prices, so the limit {name!r} cannot hold what it costs: "
                "use one that is priced, or a key that no budget is for",
            )

    def _by_headers(self, headers: Headers) -> Provider:
        """The provider of an unknown path: the first of the family that the caller's headers are written for."""
        family = _family(headers)
        provider = next((p for p in self.driver.policy.providers.values() if p.api == family), None)
        if provider is None:
            raise Denied(404, f"no provider of the {family} family is configured: add one under [providers]")
        return provider

    async def _relay(self, answer: Answer, call: Call, gone: "asyncio.Future[None]", send: Send) -> None:
        relay: AsyncRelay = answer.relay
        attempts = answer.entry.attempt if answer.entry else 1
        ours = replies.stream_headers(call.request_id, answer.entry, attempts, answer.standing)
        length = next((int(v) for k, v in answer.headers if k == "content-length" and v.isdecimal()), None)
        start = {"type": "http.response.start", "status": answer.status}
        gone.add_done_callback(lambda _: relay.hang_up())
        try:
            await send({**start, "headers": [*replies.raw(answer.headers, length), *ours]})
            try:
                async for chunk in relay:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TransportFailure as failure:
                if length is not None:  # an answer of known length that stays unfinished tells it by itself
                    return
                await send({"type": "http.response.body", "body": relay.error_event(failure), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await relay.aclose()

    async def _pass(self, asked: Request, body: bytes, receive: Receive, send: Send) -> None:
        """Forward what costs nothing: no row, no reading. An answer that breaks off is left unfinished."""
        provider = self._by_headers(asked.headers)
        forwarded = tuple((k, v) for k, v in asked.headers if not attribution.is_attribution(k))
        target = _target(asked.raw, asked.query, provider.api)
        try:
            exchange = await self.upstream(Shipment(provider.name, target, forwarded, body, True), asked.method)
        except TransportFailure as failure:
            await _send_whole(send, replies.unreachable(dialects.of(_api_by_headers(asked.headers)), failure))
            return
        gone = asyncio.ensure_future(_until_gone(receive))
        gone.add_done_callback(lambda _: exchange.cut())
        try:
            kept = tuple((k, v) for k, v in exchange.headers if k not in HOP_BY_HOP)
            raw = replies.raw(kept, None)
            await send({"type": "http.response.start", "status": exchange.status, "headers": raw})
            async for chunk in exchange.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TransportFailure:
            return
        finally:
            gone.cancel()
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
    if told.isdecimal() and int(told) > limit:
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


def _request(scope: Scope) -> Request:
    headers = tuple([(k.decode("latin-1"), _text(v)) for k, v in scope["headers"]])
    path: str = scope["path"]
    raw = scope.get("raw_path") or quote(path).encode()
    headers, query = _key_out_of_query(headers, scope["query_string"].decode("latin-1"))
    return Request(scope["method"], path, raw.decode("latin-1"), query, headers)


def _text(raw: bytes) -> str:
    """A header's value; UTF-8 where it is that, for so it is written again on its way out."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _check(asked: Request) -> None:
    """Raises Denied for a head that could mean one thing here and another at the provider, or that is a flood."""
    if not asked.path.startswith("/") or _tricks(asked.path):
        raise Denied(400, f"{asked.raw:.80} has dot segments or control characters in it: send a plain path")
    size = sum([len(k) + len(v) for k, v in asked.headers]) + len(asked.raw) + len(asked.query)
    if len(asked.headers) > _MOST_HEADERS or size > _LARGEST_HEAD:
        raise Denied(431, f"the request has {len(asked.headers)} headers of {size} bytes: at most {_MOST_HEADERS} "
                          f"of {_LARGEST_HEAD} bytes pass")  # fmt: skip


def _tricks(path: str) -> bool:
    return _TRICK.search(path) is not None or ("%" in path and _TRICK.search(unquote(path)) is not None)


def _key_out_of_query(headers: Headers, query: str) -> tuple[Headers, str]:
    """Gemini clients may put the key into the URL, where it would be logged and sent on: make it a header."""
    if not query:
        return headers, query
    pairs = query.split("&")
    rest = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) != "key"]
    if len(rest) == len(pairs):
        return headers, query
    secret = unquote_plus(next(pair for pair in pairs if pair not in rest).partition("=")[2])
    shown = any(name == "x-goog-api-key" for name, _ in headers)
    return headers if shown else (*headers, ("x-goog-api-key", secret)), "&".join(rest)


def _one_segment(path: str) -> str:
    """Gemini carries the model in the path, where `provider/model` takes two segments: make it one."""
    return _TWO_SEGMENTS.sub(r"/models/\1%2F\2", path, count=1)


def _target(path: str, query: str, family: Family) -> str:
    """The path below a provider's base URL, as that family's SDKs count it: OpenAI's base holds the /v1."""
    if family == "openai":
        path = path.removeprefix("/v1") if path.startswith("/v1/") else path
    elif path.startswith(("/messages", "/models")):
        path = ("/v1" if family == "anthropic" else "/v1beta") + path
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
    return int(told) if told.isdecimal() and len(told) < 6 else 0
