"""Caches: what Bursar's own gave, by kind and by step, and what the providers' prompt caches read and wrote."""

from collections.abc import Sequence

from bursar.doors.dashboard.asked import Asked
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.view import Cell, Table, Tile, View, bar, rows_of
from bursar.insights import hits
from bursar.insights.report import share
from bursar.policy import Policy
from bursar.stores.base import Counters, Line, Store

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
    found = hits.build(store, asked.filters.since, asked.filters.until, asked.tenant)
    why = hits.reason(found, total, policy.steps)
    told = parts.notes("Why not more", why or "")
    return View(
        title="Caches",
        tiles=_tiles(asked, total),
        parts=(
            *told,
            _own(asked, "What became of the calls", "cache", found.caches, total),
            _own(asked, "By step, most saved first", "step", found.steps, total),
            _prompt(asked, parts.spend(store, asked, "model")),
        ),
    )


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


def _prompt(asked: Asked, lines: Sequence[Line]) -> Table:
    """The providers' own caches, whose reads and writes their answers tell."""
    return Table(
        title="The providers' prompt caches, by model",
        columns=("Model", "#Read", "#Input", "#From cache", "#Written", "#Neither"),
        rows=rows_of(_prompt_line(asked, line) for line in lines[: parts.MOST]),
        note="Tokens. Neither: input that was not read from the cache and not written to it.",
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
