"""The sandbox as an ASGI application: routes, the life of a request, its bill, and what it was sent.

A request is answered as its provider would: in its own dialect, with its own errors. It answers 500 of itself only
by a bug; what a provider would refuse is refused with that provider's status and words.
"""

from base64 import b64encode
from collections import deque
from functools import partial

import msgspec

from bursar.sandbox.asks import Bad, Dialect, Json
from bursar.sandbox.bill import Bill
from bursar.sandbox.exchange import Exchange, Receive, Scope, Send
from bursar.sandbox.faults import Faults
from bursar.sandbox.heads import Heads, authorise
from bursar.sandbox.models import MODELS
from bursar.sandbox.provider import Provider
from bursar.sandbox.sending import send_stream, send_whole
from bursar.sandbox.settings import Settings
from bursar.sandbox.speech import SPEECH, bills_whole, decode, error_body, guarded

_GENERATE: dict[str, Dialect] = {
    "/chat/completions": "chat",
    "/responses": "responses",
    "/embeddings": "embeddings",
    "/messages": "messages",
}
_COUNT: dict[str, Dialect] = {"/responses/input_tokens": "responses", "/messages/count_tokens": "messages"}


class Got(msgspec.Struct, frozen=True):
    """A request as it came, byte for byte."""

    method: str
    path: str
    """With its query."""
    headers: list[tuple[bytes, bytes]]
    body: bytes


class SandboxApp:
    """The simulated provider. One object is one account: its cache, its bill, its faults."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.bill = Bill()
        self.requests: deque[Got] = deque(maxlen=self.settings.keep_requests)
        self.faults = Faults(self.settings.faults, self.settings.seed)
        self._provider = Provider(self.settings)
        self._heads = Heads(self.settings.clock)

    def reset(self) -> None:
        """Forgets the bill, the requests, the caches, stored responses and which faults were seen."""
        self.bill.clear()
        self.requests.clear()
        self._provider.reset()
        self.faults.set(self.settings.faults)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        body = await exchange.read()
        try:
            await self._route(exchange, body)
        finally:
            exchange.close()

    # --- routes

    async def _route(self, exchange: Exchange, body: bytes) -> None:
        path, method = exchange.path, exchange.method
        if path.startswith("/sandbox/"):
            return await self._admin(exchange, body)
        if self.settings.keep_requests:
            full = f"{path}?{exchange.query}" if exchange.query else path
            self.requests.append(Got(method, full, exchange.raw_headers, body))
        bare = path.removeprefix("/v1beta").removeprefix("/v1") or "/"
        if method == "POST" and (dialect := _GENERATE.get(bare)):
            return await self._generate(exchange, dialect, body, {})
        if method == "POST" and (dialect := _COUNT.get(bare)):
            return await self._count(exchange, dialect, body, {})
        if method == "POST" and bare.startswith("/models/") and ":" in bare:
            return await self._gemini(exchange, bare, body)
        if method == "GET" and (bare == "/models" or bare.startswith("/models/")):
            return await self._models(exchange, bare)
        if bare.startswith("/responses/"):
            return await self._stored_response(exchange, bare)
        bad = Bad(404, f"Unknown request URL: {method} {path}")
        await self._fail(exchange, "chat", self._provider.new_id("req_"), bad)

    async def _gemini(self, exchange: Exchange, bare: str, body: bytes) -> None:
        model, _, verb = bare.removeprefix("/models/").rpartition(":")
        if verb == "countTokens":
            return await self._count(exchange, "gemini", body, {"model": model})
        if verb in ("generateContent", "streamGenerateContent"):
            extra = {"model": model, "stream": verb == "streamGenerateContent"}
            return await self._generate(exchange, "gemini", body, extra)
        await self._fail(exchange, "gemini", self._provider.new_id("req_"), Bad(404, f"Method not found: {verb}"))

    async def _count(self, exchange: Exchange, dialect: Dialect, body: bytes, extra: Json) -> None:
        request_id = self._provider.new_id("req_")
        try:
            asked = _asked(body, extra)
            self._provider.model(asked["model"], dialect)
            count = guarded(lambda: SPEECH[dialect].count(asked))
        except Bad as bad:
            return await self._fail(exchange, dialect, request_id, bad)
        answer: Json = {"input_tokens": count}
        if dialect == "responses":
            answer = {"object": "response.input_tokens", **answer}
        elif dialect == "gemini":
            answer = {"totalTokens": count}
        await exchange.answer(200, self._heads.of(dialect, request_id), msgspec.json.encode(answer))

    async def _models(self, exchange: Exchange, bare: str) -> None:
        names = list(MODELS) + self._provider.recorded_models
        if name := bare.removeprefix("/models").removeprefix("/"):
            names = [one for one in names if one == name]
        headers, request_id = exchange.headers, self._provider.new_id("req_")
        dialect: Dialect = "messages" if "anthropic-version" in headers else "chat"
        if "x-goog-api-key" in headers or exchange.path.startswith("/v1beta"):
            dialect = "gemini"
        if not names:
            bad = Bad(404, f"The model '{name}' does not exist", code="model_not_found", param="model")
            return await self._fail(exchange, dialect, request_id, bad)
        listing = self._heads.listing(dialect, names)
        answer = listing["data" if dialect != "gemini" else "models"][0] if name else listing
        await exchange.answer(200, self._heads.of(dialect, request_id), msgspec.json.encode(answer))

    async def _stored_response(self, exchange: Exchange, bare: str) -> None:
        response_id, _, verb = bare.removeprefix("/responses/").partition("/")
        request_id = self._provider.new_id("req_")
        try:
            if (exchange.method, verb) not in (("GET", ""), ("POST", "cancel")):
                raise KeyError(verb)
            answer = self._provider.stored(response_id, cancel=verb == "cancel")
        except KeyError:
            bad = Bad(404, f"Response with id '{response_id}' not found.")
            return await self._fail(exchange, "responses", request_id, bad)
        await exchange.answer(200, self._heads.of("responses", request_id), msgspec.json.encode(answer))

    async def _admin(self, exchange: Exchange, body: bytes) -> None:
        status = 200
        answer: Json = {}
        match exchange.method, exchange.path:
            case "GET", "/sandbox/bill":
                lines = [msgspec.to_builtins(line) for line in self.bill.lines]
                answer = {"total_nanos": self.bill.total_nanos(), "lines": lines}
            case "GET", "/sandbox/requests":
                answer = {"requests": [_shown(got) for got in self.requests]}
            case "POST", "/sandbox/reset":
                self.reset()
            case "PUT", "/sandbox/faults":
                try:
                    self.faults.set(str(decode(body)["faults"]))
                except (Bad, KeyError, ValueError) as error:
                    status, answer = 400, {"error": f'give {{"faults": "429:0.05,cut:0.01"}}: {error}'}
            case _:
                status, answer = 404, {"error": f"no {exchange.method} {exchange.path}"}
        await exchange.answer(status, [("content-type", "application/json")], msgspec.json.encode(answer))

    # --- generation

    async def _generate(self, exchange: Exchange, dialect: Dialect, body: bytes, extra: Json) -> None:
        request_id, name = self._provider.new_id("req_"), None
        try:
            fault = guarded(lambda: self.faults.of(exchange.headers.get("x-sandbox-fault"), body))
            scope = authorise(dialect, exchange)
            asked = _asked(body, extra)
            name = asked["model"]
            latency = guarded(lambda: float(exchange.headers.get("x-sandbox-latency-ms", self.settings.latency_ms)))
            served = self._provider.serve(dialect, asked, scope, fault, request_id, exchange.query)
        except Bad as bad:
            self.bill.refused(request_id, dialect, name)
            return await self._fail(exchange, dialect, request_id, bad)
        if fault.kind == "timeout":
            await exchange.pause(self.settings.timeout_s)
            self.bill.refused(request_id, dialect, name)
            return await self._fail(exchange, dialect, request_id, Bad(504, "The request timed out."))
        book = partial(self.bill.reply, served.reply, request_id, nanos=served.cell.nanos if served.cell else None)
        if latency > 0 and await exchange.pause(latency / 1000):
            book("cut", served.reply.output if bills_whole(dialect) else 0)
            return
        self._provider.cache.commit(served.found)
        if served.reply.ask.stream and dialect != "embeddings":
            await send_stream(exchange, served, self._heads, self.settings, book)
        else:
            await send_whole(exchange, served, self._heads, self.settings, book)

    async def _fail(self, exchange: Exchange, dialect: Dialect, request_id: str, bad: Bad) -> None:
        headers = [*self._heads.of(dialect, request_id), *self._heads.retry(bad)]
        await exchange.answer(bad.status, headers, error_body(dialect, bad, request_id))


def _asked(body: bytes, extra: Json) -> Json:
    asked = decode(body) | extra
    if not isinstance(asked.get("model"), str):
        raise Bad(400, "you must provide a model parameter", param="model")
    return asked


def _shown(got: Got) -> Json:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in got.headers]
    return {"method": got.method, "path": got.path, "headers": headers, "body": b64encode(got.body).decode()}


def app(settings: Settings | None = None) -> SandboxApp:
    """The sandbox as an ASGI application."""
    return SandboxApp(settings)
