"""The shared states of Books: at once, under their lock. Nothing survives the process."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from bursar.stores.base import Clock, StoreFailure
from bursar.stores.pages import Page, page_of
from bursar.stores.receipt import Answer, Receipt, resolve
from bursar.stores.states import Change, Event, State, Updates
from bursar.stores.tables import Books
from bursar.types import Instant

T = TypeVar("T")


class MemoryStates:
    """See states.States."""

    def __init__(self, books: Books, clock: Clock, closed: Callable[[], bool]) -> None:
        self._books, self._clock, self._closed = books, clock, closed

    def get(self, kind: str, tenant: str, keys: Sequence[str]) -> dict[str, bytes]:
        with self._books.lock:
            found = [(key, self._books.states.get((kind, tenant, key))) for key in keys]
        return {key: state.body for key, state in found if state is not None}

    def update(self, kind: str, tenant: str, key: str, change: Change[T]) -> Receipt[T]:
        books = self._books
        receipt: Receipt[T] = Receipt(books.gate)
        told: Answer
        with books.lock:
            if self._closed():
                told = (receipt, None, StoreFailure("this store has been closed: open another"))
            else:
                updates = Updates(books.body, self._clock())
                told = updates.take((kind, tenant, key), change, receipt)
                books.keep(updates)
        resolve(books.gate, [told])
        return receipt

    def list(
        self, kind: str, tenant: str | None = None, prefix: str = "", limit: int = 100, cursor: str | None = None
    ) -> Page[State]:
        with self._books.lock:
            numbered = [
                (state.changed_at, at, state) for at, ((of, _, _), state) in enumerate(self._books.states.items(), 1)
                if of == kind and tenant in (None, state.tenant) and state.key.startswith(prefix)
            ]  # fmt: skip
        return page_of(numbered, limit, cursor)

    def log(
        self, kind: str, tenant: str | None = None, key: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Event]:
        with self._books.lock:
            numbered = [
                (Instant(0), at, event) for at, event in enumerate(self._books.events, 1)
                if event.kind == kind and tenant in (None, event.tenant) and key in (None, event.key)
            ]  # fmt: skip
        return page_of(numbered, limit, cursor)
