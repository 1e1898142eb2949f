"""Kept answers in one SQLite file beside the ledger: found by key, bounded in size, gone at an absolute time.

What goes wrong here is a miss, counted and logged once a minute, never an error of the call. Every process reads what
the others write, so a purge holds for all of them at once.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from bursar.types import Instant, Kept

log = logging.getLogger("bursar.stores")

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, tenant TEXT NOT NULL, step TEXT NOT NULL, model TEXT NOT NULL, tags TEXT NOT NULL,
    meta TEXT NOT NULL, body BLOB NOT NULL, bytes INTEGER NOT NULL, gone_at INTEGER NOT NULL, used_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_used ON answers (used_at);
CREATE INDEX IF NOT EXISTS answers_gone ON answers (gone_at);
"""
_USED_STEP = 60_000_000
"""How exactly the last use is kept, microseconds: one write a minute for an answer that is in demand."""
_TRIM_EVERY = 64
_PARTS = 16
"""Trimmed too when so large a part of the bound has been written: large answers must not run past it."""
_LOG_EVERY_SECONDS = 60.0


class Purge(msgspec.Struct, frozen=True, kw_only=True):
    """Which answers to forget: all that is set must hold; nothing set is everything."""

    tenant: str | None = None
    step: str | None = None
    model: str | None = None
    tag: tuple[str, str] | None = None
    prefix: bytes | None = None
    """The beginning of the key, as a hit's row shows it."""


class Shelf(msgspec.Struct, frozen=True):
    """What is kept of one step of one tenant."""

    tenant: str
    step: str | None
    model: str | None
    answers: int
    bytes: int


class AnswerCache:
    """Thread-safe; opened at the first question. most_bytes bounds the bodies; the least lately used go first."""

    def __init__(self, path: Path | None, most_bytes: int = 256 << 20) -> None:
        """path: None keeps the answers in memory and forgets them with the process."""
        self.path, self._most = path, most_bytes
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._puts = self._untrimmed = 0
        self._logged = -_LOG_EVERY_SECONDS
        self.failures = 0
        """Questions that a fault of the file has turned into misses."""

    def get(self, key: bytes, now: Instant) -> Kept | None:
        """The answer under this key that is not gone by now; it may be stale (Kept.fresh_until)."""

        def look(db: sqlite3.Connection) -> Kept | None:
            query = "SELECT meta, body, used_at FROM answers WHERE key = ? AND gone_at > ?"
            found = db.execute(query, (key, now)).fetchone()
            if found is None:
                return None
            meta, body, used_at = found
            if now - used_at > _USED_STEP:
                db.execute("UPDATE answers SET used_at = ? WHERE key = ?", (now, key))
            return msgspec.structs.replace(msgspec.json.decode(meta, type=Kept), body=body)

        return self._ask(look)

    def put(self, key: bytes, kept: Kept) -> None:
        """Keep an answer, in the place of the one before."""
        meta = msgspec.json.encode(msgspec.structs.replace(kept, body=b"")).decode()
        tags = msgspec.json.encode(dict(kept.tags)).decode()
        row = (key, kept.tenant, kept.step or "", kept.model or "", tags, meta, kept.body, len(kept.body), kept.gone_at,
               kept.stored_at)  # fmt: skip

        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,?,?,?,?)", row)
            self._puts += 1
            self._untrimmed += len(kept.body)
            if self._puts % _TRIM_EVERY == 1 or self._untrimmed * _PARTS >= self._most:
                self._untrimmed = 0
                self._trim(db, kept.stored_at)

        self._ask(write)

    def purge(self, what: Purge) -> int:
        """Forget; how many there were."""
        conditions, values = ["1"], list[object]()
        for column in ("tenant", "step", "model"):
            if (wanted := getattr(what, column)) is not None:
                conditions.append(f"{column} = ?")
                values.append(wanted)
        if what.tag is not None:
            conditions.append("json_extract(tags, ?) = ?")
            values += [f'$."{what.tag[0]}"', what.tag[1]]
        if what.prefix is not None:
            conditions.append("substr(key, 1, ?) = ?")
            values += [len(what.prefix), what.prefix]
        query = f"DELETE FROM answers WHERE {' AND '.join(conditions)}"
        return self._ask(lambda db: db.execute(query, values).rowcount) or 0

    def size(self) -> tuple[int, int]:
        """Answers and their bytes."""
        found = self._ask(lambda db: db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM answers").fetchone())
        return found or (0, 0)

    def shelves(self, now: Instant) -> list[Shelf]:
        """What may still be given, by tenant, step and model, the largest first."""
        query = (
            "SELECT tenant, step, model, count(*), sum(bytes) FROM answers WHERE gone_at > ? GROUP BY 1, 2, 3 "
            "ORDER BY 5 DESC, 1, 2, 3"
        )
        found = self._ask(lambda db: db.execute(query, (now,)).fetchall()) or []
        return [Shelf(tenant, step or None, model or None, *sums) for tenant, step, model, *sums in found]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._disconnect()

    def _trim(self, db: sqlite3.Connection, now: Instant) -> None:
        db.execute("DELETE FROM answers WHERE gone_at <= ?", (now,))
        (total,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM answers").fetchone()
        while total > self._most:
            oldest = db.execute("SELECT key, bytes FROM answers ORDER BY used_at LIMIT 64").fetchall()
            for key, size in oldest:
                if total <= self._most:
                    break
                db.execute("DELETE FROM answers WHERE key = ?", (key,))
                total -= size

    def _ask(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._process != os.getpid():  # in a forked child the connection and the lock are the parent's
            self._lock, self._connection, self._process = threading.Lock(), None, os.getpid()
        with self._lock:
            try:
                return work(self._open())
            except (sqlite3.Error, OSError, msgspec.DecodeError) as fault:
                self.failures += 1
                self._disconnect()
                if time.monotonic() - self._logged >= _LOG_EVERY_SECONDS:
                    self._logged = time.monotonic()
                    log.warning("the answer cache %s cannot be used (%s): every look-up is a miss", self.path, fault)
                return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            place = ":memory:" if self.path is None else for_us_alone(self.path)
            self._connection = sqlite3.connect(place, timeout=1.0, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def for_us_alone(path: Path) -> Path:
    """The file, made where it is missing so that nobody else may read it: it holds what callers were answered."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return path
