"""Where markers for the provider's prompt cache pay, from a step's habits and the model's rates. Pure; integers only.

The price of a stretch of the prompt that ends at a marker is p x read + (1 - p) x write a token, where p is the chance
that the prefix returns while it is kept; read alone where the provider has it now; behind the last marker it is the
plain input rate. Of all sets of markers the cheapest is taken: of equal ones the smallest, kept for the shortest time.
Nothing known, nothing placed.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from bursar.rules.prompt.habits import HORIZONS_S, Habits, Link, Met, Row, chain, chances, evidence, floor_of, meet
from bursar.rules.prompt.hints import NOTHING, Spot
from bursar.rules.prompt.known import Rules
from bursar.types import PPM, Bucket, Instant, Mark, Marks, Ttl

_TTLS: dict[Bucket, Ttl] = {"cache_write_5m": "5m", "cache_write_30m": "30m", "cache_write_1h": "1h"}
_EVIDENCE = 4
"""What must be known of the ends of prompts before OpenAI's own marker is moved or turned off."""
_CALLS_A_MINUTE = 15
"""What one prompt_cache_key takes before the provider spreads its calls (OpenAI cookbook)."""
_MOST_SHARDS = 1024


class _Edge(NamedTuple):
    """The end of a block, as a place for a marker."""

    block: int
    end: int
    """Tokens of the prompt up to here."""
    parts: int
    prices: tuple[int, ...]
    """Of a token before it, for each lifetime, if the provider has it not: rate x PPM."""
    alive: bool
    """The provider has it: it is read."""
    takes: bool


_Path: TypeAlias = tuple[tuple[int, int], ...]
"""(number of the edge, number of the lifetime) for each marker, in prompt order."""


def place(
    row: Row,
    spots: Sequence[Spot],
    habits: Habits,
    rates: Mapping[Bucket, int],
    rules: Rules,
    *,
    site: str = "",
    conversation: str | None = None,
    cold: int = 0,
) -> Marks:
    """The markers for a call that is about to be sent and has none of its caller's.

    spots: of each block that can bear a marker or stand before one, by its place in View.blocks. rates: nano-dollars
    per million tokens; a lifetime without its rate is not used. site: the step's name, conversation: what stays the
    same over its turns; both only shape the key. cold: the chance, in millionths, that tools and system prompt of a
    step's very first call return; 0 pays no premium on a guess.
    """
    links = [link for link in chain(row) if link.block < len(spots)]
    if rules.style == "none" or not links:
        return NOTHING
    if rules.style == "key":
        return Marks(key=_key(habits, site, conversation, _opening(row, links)))
    floor = floor_of(habits, row.model, rules.floor)
    options = [(bucket, seconds) for bucket, seconds in rules.writes if bucket in rates and bucket in _TTLS]
    if not options or "input" not in rates or "cache_read" not in rates or links[-1].end < floor:
        return NOTHING
    met, tally = meet(habits, links, row.at)
    implicit = rules.style == "breakpoints"
    if implicit and evidence(tally, links[-1].kind, met[-1].level) < _EVIDENCE:
        return NOTHING
    guess = 0 if habits.calls else cold
    table = [chances(tally, 0, guess), chances(tally, 1, guess), chances(tally, 2)]
    edges = _edges(row.at, links, spots, met, table, rates, options)
    if implicit:
        edges[-1] = edges[-1]._replace(takes=True)
    chosen = _Search(edges, floor, rates, rules).best()
    return _marks(chosen, [_TTLS[bucket] for bucket, _ in options], edges[-1], implicit)


def _edges(
    at: Instant,
    links: Sequence[Link],
    spots: Sequence[Spot],
    met: Sequence[Met],
    table: Sequence[Sequence[tuple[int, int, int]]],
    rates: Mapping[Bucket, int],
    options: Sequence[tuple[Bucket, int]],
) -> list[_Edge]:
    """A prefix's chance is never above that of a shorter one, which comes back with it."""
    chance = (PPM,) * len(HORIZONS_S)
    edges: list[_Edge] = []
    prices: tuple[int, ...] = ()
    before, parts = (-1, -1), 0
    for link, seen in zip(links, met, strict=True):
        if before != (link.kind, seen.level):
            before = (link.kind, seen.level)
            chance = tuple(map(min, chance, table[link.kind][seen.level]))
            prices = _prices(chance, rates, options)
        parts += spots[link.block].parts
        alive = seen.trace is not None and at - seen.trace.at < seen.trace.kept
        edges.append(_Edge(link.block, link.end, parts, prices, alive, spots[link.block].takes))
    return edges


def _prices(
    chance: Sequence[int], rates: Mapping[Bucket, int], options: Sequence[tuple[Bucket, int]]
) -> tuple[int, ...]:
    by_option = [(rates[bucket], chance[HORIZONS_S.index(seconds)]) for bucket, seconds in options]
    return tuple(p * rates["cache_read"] + (PPM - p) * write for write, p in by_option)


class _Search:
    """The cheapest set of markers, by dynamic programming over the edges that can be in one."""

    def __init__(self, edges: Sequence[_Edge], floor: int, rates: Mapping[Bucket, int], rules: Rules) -> None:
        self._total = edges[-1].end
        self._seam = next((edge for edge in reversed(edges) if edge.alive and edge.takes), None)
        self._read, self._input = rates["cache_read"] * PPM, rates["input"] * PPM
        self._rules = rules
        self._edges = _last_of_each(edge for edge in edges if edge.takes and edge.end >= floor)

    def best(self) -> list[tuple[_Edge, int]]:
        """The edges to mark, each with the number of its lifetime, in prompt order."""
        best: tuple[int, _Path] = (self._total * self._input, ())
        frontier: dict[tuple[int, int], tuple[int, _Path]] = {(-1, 0): (0, ())}
        for _ in range(self._rules.most):
            grown: dict[tuple[int, int], tuple[int, _Path]] = {}
            for (last, longest), (cost, path) in frontier.items():
                for number in range(last + 1, len(self._edges)):
                    for option in reversed(range(longest, len(self._edges[number].prices))):
                        more = cost + self._stretch(last, number, option)
                        mark = (number, option)
                        if mark not in grown or more < grown[mark][0]:
                            grown[mark] = (more, (*path, mark))
            for (number, _), (cost, path) in grown.items():
                best = min(
                    best, (cost + (self._total - self._edges[number].end) * self._input, path), key=itemgetter(0)
                )
            frontier = grown
        return self._kept_alive(best[1])

    def _stretch(self, last: int, number: int, option: int) -> int:
        """What the tokens between two markers cost. A marker also reads an entry before it, if that is near enough."""
        edge, start = self._edges[number], self._edges[last].end if last >= 0 else 0
        seam = self._seam
        known = 0
        if seam and (edge.alive or edge.parts - seam.parts < self._rules.look_back):
            known = max(0, min(seam.end, edge.end) - start)
        return known * self._read + (edge.end - start - known) * edge.prices[option]

    def _kept_alive(self, path: _Path) -> list[tuple[_Edge, int]]:
        """Spare markers go to what the provider has already: they cost nothing, and keep it for the next caller."""
        marked = dict(path)
        if path:
            spare = [n for n in range(path[-1][0]) if n not in marked and self._edges[n].alive]
            for number in spare[: self._rules.most - len(path)]:
                marked[number] = next(option for other, option in path if other > number)
        return [(self._edges[number], option) for number, option in sorted(marked.items())]


def _last_of_each(edges: Iterable[_Edge]) -> list[_Edge]:
    """Of edges with equal prices the deepest covers most, and is the only one that can be in a cheapest set."""
    kept: list[_Edge] = []
    for edge in edges:
        if kept and (kept[-1].prices, kept[-1].alive) == (edge.prices, edge.alive):
            kept.pop()
        kept.append(edge)
    return kept


def _marks(chosen: list[tuple[_Edge, int]], ttls: list[Ttl], end: _Edge, implicit: bool) -> Marks:
    """Where the provider marks the end of the prompt by itself and that pays, that marker stands for ours."""
    covered = chosen[-1][0].end if chosen else 0
    ended = implicit and bool(chosen) and chosen[-1][0] is end
    marks = tuple(Mark(edge.block, ttls[option]) for edge, option in (chosen[:-1] if ended else chosen))
    return Marks(marks, explicit=implicit and not ended, covered=covered)


def _opening(row: Row, links: Sequence[Link]) -> bytes:
    """What tells a conversation from others and stays: its first message; in chat the one after the system message."""
    said = [link for link in links if link.kind == 2] or links
    return said[min(1, len(said) - 1) if row.api == "chat" else 0].key


def _key(habits: Habits, site: str, conversation: str | None, opening: bytes) -> str:
    """A hash of site and shard; a conversation stays on its shard while the number of shards does."""
    shards = 1
    while shards * _CALLS_A_MINUTE < max(habits.pace) and shards < _MOST_SHARDS:
        shards *= 2
    whose = opening if conversation is None else conversation.encode()
    shard = int.from_bytes(hashlib.blake2b(whose, digest_size=4).digest()) % shards
    return "bursar-" + hashlib.blake2b(f"{site}\0{shard}".encode(), digest_size=8).hexdigest()
