"""The way to the provider for one call: carries the trace there, and knows how long the provider was waited for.

What is left of the time until the answer begins is what Bursar adds (Meters.added).
"""

from collections.abc import AsyncIterator, Awaitable
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from bursar.drivers.life import AsyncExchange, AsyncUpstream, Shipment
from bursar.types import Headers

if TYPE_CHECKING:
    from bursar.doors.telemetry.otel import Trace


class Watched:
    """An AsyncUpstream of one call. `spent`: seconds that went by before it was made."""

    __slots__ = ("_began", "_trace", "_upstream", "began", "waited")

    def __init__(self, upstream: AsyncUpstream, trace: "Trace | None", spent: float = 0.0) -> None:
        self._upstream, self._trace = upstream, trace
        self._began = perf_counter() - spent
        self.waited = 0.0
        """Seconds that were the provider's."""
        self.began = False
        """The answer has begun to go out: nothing is measured any more."""

    async def __call__(self, shipment: Shipment) -> AsyncExchange:
        if self._trace is not None and (context := self._trace.sending(shipment.provider)):
            shipment = msgspec.structs.replace(shipment, headers=(*shipment.headers, *context))
        began = perf_counter()
        try:
            return _Timed(await self._upstream(shipment), self)
        finally:
            self.waited += perf_counter() - began

    def added(self) -> float:
        """The answer begins now: the seconds of its time that were Bursar's own."""
        self.began = True
        return perf_counter() - self._began - self.waited


class _Timed:
    """An exchange whose chunks are waited for on the provider's account until the answer begins."""

    def __init__(self, exchange: AsyncExchange, watch: Watched) -> None:
        self._exchange, self._watch = exchange, watch
        self.status: int = exchange.status
        self.headers: Headers = exchange.headers
        self._chunks: AsyncIterator[bytes] | None = None

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        if self._chunks is None:
            self._chunks = self._exchange.chunks()
        return self._chunks.__anext__() if self._watch.began else self._next(self._chunks)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        began = perf_counter()
        try:
            return await chunks.__anext__()
        finally:
            self._watch.waited += perf_counter() - began

    def rest(self) -> bytes:
        return self._exchange.rest()

    async def close(self) -> None:
        await self._exchange.close()
