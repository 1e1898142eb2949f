"""Breakers: who is suspended, why and until when, with the button that lets him go on; one breaker's audit.

From the audit that the store's shared states keep, its last lines first. A breaker that is not there is Missing.
"""

from collections.abc import Iterable

from bursar.doors.dashboard.asked import LABELS, Asked
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.pages.runs import Missing
from bursar.doors.dashboard.view import Cell, Form, Table, View, rows_of
from bursar.insights import breakers
from bursar.insights.breakers import Seen
from bursar.policy import Policy
from bursar.rules.breaker.life import Change, State
from bursar.stores.base import Page, Store
from bursar.types import Instant

RESET = "/bursar/reset"
"""Where the button's form is sent: `id` of the breaker."""
_PAGE, _PAGES = 500, 4
"""Lines of the audit in which those that are not closed are looked for, the last written first."""
_AUDIT = 100
_DAY_US = 86_400_000_000
_FORGIVES = "A reset forgives what a ceiling has counted so far: as much again may be spent."
_LOOKS = {"open": "bad", "half_open": "warn", "closed": "good"}


def suspended(store: Store, asked: Asked) -> list[Seen]:
    """Breakers that are not closed, the last changed first, among the last lines of the audit."""
    found: list[Seen] = []
    page: Page[Seen] | None = None
    for _ in range(_PAGES):
        page = breakers.listed(store, asked.tenant, None, _PAGE, None if page is None else page.next_cursor)
        found += [seen for seen in page.items if seen.document.state.status != "closed"]
        if page.next_cursor is None:
            break
    return found


def shut_table(asked: Asked, shut: Iterable[Seen]) -> Table:
    """Who is suspended, why and until when, with the button that ends it."""
    return Table(
        title="Suspended by breakers",
        columns=("Breaker", "Whose", "State", "Since, UTC", "Until, UTC", "Why", ""),
        rows=rows_of(_breaker(asked, seen) for seen in shut),
        empty="Nobody is suspended.",
        note=f"{_FORGIVES} Looked for in the last {_PAGE * _PAGES:,} lines of the audit.",
    )


def _breaker(asked: Asked, seen: Seen) -> list[Cell]:
    told, state = seen.document, seen.document.state
    shut = state.status != "closed"
    form = Form(RESET, "Reset", f"{parts.plain(told.breaker)}, {_whose(seen)}", (("id", seen.id),))
    return [
        Cell(parts.plain(told.breaker), asked.link("breaker", id=seen.id)),
        Cell(_whose(seen), _rows(asked, seen)),
        Cell(state.status.replace("_", "-"), look=_LOOKS[state.status]),
        Cell("" if state.since is None else parts.minute(state.since)),
        Cell(_until(state, asked.now) if shut else ""),
        Cell(parts.plain(state.why), look="wrap"),
        Cell("", form=form) if shut else Cell(""),
    ]


def _until(state: State, now: Instant) -> str:
    """From when on a call is let through to see."""
    if state.status == "half_open":
        return "a call is let through"
    if state.until is None:
        return "a reset"
    return parts.minute(state.until) if state.until > now else "the next call"


def closed_table(store: Store, asked: Asked) -> Table:
    """Those that have tripped and are closed; `breakers=`: where the list goes on."""
    closed, older = parts.newest(
        asked, "breakers", lambda at: breakers.listed(store, asked.tenant, "closed", parts.MOST, at), _changed
    )
    return Table(
        title="Breakers that are closed again",
        columns=("Breaker", "Whose", "Closed, UTC", "By", "Why"),
        rows=rows_of(
            (
                Cell(parts.plain(seen.document.breaker), asked.link("breaker", id=seen.id)),
                Cell(_whose(seen), _rows(asked, seen)),
                *_change(seen.document.state.changed),
            )
            for seen in closed
        ),
        empty="None was closed in this period.",
        more=older,
    )


def _change(change: Change | None) -> list[Cell]:
    """When, by whom and why."""
    if change is None:
        return [Cell(""), Cell(""), Cell("")]
    who = change.by if change.who is None else f"{change.by}: {parts.plain(change.who)}"
    return [Cell(parts.minute(change.at)), Cell(who, look="wrap"), Cell(parts.plain(change.why), look="wrap")]


def _whose(seen: Seen) -> str:
    told = seen.document
    return told.scope if told.scope in ("tenant", "global") else f"{told.scope} {parts.plain(told.subject)}"


def _rows(asked: Asked, seen: Seen) -> str:
    """The rows of whoever is suspended, from the day before on."""
    told, state = seen.document, seen.document.state
    at = state.since or (None if state.changed is None else state.changed.at)
    labels = {told.scope: told.subject} if told.scope in LABELS else {}
    since = "all" if at is None else parts.stamp(at - _DAY_US)
    return asked.link("calls", **labels, tenant=seen.tenant or None, since=since, until=None)


def one(store: Store, policy: Policy, asked: Asked) -> View:
    """`id=`: how a breaker stands, and its audit. Raises Missing."""
    del policy
    told = asked.query.get("id", "")
    seen = breakers.find(store, told) if told else None
    if seen is None:
        raise Missing(f"no breaker {told!r:.120} has tripped: see the list of breakers")
    state, changes = seen.document.state, breakers.changes(store, seen, _AUDIT)
    stands = shut_table(asked, [seen])
    lead = "Closed: calls go." if state.status == "closed" else f"Tripped at {parts.plain(state.why)}."
    audit = Table(
        title="What became of it, the last first",
        columns=("Was", "Became", "At, UTC", "By", "Why"),
        rows=rows_of(
            (_status(change.before), _status(change.after), *_change(change)) for change in changes
        ),
        note=f"The last {_AUDIT}." if len(changes) == _AUDIT else "",
    )  # fmt: skip
    shown = Table(
        title="Where it stands", columns=stands.columns, rows=stands.rows,
        note="" if state.status == "closed" else _FORGIVES,
    )  # fmt: skip
    return View(title=f"Breaker {parts.plain(seen.document.breaker)}", lead=lead, parts=(shown, audit), timed=False)


def _status(status: str) -> Cell:
    return Cell(status.replace("_", "-"), look=_LOOKS[status])


def _changed(seen: Seen) -> int:
    change = seen.document.state.changed
    return 0 if change is None else change.at
