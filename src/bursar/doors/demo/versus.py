"""Two acts side by side: what a run costs, how much of it is right, what came from which cache, which tier answered."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bursar.doors.cli import tables
from bursar.doors.demo.play import Played
from bursar.insights.report import Report, share
from bursar.money import format_usd
from bursar.stores.base import Counters, Line

if TYPE_CHECKING:
    from rich.console import Console

_CACHES = ("hit", "semantic_hit", "coalesced")


def rates(told: Report) -> dict[str, Any]:
    """{"calls", "hit_rate", "hits": {cache: calls}, "prompt_cache_share", "tiers": [{"tier", "calls", "cost_usd",
    "call_share", "cost_share"}]}. hit_rate: calls that Bursar's own caches answered, of all; prompt_cache_share: input
    tokens that providers read from theirs, of all."""
    total = told.total
    caches = _by_key(told.hits.caches)
    return {
        "calls": total.calls,
        "hit_rate": told.metrics.hit_rate,
        "hits": {name: caches[name].hits if name in caches else 0 for name in _CACHES},
        "prompt_cache_share": told.metrics.cached_input_share,
        "tiers": [
            {
                "tier": line.key,
                "calls": line.counts.calls,
                "cost_usd": format_usd(line.counts.cost_nanos),
                "call_share": share(line.counts.attempts, total.attempts),
                "cost_share": share(line.counts.cost_nanos, total.cost_nanos),
            }
            for line in told.tiers
        ],
    }


def print_agents(before: Played, after: Played, out: "Console") -> None:
    """A line an agent: cost of a run and share of right answers, in both acts."""
    table = tables.grid("", "a run of", "before", "after", "cheaper", "right before", "right after", "graded")
    for name in before.runs:
        costs = before.per_run(name), after.per_run(name)
        grades = before.grades[name], after.grades[name]
        told = (tables.percent(grade.quality) for grade in grades)
        table.add_row(name, *map(tables.dollars, costs), _less(*costs), *told, f"{grades[0].graded:,}")
    sums = before.ledger, after.ledger
    table.add_row("all, in sum", *map(tables.dollars, sums), _less(*sums), "", "", "", style="bold")
    out.print()
    tables.fit(out, table)
    out.print()


def print_rates(before: Report, after: Report, out: "Console") -> None:
    """Hit rates of each cache, and each tier's share of calls and of dollars, in both acts."""
    table = tables.grid("", "share of", "before", "after", "")
    caches = _by_key(before.hits.caches), _by_key(after.hits.caches)
    wholes = before.total, after.total
    why = dict(zip(_CACHES, ("asked before, word for word", _certified(after), "asked at the same time"), strict=True))
    for name in _CACHES:
        hits = [found[name].hits if name in found else 0 for found in caches]
        table.add_row(f"calls: {name}", *_shares(hits, [whole.calls for whole in wholes]), why[name])
    read = (before.metrics.cached_input_share, after.metrics.cached_input_share)
    table.add_row("input: prompt cache", *map(tables.percent, read), "read by the providers from their own")
    tiers = _by_key(before.tiers), _by_key(after.tiers)
    names = dict.fromkeys(line.key or "" for told in (after, before) for line in told.tiers)
    for name in names:
        lines = [found.get(name, Counters()) for found in tiers]
        calls = _shares([line.attempts for line in lines], [whole.attempts for whole in wholes])
        cost = _shares([line.cost_nanos for line in lines], [whole.cost_nanos for whole in wholes])
        table.add_row(f"attempts: {name or '(none)'}", *calls, f"of dollars: {cost[0]} before, {cost[1]} after")
    tables.fit(out, table)


def _certified(told: Report) -> str:
    """How far the semantic cache has come: it serves nothing before enough answers have been compared."""
    words = "asked before, in other words"
    if told.hits.pools and not any(pool.served for pool in told.hits.pools):
        compared = sum(len(pool.state.labels) for pool in told.hits.pools if pool.state is not None)
        return f"{words}: not certified yet, {compared} pairs compared"
    return words


def _by_key(lines: Sequence[Line]) -> Mapping[str, Counters]:
    return {line.key or "": line.counts for line in lines}


def _shares(parts: Sequence[int], wholes: Sequence[int]) -> list[str]:
    return [tables.percent(share(part, whole)) for part, whole in zip(parts, wholes, strict=True)]


def _less(before: int, after: int) -> str:
    """By how much the second is less than the first; "-" means more."""
    gone = share(before - after, before)
    return "" if gone is None else f"{gone:.0%}"
