"""One HTTP exchange over raw ASGI: reads the request, watches for the client's hang-up, writes the answer.

After a hang-up writes go nowhere and `gone` says so. An answer that is not ended is a connection that breaks.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_SLOW_BYTES = 7


class Exchange:
    """A request, and the answer that is being written to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self.raw_headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.raw_headers}
        self._receive = receive
        self._send = send
        self._gone = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._gzip: Any = None
        self._slow_s: float | None = None

    @property
    def gone(self) -> bool:
        """Whether the client has hung up."""
        return self._gone.is_set()

    async def read(self) -> bytes:
        """The whole body; from then on the client is watched."""
        parts = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()
                break
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                self._watch = asyncio.create_task(self._watching())
                break
        return b"".join(parts)

    async def _watching(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    async def pause(self, seconds: float) -> bool:
        """Waits, but not for a client that hung up; says whether it has. Even 0 lets the loop see a hang-up."""
        if seconds <= 0:
            await asyncio.sleep(0)
        elif not self.gone:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)
        return self.gone

    async def start(
        self, status: int, headers: Iterable[tuple[str, str]], *, gzip: bool = False, slow_ms: float | None = None
    ) -> None:
        """The head of the answer; gzip and slow_ms hold for all that follows."""
        self._slow_s = None if slow_ms is None else slow_ms / 1000
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if gzip:
            self._gzip = zlib.compressobj(wbits=31)
            pairs.append((b"content-encoding", b"gzip"))
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, data: bytes) -> None:
        """More of the body, flushed."""
        if self._gzip:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        if self._slow_s is None:
            await self._body(data, more=True)
            return
        for at in range(0, len(data), _SLOW_BYTES):
            await self._body(data[at : at + _SLOW_BYTES], more=True)
            if await self.pause(self._slow_s):
                return

    async def end(self) -> None:
        """The end of a body that was written in pieces."""
        await self._body(self._gzip.flush() if self._gzip else b"", more=False)

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """A whole answer of known length."""
        await self.start(status, [*headers, ("content-length", str(len(body)))])
        await self._body(body, more=False)

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def close(self) -> None:
        """Stops watching."""
        if self._watch:
            self._watch.cancel()
