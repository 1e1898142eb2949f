"""Daemon threads for what may hang: so many at once, so many waiting for one, none while there is nothing to do.

What does not fit is turned away and counted. What a piece of work raises is logged and ends nothing else; nobody waits
for these threads at the end of the process.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger("bursar")


class Pool:
    """Thread-safe. A forked child makes one of its own."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._name, self._most, self._room = name, threads, waiting
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = 0
        self.turned_away = 0
        """Pieces of work that were never begun."""

    def submit(self, work: Callable[[], None]) -> bool:
        """Have it done soon; False where it will not be."""
        with self._lock:
            grows = self._running < self._most
            if not grows and len(self._waiting) >= self._room:
                self.turned_away += 1
                return False
            self._waiting.append(work)
            self._running += grows
        return not grows or self._begun(work)

    def _begun(self, work: Callable[[], None]) -> bool:
        """One thread more; where there can be none (the interpreter is ending) the others may still do it."""
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._running -= 1
                if work in self._waiting:
                    self._waiting.remove(work)
                    self.turned_away += 1
                    return False
        return True

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException as fault:  # a stranger's code; a thread has nothing to interrupt
                _log.warning("%s: %r", self._name, fault)

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None
