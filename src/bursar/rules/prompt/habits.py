"""How the prompts of one step come back: for each kind of prefix the chance that it returns in time. Pure; bounded.

A prefix is known by a hash over its blocks' digests. Prefixes are sorted into classes, by what they are (tools, system,
messages), and by how often they were seen or, if they are new, how many blocks stand behind them. For each class a life
table counts, interval by interval, who was awaited and who came back; who still waits counts half (the actuarial
estimator of survival analysis), so that early returns are not taken for all. What cannot be read teaches nothing.
"""

import hashlib
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple, TypeAlias

import msgspec

from bursar.rules import digest
from bursar.rules.prompt import known
from bursar.rules.prompt.hints import LIFETIMES_S, NOTHING
from bursar.types import PPM, Api, BlockKind, Instant, Marks

HORIZONS_S = (300, 1800, 3600)
"""The lifetimes that providers offer, in seconds: the ends of the life table's intervals."""

_HORIZONS = tuple(seconds * 1_000_000 for seconds in HORIZONS_S)
_FRONT = _BACK = 8
"""Prefixes of a call that are remembered: so many shortest and so many longest ones."""
_REMEMBERED = 2048
_FORGETTING = 1024
"""A class that has counted so many forgets half of them: habits change."""
_MODELS = 16
_RECORD = 13
"""Bytes a block, as digest.pack makes them."""
_LEVELS = 8
"""Classes of a kind, from the least likely to return: new with 0, 1, 2, 3+ blocks behind it; seen 1, 2-3, 4-15, 16+
times. A class with few counts leans on the one below it."""
_LEAN = 4
"""So many counts the class below is taken for, if it has as many itself."""
_KINDS: tuple[BlockKind, ...] = ("tools", "system", "message")

Counts: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]
"""Whose time ran out, or who returned, in each interval; of these who returned; who is waiting in it now."""
_NO_COUNTS: Counts = (0,) * 9


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One call as the ledger has it; before the call, without what only its answer tells. Tokens, microseconds."""

    at: Instant
    api: Api
    provider: str
    model: str | None
    blocks: bytes
    """As digest.pack made them."""
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    first_byte_ms: int | None = None
    """An entry can be read once the answer begins."""
    marks: Marks | None = None
    """What was added to it; None: nothing, or not known."""


class Link(NamedTuple):
    """A prefix: its last block's kind and place in View.blocks, its hash, its estimated tokens."""

    kind: int
    block: int
    key: bytes
    end: int


class Trace(NamedTuple):
    """A prefix that is awaited: when it was last seen, from when on it could be read."""

    at: int
    ready: int
    sights: int
    level: int
    kept: int
    """How long the provider has it from `at` on, microseconds; 0: it has it not, or who knows."""


class Floor(NamedTuple):
    """What usage told of a model's floor, in estimated tokens: the longest unheeded marker, the shortest entry."""

    unheeded: int = 0
    times: int = 0
    cached: int = 0


class Habits(msgspec.Struct, frozen=True):
    """What was learned of one step; `Habits()` knows nothing."""

    calls: int = 0
    waiting: tuple[dict[bytes, Trace], dict[bytes, Trace], dict[bytes, Trace]] = ({}, {}, {})
    """Prefixes awaited, by the intervals that have already passed them by; the oldest first."""
    tally: dict[int, Counts] = {}
    floors: dict[str, Floor] = {}
    minute: int = 0
    pace: tuple[int, int] = (0, 0)
    """Calls in this minute; the busiest minute of late."""


class Met(NamedTuple):
    """A prefix as a call meets it: its level, how often it was seen, and its trace."""

    level: int
    sights: int
    trace: Trace | None


def chain(row: Row) -> list[Link]:
    """The prefixes of a call, the shortest first. Equal hashes: one cache entry would serve both.

    Model, provider and output format are at the root. Anthropic's messages also hang on the other parameters, for
    thinking and tool_choice are among them; elsewhere those would only hide what returns.
    """
    told = list(digest.unpack(row.blocks)) if _readable(row.blocks) else []
    hashing = hashlib.blake2b(f"{row.provider}\0{known.plain(row.model or '')}".encode(), digest_size=8)
    for kind, value, _ in told:
        if kind == "format":
            hashing.update(value.encode())
    links: list[Link] = []
    end, apart = 0, row.api == "messages"
    for block, (kind, value, tokens) in enumerate(told):
        if kind not in _KINDS:
            continue
        if kind == "message" and apart:
            apart = False
            hashing.update("".join(value for kind, value, _ in told if kind == "params").encode())
        hashing.update(f"{kind[0]}{value}".encode())
        end += tokens
        links.append(Link(_KINDS.index(kind), block, hashing.digest(), end))
    return links


def meet(habits: Habits, links: Sequence[Link], at: Instant) -> tuple[list[Met], dict[int, Counts]]:
    """What is known of each prefix of a call, and the life table with what this call shows by coming."""
    now, _, tally = _looked(habits, links, at)
    return now, tally


def observe(habits: Habits, row: Row) -> Habits:
    """The habits with one more call, at best as it is settled; in whatever order, what is late teaches less."""
    links = chain(row)
    met, waiting, tally = _looked(habits, links, row.at)
    ready = row.at + 1000 * (row.first_byte_ms or 0)
    kept = _kept(row, links)
    for number, (link, seen) in enumerate(zip(links, met, strict=True)):
        early = seen.trace is not None and row.at < seen.trace.ready
        if not early and (number < _FRONT or number >= len(links) - _BACK):
            level = _class(link.kind, seen.level)
            waiting[0][link.key] = Trace(row.at, ready, seen.sights + 1, level, _still(kept[number], seen, row.at))
            _count(tally, level, joins=0)
    _bound(waiting, tally)
    minute, (calls, busiest) = row.at // 60_000_000, habits.pace
    if minute > habits.minute:
        calls, busiest = 0, max(calls, busiest * 7 // 8)
    return Habits(
        habits.calls + 1, waiting, tally, _floors(habits, row), max(minute, habits.minute), (calls + 1, busiest)
    )


def chances(tally: dict[int, Counts], kind: int, cold: int = 0) -> list[tuple[int, int, int]]:
    """For each level of a kind the chance to return within each horizon, in millionths; cold: without any history."""
    found = []
    before, weight = (cold, 0, 0), 1
    for level in range(_LEVELS):
        counts = tally.get(_class(kind, level), _NO_COUNTS)
        before = tuple(  # type: ignore[assignment]
            2 * (counts[3 + k] * PPM + weight * before[k]) // (2 * (counts[k] + weight) + counts[6 + k])
            for k in range(3)
        )
        weight = min(_LEAN, weight + counts[0])
        gone, row = PPM, []
        for hazard in before:
            gone = gone * (PPM - hazard) // PPM
            row.append(PPM - gone)
        found.append((row[0], row[1], row[2]))
    return found


def first_return(habits: Habits, firm: int) -> int:
    """The chance, in millionths, that a system prompt that was never seen returns within five minutes.

    Even odds, which count as so many prompts, with those that have come; who still waits counts half.
    """
    new = [habits.tally.get(_class(1, level), _NO_COUNTS) for level in range(4)]
    awaited, returned, waiting = (sum(counts[k] for counts in new) for k in (0, 3, 6))
    return PPM * (firm + 2 * returned) // (2 * (firm + awaited) + waiting)


def evidence(tally: dict[int, Counts], kind: int, level: int) -> int:
    """How many prefixes of that class tell something by now; who is still waiting counts half."""
    counts = tally.get(_class(kind, level), _NO_COUNTS)
    return counts[0] + counts[6] // 2


def floor_of(habits: Habits, model: str | None, listed: int) -> int:
    """The shortest prefix worth a marker, in estimated tokens: as listed, unless usage has told otherwise."""
    told = habits.floors.get(known.plain(model or ""), Floor())
    floor = min(listed, told.cached) if told.cached else listed
    return max(floor, told.unheeded + 1) if told.times > 1 else floor


class Summary(msgspec.Struct, frozen=True):
    """A step's habits in a few figures, in millionths."""

    calls: int
    shared: tuple[int, int, int]
    """The chance that tools and system prompt return within 5 minutes, 30 minutes, an hour."""
    grows: tuple[int, int, int]
    """The chance that a whole prompt returns as the beginning of a longer one (or again): does it converse?"""

    @property
    def one_shot(self) -> int:
        """The share of calls whose prompt is never seen again within an hour."""
        return PPM - self.grows[2]


def summary(habits: Habits) -> Summary:
    """For reports and diagnoses."""
    fronts = [chances(habits.tally, kind)[-1] for kind in (0, 1)]
    return Summary(habits.calls, max(fronts), chances(habits.tally, 2)[0])


def _readable(blocks: bytes) -> bool:
    return len(blocks) % _RECORD == 0 and all(kind < len(digest.KINDS) for kind in blocks[::_RECORD])


def _class(kind: int, level: int) -> int:
    return kind * _LEVELS + level


def _level(sights: int, behind: int) -> int:
    if not sights:
        return min(behind, 3)
    return 4 + (sights > 1) + (sights > 3) + (sights > 15)


def _looked(
    habits: Habits, links: Sequence[Link], at: Instant
) -> tuple[list[Met], tuple[dict[bytes, Trace], dict[bytes, Trace], dict[bytes, Trace]], dict[int, Counts]]:
    """Each prefix as it is met, with the table and the waiting as they stand when those that came are struck off."""
    first, second, third = habits.waiting
    waiting = (dict(first), dict(second), dict(third))
    tally = dict(habits.tally)
    _pass_by(waiting, tally, at)
    met: list[Met] = []
    sights = 0
    for behind, link in enumerate(reversed(links)):
        trace = None
        for stage, traces in enumerate(waiting):
            if (trace := traces.get(link.key)) is not None:
                if at >= trace.ready:
                    del traces[link.key]
                    _returned(tally, trace, stage, at)
                # Who brings back a longer prefix brings back the shorter one, remembered or not.
                sights = max(sights, trace.sights)
                break
        met.append(Met(_level(sights, behind), sights, trace))
    met.reverse()
    return met, waiting, tally


def _returned(tally: dict[int, Counts], trace: Trace, passed: int, at: int) -> None:
    interval = sum(at - trace.at > horizon for horizon in _HORIZONS)
    _count(tally, trace.level, leaves=passed, awaited=range(passed, min(interval + 1, 3)), returned=interval)


def _pass_by(waiting: tuple[dict[bytes, Trace], ...], tally: dict[int, Counts], at: int) -> None:
    """Prefixes whose interval has run out were awaited in vain; they go on to the next one, or are dropped."""
    for stage, horizon in enumerate(_HORIZONS):

        def due(item: tuple[bytes, Trace], before: int = at - horizon) -> bool:
            return item[1].at < before

        for key, trace in list(takewhile(due, waiting[stage].items())):
            del waiting[stage][key]
            _count(tally, trace.level, leaves=stage, awaited=range(stage, stage + 1), joins=stage + 1)
            if stage + 1 < len(waiting):
                waiting[stage + 1][key] = trace


def _bound(waiting: tuple[dict[bytes, Trace], ...], tally: dict[int, Counts]) -> None:
    """The oldest are forgotten, uncounted."""
    excess = sum(map(len, waiting)) - _REMEMBERED
    for stage in reversed(range(len(waiting))):
        for key in list(waiting[stage])[: max(0, excess)]:
            _count(tally, waiting[stage].pop(key).level, leaves=stage)
            excess -= 1


def _count(
    tally: dict[int, Counts],
    level: int,
    *,
    leaves: int = 3,
    awaited: range = range(0),
    returned: int = 3,
    joins: int = 3,
) -> None:
    """One prefix's step in the life table; the interval 3 is the time after the last."""
    counts = list(tally.get(level, _NO_COUNTS))
    if leaves < 3:
        counts[6 + leaves] -= 1
    for interval in awaited:
        counts[interval] += 1
    if returned < 3:
        counts[3 + returned] += 1
    if joins < 3:
        counts[6 + joins] += 1
    if counts[0] > _FORGETTING:
        counts[:6] = [count // 2 for count in counts[:6]]
    tally[level] = tuple(counts)  # type: ignore[assignment]


def _kept(row: Row, links: Sequence[Link]) -> list[int]:
    """How long the provider has each prefix from now on, microseconds: what the call has read or written, no more."""
    told = (row.cached_tokens or 0) + (row.cache_write_tokens or 0)
    rules = known.rules_of(row.api, row.model)
    if not told or not rules.writes or not links:
        return [0] * len(links)
    sent = row.marks if row.marks is not None else NOTHING
    reach = sent.covered or (links[-1].end * told // row.input_tokens if row.input_tokens else told)
    shortest = rules.writes[-1][1]
    found = []
    for link in links:
        life = next((LIFETIMES_S[mark.ttl] for mark in sent.marks if mark.block >= link.block), shortest)
        found.append(life * 1_000_000 if link.end <= reach else 0)
    return found


def _still(kept: int, seen: Met, at: int) -> int:
    """What was written for longer and is read in time goes on for as long."""
    return max(kept, seen.trace.kept) if kept and seen.trace and at - seen.trace.at < seen.trace.kept else kept


def _floors(habits: Habits, row: Row) -> dict[str, Floor]:
    """A marker that was sent and not heeded, twice, raises the floor; an entry below it takes that back."""
    marked = row.marks.covered if row.marks is not None else 0
    if not marked or row.cached_tokens is None or row.cache_write_tokens is None:
        return habits.floors
    name = known.plain(row.model or "")
    told = habits.floors.get(name, Floor())
    if row.cached_tokens or row.cache_write_tokens:
        cached = min(told.cached or marked, marked)
        told = Floor(cached=cached) if cached <= told.unheeded else told._replace(cached=cached)
    else:
        told = told._replace(unheeded=max(told.unheeded, marked), times=told.times + 1)
    others = {key: floor for key, floor in habits.floors.items() if key != name}
    return dict(list(others.items())[-(_MODELS - 1) :]) | {name: told}
