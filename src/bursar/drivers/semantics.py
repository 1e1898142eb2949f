"""The world's side of the semantic cache: embeds off the event loop, looks, and learns behind the calls.

Failure: whatever the embedder, the index or the files raise is a miss, counted and logged once a minute; what is to be
learned is lost then, or where more than a thousand calls wait to be learned from. A forked child opens its own files.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bursar.policy import Embeds, Endpoint
from bursar.rules.semantic.choose import Around, Told
from bursar.rules.semantic.question import Question
from bursar.stores.meaning import Meaning, Space
from bursar.types import Instant

log = logging.getLogger("bursar.semantic")

_LOG_EVERY_SECONDS = 60.0
_MOST_WAITING = 1_000


class NoVector(Exception):
    """The rule's embedder could not be asked."""


class Semantics:
    """Thread-safe. `lookers` is where an event loop has `around` run."""

    def __init__(
        self, opens: Callable[[], Meaning], clock: Callable[[], Instant], embedder: Embeds | None = None
    ) -> None:
        """opens: opens the state, in the process and at the time of the first question.

        embedder: of the rules that name none; None: there are no such rules.
        """
        self._opens, self._clock, self._embedder = opens, clock, embedder
        self.failures = 0
        """Questions that a fault has turned into misses."""
        self._logged = -_LOG_EVERY_SECONDS
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._opened: Meaning | None = None
        self._waiting = 0
        self._lookers = ThreadPoolExecutor(2, "bursar-look")
        self._learner = ThreadPoolExecutor(1, "bursar-learn")

    @property
    def lookers(self) -> ThreadPoolExecutor:
        self._here()
        return self._lookers

    @property
    def meaning(self) -> Meaning:
        """The state: for reports, explanations and purges. Raises what opening raises."""
        return self._open()

    def around(self, question: Question, vector: Sequence[float] | None = None) -> Around | None:
        """What is near the question; None where that cannot be found out. Blocks for the embedding.

        vector: the question's, from the rule's endpoint.
        """
        try:
            meaning, embedder = self._open(), self._embedder_of(question)
            if isinstance(embedder, Endpoint):
                if vector is None:
                    raise NoVector(f"{embedder.name} gave no vector, or is not reached through this client")
            else:
                (vector,) = embedder.embed([question.text])
            return meaning.around(question, Space.of(question, embedder.name), vector, self._clock())
        except Exception as fault:
            self._fail(fault)
            return None

    def learn(self, told: Told) -> None:
        """Learn from a call that has ended: soon, in a thread of its own."""
        self._here()
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                self.failures += 1
                return
            self._waiting += 1
        self._learner.submit(self._learn, told)

    def flush(self) -> None:
        """Wait until all that was to be learned by now has been."""
        self._here()
        self._learner.submit(lambda: None).result()

    def close(self) -> None:
        """Learn what is waiting, then let go of the files. A later question opens them again."""
        if self._process != os.getpid():
            return
        self._lookers.shutdown()
        self._learner.shutdown()
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        self._begin()

    def _learn(self, told: Told) -> None:
        try:
            space = Space.of(told.question, self._embedder_of(told.question).name)
            self._open().learn(told, space, self._clock())
        except Exception as fault:
            self._fail(fault)
        finally:
            with self._lock:
                self._waiting -= 1

    def _embedder_of(self, question: Question) -> Embeds | Endpoint:
        embedder = question.rule.embedder or self._embedder
        if embedder is None:
            raise NoVector("the step's rule names no embedder, and there is no local one")
        return embedder

    def _open(self) -> Meaning:
        self._here()
        with self._lock:
            if self._opened is None:
                self._opened = self._opens()
            return self._opened

    def _here(self) -> None:
        if self._process != os.getpid():  # in a forked child the threads, the lock and the files are the parent's
            self._begin()

    def _fail(self, fault: Exception) -> None:
        self.failures += 1
        if time.monotonic() - self._logged >= _LOG_EVERY_SECONDS:
            self._logged = time.monotonic()
            # Others may quote what was asked.
            told = str(fault) if isinstance(fault, OSError | sqlite3.Error | NoVector) else "details withheld"
            log.warning("the semantic cache failed (%s: %s): every such question is a miss", type(fault).__name__, told)
