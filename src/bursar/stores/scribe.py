"""The one writer of a SQLite ledger: turns a batch of jobs into one transaction, and says what became of each.

Where the database cannot be written a reserve fails, a settlement goes to the owner's journal and is written later. A
job that cannot be written whatever the disk does (an id used twice, a text that is no Unicode) fails alone.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bursar.stores.base import Clock, StoreFailure
from bursar.stores.checkpoint import Checkpointer
from bursar.stores.draft import Draft, Errand, Job, Judging, Reserving, Settling, Surprise, Updating
from bursar.stores.memo import Memo
from bursar.stores.owners import Owner, Owners, Spooled, Turn
from bursar.stores.receipt import Answer, Receipt, resolve
from bursar.stores.rows import RowKey, taken_twice
from bursar.stores.tally import ModelKey
from bursar.stores.transaction import Row
from bursar.stores.truce import Truce
from bursar.stores.waiting import Waiter
from bursar.types import Ratios

log = logging.getLogger("bursar.stores")

_POISON = (
    sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
    OverflowError, ValueError, TypeError, LookupError,
)  # fmt: skip
_DOWN = (sqlite3.Error, OSError)
_RETRY_SECONDS = 1.0
_TICK_SECONDS = 0.020
_LOOK_SECONDS = 0.100
_LOG_EVERY_SECONDS = 60.0


class Scribe:
    """Used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        connect: Callable[[Path], sqlite3.Connection],
        gate: threading.Lock,
        truce: Truce,
        clock: Clock,
    ) -> None:
        self.path, self._connect, self._gate, self._truce, self._clock = path, connect, gate, truce, clock
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
        self.waiters: dict[RowKey, Waiter] = {}
        """Reserves that wait for others' holds, in order of arrival."""
        self._memo = Memo()
        self._looked = -_LOOK_SECONDS
        self._logged, self._lost = -_LOG_EVERY_SECONDS, 0

    # What the group commit calls

    def commit(self, jobs: list[Job]) -> None:
        """Write and answer a batch; without jobs: see to the journal and to those who wait."""
        with self._truce:
            if not (jobs or self.spooled or self._worth_a_look()):
                return
            answers = self._attempt(jobs)
        if answers is not None:
            resolve(self._gate, answers)
            return
        for job in jobs:
            self.commit([job])

    def bury(self, jobs: list[Job], fault: BaseException) -> None:
        """The writing thread has died: nobody waits for ever."""
        failure = StoreFailure(f"the ledger's writer has died ({fault!r}): this is a bug; restart the process")
        resolve(self._gate, [*[(job.receipt, None, failure) for job in jobs], *self._turned_away(failure)])

    def retry_after(self) -> float | None:
        """Seconds until the journal, or those who wait for others' holds, should be seen to again."""
        return _TICK_SECONDS if self.waiters else _RETRY_SECONDS if self.spooled else None

    def _worth_a_look(self) -> bool:
        """Some waiter's time has come, or another process has written: it may have given something back."""
        now = self._clock()
        try:
            return any(waiter.ripe(now) for waiter in self.waiters.values()) or (
                bool(self.waiters) and (self._memo.outdated(self._db) or self._look_due())
            )
        except sqlite3.Error:
            return True

    def _look_due(self) -> bool:
        """It is time to look again for processes that have died."""
        return time.monotonic() - self._looked >= _LOOK_SECONDS

    def _look(self) -> bool:
        due = self._look_due()
        if due:
            self._looked = time.monotonic()
        return due

    def _turned_away(self, failure: StoreFailure) -> list[Answer]:
        """Nobody waits any more."""
        answers: list[Answer] = [(waiter.receipt, None, failure) for waiter in self.waiters.values()]
        self.waiters = {}
        return answers

    def close(self) -> None:
        """Let go of everything. What is open stays open for the next sweep; what is journalled stays journalled."""
        if self.spooled:
            self.commit([])
        failure = StoreFailure(f"the ledger {self.path} has been closed while this waited for others' holds")
        resolve(self._gate, self._turned_away(failure))
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
        self._memo.forget()
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
        return self._memo.ratios(key)

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
            if len(jobs) > 1:
                return None
            return self._apart(jobs, fault) if self.waiters else self._refusals(jobs, fault)
        except _DOWN as fault:
            return self._failed(jobs, fault)
        self._checkpointer.committed(len(jobs))
        return answers

    def _apart(self, jobs: list[Job], fault: Exception) -> list[Answer]:
        """It is the job that cannot be written, or one of those who wait: they are proven when they begin to wait (see
        Draft), so this is a damaged file. The job by itself; without one nobody waits any longer."""
        if not jobs:
            return self._turned_away(StoreFailure(f"this cannot be written to the ledger: {fault}"))
        waiters, self.waiters = self.waiters, {}
        try:
            return self._attempt(jobs) or []
        finally:
            self.waiters = {**waiters, **self.waiters}

    def _refusals(self, jobs: list[Job], fault: Exception) -> list[Answer]:
        return [(job.receipt, None, self._refusal(job, fault)) for job in jobs]

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
        draft: Draft | None = None
        try:
            strange = self._memo.refresh(db)
            draft = self._draft(careful=careful)
            if strange:
                self._memo.fetch(draft.counters(jobs))
            answers = [answer for job in jobs if (answer := draft.take(job)) is not None]
            draft.waiting.look(afresh=strange or self._look_due())
            draft.write()
            db.execute("COMMIT")
        except BaseException:
            self._memo.forget()
            for dead in draft.dead if draft is not None else ():
                dead.close()
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._remember(draft)
        return answers + draft.waiting.told

    def _draft(self, *, careful: bool) -> Draft:
        return Draft(
            self._db, self._memo, self._open, self.waiters, self.owners, self._owner_id, self._clock(), self._look,
            careful=careful,
        )  # fmt: skip

    @property
    def _owner_id(self) -> str:
        return "" if self._owner is None else self._owner.id

    def _remember(self, draft: Draft) -> None:
        """The transaction is committed: what was remembered becomes what is."""
        changes = draft.books
        for key, row in changes.rows.items():
            if row.entry.status != "open":
                self._open.pop(key, None)
            elif row.number is not None:
                self._open[key] = msgspec.structs.replace(row, read=False) if row.read else row
        self.waiters = draft.waiting.waiters
        self._memo.remember(changes)
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
                resolve(self._gate, self._transact(part, careful=True))
            except _POISON:
                for job in part:
                    self._replay_one(job)
        if self._owner is not None:
            self._owner.clear()
        log.warning("%s: %d journalled settlements are in the ledger now", self.path, len(self.spooled))
        self.spooled, self._unjournalled = [], []

    def _replay_one(self, job: Job) -> None:
        try:
            resolve(self._gate, self._transact([job], careful=True))
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
        self._lost += sum(isinstance(job, (Updating, Judging)) for job in jobs)
        self._complain(fault, len(settling))
        answers: list[Answer] = []
        for job in jobs:
            if isinstance(job, Settling):
                answers.append((job.receipt, None, kept))
            else:
                marks = isinstance(job, Errand) and job.work is None
                answers.append((job.receipt, None, None if marks else failure))
        return answers + self._turned_away(failure)

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
                "%s cannot be written (%s): new calls are refused, %d settlements wait in the journal,"
                " %d changes of states and marks are lost",
                self.path, fault, len(self.spooled) or settlements, self._lost,
            )  # fmt: skip
            self._lost = 0

    def _refusal(self, job: Job, fault: Exception) -> StoreFailure:
        if isinstance(job, Reserving) and isinstance(fault, sqlite3.IntegrityError):
            return taken_twice(job.entry)
        if isinstance(job, Settling):
            log.error("request %s cannot be settled: %s", job.entry.request_id, fault)
        return StoreFailure(f"this cannot be written to the ledger: {fault}")
