"""The overview: what is open, what was spent and on whom, against the period before; what needs a look.

From rollups, budgets and the shared states alone, never from rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bursar.doors.dashboard.asked import Asked
from bursar.doors.dashboard.pages import alerts, breakers, parts
from bursar.doors.dashboard.pages.budgets import near
from bursar.doors.dashboard.view import Part, Table, Tile, View
from bursar.insights import incidents
from bursar.insights import report as reports
from bursar.insights.breakers import Seen
from bursar.insights.hits import share as saved
from bursar.policy import Policy
from bursar.stores.base import Counters, Filters, Line, Store

_TOP = 8
_URGENT = 5
_MANY = 10
"""From so many times the period before on, percents say little."""


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """Ask the ledger."""
    since, until = asked.filters.since, asked.filters.until
    told = reports.build(
        store, by="step", since=since, until=until, tenant=asked.tenant, zone=asked.zone, tiers=tuple(policy.tiers),
        steps=policy.steps,
    )  # fmt: skip
    empty = parts.nothing_yet(store, asked, told.total)
    running, shut = incidents.running(store), breakers.suspended(store, asked)
    shown: list[Part] = [*_urgent(policy, asked, running, shut), *([] if empty is None else [empty])]
    close = near(store, asked)
    if empty is None:
        agents = [Line(key, counts) for key, counts in told.agents.items()]
        shown += parts.notes("What the numbers say", *(remark.text for remark in told.remarks))
        shown.append(parts.over_time(store, asked, "Spend by model", models=told.metrics.models))
    shown += [close] if close is not None else []
    if empty is None:
        shown.append(parts.lines_table(asked, "Dearest agents", "agent", agents[:_TOP], told.total))
        shown.append(parts.lines_table(asked, "Dearest steps", "step", told.lines[:_TOP], told.total))
    tiles = (*_tiles(store, asked, told), _alarm(asked, running, shut))
    return View(title="Overview", tiles=tiles, parts=tuple(shown), live=True)


def _urgent(policy: Policy, asked: Asked, running: Sequence[dict[str, Any]], shut: Sequence[Seen]) -> Iterator[Table]:
    """What somebody has to look at now."""
    if running:
        table, rest = alerts.open_table(policy, asked, running[:_URGENT]), len(running) - _URGENT
        yield _with_more(table, asked, f"All alerts, {rest:,} more of them open" if rest > 0 else "All alerts")
    if shut:
        table, rest = breakers.shut_table(asked, shut[:_URGENT]), len(shut) - _URGENT
        yield _with_more(table, asked, f"All breakers, {rest:,} more of them open" if rest > 0 else "All breakers")


def _with_more(table: Table, asked: Asked, text: str) -> Table:
    return msgspec.structs.replace(table, more=(text, asked.link("alerts")))


def _alarm(asked: Asked, running: Sequence[dict[str, Any]], shut: Sequence[Seen]) -> Tile:
    note = f"{len(shut):,} suspended by breakers" if shut else "nobody is suspended"
    return Tile("Open alerts", f"{len(running):,}", note, asked.link("alerts"), look="bad" if running or shut else "")


def _tiles(store: Store, asked: Asked, told: reports.Report) -> tuple[Tile, ...]:
    total, metrics, runs = told.total, told.metrics, told.metrics.runs
    day = _sum(store.spend("total", asked.today(), None, Filters(tenant=asked.tenant)))
    hits = f"{total.hits:,} of {total.calls:,} calls" if total.calls else "no calls"
    mean = parts.bound(metrics.cost_per_user_nanos, total.unpriced) if metrics.users else "unknown"
    quantiles = f"p50 {parts.dollars(runs.p50_nanos)}, p99 {parts.dollars(runs.p99_nanos)}" if runs.runs else "no runs"
    part = saved(total, total)
    return (
        Tile("Spend today", parts.cost(day), f"{day.calls:,} calls", asked.link("calls", since="today", until=None)),
        Tile("Spend in this period", parts.cost(total), _against(store, asked, total), asked.link("calls")),
        Tile("Cost per run", parts.bound(runs.mean_nanos, runs.unpriced_runs) if runs.runs else "unknown", quantiles,
             asked.link("runs")),
        Tile("Cost per user", mean, f"{metrics.users:,} users" if metrics.users else "no call names its user",
             asked.link("users")),
        Tile("Cache hit rate", parts.percent(metrics.hit_rate), hits, asked.link("caches")),
        Tile("Saved by caches", parts.dollars(total.saved_nanos),
             f"{parts.percent(part)} of what would have been paid" if part else "", asked.link("caches")),
        parts.trouble(total),
    )  # fmt: skip


def _against(store: Store, asked: Asked, total: Counters) -> str:
    """This period against the one before it. A sum with unknown parts is compared by what is known."""
    before = asked.before()
    if before is None:
        return "since the first call"
    earlier = _sum(store.spend("total", *before, Filters(tenant=asked.tenant))).cost_nanos
    if not earlier:
        return "nothing in the period before"
    times = total.cost_nanos / earlier
    change = f"{times - 1:+.0%} against" if times < _MANY else f"{times:,.0f} times the"
    return f"{change} {parts.dollars(earlier)} before"


def _sum(lines: Sequence[Line]) -> Counters:
    return next((line.counts for line in lines), Counters())
