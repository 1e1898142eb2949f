"""One batch of jobs on its way into one transaction of a SQLite ledger.

Fails whole: whatever it raises, nothing of it is written. What this owner has open is known from memory; `careful`
believes the table alone.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias

import msgspec

from bursar.stores import sql
from bursar.stores.counters import FIELDS, Vector
from bursar.stores.forest import Run, Shelf
from bursar.stores.owners import Owner, Owners
from bursar.stores.receipt import Answer, Receipt
from bursar.stores.rows import COLUMNS, RowKey, dressed, from_row, opening, outcome, taken_twice
from bursar.stores.rows import whole as all_of
from bursar.stores.transaction import Row, Transaction
from bursar.types import Claim, Entry, Hold, Refused


@dataclass(slots=True)
class Reserving:
    """Open a row."""

    entry: Entry
    claims: tuple[Claim, ...]
    receipt: Receipt[Hold | Refused]


@dataclass(slots=True)
class Settling:
    """Close a row."""

    hold: Hold
    entry: Entry
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


Job: TypeAlias = Reserving | Settling | Sweeping | Errand


class Surprise(Exception):
    """A row that this owner had open is not open any more: believe the table, not the memory."""


class Draft:
    """One batch on its way into one transaction."""

    __slots__ = ("_careful", "_db", "_dead_names", "_mine", "_open", "_owners", "books", "dead")

    def __init__(
        self,
        db: sqlite3.Connection,
        shelf: Shelf,
        open_rows: dict[RowKey, Row],
        owners: Owners,
        mine: str,
        *,
        careful: bool,
    ) -> None:
        self._db, self._open, self._owners, self._mine, self._careful = db, open_rows, owners, mine, careful
        self._dead_names: set[str] = set()
        self.dead: list[Owner] = []
        """Owners whose files can be removed once this is committed."""
        self.books = Transaction(shelf, self._find, mine, self._gone)

    def take(self, job: Job) -> Answer:
        """Work one job into the draft; its answer, should the transaction be committed."""
        match job:
            case Reserving(entry, claims, receipt):
                key = (entry.request_id, entry.attempt)
                if key in self._open or self.books.holds(key):
                    return receipt, None, taken_twice(entry)
                self.books.open(entry)
                return receipt, Hold(*key, claims), None
            case Settling(hold, entry, receipt):
                self.books.settle((hold.request_id, hold.attempt), entry)
                return receipt, None, None
            case Sweeping(receipt):
                return receipt, self._sweep(), None
            case Errand(work, receipt):
                return receipt, None if work is None else work(self._db), None

    def write(self) -> None:
        """Rows, rollups, runs, histogram and factors."""
        db, books, tally = self._db, self.books, self.books.tally
        self._write_rows()
        self._write_rollups()
        sql.PUT_RUNS.put(db, [dressed(_run_values(run)) for run in tally.forest.changed.values()])
        sql.MOVE_BINS.put(db, [(*at, *weight) for at, weight in tally.forest.moves().items()])
        sql.ADD_FACTORS.put(db, [
            (*key, factor.input_estimated, factor.input_reported, factor.output_estimated, factor.output_reported,
             factor.decay)
            for key, factor in tally.factors.items()
        ])  # fmt: skip
        if books.ignored:
            db.execute("UPDATE meta SET value = value + ? WHERE name = 'ignored_settlements'", (books.ignored,))

    def _write_rows(self) -> None:
        db, rows = self._db, self.books.rows
        opened: list[RowKey] = []
        whole: list[RowKey] = []
        mine: list[list[Any]] = []
        read: list[list[Any]] = []
        for key, row in rows.items():
            if row.number is None:
                (opened if row.entry.status == "open" else whole).append(key)
            else:
                (read if row.read else mine).append([row.number, *outcome(row.entry)])
        for keys, table, values in ((opened, sql.OPEN_ROWS, opening), (whole, sql.WHOLE_ROWS, all_of)):
            if not keys:
                continue
            numbers = table.append(db, [[*values(rows[key].entry), rows[key].owner] for key in keys])
            for key, number in zip(keys, numbers, strict=True):
                rows[key] = msgspec.structs.replace(rows[key], number=number)
        if sql.CLOSE_OPEN_ROWS.put(db, mine) != len(mine):
            raise Surprise
        sql.CLOSE_READ_ROWS.put(db, read)

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


def run_of(found: tuple[Any, ...]) -> Run:
    """The run that these values of RUN_COLUMNS are."""
    return Run(**dict(zip(sql.RUN_COLUMNS, found, strict=True)))


def row_of(found: tuple[Any, ...]) -> Row:
    """The row that SELECT_CALLS has found."""
    return Row(from_row(found[: len(COLUMNS)]), found[-2], found[-1], read=True)


_run_values: Callable[[Run], tuple[Any, ...]] = attrgetter(*sql.RUN_COLUMNS)
_lean: Callable[[Vector], Vector] = itemgetter(*map(FIELDS.index, sql.LEAN_FIELDS))
_rest: Callable[[Vector], Vector] = itemgetter(*(FIELDS.index(name) for name in FIELDS if name not in sql.LEAN_FIELDS))
