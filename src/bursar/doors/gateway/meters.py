"""Prometheus' /metrics: what this gateway has done since it started, and where the ledger's budgets stand now.

Counters are of the gateway's own processes and begin at zero with it, as Prometheus expects: several gateways on one
ledger add up. With several workers they share files in PROMETHEUS_MULTIPROC_DIR, so that each answers for all.
Amounts are counted as integers of nano-dollars and divided once, on the way out. Labels are bounded (labels.py) and
name no user, session or run.
"""

import os
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from bursar.doors.telemetry.labels import Bounded
from bursar.insights import breakers, incidents
from bursar.rules.grant import state
from bursar.stores.base import BudgetLine, Page, Store
from bursar.types import BudgetState, Entry

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The folder in which several workers keep their counters."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NANOS = 1_000_000_000
_PAGE, _PAGES = 1_000, 20
"""Budget counters that are looked at, the last touched first."""
_FAST = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_WHO = ("agent", "step", "provider", "model", "tier")
_STATES: tuple[BudgetState, ...] = ("ok", "wrap_up", "exhausted")

T = TypeVar("T", Counter, Histogram)

Served: TypeAlias = Literal["provider", "cache", "refusal"]
"""What a request was answered with."""


class Meters:
    """Of one gateway process. `listen` is for StoreWorld(settled=...)."""

    def __init__(self, store: Store, shared: str | None = None) -> None:
        """shared: the folder of all workers' counters; None: by PROMETHEUS_MULTIPROC_DIR, else of this process."""
        self._store, self._shared = store, shared or os.environ.get(SHARED)
        self._registry = registry = CollectorRegistry()
        self._who, self._models = Bounded(), Bounded()
        self._series: dict[tuple[Any, tuple[str, ...]], Any] = {}

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(name, told, labels, registry=registry)

        self._calls = counter("bursar_calls", "Attempts, hits and refusals.", *_WHO, "cache", "status")
        self._tokens = counter("bursar_tokens", "Billed tokens; the types add up.", *_WHO, "type")
        self._cost = counter("bursar_cost_nano_usd", "Known cost.", *_WHO)
        self._saved = counter("bursar_saved_nano_usd", "What hits would have cost.", *_WHO, "cache")
        self._unpriced = counter("bursar_unpriced", "Calls whose cost is unknown.", "provider", "model")
        self._estimated = counter("bursar_estimated", "Calls whose cost is an estimate.", "provider", "model")
        self._lost = counter("bursar_telemetry_dropped", "What could not be delivered by OTLP.", "signal")
        for signal in ("spans", "metrics", "events"):
            self._lost.labels(signal)

        def histogram(name: str, told: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, told, labels, buckets=bounds, registry=registry)

        slow = ("provider", "model")
        self._duration = histogram("bursar_call_duration_seconds", "From sending to the last byte.", _SLOW, *slow)
        self._first = histogram("bursar_first_byte_seconds", "From sending to the first byte.", _SLOW, *slow)
        self._added = histogram(
            "bursar_added_latency_seconds", "Until the answer began, without waiting for the provider.", _FAST, "served"
        )

    def listen(self, entry: Entry) -> None:
        """A row has been closed."""
        who = self._who((entry.agent_id, entry.step, entry.provider or None, entry.model, entry.tier))
        self._one(self._calls, *who, entry.cache, entry.status).inc()
        for kind, count in _tokens(entry):
            if count > 0:
                self._one(self._tokens, *who, kind).inc(count)
        if entry.cost_nanos is not None and entry.cost_nanos > 0:
            self._one(self._cost, *who).inc(entry.cost_nanos)
        if entry.saved_nanos is not None and entry.saved_nanos > 0:
            self._one(self._saved, *who, entry.cache).inc(entry.saved_nanos)
        self._about_model(entry)

    def _about_model(self, entry: Entry) -> None:
        model = self._models((entry.provider or None, entry.model))
        if entry.cost_nanos is None:
            self._one(self._unpriced, *model).inc()
        elif entry.cost_status == "estimated":
            self._one(self._estimated, *model).inc()
        if entry.status in ("hit", "refused"):
            return
        if entry.duration_ms is not None:
            self._one(self._duration, *model).observe(entry.duration_ms / 1000)
        if entry.first_byte_ms is not None:
            self._one(self._first, *model).observe(entry.first_byte_ms / 1000)

    def _one(self, family: T, *labels: str) -> T:
        """One series, remembered: the client library's own look-up takes a lock and ten times as long."""
        found = self._series.get((family, labels))
        if found is None:
            found = self._series[family, labels] = family.labels(*labels)
        return cast(T, found)

    def added(self, served: Served, seconds: float) -> None:
        """So much of a request's time was Bursar's own, until its answer began."""
        self._added.labels(served).observe(max(seconds, 0.0))

    def lost(self, signal: str, count: int) -> None:
        """So many spans, metrics or events could not be delivered."""
        self._lost.labels(signal).inc(count)

    def text(self) -> bytes:
        """The exposition, as CONTENT_TYPE. Asks the ledger: StoreFailure."""
        out = CollectorRegistry()
        out.register(_Tidy(self._registry, self._shared))
        out.register(_Ledger(self._store))
        return generate_latest(out)


def _tokens(entry: Entry) -> Iterator[tuple[str, int]]:
    """Disjoint kinds, so that their sum is the bill's."""
    cached, written = entry.cached_tokens or 0, entry.cache_write_tokens or 0
    thought = entry.reasoning_tokens or 0
    yield "input", (entry.input_tokens or 0) - cached - written
    yield "cache_read", cached
    yield "cache_write", written
    yield "output", (entry.output_tokens or 0) - thought
    yield "reasoning", thought


class _Tidy(Collector):
    """The counters of all workers, in dollars, each with its description, without the moments of their creation."""

    def __init__(self, own: CollectorRegistry, shared: str | None) -> None:
        self._own, self._shared = own, shared

    def collect(self) -> Iterator[Metric]:
        described = {metric.name: metric for metric in self._own.collect()}
        found = described
        if self._shared is not None:
            others = CollectorRegistry()
            MultiProcessCollector(others, self._shared)  # type: ignore[no-untyped-call]
            found = {metric.name: metric for metric in others.collect()}
        for name, metric in sorted(found.items()):
            told = Metric(_renamed(name), described[name].documentation if name in described else "", metric.type)
            told.samples = [_tidied(one) for one in metric.samples if not one.name.endswith("_created")]
            yield told


def _renamed(name: str) -> str:
    return name.replace("_nano_usd", "_usd")


def _tidied(sample: Sample) -> Sample:
    if "_nano_usd" not in sample.name:
        return sample
    return Sample(_renamed(sample.name), sample.labels, sample.value / _NANOS)


class _Ledger(Collector):
    """What the ledger knows and all gateways on it share. Sums over whoever a budget is counted for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        yield _gauge("bursar_build_info", "1, with the version as a label.", ("version",), [((version("bursar"),), 1)])
        yield from self._kept()
        yield from self._budgets()
        yield from self._watched()

    def _kept(self) -> Iterator[Metric]:
        answers, size = self._store.cache.size()
        yield _gauge("bursar_kept_answers", "Answers that are kept to be given again.", (), [((), answers)])
        yield _gauge("bursar_kept_bytes", "Room that they take.", (), [((), size)])

    def _budgets(self) -> Iterator[Metric]:
        sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 4)
        states: dict[tuple[str, str, str], int] = defaultdict(int)
        used: dict[tuple[str, str], float] = defaultdict(float)
        for line in self._lines():
            claim, stands = line.counter.claim, line.counter.balance
            place = ("(run)" if claim.budget.startswith("run:") else claim.budget, claim.scope)
            amounts = (stands.settled_nanos, stands.held_nanos, stands.settled_tokens, stands.held_tokens)
            sums[place] = [before + more for before, more in zip(sums[place], amounts, strict=True)]
            for told in _STATES:
                states[*place, told] += state(line.counter) == told
            used[place] = max(used[place], _used(line))
        where, within = ("budget", "scope"), "in the windows that are running."
        for at, (name, what, scale) in enumerate((
            ("bursar_budget_settled_usd", "Spent", _NANOS), ("bursar_budget_held_usd", "Held by calls", _NANOS),
            ("bursar_budget_settled_tokens", "Tokens spent", 1), ("bursar_budget_held_tokens", "Tokens held", 1),
        )):  # fmt: skip
            told_sums = [(place, amounts[at] / scale) for place, amounts in sorted(sums.items())]
            yield _gauge(name, f"{what} {within}", where, told_sums)
        yield _gauge("bursar_budget_counters", "How many it is counted for.", (*where, "state"), sorted(states.items()))
        yield _gauge("bursar_budget_used_ratio", "Of the counter with the least left.", where, sorted(used.items()))

    def _watched(self) -> Iterator[Metric]:
        """Incidents and suspensions, by the names that the configuration gives; of whom, the admin API tells."""
        alerts = Counted((one["alert"], one["severity"]) for one in incidents.running(self._store))
        yield _gauge("bursar_alerts_open", "Open incidents.", ("alert", "severity"), sorted(alerts.items()))
        tripped: Counted[tuple[str, ...]] = Counted()
        for status in ("open", "half_open"):
            seen = _breakers(self._store, status)
            tripped.update((one.document.breaker, one.document.scope, status) for one in seen)
        told = "Suspended, or on probation."
        yield _gauge("bursar_breakers_tripped", told, ("breaker", "scope", "state"), sorted(tripped.items()))

    def _lines(self) -> Iterator[BudgetLine]:
        page: Page[BudgetLine] | None = None
        for _ in range(_PAGES):
            page = self._store.budgets(None, None, _PAGE, None if page is None else page.next_cursor)
            yield from page.items
            if page.next_cursor is None:
                return


def _breakers(store: Store, status: Literal["open", "half_open"]) -> Iterator[breakers.Seen]:
    page: Page[breakers.Seen] | None = None
    for _ in range(_PAGES):
        page = breakers.listed(store, None, status, _PAGE, None if page is None else page.next_cursor)
        yield from page.items
        if page.next_cursor is None:
            return


def _used(line: BudgetLine) -> float:
    claim, stands = line.counter.claim, line.counter.balance
    sides = (
        (claim.limit_nanos, stands.settled_nanos + stands.held_nanos),
        (claim.limit_tokens, stands.settled_tokens + stands.held_tokens),
    )
    return max((taken / limit if limit else 1.0 for limit, taken in sides if limit is not None), default=0.0)


def _gauge(name: str, told: str, labels: tuple[str, ...], values: object) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, told, labels=labels)
    for place, value in values:  # type: ignore[attr-defined]
        family.add_metric(place, value)
    return family
