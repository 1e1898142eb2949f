"""`bursar breakers`: who is suspended, why and until when; `bursar breakers reset ID` lets them go on."""

import getpass
import os
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console

from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Misuse, Tenant, ledger, say, say_json, working
from bursar.drivers import breakers as driver
from bursar.insights import breakers as insight
from bursar.insights.breakers import Seen
from bursar.stores.base import Page

app = App(
    name="breakers", help="Who is suspended, why and until when; reset.", help_epilogue="Example: bursar breakers"
)

_MOST = 1000


@app.default
def breakers(
    *,
    status: Annotated[
        Literal["open", "half_open", "closed"] | None, Parameter(help="Only those that stand so; default all.")
    ] = None,
    tenant: Tenant = None,
    limit: Annotated[int, Parameter(help=f"How many lines of the audit to look at, 1 to {_MOST}.")] = 50,
    cursor: Annotated[str | None, Parameter(help="Where the last page ended.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Every breaker that has ever tripped, the last changed first."""
    if not 1 <= limit <= _MOST:
        raise Misuse(f"--limit {limit}: expected 1 to {_MOST}")
    with ledger(config) as (_, store), working("reading the breakers"):
        try:
            page = insight.listed(store, tenant, status, limit, cursor)
        except ValueError as fault:
            raise Misuse(f"--cursor: {fault}") from None
    if as_json:
        say_json({"items": [insight.as_json(one) for one in page.items], "next_cursor": page.next_cursor})
    else:
        _print(page, tables.console())


@app.command(help_epilogue="Example: bursar breakers reset 0123456789abcdef01234567")
def reset(breaker_id: str, /, *, as_json: Json = False, config: Config = None) -> int:
    """Close a breaker by hand; the audit says who. Exit code 1 where it was closed already.

    What its ceiling has counted so far is forgiven: as much again may be spent.

    Parameters
    ----------
    breaker_id
        As `bursar breakers` shows it.
    """
    with ledger(config) as (_, store):
        seen = insight.find(store, breaker_id)
        if seen is None:
            raise Misuse(f"no breaker {breaker_id!r:.120} has tripped: see `bursar breakers`")
        done = driver.reset(store, seen.tenant, seen.id, f"{_user()} on the command line")
        now = insight.find(store, breaker_id) or seen
    whose = f"{tables.plain(now.document.breaker)} ({_whose(now)})"
    if as_json:
        say_json({"reset": done, "breaker": insight.as_json(now)})
    else:
        say(f"{whose} is closed." if done else f"{whose} was closed already.")
    return 0 if done else 1


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def _whose(seen: Seen) -> str:
    """ "session s7", and of which tenant where that is not the usual one."""
    told = seen.document
    own = told.scope if told.scope in ("tenant", "global") else f"{told.scope} {tables.plain(told.subject)}"
    return own if seen.tenant in ("", "default") else f"{own} of {tables.plain(seen.tenant)}"


def _print(page: Page[Seen], out: Console) -> None:
    if not page.items:
        out.print("No breaker has tripped: [[breakers]] says what makes one.", markup=False)
        return
    table = tables.grid("", "breaker", "whose", "state", "why", "since", "until", "id", left=6)
    for seen in page.items:
        told, state = seen.document, seen.document.state
        last = state.changed
        shut = state.status != "closed"
        until = ("a reset" if state.until is None else tables.when(state.until)) if shut else ""
        since = state.since if shut else None if last is None else last.at
        why = state.why if shut or last is None else last.why
        cells = (told.breaker, _whose(seen), state.status, why, "" if since is None else tables.when(since), until)
        table.add_row(*map(tables.plain, cells), seen.id)
    tables.fit(out, table, "since", "why", "until")
    if page.next_cursor is not None:
        out.print(f"More: --cursor {page.next_cursor}")
