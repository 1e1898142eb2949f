"""Rows and stores for the tests of the ledger: what a call leaves behind, on whichever store is asked."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.stores.counters import Counters
from bursar.stores.memory import Books, MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry, Hold, Instant

AnyStore = MemoryStore | SqliteStore
NOON = Instant(1_764_000_000_000_000)
"""2025-11-24T16:00:00Z"""
MINUTE = 60_000_000


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


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, path: Path) -> Iterator[Callable[[], AnyStore]]:
    """Opens stores, as many processes would, on the same books."""
    books, stores = Books(), list[AnyStore]()

    def another() -> AnyStore:
        stores.append(MemoryStore(books) if request.param == "memory" else SqliteStore(path))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[], AnyStore]) -> AnyStore:
    return opened()
