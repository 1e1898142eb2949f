"""What the demo says: progress on stderr, the result on stdout, for people or as JSON. Unknown is null or "unknown".

The JSON object has `agents` (by name: runs, calls, cost_usd, cost_per_run_usd, right, graded, quality),
`estimate_per_1000_usd`, `measured_per_1000_usd`, `bill_usd`, `ledger_usd`, `exact`, `seconds` and `report`. All but
`seconds` is the same for the same number of runs.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bursar.doors.demo.play import Heard, Played
from bursar.insights import rows
from bursar.money import divide_half_even, format_usd
from bursar.stores.base import Counters, Filters, Line, RunCosts, Store
from bursar.types import Entry

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH = 108
_STEPS = {
    "plan": "the question is divided into parts",
    "gather": "every turn sends the whole conversation again",
    "ask again": "notes without a source are asked for twice",
    "think": "hard questions go to a reasoning model as well",
    "report": "the call that the estimate is made of",
}
_LOW_HITS, _TOP_HEAVY = 0.2, 0.8
_TOP_REMARK = ": four fifths of the dollars go to the dearest"
_NEXT = (
    ("in your code", "guard = bursar.open(); client = guard.wrap(OpenAI())", "docs/library.md"),
    ("without code", "bursar serve, then base_url = http://127.0.0.1:4600/v1", "docs/gateway.md"),
    ("this demo", "its agents, and how its numbers come about", "docs/demo.md"),
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
    """One JSON object."""
    result = {
        "agents": {name: _agent(played, name) for name in played.runs},
        "estimate_per_1000_usd": format_usd(played.estimate_per_1000),
        "measured_per_1000_usd": format_usd(played.measured_per_1000),
        "bill_usd": format_usd(played.bill),
        "ledger_usd": format_usd(played.ledger),
        "exact": played.exact,
        "seconds": round(played.seconds, 1),
        "report": _report(store),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


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


def _report(store: Store) -> dict[str, Any]:
    metrics = store.metrics()
    return {
        "total": rows.counters(metrics.total),
        "cost_per_run": [_costs(costs) for costs in (metrics.runs, *metrics.runs_by_agent)],
        "cost_per_user_usd": rows.usd(metrics.cost_per_user_nanos),
        "users": metrics.users,
        "cache_hit_rate": metrics.hit_rate,
        "cached_input_share": metrics.cached_input_share,
        "by_tier": [rows.line("tier", line) for line in metrics.tiers],
        "by_model": [rows.line("model", line) for line in metrics.models],
        "by_agent": [rows.line("agent", line) for line in store.spend("agent")],
        "by_step": [rows.line("step", line) for line in store.spend("step")],
    }


def _costs(costs: RunCosts) -> dict[str, Any]:
    named = {field: getattr(costs, field) for field in costs.__struct_fields__}
    return {
        (field.replace("_nanos", "_usd")): rows.usd(value) if field.endswith("_nanos") else value
        for field, value in named.items()
    }


# --- for people


def as_text(played: Played, store: Store) -> None:
    """The report, the estimate and why it is wrong, one run's call map, the proof, and what to do next."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    calls = sum(run.tree_rows for runs in played.runs.values() for run in runs)
    console.print(
        f"\n[bold]Three agents on the simulated provider[/]: {calls} calls by the real SDKs, "
        f"{_dollars(played.ledger)} at list prices, {played.seconds:.0f} s."
    )
    _print_agents(console, played, store)
    _print_metrics(console, store)
    _print_estimate(console, played, store)
    _print_run(console, store, max(played.runs["researcher"], key=lambda run: run.tree_cost_nanos).run_id)
    word = "=" if played.exact else "[bold red]≠[/]"
    console.print(
        f"\n[bold]Proof[/]: ledger ${format_usd(played.ledger)} {word} provider's own bill ${format_usd(played.bill)}"
    )
    if not played.exact:
        console.print(
            f"They differ by ${format_usd(abs(played.ledger - played.bill))}. This is a bug: please report it."
        )
    console.print("\n[bold]Next[/]")
    for what, how, where in _NEXT:
        console.print(f"  {what:<13} {how:<55} {where}")


def _print_agents(console: "Console", played: Played, store: Store) -> None:
    costs = {found.agent_id: found for found in store.metrics().runs_by_agent}
    table = _table("Cost per agent run", "agent", "runs", "calls", "mean", "p50", "p90", "total", "right answers")
    for name, runs in played.runs.items():
        grade, found = played.grades[name], costs[name]
        table.add_row(
            name,
            str(len(runs)),
            str(sum(run.tree_rows for run in runs)),
            *(_dollars(nanos) for nanos in (found.mean_nanos, found.p50_nanos, found.p90_nanos, played.cost(name))),
            f"{_percent(grade.quality)} of {grade.graded}",
        )
    console.print(table)


def _print_metrics(console: "Console", store: Store) -> None:
    metrics = store.metrics()
    top = ", ".join(f"{line.key} {_dollars(line.counts.cost_nanos)}" for line in metrics.top_users[:3])
    console.print(f"\n[bold]Cost per user[/]: {_dollars(metrics.cost_per_user_nanos)}, {metrics.users} users; {top}")
    hits = metrics.hit_rate
    low = "; under 20 %: what is asked again is paid again" if hits is not None and hits < _LOW_HITS else ""
    console.print(f"[bold]Cache hit rate[/]: {_percent(hits)}{low}")
    console.print(f"[bold]Providers' own prompt caches[/]: {_percent(metrics.cached_input_share)} of input tokens")
    top_heavy = next((_TOP_REMARK for line in metrics.tiers if _is_top_heavy(line, metrics.total)), "")
    for title, by in ((f"Models by tier{top_heavy}", "tier"), ("By step", "step")):
        table = _table(title, by, "calls", "input", "cached", "output", "cost", "share")
        for line in store.spend(by):
            told = line.counts
            counts = (told.calls, told.input_tokens, told.cached_tokens, told.output_tokens)
            figures = (*(f"{n:,}" for n in counts), _dollars(told.cost_nanos), _percent(_share(told, metrics.total)))
            table.add_row(line.key or "(none)", *figures)
        console.print(table)


def _is_top_heavy(line: Line, total: Counters) -> bool:
    return line.key == "frontier" and (_share(line.counts, total) or 0) >= _TOP_HEAVY


def _print_estimate(console: "Console", played: Played, store: Store) -> None:
    reports = len(played.runs["researcher"])
    times = played.measured_per_1000 / played.estimate_per_1000
    console.print(
        f"\n[bold]1,000 research reports[/]: estimated from the main call {_dollars(played.estimate_per_1000)}, "
        f"measured [bold]{_dollars(played.measured_per_1000)}[/]: {times:.1f} times as much."
    )
    table = _table("Where it goes", "step", "calls a report", "$ per 1,000", "why")
    found = {line.key or "": line.counts for line in store.spend("step", filters=Filters(agent_id="researcher"))}
    found["fact-checker"] = next(line.counts for line in store.spend("agent") if line.key == "fact-checker")
    whys: Mapping[str, str] = {**_STEPS, "fact-checker": "a sub-agent reads the pages again"}
    for step, counts in sorted(found.items(), key=lambda pair: -pair[1].cost_nanos):
        per_1000 = divide_half_even(counts.cost_nanos * 1000, reports)
        table.add_row(step, f"{counts.attempts / reports:.1f}", _dollars(per_1000), whys.get(step, ""))
    console.print(table)


def _print_run(console: "Console", store: Store, run_id: str) -> None:
    entries = store.run(run_id)
    table = _table(
        f"The dearest of them, call by call: {run_id}", "s", "step", "model", "input", "cached", "output", "cost", ""
    )
    for entry in entries:
        nested = entry.run_id != run_id
        table.add_row(
            f"{(entry.started_at - entries[0].started_at) / 1e6:.2f}",
            f"  └ {entry.agent_id}" if nested else entry.step or "",
            entry.model or "unknown",
            *(_count(n) for n in (entry.input_tokens, entry.cached_tokens, entry.output_tokens)),
            _dollars(entry.cost_nanos),
            _remark(entry),
        )
    console.print(table)
    turns = [n for entry in entries if entry.step == "gather" and (n := entry.input_tokens)]
    console.print(
        f"While it gathered, its conversation grew to {max(turns):,} tokens and was sent {len(turns)} times: "
        f"{sum(turns):,} input tokens."
    )


def _remark(entry: Entry) -> str:
    if entry.status != "completed":
        return f"{entry.status}: {entry.http_status or entry.error}"
    if entry.sdk_retry:
        return f"retry {entry.sdk_retry} of the SDK"
    return f"{entry.reasoning_tokens:,} reasoning" if entry.reasoning_tokens else ""


def _table(title: str, first: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table

    left = {"step", "model", "why", ""}
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, justify="right" if first == "s" else "left", no_wrap=True)
    for other in others:
        table.add_column(other, justify="left" if other in left else "right", no_wrap=True)
    return table


def _share(part: Counters, whole: Counters) -> float | None:
    return part.cost_nanos / whole.cost_nanos if whole.cost_nanos else None


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.0%}"


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"


def _dollars(nanos: int | None) -> str:
    """Dollars for the eye: four decimals below ten dollars, else two."""
    if nanos is None:
        return "unknown"
    return f"${nanos / 1e9:,.4f}" if abs(nanos) < 10_000_000_000 else f"${nanos / 1e9:,.2f}"
