"""Models: where the calls and dollars went by tier and model, the price that was paid for a million tokens, and how
often each tier's answers passed their step's check."""

from collections.abc import Sequence

from bursar.doors.dashboard.asked import Asked
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.view import Cell, Part, Table, View, bar, rows_of
from bursar.insights import routes
from bursar.insights.report import share
from bursar.money import divide_half_even
from bursar.policy import Policy
from bursar.stores.base import Counters, Line, Store


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """All models, or one (`model=`)."""
    whole = parts.total(store, asked)
    empty = parts.nothing_yet(store, asked, whole)
    if empty is not None:
        return View(title="Models", parts=(empty,), fields=("model",))
    if model := asked.labels.get("model"):
        return _one(store, asked, model, whole)
    rank = {name: place for place, name in enumerate(policy.tiers)}
    tiers = sorted(parts.spend(store, asked, "tier"), key=lambda line: rank.get(line.key or "", len(rank)))
    note = "" if rank else "No tier is configured: name models cheapest first under [tiers] in bursar.toml."
    models = parts.spend(store, asked, "model")
    routed = routes.build(store, asked.filters.since, asked.filters.until, asked.tenant, tiers, policy.steps)
    shown: list[Part] = [
        parts.over_time(store, asked, "Spend by model", models=models),
        _table(asked, "Tiers, cheapest first", "tier", tiers, whole, note),
        *_routed(asked, routed),
        _table(asked, "Models", "model", models, whole),
        _table(asked, "Providers", "provider", parts.spend(store, asked, "provider"), whole),
    ]
    return View(title="Models", parts=tuple(shown), fields=("model",))


def _routed(asked: Asked, found: routes.Routes | None) -> list[Part]:
    """Where a step has a tier or a check: its pass rates, and what is to be warned of."""
    if found is None or not found.steps:
        return []
    lines = [(step, at, one) for step in found.steps for at, one in enumerate(step.tiers)]
    table = Table(
        title="Pass rates by step and tier",
        columns=("Step", "Tier", "#Attempts", "#Passed", "#Rejected", "#Pass rate", "#Spend", "#Per solved request",
                 "#Audited", "#Right", "#False passes"),
        rows=rows_of(_tried(asked, step, at, one) for step, at, one in lines[: parts.MOST]),
        note="Per solved request: all that the step has spent, over the requests whose answer was accepted. Audited: "
        "passed answers that the dearest tier was asked for again. False passes: wrong answers that were let through.",
    )  # fmt: skip
    return [table, *parts.notes("What the routes say", *(f"{text}." for text in (*found.dear, *found.lax)))]


def _tried(asked: Asked, step: routes.Route, at: int, one: routes.Tried) -> list[Cell]:
    told, rows = one.counts, parts.behind(asked, step=step.step, tier=one.tier)
    solved = "" if at or step.solved is None else parts.bound(step.solved_nanos, step.counts.unpriced)
    agreed, audited = (0, 0) if one.audits is None else one.audits.total
    right, false = share(agreed, audited), one.false_pass_rate
    rate = "" if one.pass_rate is None else parts.percent(one.pass_rate)
    return [
        Cell("") if at else parts.named(asked, "step", step.step),
        parts.named(asked, "tier", one.tier),
        Cell(f"{told.attempts + told.hits:,}", rows),
        Cell(f"{told.passed:,}", rows),
        Cell(f"{told.rejected:,}", rows),
        Cell(rate, rows, bar(told.passed, told.passed + told.rejected, "s1") if rate else ()),
        Cell(parts.cost(told), rows),
        Cell(solved, parts.behind(asked, step=step.step) if solved else None),
        Cell(f"{audited:,}" if audited else ""),
        Cell("" if right is None else parts.percent(right)),
        Cell("" if false is None else parts.percent(false), look="bad" if (false or 0) > routes.LAX else ""),
    ]


def _one(store: Store, asked: Asked, model: str, whole: Counters) -> View:
    within = {"model": model}
    counts = parts.total(store, asked, **within)
    agents = parts.lines_table(
        asked, "Agents that used it", "agent", parts.spend(store, asked, "agent", **within), counts, within
    )
    shown = (
        _table(asked, "In this period", "model", [Line(model, counts)], whole),
        parts.over_time(store, asked, "Spend on the model", within=within),
        agents,
    )
    return View(title=f"Model {parts.plain(model)}", parts=shown, fields=("model",))


def _table(
    asked: Asked, title: str, by: str, lines: Sequence[Line], whole: Counters, note: str = ""
) -> Table:  # fmt: skip
    return Table(
        title=title,
        columns=(by.capitalize(), "#Share of calls", "#Share of spend", "#Spend", "#Calls", "#Paid per M tokens",
                 "#Input", "#Cached", "#Output", "#Reasoning"),
        rows=rows_of(_line(asked, by, line, whole) for line in lines[: parts.MOST]),
        note=note or "Paid per million tokens: spend over all input and output tokens, cached ones included.",
    )  # fmt: skip


def _line(asked: Asked, by: str, line: Line, whole: Counters) -> list[Cell]:
    told, rows = line.counts, parts.behind(asked, **{by: line.key})
    return [
        parts.named(asked, by, line.key),
        Cell(parts.percent(share(told.calls, whole.calls)), rows, bar(told.calls, whole.calls, "s1")),
        Cell(parts.percent(share(told.cost_nanos, whole.cost_nanos)), rows, bar(told.cost_nanos, whole.cost_nanos)),
        Cell(parts.cost(told), rows),
        Cell(f"{told.calls:,}", rows),
        Cell(paid(told), rows),
        *(Cell(parts.tokens(told, n), rows) for n in (told.input_tokens, told.cached_tokens, told.output_tokens)),
        Cell(parts.tokens(told, told.reasoning_tokens), rows),
    ]


def paid(counts: Counters) -> str:
    """Dollars a million tokens; unknown where a price or tokens are: a part of either would be a wrong rate."""
    tokens = counts.input_tokens + counts.output_tokens
    if counts.unpriced or counts.unknown_usage or not tokens:
        return "unknown"
    return parts.dollars(divide_half_even(counts.cost_nanos * 1_000_000, tokens))
