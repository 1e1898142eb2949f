"""The books in memory: for tests, for a process that keeps none, and as the plain statement of what a store does.

Everything happens at once under one lock; only a reserve that others' holds stand in the way of waits. What a closed
store leaves open is expired by the next sweep of another on the same Books. Nothing survives the process.
"""

import asyncio
import functools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from heapq import nlargest
from operator import attrgetter
from typing import Any

import msgspec

from bursar.stores import answers
from bursar.stores.audit import audit
from bursar.stores.balances import counted, line_key, place, touchers
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
from bursar.stores.forest import Run
from bursar.stores.pages import page_of
from bursar.stores.receipt import Answer, Receipt, hand_over, resolve
from bursar.stores.rows import (
    LABEL_FILTERS,
    RECENT,
    RUN_FILTERS,
    check_filter,
    taken_twice,
    was_sent,
)
from bursar.stores.sketch import INPUT_SCALE, input_key
from bursar.stores.states_memory import MemoryStates
from bursar.stores.tables import Books
from bursar.stores.tally import Factor
from bursar.stores.transaction import Transaction
from bursar.stores.waiting import Waiting
from bursar.types import Ask, Claim, Entry, Hold, Instant, Ratios, Refused

__all__ = ["Books", "MemoryStore"]

_ALL = Filters()
_FREE = Ask()
_TICK_SECONDS = 0.020


class MemoryStore:
    """A store over Books; its own unless it is given some to share."""

    def __init__(self, books: Books | None = None, clock: Clock = system_clock) -> None:
        self._books, self._clock = books or Books(), clock
        self._gate = self._books.gate
        self._owner = uuid.uuid4().hex
        self._closed = False
        self._ticker: threading.Thread | None = None
        self.ignored = 0
        """Settlements that fell: of rows closed already, or without a row; and marks of rows not there or open."""
        self._books.owners.add(self._owner)
        self.sweep()

    @property
    def cache(self) -> AnswerCache:
        return self._books.cache

    @property
    def states(self) -> MemoryStates:
        return MemoryStates(self._books, self._clock, lambda: self._closed)

    def reserve(self, entry: Entry, ask: Ask = _FREE) -> Receipt[Hold | Refused]:
        receipt: Receipt[Hold | Refused] = Receipt(self._gate)

        def work(books: Transaction, waiting: Waiting) -> None:
            key = (entry.request_id, entry.attempt)
            if books.knows(key) or key in waiting.waiters:
                waiting.told.append((receipt, None, taken_twice(entry)))
            elif ask.free:
                books.open(entry)
                waiting.told.append((receipt, Hold(*key), None))
            elif waiting.reserve(entry, ask, receipt, self._owner) is not None:
                self._tick()

        self._write(receipt, work)
        return receipt

    async def reserve_async(self, entry: Entry, ask: Ask = _FREE) -> Hold | Refused:
        receipt = self.reserve(entry, ask)
        if receipt.done():
            return receipt.result()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Hold | Refused] = loop.create_future()
        receipt.add_done_callback(functools.partial(hand_over, future), loop.call_soon_threadsafe)
        return await future

    def extend(self, hold: Hold, nanos: int, tokens: int) -> Receipt[None]:
        receipt: Receipt[None] = Receipt(self._gate)

        def work(books: Transaction, waiting: Waiting) -> None:
            books.extend((hold.request_id, hold.attempt), nanos, tokens)
            waiting.told.append((receipt, None, None))

        self._write(receipt, work)
        return receipt

    def settle(self, hold: Hold, entry: Entry) -> Receipt[None]:
        receipt: Receipt[None] = Receipt(self._gate)

        def work(books: Transaction, waiting: Waiting) -> None:
            waiting.give_up((hold.request_id, hold.attempt), self._owner)
            books.settle((hold.request_id, hold.attempt), entry)
            self.ignored += books.ignored
            waiting.told.append((receipt, None, None))

        self._write(receipt, work)
        return receipt

    def judged(self, entry: Entry, validated: bool | None, verdict: str) -> Receipt[None]:
        receipt: Receipt[None] = Receipt(self._gate)

        def work(books: Transaction, waiting: Waiting) -> None:
            books.judge((entry.request_id, entry.attempt), validated, verdict)
            self.ignored += books.ignored
            waiting.told.append((receipt, None, None))

        self._write(receipt, work)
        return receipt

    def _write(self, receipt: Receipt[Any] | None, work: Callable[[Transaction, Waiting], None]) -> None:
        """One transaction, and what it means for those who wait. Without a receipt it is the store's own doing."""
        told: list[Answer]
        with self._books.lock:
            if self._closed and receipt is not None:
                told = [(receipt, None, StoreFailure("this store has been closed: open another"))]
            else:
                books = self._begin()
                waiting = Waiting(self._books.waiters, books, lambda _: self._expire(books) > 0)
                work(books, waiting)
                waiting.look(afresh=self._books.departed)
                self._books.post(books)
                self._books.waiters, told = waiting.waiters, waiting.told
        resolve(self._gate, told)

    def _begin(self) -> Transaction:
        books = self._books
        return Transaction(
            books, books.rows.get, self._owner, lambda owner: owner not in books.owners, self._clock()
        )  # fmt: skip

    def _tick(self) -> None:
        """While somebody waits a thread looks whose patience is over."""
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._run, name="bursar-patience", daemon=True)
            self._ticker.start()

    def _run(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            self._write(None, lambda books, waiting: None)
            with self._books.lock:
                if not any(waiter.owner == self._owner for waiter in self._books.waiters.values()):
                    self._ticker = None
                    return

    def ratios(self, provider: str, model: str) -> Ratios:
        with self._books.lock:
            factor = self._books.factors.get((provider, model), Factor())
            sketch = self._books.sketches.get(input_key(provider, model))
        high = None if sketch is None else sketch.high()
        return factor.ratios(None if high is None else high / INPUT_SCALE)

    def sweep(self) -> int:
        swept = list[int]()
        self._write(None, lambda books, waiting: swept.append(self._expire(books)))
        return swept[0]

    def _expire(self, books: Transaction) -> int:
        """Close what the gone have left open; how many."""
        if not self._books.departed:
            return 0
        self._books.departed = False
        orphans = [
            (key, row) for key, row in self._books.rows.items()
            if row.entry.status == "open" and row.owner not in self._books.owners and not books.holds(key)
        ]  # fmt: skip
        for _, row in orphans:
            books.expire(row)
        return len(orphans)

    def flush(self) -> None:
        """Nothing is ever queued."""

    def close(self) -> None:
        failure = StoreFailure("this store was closed while a reserve waited: open another")

        def work(books: Transaction, waiting: Waiting) -> None:
            for key in list(waiting.waiters):
                waiting.give_up(key, self._owner, failure)

        with self._books.lock:
            self._closed = True
            self._books.owners.discard(self._owner)
            self._books.departed = True
        self._write(None, work)

    def balances(self, claims: tuple[Claim, ...]) -> list[Counter]:
        now = self._clock()
        with self._books.lock:
            return [counted(at, self._books.counter(at.key)) for at in (place(claim, now) for claim in claims)]

    def budgets(
        self, tenant: str | None = None, budget: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[BudgetLine]:
        now = self._clock()
        with self._books.lock:
            numbered = [
                (line.touched_at, at, line) for at, (key, line) in enumerate(self._books.counters.items(), 1)
                if tenant in (None, key[0]) and budget in (None, key[3])
                and (line.counter.end is None or line.counter.end > now)
            ]  # fmt: skip
        return page_of(numbered, limit, cursor)

    def touchers(self, line: BudgetLine, limit: int = 10) -> list[Toucher]:
        with self._books.lock:
            return touchers(self._entries(), line_key(line), limit)

    def calls(self, filters: Filters = _ALL, limit: int = 100, cursor: str | None = None) -> Page[Entry]:
        with self._books.lock:
            numbered = [(entry.started_at, at, entry) for at, entry in enumerate(self._entries(), 1)
                        if _passes(entry, entry.started_at, filters, LABEL_FILTERS)]  # fmt: skip
        return page_of(numbered, limit, cursor)

    def call(self, request_id: str) -> list[Entry]:
        with self._books.lock:
            found = [entry for entry in self._entries() if entry.request_id == request_id]
        return sorted(found, key=attrgetter("attempt"))

    def recent(
        self, tenant: str, step: tuple[str | None, str | None] | None = None, limit: int = 500
    ) -> list[Entry]:  # fmt: skip
        with self._books.lock:
            newest = nlargest(RECENT, enumerate(self._entries()), key=lambda item: (item[1].started_at, item[0]))
        return [entry for _, entry in newest if was_sent(entry, tenant, step)][:limit]

    def runs(self, filters: Filters = _ALL, limit: int = 100, cursor: str | None = None) -> Page[Run]:
        with self._books.lock:
            numbered = [(run.first_at, at, self._seen(run)) for at, run in enumerate(self._books.runs.values(), 1)
                        if _passes(run, run.first_at, filters, RUN_FILTERS)]  # fmt: skip
        return page_of(numbered, limit, cursor)

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
            return audit(rows, books.rollups, books.runs, books.histogram, books.counters, books.owners.__contains__)

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
