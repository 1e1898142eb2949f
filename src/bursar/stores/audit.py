"""The audit: every row counted again from nothing, held against what the books say. Pure; it reads all it is given.

A sum that is off, a row that nobody can close, a cost that contradicts its status: each is one Finding with its cure.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar

from bursar.rules.book import charged
from bursar.stores.balances import CounterKey, key_of
from bursar.stores.base import BudgetLine, Finding
from bursar.stores.counters import FIELDS, ZERO, Cell, Vector, cells, vector
from bursar.stores.forest import Bin, Run, RunKey, Weight, places
from bursar.stores.tally import add, rolled
from bursar.types import Entry

Row: TypeAlias = tuple[Entry, str]
"""A row and the owner that opened it."""

K = TypeVar("K")

_CURE = "the books were written by something else than Bursar, or this is a bug: report it with this line"
_SHOWN = 100
"""Findings of one kind beyond this many are summed up in one line."""


class _Recount:
    """What the books should say."""

    def __init__(self) -> None:
        self.rollups: dict[Cell, Vector] = {}
        """Of the finest grain."""
        self.runs: defaultdict[RunKey, list[int]] = defaultdict(lambda: [0] * 6)
        self.known_runs: set[RunKey] = set()
        self.counters: defaultdict[CounterKey, list[int]] = defaultdict(lambda: [0] * 5)
        self.rows: list[Finding] = []

    def take(self, entry: Entry, owner: str, alive: Callable[[str], bool]) -> None:
        self._weigh(entry)
        key = None if entry.run_id is None else (entry.tenant, entry.run_id)
        if key is not None:
            self.known_runs.add(key)
        if entry.status == "open":
            if not alive(owner):
                self._find(
                    entry, "an owner that lives", f"open, owner {owner!r} is gone", "reopen the store or sweep()"
                )
            return
        if (entry.cost_nanos is None) != (entry.cost_status == "unpriced"):
            self._find(
                entry, "unpriced exactly where no cost is known", f"{entry.cost_status}, {entry.cost_nanos}", _CURE
            )
        if entry.status in ("completed", "failed", "abandoned") and entry.duration_ms is None:
            self._find(entry, "a duration", "none", _CURE)
        numbers = vector(entry)
        for cell in cells(entry):
            had = self.rollups.get(cell)
            self.rollups[cell] = numbers if had is None else add(had, numbers)
        if key is not None:
            mine = self.runs[key]
            for at, name in enumerate(("calls", None, "input_tokens", "output_tokens", "cost_nanos", "unpriced")):
                mine[at] += 1 if name is None else numbers[FIELDS.index(name)]

    def _weigh(self, entry: Entry) -> None:
        """What the row comes to in each counter that it was charged to: settled and held, nano-dollars and tokens."""
        for charge in entry.charges:
            if entry.status == "open":
                amounts = (0, 0, charge.nanos, charge.tokens, 1)
            else:
                amounts = (*charged(entry, charge), 0, 0, 1)
            mine = self.counters[key_of(charge)]
            for at, number in enumerate(amounts):
                mine[at] += number

    def _find(self, entry: Entry, expected: str, found: str, cure: str) -> None:
        self.rows.append(Finding(f"call {entry.request_id} attempt {entry.attempt}", expected, found, cure))


def audit(
    rows: Iterable[Row],
    rollups: Mapping[Cell, Vector],
    runs: Mapping[RunKey, Run],
    histogram: Mapping[Bin, Weight],
    counters: Mapping[CounterKey, BudgetLine],
    alive: Callable[[str], bool],
) -> list[Finding]:
    """Every mismatch between the rows and the rollups, runs, histogram and counters; empty: all sums hold."""
    recount = _Recount()
    for entry, owner in rows:
        recount.take(entry, owner, alive)
    findings = _clip(recount.rows)
    findings += _clip(_compare("rollup", rolled(recount.rollups), rollups, ZERO))
    findings += _clip(_check_runs(recount, runs))
    findings += _clip(_compare("histogram", _histogram(runs), histogram, (0, 0, 0)))
    due = {key: tuple(numbers) for key, numbers in recount.counters.items()}
    findings += _clip(_compare("counter", due, {key: _numbers(line) for key, line in counters.items()}, (0,) * 5))
    return findings


def _numbers(line: BudgetLine) -> Vector:
    balance = line.counter.balance
    return (
        balance.settled_nanos, balance.settled_tokens, balance.held_nanos, balance.held_tokens, line.rows
    )  # fmt: skip


def _compare(name: str, expected: Mapping[K, Vector], found: Mapping[K, Vector], zero: Vector) -> list[Finding]:
    """Absent and all zero are the same."""
    return [
        Finding(f"{name} {key}", str(expected.get(key, zero)), str(found.get(key, zero)), _CURE)
        for key in expected.keys() | found.keys()
        if expected.get(key, zero) != found.get(key, zero)
    ]


def _check_runs(recount: _Recount, runs: Mapping[RunKey, Run]) -> list[Finding]:
    findings: list[Finding] = []
    trees: defaultdict[RunKey, list[int]] = defaultdict(lambda: [0, 0, 0])
    parents: set[RunKey] = set()
    for (tenant, run_id), run in runs.items():
        own = [run.calls, run.rows, run.input_tokens, run.output_tokens, run.cost_nanos, run.unpriced]
        expected = recount.runs.get((tenant, run_id), [0] * 6)
        if own != expected:
            findings.append(Finding(f"run {run_id} of {tenant}", str(expected), str(own), _CURE))
        for at, number in enumerate((run.rows, run.cost_nanos, run.unpriced)):
            trees[tenant, run.root_run_id][at] += number
        if run.parent_run_id is not None:
            parents.add((tenant, run.parent_run_id))
        findings += _rooted(run, runs)
    for key, run in runs.items():
        told = [run.tree_rows, run.tree_cost_nanos, run.tree_unpriced]
        due = trees[key] if run.is_root else [0, 0, 0]
        if told != due:
            findings.append(Finding(f"tree of run {run.run_id} of {run.tenant}", str(due), str(told), _CURE))
        if key not in recount.known_runs and key not in parents:
            findings.append(Finding(f"run {run.run_id} of {run.tenant}", "a call", "none", _CURE))
    for key in recount.known_runs - runs.keys():
        findings.append(Finding(f"run {key[1]} of {key[0]}", "its totals", "none", _CURE))
    return findings


def _rooted(run: Run, runs: Mapping[RunKey, Run]) -> list[Finding]:
    """A run's root is its parent's root; a run without a parent is its own."""
    parent = None if run.parent_run_id is None else runs.get((run.tenant, run.parent_run_id))
    due = run.run_id if parent is None else parent.root_run_id
    if run.root_run_id == due and (parent is not None or run.parent_run_id is None):
        return []
    return [Finding(f"root of run {run.run_id} of {run.tenant}", due, run.root_run_id, _CURE)]


def _histogram(runs: Mapping[RunKey, Run]) -> dict[Bin, Weight]:
    sums: defaultdict[Bin, list[int]] = defaultdict(lambda: [0, 0, 0])
    for run in runs.values():
        for at, weight in places(run):
            for index, number in enumerate(weight):
                sums[at][index] += number
    return {at: (runs_, cost, unpriced) for at, (runs_, cost, unpriced) in sums.items()}


def _clip(findings: list[Finding]) -> list[Finding]:
    if len(findings) <= _SHOWN:
        return findings
    more = len(findings) - _SHOWN
    return [*findings[:_SHOWN], Finding(f"{more} more of this kind", "none", str(more), _CURE)]
