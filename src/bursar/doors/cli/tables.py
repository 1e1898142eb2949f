"""Reports, runs and call maps for people: quiet tables, numbers to the right, unknown called unknown.

A sum with unknown parts is shown as a lower bound (≥). Labels come from callers and other tools' logs: what a terminal
would obey rather than print is shown as a replacement character. What is piped is never cut off; on a narrow terminal
columns are left out and labels shortened, but never a number: half a number is a wrong one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from bursar.insights.hits import learned
from bursar.insights.hits import share as saved
from bursar.insights.report import Report, share
from bursar.insights.routes import Route, Routes, Tried
from bursar.stores.base import Counters, Key, Line, Page, Run, RunCosts
from bursar.types import Instant

_ENDLESS = 1000
_MANY = 50
_SHORT = 18
"""Characters of a label that are worth more than a spare column."""
_GAP = 2
_JUDGED = ("step", "tier", "model")
"""Labels whose lines tell how many answers their checks have passed and rejected."""


def console() -> Console:
    """Stdout, as wide as the terminal; as wide as the longest line where it is none."""
    told = _Console(highlight=False, markup=False, emoji=False)
    return told if told.is_terminal else _Console(highlight=False, markup=False, emoji=False, width=_ENDLESS)


class _Console(Console):
    """Leaves a reader that has gone away to `main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


# --- the report


def print_report(report: Report, out: Console) -> None:
    """The four metrics, the table that was asked for, and what the numbers say."""
    total, metrics = report.total, report.metrics
    out.print(Text(f"{_period(report)}", "bold"))
    if not report.lines and not total.attempts and not total.calls:
        out.print("No calls in this period.")
        return
    out.print(f"{_calls(total)}, {tokens_told(total)}, {cost(total)}")
    _print(out, _runs_table(report), "p99", "p50", "own output", "own input")
    mean = _bound(metrics.cost_per_user_nanos or 0, total.unpriced) if metrics.users else "no call names its user"
    _say(out, "Cost per user", f"{mean}, {plural(metrics.users, 'user')}")
    if metrics.top_users:
        _print(out, _lines_table("", "user", metrics.top_users, total))
    hits = f"{total.hits:,} of {plural(total.calls, 'call')}, {dollars(total.saved_nanos)} saved"
    _say(out, "Cache hit rate", f"{percent(metrics.hit_rate)}: {hits}")
    if total.hits:
        _print(out, _hits_table("Hits by cache", report.hits.caches, total))
        _print(out, _hits_table("Hits by step", report.hits.steps, total))
    for pool in map(learned, report.hits.pools):
        if (rate := pool["wrong_of_hits"]) is not None:
            told = f"{rate:.1%} of the hits are wrong ({pool['low']:.1%} to {pool['high']:.1%})"
            _say(out, "Semantic cache", f"{plain(pool['step'])}, {pool['served']:,} given: {told}")
    _say(out, "Providers' own prompt caches", f"{percent(metrics.cached_input_share)} of input tokens")
    _print(out, _lines_table("Models by tier", "tier", report.tiers, total))
    if report.routes is not None and report.routes.steps:
        _print(out, _routes_table(report.routes), "false passes", "attempts")
    if report.by != "model":
        _print(out, _lines_table("By model", "model", metrics.models, total))
    if report.by != "tier" or report.agent is not None:
        of = f" of {plain(report.agent)}" if report.agent is not None else ""
        whole = total if report.agent is None else report.agents.get(report.agent, Counters())
        _print(out, _lines_table(f"By {plain(report.by)}{of}", report.by, report.lines, whole))
    if report.remarks:
        out.print()
    for remark in report.remarks:
        mark = ("+ ", "bold green") if remark.good else ("! ", "bold yellow")
        out.print(Text.assemble(mark, plain(remark.text)))


def _print(out: Console, table: Table, *spare: str) -> None:
    out.print()
    fit(out, table, *spare)


def fit(out: Console, table: Table, *spare: str) -> None:
    """A table, no wider than the terminal if labels can be shortened so far; `spare`: what goes first, in order."""
    for name in spare:
        if sum(_room(column, _SHORT) for column in table.columns) - _GAP > out.width:
            kept = (column for column in table.columns if str(column.header) != name)
            table.columns = [replace(column, _index=place) for place, column in enumerate(kept)]
    widths = [_room(column) for column in table.columns]
    labels = [place for place, column in enumerate(table.columns) if column.justify == "left"]
    for _ in range(sum(widths) - _GAP - out.width):
        widths[max(labels, key=widths.__getitem__)] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = max(width - _GAP, 1)
    out.print(table, width=max(out.width, sum(widths)), crop=False)


def _room(column: Column, most: int = _ENDLESS) -> int:
    """What a column takes up with the gap behind it; a label at most so much."""
    whole = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    return _GAP + (min(whole, most) if column.justify == "left" else whole)


def _say(out: Console, title: str, told: str) -> None:
    out.print(Text.assemble("\n", (title, "bold"), f"  {told}"))


def _period(report: Report) -> str:
    since = "from the beginning" if report.since is None else f"from {when(report.since)}"
    until = "until now" if report.until is None else f"until {when(report.until)}"
    return f"{since} {until}" + (f", tenant {plain(report.tenant)}" if report.tenant else "")


def _runs_table(report: Report) -> Table:
    metrics = report.metrics
    table = grid("Cost per agent run", "agent", "runs", "mean", "p50", "p90", "p99", "total", "own input", "own output")
    for costs in metrics.runs_by_agent:
        table.add_row(plain(costs.agent_id), *_costs(costs), *_own(report.agents.get(costs.agent_id, Counters())))
    if len(metrics.runs_by_agent) != 1:
        table.add_row("all", *_costs(metrics.runs), *_own(report.total), style="bold")
    return table


def _costs(costs: RunCosts) -> list[str]:
    least = "≥ " if costs.unpriced_runs else ""
    if costs.unpriced_runs == costs.runs and not costs.cost_nanos:
        return [f"{costs.runs:,}", *["unknown"] * 5]
    told = (costs.mean_nanos, costs.p50_nanos, costs.p90_nanos, costs.p99_nanos, costs.cost_nanos)
    return [f"{costs.runs:,}", *(least + dollars(nanos) for nanos in told)]


def _own(counts: Counters) -> tuple[str, str]:
    return tokens(counts, counts.input_tokens), tokens(counts, counts.output_tokens)


def _lines_table(title: str, by: str, lines: Sequence[Line], total: Counters) -> Table:
    """The first lines of many; columns of unknowns and of what was judged only where there are any."""
    shown = lines if by in ("day", "hour") else lines[:_MANY]
    rare = ("passed", "rejected", "unpriced", "estimated") if by in _JUDGED else ("unpriced", "estimated")
    unknowns = [name for name in rare if any(getattr(line.counts, name) for line in lines)]
    table = grid(title, by, "calls", "input", "cached", "output", "cost", "of cost", *unknowns)
    for line in shown:
        told = line.counts
        counts = (tokens(told, n) for n in (told.input_tokens, told.cached_tokens, told.output_tokens))
        part = percent(share(told.cost_nanos, total.cost_nanos))
        unknown = (f"{n:,}" if (n := getattr(told, name)) else "" for name in unknowns)
        table.add_row(plain(line.key), f"{told.calls:,}", *counts, cost(told), part, *unknown)
    if len(shown) < len(lines):
        table.add_row(f"and {len(lines) - len(shown):,} more: --json or --csv has them all")
    return table


def _hits_table(title: str, lines: Sequence[Line], total: Counters) -> Table:
    """Shares: of the line's own calls, and of all dollars that would have been paid without a cache."""
    table = grid(title, "", "calls", "hits", "of calls", "saved", "of dollars")
    for line in lines[:_MANY]:
        told = line.counts
        counts = (f"{told.calls:,}", f"{told.hits:,}", percent(share(told.hits, told.calls)))
        table.add_row(plain(line.key), *counts, dollars(told.saved_nanos), percent(saved(told, total)))
    return table


def _routes_table(routes: Routes) -> Table:
    """A line for each tier of each step; what a solved request cost stands on the step's first one."""
    audited = any(one.audits is not None for step in routes.steps for one in step.tiers)
    columns = ("step", "tier", "attempts", "judged", "passed", "cost", "per solved")
    more = ("audited", "right", "false passes") if audited else ()
    table = grid("Pass rates by step and tier", *columns, *more, left=2)
    for step in routes.steps[:_MANY]:
        for at, one in enumerate(step.tiers):
            table.add_row(
                "" if at else plain(step.step),
                plain(one.tier),
                *_tried(one),
                *_solved(step, at),
                *_worth(one)[: len(more)],
            )
    if len(routes.steps) > _MANY:
        table.add_row(f"and {len(routes.steps) - _MANY:,} more: --json has them all")
    return table


def _tried(one: Tried) -> tuple[str, ...]:
    told = one.counts
    judged = told.passed + told.rejected
    return f"{told.attempts + told.hits:,}", f"{judged:,}", percent(one.pass_rate) if judged else "", cost(told)


def _solved(step: Route, at: int) -> tuple[str]:
    if at or step.solved is None:
        return ("",)
    return ("none solved" if step.solved_nanos is None else _bound(step.solved_nanos, step.counts.unpriced),)


def _worth(one: Tried) -> tuple[str, ...]:
    if one.audits is None or not one.audits.total[1]:
        return ("", "", "")
    agreed, audited = one.audits.total
    false = one.false_pass_rate
    return f"{audited:,}", percent(share(agreed, audited)), "" if false is None else percent(false)


# --- runs


def print_runs(page: Page[Run], out: Console) -> None:
    """The list of runs, newest first: each run's own figures, and for a root what all that is nested in it cost."""
    columns = ("run", "agent", "user", "session", "started", "attempts", "input", "output", "cost", "with nested")
    table = grid("", *columns, left=5)
    for run in page.items:
        whole = _bound(run.tree_cost_nanos, run.tree_unpriced) if run.is_root else "nested"
        table.add_row(
            plain(run.run_id),
            *(plain(label) for label in (run.agent_id, run.user_id, run.session_id)),
            when(run.first_at),
            f"{run.rows:,}" + (f" +{run.open:,} open" if run.open else ""),
            f"{run.input_tokens:,}",
            f"{run.output_tokens:,}",
            _bound(run.cost_nanos, run.unpriced),
            whole,
        )
    if page.items:
        fit(out, table, "session", "started", "user", "input", "output")
    else:
        out.print("No runs in this period.")
    if page.next_cursor is not None:
        out.print(f"More: --cursor {page.next_cursor}")


# --- keys


def print_keys(keys: Iterable[Key], out: Console) -> None:
    """Bursar keys, without their secrets."""
    table = grid("", "key", "name", "tenant", "role", "trusted claims", "created", "revoked", left=7)
    for key in keys:
        revoked = "" if key.revoked_at is None else when(key.revoked_at)
        claims = ", ".join(sorted(key.trusted_claims)) or "none"
        table.add_row(key.key_id, plain(key.name), plain(key.tenant), key.role, claims, when(key.created_at), revoked)
    out.print(table)


# --- words and numbers


def dollars(nanos: int | None) -> str:
    """Dollars for the eye: six decimals below a cent, four below ten dollars, else two."""
    if nanos is None:
        return "unknown"
    places = 6 if 0 < abs(nanos) < 10_000_000 else 4 if abs(nanos) < 10_000_000_000 else 2
    return f"${Decimal(nanos).scaleb(-9):,.{places}f}" if nanos else "$0"


def cost(counts: Counters) -> str:
    """A sum's dollars."""
    return _bound(counts.cost_nanos, counts.unpriced)


def _bound(nanos: int, unpriced: int) -> str:
    """Dollars, a lower bound where some rows have no known cost; unknown where nothing is known."""
    if unpriced:
        return f"≥ {dollars(nanos)}" if nanos else "unknown"
    return dollars(nanos)


def tokens(counts: Counters, number: int) -> str:
    """A sum of tokens; a lower bound where some of its rows have none known."""
    if counts.unknown_usage:
        return f"≥ {number:,}" if number else "unknown"
    return f"{number:,}"


def percent(part: float | None) -> str:
    """A share in whole percent; None is unknown."""
    return "unknown" if part is None else f"{part:.0%}"


def when(at: Instant) -> str:
    """A time to the second, UTC."""
    return datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def plain(label: str | None) -> str:
    """A label as it may be printed; None is "(none)"."""
    if label is None:
        return "(none)"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in label)


def plural(number: int, noun: str) -> str:
    """ "1 call", "2 calls"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _calls(counts: Counters) -> str:
    return f"{plural(counts.calls, 'call')} ({plural(counts.attempts, 'attempt')}, {counts.failed:,} failed)"


def tokens_told(counts: Counters) -> str:
    """A sum's tokens in and out, in words."""
    read, written = tokens(counts, counts.input_tokens), tokens(counts, counts.output_tokens)
    cached = percent(share(counts.cached_tokens, counts.input_tokens)) if counts.input_tokens else "0%"
    return f"{read} tokens in ({cached} cached), {written} out"


def grid(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table: so many columns of labels at the left, the others of numbers."""
    table = Table(
        title=title or None, title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    last = len(columns) - 1
    for place, name in enumerate(columns):
        text = place < left or (place == last and not name)
        table.add_column(Text(name), justify="left" if text else "right", no_wrap=True, overflow="ellipsis")
    return table
