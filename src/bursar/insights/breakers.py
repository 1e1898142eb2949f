"""The breakers that have tripped, for people and machines: read from their audit and their states.

ValueError for a foreign cursor; StoreFailure where the store cannot be read.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bursar.drivers.breakers import KIND, Document, Line, read
from bursar.insights.rows import iso
from bursar.rules.breaker.life import Change, Status
from bursar.stores.base import Page, Store
from bursar.stores.states import Event
from bursar.types import Instant


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A breaker that has tripped at some time, as it stands."""

    id: str
    tenant: str
    """"" for the scope global."""
    document: Document


def listed(
    store: Store, tenant: str | None = None, status: Status | None = None, limit: int = 100, cursor: str | None = None
) -> Page[Seen]:
    """Every breaker that has ever tripped, the last changed first. A page may be shorter than its limit."""
    while True:
        page = store.states.log(KIND, tenant, None, limit, cursor)
        found = [seen for seen in _current(store, page.items) if status in (None, seen.document.state.status)]
        cursor = page.next_cursor
        if cursor is None or found:
            return Page(tuple(found), cursor)


def find(store: Store, id: str) -> Seen | None:
    """The breaker of this id; None: none that has tripped is called so."""
    events = store.states.log(KIND, None, id, 1).items
    return next(_current(store, events), None)


def changes(store: Store, seen: Seen, limit: int = 100) -> list[Change]:
    """What became of a breaker, the last change first."""
    told = (_change(event) for event in store.states.log(KIND, seen.tenant, seen.id, limit).items)
    return [change for change in told if change is not None]


def as_json(seen: Seen) -> dict[str, Any]:
    """One breaker: who is suspended (scope and key), why, and until when; null: not before a reset, or not open."""
    told, state = seen.document, seen.document.state
    return {
        "id": seen.id, "breaker": told.breaker, "scope": told.scope, "key": told.subject, "tenant": seen.tenant or None,
        "status": state.status, "why": state.why or None, "since": _iso(state.since),
        "opened_at": _iso(state.opened_at), "until": _iso(state.until), "failed_probes": state.failed_probes,
        "last_change": None if state.changed is None else change_as_json(state.changed),
    }  # fmt: skip


def change_as_json(change: Change) -> dict[str, Any]:
    """A line of the audit: at, before, after, by (rule, probe or hand), who, why."""
    return {"at": iso(change.at), **{name: getattr(change, name) for name in ("before", "after", "by", "who", "why")}}


def _current(store: Store, events: Sequence[Event]) -> Iterator[Seen]:
    """The breakers of which these lines are the last that was said."""
    bodies: dict[tuple[str, str], bytes] = {}
    for tenant in dict.fromkeys(event.tenant for event in events):
        keys = [event.key for event in events if event.tenant == tenant]
        bodies |= {(tenant, key): body for key, body in store.states.get(KIND, tenant, keys).items()}
    for event in events:
        body = bodies.get((event.tenant, event.key))
        document = None if body is None else read(body)
        if document is not None and document.state.changed == _change(event):
            yield Seen(id=event.key, tenant=event.tenant, document=document)


def _change(event: Event) -> Change | None:
    """None: a line that another version wrote."""
    try:
        return _line.decode(event.body).change
    except msgspec.MsgspecError:
        return None


def _iso(at: Instant | None) -> str | None:
    return None if at is None else iso(at)


_line = msgspec.json.Decoder(Line)
