"""The books in memory: for tests, for a process that keeps none, and as the plain statement of what a store does.

Everything happens at once under one lock. Stores that share one Books behave as processes that share one file: what a
closed one leaves open is expired by the next sweep. Nothing survives the process.
"""

import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TypeVar

import msgspec

from bursar.stores import answers
from bursar.stores.answers import Cut, Period, Standing
from bursar.stores.audit import audit
from bursar.stores.base import By, Filters, Finding, Key, Line, Metrics, Page, StoreFailure
from bursar.stores.counters import Cell, Vector
from bursar.stores.forest import Bin, Run, RunKey, Weight
from bursar.stores.receipt import Receipt, resolve
from bursar.stores.rows import LABEL_FILTERS, RUN_FILTERS, RowKey, check_filter, cursor_of, parse_cursor, taken_twice
from bursar.stores.tally import Factor, ModelKey, add
from bursar.stores.transaction import Row, Transaction
from bursar.types import Claim, Entry, Hold, Instant, Ratios, Refused

T = TypeVar("T")
_ALL = Filters()


class Books:
    """Every table, as plain dictionaries, and the lock that guards them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.rows: dict[RowKey, Row] = {}
        self.rollups: dict[Cell, Vector] = {}
        self.runs: dict[RunKey, Run] = {}
        self.trees: defaultdict[RunKey, set[RunKey]] = defaultdict(set)
        self.histogram: dict[Bin, Weight] = {}
        self.factors: dict[ModelKey, Factor] = {}
        self.keys: dict[str, Key] = {}
        self.owners: set[str] = set()

    def get(self, key: RunKey) -> Run | None:
        return self.runs.get(key)

    def tree(self, root: RunKey) -> Iterable[Run]:
        return [self.runs[key] for key in self.trees[root]]

    def post(self, books: Transaction) -> None:
        """Commit."""
        tally = books.tally
        self.rows.update(books.rows)
        for bin_, (runs, cost, unpriced) in tally.forest.moves().items():
            had = self.histogram.get(bin_, (0, 0, 0))
            self.histogram[bin_] = (had[0] + runs, had[1] + cost, had[2] + unpriced)
        for key, run in tally.forest.changed.items():
            before = self.runs.get(key)
            if before is not None:
                self.trees[before.tenant, before.root_run_id].discard(key)
            self.trees[run.tenant, run.root_run_id].add(key)
            self.runs[key] = run
        for cell, gain in tally.rollups().items():
            self.rollups[cell] = add(self.rollups[cell], gain) if cell in self.rollups else gain
        for model, factor in tally.factors.items():
            self.factors[model] = self.factors.get(model, Factor()).then(factor)

    def by_key(self, cut: Cut, period: Period) -> list[tuple[str, Vector]]:
        sums: dict[str, Vector] = {}
        for (_, _, first, second, _), numbers in self._within(cut, period):
            key = {"first": first, "second": second, None: ""}[cut.by]
            sums[key] = add(sums[key], numbers) if key in sums else numbers
        return list(sums.items())

    def by_bucket(self, cut: Cut, period: Period) -> list[tuple[int, Vector]]:
        sums: dict[int, Vector] = {}
        for (start, *_), numbers in self._within(cut, period):
            sums[start] = add(sums[start], numbers) if start in sums else numbers
        return list(sums.items())

    def standings(self, period: Period) -> list[Standing]:
        return [
            (agent, at, *weight)
            for (start, tenant, agent, at), weight in self.histogram.items()
            if _in(start, tenant, period)
        ]

    def _within(self, cut: Cut, period: Period) -> Iterator[tuple[Cell, Vector]]:
        for cell, numbers in self.rollups.items():
            start, dim, first, second, tenant = cell
            wanted = dim == cut.dim and cut.first in (None, first) and cut.second in (None, second)
            if wanted and _in(start, tenant, period):
                yield cell, numbers


def _in(start: int, tenant: str, period: Period) -> bool:
    return (
        (period.start is None or start >= period.start)
        and (period.end is None or start < period.end)
        and (period.tenant is None or tenant == period.tenant)
    )


class MemoryStore:
    """A store over Books; its own unless it is given some to share."""

    def __init__(self, books: Books | None = None) -> None:
        self._books = books or Books()
        self._gate = threading.Lock()
        self._owner = uuid.uuid4().hex
        self._closed = False
        self.ignored = 0
        """Settlements that fell: of rows closed already, or without a row."""
        self._books.owners.add(self._owner)
        self.sweep()

    def reserve(self, entry: Entry, claims: tuple[Claim, ...] = ()) -> Receipt[Hold | Refused]:
        receipt: Receipt[Hold | Refused] = Receipt(self._gate)
        key = (entry.request_id, entry.attempt)
        with self._books.lock:
            fault = self._shut()
            if fault is None and key in self._books.rows:
                fault = taken_twice(entry)
            if fault is None:
                books = self._begin()
                books.open(entry)
                self._books.post(books)
        resolve(self._gate, [(receipt, Hold(*key, claims), fault)])
        return receipt

    async def reserve_async(self, entry: Entry, claims: tuple[Claim, ...] = ()) -> Hold | Refused:
        return self.reserve(entry, claims).result()

    def settle(self, hold: Hold, entry: Entry) -> Receipt[None]:
        receipt: Receipt[None] = Receipt(self._gate)
        with self._books.lock:
            fault = self._shut()
            if fault is None:
                books = self._begin()
                books.settle((hold.request_id, hold.attempt), entry)
                self._books.post(books)
                self.ignored += books.ignored
        resolve(self._gate, [(receipt, None, fault)])
        return receipt

    def _begin(self) -> Transaction:
        books = self._books
        return Transaction(books, books.rows.get, self._owner, lambda owner: owner not in books.owners)

    def _shut(self) -> StoreFailure | None:
        return StoreFailure("this store has been closed: open another") if self._closed else None

    def ratios(self, provider: str, model: str) -> Ratios:
        with self._books.lock:
            factor = self._books.factors.get((provider, model))
        return Ratios() if factor is None else factor.ratios()

    def sweep(self) -> int:
        with self._books.lock:
            orphans = [row for row in self._books.rows.values()
                       if row.entry.status == "open" and row.owner not in self._books.owners]  # fmt: skip
            books = self._begin()
            for row in orphans:
                books.expire(row)
            self._books.post(books)
        return len(orphans)

    def flush(self) -> None:
        """Nothing ever waits."""

    def close(self) -> None:
        with self._books.lock:
            self._closed = True
            self._books.owners.discard(self._owner)

    def calls(self, filters: Filters = _ALL, limit: int = 100, cursor: str | None = None) -> Page[Entry]:
        with self._books.lock:
            numbered = [(entry.started_at, at, entry) for at, entry in enumerate(self._entries(), 1)
                        if _passes(entry, entry.started_at, filters, LABEL_FILTERS)]  # fmt: skip
        return _page(numbered, limit, cursor)

    def call(self, request_id: str) -> list[Entry]:
        with self._books.lock:
            found = [entry for entry in self._entries() if entry.request_id == request_id]
        return sorted(found, key=attrgetter("attempt"))

    def runs(self, filters: Filters = _ALL, limit: int = 100, cursor: str | None = None) -> Page[Run]:
        with self._books.lock:
            numbered = [(run.first_at, at, self._seen(run)) for at, run in enumerate(self._books.runs.values(), 1)
                        if _passes(run, run.first_at, filters, RUN_FILTERS)]  # fmt: skip
        return _page(numbered, limit, cursor)

    def run(self, run_id: str, tenant: str | None = None) -> list[Entry]:
        with self._books.lock:
            family = {key for key in self._books.runs if key[1] == run_id and tenant in (None, key[0])}
            grown = True
            while grown:
                more = {key for key, run in self._books.runs.items() if (run.tenant, run.parent_run_id) in family}
                grown = not more <= family
                family |= more
            found = [entry for entry in self._entries() if (entry.tenant, entry.run_id) in family]
        return sorted(found, key=attrgetter("started_at"))

    def run_total(self, run_id: str, tenant: str = "default") -> Run | None:
        with self._books.lock:
            run = self._books.runs.get((tenant, run_id))
            return None if run is None else self._seen(run)

    def _entries(self) -> Iterator[Entry]:
        return (row.entry for row in self._books.rows.values())

    def _seen(self, run: Run) -> Run:
        under_way = sum(
            entry.status == "open" and (entry.tenant, entry.run_id) == (run.tenant, run.run_id)
            for entry in self._entries()
        )
        return msgspec.structs.replace(run, open=under_way)

    def spend(
        self, by: By, since: Instant | None = None, until: Instant | None = None, filters: Filters = _ALL,
        zone: str = "UTC",
    ) -> list[Line]:  # fmt: skip
        with self._books.lock:
            return answers.spend(self._books, by, since, until, filters, zone)

    def metrics(self, since: Instant | None = None, until: Instant | None = None, tenant: str | None = None) -> Metrics:
        with self._books.lock:
            return answers.metrics(self._books, since, until, tenant)

    def verify(self) -> list[Finding]:
        books = self._books
        with books.lock:
            rows = ((row.entry, row.owner) for row in books.rows.values())
            return audit(rows, books.rollups, books.runs, books.histogram, books.owners.__contains__)

    def create_key(self, key: Key) -> None:
        with self._books.lock:
            taken = self._books.keys.values()
            if key.key_id in self._books.keys or any(key.hash == other.hash for other in taken):
                raise StoreFailure(f"this cannot be written to the ledger: key {key.key_id} or its secret is taken")
            self._books.keys[key.key_id] = key

    def list_keys(self) -> list[Key]:
        with self._books.lock:
            return sorted(self._books.keys.values(), key=attrgetter("created_at", "key_id"))

    def revoke_key(self, key_id: str, at: Instant) -> bool:
        with self._books.lock:
            key = self._books.keys.get(key_id)
            if key is None or key.revoked_at is not None:
                return False
            self._books.keys[key_id] = msgspec.structs.replace(key, revoked_at=at)
            return True

    def find_key(self, hash: bytes) -> Key | None:
        with self._books.lock:
            live = (key for key in self._books.keys.values() if key.revoked_at is None and key.hash == hash)
            return next(live, None)


def _passes(item: Entry | Run, at: Instant, filters: Filters, labels: tuple[str, ...]) -> bool:
    for name in Filters.__struct_fields__:
        wanted = getattr(filters, name)
        if wanted is None or name in ("since", "until"):
            continue
        check_filter(name, labels)
        if getattr(item, name) != wanted:
            return False
    return (filters.since is None or at >= filters.since) and (filters.until is None or at < filters.until)


def _page(numbered: list[tuple[Instant, int, T]], limit: int, cursor: str | None) -> Page[T]:
    after = None if cursor is None else parse_cursor(cursor)
    ordered = sorted(numbered, key=lambda item: item[:2], reverse=True)
    left = [item for item in ordered if after is None or item[:2] < after]
    more = cursor_of(*left[limit - 1][:2]) if len(left) > limit else None
    return Page(tuple(item for _, _, item in left[:limit]), more)
