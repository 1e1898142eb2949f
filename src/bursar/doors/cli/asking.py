"""Questions to the ledger: report, runs, run, verify; and `price`, which asks the price book alone."""

import io
import json
import sys
import time
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cyclopts import Parameter

from bursar.config import load
from bursar.doors.cli import callmap as maps
from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Misuse, Since, Tenant, Until, ledger, moment, say, say_json, working
from bursar.doors.open import make_policy
from bursar.doors.price_cli import price_lines
from bursar.doors.semantic import learned
from bursar.insights import callmap, rows
from bursar.insights import report as reports
from bursar.stores.base import Filters
from bursar.types import Instant

_MOST = 1000


def report(
    *,
    by: Annotated[
        str,
        Parameter(help="agent, step, user, user_tier, session, model, tier, provider, api, cache, tag:K, day, hour."),
    ] = "agent",
    since: Since = None,
    until: Until = None,
    agent: Annotated[str | None, Parameter(help="The table of this agent alone.")] = None,
    tenant: Tenant = None,
    tz: Annotated[str, Parameter(help="The time zone of days and hours, such as Europe/Berlin.")] = "UTC",
    as_json: Json = False,
    csv: Annotated[bool, Parameter(help="The table alone, as CSV.")] = False,
    chart: Annotated[Path | None, Parameter(help="Draw the table into this file too: FILE.svg or FILE.png.")] = None,
    config: Config = None,
) -> None:
    """The four metrics and a table."""
    if as_json and csv:
        raise Misuse("--json and --csv: give one of them")
    try:
        ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Misuse(f"--tz: expected a time zone such as Europe/Berlin, got {tz!r:.80}") from None
    start, end = moment(since), moment(until)
    with ledger(config) as (settings, store), working("adding up"):
        try:
            found = reports.build(
                store, by=by, since=start, until=end, tenant=tenant, agent=agent, zone=tz,
                tiers=tuple(settings.tiers), steps=make_policy(settings).steps,
                pools=learned(store),
            )  # fmt: skip
        except ValueError as fault:
            raise Misuse(str(fault)) from None
    if chart is not None:
        from bursar.doors.cli.chart import write

        write(found, chart)
    if as_json:
        say_json(reports.as_json(found))
    elif csv:
        sys.stdout.write(reports.as_csv(found))
    else:
        tables.print_report(found, tables.console())


def runs(
    *,
    agent: Annotated[str | None, Parameter(help="Of this agent alone.")] = None,
    user: Annotated[str | None, Parameter(help="Of this user alone.")] = None,
    session: Annotated[str | None, Parameter(help="Of this session alone.")] = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    limit: Annotated[int, Parameter(help=f"How many, 1 to {_MOST}.")] = 50,
    cursor: Annotated[str | None, Parameter(help="Where the last page ended.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """The runs, newest first."""
    if not 1 <= limit <= _MOST:
        raise Misuse(f"--limit {limit}: expected 1 to {_MOST}")
    filters = Filters(
        tenant=tenant, agent_id=agent, user_id=user, session_id=session, since=moment(since), until=moment(until)
    )
    with ledger(config) as (_, store), working("reading the ledger"):
        try:
            page = store.runs(filters, limit, cursor)
        except ValueError as fault:
            raise Misuse(f"--cursor: {fault}") from None
    if as_json:
        say_json({"items": [rows.run(item) for item in page.items], "next_cursor": page.next_cursor})
    else:
        tables.print_runs(page, tables.console())


def run(
    run_id: str,
    /,
    *,
    why: Annotated[bool, Parameter(help="Each decision on a line of its own, with all that it went by.")] = False,
    tenant: Tenant = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """One run's call map: every attempt, in order, with those of the runs nested in it, and what was decided for it.

    Parameters
    ----------
    run_id
        As `bursar runs` lists it.
    """
    with ledger(config) as (_, store), working("reading the ledger"):
        entries = store.run(run_id, tenant)
        tenants = sorted({entry.tenant for entry in entries})
        if not entries:
            raise Misuse(f"no run {run_id!r:.220} is in the ledger: see `bursar runs`")
        if len(tenants) > 1:
            raise Misuse(f"{', '.join(tenants)} each have a run {run_id!r:.220}: say which by --tenant")
        total = store.run_total(run_id, tenants[0])
    if as_json:
        say_json(callmap.as_json(run_id, total, entries))
    else:
        maps.print_run(run_id, total, callmap.grow(run_id, entries), tables.console(), full=why)


def verify(*, as_json: Json = False, config: Config = None) -> int:
    """Audit the ledger against itself: sums, runs, holds, orphans. Exit code 1 where something does not match."""
    with ledger(config) as (_, store), working("reading the whole ledger"):
        findings = store.verify()
    if as_json:
        told = [{name: getattr(found, name) for name in found.__struct_fields__} for found in findings]
        say_json({"ok": not findings, "findings": told})
    elif findings:
        for found in findings:
            say(f"{found.what}: expected {found.expected}, found {found.found}. {found.cure}")
    else:
        say("The ledger holds: every sum, run and rollup is what its rows add up to.")
    return 1 if findings else 0


def price(*, as_json: Json = False, config: Config = None) -> None:
    """Price usage objects: JSON lines {"id", "api", "model", "usage", "ctx"} in, {"id", "usd", "status"} out."""
    del as_json  # the answer is JSON lines either way
    prices = make_policy(load(config)).prices
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    if sys.stdin.isatty():
        sys.stderr.write("bursar: reading JSON lines from the terminal; end with Ctrl-D\n")
    with working("reading the price tables"):
        answers = price_lines(sys.stdin, prices, Instant(time.time_ns() // 1000))
        first = next(answers, None)
    if first is not None:
        say(json.dumps(first))
    for answer in answers:
        say(json.dumps(answer))
