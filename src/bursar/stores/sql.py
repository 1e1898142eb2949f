"""The statements, shaped by two measured facts about Python's sqlite3. Each step gives the interpreter lock away and
has to win it back, so many rows go into one statement. And binding a None, a bool or bytes costs ten times what a str,
an int or a bytearray does (it looks for an adapter), so rows come dressed: rows.NULL, int and bytearray instead.
"""

import functools
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from bursar.stores.counters import FIELDS
from bursar.stores.rows import CHANGING, COLUMNS, MARKS, NULL, OPENING
from bursar.types import Claim

CALL_COLUMNS = (*COLUMNS, "owner")
ROLLUP_COLUMNS = ("grain", "bucket_start", "dim", "first_key", "second_key", "tenant", *FIELDS)
RUN_COLUMNS = (
    "tenant", "run_id", "parent_run_id", "root_run_id", "agent_id", "session_id", "user_id", "user_tier",
    "first_at", "last_at", "calls", "rows", "input_tokens", "output_tokens", "cost_nanos", "unpriced",
    "tree_rows", "tree_cost_nanos", "tree_unpriced", "final_request",
)  # fmt: skip
BIN_COLUMNS = ("grain", "bucket_start", "tenant", "agent", "bin", "runs", "cost_nanos", "unpriced")
FACTOR_COLUMNS = (
    "provider", "model", "input_estimated", "input_reported", "output_estimated", "output_reported", "decay",
)  # fmt: skip
COUNTER_COLUMNS = (
    "tenant", "scope", "key", "budget", "window_start", "window_end", "terms",
    "settled_nanos", "settled_tokens", "held_nanos", "held_tokens", "rows", "touched_at",
)  # fmt: skip
SKETCH_COLUMNS = ("kind", "first_key", "second_key", "tenant", "bin", "count")
STATE_COLUMNS = ("kind", "tenant", "key", "body", "changed_at")
EVENT_COLUMNS = ("kind", "tenant", "key", "at", "body")
KEY_COLUMNS = ("key_id", "name", "tenant", "role", "hash", "created_at", "trusted_claims", "revoked_at")


_NULLABLE = frozenset(
    ("run_id", "parent_run_id", "session_id", "user_id", "user_tier", "agent_id", "step", "key_id", "duration_ms",
     "first_byte_ms", "requested_model", "model", "tier", "http_status", "error", "input_tokens", "cached_tokens",
     "cache_write_tokens", "output_tokens", "reasoning_tokens", "usage", "service_tier", "cost_nanos", "saved_nanos",
     "price_id", "hold_nanos", "output_limit", "charges", "input_estimate", "output_estimate", "validated",
     "verdict", "decision", "marks", "response_id", "request", "response", "revoked_at", "final_request", "window_end")
)  # fmt: skip


SELECT_CALLS = f"SELECT {', '.join(COLUMNS)}, owner, id FROM calls"
SELECT_RUNS = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs"
SELECT_COUNTERS = f"SELECT {', '.join(COUNTER_COLUMNS)} FROM counters"
AT_COUNTER = "tenant = ? AND scope = ? AND key = ? AND budget = ? AND window_start = ?"
FETCH_COUNTERS = (
    f"SELECT {', '.join(f'counters.{name}' for name in COUNTER_COLUMNS)}"
    " FROM json_each(?) AS wanted CROSS JOIN counters"
    " ON tenant = json_extract(wanted.value, '$[0]') AND scope = json_extract(wanted.value, '$[1]')"
    " AND counters.key = json_extract(wanted.value, '$[2]') AND budget = json_extract(wanted.value, '$[3]')"
    " AND window_start = json_extract(wanted.value, '$[4]')"
)
"""The parameter: a JSON array of [tenant, scope, key, budget, window_start]."""
SELECT_SKETCHES = f"SELECT {', '.join(SKETCH_COLUMNS)} FROM sketches"
LEAN_FIELDS = (
    "calls", "attempts", "completed", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos", "passed",
    "rejected",
)  # fmt: skip
"""The counters that a plain completed call moves, judged or not; the rest of most gains is zero."""


@functools.lru_cache(4096)
def terms_text(claim: Claim) -> str:
    """A claim as its counter keeps it."""
    return msgspec.json.encode(claim).decode()


@functools.lru_cache(4096)
def terms(text: str) -> Claim:
    """The claim that a counter keeps."""
    return msgspec.json.decode(text, type=Claim)


MOST_KEYS = 512
"""Documents in one question at most."""


@functools.lru_cache(16)
def states_of(keys: int) -> str:
    """Some documents of one kind and tenant."""
    return f"SELECT key, body FROM states WHERE kind = ? AND tenant = ? AND key IN ({', '.join('?' * keys)})"


class Table:
    """One way to write rows of a table: its columns and the text around a number of rows."""

    __slots__ = ("_after", "_before", "_row", "_texts", "columns")

    def __init__(self, before: str, columns: tuple[str, ...], after: str) -> None:
        self.columns = columns
        self._before, self._after = before, after
        marks = (f"nullif(?, '{NULL}')" if name in _NULLABLE else "?" for name in columns)
        self._row = f"({', '.join(marks)})"
        self._texts: dict[int, str] = {}

    def text(self, rows: int) -> str:
        if rows not in self._texts:
            self._texts[rows] = f"{self._before} {', '.join([self._row] * rows)} {self._after}"
        return self._texts[rows]

    def write(self, db: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[int, sqlite3.Cursor]]:
        """Run the statement for all rows, in pieces of a few fixed sizes; each piece's length and cursor."""
        start = 0
        while start < len(rows):
            left = len(rows) - start
            size = 64 if left >= 64 else 16 if left >= 16 else left
            values = list(itertools.chain.from_iterable(rows[start : start + size]))
            yield size, db.execute(self.text(size), values)
            start += size

    def put(self, db: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Write all rows; how many were changed."""
        if not rows:
            return 0
        if len(rows) == 1:
            return db.execute(self.text(1), rows[0]).rowcount
        return sum([cursor.rowcount for _, cursor in self.write(db, rows)])

    def append(self, db: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[int]:
        """Insert new rows; their numbers. One writer at a time makes those of a statement consecutive."""
        numbers: list[int] = []
        for size, cursor in self.write(db, rows):
            last = cursor.lastrowid or 0
            numbers.extend(range(last - size + 1, last + 1))
        return numbers


def _insert(table: str, columns: tuple[str, ...], key: str = "", sets: Iterable[str] = ()) -> Table:
    conflict = f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(sets)}" if key else ""
    return Table(f"INSERT INTO {table} ({', '.join(columns)}) VALUES", columns, conflict)


def _put(columns: Iterable[str]) -> Iterator[str]:
    return (f"{name} = excluded.{name}" for name in columns)


def _add(table: str, columns: Iterable[str]) -> Iterator[str]:
    return (f"{name} = {table}.{name} + excluded.{name}" for name in columns)


def _close(condition: str) -> Table:
    columns = ("id", *CHANGING)
    sets = ", ".join(f"{name} = v.column{at}" for at, name in enumerate(CHANGING, 2))
    return Table(f"UPDATE calls SET {sets} FROM (VALUES", columns, f") AS v WHERE calls.id = v.column1 {condition}")


def _rollups(fields: tuple[str, ...]) -> Table:
    columns = (*ROLLUP_COLUMNS[:6], *fields)
    cell = "grain, dim, bucket_start, first_key, second_key, tenant"
    return _insert("rollups", columns, cell, _add("rollups", fields))


OPEN_ROWS = _insert("calls", (*OPENING, "owner"))
WHOLE_ROWS = _insert("calls", CALL_COLUMNS)
CLOSE_OPEN_ROWS = _close("AND calls.status = 'open'")
CLOSE_READ_ROWS = _close("")
EXTEND_ROWS = Table(
    "UPDATE calls SET charges = v.column2 FROM (VALUES", ("id", "charges"), ") AS v WHERE calls.id = v.column1"
)
MARK_ROWS = Table(
    "UPDATE calls SET validated = v.column2, verdict = v.column3 FROM (VALUES", ("id", *MARKS),
    ") AS v WHERE calls.id = v.column1",
)  # fmt: skip
PUT_COUNTERS = _insert(
    "counters", COUNTER_COLUMNS, "tenant, scope, key, budget, window_start", _put(COUNTER_COLUMNS[5:])
)
ADD_SKETCHES = _insert(
    "sketches", SKETCH_COLUMNS, "kind, first_key, second_key, tenant, bin", _add("sketches", SKETCH_COLUMNS[5:])
)
ADD_ROLLUPS = _rollups(FIELDS)
ADD_LEAN_ROLLUPS = _rollups(LEAN_FIELDS)
PUT_RUNS = _insert("runs", RUN_COLUMNS, "run_id, tenant", _put(RUN_COLUMNS[2:]))
MOVE_BINS = _insert(
    "run_histogram", BIN_COLUMNS, "grain, bucket_start, tenant, agent, bin", _add("run_histogram", BIN_COLUMNS[5:])
)
ADD_FACTORS = _insert(
    "factors", FACTOR_COLUMNS, "provider, model",
    (f"{name} = factors.{name} * excluded.decay + excluded.{name}" for name in FACTOR_COLUMNS[2:6]),
)  # fmt: skip
PUT_KEY = _insert("keys", KEY_COLUMNS)
PUT_STATES = _insert("states", STATE_COLUMNS, "kind, tenant, key", _put(STATE_COLUMNS[3:]))
ADD_EVENTS = _insert("events", EVENT_COLUMNS)
