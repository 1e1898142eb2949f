"""`bursar budgets`: where every budget stands, who touched it; `bursar budgets suggest`: limits from recorded runs."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from bursar.config import BudgetSection
from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Misuse, Since, Tenant, Until, ledger, moment, say_json, working
from bursar.insights import rows, sizing
from bursar.insights.sizing import Sample, Size, Suggestion, Terms
from bursar.rules.grant import Amount, state
from bursar.stores.base import BudgetLine, Page, Store, Toucher
from bursar.types import PPM

app = App(
    name="budgets",
    help="Where the budgets stand; limits from recorded runs.",
    help_epilogue="Example: bursar budgets --name 'free users, daily'",
)

_MOST = 1000
_NAMED = 5
"""Ids that are named in a sentence; --json has them all."""


@app.default
def budgets(
    *,
    name: Annotated[str | None, Parameter(help="This budget alone, with whose rows it was charged.")] = None,
    tenant: Tenant = None,
    limit: Annotated[int, Parameter(help=f"How many, 1 to {_MOST}.")] = 50,
    cursor: Annotated[str | None, Parameter(help="Where the last page ended.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Where the budgets stand in the windows that are running, the last touched first."""
    if not 1 <= limit <= _MOST:
        raise Misuse(f"--limit {limit}: expected 1 to {_MOST}")
    with ledger(config) as (settings, store), working("reading the ledger"):
        try:
            page = store.budgets(tenant, name, limit, cursor)
        except ValueError as fault:
            raise Misuse(f"--cursor: {fault}") from None
        wanted = [one for one in settings.budgets if name in (None, one.name)]
        if name is not None and not (page.items or wanted or cursor):
            raise Misuse(f"no budget {name!r:.120} is configured, and none was touched: see `bursar budgets`")
        untouched = list(_untouched(store, wanted, tenant)) if cursor is None else []
        touchers = [store.touchers(line) for line in page.items] if name is not None else None
    if as_json:
        say_json({
            "items": _items(page.items, touchers),
            "untouched": [_section(one) for one in untouched],
            "next_cursor": page.next_cursor,
        })  # fmt: skip
    else:
        _print_budgets(page, untouched, touchers, tables.console())


@app.command(help_epilogue="Example: bursar budgets suggest --agent researcher --by tag:task --since 30d")
def suggest(
    *,
    agent: Annotated[str, Parameter(help="Whose runs, with all that is nested in them.")],
    by: Annotated[str | None, Parameter(help="tag:K: a limit for each kind of task that the tag K names.")] = None,
    coverage: Annotated[float, Parameter(help="Share of the runs to let through, before the buffer.")] = 0.9,
    buffer: Annotated[float, Parameter(help="Added on top, as a share of it.")] = 0.2,
    confidence: Annotated[float, Parameter(help="Of what is promised about runs to come.")] = 0.95,
    promise: Annotated[float, Parameter(help="Share of the runs that you want to say is stopped at most.")] = 0.02,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Limits on tokens and dollars of a run, computed from recorded runs, and what they would have stopped."""
    terms = Terms(
        coverage=_share("--coverage", coverage),
        buffer=_share("--buffer", buffer, most=10 * PPM, least=0),
        confidence=_share("--confidence", confidence, most=PPM - 1),
        promise=_share("--promise", promise, most=PPM - 1),
    )
    tag = None if by is None else by.removeprefix("tag:")
    if by is not None and (tag == by or not tag):
        raise Misuse(f"--by: expected tag:K, the tag that names the kind of a task, got {by!r:.80}")
    start, end = moment(since), moment(until)
    with ledger(config) as (_, store), working("reading the runs"):
        found = sizing.sample(store, agent, by=tag, since=start, until=end, tenant=tenant)
    told = sizing.suggest(agent, found.totals, terms, tag)
    if as_json:
        say_json({
            "suggestions": [sizing.as_json(one, terms) for one in told],
            "runs_under_way": found.under_way,
            "older_runs_left_out": found.more,
        })  # fmt: skip
    else:
        _print_suggestions(agent, found, told, terms, tables.console())


def _share(name: str, part: float, most: int = PPM, least: int = 1) -> int:
    """A share of one -> millionths."""
    if not least <= part * PPM <= most:
        raise Misuse(f"{name} {part}: expected a share such as 0.9, between {least / PPM:g} and {most / PPM:g}")
    return round(part * PPM)


def _untouched(store: Store, wanted: Sequence[BudgetSection], tenant: str | None) -> Iterator[BudgetSection]:
    """Configured, and nothing was charged to them in a window that is running."""
    return (one for one in wanted if not store.budgets(tenant, one.name, 1).items)


# --- where they stand


def _items(lines: Sequence[BudgetLine], touchers: Sequence[Sequence[Toucher]] | None) -> list[dict[str, Any]]:
    if touchers is None:
        return [rows.budget(line) for line in lines]
    return [rows.budget(line, who) for line, who in zip(lines, touchers, strict=True)]


def _section(one: BudgetSection) -> dict[str, Any]:
    return {
        "name": one.name, "scope": one.scope, "window": one.window, "timezone": one.timezone,
        "limit_usd": rows.usd(one.limit_usd), "limit_tokens": one.limit_tokens,
    }  # fmt: skip


def _print_budgets(
    page: Page[BudgetLine], untouched: Sequence[BudgetSection], touchers: Sequence[Sequence[Toucher]] | None,
    out: Console,
) -> None:  # fmt: skip
    """A row for each side that is limited: a budget of dollars and tokens has two."""
    table = tables.grid(
        "", "budget", "whose", "window", "state", "limit", "spent", "held", "left", "used", "resets", left=4
    )
    for line in page.items:
        claim = line.counter.claim
        labels = [claim.budget, _whose(claim.scope, claim.key, claim.tenant), claim.window, state(line.counter)]
        for number, (unit, figures) in enumerate(_sides(line)):
            shown = [tables.plain(label) for label in labels] if not number else [""] * len(labels)
            end = line.counter.end
            resets = "" if number else "never" if end is None else tables.when(end)
            table.add_row(*shown, *(_amount(unit, n) for n in figures), _used(figures), resets)
    for one in untouched:
        limit = Amount(one.limit_usd, one.limit_tokens)
        table.add_row(tables.plain(one.name), f"every {one.scope}", one.window, "untouched", str(limit), *[""] * 5)
    if not (page.items or untouched):
        out.print("No budget is configured ([[budgets]]), and none was given to a run.")
        return
    tables.fit(out, table, "window", "resets", "held", "used")
    for line, who in zip(page.items, touchers or (), strict=False):
        out.print()
        _print_touchers(line, who, out)
    if page.next_cursor is not None:
        out.print(f"More: --cursor {page.next_cursor}")


def _print_touchers(line: BudgetLine, who: Sequence[Toucher], out: Console) -> None:
    claim = line.counter.claim
    title = f"Who touched {tables.plain(claim.budget)} ({tables.plain(_whose(claim.scope, claim.key, claim.tenant))})"
    table = tables.grid(title, "agent", "user", "step", "rows", "cost", "tokens", left=3)
    for one in who:
        labels = (tables.plain(label) for label in (one.agent_id, one.user_id, one.step))
        table.add_row(*labels, f"{one.rows:,}", tables.dollars(one.nanos), f"{one.tokens:,}")
    tables.fit(out, table)


def _sides(line: BudgetLine) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Limit, settled, held and left, for dollars and for tokens as far as they are limited."""
    claim, balance = line.counter.claim, line.counter.balance
    for unit, limit, settled, held in (
        ("nanos", claim.limit_nanos, balance.settled_nanos, balance.held_nanos),
        ("tokens", claim.limit_tokens, balance.settled_tokens, balance.held_tokens),
    ):
        if limit is not None:
            yield unit, (limit, settled, held, limit - settled - held)


def _amount(unit: str, number: int) -> str:
    return tables.dollars(number) if unit == "nanos" else f"{number:,} tokens"


def _used(figures: tuple[int, int, int, int]) -> str:
    limit, settled, held, _ = figures
    return tables.percent((settled + held) / limit if limit else None)


def _whose(scope: str, key: str, tenant: str) -> str:
    """ "user u42", and of which tenant where that is not the usual one."""
    own = scope if scope in ("tenant", "global") else f"{scope} {key}"
    return own if tenant in ("", "default") else f"{own} of {tenant}"


# --- what they could be


def _print_suggestions(agent: str, found: Sample, told: Sequence[Suggestion], terms: Terms, out: Console) -> None:
    left_out = [
        *([f"{found.under_way:,} with calls in flight are left out"] if found.under_way else []),
        *(["older ones are left out: --since narrows the period"] if found.more else []),
    ]
    out.print(Text(f"Agent {tables.plain(agent)}, {_runs(len(found.totals))}", "bold"), end="")
    out.print("".join(f"; {why}" for why in left_out))
    if not told:
        out.print("Nothing to go by: record some runs first (`bursar runs --agent ...` lists them).")
    for one in told:
        out.print()
        if one.by is not None:
            out.print(Text(f"{tables.plain(one.by)} {tables.plain(one.kind)}, {_runs(one.runs)}", "bold"))
        for side in (one.tokens, one.dollars):
            if side is not None:
                _print_size(side, terms, out)
        if one.tokens or one.dollars:
            out.print()
            out.print(Text("\n".join(tables.plain(line) for line in sizing.snippet(one).splitlines())))
        else:
            out.print("No total is known and above nothing, so there is nothing to limit.")


def _print_size(told: Size, terms: Terms, out: Console) -> None:
    """The limit, and below it what it would have done, what it promises, and what is doubtful about it."""

    def amount(number: int) -> str:
        return _amount(told.unit, number)

    def exact(number: int) -> str:
        return f"${rows.usd(number)}" if told.unit == "nanos" else amount(number)

    of = f"{terms.coverage / PPM:.4g} of {_runs(told.runs)} came to at most {amount(told.quantile)}"
    buffered = f"{terms.buffer / PPM:.4g} more, rounded up by less than a quarter"
    out.print(Text.assemble((exact(told.limit), "bold"), f"  ({of}; {buffered})"))
    which = f": {_some(told.stopped)}" if told.stopped else ""
    out.print(f"  It would have stopped {len(told.stopped):,} of {_runs(told.runs)}{which}.")
    sure = f"{terms.confidence / PPM:.4g}"
    out.print(f"  At confidence {sure}, at most {told.at_most:.1%} of such runs would be stopped.")
    wanted = f"To promise at most {terms.promise / PPM:.4g}"
    if told.keeps_promise is None:
        out.print(f"  {wanted} takes {_runs(told.needed)} with none of them stopped: {told.needed - told.runs:,} more.")
    else:
        out.print(
            f"  {wanted}, the limit has to be {exact(told.keeps_promise)} or more (it takes {told.needed:,} runs)."
        )
    if told.unknown:
        out.print(f"  ! {_runs(len(told.unknown))} of unknown total left out: {_some(told.unknown)}.")
    if told.cut:
        out.print(f"  ! {_runs(told.cut)} were refused a call and would have come to more; they count as stopped.")
    if (drift := told.drift) is not None:
        which = "larger" if drift.later > drift.earlier else "smaller" if drift.later < drift.earlier else "spread anew"
        since = rows.iso(drift.since)
        out.print(
            f"  ! Runs since {since} are {which}: median {amount(drift.earlier)} before, {amount(drift.later)} after; "
            f"chance alone does so with p = {drift.odds:.1g} (rank sum). Size by the later ones: --since {since}"
        )


def _runs(number: int) -> str:
    return f"{number:,} run{'' if number == 1 else 's'}"


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return ", ".join(tables.plain(one) for one in ids[:_NAMED]) + more
