"""The one writer of a SQLite ledger: turns a batch of jobs into one transaction, and says what became of each.

Where the database cannot be written a reserve fails, a settlement goes to the owner's journal and is written later. A
job that cannot be written whatever the disk does (an id used twice, a text that is no Unicode) fails alone.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bursar.stores import sql
from bursar.stores.base import StoreFailure
from bursar.stores.checkpoint import Checkpointer
from bursar.stores.draft import Draft, Errand, Job, Reserving, Settling, Surprise, run_of
from bursar.stores.forest import Run, RunKey
from bursar.stores.owners import Owner, Owners, Spooled, Turn
from bursar.stores.receipt import Answer, Receipt, resolve
from bursar.stores.rows import RowKey, taken_twice
from bursar.stores.tally import Factor, ModelKey
from bursar.stores.transaction import Row
from bursar.stores.truce import Truce
from bursar.types import Ratios

log = logging.getLogger("bursar.stores")

_POISON = (
    sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
    OverflowError, ValueError, TypeError, LookupError,
)  # fmt: skip
_DOWN = (sqlite3.Error, OSError)
_RUNS_KEPT = 5_000
_RETRY_SECONDS = 1.0
_LOG_EVERY_SECONDS = 60.0


class Scribe:
    """Used by one thread at a time."""

    def __init__(
        self, path: Path, connect: Callable[[Path], sqlite3.Connection], gate: threading.Lock, truce: Truce
    ) -> None:
        self.path, self._connect, self._gate, self._truce = path, connect, gate, truce
        self.owners = Owners(path)
        self._checkpointer = Checkpointer(path, connect, truce)
        self.ignored = 0
        self.spooled: list[Spooled] = []
        """Settlements that wait for the database, in the journal too but for the unjournalled."""
        self._unjournalled: list[Spooled] = []
        self._connection: sqlite3.Connection | None = None
        self._turn: Turn | None = None
        self._owner: Owner | None = None
        self._open: dict[RowKey, Row] = {}
        self._runs: dict[RunKey, Run] = {}
        self._factors: dict[ModelKey, Factor] | None = None
        self._version = -1
        self._logged = -_LOG_EVERY_SECONDS

    # What the group commit calls

    def commit(self, jobs: list[Job]) -> None:
        """Write and answer a batch."""
        with self._truce:
            answers = self._attempt(jobs)
        if answers is not None:
            resolve(self._gate, answers)
            return
        for job in jobs:
            self.commit([job])

    def bury(self, jobs: list[Job], fault: BaseException) -> None:
        """The writing thread has died: nobody waits for ever."""
        failure = StoreFailure(f"the ledger's writer has died ({fault!r}): this is a bug; restart the process")
        resolve(self._gate, [(job.receipt, None, failure) for job in jobs])

    def retry_after(self) -> float | None:
        """Seconds until the journal should be tried again."""
        return _RETRY_SECONDS if self.spooled else None

    def close(self) -> None:
        """Let go of everything. What is open stays open for the next sweep; what is journalled stays journalled."""
        if self.spooled:
            self.commit([])
        self._checkpointer.close()
        with self._truce:
            self.disconnect()
        if self._owner is not None:
            self._owner.release()
        if self._turn is not None:
            self._turn.close()
        self._owner = self._turn = None

    def disconnect(self) -> None:
        """Close the connection; the next batch opens another. For the writing thread, or during a truce."""
        self._forget()
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error as fault:
                log.debug("%s: closing the connection: %s", self.path, fault)
            self._connection = None

    def disown(self) -> None:
        """In a forked child: let go of the parent's locks, which stay the parent's."""
        for lock in (self._owner, self._turn):
            if lock is not None:
                lock.close()

    def ratios(self, key: ModelKey) -> Ratios:
        """From memory; any thread."""
        factor = (self._factors or {}).get(key)
        return Ratios() if factor is None else factor.ratios()

    # Shelf: runs between transactions

    def get(self, key: RunKey) -> Run | None:
        run = self._runs.get(key)
        if run is None:
            found = self._db.execute(f"{sql.SELECT_RUNS} WHERE run_id = ? AND tenant = ?", (key[1], key[0])).fetchone()
            if found is None:
                return None
            run = self._runs[key] = run_of(found)
        return run

    def tree(self, root: RunKey) -> Iterable[Run]:
        query = f"{sql.SELECT_RUNS} WHERE tenant = ? AND root_run_id = ? AND parent_run_id IS NOT NULL"
        return [run_of(found) for found in self._db.execute(query, root).fetchall()]

    # One transaction

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect(self.path)
        return self._connection

    def _attempt(self, jobs: list[Job]) -> list[Answer] | None:
        """The answers; None: one of the jobs is poison, so each has to be tried by itself."""
        try:
            answers = self._written(jobs)
        except _POISON as fault:
            return None if len(jobs) > 1 else [(job.receipt, None, self._refusal(job, fault)) for job in jobs]
        except _DOWN as fault:
            return self._failed(jobs, fault)
        self._checkpointer.committed(len(jobs))
        return answers

    def _written(self, jobs: list[Job]) -> list[Answer]:
        if self._turn is None:
            self._turn = Turn(self.path)
        if self._owner is None:
            self._owner = self.owners.enter()
        with self._turn.taken():
            if self.spooled:
                self._replay()
            try:
                return self._transact(jobs, careful=False)
            except Surprise:
                return self._transact(jobs, careful=True)

    def _transact(self, jobs: list[Job], *, careful: bool) -> list[Answer]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        draft = Draft(db, self, self._open, self.owners, self._owner_id, careful=careful)
        try:
            self._refresh()
            answers = [draft.take(job) for job in jobs]
            draft.write()
            db.execute("COMMIT")
        except BaseException:
            self._forget()
            for dead in draft.dead:
                dead.close()
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._remember(draft)
        return answers

    @property
    def _owner_id(self) -> str:
        return "" if self._owner is None else self._owner.id

    def _refresh(self) -> None:
        """What is remembered of runs and factors holds only while nobody else has written."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version or self._factors is None:
            self._runs.clear()
            columns = ", ".join(sql.FACTOR_COLUMNS)
            found = self._db.execute(f"SELECT {columns} FROM factors").fetchall()
            self._factors = {(row[0], row[1]): Factor(*row[2:]) for row in found}
            self._version = version

    def _forget(self) -> None:
        self._runs.clear()
        self._version = -1

    def _remember(self, draft: Draft) -> None:
        """The transaction is committed: what was remembered becomes what is."""
        changes = draft.books
        for key, row in changes.rows.items():
            if row.entry.status != "open":
                self._open.pop(key, None)
            elif row.number is not None:
                self._open[key] = row
        if len(self._runs) > _RUNS_KEPT:
            self._runs.clear()
        self._runs.update(changes.tally.forest.changed)
        if changes.tally.factors:
            known = self._factors or {}
            gained = {key: known.get(key, Factor()).then(factor) for key, factor in changes.tally.factors.items()}
            self._factors = {**known, **gained}
        self.ignored += changes.ignored
        for dead in draft.dead:
            dead.remove()

    # When it cannot be written

    def _replay(self) -> None:
        """Write the journal, one settlement a transaction where they do not go together."""
        jobs: list[Job] = [Settling(one.hold, one.entry, Receipt(self._gate)) for one in self.spooled]
        for start in range(0, len(jobs), 256):
            part = jobs[start : start + 256]
            try:
                self._transact(part, careful=True)
            except _POISON:
                for job in part:
                    self._replay_one(job)
        if self._owner is not None:
            self._owner.clear()
        log.warning("%s: %d journalled settlements are in the ledger now", self.path, len(self.spooled))
        self.spooled, self._unjournalled = [], []

    def _replay_one(self, job: Job) -> None:
        try:
            self._transact([job], careful=True)
        except _POISON as fault:
            log.error("%s: a journalled settlement cannot be written and falls: %s", self.path, fault)

    def _failed(self, jobs: list[Job], fault: Exception) -> list[Answer]:
        """The disk says no: reserves fail, settlements go to the journal, and the next try starts afresh."""
        self.disconnect()
        failure = StoreFailure(
            f"the ledger {self.path} cannot be written ({fault}): nothing was booked; free the disk, its permissions"
            f" or its locks, or set another store.url"
        )
        settling = [job for job in jobs if isinstance(job, Settling)]
        kept = self._journal([Spooled(job.hold, job.entry) for job in settling])
        self._complain(fault, len(settling))
        answers: list[Answer] = []
        for job in jobs:
            if isinstance(job, Settling):
                answers.append((job.receipt, None, kept))
            else:
                marks = isinstance(job, Errand) and job.work is None
                answers.append((job.receipt, None, None if marks else failure))
        return answers

    def _journal(self, spooled: list[Spooled]) -> StoreFailure | None:
        """Keep settlements on disk; where even that fails, in memory, and say so."""
        if not spooled:
            return None
        self.spooled += spooled
        self._unjournalled += spooled
        try:
            if self._owner is None:
                self._owner = self.owners.enter()
            self._owner.append(self._unjournalled)
        except OSError as fault:
            return StoreFailure(f"{len(self._unjournalled)} settlements are in memory only ({fault}): free the disk")
        self._unjournalled = []
        return None

    def _complain(self, fault: Exception, settlements: int) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_SECONDS:
            self._logged = now
            log.error(
                "%s cannot be written (%s): new calls are refused, %d settlements wait in the journal",
                self.path, fault, len(self.spooled) or settlements,
            )  # fmt: skip

    def _refusal(self, job: Job, fault: Exception) -> StoreFailure:
        if isinstance(job, Reserving) and isinstance(fault, sqlite3.IntegrityError):
            return taken_twice(job.entry)
        if isinstance(job, Settling):
            log.error("request %s cannot be settled: %s", job.entry.request_id, fault)
        return StoreFailure(f"this cannot be written to the ledger: {fault}")
