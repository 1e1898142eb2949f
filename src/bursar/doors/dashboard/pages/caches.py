"""Caches: what Bursar's own gave, by kind and by step, how often the semantic one is wrong, and what the providers'
prompt caches read, wrote and missed.

What the semantic cache has learned is in a file of its own; where that cannot be read the page says so and goes on.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from bursar.doors.dashboard.asked import Asked
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.view import Cell, Table, Tile, View, bar, rows_of
from bursar.doors.semantic import learned as learned_of
from bursar.insights import hits
from bursar.insights.report import share
from bursar.policy import Policy
from bursar.stores.base import Counters, Line, Store
from bursar.stores.semantic import Pool

_WORDS = {
    "hit": "exact hit", "semantic_hit": "semantic hit", "coalesced": "waited for an equal call",
    "miss": "looked, found nothing", "bypass": "went past the caches",
}  # fmt: skip


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """The tenant's caches in the period."""
    total = parts.total(store, asked)
    empty = parts.nothing_yet(store, asked, total)
    if empty is not None:
        return View(title="Caches", parts=(empty,))
    pools, fault = _pools(store)
    found = hits.build(store, asked.filters.since, asked.filters.until, asked.tenant, pools)
    why = hits.reason(found, total, policy.steps)
    learned = [hits.learned(pool) for pool in found.pools[: parts.MOST]]
    return View(
        title="Caches",
        tiles=(*_tiles(asked, total), *_wrong_tile(learned)),
        parts=(
            *parts.notes("Why not more", why or ""),
            *parts.notes("Not known now", fault),
            _own(asked, "What became of the calls", "cache", found.caches, total),
            _own(asked, "By step, most saved first", "step", found.steps, total),
            *_wrong(asked, learned),
            _prompt(asked, parts.spend(store, asked, "model")),
        ),
    )


def _pools(store: Store) -> tuple[Sequence[Pool], str]:
    """What the semantic cache has learned; or why that cannot be told."""
    try:
        return learned_of(store), ""
    except sqlite3.Error as fault:
        return (), f"What the semantic cache has learned cannot be read ({fault})."


def _tiles(asked: Asked, total: Counters) -> tuple[Tile, ...]:
    part = hits.share(total, total)
    read = parts.percent(share(total.cached_tokens, total.input_tokens))
    paid = f"{parts.percent(part)} of what would have been paid" if part is not None else ""
    return (
        Tile("Hit rate", parts.percent(share(total.hits, total.calls)), f"{total.hits:,} of {total.calls:,} calls",
             asked.link("calls", status="hit")),
        Tile("Saved", parts.dollars(total.saved_nanos), paid, asked.link("calls", status="hit")),
        Tile("Prompt cache", read, "of input tokens were read there", asked.link("calls")),
        Tile("Written to it", parts.tokens(total, total.cache_write_tokens), "tokens", asked.link("calls")),
    )  # fmt: skip


def _own(asked: Asked, title: str, by: str, lines: Sequence[Line], total: Counters) -> Table:
    return Table(
        title=title,
        columns=(by.capitalize(), "#Hit rate", "#Calls", "#Hits", "#Saved", "#Share of dollars", "#Spend"),
        rows=rows_of(_own_line(asked, by, line, total) for line in lines[: parts.MOST]),
        note="Share of dollars: saved, of all that would have been paid without a cache." if by == "cache" else "",
    )


def _own_line(asked: Asked, by: str, line: Line, total: Counters) -> list[Cell]:
    told, rows = line.counts, parts.behind(asked, **{by: line.key})
    hit = parts.behind(asked, **{by: line.key}, status="hit") if told.hits else None
    name = parts.named(asked, by, line.key)
    if by == "cache" and line.key in _WORDS:
        name = Cell(_WORDS[line.key], name.href)
    return [
        name,
        Cell(parts.percent(share(told.hits, told.calls)), rows, bar(told.hits, told.calls, "good")),
        Cell(f"{told.calls:,}", rows),
        Cell(f"{told.hits:,}", hit),
        Cell(parts.dollars(told.saved_nanos), hit),
        Cell(parts.percent(hits.share(told, total))),
        Cell(parts.cost(told), rows),
    ]


def _wrong_tile(learned: Sequence[Mapping[str, Any]]) -> tuple[Tile, ...]:
    """One share for all pools: each weighs as much as it has given."""
    known = [(one["wrong_of_hits"], one["served"]) for one in learned if one["wrong_of_hits"] is not None]
    given = sum(served for _, served in known)
    if not given:
        return ()
    rate = sum(share * served for share, served in known) / given
    return (Tile("Wrong semantic hits", f"{rate:.1%}", "estimated from audits, of all time"),)


def _wrong(asked: Asked, learned: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """How often the semantic cache is wrong, as its audits measure it; nothing where there is none."""
    table = Table(
        title="How often the semantic cache is wrong, of all time",
        columns=("Step", "Tenant", "#Wrong, of its hits", "#95 % bounds", "#Promised", "#Given", "#Judged", "#Wrong",
                 "#Reported"),
        rows=rows_of(_wrong_line(asked, one) for one in learned),
        note="An estimate: audits answer a share of the hits anew and compare. Judged: audits, and hits in the shadow.",
    )  # fmt: skip
    return (table,) if learned else ()


def _wrong_line(asked: Asked, one: Mapping[str, Any]) -> list[Cell]:
    rate, step = one["wrong_of_hits"], one["step"]
    rows = None if step is None else asked.link("calls", step=step, cache="semantic_hit", tenant=one["tenant"],
                                                since="all", until=None)  # fmt: skip
    late = rate is not None and one["max_error"] is not None and rate > one["max_error"]
    return [
        parts.named(asked, "step", step),
        Cell(parts.plain(one["tenant"])),
        Cell("not known yet" if rate is None else f"{rate:.1%}", look="bad" if late else ""),
        Cell("" if rate is None else f"{one['low']:.1%} to {one['high']:.1%}"),
        Cell("" if one["max_error"] is None else f"≤ {one['max_error']:.1%}"),
        Cell(f"{one['served']:,}", rows),
        *(Cell(f"{one[name]:,}") for name in ("judged", "wrong", "reported")),
    ]


def _prompt(asked: Asked, lines: Sequence[Line]) -> Table:
    """The providers' own caches, whose reads and writes their answers tell."""
    return Table(
        title="The providers' prompt caches, by model",
        columns=("Model", "#Read", "#Input", "#From cache", "#Written", "#Missed"),
        rows=rows_of(_prompt_line(asked, line) for line in lines[: parts.MOST]),
        note="Tokens. Missed: input that was neither read from the cache nor written to it. bursar doctor says why.",
    )


def _prompt_line(asked: Asked, line: Line) -> list[Cell]:
    told, rows = line.counts, parts.behind(asked, model=line.key)
    rest = max(told.input_tokens - told.cached_tokens - told.cache_write_tokens, 0)
    counts = (told.input_tokens, told.cached_tokens, told.cache_write_tokens, rest)
    return [
        parts.named(asked, "model", line.key),
        Cell(parts.percent(share(told.cached_tokens, told.input_tokens)) if told.input_tokens else "", rows,
             bar(told.cached_tokens, told.input_tokens, "good")),
        *(Cell(parts.tokens(told, n), rows) for n in counts),
    ]  # fmt: skip
