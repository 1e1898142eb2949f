"""What the writer remembers of the tables between two transactions, and reads where it does not.

Runs and counters are remembered only while nobody else has written (PRAGMA data_version); what is learned (factors,
sketches) may be up to a second behind what other processes have learned. For the writing thread, but for `ratios`.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from bursar.rules.grant import Counter
from bursar.stores import sql
from bursar.stores.balances import CounterKey, line_key
from bursar.stores.base import BudgetLine
from bursar.stores.forest import Run, RunKey
from bursar.stores.rows import NULL
from bursar.stores.sketch import INPUT_SCALE, Sketch, SketchKey, input_key, output_key
from bursar.stores.tally import Factor, ModelKey
from bursar.stores.transaction import Transaction
from bursar.types import Balance, Entry, Instant, Ratios

_KEPT = 10_000
"""Runs, counters, sketches: so many of each at most."""
_LEARNED_SECONDS = 1.0


class Memo:
    """A shelf (see transaction.py) over one connection."""

    __slots__ = ("_counters", "_db", "_factors", "_families", "_learned_at", "_runs", "_sketches", "_stale", "_version")

    def __init__(self) -> None:
        self._db: sqlite3.Connection | None = None
        self._runs: dict[RunKey, Run] = {}
        self._counters: dict[CounterKey, BudgetLine | None] = {}
        self._families: dict[tuple[str, str], dict[CounterKey, None]] = {}
        """The counters of a run, by tenant and key."""
        self._factors: dict[ModelKey, Factor] = {}
        self._sketches: dict[SketchKey, Sketch] = {}
        self._version, self._stale = -1, True
        self._learned_at = -_LEARNED_SECONDS

    def refresh(self, db: sqlite3.Connection) -> bool:
        """At the beginning of a transaction; True where somebody else has written since the last."""
        self._db = db
        changed = self.outdated(db)
        if changed:
            self.forget()
            (self._version,) = db.execute("PRAGMA data_version").fetchone()
        if self._stale and time.monotonic() - self._learned_at >= _LEARNED_SECONDS:
            self._learn(db)
        return changed

    def outdated(self, db: sqlite3.Connection) -> bool:
        """Somebody else has written since the last transaction."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        return bool(version != self._version)

    def _learn(self, db: sqlite3.Connection) -> None:
        found = db.execute(f"SELECT {', '.join(sql.FACTOR_COLUMNS)} FROM factors").fetchall()
        self._factors = {(row[0], row[1]): Factor(*row[2:]) for row in found}
        bins: defaultdict[SketchKey, dict[int, int]] = defaultdict(dict)
        for *key, at, count in db.execute(f"{sql.SELECT_SKETCHES} WHERE kind = 'input'").fetchall():
            bins[key[0], key[1], key[2], key[3]][at] = count
        self._sketches = {key: Sketch(counts) for key, counts in bins.items()}
        self._stale, self._learned_at = False, time.monotonic()

    def forget(self) -> None:
        """Believe nothing any more."""
        for cache in (self._runs, self._counters, self._families):
            cache.clear()
        self._version, self._stale = -1, True

    def remember(self, books: Transaction) -> None:
        """The transaction is committed: what it has changed becomes what is."""
        for cache in (self._runs, self._counters, self._families):
            if len(cache) > _KEPT:
                cache.clear()
        for at in books.balances.changed:
            if at[1] == "run" and (at[0], at[2]) in self._families:
                self._families[at[0], at[2]][at] = None
        self._stale = self._stale or len(self._sketches) > _KEPT
        self._runs.update(books.tally.forest.changed)
        self._counters.update(books.balances.changed)
        if books.tally.factors:
            known = self._factors
            gained = {key: known.get(key, Factor()).then(factor) for key, factor in books.tally.factors.items()}
            self._factors = {**known, **gained}
        for key, bins in books.tally.sketches.items():
            sketch = self._sketches.get(key)
            if sketch is not None:
                self._sketches[key] = sketch.plus(bins)
            elif key[0] == "input":
                self._sketches[key] = Sketch(bins)

    def ratios(self, key: ModelKey) -> Ratios:
        """From memory; any thread."""
        factor, sketch = self._factors.get(key), self._sketches.get(input_key(*key))
        high = None if sketch is None else sketch.high()
        return (factor or Factor()).ratios(None if high is None else high / INPUT_SCALE)

    # The shelf

    def get(self, key: RunKey) -> Run | None:
        run = self._runs.get(key)
        if run is None:
            found = self._one(f"{sql.SELECT_RUNS} WHERE run_id = ? AND tenant = ?", (key[1], key[0]))
            if found is None:
                return None
            run = self._runs[key] = run_of(found)
        return run

    def tree(self, root: RunKey) -> Iterable[Run]:
        query = f"{sql.SELECT_RUNS} WHERE tenant = ? AND root_run_id = ? AND parent_run_id IS NOT NULL"
        return [run_of(found) for found in self._all(query, root)]

    def counter(self, key: CounterKey) -> BudgetLine | None:
        try:
            return self._counters[key]
        except KeyError:
            found = self._one(f"{sql.SELECT_COUNTERS} WHERE {sql.AT_COUNTER}", key)
            line = self._counters[key] = None if found is None else line_of(found)
            return line

    def of_run(self, tenant: str, key: str) -> Iterable[BudgetLine]:
        family = self._families.get((tenant, key))
        if family is None:
            query = f"{sql.SELECT_COUNTERS} WHERE tenant = ? AND scope = 'run' AND key = ? ORDER BY window_start"
            lines = {line_key(line): line for line in map(line_of, self._all(query, (tenant, key)))}
            self._counters.update(lines)
            family = self._families[tenant, key] = dict.fromkeys(lines)
        return [line for at in family if (line := self.counter(at)) is not None]

    def fetch(self, keys: Iterable[CounterKey]) -> None:
        """Read at once what will be asked for one by one."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._counters]
        if len(missing) < 2:
            return
        self._counters.update(dict.fromkeys(missing))
        for found in self._all(sql.FETCH_COUNTERS, (msgspec.json.encode(missing).decode(),)):
            line = line_of(found)
            self._counters[line_key(line)] = line

    def typical(self, entry: Entry) -> int | None:
        key = output_key(entry)
        sketch = self._sketches.get(key)
        if sketch is None:
            where = "kind = ? AND first_key = ? AND second_key = ? AND tenant = ?"
            found = self._all(f"{sql.SELECT_SKETCHES} WHERE {where}", key)
            sketch = self._sketches[key] = Sketch({row[4]: row[5] for row in found})
        return sketch.high()

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._connection().execute(query, values).fetchone()
        return found

    def _all(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._connection().execute(query, values).fetchall()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("asked outside a transaction")
        return self._db


def run_of(found: tuple[Any, ...]) -> Run:
    """The run that these values of RUN_COLUMNS are."""
    return Run(**dict(zip(sql.RUN_COLUMNS, found, strict=True)))


def line_of(found: tuple[Any, ...]) -> BudgetLine:
    """The counter that these values of COUNTER_COLUMNS are."""
    start, end, terms, *balance, rows, touched_at = found[4:]
    counter = Counter(sql.terms(terms), Balance(*balance), Instant(start), None if end is None else Instant(end))
    return BudgetLine(counter=counter, rows=rows, touched_at=Instant(touched_at))


def line_values(line: BudgetLine) -> tuple[Any, ...]:
    """The values of COUNTER_COLUMNS, dressed."""
    claim, balance = line.counter.claim, line.counter.balance
    end = NULL if line.counter.end is None else line.counter.end
    return (
        claim.tenant, claim.scope, claim.key, claim.budget, line.counter.start, end, sql.terms_text(claim),
        balance.settled_nanos, balance.settled_tokens, balance.held_nanos, balance.held_tokens, line.rows,
        line.touched_at,
    )  # fmt: skip
