"""What granting, opening, closing, expiring and correcting a row means for the books. Pure; both stores run on it.

Exactly once: a closed row stays closed, except that an expired one takes its late real outcome, which moves every sum
by the difference. A live process's open row is its own to close.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from bursar.rules import book, grant
from bursar.rules.grant import Counter, Grant
from bursar.stores import forest
from bursar.stores.balances import Balances, CounterShelf
from bursar.stores.rows import RowKey, canonical, expired, labelled
from bursar.stores.tally import Tally
from bursar.types import Ask, Entry, Hold, Instant, Refused


class Row(msgspec.Struct, frozen=True):
    """A row of the ledger, who opened it, and its number in the table (None: not in it yet)."""

    entry: Entry
    owner: str
    number: int | None = None
    read: bool = False
    """It was read from the table in this very transaction; else it stands in the owner's memory as open."""


class Shelf(forest.Shelf, CounterShelf, Protocol):
    """What stands in the books between two transactions."""

    def typical(self, entry: Entry) -> int | None:
        """The p99.9 of this step's output in tokens; None: too few were seen."""


class Weighing(NamedTuple):
    """The counters that a reserve asks of, and what becomes of it."""

    counters: list[Counter]
    answer: Grant | Refused


class Transaction:
    """Rows and sums as they will stand once it is committed."""

    __slots__ = ("_find", "_gone", "_owner", "_shelf", "balances", "extended", "ignored", "marked", "now", "rows",
                 "tally")  # fmt: skip

    def __init__(
        self,
        shelf: Shelf,
        find: Callable[[RowKey], Row | None],
        owner: str,
        gone: Callable[[str], bool],
        now: Instant,
    ) -> None:
        self.tally = Tally(shelf)
        self.balances = Balances(shelf, self.tally.forest, now)
        self.now = now
        self.rows: dict[RowKey, Row] = {}
        self.extended: set[RowKey] = set()
        """Rows whose charges have changed since they were opened."""
        self.marked: set[RowKey] = set()
        """Closed rows of which nothing has changed but what validators said."""
        self.ignored = 0
        self._shelf, self._find, self._owner, self._gone = shelf, find, owner, gone

    def open(self, entry: Entry) -> None:
        """Open a row that no limit stands over. That its key is new is for the table to check."""
        self._open(msgspec.structs.replace(entry, charges=()) if entry.charges else entry, self._owner)

    def weigh(self, entry: Entry, ask: Ask) -> Weighing:
        """What would become of a reserve now."""
        counters = self.balances.claimed(entry, ask)
        return Weighing(counters, self.decided(entry, ask, counters))

    def decided(self, entry: Entry, ask: Ask, counters: list[Counter]) -> Grant | Refused:
        """The rules' word on these counters."""
        final = ask.final and self.tally.forest.final_open(entry)
        return grant.decide(ask, counters, self._shelf.typical(entry), final, self.now)

    def grant(self, entry: Entry, counters: list[Counter], granted: Grant, owner: str | None = None) -> Hold:
        """Open a row with all that it was granted, for this owner; None: the transaction's own."""
        hold = granted.hold(entry.request_id, entry.attempt)
        entry = book.granted(msgspec.structs.replace(entry, charges=()) if entry.charges else entry, hold)
        self._open(entry, owner or self._owner)
        self.balances.hold(counters, hold.charges)
        if hold.from_reserve:
            self.tally.forest.take_final(entry)
        return hold

    def _open(self, entry: Entry, owner: str) -> None:
        entry = canonical(entry)
        self.rows[entry.request_id, entry.attempt] = Row(entry, owner)
        self.tally.open(entry)

    def holds(self, key: RowKey) -> bool:
        """This transaction has touched the row."""
        return key in self.rows

    def knows(self, key: RowKey) -> bool:
        """The ledger has such a row."""
        return key in self.rows or self._find(key) is not None

    def extend(self, key: RowKey, nanos: int, tokens: int) -> None:
        """Hold more of an open row's counters; of any other row there is nothing to extend."""
        row = self.rows.get(key) or self._find(key)
        if row is not None and row.entry.status == "open" and row.owner == self._owner and row.entry.charges:
            charges = self.balances.extend(row.entry.charges, nanos, tokens)
            self.rows[key] = msgspec.structs.replace(row, entry=msgspec.structs.replace(row.entry, charges=charges))
            self.extended.add(key)

    def settle(self, key: RowKey, entry: Entry) -> None:
        """Close a row, or correct it, or let the settlement fall (counted in `ignored`)."""
        row = self.rows.get(key) or self._find(key)
        if row is None:
            if entry.status in ("hit", "refused"):
                entry = canonical(msgspec.structs.replace(entry, charges=()) if entry.charges else entry)
                self.rows[key] = Row(entry, self._owner)
                self.tally.close(entry, entry.model)
            else:
                self.ignored += 1
        elif not self._closable(row):
            self.ignored += 1
        else:
            if row.entry.status == "expired":
                self.tally.take_back(row.entry)
                entry = _still_marked(row.entry, entry)
            self._close(key, row, labelled(row.entry, entry))

    def judge(self, key: RowKey, validated: bool | None, verdict: str) -> None:
        """Mark a closed row with what validators said; the last word counts. Any other falls (counted in `ignored`)."""
        touched = key in self.rows
        row = self.rows[key] if touched else self._find(key)
        if row is None or row.entry.status == "open":
            self.ignored += 1
            return
        self.tally.mark(row.entry, validated)
        entry = msgspec.structs.replace(row.entry, validated=validated, verdict=verdict)
        self.rows[key] = msgspec.structs.replace(row, entry=entry)
        if not touched:
            self.marked.add(key)

    def expire(self, row: Row) -> None:
        """Close an open row whose process is gone."""
        entry = row.entry
        self._close((entry.request_id, entry.attempt), row, expired(entry))

    def _close(self, key: RowKey, row: Row, entry: Entry) -> None:
        self.rows[key] = msgspec.structs.replace(row, entry=entry)
        self.marked.discard(key)
        self.tally.close(entry, row.entry.model)
        self.tally.forest.free_final(entry)
        self.balances.settle(row.entry, entry)

    def _closable(self, row: Row) -> bool:
        if row.entry.status == "expired":
            return True
        return row.entry.status == "open" and (row.owner == self._owner or self._gone(row.owner))


def _still_marked(expired: Entry, entry: Entry) -> Entry:
    """The late outcome with what was said of the row before, where it brings no word of its own."""
    if expired.verdict is None or entry.verdict is not None:
        return entry
    return msgspec.structs.replace(entry, validated=expired.validated, verdict=expired.verdict)
