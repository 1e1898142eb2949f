"""One batch of jobs on its way into one transaction of a SQLite ledger.

Fails whole: whatever it raises, nothing of it is written. What this owner has open is known from memory; `careful`
believes the table alone.
"""

import functools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias

import msgspec

from bursar.stores import sql, states_sqlite
from bursar.stores.balances import CounterKey, key_of, place
from bursar.stores.counters import FIELDS, Vector
from bursar.stores.forest import Run
from bursar.stores.memo import Memo, line_values
from bursar.stores.owners import Owner, Owners
from bursar.stores.receipt import Answer, Receipt
from bursar.stores.rows import COLUMNS, RowKey, charges_text, dressed, from_row, mark, opening, outcome, taken_twice
from bursar.stores.rows import whole as all_of
from bursar.stores.states import At, Change, Updates
from bursar.stores.transaction import Row, Transaction
from bursar.stores.waiting import Waiter, Waiting
from bursar.types import Ask, Entry, Hold, Instant, Refused


@dataclass(slots=True)
class Reserving:
    """Open a row, with all that is asked for."""

    entry: Entry
    ask: Ask
    receipt: Receipt[Hold | Refused]


@dataclass(slots=True)
class Extending:
    """Hold more of an open row's counters."""

    hold: Hold
    nanos: int
    tokens: int
    receipt: Receipt[None]


@dataclass(slots=True)
class Settling:
    """Close a row."""

    hold: Hold
    entry: Entry
    receipt: Receipt[None]


@dataclass(slots=True)
class Judging:
    """Mark a closed row."""

    hold: Hold
    validated: bool | None
    verdict: str
    receipt: Receipt[None]


@dataclass(slots=True)
class Sweeping:
    """Close the rows of the dead."""

    receipt: Receipt[int]


@dataclass(slots=True)
class Errand:
    """Something small of another table; None: only a mark in the queue."""

    work: Callable[[sqlite3.Connection], Any] | None
    receipt: Receipt[Any]


@dataclass(slots=True)
class Updating:
    """Change a shared document."""

    at: At
    change: Change[Any]
    receipt: Receipt[Any]


Job: TypeAlias = Reserving | Extending | Settling | Judging | Sweeping | Errand | Updating


class Surprise(Exception):
    """A row that this owner had open is not open any more: believe the table, not the memory."""


class Draft:
    """One batch on its way into one transaction."""

    __slots__ = (
        "_buried", "_careful", "_db", "_dead_names", "_mine", "_open", "_owners", "books", "dead", "updates", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        db: sqlite3.Connection,
        memo: Memo,
        open_rows: dict[RowKey, Row],
        waiters: dict[RowKey, Waiter],
        owners: Owners,
        mine: str,
        now: Instant,
        look: Callable[[], bool],
        *,
        careful: bool,
    ) -> None:
        """look: whether it is time again to look for the dead though nobody would be refused for them."""
        self._db, self._open, self._owners, self._mine, self._careful = db, open_rows, owners, mine, careful
        self._buried = False
        self._dead_names: set[str] = set()
        self.dead: list[Owner] = []
        """Owners whose files can be removed once this is committed."""
        self.books = Transaction(memo, self._find, mine, self._gone, now)
        self.updates = Updates(functools.partial(states_sqlite.body_of, db), now)
        self.waiting = Waiting(waiters, self.books, lambda must: (must or look()) and self._bury())

    def counters(self, jobs: list[Job]) -> Iterator[CounterKey]:
        """The counters that these jobs are going to ask for."""
        for job in jobs:
            match job:
                case Reserving(_, ask, _):
                    yield from (place(claim, self.books.now).key for claim in ask.claims)
                case Settling(hold, _, _):
                    row = self._open.get((hold.request_id, hold.attempt))
                    yield from map(key_of, row.entry.charges if row is not None else ())
                case _:
                    pass

    def take(self, job: Job) -> Answer | None:
        """Work one job into the draft; its answer, should the transaction be committed. None: see `waiting`."""
        match job:
            case Reserving(entry, ask, receipt):
                return self._reserve(entry, ask, receipt)
            case Extending(hold, nanos, tokens, receipt):
                self.books.extend((hold.request_id, hold.attempt), nanos, tokens)
                return receipt, None, None
            case Settling(hold, entry, receipt):
                key = (hold.request_id, hold.attempt)
                self.waiting.give_up(key, self._mine)
                self.books.settle(key, entry)
                return receipt, None, None
            case Judging(hold, validated, verdict, receipt):
                self.books.judge((hold.request_id, hold.attempt), validated, verdict)
                return receipt, None, None
            case Sweeping(receipt):
                return receipt, self._sweep(), None
            case Errand(work, receipt):
                return receipt, None if work is None else work(self._db), None
            case Updating(at, change, receipt):
                return self.updates.take(at, change, receipt)

    def _reserve(self, entry: Entry, ask: Ask, receipt: Receipt[Hold | Refused]) -> Answer | None:
        key = (entry.request_id, entry.attempt)
        if key in self._open or self.books.holds(key) or key in self.waiting.waiters:
            return receipt, None, taken_twice(entry)
        if ask.free:
            self.books.open(entry)
            return receipt, Hold(*key), None
        if self.waiting.reserve(entry, ask, receipt, self._mine) is not None:
            self._prove(entry)
        return None

    def _prove(self, entry: Entry) -> None:
        """What cannot be written fails now, for itself, and not later in the middle of another batch."""
        self._db.execute("SAVEPOINT proof")
        sql.OPEN_ROWS.append(self._db, [[*opening(entry), self._mine]])
        self._db.execute("ROLLBACK TO proof")
        self._db.execute("RELEASE proof")

    def write(self) -> None:
        """Rows, counters, rollups, runs, histogram, factors, sketches and shared documents."""
        db, books, tally = self._db, self.books, self.books.tally
        self._write_rows()
        self._write_rollups()
        sql.PUT_COUNTERS.put(db, [line_values(line) for line in books.balances.changed.values()])
        sql.ADD_SKETCHES.put(
            db, [(*key, *gain) for key, bins in tally.sketches.items() for gain in bins.items()]
        )  # fmt: skip
        sql.PUT_RUNS.put(db, [dressed(_run_values(run)) for run in tally.forest.changed.values()])
        sql.MOVE_BINS.put(db, [(*at, *weight) for at, weight in tally.forest.moves().items()])
        sql.ADD_FACTORS.put(db, [
            (*key, factor.input_estimated, factor.input_reported, factor.output_estimated, factor.output_reported,
             factor.decay)
            for key, factor in tally.factors.items()
        ])  # fmt: skip
        states_sqlite.write(db, self.updates)
        if books.ignored:
            db.execute("UPDATE meta SET value = value + ? WHERE name = 'ignored_settlements'", (books.ignored,))

    def _write_rows(self) -> None:
        db, rows = self._db, self.books.rows
        opened: list[RowKey] = []
        whole: list[RowKey] = []
        mine: list[list[Any]] = []
        read: list[list[Any]] = []
        marked: list[list[Any]] = []
        for key, row in rows.items():
            if key in self.books.marked:
                marked.append([row.number, *mark(row.entry)])
            elif row.number is None:
                (opened if row.entry.status == "open" else whole).append(key)
            elif row.entry.status != "open":
                (read if row.read else mine).append([row.number, *outcome(row.entry)])
        moved = [(rows[key].number, charges_text(rows[key].entry.charges)) for key in self.books.extended]
        sql.EXTEND_ROWS.put(db, [row for row in moved if row[0] is not None])
        for keys, table, values in ((opened, sql.OPEN_ROWS, opening), (whole, sql.WHOLE_ROWS, all_of)):
            if not keys:
                continue
            numbers = table.append(db, [[*values(rows[key].entry), rows[key].owner] for key in keys])
            for key, number in zip(keys, numbers, strict=True):
                rows[key] = msgspec.structs.replace(rows[key], number=number)
        if sql.CLOSE_OPEN_ROWS.put(db, mine) != len(mine):
            raise Surprise
        sql.CLOSE_READ_ROWS.put(db, read)
        sql.MARK_ROWS.put(db, marked)

    def _write_rollups(self) -> None:
        lean: list[tuple[Any, ...]] = []
        full: list[tuple[Any, ...]] = []
        for cell, gain in self.books.tally.rollups().items():
            if any(_rest(gain)):
                full.append(cell + gain)
            else:
                lean.append(cell + _lean(gain))
        sql.ADD_LEAN_ROLLUPS.put(self._db, lean)
        sql.ADD_ROLLUPS.put(self._db, full)

    def _find(self, key: RowKey) -> Row | None:
        row = None if self._careful else self._open.get(key)
        if row is not None:
            return row
        query = f"{sql.SELECT_CALLS} WHERE request_id = ? AND attempt = ?"
        found = self._db.execute(query, key).fetchone()
        if found is None:
            return None
        row = row_of(found)
        if row.entry.status != "open":
            self._open.pop(key, None)
        return row

    def _gone(self, owner: str) -> bool:
        return owner in self._dead_names or self._owners.gone(owner)

    def _bury(self) -> bool:
        """Sweep, once a transaction; True where there were dead."""
        if self._buried:
            return False
        self._buried = True
        self._sweep()
        return bool(self._dead_names)

    def _sweep(self) -> int:
        """Write the journals of the dead, then expire what they left open."""
        db, owners = self._db, self._owners
        names = [name for (name,) in db.execute("SELECT DISTINCT owner FROM calls WHERE status = 'open'").fetchall()]
        for name in sorted({*names, *owners.names()} - {self._mine}):
            dead = owners.take(name)
            if dead is not None:
                self.dead.append(dead)
                self._dead_names.add(name)
                for spooled in dead.journal():
                    self.books.settle((spooled.hold.request_id, spooled.hold.attempt), spooled.entry)
            elif owners.gone(name):
                self._dead_names.add(name)
        swept = 0
        for name in sorted(self._dead_names & set(names)):
            query = f"{sql.SELECT_CALLS} WHERE status = 'open' AND owner = ?"
            for found in db.execute(query, (name,)).fetchall():
                row = row_of(found)
                if not self.books.holds((row.entry.request_id, row.entry.attempt)):
                    self.books.expire(row)
                    swept += 1
        return swept


def row_of(found: tuple[Any, ...]) -> Row:
    """The row that SELECT_CALLS has found."""
    return Row(from_row(found[: len(COLUMNS)]), found[-2], found[-1], read=True)


_run_values: Callable[[Run], tuple[Any, ...]] = attrgetter(*sql.RUN_COLUMNS)
_lean: Callable[[Vector], Vector] = itemgetter(*map(FIELDS.index, sql.LEAN_FIELDS))
_rest: Callable[[Vector], Vector] = itemgetter(*(FIELDS.index(name) for name in FIELDS if name not in sql.LEAN_FIELDS))
