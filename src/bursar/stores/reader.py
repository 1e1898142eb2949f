"""Questions to a SQLite ledger, each on a connection of its own and one snapshot: the writer is never held up.

Listings walk an index from the newest row back; reports touch rollups alone; only the audit reads everything.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bursar.stores import answers, sql
from bursar.stores.answers import Cut, Period, Standing
from bursar.stores.audit import audit
from bursar.stores.balances import counted, line_key, place, touchers
from bursar.stores.base import (
    BudgetLine,
    By,
    Counter,
    Filters,
    Finding,
    Key,
    Line,
    Metrics,
    Page,
    StoreFailure,
    Toucher,
)
from bursar.stores.counters import DAYS, FIELDS, Vector
from bursar.stores.forest import Run
from bursar.stores.memo import line_of, run_of
from bursar.stores.pages import cursor_of, parse_cursor
from bursar.stores.rows import (
    COLUMNS,
    LABEL_FILTERS,
    RECENT,
    RUN_FILTERS,
    charge_mark,
    check_filter,
    dressed,
    from_row,
)
from bursar.stores.truce import Truce
from bursar.types import Claim, Entry, Instant

_RECENT = ("started_at", "tenant", "agent_id", "step", "purpose", "status")
_SLACK_US = 3_600_000_000
_SUMS = ", ".join(f"SUM({name})" for name in FIELDS)
_OPEN = (
    "(SELECT count(*) FROM calls WHERE calls.status = 'open' AND calls.run_id = runs.run_id"
    " AND calls.tenant = runs.tenant)"
)


class Reader:
    """Any thread; connections are lent from a pool."""

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection], truce: Truce) -> None:
        self.path, self._connect, self._truce = path, connect, truce
        self._pool: list[sqlite3.Connection] = []

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection whose every answer is of one moment."""
        with self.connected() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for a single question."""
        with self._truce:
            connection = self._lent()
            try:
                yield connection
            except sqlite3.Error as fault:
                connection.close()
                raise StoreFailure(
                    f"the ledger {self.path} cannot be read ({fault}): check the file and the disk"
                ) from fault
            except BaseException:
                connection.close()
                raise
            self._pool.append(connection)

    def _lent(self) -> sqlite3.Connection:
        try:
            return self._pool.pop()
        except IndexError:
            connection = self._connect(self.path)
            connection.execute("PRAGMA query_only = 1")
            return connection

    def disconnect(self) -> None:
        """Close what is not lent; the next question opens another."""
        while self._pool:
            self._pool.pop().close()

    def calls(self, filters: Filters, limit: int, cursor: str | None) -> Page[Entry]:
        where, values = _where(filters, LABEL_FILTERS, "started_at", cursor, "id")
        query, values = _closed_and_open(filters, where, values)
        with self.snapshot() as db:
            found = db.execute(f"{query} ORDER BY started_at DESC, id DESC LIMIT ?", (*values, limit + 1)).fetchall()
        entries = [from_row(row[: len(COLUMNS)]) for row in found[:limit]]
        more = cursor_of(entries[-1].started_at, found[limit - 1][-1]) if len(found) > limit else None
        return Page(tuple(entries), more)

    def call(self, request_id: str) -> list[Entry]:
        with self.snapshot() as db:
            found = db.execute(f"{sql.SELECT_CALLS} WHERE request_id = ? ORDER BY attempt", (request_id,)).fetchall()
        return [from_row(row[: len(COLUMNS)]) for row in found]

    def recent(self, tenant: str, step: tuple[str | None, str | None] | None, limit: int) -> list[Entry]:
        newest = f"SELECT id, {', '.join(_RECENT)} FROM calls ORDER BY started_at DESC, id DESC LIMIT {RECENT}"
        of_step = "" if step is None else " AND agent_id IS ? AND step IS ?"
        mine = (
            f"SELECT id FROM ({newest}) WHERE tenant = ?{of_step} AND purpose = 'call'"
            " AND status IN ('completed', 'abandoned', 'failed') ORDER BY started_at DESC, id DESC LIMIT ?"
        )
        query = f"{sql.SELECT_CALLS} WHERE id IN ({mine}) ORDER BY started_at DESC, id DESC"
        with self.snapshot() as db:
            found = db.execute(query, (tenant, *(step or ()), limit)).fetchall()
        return [from_row(row[: len(COLUMNS)]) for row in found]

    def runs(self, filters: Filters, limit: int, cursor: str | None) -> Page[Run]:
        where, values = _where(filters, RUN_FILTERS, "first_at", cursor, "id")
        query = f"SELECT {', '.join(sql.RUN_COLUMNS)}, {_OPEN}, id FROM runs{where}"
        with self.snapshot() as db:
            found = db.execute(f"{query} ORDER BY first_at DESC, id DESC LIMIT ?", (*values, limit + 1)).fetchall()
        runs = [_seen(row) for row in found[:limit]]
        more = cursor_of(runs[-1].first_at, found[limit - 1][-1]) if len(found) > limit else None
        return Page(tuple(runs), more)

    def run(self, run_id: str, tenant: str | None) -> list[Entry]:
        one = "" if tenant is None else " AND tenant = ?"
        family = (
            f"WITH RECURSIVE family (run_id, tenant) AS (SELECT run_id, tenant FROM runs WHERE run_id = ?{one}"
            " UNION SELECT runs.run_id, runs.tenant FROM runs JOIN family"
            " ON runs.parent_run_id = family.run_id AND runs.tenant = family.tenant)"
        )
        columns = ", ".join(f"calls.{name}" for name in COLUMNS)
        query = (
            f"{family} SELECT {columns} FROM family CROSS JOIN calls ON calls.run_id = family.run_id"
            " AND calls.tenant = family.tenant ORDER BY calls.started_at, calls.id"
        )
        with self.snapshot() as db:
            found = db.execute(query, (run_id,) if tenant is None else (run_id, tenant)).fetchall()
        return [from_row(row) for row in found]

    def run_total(self, run_id: str, tenant: str) -> Run | None:
        query = f"SELECT {', '.join(sql.RUN_COLUMNS)}, {_OPEN}, id FROM runs WHERE run_id = ? AND tenant = ?"
        with self.snapshot() as db:
            found = db.execute(query, (run_id, tenant)).fetchone()
        return None if found is None else _seen(found)

    def spend(self, by: By, since: Instant | None, until: Instant | None, filters: Filters, zone: str) -> list[Line]:
        with self.snapshot() as db:
            return answers.spend(_Sums(db), by, since, until, filters, zone)

    def metrics(self, since: Instant | None, until: Instant | None, tenant: str | None) -> Metrics:
        with self.snapshot() as db:
            return answers.metrics(_Sums(db), since, until, tenant)

    def verify(self, alive: Callable[[str], bool]) -> list[Finding]:
        with self.snapshot() as db:
            rollups = {row[:6]: row[6:] for row in db.execute(f"SELECT {', '.join(sql.ROLLUP_COLUMNS)} FROM rollups")}
            runs = {(run.tenant, run.run_id): run for run in map(run_of, db.execute(sql.SELECT_RUNS))}
            bins = {
                (row[0], row[1], row[2], row[3], row[4]): (row[5], row[6], row[7])
                for row in db.execute(f"SELECT {', '.join(sql.BIN_COLUMNS)} FROM run_histogram")
            }
            lines = {line_key(line): line for line in map(line_of, db.execute(sql.SELECT_COUNTERS))}
            rows = ((from_row(row[: len(COLUMNS)]), row[-2]) for row in db.execute(sql.SELECT_CALLS))
            return audit(rows, rollups, runs, bins, lines, alive)

    def balances(self, claims: tuple[Claim, ...], now: Instant) -> list[Counter]:
        places = [place(claim, now) for claim in claims]
        query = f"{sql.SELECT_COUNTERS} WHERE {sql.AT_COUNTER}"
        with self.snapshot() as db:
            found = [db.execute(query, at.key).fetchone() for at in places]
        return [counted(at, None if row is None else line_of(row)) for at, row in zip(places, found, strict=True)]

    def budgets(
        self, tenant: str | None, budget: str | None, limit: int, cursor: str | None, now: Instant
    ) -> Page[BudgetLine]:
        clauses, values = list[str](), list[Any]()
        for name, value in (("tenant", tenant), ("budget", budget)):
            if value is not None:
                clauses.append(f" AND {name} = ?")
                values.append(value)
        if cursor is not None:
            clauses.append(" AND (touched_at, id) < (?, ?)")
            values += parse_cursor(cursor)
        order, columns = " ORDER BY touched_at DESC, id DESC LIMIT ?", ", ".join(sql.COUNTER_COLUMNS)
        lifetimes, running = (
            f"SELECT * FROM (SELECT {columns}, id FROM counters WHERE {which}{''.join(clauses)}{order})"
            for which in ("window_end IS NULL", "window_end > ?")
        )
        query = f"{lifetimes} UNION ALL {running}{order}"
        values = [*values, limit + 1, now, *values, limit + 1]
        with self.snapshot() as db:
            found = db.execute(query, (*values, limit + 1)).fetchall()
        lines = [line_of(row[:-1]) for row in found[:limit]]
        more = cursor_of(lines[-1].touched_at, found[limit - 1][-1]) if len(found) > limit else None
        return Page(tuple(lines), more)

    def touchers(self, line: BudgetLine, limit: int) -> list[Toucher]:
        key = line_key(line)
        with self.snapshot() as db:
            rows = (from_row(row[: len(COLUMNS)]) for row in db.execute(*_charged(line)))
            return touchers(rows, key, limit)

    def list_keys(self) -> list[Key]:
        return self._keys("ORDER BY created_at, key_id", ())

    def find_key(self, hash: bytes) -> Key | None:
        found = self._keys("WHERE hash = ? AND revoked_at IS NULL", (hash,))
        return found[0] if found else None

    def _keys(self, tail: str, values: tuple[Any, ...]) -> list[Key]:
        with self.snapshot() as db:
            found = db.execute(f"SELECT {', '.join(sql.KEY_COLUMNS)} FROM keys {tail}", values).fetchall()
        return [key_of(row) for row in found]


class _Sums:
    """What answers.py asks, as ranges of an index."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def by_key(self, cut: Cut, period: Period) -> list[tuple[str, Vector]]:
        if cut.by is None:
            row = self._db.execute(*_rollups(_SUMS, cut, period)).fetchone()
            return [] if row[0] is None else [("", row)]
        query, values = _rollups(f"{cut.by}_key, {_SUMS}", cut, period)
        return [(row[0], row[1:]) for row in self._db.execute(f"{query} GROUP BY {cut.by}_key", values).fetchall()]

    def by_bucket(self, cut: Cut, period: Period) -> list[tuple[int, Vector]]:
        query, values = _rollups(f"bucket_start, {_SUMS}", cut, period)
        return [(row[0], row[1:]) for row in self._db.execute(f"{query} GROUP BY bucket_start", values).fetchall()]

    def standings(self, period: Period) -> list[Standing]:
        sums = "agent, bin, SUM(runs), SUM(cost_nanos), SUM(unpriced)"
        query, values = _within("run_histogram", sums, period, DAYS, [("runs != ?", 0)])
        return self._db.execute(f"{query} GROUP BY agent, bin", values).fetchall()


def _rollups(sums: str, cut: Cut, period: Period) -> tuple[str, list[Any]]:
    keys = [(f"{name}_key = ?", key) for name, key in (("first", cut.first), ("second", cut.second)) if key is not None]
    return _within("rollups", sums, period, cut.grains, [("dim = ?", cut.dim), *keys])


def _within(
    table: str, sums: str, period: Period, grains: tuple[int, ...], given: list[tuple[str, Any]]
) -> tuple[str, list[Any]]:
    """Each span of the period is a range of the table's index."""
    spans = period.spans(grains)
    if period.tenant is not None:
        given = [*given, ("tenant = ?", period.tenant)]
    query = (
        f"WITH spans (grain, since, until) AS (VALUES {', '.join(['(?, ?, ?)'] * len(spans))})"
        f" SELECT {sums} FROM spans CROSS JOIN {table} AS kept ON kept.grain = spans.grain"
        " AND bucket_start >= spans.since AND bucket_start < spans.until"
        f"{''.join(f' AND {clause}' for clause, _ in given)}"
    )
    return query, [*itertools.chain.from_iterable(spans), *(value for _, value in given)]


def _where(
    filters: Filters, labels: tuple[str, ...], time: str, cursor: str | None, number: str
) -> tuple[str, list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    for name in Filters.__struct_fields__:
        value = getattr(filters, name)
        if value is None:
            continue
        if name in ("since", "until"):
            clauses.append(f"{time} {'>=' if name == 'since' else '<'} ?")
        else:
            check_filter(name, labels)
            clauses.append(f"{name} = ?")
        values.append(value)
    if cursor is not None:
        clauses.append(f"({time}, {number}) < (?, ?)")
        values += parse_cursor(cursor)
    return (f" WHERE {' AND '.join(clauses)}" if clauses else ""), values


def _charged(line: BudgetLine) -> tuple[str, list[Any]]:
    """The rows that carry a charge of this counter, by the narrowest index: that of its label if rows carry it as it
    is, else that of time, in which a caller's clock may be an hour off the store's."""
    tenant, scope, label, budget, start = key = line_key(line)
    marked, mark = "charges IS NOT NULL AND instr(charges, ?) > 0", charge_mark(key)
    plain = label != "(none)" and not label.startswith("key:")
    if scope == "run" and plain:
        # A limit from a header has the key before the run's id; its name has the id alone.
        run_id = budget.removeprefix("run:") if line.counter.claim.least else label
        family = (
            "WITH RECURSIVE family (run_id) AS (SELECT ? UNION SELECT runs.run_id FROM runs JOIN family"
            " ON runs.parent_run_id = family.run_id AND runs.tenant = ?)"
        )
        columns = ", ".join(f"calls.{name}" for name in (*COLUMNS, "owner", "id"))
        query = f"{family} SELECT {columns} FROM family CROSS JOIN calls ON calls.run_id = family.run_id WHERE {marked}"
        return query, [run_id, tenant, mark]
    if scope in ("session", "user") and plain:
        closed = f"{sql.SELECT_CALLS} WHERE {scope}_id = ? AND status <> 'open' AND {marked}"
        opened = f"{sql.SELECT_CALLS} INDEXED BY calls_open WHERE status = 'open' AND {marked}"
        return f"{closed} UNION ALL {opened}", [label, mark, mark]
    clauses, values = [marked], list[Any]([mark])
    if line.counter.end is not None:
        clauses.append("started_at >= ? AND started_at < ?")
        values += [start - _SLACK_US, line.counter.end + _SLACK_US]
    return f"{sql.SELECT_CALLS} WHERE {' AND '.join(clauses)}", values


def _closed_and_open(filters: Filters, where: str, values: list[Any]) -> tuple[str, list[Any]]:
    """Open rows are few and have an index that they share. By session and user only closed rows have one: the open
    ones are merged in."""
    more = f"{where} AND" if where else " WHERE"
    opened = f"{sql.SELECT_CALLS} INDEXED BY calls_open{more} status = 'open'"
    closed = f"{sql.SELECT_CALLS}{more} status <> 'open'"
    if filters.status == "open":
        return opened, values
    if filters.status is not None:
        return closed, values
    if filters.session_id is None and filters.user_id is None:
        return f"{sql.SELECT_CALLS}{where}", values
    return f"{closed} UNION ALL {opened}", values * 2


def _seen(found: tuple[Any, ...]) -> Run:
    return msgspec.structs.replace(run_of(found[:-2]), open=found[-2])


def key_of(found: tuple[Any, ...]) -> Key:
    """The key that these values of KEY_COLUMNS are."""
    values = dict(zip(sql.KEY_COLUMNS, found, strict=True))
    values["trusted_claims"] = frozenset(msgspec.json.decode(values["trusted_claims"], type=list[str]))
    return Key(**values)


def key_values(key: Key) -> list[Any]:
    """The values of KEY_COLUMNS, dressed."""
    values = {name: getattr(key, name) for name in sql.KEY_COLUMNS}
    values["trusted_claims"] = msgspec.json.encode(sorted(key.trusted_claims)).decode()
    return dressed(values.values())
