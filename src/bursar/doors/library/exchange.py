"""Answers of a client's transport under way, for the blocking and the asyncio driver.

The module's own failures become a TransportFailure. Closing one lets its door go where that is wanted.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from bursar.doors.library.pump import Pump
from bursar.types import Headers


class _Exchange:
    """An answer of the inner transport under way. `keep` holds what was read, until it is known to be relayed."""

    def __init__(self, door: Any, answer: Any) -> None:
        self.door, self.answer = door, answer
        self.status: int = answer.status_code
        self.raw: list[tuple[bytes, bytes]] = answer.headers.raw
        self.headers: Headers = plain(answer.headers)
        self.extensions = answer.extensions
        self.keep: list[bytes] | None = []
        self._closed = False
        door.under_way.add(self)

    def _first_close(self) -> bool:
        if self._closed:
            return False
        self._closed = True
        self.door.under_way.discard(self)
        return True


class Exchange(_Exchange):
    """For the blocking driver."""

    def chunks(self) -> Iterator[bytes]:
        try:
            for chunk in self.answer.stream:
                if self.keep is not None:
                    self.keep.append(chunk)
                yield chunk
        except self.door.kit.failures as fault:
            raise self.door.failure(fault) from fault

    def close(self) -> None:
        if self._first_close():
            try:
                self.answer.close()
            finally:
                self.door.leave()


class AsyncExchange(_Exchange):
    """For the asyncio driver."""

    def __init__(self, door: Any, answer: Any) -> None:
        super().__init__(door, answer)
        self._pump: Pump | None = None
        self._next: Callable[[], Awaitable[bytes]] = self._pieces().__anext__

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def outlive_cancellation(self) -> None:
        """Read in a task of its own, so that a caller who is cancelled leaves a connection that can be drained."""
        self._pump = Pump(self.answer.stream, self.door.told)
        self._next = self._pump.next

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self._next()

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.answer.stream:
                if self.keep is not None:
                    self.keep.append(chunk)
                yield chunk
        except self.door.kit.failures as fault:
            raise self.door.failure(fault) from fault

    def rest(self) -> bytes:
        """Not to be had: the client's transport keeps what it has read ahead to itself."""
        return b""

    async def close(self) -> None:
        if self._first_close():
            try:
                if self._pump is not None:
                    await self._pump.stop()
                await self.answer.aclose()
            finally:
                await self.door.leave()


def plain(headers: Any) -> Headers:
    """A client's headers as Bursar has them: names in lower case."""
    return tuple([(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in headers.raw])
