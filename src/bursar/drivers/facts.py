"""What an alert's rule reads, asked of the store: rollups, histogram, counters; rows only for escalations.

Costs what it costs on a small ledger too: whole quarters of an hour, the 50 dearest subjects, the 5,000 counters last
touched. A subject's windows before the first one in which it was seen are not known, that first one included: it began
somewhere within. What no rollup can answer is a ValueError (`check` says so beforehand). Raises StoreFailure.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from bursar.policy import Alert, PriceBook, Unpriced
from bursar.policy.alerts import Cap, Drift, Falling, Forecast, Share, Spike, Stranger, Threshold, Wrong
from bursar.rules import window
from bursar.rules.alarm import Budgeted, Costs, Facts, Pair, Series, Spent, Strangers, Tightened
from bursar.rules.alarm.baseline import WEEK
from bursar.stores.base import Counters, Filters, Metrics, RunCosts, Store
from bursar.stores.counters import DIMS, LABELS
from bursar.stores.semantic import Pool
from bursar.types import Entry, Instant, Terms

Size: TypeAlias = Literal["hour", "day"]

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_WEEKS = 4
_SUBJECTS = 50
_COUNTERS = 5_000
_PAGE = 1_000
_ROWS = 500
_NONE = "(none)"
_SHARES = (_HOUR, 6 * _HOUR, _DAY)
"""A share is of the shortest of these that has rows enough."""
_LATE_HIT_RATE = 6 * _HOUR
_LATE_RUNS = _DAY
_DAYS_BEFORE = 7


def check(alert: Alert) -> None:
    """ValueError where no rollup answers what the alert asks: it says what can be asked."""
    label, by, rule = _label(alert), alert.by, alert.rule
    if alert.match.tags:
        raise ValueError("an alert cannot match tags: by agent, step or user_tier only, one of them")
    match rule:
        case Threshold() | Stranger() | Wrong() if by is not None or label is not None:
            raise ValueError(f"{_kind(rule)} looks at all there is: leave out match and by")
        case Drift() if by not in (None, "agent") or label not in (None, "agent"):
            raise ValueError("run costs are kept by agent: match agent, or by agent")
        case Share(of="escalated") if by is not None or label not in (None, "agent", "step"):
            raise ValueError("escalations are counted of all, of an agent or of a step: leave out by")
        case Spike() | Forecast() if by is not None and label not in (None, by):
            raise ValueError(f"no rollup by the hour is kept of {by} within {label}: give match or by, or both of {by}")
    if label is not None and by not in (None, label) and not _paired(label, by):
        raise ValueError(f"no rollup is kept of {by} within {label}")


class Past:
    """Windows that are over, asked again every hour: few rows come late, and hours are many."""

    def __init__(self) -> None:
        self._hour = 0
        self._known: dict[tuple[str, str, Instant], tuple[int | None, ...]] = {}

    def get(
        self, place: tuple[str, str, Instant], now: Instant, ask: Callable[[], tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """place: alert, subject, and the start of the window that is running."""
        if now // _HOUR != self._hour:
            self._hour = now // _HOUR
            self._known.clear()
        if place not in self._known:
            self._known[place] = ask()
        return self._known[place]


def gather(
    store: Store, prices: PriceBook, alert: Alert, now: Instant, past: Past, known: Collection[str] = (),
    pools: Callable[[], Sequence[Pool]] = tuple,
) -> list[Facts]:  # fmt: skip
    """The facts of every subject that the alert is about. known: subjects that have an incident, and so are asked of
    again. One that is missing in the answer has not been seen lately. pools: what the semantic cache has learned."""
    desk = _Desk(store, alert, now)
    match alert.rule:
        case Spike() as rule:
            return desk.series(rule.window, _worth(rule), known, past)
        case Forecast():
            return desk.series("day", 0, known, past, month=True)
        case Cap() as rule:
            start, _ = window.bounds(rule.window, alert.zone, now)
            return [
                Spent(subject=subject, nanos=sums.cost_nanos, unpriced=sums.unpriced)
                for subject, sums in _dearest(desk.sums(start, None), known)
            ]
        case Threshold():
            return _counters(store)
        case Drift():
            return desk.run_costs()
        case Falling():
            return desk.hit_rates()
        case Share(of="escalated"):
            return [_escalated(store, alert, now)]
        case Share() as rule:
            return desk.shares(rule)
        case Stranger():
            return _strangers(store, prices, now)
        case Wrong():
            return _tightened(pools)


class _Desk:
    """One alert's questions at one moment."""

    def __init__(self, store: Store, alert: Alert, now: Instant) -> None:
        self._store, self._alert, self._now = store, alert, now

    def sums(self, since: Instant, until: Instant | None) -> dict[str, Counters]:
        """By subject: what a period comes to. Without `by` there is one, "", and it is always there."""
        found: defaultdict[str, list[Counters]] = defaultdict(list)
        by = self._alert.by
        if by is None:
            found[""] = []
        for filters in self._filters(since, until):
            for line in self._store.spend(by or "total", since, until, filters):
                if by is None or line.key is not None:
                    found[line.key if by is not None and line.key is not None else ""].append(line.counts)
        return {subject: _added(counts) for subject, counts in found.items()}

    def _filters(self, since: Instant, until: Instant | None) -> list[Filters]:
        """What matches, as the labels that there are in the period."""
        label = _label(self._alert)
        if label is None:
            return [Filters()]
        wanted = getattr(self._alert.match, label)
        lines = self._store.spend(label, since, until)
        return [_only(label, line.key) for line in lines if line.key and fnmatchcase(line.key, wanted)]

    # --- by the hour and the day

    def series(self, size: Size, least: int, known: Collection[str], past: Past, *, month: bool = False) -> list[Facts]:
        """least: what a subject has to have spent in the running window to be worth the question."""
        start, _ = window.bounds(size, self._alert.zone, self._now)
        current, by = self.sums(start, None), self._alert.by
        found: list[Facts] = []
        for subject, sums in _dearest(current, known):
            if by is not None and subject not in known and sums.cost_nanos <= least:
                continue
            place = (self._alert.rule.name, subject, start)
            before = past.get(place, self._now, partial(self._before, subject, size, start))
            of_month = self._month(subject) if month else None
            found.append(
                Series(
                    subject=subject, window=size, zone=self._alert.zone, before=before, start=start,
                    current=sums.cost_nanos, unpriced=sums.unpriced,
                    month=None if of_month is None else of_month.cost_nanos,
                    month_unpriced=0 if of_month is None else of_month.unpriced,
                )
            )  # fmt: skip
        return found

    def _before(self, subject: str, size: Size, start: Instant) -> tuple[int | None, ...]:
        """Nano-dollars of the windows of four weeks."""
        zone = _whole(self._alert.zone, start) if size == "hour" else self._alert.zone
        since = Instant(start - WEEK[size] * _WEEKS * (_HOUR if size == "hour" else _DAY) - _DAY)
        found: defaultdict[str, list[Counters]] = defaultdict(list)
        for one in self._within(subject, since):
            for line in self._store.spend(size, since, start, one, zone):
                found[line.key or ""].append(line.counts)
        sums = [_added(found.pop(place)) if place in found else None for place in _places(size, zone, start)]
        # What is left is of the day before them: then the first of them is whole, and what is empty was idle.
        first = -1 if found else next((at for at, one in enumerate(sums) if one is not None), len(sums))
        return tuple(None if at <= first else 0 if one is None else one.cost_nanos for at, one in enumerate(sums))

    def _within(self, subject: str, since: Instant) -> list[Filters]:
        by = self._alert.by
        return self._filters(since, None) if by is None else [_only(by, subject)]

    def _month(self, subject: str) -> Counters:
        start, _ = window.bounds("month", self._alert.zone, self._now)
        filters = self._within(subject, start)
        return _added([line.counts for one in filters for line in self._store.spend("total", start, None, one)])

    # --- late and before

    def run_costs(self) -> list[Facts]:
        """Runs that began in the last 24 hours, and in the seven days before them."""
        late, before = self._ago(_LATE_RUNS), self._ago(_LATE_RUNS + _DAYS_BEFORE * _DAY)
        now, then = self._runs(self._store.metrics(late, None)), self._runs(self._store.metrics(before, late))
        nothing = (0, 0, 0)
        return [
            Costs(
                subject=subject, runs=runs, nanos=nanos, unpriced=unpriced, runs_before=then.get(subject, nothing)[0],
                nanos_before=then.get(subject, nothing)[1],
            )
            for subject, (runs, nanos, unpriced) in now.items()
        ]  # fmt: skip

    def _runs(self, metrics: Metrics) -> dict[str, tuple[int, int, int]]:
        """By subject: runs, nano-dollars, unpriced runs."""
        by_agent: Sequence[RunCosts] = metrics.runs_by_agent
        if self._alert.match.agent is not None:
            by_agent = [one for one in by_agent if fnmatchcase(one.agent_id or _NONE, self._alert.match.agent)]
        if self._alert.by == "agent":
            return {one.agent_id: _run_sums([one]) for one in by_agent if one.agent_id is not None}
        return {"": _run_sums(by_agent)}

    def hit_rates(self) -> list[Facts]:
        """Calls of the last six hours, and of the same hours of the seven days before: a night is no fall."""
        late = self.sums(self._ago(_LATE_HIT_RATE), None)
        before: defaultdict[str, list[Counters]] = defaultdict(list)
        for days in range(1, _DAYS_BEFORE + 1):
            earlier = self.sums(self._ago(_LATE_HIT_RATE + days * _DAY), self._ago(days * _DAY))
            for subject, counts in earlier.items():
                before[subject].append(counts)
        found: list[Facts] = []
        for subject, now in late.items():
            then = _added(before[subject])
            parts = {"part": now.hits, "whole": now.calls, "part_before": then.hits, "whole_before": then.calls}
            found.append(Pair(subject=subject, **parts))
        return found

    def shares(self, rule: Share) -> list[Facts]:
        found: dict[str, Pair] = {}
        for late in _SHARES:
            for subject, counts in self.sums(self._ago(late), None).items():
                if subject not in found or (found[subject].whole or 0) < rule.least_rows:
                    found[subject] = Pair(subject=subject, part=getattr(counts, rule.of), whole=counts.attempts)
        return list(found.values())

    def _ago(self, micros: int) -> Instant:
        return Instant(self._now - micros)


# --- what is asked of all at once


def _counters(store: Store) -> list[Facts]:
    """Both sides of every budget's counter in the window that is running; subject: budget, scope and key."""
    found: list[Facts] = []
    cursor: str | None = None
    for _ in range(_COUNTERS // _PAGE):
        page = store.budgets(limit=_PAGE, cursor=cursor)
        for line in page.items:
            claim, stands = line.counter.claim, line.counter.balance
            if claim.scope in ("run", "session"):
                continue
            subject = f"{claim.budget}\x1f{claim.scope} {claim.key}"
            sides = (
                (claim.limit_nanos, stands.settled_nanos, stands.held_nanos, False),
                (claim.limit_tokens, stands.settled_tokens, stands.held_tokens, True),
            )
            found += [
                Budgeted(subject=subject, limit=limit, settled=settled, held=held, tokens=tokens)
                for limit, settled, held, tokens in sides
                if limit is not None
            ]
        if (cursor := page.next_cursor) is None:
            break
    return found


def _strangers(store: Store, prices: PriceBook, now: Instant) -> list[Facts]:
    """Models of the last 24 hours with rows of unknown cost that the price book has no card of."""
    since = Instant(now - _DAY)
    providers = [line.key for line in store.spend("provider", since) if line.key and line.counts.unpriced]
    return [
        Strangers(subject=f"{provider}/{line.key}", rows=line.counts.unpriced)
        for provider in providers
        for line in store.spend("model", since, None, Filters(provider=provider))
        if line.key and line.counts.unpriced and isinstance(prices.card(provider, line.key, Terms(), now), Unpriced)
    ]


def _tightened(pools: Callable[[], Sequence[Pool]]) -> list[Facts]:
    return [
        Tightened(
            subject=f"{pool.tenant} {pool.step or _NONE} {pool.pool[:12]}", times=pool.state.tightened,
            wrong=pool.wrong, judged=pool.judged,
        )
        for pool in pools()
        if pool.state is not None
    ]  # fmt: skip


def _escalated(store: Store, alert: Alert, now: Instant) -> Pair:
    """Requests of the last 24 hours, the newest 500 rows of each tenant, that more than one tier was asked for."""
    if sum(line.key is not None for line in store.spend("tier", Instant(now - _DAY))) < 2:
        return Pair(part=0, whole=0)
    tiers: defaultdict[str, set[str]] = defaultdict(set)
    for tenant in sorted({"default", *(key.tenant for key in store.list_keys())}):
        for row in store.recent(tenant, limit=_ROWS):
            if row.tier is not None and row.started_at >= now - _DAY and _matches(alert, row):
                tiers[row.request_id].add(row.tier)
    return Pair(part=sum(len(asked) > 1 for asked in tiers.values()), whole=len(tiers))


def _matches(alert: Alert, row: Entry) -> bool:
    label = _label(alert)
    return label is None or fnmatchcase(getattr(row, LABELS[label]) or _NONE, getattr(alert.match, label))


# --- small


def _label(alert: Alert) -> str | None:
    """The one label that the alert matches by; ValueError where it is several, or one that is not summed."""
    given = [name for name in ("agent", "step", "user_tier") if getattr(alert.match, name) is not None]
    if len(given) > 1:
        raise ValueError("an alert matches one of agent, step and user_tier: no rollup is kept of both together")
    if given and given[0] not in LABELS:
        raise ValueError(f"no rollup is kept of {given[0]}: match agent or step")
    return given[0] if given else None


def _paired(one: str, other: str | None) -> bool:
    return other is None or any({LABELS[one], LABELS[other]} == set(dim) for dim in DIMS.values())


def _kind(rule: object) -> str:
    return type(rule).__name__.lower()


def _only(label: str, key: str) -> Filters:
    return msgspec.convert({LABELS[label]: key}, Filters)


def _worth(rule: Spike) -> int:
    return rule.least_nanos if rule.cold_nanos is None else min(rule.least_nanos, rule.cold_nanos)


def _dearest(sums: dict[str, Counters], known: Collection[str]) -> list[tuple[str, Counters]]:
    ordered = sorted(sums.items(), key=lambda item: (-item[1].cost_nanos, item[0]))
    return ordered[:_SUBJECTS] + [item for item in ordered[_SUBJECTS:] if item[0] in known]


def _added(counts: Sequence[Counters]) -> Counters:
    if not counts:
        return Counters()
    return Counters(*map(sum, zip(*map(msgspec.structs.astuple, counts), strict=True)))


def _run_sums(costs: Sequence[RunCosts]) -> tuple[int, int, int]:
    return sum(one.runs for one in costs), sum(one.cost_nanos for one in costs), sum(one.unpriced_runs for one in costs)


def _whole(zone: str, at: Instant) -> str:
    """UTC where the zone's hours are UTC's: there no two of them share a name in the night that the clock goes back."""
    offset = datetime.fromtimestamp(at // 1_000_000, ZoneInfo(zone)).utcoffset() or timedelta(0)
    return "UTC" if offset % timedelta(hours=1) == timedelta(0) else zone


def _places(size: Size, zone: str, start: Instant) -> list[str]:
    """The names, as the store spells them, of the windows of the four weeks before one, the oldest first."""
    count, first = WEEK[size] * _WEEKS, datetime.fromtimestamp(start // 1_000_000, ZoneInfo(zone))
    if size == "day":
        return [(first.date() - timedelta(days=ago)).isoformat() for ago in range(count, 0, -1)]
    hours = (first.astimezone(UTC) - timedelta(hours=ago) for ago in range(count, 0, -1))
    return [hour.astimezone(first.tzinfo).strftime("%Y-%m-%dT%H") for hour in hours]
