"""Carries the write-ahead log back into the database beside the writer, so that no commit waits for the disk to sync.

A checkpoint of four megabytes takes tens of milliseconds, most of it in fsync. SQLite's passive kind blocks nobody; the
writer's own automatic one stays as the backstop that starts the log over. A failed one is logged and tried again.
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from bursar.stores.truce import Truce

log = logging.getLogger("bursar.stores")

_PAGES = 1_000
"""Pages in the log, by estimate, after which a checkpoint is worth its syncs."""


class Checkpointer:
    """A thread of its own, started by the first thousand pages."""

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection], truce: Truce) -> None:
        self._path, self._connect, self._truce = path, connect, truce
        self._pages = 0.0
        self._bell = threading.Semaphore(0)
        self._ending = False
        self._thread: threading.Thread | None = None

    def committed(self, jobs: int) -> None:
        """A transaction of that many jobs has been written: about ten pages, and more than half a page a job."""
        self._pages += 10 + 0.6 * jobs
        if self._pages < _PAGES:
            return
        self._pages = 0.0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="bursar-checkpoint", daemon=True)
            self._thread.start()
        self._bell.release()

    def close(self) -> None:
        if self._thread is not None:
            self._ending = True
            self._bell.release()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while self._bell.acquire() and not self._ending:
            try:
                with self._truce, contextlib.closing(self._connect(self._path)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as fault:
                log.debug("%s: the log could not be carried back (%s)", self._path, fault)
