"""What the demo says: progress on stderr, the result on stdout, for people or as JSON. Unknown is null or "unknown".

The report and the call map are those of `bursar report --by step` and `bursar run`. The JSON object has `agents` (by
name: runs, calls, cost_usd, cost_per_run_usd, right, graded, quality), `estimate_per_1000_usd`,
`measured_per_1000_usd`, `bill_usd`, `ledger_usd`, `exact`, `seconds` and `report`. All but `seconds` is the same for
the same number of runs.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bursar.doors.cli import tables
from bursar.doors.cli.shared import say_json
from bursar.doors.demo.play import TIERS, Heard, Played
from bursar.insights import callmap, report
from bursar.money import divide_half_even, format_usd
from bursar.stores.base import Filters, Store

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


@contextmanager
def progress(agents: Sequence[str], runs: int) -> Iterator[Heard]:
    """Counts the finished runs of every agent on stderr; on a terminal only, in place."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {agent: bars.add_task(agent, total=runs) for agent in agents}
        if not console.is_terminal:
            sys.stderr.write(f"bursar demo: {len(agents)} agents, {runs} x each, on the simulated provider ...\n")
        yield lambda agent, done: bars.update(tasks[agent], completed=done)


# --- for machines


def as_json(played: Played, store: Store) -> None:
    """One JSON object on stdout."""
    say_json(
        {
            "agents": {name: _agent(played, name) for name in played.runs},
            "estimate_per_1000_usd": format_usd(played.estimate_per_1000),
            "measured_per_1000_usd": format_usd(played.measured_per_1000),
            "bill_usd": format_usd(played.bill),
            "ledger_usd": format_usd(played.ledger),
            "exact": played.exact,
            "seconds": round(played.seconds, 1),
            "report": report.as_json(_report(store)),
        }
    )


def _agent(played: Played, name: str) -> dict[str, Any]:
    """An agent's figures; what its sub-agents did is its own."""
    runs, grade = played.runs[name], played.grades[name]
    return {
        "runs": len(runs),
        "calls": sum(run.tree_rows for run in runs),
        "cost_usd": format_usd(played.cost(name)),
        "cost_per_run_usd": format_usd(divide_half_even(played.cost(name), len(runs))),
        "right": grade.right,
        "graded": grade.graded,
        "quality": grade.quality,
    }


def _report(store: Store) -> report.Report:
    """By step; by agent it is within the metrics."""
    return report.build(store, by="step", tiers=tuple(TIERS), steps=())


# --- for people


def as_text(played: Played, store: Store, out: "Console") -> None:
    """The report, the estimate and why it is wrong, one run's call map, the proof, and what to do next."""
    summary(played, store, out)
    _print_run(out, store, max(played.runs["researcher"], key=lambda run: run.tree_cost_nanos).run_id)
    proof(played, out)
    _title(out, "Next")
    for what, how, where in _NEXT:
        out.print(f"  {what:<14}{how:<29}{where}")


def summary(played: Played, store: Store, out: "Console") -> None:
    """The report, how good the answers were, and the estimate."""
    calls = sum(run.tree_rows for runs in played.runs.values() for run in runs)
    _title(out, f"Three agents on the simulated provider: {calls:,} calls by the real SDKs in {played.seconds:.0f} s")
    tables.print_report(_report(store), out)
    right = (f"{name} {tables.percent(grade.quality)} of {grade.graded}" for name, grade in played.grades.items())
    out.print(f"\nRight answers: {', '.join(right)}")
    _print_estimate(out, played, store)


def proof(played: Played, out: "Console") -> None:
    """The ledger's sum and the provider's bill, and by how much they differ where they do."""
    sign, style = ("=", "bold green") if played.exact else ("≠", "bold red")
    ledger, bill = format_usd(played.ledger), format_usd(played.bill)
    _title(out, f"Proof: ledger ${ledger} {sign} provider's own bill ${bill}", style)
    if not played.exact:
        out.print(f"They differ by ${format_usd(abs(played.ledger - played.bill))}. This is a bug: please report it.")


def _title(out: "Console", text: str, style: str = "bold") -> None:
    out.print()
    out.print(text, style=style)


def _print_estimate(out: "Console", played: Played, store: Store) -> None:
    """1,000 reports as reckoned and as measured, and where it goes: by step, what the sub-agent did apart."""
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


def _print_run(out: "Console", store: Store, run_id: str) -> None:
    """The call map of one run."""
    entries = store.run(run_id)
    _title(out, "The dearest of them, call by call")
    tables.print_run(run_id, store.run_total(run_id, entries[0].tenant), callmap.grow(run_id, entries), out)
    turns = [n for entry in entries if entry.step == "gather" and (n := entry.input_tokens)]
    out.print(
        f"\nWhile it gathered, its conversation grew to {max(turns):,} tokens and was sent {len(turns)} times: "
        f"{sum(turns):,} input tokens."
    )
