"""What opening, closing, expiring and correcting a row means for the books. Pure; both stores run on it.

Exactly once: a closed row stays closed, except that an expired one takes its late real outcome, which moves every sum
by the difference. A live process's open row is its own to close.
"""

from collections.abc import Callable

import msgspec

from bursar.stores.forest import Shelf
from bursar.stores.rows import RowKey, canonical, expired, labelled
from bursar.stores.tally import Tally
from bursar.types import Entry


class Row(msgspec.Struct, frozen=True):
    """A row of the ledger, who opened it, and its number in the table (None: not in it yet)."""

    entry: Entry
    owner: str
    number: int | None = None
    read: bool = False
    """It was read from the table in this very transaction; else it stands in the owner's memory as open."""


class Transaction:
    """Rows and sums as they will stand once it is committed."""

    __slots__ = ("_find", "_gone", "_owner", "ignored", "rows", "tally")

    def __init__(
        self, shelf: Shelf, find: Callable[[RowKey], Row | None], owner: str, gone: Callable[[str], bool]
    ) -> None:
        self.tally = Tally(shelf)
        self.rows: dict[RowKey, Row] = {}
        self.ignored = 0
        self._find, self._owner, self._gone = find, owner, gone

    def open(self, entry: Entry) -> None:
        """Open a row. That its key is new is for the table to check."""
        entry = canonical(entry)
        self.rows[entry.request_id, entry.attempt] = Row(entry, self._owner)
        self.tally.open(entry)

    def holds(self, key: RowKey) -> bool:
        """This transaction has touched the row."""
        return key in self.rows

    def settle(self, key: RowKey, entry: Entry) -> None:
        """Close a row, or correct it, or let the settlement fall (counted in `ignored`)."""
        row = self.rows.get(key) or self._find(key)
        if row is None:
            if entry.status in ("hit", "refused"):
                entry = canonical(entry)
                self.rows[key] = Row(entry, self._owner)
                self.tally.close(entry, entry.model)
            else:
                self.ignored += 1
        elif not self._closable(row):
            self.ignored += 1
        else:
            if row.entry.status == "expired":
                self.tally.take_back(row.entry)
            self._close(key, row, labelled(row.entry, entry))

    def expire(self, row: Row) -> None:
        """Close an open row whose process is gone."""
        entry = row.entry
        self._close((entry.request_id, entry.attempt), row, expired(entry))

    def _close(self, key: RowKey, row: Row, entry: Entry) -> None:
        self.rows[key] = msgspec.structs.replace(row, entry=entry)
        self.tally.close(entry, row.entry.model)

    def _closable(self, row: Row) -> bool:
        if row.entry.status == "expired":
            return True
        return row.entry.status == "open" and (row.owner == self._owner or self._gone(row.owner))
