"""The bodies of responses, to be joined with the stream classes of httpx2 or httpx (see transports).

What the client's own transport raised is raised again, the very object, at the place where it came.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

from bursar.drivers.life import TransportFailure


class Streamed:
    """A relay as the body of a response; what the transport raised is raised again, unchanged."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = next(self._relay)
            return chunk
        except TransportFailure as broken:
            cause = broken.cause or broken
        raise_as_it_came(cause)

    def close(self) -> None:
        self._relay.close()


class AsyncStreamed:
    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk: bytes = await anext(self._relay)
            return chunk
        except TransportFailure as broken:
            cause = broken.cause or broken
        raise_as_it_came(cause)

    async def aclose(self) -> None:
        await self._relay.aclose()


class Whole:
    """Bytes that were read already, and the failure that cut them short, at the place where it came."""

    def __init__(self, body: bytes, cut: BaseException | None) -> None:
        self._body, self._cut = body, cut

    def __iter__(self) -> Iterator[bytes]:
        if self._body:
            yield self._body
        if self._cut is not None:
            raise self._cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def raise_as_it_came(cause: BaseException) -> NoReturn:
    """Outside of any `except`, so that the exception keeps the context with which it came."""
    raise cause
