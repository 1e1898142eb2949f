"""Small documents that all processes share and that outlive them, and a log of what became of them.

What is learned and watched beside the books (routes, breakers, incidents, deliveries) is JSON under a kind, a tenant
and a key. A change reads and writes its document in one atomic step, in its turn among all processes: none is lost to
another. It is knowledge, not money: what the disk refuses is lost, logged once a minute and said on the receipt
(StoreFailure), never journalled.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from bursar.stores.pages import Page
from bursar.stores.receipt import Answer, Receipt
from bursar.types import Instant

T = TypeVar("T")

At: TypeAlias = tuple[str, str, str]
"""kind, tenant, key"""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A document as it stands."""

    tenant: str
    key: str
    body: bytes
    changed_at: Instant


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a log: never changed. `at` is the store's clock in the step that wrote it."""

    kind: str
    tenant: str
    key: str
    body: bytes
    at: Instant


class Changed(msgspec.Struct, Generic[T], frozen=True):
    """What a change comes to: the new document, an answer for whoever asked, lines for the log.

    body: None deletes the document, or leaves it absent; one equal to what was found is no change, and leaves
    `changed_at` alone. events: bodies of the lines, in order, under the document's own kind, tenant and key.
    """

    body: bytes | None
    result: T
    events: tuple[bytes, ...] = ()


Change: TypeAlias = Callable[[bytes | None, Instant], Changed[T]]
"""From the document (None: there is none) and the store's clock to what becomes of it."""


class States(Protocol):
    """Thread-safe. get, list and log raise StoreFailure where the store cannot be read."""

    def get(self, kind: str, tenant: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Those of the documents that there are, by key: as last committed, behind nothing that is under way.

        One short query, fit for the path of every call.
        """

    def update(self, kind: str, tenant: str, key: str, change: Change[T]) -> Receipt[T]:
        """Change a document atomically; resolved with the change's result once that is committed.

        Returns at once. Changes of one process are made in the order of their submission; what nobody waits for may
        gather for ten milliseconds. `change` runs in the writer's step, which all wait for: it must be quick, ask no
        store anything, and do nothing else, for it is called again where the step has to be repeated. What it raises
        is raised by the receipt, and neither document nor log is touched; StoreFailure where it could not be written.
        """

    def list(
        self, kind: str, tenant: str | None = None, prefix: str = "", limit: int = 100, cursor: str | None = None
    ) -> Page[State]:
        """Documents whose key begins so, the last changed first. Waits for what this process has submitted."""

    def log(
        self, kind: str, tenant: str | None = None, key: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Event]:
        """Lines of the log, the last written first. Waits for what this process has submitted."""


class Updates:
    """The documents as one transaction finds and changes them. Pure; both stores run on it."""

    __slots__ = ("_now", "_read", "_seen", "changed", "events")

    def __init__(self, read: Callable[[At], bytes | None], now: Instant) -> None:
        self._read, self._now = read, now
        self._seen: dict[At, bytes | None] = {}
        self.changed: dict[At, State | None] = {}
        """Documents as they will stand once this is committed; None: gone."""
        self.events: list[Event] = []

    def take(self, at: At, change: Change[Any], receipt: Receipt[Any]) -> Answer:
        """Work one change in; its answer, should the transaction be committed."""
        if at not in self._seen:
            self._seen[at] = self._read(at)
        kind, tenant, key = at
        try:
            made = change(self._seen[at], self._now)
            body, result = made.body, made.result
            events = [Event(kind=kind, tenant=tenant, key=key, body=bytes(each), at=self._now) for each in made.events]
        except BaseException as fault:  # noqa: BLE001 - a stranger's code in the writer's thread: his receipt has it
            return receipt, None, fault
        if body != self._seen[at]:
            state = None if body is None else State(tenant=tenant, key=key, body=body, changed_at=self._now)
            self._seen[at], self.changed[at] = body, state
        self.events += events
        return receipt, result, None
