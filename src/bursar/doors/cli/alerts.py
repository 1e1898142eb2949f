"""`bursar alerts`: incidents that are open, or over; what became of their messages; a test of every target; the key
that webhooks are signed with."""

import asyncio
import base64
import secrets
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any

from cyclopts import App, Parameter

from bursar.config import Settings, load
from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Misuse, ledger, say, say_json, working
from bursar.insights import incidents
from bursar.policy import Alert

app = App(
    name="alerts",
    help="Incidents, open and past; a test of every target.",
    help_epilogue="Example: bursar alerts --all",
)

_MOST = 1000
Limit = Annotated[int, Parameter(help=f"How many that are over, 1 to {_MOST}.")]
Cursor = Annotated[str | None, Parameter(help="Where the last page ended.")]


@app.default
def alerts(
    *,
    everything: Annotated[bool, Parameter(name="--all", help="Those that are over too, the last first.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """The open incidents."""
    _check(limit)
    with ledger(config) as (settings, store), working("reading the ledger"):
        items = [] if cursor else incidents.running(store)
        after = None
        if everything or cursor:
            try:
                page = incidents.past(store, limit, cursor)
            except ValueError as fault:
                raise Misuse(f"--cursor: {fault}") from None
            items, after = [*items, *page.items], page.next_cursor
    if as_json:
        say_json({"items": items, "next_cursor": after})
    elif not items:
        say("No incident is open." if not everything else "There has been no incident.")
        say(_watched(settings))
    else:
        _print(items)
        if after is not None:
            say(f"More: --cursor {after}")


@app.command(help_epilogue="Example: bursar alerts deliveries --json")
def deliveries(*, limit: Limit = 50, cursor: Cursor = None, as_json: Json = False, config: Config = None) -> None:
    """What became of every message at every target, the last first."""
    _check(limit)
    with ledger(config) as (_, store), working("reading the ledger"):
        try:
            page = incidents.deliveries(store, limit, cursor)
        except ValueError as fault:
            raise Misuse(f"--cursor: {fault}") from None
    if as_json:
        say_json({"items": list(page.items), "next_cursor": page.next_cursor})
    elif not page.items:
        say("Nothing has been sent.")
    else:
        _print_deliveries(page.items)


@app.command(help_epilogue="Example: bursar alerts test 'daily spike'")
def test(name: str | None = None, /, *, as_json: Json = False, config: Config = None) -> int:
    """Send a test message to every target. Exit code 1 where one did not take it.

    Parameters
    ----------
    name
        The targets of this alert alone.
    """
    from bursar.doors import alerting
    from bursar.doors.open import open_books

    books = open_books(load(config))
    with closing(books.store) as store:
        wanted = _named(books.policy.alerts, name)
        told = alerting.targets(wanted, books.secret(alerting.PURPOSE))
        sent = asyncio.run(alerting.test(store, told, secrets.token_hex(8)))
    if not sent:
        raise Misuse("no alert tells anybody: give [[alerts]] or [alerting] notify = [URL] or notify_env = [VARIABLE]")
    items = [incidents.delivery(one) for one in sent]
    if as_json:
        say_json({"items": items})
    else:
        _print_deliveries(items)
    return 0 if all(one.status == "delivered" for one in sent) else 1


@app.command(help_epilogue="Example: bursar alerts key --json")
def key(*, as_json: Json = False, config: Config = None) -> None:
    """The key that webhooks are signed with, for their receiver: a secret."""
    from bursar.doors import alerting
    from bursar.doors.open import open_books

    books = open_books(load(config))
    with closing(books.store):
        found = books.secret(alerting.PURPOSE)
    told = {"key_id": alerting.key_id(found), "key": base64.b64encode(found).decode()}
    if as_json:
        say_json(told)
    else:
        say(f"{told['key_id']} {told['key']}")


def _named(alerts: Sequence[Alert], name: str | None) -> list[Alert]:
    wanted = [one for one in alerts if name in (None, one.rule.name)]
    if name is not None and not wanted:
        known = ", ".join(one.rule.name for one in alerts) or "none"
        raise Misuse(f"no alert {name!r:.120} is configured: there is {known}")
    return wanted


def _watched(settings: Settings) -> str:
    from bursar.doors.open import make_policy

    return f"{len(make_policy(settings).alerts)} alerts are watched; `bursar alerts test` shows whom they reach."


def _check(limit: int) -> None:
    if not 1 <= limit <= _MOST:
        raise Misuse(f"--limit {limit}: expected 1 to {_MOST}")


def _print(items: Sequence[dict[str, Any]]) -> None:
    table = tables.grid("", "alert", "subject", "status", "severity", "since", "why", left=7)
    for one in items:
        status = one["status"] if one["resolved_at"] is None else f"over at {_short(one['resolved_at'])}"
        subject = tables.plain(one["subject"]) if one["subject"] else "-"
        table.add_row(
            tables.plain(one["alert"]), subject, status, one["severity"], _short(one["since"]), tables.plain(one["why"])
        )
    tables.fit(tables.console(), table, "severity", "status")


def _print_deliveries(items: Sequence[dict[str, Any]]) -> None:
    table = tables.grid("", "target", "status", "at", "messages", "attempts", "error", left=4)
    for one in items:
        numbers = (f"{len(one['messages'])}", f"{one['attempts']}")
        table.add_row(tables.plain(one["target"]), one["status"], _short(one["at"]), *numbers, one["error"] or "-")
    tables.fit(tables.console(), table, "attempts")


def _short(at: str) -> str:
    return at[:16].replace("T", " ")
