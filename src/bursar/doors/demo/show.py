"""What the demo says: progress on stderr, the result on stdout, for people or as JSON. Unknown is null or "unknown".

Report and call maps are those of `bursar report --by step` and `bursar run`. The JSON object has `agents` (by name:
runs, calls, cost_usd, cost_per_run_usd, right, graded, quality), `estimate_per_1000_usd`, `measured_per_1000_usd`,
`bill_usd`, `ledger_usd` and `report`, all of the first act; `exact` and `seconds` of both; `before` and `after` with
agents, bill_usd, ledger_usd, exact, seconds, calls, hit_rate, hits, prompt_cache_share, tiers, and after's report.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from bursar.doors import semantic
from bursar.doors.cli import callmap as maps
from bursar.doors.cli import tables
from bursar.doors.cli.shared import say_json
from bursar.doors.demo import versus
from bursar.doors.demo.play import Heard, Played
from bursar.doors.open import Books
from bursar.insights import callmap, report
from bursar.money import divide_half_even, format_usd
from bursar.stores.base import Filters, Run

if TYPE_CHECKING:
    from rich.console import Console

_WHY: Mapping[str, str] = {
    "plan": "the question is divided into parts",
    "gather": "every turn sends the whole conversation again",
    "ask again": "notes without a source are asked for twice",
    "think": "hard questions go to a reasoning model as well",
    "fact-checker": "a sub-agent reads the pages again",
    "report": "the call that the estimate is made of",
}
_NEXT = (
    ("in your code", "guard.wrap(OpenAI())", "docs/library.md"),
    ("without code", "bursar serve, then base_url", "docs/gateway.md"),
    ("this demo", "how its numbers come about", "docs/demo.md"),
)


class Act(NamedTuple):
    """One act: what came of it, and its books, still open."""

    played: Played
    books: Books

    def report(self) -> report.Report:
        """By step; by agent it is within the metrics."""
        rules, store = self.books.policy, self.books.store
        pools = semantic.learned(store)
        return report.build(store, by="step", tiers=tuple(rules.tiers), steps=rules.steps, pools=pools)


@contextmanager
def progress(act: str, agents: Sequence[str], runs: int) -> Iterator[Heard]:
    """Counts the finished runs of every agent on stderr; on a terminal only, in place."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {agent: bars.add_task(f"{act}: {agent}", total=runs) for agent in agents}
        if not console.is_terminal:
            sys.stderr.write(f"bursar demo: {act}: {len(agents)} agents, {runs} x each, on the sandbox ...\n")
        yield lambda agent, done: bars.update(tasks[agent], completed=done)


# --- for machines


def as_json(before: Act, after: Act) -> None:
    """One JSON object on stdout."""
    first = before.played
    say_json(
        {
            "agents": _agents(first),
            "estimate_per_1000_usd": format_usd(first.estimate_per_1000),
            "measured_per_1000_usd": format_usd(first.measured_per_1000),
            "bill_usd": format_usd(first.bill),
            "ledger_usd": format_usd(first.ledger),
            "exact": first.exact and after.played.exact,
            "seconds": round(first.seconds + after.played.seconds, 1),
            "report": report.as_json(before.report()),
            "before": _act(before),
            "after": {**_act(after), "report": report.as_json(after.report())},
        }
    )


def _act(act: Act) -> dict[str, Any]:
    played = act.played
    return {
        "agents": _agents(played),
        "bill_usd": format_usd(played.bill),
        "ledger_usd": format_usd(played.ledger),
        "exact": played.exact,
        "seconds": round(played.seconds, 1),
        **versus.rates(act.report()),
    }


def _agents(played: Played) -> dict[str, Any]:
    return {name: _agent(played, name) for name in played.runs}


def _agent(played: Played, name: str) -> dict[str, Any]:
    """An agent's figures; what its sub-agents did is its own."""
    runs, grade = played.runs[name], played.grades[name]
    return {
        "runs": len(runs),
        "calls": sum(run.tree_rows for run in runs),
        "cost_usd": format_usd(played.cost(name)),
        "cost_per_run_usd": format_usd(played.per_run(name)),
        "right": grade.right,
        "graded": grade.graded,
        "quality": grade.quality,
    }


# --- for people


def as_text(before: Act, after: Act, out: "Console") -> None:
    """Report, estimate and why it is wrong, before and after, two runs' call maps, the proof, what to do next."""
    summary(before, after, out)
    dearest = max(after.played.runs["researcher"], key=lambda run: run.tree_cost_nanos)
    most = max(after.played.runs["legal"], key=lambda run: (run.tree_rows, run.run_id))
    _title(out, "After, call by call: the dearest report")
    _print_run(out, after, dearest)
    _title(out, "After, call by call: the contract that took most calls")
    _print_run(out, after, most)
    proof(before, after, out)
    _title(out, "Next")
    for what, how, where in _NEXT:
        out.print(f"  {what:<14}{how:<29}{where}")


def summary(before: Act, after: Act, out: "Console") -> None:
    """The first act's report and estimate, then both acts side by side."""
    played = before.played
    calls = sum(run.tree_rows for runs in played.runs.values() for run in runs)
    _title(out, f"Three agents on the simulated provider: {calls:,} calls by the real SDKs in {played.seconds:.0f} s")
    tables.print_report(before.report(), out)
    _print_estimate(out, before)
    _title(out, f"Before and after: the same code and tasks, now with all of it on, in {after.played.seconds:.0f} s")
    versus.print_agents(played, after.played, out)
    versus.print_rates(before.report(), after.report(), out)


def proof(before: Act, after: Act, out: "Console") -> None:
    """The ledgers' sums and the provider's bills, and by how much they differ where they do."""
    for act, what in ((before, ""), (after, " (after)")):
        sign, style = ("=", "bold green") if act.played.exact else ("≠", "bold red")
        ledger, bill = format_usd(act.played.ledger), format_usd(act.played.bill)
        _title(out, f"Proof{what}: ledger ${ledger} {sign} provider's own bill ${bill}", style)
        if not act.played.exact:
            differ = format_usd(abs(act.played.ledger - act.played.bill))
            out.print(f"They differ by ${differ}. This is a bug: please report it.")


def _title(out: "Console", text: str, style: str = "bold") -> None:
    out.print()
    out.print(text, style=style)


def _print_estimate(out: "Console", act: Act) -> None:
    """1,000 reports as reckoned and as measured, and where it goes: by step, what the sub-agent did apart."""
    played, store = act.played, act.books.store
    reports = len(played.runs["researcher"])
    times = played.measured_per_1000 / played.estimate_per_1000
    estimate, measured = tables.dollars(played.estimate_per_1000), tables.dollars(played.measured_per_1000)
    _title(out, f"1,000 research reports: estimated {estimate}, measured {measured}, {times:.1f} times as much")
    out.print(f"  {'step':<13}{'calls':>5}{'cost':>11}  (calls of one report, cost of 1,000)", style="dim")
    found = {line.key or "": line.counts for line in store.spend("step", filters=Filters(agent_id="researcher"))}
    found["fact-checker"] = next(line.counts for line in store.spend("agent") if line.key == "fact-checker")
    for step, counts in sorted(found.items(), key=lambda pair: -pair[1].cost_nanos):
        cost = tables.dollars(divide_half_even(counts.cost_nanos * 1000, reports))
        out.print(f"  {step:<13}{counts.attempts / reports:>5.1f}{cost:>11}  {_WHY.get(step, '')}")
    dearest = max(played.runs["researcher"], key=lambda run: run.tree_cost_nanos)
    turns = [n for entry in store.run(dearest.run_id) if entry.step == "gather" and (n := entry.input_tokens)]
    out.print(
        f"While the dearest of them gathered, its conversation grew to {max(turns):,} tokens and was sent "
        f"{len(turns)} times: {sum(turns):,} input tokens."
    )


def _print_run(out: "Console", act: Act, run: Run) -> None:
    """The call map of one run."""
    store = act.books.store
    entries = store.run(run.run_id)
    maps.print_run(run.run_id, store.run_total(run.run_id, entries[0].tenant), callmap.grow(run.run_id, entries), out)
