"""Stores: where the books are kept. `open_store` picks one by its URL."""

from bursar.stores.base import Store, StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore

__all__ = ["Store", "StoreFailure", "open_store"]


def open_store(url: str) -> Store:
    """`sqlite:///relative/path.db`, `sqlite:////absolute/path.db` or `memory://`. StoreFailure where it cannot be."""
    if url == "memory://":
        return MemoryStore()
    scheme, _, path = url.partition(":///")
    if scheme != "sqlite" or not path:
        raise StoreFailure(f"store.url = {url!r} is not known: give sqlite:///file.db or memory://")
    return SqliteStore(path)
