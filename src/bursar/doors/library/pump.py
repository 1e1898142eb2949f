"""Reading ahead in a task of its own: what is cancelled is then the waiting, and never the connection.

An HTTP client that is cancelled in the middle of a read closes its connection; a drain could not go on with it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable

from bursar.drivers.life import TransportFailure


class Pump:
    """Reads ahead of whoever asks, a little, in a task of its own."""

    _AHEAD = 16

    def __init__(self, source: AsyncIterable[bytes], told: Callable[[Exception], Exception]) -> None:
        self._source, self._told = source, told
        self._got: deque[bytes] = deque()
        self._end: BaseException | None = None
        self._asked: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def next(self) -> bytes:
        """The next chunk; at the end StopAsyncIteration, or what the source raised, as `told` has it."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        while not self._got:
            if self._end is not None:
                raise self._end
            self._asked = asyncio.get_running_loop().create_future()
            await self._asked
        chunk = self._got.popleft()
        _wake(self._room)
        return chunk

    async def _run(self) -> None:
        try:
            async for chunk in self._source:
                self._got.append(chunk)
                _wake(self._asked)
                if len(self._got) >= self._AHEAD:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
            self._end = StopAsyncIteration()
        except Exception as fault:
            self._end = self._told(fault)
        except BaseException as stop:
            self._end = TransportFailure(f"the reading was stopped: {stop!r}", stop)
            raise
        finally:
            _wake(self._asked)

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))


def _wake(sleeper: "asyncio.Future[None] | None") -> None:
    if sleeper is not None and not sleeper.done():
        sleeper.set_result(None)
