"""Every table of a ledger in memory, as plain dictionaries. Under one lock everything happens at once.

Stores that share them behave as processes that share one file. Nothing survives the process.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator

from bursar.stores.answers import Cut, Period, Span, Standing
from bursar.stores.balances import CounterKey
from bursar.stores.base import BudgetLine, Key
from bursar.stores.cache import AnswerCache
from bursar.stores.counters import DAYS, Cell, Vector
from bursar.stores.forest import Bin, Run, RunKey, Weight
from bursar.stores.rows import RowKey
from bursar.stores.sketch import Sketch, SketchKey, output_key
from bursar.stores.states import At, Event, State, Updates
from bursar.stores.tally import Factor, ModelKey, add
from bursar.stores.transaction import Row, Transaction
from bursar.stores.waiting import Waiter
from bursar.types import Entry


class Books:
    """Every table, as plain dictionaries, and the lock that guards them."""

    def __init__(self) -> None:
        self.lock, self.gate = threading.RLock(), threading.Lock()
        self.rows: dict[RowKey, Row] = {}
        self.rollups: dict[Cell, Vector] = {}
        self.runs: dict[RunKey, Run] = {}
        self.trees: defaultdict[RunKey, set[RunKey]] = defaultdict(set)
        self.histogram: dict[Bin, Weight] = {}
        self.factors: dict[ModelKey, Factor] = {}
        self.counters: dict[CounterKey, BudgetLine] = {}
        self.run_counters: defaultdict[tuple[str, str], dict[CounterKey, None]] = defaultdict(dict)
        self.sketches: dict[SketchKey, Sketch] = {}
        self.waiters: dict[RowKey, Waiter] = {}
        self.keys: dict[str, Key] = {}
        self.states: dict[At, State] = {}
        self.events: list[Event] = []
        self.owners: set[str] = set()
        self.cache = AnswerCache(None)
        self.departed = False
        """An owner has closed since the last sweep."""

    def get(self, key: RunKey) -> Run | None:
        return self.runs.get(key)

    def tree(self, root: RunKey) -> Iterable[Run]:
        return [self.runs[key] for key in self.trees[root]]

    def counter(self, key: CounterKey) -> BudgetLine | None:
        return self.counters.get(key)

    def of_run(self, tenant: str, key: str) -> Iterable[BudgetLine]:
        return [self.counters[at] for at in self.run_counters.get((tenant, key), ())]

    def typical(self, entry: Entry) -> int | None:
        sketch = self.sketches.get(output_key(entry))
        return None if sketch is None else sketch.high()

    def post(self, books: Transaction) -> None:
        """Commit."""
        tally = books.tally
        self.counters.update(books.balances.changed)
        for key in books.balances.changed:
            if key[1] == "run":
                self.run_counters[key[0], key[2]][key] = None
        for name, bins in tally.sketches.items():
            self.sketches[name] = self.sketches.get(name, Sketch({})).plus(bins)
        self.rows.update(books.rows)
        for bin_, (runs, cost, unpriced) in tally.forest.moves().items():
            had = self.histogram.get(bin_, (0, 0, 0))
            self.histogram[bin_] = (had[0] + runs, had[1] + cost, had[2] + unpriced)
        for run_key, run in tally.forest.changed.items():
            before = self.runs.get(run_key)
            if before is not None:
                self.trees[before.tenant, before.root_run_id].discard(run_key)
            self.trees[run.tenant, run.root_run_id].add(run_key)
            self.runs[run_key] = run
        for cell, gain in tally.rollups().items():
            self.rollups[cell] = add(self.rollups[cell], gain) if cell in self.rollups else gain
        for model, factor in tally.factors.items():
            self.factors[model] = self.factors.get(model, Factor()).then(factor)

    def body(self, at: At) -> bytes | None:
        """A shared document."""
        state = self.states.get(at)
        return None if state is None else state.body

    def keep(self, updates: Updates) -> None:
        """Commit what became of the shared documents."""
        for at, state in updates.changed.items():
            if state is None:
                del self.states[at]
            else:
                self.states[at] = state
        self.events += updates.events

    def by_key(self, cut: Cut, period: Period) -> list[tuple[str, Vector]]:
        sums: dict[str, Vector] = {}
        for (_, _, _, first, second, _), numbers in self._within(cut, period):
            key = {"first": first, "second": second, None: ""}[cut.by]
            sums[key] = add(sums[key], numbers) if key in sums else numbers
        return list(sums.items())

    def by_bucket(self, cut: Cut, period: Period) -> list[tuple[int, Vector]]:
        sums: dict[int, Vector] = {}
        for (_, start, *_), numbers in self._within(cut, period):
            sums[start] = add(sums[start], numbers) if start in sums else numbers
        return list(sums.items())

    def standings(self, period: Period) -> list[Standing]:
        spans = period.spans(DAYS)
        return [
            (agent, at, *weight)
            for (grain, start, tenant, agent, at), weight in self.histogram.items()
            if period.tenant in (None, tenant) and _in(grain, start, spans)
        ]

    def _within(self, cut: Cut, period: Period) -> Iterator[tuple[Cell, Vector]]:
        spans = period.spans(cut.grains)
        for cell, numbers in self.rollups.items():
            grain, start, dim, first, second, tenant = cell
            wanted = dim == cut.dim and cut.first in (None, first) and cut.second in (None, second)
            if wanted and period.tenant in (None, tenant) and _in(grain, start, spans):
                yield cell, numbers


def _in(grain: int, start: int, spans: list[Span]) -> bool:
    return any(grain == of and since <= start < until for of, since, until in spans)
