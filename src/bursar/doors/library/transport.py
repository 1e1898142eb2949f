"""The library door's way in and out: a transport around a client's own, for httpx2 and httpx alike.

What is no model call passes untouched. A model call goes out as the caller's own request (its headers, timeouts,
extensions) asking for an unencoded answer; the answer comes back with its own status, headers and bytes, a transport
failure as the very exception that the client's own transport raised. A refusal and a ledger that cannot be written
are answers in the caller's dialect, never exceptions; SDKs retry only what clears by itself.
"""

import functools
from typing import Any, NamedTuple

from bursar.doors import refusal, telling
from bursar.doors.library import context
from bursar.doors.library.bodies import AsyncStreamed, Streamed, Whole, raise_as_it_came
from bursar.doors.library.desk import Desk
from bursar.doors.library.exchange import AsyncExchange, Exchange, plain
from bursar.doors.library.steps import Steps
from bursar.doors.library.tallies import billed, judging
from bursar.drivers.life import Answer, Shipment, TransportFailure
from bursar.money import format_usd
from bursar.rules import hangup
from bursar.stores.base import StoreFailure
from bursar.types import Abandoned, Call, Completed, Entry, Failed, Headers, Refused, Verdict
from bursar.wire.dialect import OTHER, Dialect

_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
_DECODED = (b"content-encoding", b"content-length")


class Kit(NamedTuple):
    """What the door needs of httpx2 or httpx, whose classes are not each other's."""

    module: Any
    failures: type[Exception]
    unsent: tuple[type[Exception], ...]
    streamed: Any
    streamed_async: Any
    whole: Any


class Transports(NamedTuple):
    """Around a client's own transport: `sync(desk, inner, provider)`, and the same for asyncio."""

    sync: Any
    asynchronous: Any


@functools.cache
def transports(module: Any) -> Transports:
    """The two transports over one module, httpx2 or httpx."""
    kit = Kit(
        module,
        module.TransportError,
        tuple(getattr(module, name) for name in _UNSENT),
        type("Streamed", (Streamed, module.SyncByteStream), {}),
        type("AsyncStreamed", (AsyncStreamed, module.AsyncByteStream), {}),
        type("Whole", (Whole, module.SyncByteStream, module.AsyncByteStream), {}),
    )
    return Transports(
        type("SyncTransport", (SyncDoor, module.BaseTransport), {"kit": kit}),
        type("AsyncTransport", (AsyncDoor, module.AsyncBaseTransport), {"kit": kit}),
    )


class Door:
    """What both transports share. Closing waits for the answers that still stream or drain: see `leave`."""

    kit: Kit

    def __init__(self, desk: Desk, inner: Any, provider: str | None) -> None:
        self.desk, self.inner, self.provider = desk, inner, provider
        self.under_way: set[Exchange | AsyncExchange] = set()
        self.leaving = False

    def _reading(self, request: Any) -> tuple[Dialect | None, str]:
        url = request.url
        place = f"{url.scheme}://{url.netloc.decode('latin-1')}{url.path}"
        return self.desk.dialect(request.method, place, url.path, self.provider), place

    def _sending(self, request: Any, dialect: Dialect, place: str, body: bytes) -> "Sending":
        path = request.url.raw_path.decode("latin-1")
        call = self.desk.call(dialect, place, path, plain(request.headers), body, self.provider)
        return Sending(self, request, dialect, call)

    def failure(self, fault: Exception) -> TransportFailure:
        """What the module's exception means to a driver."""
        told = f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
        return TransportFailure(told, fault, unsent=isinstance(fault, self.kit.unsent))

    def told(self, fault: Exception) -> Exception:
        """The same for any exception: what is no failure of the transport stays what it is."""
        return self.failure(fault) if isinstance(fault, self.kit.failures) else fault

    def unwritable(self, dialect: Dialect, failure: StoreFailure) -> Any:
        told = f"Bursar's ledger cannot be written, so nothing was sent: {failure}"
        return self.synthetic(503, dialect.error(503, "server_error", told, "ledger_unavailable"))

    def synthetic(self, status: int, body: bytes) -> Any:
        """An error of our own, which no SDK retries."""
        headers = {"content-type": "application/json", "x-should-retry": "false"}
        return self.kit.module.Response(status, headers=headers, content=body)


class SyncDoor(Door):
    """The blocking transport."""

    def handle_request(self, request: Any) -> Any:
        dialect, place = self._reading(request)
        if dialect is None:
            return self.inner.handle_request(request)
        body = request.read() if _readable(dialect, request) else b""
        sending = self._sending(request, dialect, place, body)
        try:
            with billed() as sending.rows:
                answer = self.desk.driver.serve(sending.call, sending.send, sending.policy)
        except StoreFailure as failure:
            return self.unwritable(dialect, failure)
        refused = sending.refused(answer)
        if refused is not None:
            return sending.refuse(self.desk.farewell.of(sending.call, refused))
        return sending.response(answer)

    def __enter__(self) -> Any:
        self.inner.__enter__()
        return self

    def __exit__(self, *trouble: Any) -> None:
        self.close()

    def close(self) -> None:
        self.leaving = True
        self.leave()

    def leave(self) -> None:
        """Close the inner transport if that is wanted and nothing streams or drains through it any more."""
        if self.leaving and not self.under_way:
            self.inner.close()


class AsyncDoor(Door):
    """The asyncio transport."""

    async def handle_async_request(self, request: Any) -> Any:
        dialect, place = self._reading(request)
        if dialect is None:
            return await self.inner.handle_async_request(request)
        body = await request.aread() if _readable(dialect, request) else b""
        sending = self._sending(request, dialect, place, body)
        try:
            with billed() as sending.rows:
                answer = await self.desk.async_driver().serve(sending.call, sending.asend, sending.policy)
        except StoreFailure as failure:
            return self.unwritable(dialect, failure)
        refused = sending.refused(answer)
        if refused is not None:
            return sending.refuse(await self.desk.farewell.aof(sending.call, refused))
        return sending.response(answer)

    async def __aenter__(self) -> Any:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *trouble: Any) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self.leaving = True
        await self.leave()

    async def leave(self) -> None:
        """Close the inner transport if that is wanted and nothing streams or drains through it any more."""
        if self.leaving and not self.under_way:
            await self.inner.aclose()


class Sending:
    """One request on its way out, however often the driver sends it, and the answer on its way back."""

    def __init__(self, door: Any, request: Any, dialect: Dialect, call: Call) -> None:
        self.door, self.request, self.dialect, self.call = door, request, dialect, call
        self.exchanges: list[Any] = []
        """With the provider, in order: attempts and side calls."""
        self.rows: list[Entry] = []
        """What the call has closed, before it was answered."""
        scope = context.current()
        self.tally = None if scope is None else scope.tally
        steps: Steps = door.desk.steps
        own = None if scope is None else scope.own
        self.policy = steps.unjudged if judging() else steps.policy(call, own)
        telemetry = door.desk.telemetry
        self.trace = None if telemetry is None else telemetry.follow(call)

    @property
    def last(self) -> Any:
        """The last exchange; None: there was none."""
        return self.exchanges[-1] if self.exchanges else None

    def send(self, shipment: Shipment) -> "Exchange":
        """Upstream for the blocking driver."""
        self._stays()
        try:
            if self._leaves(shipment):
                client = self.door.desk.peers.client(self.door.kit.module)
                answer = client.send(self._abroad(shipment), stream=True)
            else:
                answer = self.door.inner.handle_request(self._outgoing(shipment))
        except self.door.kit.failures as fault:
            raise self.door.failure(fault) from fault
        self.exchanges.append(exchange := Exchange(self.door, answer))
        return exchange

    async def asend(self, shipment: Shipment) -> "AsyncExchange":
        """Upstream for the asyncio driver."""
        self._stays()
        try:
            if self._leaves(shipment):
                client = self.door.desk.peers.async_client(self.door.kit.module)
                answer = await client.send(self._abroad(shipment), stream=True)
            else:
                answer = await self.door.inner.handle_async_request(self._outgoing(shipment))
        except self.door.kit.failures as fault:
            raise self.door.failure(fault) from fault
        self.exchanges.append(exchange := AsyncExchange(self.door, answer))
        return exchange

    def _stays(self) -> None:
        """What is asked behind the call goes by its client, as long as that is there."""
        if self.door.leaving:
            raise TransportFailure("the client was closed before this was sent", unsent=True)

    def _exchange(self, headers: Headers) -> Any:
        """The exchange that this head came with, for an answer that was judged need not be the last one; None: it was
        translated."""
        told = set(headers)
        return next((one for one in reversed(self.exchanges) if told <= set(one.headers)), None)

    def _leaves(self, shipment: Shipment) -> bool:
        """It is for another provider than the client's own."""
        return shipment.provider != self.call.provider

    def _abroad(self, shipment: Shipment) -> Any:
        """That provider's own request: nothing of the caller's but his timeouts and what the provider has to know."""
        trace = self.trace.sending(shipment.provider) if self.trace is not None else ()
        request = self.door.desk.peers.request(
            self.door.kit.module, shipment, self.request.extensions.get("timeout", {})
        )
        for name, value in trace:
            request.headers[name] = value
        return request

    def _outgoing(self, shipment: Shipment) -> Any:
        """The caller's request again; with another body only where Bursar edited it. His own object stays as it is."""
        module, request = self.door.kit.module, self.request
        copied = object.__new__(type(request))
        copied.__dict__.update(request.__dict__)
        copied.headers = headers = module.Headers(request.headers)
        headers["accept-encoding"] = "identity"
        for name, value in self.trace.sending(shipment.provider) if self.trace is not None else ():
            headers[name] = value
        if shipment.path != self.call.path:  # a side call: another endpoint of the same provider
            copied.url = request.url.copy_with(raw_path=shipment.path.encode("latin-1"))
        told = {name for name, _ in shipment.headers}
        for name in [name for name in headers if "idempotency" in name and name not in told]:
            del headers[name]
        if shipment.body is not self.call.body:
            copied._content, copied.stream = shipment.body, module.ByteStream(shipment.body)
            headers["content-length"] = str(len(shipment.body))
            headers.pop("transfer-encoding", None)
        return copied

    def refused(self, answer: Answer) -> Refused | None:
        """The refusal that an answer is; None: it is none. What a budget said is heard by the run."""
        self.door.desk.tallies.heard(self.call.tags.run_id, answer.standing)
        outcome = answer.verdict.outcome if answer.verdict is not None else None
        return outcome if isinstance(outcome, Refused) else None

    def refuse(self, refused: Refused) -> Any:
        """What the client is given instead of the provider's answer."""
        told = refusal.reply(refused, self.call, self.dialect, self.door.desk.policy)
        return self.door.kit.module.Response(told.status, headers=told.headers, content=told.body)

    def response(self, answer: Answer) -> Any:
        """What the client is given; raises what its own transport raised."""
        kit = self.door.kit
        if answer.relay is not None:
            self.last.keep = None
            if isinstance(self.last, Exchange):
                return self._respond(answer.status, answer.headers, kit.streamed(answer.relay), self._chosen(answer))
            if answer.entry is not None and self._outlives(answer.entry):
                self.last.outlive_cancellation()
            return self._respond(answer.status, answer.headers, kit.streamed_async(answer.relay), self._chosen(answer))
        if answer.verdict is None:
            raise RuntimeError("a driver answered with neither verdict nor relay")
        outcome = answer.verdict.outcome
        match outcome:
            case Completed() if answer.entry is not None and answer.entry.status == "hit":
                about = (("x-bursar-request-id", self.call.request_id), ("x-bursar-cache", str(answer.entry.cache)))
                return kit.module.Response(
                    outcome.status, headers=(*outcome.headers, *about), content=outcome.body or b""
                )
            case Completed() if self.last is None:
                return self._given(outcome, answer.entry)
            case Completed():
                body = kit.whole(outcome.body or b"", None)
                return self._respond(outcome.status, outcome.headers, body, self._judged(answer.verdict))
            case Failed():
                return self._failed(outcome, answer.verdict)
            case Refused() | Abandoned():
                raise RuntimeError("the call was given up while its caller waited for it")

    def _chosen(self, answer: Answer) -> Headers:
        """Who answers and why, where Bursar chose; what an answer costs is not known at its head."""
        if answer.entry is None or answer.entry.decision is None:
            return ()
        about = ("x-bursar-request-id", self.call.request_id)
        return (about, *telling.facts(answer.entry, answer.entry.attempt, final=False))

    def _judged(self, verdict: Verdict) -> Headers:
        """The same of a whole answer: whether it passed, and what all of its attempts and judges cost."""
        entry = verdict.entry
        if entry is None or entry.decision is None:
            return ()
        if verdict.flagged and self.tally is not None:
            self.tally.flag()
        about = ("x-bursar-request-id", self.call.request_id)
        told = (about, *telling.facts(entry, verdict.attempts, final=False), *telling.validation(verdict))
        costs = [row.cost_nanos for row in self.rows if row.status != "refused"]
        if None in costs:
            return told
        return (*told, ("x-bursar-cost-usd", format_usd(sum(cost for cost in costs if cost is not None))))

    def _outlives(self, entry: Entry) -> bool:
        """A caller who is cancelled leaves a stream that tells the bill, or that others may wait for."""
        return entry.cache == "miss" or hangup.drains(entry, self.door.desk.policy)

    def _given(self, outcome: Completed, entry: Entry | None) -> Any:
        """An answer that was paid for before: nothing was sent, so nothing of a provider's head is there."""
        headers = (*outcome.headers, *(() if entry is None else refusal.hit_headers(entry)))
        return self.door.kit.module.Response(outcome.status, headers=headers, content=outcome.body or b"")

    def _failed(self, outcome: Failed, verdict: Verdict) -> Any:
        """An error as the provider sent it, or as the transport raised it, at the very place where it came."""
        kit, retried = self.door.kit, verdict.attempts > 1
        if outcome.status is not None:
            if outcome.body is not None:
                return self._respond(outcome.status, outcome.headers, kit.whole(outcome.body, None), final=retried)
            cut = self._raisable(outcome)
            return self._respond(outcome.status, outcome.headers, kit.whole(b"".join(self.last.keep or ()), cut))
        if retried:
            timed_out = isinstance(outcome.cause, kit.module.TimeoutException)
            status = 504 if timed_out else 502
            told = f"{outcome.error} (tried {verdict.attempts} times)"
            return self.door.synthetic(status, self.dialect.error(status, "server_error", told, "upstream_unreachable"))
        raise_as_it_came(self._raisable(outcome))

    def _raisable(self, outcome: Failed) -> BaseException:
        module = self.door.kit.module
        if outcome.cause is not None and isinstance(outcome.cause, module.RequestError):
            return outcome.cause
        broken: BaseException = module.DecodingError(outcome.error, request=self.request)
        return broken

    def _respond(self, status: int, headers: Headers, stream: Any, told: Headers = (), *, final: bool = False) -> Any:
        """The provider's own head, without what decoding and cutting made untrue. told: ours, beside it."""
        exchange = self._exchange(headers)
        if exchange is None:
            raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]
            extensions = self.last.extensions
        else:
            kept = {name.encode("latin-1") for name, _ in headers}
            raw = [(k, v) for k, v in exchange.raw if k.lower() in kept or k.lower() not in _DECODED]
            extensions = exchange.extensions
        if final:
            raw = [*((k, v) for k, v in raw if k.lower() != b"x-should-retry"), (b"x-should-retry", b"false")]
        raw += [(k.encode("latin-1"), v.encode("latin-1")) for k, v in told]
        return self.door.kit.module.Response(status, headers=raw, stream=stream, extensions=extensions)


def _readable(dialect: Dialect, request: Any) -> bool:
    """Uploads on unpriced paths may be huge and are not read."""
    return dialect is not OTHER or request.headers.get("content-type", "").startswith("application/json")
