"""Group commit: one thread writes whatever has gathered since its last write, in one go.

It sleeps while there is nothing to do and polls nothing. Should it ever die of a bug, every waiting and later job is
told so instead of hanging.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

J = TypeVar("J")

LIMIT = 256
"""Jobs in one transaction at most: bounds how long another process waits for its turn."""


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
        self._waiting: list[J] = []
        self._asleep = False
        self._ending = False
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, job: J) -> bool:
        """Queue a job; False where the thread has ended: nothing is queued then."""
        with self._lock:
            if self._ending or self._fault is not None:
                return False
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bursar-store", daemon=True)
                self._thread.start()
            elif self._asleep:
                self._asleep = False
                self._bell.release()
            return True

    @property
    def fault(self) -> BaseException | None:
        return self._fault

    def idle(self) -> bool:
        """Nothing is queued or being written."""
        with self._lock:
            return not self._waiting and (self._asleep or self._thread is None)

    def close(self) -> None:
        """Write what is queued, and end. The closing hook runs in the writing thread, last."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            thread = self._thread
            if self._asleep:
                self._asleep = False
                self._bell.release()
        if thread is None:
            self._closing()
        elif thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        batch: list[J] = []
        try:
            while True:
                batch = self._next()
                if not batch and self._ending:
                    break
                self._commit(batch)
            self._closing()
        except BaseException as fault:
            with self._lock:
                self._fault = fault
                lost = batch + self._waiting
                self._waiting = []
            self._bury(lost, fault)
            raise

    def _next(self) -> list[J]:
        """The next batch; empty where the time to retry has come, or the end."""
        with self._lock:
            if self._waiting or self._ending:
                batch, self._waiting = self._waiting[:LIMIT], self._waiting[LIMIT:]
                return batch
            self._asleep = True
        pause = self._retry_after()
        woken = self._bell.acquire(timeout=-1 if pause is None else pause)
        with self._lock:
            if not woken and not self._asleep:
                # Rung in the very moment that the wait ran out: take the ring, so that none is left over.
                self._bell.acquire()
            self._asleep = False
            batch, self._waiting = self._waiting[:LIMIT], self._waiting[LIMIT:]
            return batch
