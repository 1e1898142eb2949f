"""Rows and stores for the tests of the ledger: what a call leaves behind, on whichever store is asked."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.stores.counters import Counters
from bursar.stores.memory import MemoryStore
from bursar.stores.migrate import config
from bursar.stores.sqlite import SqliteStore, connect
from bursar.stores.tables import Books
from bursar.types import Ask, Claim, Entry, Hold, Instant, Refused

AnyStore = MemoryStore | SqliteStore
NOON = Instant(1_764_000_000_000_000)
"""2025-11-24T16:00:00Z"""
MINUTE = 60_000_000
HOUR = 60 * MINUTE


class Watch:
    """A clock that stands still until it is told."""

    def __init__(self, now: Instant = NOON) -> None:
        self.now = now

    def __call__(self) -> Instant:
        return self.now

    def forward(self, micros: int) -> None:
        self.now = Instant(self.now + micros)


def claim(budget: str = "b", scope: Any = "user", key: str = "u", **terms: Any) -> Claim:
    """On a tenant's budget of 1,000 nano-dollars, with no patience."""
    given = {"tenant": "" if scope == "global" else "default", "limit_nanos": 1_000, "patience_ms": 0}
    return Claim(**{"budget": budget, "scope": scope, "key": key, **given, **terms})


def ask(*claims: Claim, output: int | None = 100, **changes: Any) -> Ask:
    """Ten tokens in and so many out, at a nano-dollar each; the limit is the caller's own and not to be lowered."""
    given: dict[str, Any] = {
        "input_tokens": 10, "input_cost": 10_000_000, "likely_tokens": 5, "likely_cost": 5_000_000,
        "output_rate": 1_000_000, "stated": output, "wanted": output, "floor": output or 1,
    }  # fmt: skip
    return Ask(claims=claims, **{**given, **changes})


def held(store: "AnyStore", opening: Entry, asked: Ask) -> Hold:
    """Reserve, and be granted."""
    hold = store.reserve(opening, asked).result(10)
    assert isinstance(hold, Hold), hold
    return hold


def refused(store: "AnyStore", opening: Entry, asked: Ask) -> Refused:
    """Reserve, and be refused."""
    answer = store.reserve(opening, asked).result(10)
    assert isinstance(answer, Refused), answer
    return answer


def stands(store: "AnyStore", of: Claim) -> tuple[int, int, int, int]:
    """A counter's settled and held nano-dollars, settled and held tokens."""
    (counter,) = store.balances((of,))
    balance = counter.balance
    return balance.settled_nanos, balance.held_nanos, balance.settled_tokens, balance.held_tokens


def row(request_id: str, attempt: int = 1, **changes: Any) -> Entry:
    """An open row."""
    given: dict[str, Any] = {
        "request_id": request_id, "attempt": attempt, "run_id": None, "parent_run_id": None, "session_id": None,
        "user_id": None, "user_tier": None, "agent_id": None, "step": None, "tenant": "default", "tags": (),
        "key_id": None, "started_at": NOON, "api": "chat", "provider": "openai", "requested_model": "gpt-4o",
        "model": "gpt-4o", "tier": None, "route_reason": "caller", "stream": False, "hold_nanos": 5_000,
        "input_estimate": 100, "blocks": b"\x01\x02",
    }  # fmt: skip
    return Entry(**{**given, **changes})


def done(opening: Entry, **changes: Any) -> Entry:
    """The same row, completed."""
    given: dict[str, Any] = {
        "status": "completed", "http_status": 200, "duration_ms": 900, "first_byte_ms": 100, "input_tokens": 120,
        "output_tokens": 30, "cached_tokens": 20, "usage": '{"prompt_tokens":120}', "cost_nanos": 1_000,
        "cost_status": "final", "price_id": "card", "output_estimate": 15,
    }  # fmt: skip
    return msgspec.structs.replace(opening, **{**given, **changes})


def live(
    store: AnyStore, request: str, attempt: int = 1, outcome: dict[str, Any] | None = None, **labels: Any
) -> Entry:
    """Reserve and settle."""
    opening = row(request, attempt, **labels)
    hold = store.reserve(opening).result(10)
    assert isinstance(hold, Hold)
    closed = done(opening, **(outcome or {}))
    store.settle(hold, closed).result(10)
    return closed


def total(store: AnyStore) -> Counters:
    lines = store.spend("total")
    return lines[0].counts if lines else Counters()


def in_child(work: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> int:
    """Fork, do the work there, and say how it ended: 0, 1 where it raised, a negative signal where it hung."""
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    meanwhile()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger, migrated once."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    SqliteStore(path).close()
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A fresh, empty ledger."""
    return Path(shutil.copy(template, tmp_path / "ledger.db"))


def aged(path: Path, revision: str) -> None:
    """Make a ledger anew as it stood at an older revision: what the tables had then, and quarters of an hour alone."""
    from alembic import command
    from sqlalchemy import create_engine, pool

    newer = path.rename(path.with_name("newer.db"))
    db = connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    engine = create_engine("sqlite://", creator=lambda: db, poolclass=pool.StaticPool)
    with engine.connect() as bound:
        db.execute("BEGIN IMMEDIATE")
        command.upgrade(config(bound), revision)
    db.execute("ATTACH ? AS newer", (str(newer),))
    for (table,) in db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
        if table == "alembic_version":
            continue
        had = [name for _, name, *_ in db.execute(f"PRAGMA main.table_info({table})")]
        has = {name for _, name, *_ in db.execute(f"PRAGMA newer.table_info({table})")}
        kept = ", ".join(name for name in had if name in has)
        finest = " WHERE grain = 15" if "grain" in has - set(had) else ""
        db.execute(f"INSERT OR REPLACE INTO main.{table} ({kept}) SELECT {kept} FROM newer.{table}{finest}")
    db.close()
    newer.unlink()


class Opener:
    """Opens stores, as many processes would, on the same books and by the same watch."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path, self.watch = kind, path, Watch()
        self.books, self.stores = Books(), list[AnyStore]()

    def __call__(self) -> AnyStore:
        memory = self.kind == "memory"
        self.stores.append(MemoryStore(self.books, self.watch) if memory else SqliteStore(self.path, clock=self.watch))
        return self.stores[-1]


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, path: Path) -> Iterator[Opener]:
    opener = Opener(request.param, path)
    yield opener
    for store in opener.stores:
        store.close()


@pytest.fixture
def watch(opened: Opener) -> Watch:
    """What all stores of a test go by."""
    return opened.watch


@pytest.fixture
def store(opened: Opener) -> AnyStore:
    return opened()
