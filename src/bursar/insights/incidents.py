"""Alerts for whoever looks: incidents that are open, those that are over, and what became of their messages.

From the store's shared states and their log alone. Raises StoreFailure, and ValueError for a foreign cursor.
"""

from typing import Any

import msgspec

from bursar.insights import rows
from bursar.rules.alarm import Incident, Message, case, wording
from bursar.stores.base import Page, Store
from bursar.stores.states import Event

_PAGE = 500


def running(store: Store) -> list[dict[str, Any]]:
    """Open incidents, the last opened first: {"incident", "alert", "subject", "status", "severity", "since",
    "opened_at", "resolved_at", "value", "limit", "peak", "unit", "why", "messages"}. Units as wording.as_json has them.
    """
    found: list[tuple[Incident, str]] = []
    page: Page[Any] | None = None
    while page is None or page.next_cursor is not None:
        page = store.states.list(case.KIND, "", limit=_PAGE, cursor=None if page is None else page.next_cursor)
        kept = (case.read(state.body) for state in page.items)
        found += [(one.incident, one.severity) for one in kept if one.incident and one.incident.status == "open"]
    found.sort(key=lambda item: (-(item[0].opened_at or 0), item[0].id))
    return [_running(incident, severity) for incident, severity in found]


def past(store: Store, limit: int = 100, cursor: str | None = None) -> Page[dict[str, Any]]:
    """Incidents that are over, the last first: the same members. A page may hold fewer than there are left."""
    while True:
        page = store.states.log(case.KIND, "", limit=limit, cursor=cursor)
        messages = [one for event in page.items if (one := _message(event)) is not None and one.kind == "resolve"]
        if messages or page.next_cursor is None:
            return Page(tuple(_past(one) for one in messages), page.next_cursor)
        cursor = page.next_cursor


def deliveries(store: Store, limit: int = 100, cursor: str | None = None) -> Page[dict[str, Any]]:
    """Every delivery that was tried, the last first: {"id", "target", "messages", "at", "status", "attempts",
    "error"}."""
    page = store.states.log(case.DELIVERIES, "", limit=limit, cursor=cursor)
    told = [msgspec.json.decode(event.body, type=dict[str, Any]) for event in page.items]
    return Page(tuple({**one, "at": rows.iso(one["at"])} for one in told), page.next_cursor)


def delivery(one: msgspec.Struct) -> dict[str, Any]:
    """The same of one drivers.notify.Delivery."""
    told = msgspec.structs.asdict(one)
    return {**told, "at": rows.iso(told["at"])}


def _message(event: Event) -> Message | None:
    """None: another version wrote it."""
    try:
        return msgspec.json.decode(event.body, type=Message)
    except msgspec.MsgspecError:
        return None


def _running(one: Incident, severity: str) -> dict[str, Any]:
    opened = None if one.opened_at is None else rows.iso(one.opened_at)
    return {"incident": one.id, **_common(one), "status": one.status, "severity": severity, "opened_at": opened,
            "messages": one.messages}  # fmt: skip


def _past(one: Message) -> dict[str, Any]:
    return {"incident": one.incident, **_common(one), "status": "resolved", "severity": one.severity, "opened_at": None,
            "messages": one.number}  # fmt: skip


def _common(one: Incident | Message) -> dict[str, Any]:
    return {
        "alert": one.rule,
        "subject": one.subject or None,
        "since": rows.iso(one.since),
        "resolved_at": None if one.resolved_at is None else rows.iso(one.resolved_at),
        **wording.measures(one),
        "why": one.why,
    }
