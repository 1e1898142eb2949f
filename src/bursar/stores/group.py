"""Group commit: one thread writes whatever has gathered since its last write, in one go.

What somebody waits for is written at once; what nobody waits for gathers for a few milliseconds, because a transaction
of fifty costs little more than one of two. It sleeps while there is nothing to do and polls nothing. Should it ever die
of a bug, every waiting and later job is told so instead of hanging.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar

J = TypeVar("J")

When: TypeAlias = Literal["now", "behind", "soon", "last"]
"""now: somebody waits for it. behind: so too, and it must find written all that was submitted before it. soon: nobody
waits. last: at once too, but behind everything else that is queued."""
Item: TypeAlias = tuple[int, J]
"""A job and its number in the order of submission."""

LIMIT = 256
"""Jobs in one transaction at most: bounds how long another process waits for its turn."""
FULL = 64
"""So many jobs that nobody waits for need not gather longer."""
GATHER_SECONDS = 0.010


class GroupCommit(Generic[J]):
    """commit(jobs) writes and answers a batch; it must not raise. bury(jobs, fault) answers those that never will be.

    retry_after() says in how many seconds commit([]) wants to be called though nothing came; None: never.
    """

    def __init__(
        self,
        commit: Callable[[list[J]], None],
        bury: Callable[[list[J], BaseException], None],
        retry_after: Callable[[], float | None],
        closing: Callable[[], None],
    ) -> None:
        self._commit, self._bury, self._retry_after, self._closing = commit, bury, retry_after, closing
        self._lock = threading.Lock()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._queues = _Queues[J]()
        self._soon_since = 0.0
        self._hurried = False
        self._sleep: Literal["awake", "light", "deep"] = "awake"
        self._ending = False
        self.fault: BaseException | None = None
        """What the thread died of."""
        self._thread: threading.Thread | None = None

    def submit(self, job: J, when: When) -> bool:
        """Queue a job; False where the thread has ended: nothing is queued then."""
        with self._lock:
            if self._ending or self.fault is not None:
                return False
            queue = self._queues.put(job, when)
            if when == "soon" and len(queue) == 1:
                self._soon_since = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bursar-store", daemon=True)
                self._thread.start()
            elif self._sleep == "deep" or when != "soon" or len(queue) >= FULL:
                self._ring()
            return True

    def hurry(self) -> None:
        """Somebody has begun to wait for a job that nobody waited for."""
        with self._lock:
            if self._queues.soon:
                self._hurried = True
                self._ring()

    def idle(self) -> bool:
        """Nothing is queued or being written."""
        with self._lock:
            return not self._queues.all() and (self._sleep != "awake" or self._thread is None)

    def close(self) -> None:
        """Write what is queued, and end. The closing hook runs in the writing thread, last."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            thread = self._thread
            self._ring()
        if thread is None:
            self._closing()
        elif thread is not threading.current_thread():
            thread.join()

    def _ring(self) -> None:
        if self._sleep != "awake":
            self._sleep = "awake"
            self._bell.release()

    def _run(self) -> None:
        batch: list[J] = []
        try:
            while (batch := self._next()) or not self._ending:
                self._commit(batch)
            self._closing()
        except BaseException as fault:
            with self._lock:
                self.fault = fault
                lost = [*batch, *self._queues.all()]
                self._queues = _Queues()
            self._bury(lost, fault)
            raise

    def _next(self) -> list[J]:
        """The next batch; empty where the time to retry has come, or the end. A while of light sleep, in which what is
        not urgent need not ring, comes before the deep one."""
        light = True
        while True:
            with self._lock:
                batch = self._gathered()
                if batch or self._ending:
                    return batch
                light = light or bool(self._queues.soon)
                self._sleep = "light" if light else "deep"
                pause = self._until_due() if light else None
            if not self._rung(self._retry_after() if pause is None else pause):
                if not light:
                    return []
                light = False

    def _rung(self, pause: float | None) -> bool:
        """Sleep until the bell rings, or for so many seconds: False."""
        rung = self._bell.acquire(timeout=-1 if pause is None else pause)
        with self._lock:
            if not rung and self._sleep == "awake":
                self._bell.acquire()  # rung in the very moment that the pause ran out
                rung = True
            self._sleep = "awake"
        return rung

    def _until_due(self) -> float:
        if not self._queues.soon:
            return GATHER_SECONDS
        return max(0.0, self._soon_since + GATHER_SECONDS - time.monotonic())

    def _gathered(self) -> list[J]:
        """What to write now. A reserve is never left behind its own settlement: all of "now" goes before "soon", or
        both in the order of their submission where a job must find written what came before it."""
        queues = self._queues
        batch = queues.ordered() if queues.strict() else _take(queues.now, LIMIT)
        soon, last = queues.soon, queues.last
        due = self._hurried or self._ending or last or len(soon) >= FULL or (soon and self._until_due() == 0.0)
        if due and not queues.now:
            batch += _take(soon, LIMIT - len(batch))
            if not soon:
                self._hurried = False
                batch += _take(last, len(last))
        return batch


class _Queues(Generic[J]):
    """What waits to be written, in the order of submission."""

    __slots__ = ("_barrier", "_count", "last", "now", "soon")

    def __init__(self) -> None:
        self.now, self.soon, self.last = list[Item[J]](), list[Item[J]](), list[Item[J]]()
        self._count = self._barrier = 0

    def put(self, job: J, when: When) -> list[Item[J]]:
        self._count += 1
        if when == "behind":
            self._barrier = self._count
        queue = self.soon if when == "soon" else self.last if when == "last" else self.now
        queue.append((self._count, job))
        return queue

    def all(self) -> list[J]:
        return [job for queue in (self.now, self.soon, self.last) for _, job in queue]

    def strict(self) -> bool:
        """One of "behind" waits among "now"."""
        return bool(self.now) and self.now[0][0] <= self._barrier

    def ordered(self) -> list[J]:
        """The first of all that is to be written before the last of "behind", that one included."""
        early = self.soon[: bisect_left(self.soon, self._barrier, key=_number)]
        items = sorted([*self.now[:LIMIT], *early[:LIMIT]], key=_number)[:LIMIT]
        end = items[-1][0] + 1
        for queue in (self.now, self.soon):
            del queue[: bisect_left(queue, min(end, self._barrier) if queue is self.soon else end, key=_number)]
        return [job for _, job in items]


_number: Callable[[tuple[int, Any]], int] = itemgetter(0)


def _take(queue: list[Item[J]], most: int) -> list[J]:
    taken = [job for _, job in queue[:most]]
    del queue[:most]
    return taken
