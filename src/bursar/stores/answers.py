"""From sums to the answers of reports: by label, by local day and hour, and the four metrics. Pure.

Nothing here reads a row of the ledger: rollups and the histogram of run costs are all it needs, and of a long period
their coarse buckets, so that an answer on ten million calls costs what it costs on ten thousand. A question that no
rollup can answer raises ValueError with what can be asked instead.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from bursar.money import divide_half_even
from bursar.stores.base import By, Filters, Line, Metrics, RunCosts
from bursar.stores.counters import BUCKET_US, DAYS, DIMS, LABELS, ZERO, Counters, Vector, bucket, grains_of
from bursar.stores.tally import add
from bursar.types import Instant

Standing: TypeAlias = tuple[str, int, int, int, int]
"""agent, bin, runs, nano-dollars, unpriced runs"""

Key: TypeAlias = Literal["first", "second"]
_TOP = 10


Span: TypeAlias = tuple[int, int, int]
"""Buckets of one grain: grain, start inclusive, end exclusive; minutes since the epoch."""

_EVER = 1 << 60


class Period:
    """A period in whole quarters of an hour, and whose it is; None: unbounded, all tenants."""

    __slots__ = ("_end", "_start", "tenant")

    def __init__(self, since: Instant | None, until: Instant | None, tenant: str | None) -> None:
        self._start = -_EVER if since is None else bucket(since)
        self._end = _EVER if until is None else bucket(until + BUCKET_US - 1)
        self.tenant = tenant

    def spans(self, grains: tuple[int, ...]) -> list[Span]:
        """What it is made of, one at least: buckets of the coarsest grain in the middle, finer ones at the ends."""
        return _spans(self._start, self._end, grains) or [(grains[0], 0, 0)]


def _spans(start: int, end: int, grains: tuple[int, ...]) -> list[Span]:
    *finer, grain = grains
    if not finer:
        return [(grain, start, end)] if start < end else []
    first, last = -(-start // grain) * grain, end // grain * grain
    if first >= last:
        return _spans(start, end, tuple(finer))
    ends = () if start == -_EVER else (start, first), () if end == _EVER else (last, end)
    left, right = (_spans(*part, tuple(finer)) if part else [] for part in ends)
    return [*left, (grain, first, last), *right]


class Cut(msgspec.Struct, frozen=True):
    """A part of the rollups: one dimension, grouped by its first or second key (None: as one), where a key is given."""

    dim: str
    by: Key | None = None
    first: str | None = None
    second: str | None = None
    grains: tuple[int, ...] = DAYS
    """Those that may be added up, the finest first."""


class Sums(Protocol):
    """What a store can sum: each a range of one index."""

    def by_key(self, cut: Cut, period: Period) -> Iterable[tuple[str, Vector]]: ...
    def by_bucket(self, cut: Cut, period: Period) -> Iterable[tuple[int, Vector]]: ...
    def standings(self, period: Period) -> Iterable[Standing]: ...


def spend(sums: Sums, by: By, since: Instant | None, until: Instant | None, filters: Filters, zone: str) -> list[Line]:
    """Lines, dearest first; by day and hour in order of time, keyed "2026-11-24" and "2026-11-24T15"."""
    since, until = since if since is not None else filters.since, until if until is not None else filters.until
    period = Period(since, until, filters.tenant)
    label = _label(filters)
    cut = _cut(by, label)
    cut = msgspec.structs.replace(cut, grains=_grains(by, zone, cut.dim))
    if by in ("day", "hour"):
        return _by_time(sums.by_bucket(cut, period), by, zone)
    runs = _runs(sums, period) if label is None and by in ("agent", "total") else None
    found = [(key, numbers) for key, numbers in sums.by_key(cut, period) if numbers != ZERO]
    lines = [_line(key, numbers, runs, by) for key, numbers in found]
    return sorted(lines, key=lambda line: (-line.counts.cost_nanos, -line.counts.attempts, line.key or ""))


def metrics(sums: Sums, since: Instant | None, until: Instant | None, tenant: str | None) -> Metrics:
    """The four metrics of one period."""
    nowhere = Filters(tenant=tenant)
    total = next((line.counts for line in spend(sums, "total", since, until, nowhere, "UTC")), Counters())
    users = [line for line in spend(sums, "user", since, until, nowhere, "UTC") if line.key is not None]
    standings = list(sums.standings(Period(since, until, tenant)))
    by_agent: defaultdict[str, list[Standing]] = defaultdict(list)
    for standing in standings:
        by_agent[standing[0]].append(standing)
    costs = [cost for agent, found in by_agent.items() if (cost := run_costs(agent or None, found)).runs]
    return Metrics(
        total=total,
        runs=run_costs(None, standings),
        runs_by_agent=tuple(sorted(costs, key=lambda cost: -cost.cost_nanos)),
        users=len(users),
        cost_per_user_nanos=_mean(sum(line.counts.cost_nanos for line in users), len(users)),
        top_users=tuple(users[:_TOP]),
        hit_rate=total.hits / total.calls if total.calls else None,
        cached_input_share=total.cached_tokens / total.input_tokens if total.input_tokens else None,
        models=tuple(spend(sums, "model", since, until, nowhere, "UTC")),
        tiers=tuple(spend(sums, "tier", since, until, nowhere, "UTC")),
    )


def run_costs(agent: str | None, standings: Iterable[Standing]) -> RunCosts:
    """Count, mean and quantiles; a quantile is the mean of the bin that it falls in."""
    bins: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    unpriced = 0
    for _, at, runs, cost, unknown in standings:
        bins[at][0] += runs
        bins[at][1] += cost
        unpriced += unknown
    ordered = sorted((at, runs, cost) for at, (runs, cost) in bins.items() if runs > 0)
    count, total = sum(runs for _, runs, _ in ordered), sum(cost for _, _, cost in ordered)
    p50, p90, p99 = (_quantile(ordered, count, percent) for percent in (50, 90, 99))
    return RunCosts(agent, count, unpriced, total, _mean(total, count), p50, p90, p99)


def _quantile(ordered: list[tuple[int, int, int]], count: int, percent: int) -> int | None:
    rank = -(-count * percent // 100)
    for _, runs, cost in ordered:
        rank -= runs
        if rank <= 0:
            return _mean(cost, runs)
    return None


def _mean(total: int, count: int) -> int | None:
    return divide_half_even(total, count) if count else None


def _grains(by: By, zone: str, dim: str) -> tuple[int, ...]:
    """Those whose buckets lie within one line of the report, whatever the zone."""
    if by == "hour" or (by == "day" and zone != "UTC"):
        return DAYS[:1]
    return grains_of(dim)[: len(DAYS)] if by == "day" else grains_of(dim)


def _line(key: str, numbers: Vector, runs: dict[str, int] | None, by: By) -> Line:
    known = None
    if runs is not None:
        known = sum(runs.values()) if by == "total" else runs.get(key, 0)
    return Line(key or None, Counters(*numbers), known)


def _runs(sums: Sums, period: Period) -> dict[str, int]:
    runs: defaultdict[str, int] = defaultdict(int)
    for agent, _, number, _, _ in sums.standings(period):
        runs[agent] += number
    return runs


def _label(filters: Filters) -> tuple[str, str] | None:
    """The one label that the filters fix, as (dimension, key)."""
    fixed = [(dim, value) for dim, column in LABELS.items() if (value := getattr(filters, column, None)) is not None]
    if len(fixed) > 1 or filters.run_id is not None or filters.status is not None:
        raise ValueError("a report takes one label to filter by (and a tenant); list the calls for more")
    return fixed[0] if fixed else None


def _cut(by: By, label: tuple[str, str] | None) -> Cut:
    """The dimension that answers: by one label, within another if that is given."""
    grouped = LABELS.get(by)
    if grouped is None and by not in ("total", "day", "hour") and not by.startswith("tag:"):
        raise ValueError(f"cannot report by {by!r}: ask by {', '.join(LABELS)}, tag:K, day, hour or total")
    if by.startswith("tag:"):
        if label is None:
            return Cut(by, "first")
        raise ValueError("no rollup is kept of a tag within a label: list the calls instead")
    wanted = {column for column in (grouped, None if label is None else LABELS[label[0]]) if column is not None}
    for dim, columns in DIMS.items():
        if wanted <= set(columns):
            keys: dict[str | None, Key] = {columns[0]: "first", columns[1]: "second"}
            given: dict[str, Any] = {} if label is None else {keys[LABELS[label[0]]]: label[1]}
            return Cut(dim, keys.get(grouped) if grouped else None, **given)
    known = ", ".join(dim.replace("|", " and ") for dim in DIMS)
    raise ValueError(f"no rollup is kept of {by} within one {label[0] if label else ''}: there are {known}")


def _by_time(found: Iterable[tuple[int, Vector]], by: By, zone: str) -> list[Line]:
    try:
        local = UTC if zone == "UTC" else ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{zone!r} is no time zone: give a name such as 'Europe/Berlin'") from None
    shape = "%Y-%m-%d" if by == "day" else "%Y-%m-%dT%H"
    times: dict[str, Vector] = {}
    for start, numbers in sorted(found):
        name = datetime.fromtimestamp(start * 60, local).strftime(shape)
        times[name] = add(times[name], numbers) if name in times else numbers
    return [Line(name, Counters(*numbers)) for name, numbers in times.items() if numbers != ZERO]
