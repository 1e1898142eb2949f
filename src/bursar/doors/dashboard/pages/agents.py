"""Agents and steps: cost per run with its spread, each step's share of the spend, and the trend of one of them."""

from bursar.doors.dashboard.asked import Asked, BadQuery
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.view import FULL, Cell, Part, Segment, Table, Tile, View, rows_of
from bursar.insights.report import share
from bursar.policy import Policy
from bursar.stores.base import Counters, RunCosts, Store

_MARK = 6
"""How wide the mark of a quantile is, in units of FULL."""


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """Everything, one agent (`agent=`), or one step (`step=`): rollups fix one label, so both are a bad query."""
    del policy
    if {"agent", "step"} <= set(asked.labels):
        raise BadQuery("agent and step: one of them here; the list of calls takes both")
    whole = parts.total(store, asked)
    empty = parts.nothing_yet(store, asked, whole)
    if empty is not None:
        return View(title="Agents and steps", parts=(empty,), fields=("agent", "step"))
    for by in ("agent", "step"):
        if by in asked.labels:
            return _one(store, asked, by, asked.labels[by], whole)
    metrics = store.metrics(asked.filters.since, asked.filters.until, asked.tenant)
    shown: tuple[Part, ...] = (
        _spread(asked, metrics.runs_by_agent),
        parts.lines_table(asked, "Agents, their own calls", "agent", parts.spend(store, asked, "agent"), whole),
        parts.lines_table(asked, "Steps", "step", parts.spend(store, asked, "step"), whole),
    )
    return View(title="Agents and steps", parts=shown, fields=("agent", "step"))


def _one(store: Store, asked: Asked, by: str, key: str, whole: Counters) -> View:
    within, counts = {by: key}, parts.total(store, asked, **{by: key})
    rows = asked.link("calls", **within)
    tiles = [
        Tile("Spend", parts.cost(counts), f"{parts.percent(share(counts.cost_nanos, whole.cost_nanos))} of all", rows),
        Tile("Calls", f"{counts.calls:,}", f"{counts.attempts:,} attempts, {counts.failed:,} failed", rows),
        Tile("Input tokens", parts.tokens(counts, counts.input_tokens),
             f"{parts.percent(share(counts.cached_tokens, counts.input_tokens))} from the prompt cache", rows),
        Tile("Output tokens", parts.tokens(counts, counts.output_tokens), "", rows),
        Tile("Cache hit rate", parts.percent(share(counts.hits, counts.calls)),
             f"{parts.dollars(counts.saved_nanos)} saved", asked.link("calls", **within, status="hit")),
    ]  # fmt: skip
    shown: list[Part] = [parts.over_time(store, asked, f"Spend of the {by}", within=within)]
    if by == "agent":
        costs = store.metrics(asked.filters.since, asked.filters.until, asked.tenant).runs_by_agent
        shown.insert(0, _spread(asked, tuple(one for one in costs if one.agent_id == key)))
    for other in ("step", "model", "user") if by == "agent" else ("agent", "cache"):
        lines = parts.spend(store, asked, other, **within)
        shown.append(parts.lines_table(asked, _TITLES[other], other, lines, counts, within))
    title = f"{by.capitalize()} {parts.plain(key)}"
    return View(title=title, tiles=tuple(tiles), parts=tuple(shown), fields=("agent", "step"))


_TITLES = {"agent": "Agents", "step": "Steps", "model": "Models", "user": "Users", "cache": "What the caches gave"}


def _spread(asked: Asked, costs: tuple[RunCosts, ...]) -> Table:
    """Quantiles of the cost of a run, on one scale for all agents."""
    longest = max((one.p99_nanos or 0 for one in costs), default=0)
    return Table(
        title="Cost per run",
        columns=("Agent", "#Runs", "#Mean", "#p50", "#p90", "#p99", "p50 to p99", "#Total", "#Unpriced"),
        rows=rows_of(_costs(asked, one, longest) for one in costs[: parts.MOST]),
        empty="No run began in this period. Give calls a run: guard.run(agent=...), or the header x-bursar-run-id.",
        note="A run counts with all that is nested in it, for its first agent. Quantiles are exact to about 6 %.",
    )


def _costs(asked: Asked, one: RunCosts, longest: int) -> list[Cell]:
    rows = None if one.agent_id is None else asked.link("runs", agent=one.agent_id)
    told = (one.mean_nanos, one.p50_nanos, one.p90_nanos, one.p99_nanos)
    unknown = one.unpriced_runs == one.runs and not one.cost_nanos
    cells = [Cell("unknown" if unknown else parts.bound(n, one.unpriced_runs), rows) for n in told]
    return [
        parts.named(asked, "agent", one.agent_id),
        Cell(f"{one.runs:,}", rows),
        *cells,
        Cell("", bars=_box(one, longest), look="wide"),
        Cell(parts.bound(one.cost_nanos, one.unpriced_runs), rows),
        Cell(f"{one.unpriced_runs:,}", rows, look="bad" if one.unpriced_runs else "muted"),
    ]


def _box(one: RunCosts, longest: int) -> tuple[Segment, ...]:
    if not longest or one.p50_nanos is None or one.p90_nanos is None or one.p99_nanos is None:
        return ()
    p50, p90, p99 = (FULL * n / longest for n in (one.p50_nanos, one.p90_nanos, one.p99_nanos))
    return (
        Segment(round(p50, 2), round(p90 - p50, 2), "s0"),
        Segment(round(p90, 2), round(p99 - p90, 2), "soft"),
        Segment(round(min(p50, FULL - _MARK), 2), _MARK, "mark"),
    )
