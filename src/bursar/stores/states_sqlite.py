"""The shared states of a SQLite ledger: read beside the writer, changed in its transactions."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bursar.stores import sql
from bursar.stores.pages import Page, cursor_of, parse_cursor
from bursar.stores.reader import Reader
from bursar.stores.receipt import Receipt
from bursar.stores.states import At, Change, Event, State, Updates
from bursar.types import Instant

T = TypeVar("T")

_LISTED = f"SELECT {', '.join(sql.STATE_COLUMNS[1:])}, id FROM states"
_LOGGED = f"SELECT {', '.join(sql.EVENT_COLUMNS)}, id FROM events"
_ONE = "SELECT body FROM states WHERE kind = ? AND tenant = ? AND key = ?"


class SqliteStates:
    """See states.States."""

    def __init__(
        self,
        reader: Callable[[], Reader],
        behind: Callable[[], Reader],
        update: Callable[[At, Change[Any]], Receipt[Any]],
    ) -> None:
        """reader: of what is committed; behind: the same once all that was submitted is."""
        self._reader, self._behind, self._update = reader, behind, update

    def get(self, kind: str, tenant: str, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with self._reader().connected() as db:
            for start in range(0, len(keys), sql.MOST_KEYS):
                part = keys[start : start + sql.MOST_KEYS]
                found.update(db.execute(sql.states_of(len(part)), (kind, tenant, *part)).fetchall())
        return found

    def update(self, kind: str, tenant: str, key: str, change: Change[T]) -> Receipt[T]:
        return self._update((kind, tenant, key), change)

    def list(
        self, kind: str, tenant: str | None = None, prefix: str = "", limit: int = 100, cursor: str | None = None
    ) -> Page[State]:
        clauses, values = _given(("kind", kind), ("tenant", tenant))
        if prefix:
            clauses += " AND substr(key, 1, ?) = ?"
            values += [len(prefix), prefix]
        if cursor is not None:
            clauses += " AND (changed_at, id) < (?, ?)"
            values += parse_cursor(cursor)
        found = self._rows(f"{_LISTED} WHERE {clauses} ORDER BY changed_at DESC, id DESC LIMIT ?", [*values, limit + 1])
        states = [
            State(tenant=row[0], key=row[1], body=row[2], changed_at=Instant(row[3])) for row in found[:limit]
        ]  # fmt: skip
        more = cursor_of(*found[limit - 1][-2:]) if len(found) > limit else None
        return Page(tuple(states), more)

    def log(
        self, kind: str, tenant: str | None = None, key: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Event]:
        clauses, values = _given(("kind", kind), ("tenant", tenant), ("key", key))
        if cursor is not None:
            clauses += " AND id < ?"
            values.append(parse_cursor(cursor)[1])
        found = self._rows(f"{_LOGGED} WHERE {clauses} ORDER BY id DESC LIMIT ?", [*values, limit + 1])
        events = [
            Event(kind=row[0], tenant=row[1], key=row[2], at=Instant(row[3]), body=row[4]) for row in found[:limit]
        ]  # fmt: skip
        more = cursor_of(0, found[limit - 1][-1]) if len(found) > limit else None
        return Page(tuple(events), more)

    def _rows(self, query: str, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        with self._behind().snapshot() as db:
            return db.execute(query, values).fetchall()


def _given(*labels: tuple[str, str | None]) -> tuple[str, list[Any]]:
    known = [(name, value) for name, value in labels if value is not None]
    return " AND ".join(f"{name} = ?" for name, _ in known), [value for _, value in known]


def body_of(db: sqlite3.Connection, at: At) -> bytes | None:
    """The document as the transaction finds it."""
    found = db.execute(_ONE, at).fetchone()
    return None if found is None else found[0]


def write(db: sqlite3.Connection, updates: Updates) -> None:
    """Put the changed documents where they belong, and the log's new lines behind the others."""
    changed = updates.changed.items()
    sql.PUT_STATES.put(
        db, [(*at, bytearray(state.body), state.changed_at) for at, state in changed if state is not None]
    )
    gone = [at for at, state in changed if state is None]
    if gone:
        db.executemany("DELETE FROM states WHERE kind = ? AND tenant = ? AND key = ?", gone)
    sql.ADD_EVENTS.put(
        db, [(event.kind, event.tenant, event.key, event.at, bytearray(event.body)) for event in updates.events]
    )
