"""Nearest entries by cosine, one index a namespace: exact numpy to 20,000 entries, a usearch graph above.

Vectors stand in one SQLite file, a row each, written in the caller's transaction of one: what `add` or `delete` has
returned survives a crash, and the blobs of a namespace load in one read. The graph is only derived: it is saved beside
the file on `close` and mended from the rows when it is opened, however old it is. It grows beside the matrix, some rows
with every `add`, and takes over when it holds them all: nobody waits for it.
Failure: SQLite's errors and a vector of another length (ValueError) reach the caller, who takes them for a miss.
Safe between threads. Processes that share the file find what the others have added since; what another has taken out
is still found here until it is opened anew: the caller knows his entries.
"""

import hashlib
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from bursar.stores.cache import for_us_alone

Floats: TypeAlias = NDArray[np.float32]
Vector: TypeAlias = Sequence[float]

EXACT_UP_TO = 20_000
"""Entries of a namespace that exact search still serves within 3 ms; also where the graph begins."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
  key INTEGER PRIMARY KEY AUTOINCREMENT,
  namespace TEXT NOT NULL,
  entry TEXT NOT NULL,
  vector BLOB NOT NULL,
  UNIQUE (namespace, entry)
)
"""
_MOVED = 16
"""Rows that one `add` takes over into a growing graph: some 10 ms."""
_OPEN = 256
"""Namespaces in memory, the least lately used closed first: a user's own is some 100 KB, and read in a millisecond."""
_SEARCH_MORE = 4
"""The graph is asked for so many times what is wanted: its recall at ten is then that of forty."""


class Near(msgspec.Struct, frozen=True):
    """One found entry."""

    entry: str
    cosine: float


class Vectors:
    """The index of every namespace; opens what a namespace needs at its first use."""

    def __init__(self, path: Path | str = ":memory:", *, exact_up_to: int = EXACT_UP_TO) -> None:
        """path: the SQLite file, made where it is missing; graphs are saved beside it."""
        self._path = None if str(path) == ":memory:" else Path(path)
        self._exact_up_to = exact_up_to
        self._lock = threading.Lock()
        self._shelves: dict[str, _Matrix | _Graph] = {}
        self._read: dict[str, int] = {}
        """By namespace: the last key that was read from the file."""
        self._version = 0
        self._behind: set[str] = set()
        """Namespaces to which another process may have added."""
        if self._path is not None:
            for_us_alone(self._path)
        self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(_SCHEMA)

    def add(self, namespace: str, entry: str, vector: Vector) -> None:
        """Put an entry in, or give it another vector. ValueError: another length than its namespace's, or all zero."""
        unit = _unit(vector)
        with self._lock:
            shelf = self._shelf(namespace)
            if shelf.width not in (0, len(unit)):
                raise ValueError(f"a vector of {len(unit)} numbers in namespace {namespace!r} of {shelf.width}")
            old = self._key(namespace, entry)
            if old is not None:
                shelf.remove(old)
            written = self._db.execute(
                "INSERT OR REPLACE INTO vectors (namespace, entry, vector) VALUES (?, ?, ?)",
                (namespace, entry, unit.tobytes()),
            )
            shelf.add(int(written.lastrowid or 0), entry, unit)
            if isinstance(shelf, _Matrix) and len(shelf) > self._exact_up_to and (graph := shelf.move()) is not None:
                self._shelves[namespace] = graph

    def search(self, namespace: str, vector: Vector, count: int = 10) -> list[Near]:
        """The nearest entries, nearest first, at most `count`; equal cosines in order of entry."""
        unit = _unit(vector)
        with self._lock:
            shelf = self._caught_up(namespace)
            if not len(shelf):
                return []
            if shelf.width != len(unit):
                raise ValueError(f"a vector of {len(unit)} numbers in namespace {namespace!r} of {shelf.width}")
            near = [(self._name(shelf, key), cosine) for key, cosine in shelf.nearest(unit, count)]
            found = [Near(name, cosine) for name, cosine in near if name is not None]
        return sorted(found, key=lambda near: (-near.cosine, near.entry))

    def delete(self, namespace: str, entry: str) -> bool:
        """Take an entry out, for good. False where it was not in."""
        with self._lock:
            shelf = self._shelf(namespace)
            key = self._key(namespace, entry)
            if key is None:
                return False
            self._db.execute("DELETE FROM vectors WHERE key = ?", (key,))
            shelf.remove(key)
            return True

    def drop(self, namespace: str) -> int:
        """Take out all entries of a namespace; how many there were."""
        with self._lock:
            self._shelves.pop(namespace, None)
            self._read.pop(namespace, None)
            if (saved := self._saved(namespace)) is not None:
                saved.unlink(missing_ok=True)
            return self._db.execute("DELETE FROM vectors WHERE namespace = ?", (namespace,)).rowcount

    def count(self, namespace: str) -> int:
        with self._lock:
            return len(self._shelf(namespace))

    def close(self) -> None:
        """Save the graphs and close the file."""
        with self._lock:
            for namespace, shelf in self._shelves.items():
                if isinstance(shelf, _Graph) and (saved := self._saved(namespace)) is not None:
                    shelf.save(saved)
            self._shelves.clear()
            self._read.clear()
            self._db.close()

    def _shelf(self, namespace: str) -> "_Matrix | _Graph":
        shelf = self._shelves.pop(namespace, None)
        if shelf is None:
            shelf = self._open(namespace)
        self._shelves[namespace] = shelf
        if len(self._shelves) > _OPEN:
            idle = next((name for name, old in self._shelves.items() if isinstance(old, _Matrix) and old.closes), None)
            if idle not in (None, namespace):
                del self._shelves[idle], self._read[idle]
        return shelf

    def _caught_up(self, namespace: str) -> "_Matrix | _Graph":
        """The shelf, with what other processes have added."""
        shelf = self._shelf(namespace)
        version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            self._version, self._behind = version, set(self._shelves)
        if namespace in self._behind:
            self._behind.discard(namespace)
            rows = self._db.execute(
                "SELECT key, entry, vector FROM vectors WHERE namespace = ? AND key > ? ORDER BY key",
                (namespace, self._read[namespace]),
            )
            for key, entry, blob in rows.fetchall():
                self._read[namespace] = key
                unit: Floats = np.frombuffer(blob, dtype=np.float32)
                if not shelf.holds(key) and shelf.width in (0, len(unit)):
                    shelf.add(key, entry, unit)
        return shelf

    def _open(self, namespace: str) -> "_Matrix | _Graph":
        rows = self._db.execute(
            "SELECT key, entry, vector FROM vectors WHERE namespace = ? ORDER BY key", (namespace,)
        ).fetchall()
        keys = [key for key, _, _ in rows]
        self._read[namespace] = keys[-1] if keys else 0
        vectors = np.frombuffer(b"".join(blob for _, _, blob in rows), dtype=np.float32).reshape(
            len(rows), -1 if rows else 0
        )
        saved = self._saved(namespace)
        if len(rows) > self._exact_up_to and saved is not None and saved.is_file():
            return _Graph.mended(saved, keys, vectors)
        matrix = _Matrix()
        for (key, entry, _), vector in zip(rows, vectors, strict=True):
            matrix.add(key, entry, vector)
        return matrix

    def _saved(self, namespace: str) -> Path | None:
        if self._path is None:
            return None
        digest = hashlib.blake2b(namespace.encode(), digest_size=8).hexdigest()
        return self._path.with_name(f"{self._path.name}.{digest}.usearch")

    def _key(self, namespace: str, entry: str) -> int | None:
        row = self._db.execute(
            "SELECT key FROM vectors WHERE namespace = ? AND entry = ?", (namespace, entry)
        ).fetchone()
        return None if row is None else int(row[0])

    def _name(self, shelf: "_Matrix | _Graph", key: int) -> str | None:
        """None: another process has taken it out."""
        if isinstance(shelf, _Matrix):
            return shelf.name(key)
        row = self._db.execute("SELECT entry FROM vectors WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])


class _Matrix:
    """Exact: all vectors in one matrix; a removed row is filled with the last. Above the limit a graph grows beside."""

    def __init__(self) -> None:
        self._data: Floats = np.empty((0, 0), dtype=np.float32)
        self._keys: list[int] = []
        self._at: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._graph: _Graph | None = None
        self._pending: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def width(self) -> int:
        """Numbers a vector; 0 while empty."""
        return self._data.shape[1] if self._keys else 0

    @property
    def closes(self) -> bool:
        """Nothing is lost if it is read again: no graph grows beside it."""
        return self._graph is None

    def holds(self, key: int) -> bool:
        return key in self._at

    def rows(self) -> Floats:
        return self._data[: len(self._keys)]

    def name(self, key: int) -> str:
        return self._names[key]

    def add(self, key: int, entry: str, unit: Floats) -> None:
        size = len(self._keys)
        if size == len(self._data) or self._data.shape[1] != len(unit):
            grown = np.empty((max(64, size * 2), len(unit)), dtype=np.float32)
            if size:
                grown[:size] = self._data[:size]
            self._data = grown
        self._data[size] = unit
        self._at[key] = size
        self._keys.append(key)
        self._names[key] = entry
        if self._graph is not None:
            self._pending.append(key)

    def remove(self, key: int) -> None:
        hole, last = self._at.pop(key), self._keys.pop()
        del self._names[key]
        if self._graph is not None:
            self._graph.remove(key)
        if last != key:
            self._data[hole] = self._data[len(self._keys)]
            self._keys[hole] = last
            self._at[last] = hole

    def move(self) -> "_Graph | None":
        """Take the next rows over into the graph; the graph once it holds all."""
        if self._graph is None:
            self._graph, self._pending = _Graph(_index(self.width)), deque(self._keys)
        for _ in range(min(_MOVED, len(self._pending))):
            key = self._pending.popleft()
            if (at := self._at.get(key)) is not None:
                self._graph.add(key, self._names[key], self._data[at])
        return None if self._pending else self._graph

    def nearest(self, unit: Floats, count: int) -> list[tuple[int, float]]:
        cosines = self.rows() @ unit
        if len(cosines) > count:
            chosen = np.argpartition(-cosines, count)[:count]
        else:
            chosen = np.arange(len(cosines))
        return [(self._keys[at], float(cosines[at])) for at in chosen]


class _Graph:
    """Approximate: a usearch graph over the rows' keys."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.width = int(index.ndim)

    @classmethod
    def mended(cls, saved: Path, keys: Sequence[int], vectors: Floats) -> "_Graph":
        """The saved graph, made to hold exactly these rows."""
        index = Index.restore(str(saved))
        if index is None or index.ndim != vectors.shape[1]:
            index = _index(vectors.shape[1])
        held: set[int] = set(np.asarray(index.keys).tolist())
        for key in held.difference(keys):
            index.remove(key)
        for key, vector in zip(keys, vectors, strict=True):
            if key not in held:
                index.add(key, vector, threads=1)
        return cls(index)

    def __len__(self) -> int:
        return len(self._index)

    def holds(self, key: int) -> bool:
        return key in self._index

    def add(self, key: int, entry: str, unit: Floats) -> None:
        self._index.add(key, unit, threads=1)

    def remove(self, key: int) -> None:
        self._index.remove(key)

    def nearest(self, unit: Floats, count: int) -> list[tuple[int, float]]:
        matches = self._index.search(unit, count * _SEARCH_MORE, threads=1)
        keys, distances = matches.keys[:count].tolist(), matches.distances[:count].tolist()
        return [(key, 1 - distance) for key, distance in zip(keys, distances, strict=True)]

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        self._index.save(str(partial))
        partial.replace(path)


def _index(width: int) -> Index:
    return Index(ndim=width, metric="cos", dtype="f32", expansion_search=96)


def _unit(vector: Vector) -> Floats:
    values: Floats = np.asarray(vector, dtype=np.float32)
    length = float(np.linalg.norm(values))
    if values.ndim != 1 or not np.isfinite(length) or not length:
        raise ValueError("a vector is one row of numbers, finite and not all zero")
    return values / np.float32(length)
