"""What the semantic cache knows: questions with the answers that they stand for, labels, what was served to whom.

One SQLite file beside the ledger's; the answers themselves are in the answer cache, the vectors in vectors.py. Texts
and answers stand here only for steps that ask for it, within their time to live; a purge takes them out for good.
Failure: SQLite's errors reach the caller, who takes them for a miss. Safe between threads; several processes may
share the file, and each sees the others' labels at once.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bursar.rules.semantic.calibrate import Calibration
from bursar.rules.semantic.reading import Reading
from bursar.rules.semantic.score import Neighbour
from bursar.stores.cache import for_us_alone
from bursar.types import Api, Instant

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT NOT NULL, pool TEXT NOT NULL, tenant TEXT NOT NULL,
  step TEXT NOT NULL, answer TEXT NOT NULL, digest BLOB NOT NULL, text TEXT NOT NULL, reading BLOB NOT NULL,
  request_id TEXT NOT NULL, stored_at INTEGER NOT NULL, gone_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_answer ON entries (answer);
CREATE INDEX IF NOT EXISTS entries_text ON entries (space, digest);
CREATE INDEX IF NOT EXISTS entries_pool ON entries (pool);
CREATE INDEX IF NOT EXISTS entries_gone ON entries (gone_at);
CREATE TABLE IF NOT EXISTS marks (
  answer TEXT PRIMARY KEY, confirmed INTEGER NOT NULL DEFAULT 0, refuted INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pools (
  pool TEXT PRIMARY KEY, tenant TEXT NOT NULL, step TEXT NOT NULL, state BLOB, version INTEGER NOT NULL DEFAULT 0,
  asked INTEGER NOT NULL DEFAULT 0, served INTEGER NOT NULL DEFAULT 0, shadow INTEGER NOT NULL DEFAULT 0,
  judged INTEGER NOT NULL DEFAULT 0, wrong INTEGER NOT NULL DEFAULT 0, reported INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bans (
  space TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (space, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hits (
  request_id TEXT PRIMARY KEY, api TEXT NOT NULL, at INTEGER NOT NULL, gone_at INTEGER NOT NULL,
  space TEXT NOT NULL, pool TEXT NOT NULL,
  text TEXT NOT NULL, digest BLOB NOT NULL, entry INTEGER NOT NULL, answer TEXT NOT NULL, stored_text TEXT NOT NULL,
  source TEXT NOT NULL, cosine REAL NOT NULL, score REAL, features BLOB NOT NULL, verdict TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hits_gone ON hits (gone_at);
"""
_WORTH_KEEPING = 60
"""Requests from which a pool outlives its entries: one of a system prompt that never comes again does not."""
_STATES = 256
"""Calibrations in memory, some 100 KB each."""
_STATE = msgspec.msgpack.Decoder(Calibration)
_READING = msgspec.msgpack.Decoder(Reading)
COUNTS = ("asked", "served", "shadow", "judged", "wrong", "reported")


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that was given to another question than its own."""

    request_id: str
    api: Api
    at: Instant
    gone_at: Instant
    space: str
    pool: str
    text: str
    """What was asked."""
    entry: str
    answer: str
    stored_text: str
    """What the answer had been given to."""
    source: str
    """request_id of the call that paid for the answer."""
    cosine: float
    score: float | None
    features: bytes
    verdict: str | None = None
    """wrong | banned | right, where somebody has said so."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored question."""

    space: str
    pool: str
    tenant: str
    step: str
    answer: str
    text: str
    reading: Reading
    request_id: str
    stored_at: Instant
    gone_at: Instant


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """What one pool has come to: counts of requests, and its calibration where it has one."""

    pool: str
    tenant: str
    step: str
    state: Calibration | None
    asked: int
    """Requests that found anything near."""
    served: int
    shadow: int
    """Would-be hits of the shadow mode."""
    judged: int
    """Would-be hits that were compared with a fresh answer: audits and the shadow's."""
    wrong: int
    """Of those."""
    reported: int
    """Hits that somebody called wrong."""


class Notes:
    """The file. `space` is a partition under one embedder, `entry` the decimal id of a stored question."""

    def __init__(self, path: Path | None) -> None:
        """path: None keeps everything in memory."""
        self._lock = threading.RLock()
        place = ":memory:" if path is None else for_us_alone(path)
        self._db = sqlite3.connect(place, timeout=5.0, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        self._states: dict[str, tuple[int, Calibration | None]] = {}

    def neighbours(self, near: Sequence[tuple[str, float]], now: Instant) -> tuple[Neighbour, ...]:
        """(entry, cosine) of the index -> neighbours; what is gone by now, or was taken out, is left out."""
        found = []
        with self._lock:
            for entry, cosine in near:
                row = self._db.execute(
                    "SELECT answer, reading, coalesce(confirmed, 0), coalesce(refuted, 0) FROM entries LEFT JOIN marks"
                    " USING (answer) WHERE id = ? AND gone_at > ?",
                    (int(entry), now),
                ).fetchone()
                if row is not None:
                    found.append(Neighbour(entry, row[0], cosine, _READING.decode(row[1]), row[2], row[3]))
        return tuple(found)

    def banned(self, space: str, text: str) -> bool:
        """Whether this very text must not be answered here."""
        with self._lock:
            query = "SELECT 1 FROM bans WHERE space = ? AND digest = ?"
            return self._db.execute(query, (space, _digest(text))).fetchone() is not None

    def state(self, pool: str) -> Calibration | None:
        """The pool's calibration; read anew only where somebody has written it."""
        with self._lock:
            row = self._db.execute("SELECT version FROM pools WHERE pool = ?", (pool,)).fetchone()
            if row is None:
                return None
            known = self._states.get(pool)
            if known is None or known[0] != row[0]:
                blob = self._db.execute("SELECT state FROM pools WHERE pool = ?", (pool,)).fetchone()[0]
                known = self._states[pool] = (row[0], None if blob is None else _STATE.decode(blob))
                if len(self._states) > _STATES:
                    del self._states[next(iter(self._states))]
            return known[1]

    def save(self, pool: str, state: Calibration) -> None:
        """The pool's calibration from now on."""
        with self._lock:
            self._db.execute(
                "UPDATE pools SET state = ?, version = version + 1 WHERE pool = ?",
                (msgspec.msgpack.encode(state), pool),
            )

    def count(self, pool: str, tenant: str, step: str, **counts: int) -> None:
        """Add to the pool's counts, by the names of COUNTS."""
        columns = [name for name in COUNTS if counts.get(name)]
        with self._lock:
            query = "INSERT OR IGNORE INTO pools (pool, tenant, step) VALUES (?, ?, ?)"
            self._db.execute(query, (pool, tenant, step))
            for name in columns:
                self._db.execute(f"UPDATE pools SET {name} = {name} + ? WHERE pool = ?", (counts[name], pool))

    def label(self, answer: str, *, confirmed: int = 0, refuted: int = 0) -> None:
        """Add to what is known of an answer."""
        with self._lock:
            self._db.execute(
                "INSERT INTO marks VALUES (?, ?, ?) ON CONFLICT (answer) DO UPDATE SET"
                " confirmed = confirmed + excluded.confirmed, refuted = refuted + excluded.refuted",
                (answer, confirmed, refuted),
            )

    def gone_at(self, answer: str) -> Instant | None:
        """When the answer goes; None: nobody stands for it."""
        with self._lock:
            row = self._db.execute("SELECT min(gone_at) FROM entries WHERE answer = ?", (answer,)).fetchone()
            return None if row[0] is None else Instant(row[0])

    def knows(self, space: str, text: str, answer: str | None = None) -> bool:
        """Whether this very text stands there already (for that answer)."""
        with self._lock:
            query = "SELECT 1 FROM entries WHERE space = ? AND digest = ? AND (? IS NULL OR answer = ?)"
            return self._db.execute(query, (space, _digest(text), answer, answer)).fetchone() is not None

    def add(self, entry: Entry) -> str:
        """Put a question in: the id of its entry."""
        with self._lock:
            written = self._db.execute(
                "INSERT INTO entries (space, pool, tenant, step, answer, digest, text, reading, request_id, stored_at,"
                " gone_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (entry.space, entry.pool, entry.tenant, entry.step, entry.answer, _digest(entry.text), entry.text,
                 msgspec.msgpack.encode(entry.reading), entry.request_id, entry.stored_at, entry.gone_at),
            )  # fmt: skip
            return str(written.lastrowid)

    def answers(self) -> list[str]:
        """Every answer that some question stands for."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT DISTINCT answer FROM entries").fetchall()]

    def drop(
        self,
        *,
        answer: str | None = None,
        space: str | None = None,
        text: str | None = None,
        gone_by: Instant | None = None,
    ) -> list[tuple[str, str]]:
        """Take out the entries of which all holds that is given: (space, entry) of each, for the index."""
        digest = None if text is None else _digest(text)
        told = (("answer = ?", answer), ("space = ?", space), ("digest = ?", digest), ("gone_at <= ?", gone_by))
        where = " AND ".join(["1", *(clause for clause, value in told if value is not None)])
        values = [value for _, value in told if value is not None]
        with self._lock:
            gone = self._db.execute(f"DELETE FROM entries WHERE {where} RETURNING space, id", values).fetchall()
            self._db.execute("DELETE FROM marks WHERE answer NOT IN (SELECT answer FROM entries)")
            if gone_by is not None:
                self._db.execute("DELETE FROM hits WHERE gone_at <= ?", (gone_by,))
                self._db.execute(
                    "DELETE FROM pools WHERE asked < ? AND pool NOT IN (SELECT pool FROM entries)", (_WORTH_KEEPING,)
                )
        return [(found, str(entry)) for found, entry in gone]

    def ban(self, space: str, text: str) -> None:
        """Never answer this very text here."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO bans VALUES (?, ?)", (space, _digest(text)))

    def stored(self, entry: str) -> tuple[str, str, Instant] | None:
        """(text, request_id, gone_at) of a stored question."""
        with self._lock:
            query = "SELECT text, request_id, gone_at FROM entries WHERE id = ?"
            row = self._db.execute(query, (int(entry),)).fetchone()
            return None if row is None else (row[0], row[1], Instant(row[2]))

    def write_hit(self, hit: Hit) -> None:
        """Note what was given to whom: what `explain` tells."""
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO hits VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (hit.request_id, hit.api, hit.at, hit.gone_at, hit.space, hit.pool, hit.text, _digest(hit.text),
                 int(hit.entry), hit.answer, hit.stored_text, hit.source, hit.cosine, hit.score, hit.features,
                 hit.verdict),
            )  # fmt: skip

    def hit(self, request_id: str) -> Hit | None:
        """The hit of that request, as long as its answer was to live."""
        names = tuple(name for name in Hit.__struct_fields__)
        with self._lock:
            row = self._db.execute(
                f"SELECT {', '.join(names)} FROM hits WHERE request_id = ?", (request_id,)
            ).fetchone()
        if row is None:
            return None
        told = dict(zip(names, row, strict=True))
        return Hit(**{**told, "entry": str(told["entry"])})

    def pools(self) -> list[Pool]:
        """All pools, the most asked first."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT pool, tenant, step, state, {', '.join(COUNTS)} FROM pools ORDER BY asked DESC, pool"
            ).fetchall()
        return [
            Pool(pool=row[0], tenant=row[1], step=row[2], state=None if row[3] is None else _STATE.decode(row[3]),
                 **dict(zip(COUNTS, row[4:], strict=True)))
            for row in rows
        ]  # fmt: skip

    def size(self) -> tuple[int, int]:
        """Stored questions, and the answers that they stand for."""
        with self._lock:
            questions, answers = self._db.execute("SELECT count(*), count(DISTINCT answer) FROM entries").fetchone()
            return int(questions), int(answers)

    @contextmanager
    def together(self) -> Iterator[None]:
        """One transaction: labels are read, learned from and written as one, or not at all."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                self._states.clear()
                raise
            self._db.execute("COMMIT")

    def forget_hits(self) -> None:
        """Take out what was noted of hits whose answers nothing stands for any more."""
        with self._lock:
            self._db.execute("DELETE FROM hits WHERE answer NOT IN (SELECT answer FROM entries)")

    def rule(self, request_id: str, verdict: str) -> None:
        """Note what somebody has said of a hit."""
        with self._lock:
            self._db.execute("UPDATE hits SET verdict = ? WHERE request_id = ?", (verdict, request_id))

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
