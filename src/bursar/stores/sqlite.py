"""The books in one SQLite file (stdlib, write-ahead log, synchronous NORMAL): any threads, any number of processes.

One thread a process writes, all that has gathered in one transaction, in its turn among the processes. A reserve is
written at once, a settlement within ten milliseconds or as soon as somebody waits for it or reads. A row is durable
against the death of the process once its receipt is resolved; a power cut may take the last moments before the log was
synced, never the file. POSIX only: turns and leases are kernel file locks. A hold's lease is the lock that its process
has on a file of its own: renewed by living, gone with the process; nobody is refused for a hold before the dead have
been looked for.
"""

import asyncio
import functools
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bursar.stores import sql
from bursar.stores.base import (
    BudgetLine,
    By,
    Clock,
    Counter,
    Filters,
    Finding,
    Key,
    Line,
    Metrics,
    Page,
    StoreFailure,
    Toucher,
    system_clock,
)
from bursar.stores.cache import AnswerCache
from bursar.stores.draft import Errand, Extending, Job, Judging, Reserving, Settling, Sweeping, Updating
from bursar.stores.forest import Run
from bursar.stores.group import GroupCommit, When
from bursar.stores.migrate import prepare
from bursar.stores.reader import Reader, key_values
from bursar.stores.receipt import Receipt, hand_over, resolve
from bursar.stores.scribe import Scribe
from bursar.stores.states import At, Change
from bursar.stores.states_sqlite import SqliteStates
from bursar.stores.truce import Truce
from bursar.types import Ask, Claim, Entry, Hold, Instant, Ratios, Refused

log = logging.getLogger("bursar.stores")

Connect = Callable[[Path], sqlite3.Connection]
_ALL = Filters()
_FREE = Ask()


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit, to be used by one thread at a time. Waits five seconds for locks of strangers."""
    connection = sqlite3.connect(
        path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 16000")  # see checkpoint.py: the backstop
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA temp_store = MEMORY")  # statement journals of wide batches: a file else
    return connection


class _Room:
    """What belongs to one process: the writing thread, its scribe, the reading connections."""

    def __init__(self, path: Path, connect: Connect, clock: Clock) -> None:
        self.gate, self.truce = threading.Lock(), Truce()
        self.scribe = Scribe(path, connect, self.gate, self.truce, clock)
        self.reader = Reader(path, connect, self.truce)
        self.group: GroupCommit[Job] = GroupCommit(
            self.scribe.commit, self.scribe.bury, self.scribe.retry_after, self.scribe.close
        )

    def close(self) -> None:
        self.group.close()
        with self.truce:
            self.reader.disconnect()

    def pause(self) -> None:
        """Before a fork: nothing is under way in SQLite, no connection is open."""
        self.truce.pause()
        self.scribe.disconnect()
        self.reader.disconnect()


class SqliteStore:
    """A store in one file, which is made, or brought up to date, where it has to be."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        connect: Connect = connect,
        clock: Clock = system_clock,
        cache: AnswerCache | None = None,
    ) -> None:
        """cache: where answers are kept; None: in a file of its own beside the ledger's."""
        self.path, self._connect, self._clock = Path(path).absolute(), connect, clock
        self.cache = cache or AnswerCache(self.path.with_name(self.path.name + ".cache"))
        self._migrate()
        self._enter()
        if self._orphaned():
            self.sweep()
        _STORES.add(self)

    def _migrate(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connect(self.path)
            try:
                prepare(self.path, connection)
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as fault:
            raise StoreFailure(
                f"the ledger {self.path} cannot be opened ({fault}): check its path and permissions, or set store.url"
            ) from fault

    def _enter(self) -> None:
        self._room = _Room(self.path, self._connect, self._clock)
        self._finalizer = weakref.finalize(self, self._room.close)

    def reserve(self, entry: Entry, ask: Ask = _FREE) -> Receipt[Hold | Refused]:
        room = self._room
        receipt: Receipt[Hold | Refused] = Receipt(room.gate)
        self._submit(room, Reserving(entry, ask, receipt), "now" if ask.free else "behind")
        return receipt

    def reserve_async(self, entry: Entry, ask: Ask = _FREE) -> Awaitable[Hold | Refused]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Hold | Refused] = loop.create_future()
        receipt = self.reserve(entry, ask)
        receipt.add_done_callback(functools.partial(hand_over, future), loop.call_soon_threadsafe)
        return future

    def extend(self, hold: Hold, nanos: int, tokens: int) -> Receipt[None]:
        room = self._room
        receipt: Receipt[None] = Receipt(room.gate)
        self._submit(room, Extending(hold, nanos, tokens, receipt), "now")
        return receipt

    def settle(self, hold: Hold, entry: Entry) -> Receipt[None]:
        room = self._room
        receipt: Receipt[None] = Receipt(room.gate, room.group.hurry)
        self._submit(room, Settling(hold, entry, receipt), "soon")
        if room.scribe.waiters:
            room.group.hurry()
        return receipt

    def judged(self, entry: Entry, validated: bool | None, verdict: str) -> Receipt[None]:
        room = self._room
        receipt: Receipt[None] = Receipt(room.gate, room.group.hurry)
        hold = Hold(entry.request_id, entry.attempt)
        self._submit(room, Judging(hold, validated, verdict, receipt), "soon")
        return receipt

    @property
    def states(self) -> SqliteStates:
        return SqliteStates(lambda: self._room.reader, self._behind, self._update)

    def _update(self, at: At, change: Change[Any]) -> Receipt[Any]:
        room = self._room
        receipt: Receipt[Any] = Receipt(room.gate, room.group.hurry)
        self._submit(room, Updating(at, change, receipt), "soon")
        return receipt

    def balances(self, claims: tuple[Claim, ...]) -> list[Counter]:
        return self._behind().balances(claims, self._clock())

    def budgets(
        self, tenant: str | None = None, budget: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[BudgetLine]:
        return self._behind().budgets(tenant, budget, limit, cursor, self._clock())

    def touchers(self, line: BudgetLine, limit: int = 10) -> list[Toucher]:
        return self._behind().touchers(line, limit)

    def ratios(self, provider: str, model: str) -> Ratios:
        return self._room.scribe.ratios((provider, model))

    def sweep(self) -> int:
        room = self._room
        receipt: Receipt[int] = Receipt(room.gate)
        self._submit(room, Sweeping(receipt), "last")
        return receipt.result()

    def flush(self) -> None:
        if self._room.scribe.spooled or not self._room.group.idle():
            self._errand(None)

    def close(self) -> None:
        self._finalizer()
        self.cache.close()

    def calls(self, filters: Filters = _ALL, limit: int = 100, cursor: str | None = None) -> Page[Entry]:
        return self._behind().calls(filters, limit, cursor)

    def call(self, request_id: str) -> list[Entry]:
        return self._behind().call(request_id)

    def recent(
        self, tenant: str, step: tuple[str | None, str | None] | None = None, limit: int = 500
    ) -> list[Entry]:  # fmt: skip
        return self._behind().recent(tenant, step, limit)

    def runs(self, filters: Filters = _ALL, limit: int = 100, cursor: str | None = None) -> Page[Run]:
        return self._behind().runs(filters, limit, cursor)

    def run(self, run_id: str, tenant: str | None = None) -> list[Entry]:
        return self._behind().run(run_id, tenant)

    def run_total(self, run_id: str, tenant: str = "default") -> Run | None:
        return self._behind().run_total(run_id, tenant)

    def spend(
        self, by: By, since: Instant | None = None, until: Instant | None = None, filters: Filters = _ALL,
        zone: str = "UTC",
    ) -> list[Line]:  # fmt: skip
        return self._behind().spend(by, since, until, filters, zone)

    def metrics(self, since: Instant | None = None, until: Instant | None = None, tenant: str | None = None) -> Metrics:
        return self._behind().metrics(since, until, tenant)

    def verify(self) -> list[Finding]:
        owners = self._room.scribe.owners
        return self._behind().verify(lambda name: not owners.gone(name))

    def create_key(self, key: Key) -> None:
        self._errand(lambda db: sql.PUT_KEY.put(db, [key_values(key)]))

    def list_keys(self) -> list[Key]:
        return self._room.reader.list_keys()

    def revoke_key(self, key_id: str, at: Instant) -> bool:
        query = "UPDATE keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL"
        changed: int = self._errand(lambda db: db.execute(query, (at, key_id)).rowcount)
        return changed == 1

    def find_key(self, hash: bytes) -> Key | None:
        return self._room.reader.find_key(hash)

    @property
    def ignored(self) -> int:
        """Settlements that this process has let fall: of rows closed already, or without a row; and marks of rows that
        are not there or open."""
        return self._room.scribe.ignored

    def _behind(self) -> Reader:
        """The reader, once all that was submitted is in the books."""
        self.flush()
        return self._room.reader

    def _errand(self, work: Callable[[sqlite3.Connection], Any] | None) -> Any:
        room = self._room
        receipt: Receipt[Any] = Receipt(room.gate)
        self._submit(room, Errand(work, receipt), "last")
        return receipt.result()

    def _submit(self, room: _Room, job: Job, when: When) -> None:
        if room.group.submit(job, when):
            return
        fault = room.group.fault
        failure = StoreFailure(
            f"the ledger's writer has died ({fault!r}): this is a bug; restart the process"
            if fault is not None
            else f"the ledger {self.path} has been closed in this process: open another store"
        )
        if isinstance(job, Settling):
            log.error("request %s cannot be settled: %s", job.entry.request_id, failure)
        resolve(room.gate, [(job.receipt, None, failure)])

    def _orphaned(self) -> bool:
        """Open rows, or files of owners, that nobody holds any more."""
        owners = self._room.scribe.owners
        with self._room.reader.snapshot() as db:
            found = db.execute("SELECT DISTINCT owner FROM calls WHERE status = 'open'").fetchall()
        return any(owners.gone(name) for name in {*owners.names(), *(name for (name,) in found)})

    def before_fork(self) -> None:
        """See truce.py. What is submitted from here on waits for the fork to be over."""
        self._room.pause()

    def after_fork(self) -> None:
        """In the parent: go on."""
        self._room.truce.resume()

    def forked(self) -> None:
        """In a child: a thread, an owner and connections of its own. A store that was closed stays closed."""
        if self._finalizer.detach() is not None:
            self._room.scribe.disown()
            self._enter()


# A fork is the process's own affair, so is the list of whom it concerns.
_STORES: "weakref.WeakSet[SqliteStore]" = weakref.WeakSet()


def _tell_all(what: Callable[[SqliteStore], None]) -> None:
    for store in list(_STORES):
        what(store)


os.register_at_fork(
    before=functools.partial(_tell_all, SqliteStore.before_fork),
    after_in_parent=functools.partial(_tell_all, SqliteStore.after_fork),
    after_in_child=functools.partial(_tell_all, SqliteStore.forked),
)
