"""A run's limit from recorded runs: what most of them needed, a buffer, rounded as a person would, and what that
promises.

Pure but for `sample`, which asks the ledger. Whole trees are counted: a root run and all that is nested in it. A run
with a call of unknown cost or tokens is left out of that side and named, never taken for less than it was.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from bursar.insights import odds, rows
from bursar.money import divide_up
from bursar.stores.base import Filters, Run, Store
from bursar.types import PPM, Entry, Instant

Unit: TypeAlias = Literal["tokens", "nanos"]

NONE = "(none)"
MOST_RUNS = 2_000
"""Runs that are looked at, the newest ones: each costs a question to the ledger, and more would promise little more."""
UNLIKELY = 0.01
"""Two halves that differ so much by chance in fewer than one of a hundred cases have drifted."""
_PAGE = 500
_LONGEST_NAME = 100


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What one root run came to, with all that is nested in it; None: some call's is unknown."""

    run_id: str
    kind: str | None = None
    at: Instant
    """When it began."""
    tokens: int | None
    """Input + output of every row, as a budget counts them: a hit and a refusal count 0."""
    nanos: int | None
    cut: bool = False
    """A budget or a policy refused it a call: it would have come to more."""


class Sample(msgspec.Struct, frozen=True):
    """The runs that a sizing may go by, oldest first."""

    totals: tuple[Total, ...]
    under_way: int = 0
    """Left out: they have calls in flight."""
    more: bool = False
    """There are older runs in the period, beyond MOST_RUNS."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a limit; shares in millionths."""

    coverage: int = 900_000
    """Share of the runs that are to come through, before the buffer."""
    buffer: int = 200_000
    """Added on top, as a share of it."""
    confidence: int = 950_000
    promise: int = 20_000
    """Share of the runs that the user wants to be able to say is stopped at most."""


class Drift(msgspec.Struct, frozen=True):
    """The later half of the runs against the earlier half, by the rank-sum test."""

    since: Instant
    """When the later half begins."""
    earlier: int
    """Medians."""
    later: int
    odds: float
    """How often chance alone would make them differ so much (p, two-sided)."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on tokens or on nano-dollars, and what the runs say of it."""

    unit: Unit
    runs: int
    """With a known total: all that follows is of these."""
    unknown: tuple[str, ...]
    quantile: int
    """The smallest total that the share `coverage` of the runs did not pass."""
    limit: int
    """Quantile and buffer, rounded up (`rounded`)."""
    stopped: tuple[str, ...]
    """Runs that came to more than the limit, the largest first."""
    cut: int
    """Runs below the limit that were refused a call already; counted as stopped in `at_most`."""
    at_most: float
    """Share of such runs that the limit stops at most, at the confidence asked."""
    needed: int
    """Runs, none of them stopped, that it takes to promise what was asked."""
    keeps_promise: int | None
    """The smallest limit that these runs allow to promise it with; None: too few runs."""
    drift: Drift | None


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one kind of task."""

    agent: str
    by: str | None
    """The tag that names the kinds; None: all runs of the agent are one kind."""
    kind: str | None
    runs: int
    tokens: Size | None
    """None: nothing is known, or nothing was spent."""
    dollars: Size | None


def sample(
    store: Store, agent: str, *, by: str | None = None, since: Instant | None = None, until: Instant | None = None,
    tenant: str | None = None, most: int = MOST_RUNS,
) -> Sample:  # fmt: skip
    """The agent's root runs that have ended, the newest `most`. by: the tag that names the kind of a task.

    Pages through the runs and asks the rows of each tree, by an index: a ledger keeps a tree's dollars but not its
    tokens, nor its tags.
    """
    totals, under_way = list[Total](), 0
    for run in _roots(store, Filters(agent_id=agent, since=since, until=until, tenant=tenant)):
        if len(totals) == most:
            return Sample(tuple(reversed(totals)), under_way, True)
        entries = store.run(run.run_id, run.tenant)
        if any(entry.status == "open" for entry in entries):
            under_way += 1
        elif entries:
            totals.append(total(run.run_id, run.first_at, entries, by))
    return Sample(tuple(reversed(totals)), under_way)


def _roots(store: Store, filters: Filters) -> Iterator[Run]:
    cursor = None
    while True:
        page = store.runs(filters, _PAGE, cursor)
        yield from (run for run in page.items if run.is_root)
        cursor = page.next_cursor
        if cursor is None:
            return


def total(run_id: str, at: Instant, entries: Iterable[Entry], by: str | None = None) -> Total:
    """A root run's total from the rows of its tree."""
    tokens: int | None = 0
    nanos: int | None = 0
    kind, cut = None, False
    for entry in entries:
        if kind is None and by is not None and entry.run_id == run_id:
            kind = dict(entry.tags).get(by)
        cut = cut or entry.status == "refused"
        if entry.status in ("refused", "hit"):
            continue
        tokens = _plus(_plus(tokens, entry.input_tokens), entry.output_tokens)
        nanos = _plus(nanos, entry.cost_nanos)
    return Total(run_id=run_id, kind=kind, at=at, tokens=tokens, nanos=nanos, cut=cut)


def _plus(sum_: int | None, part: int | None) -> int | None:
    return None if sum_ is None or part is None else sum_ + part


def suggest(agent: str, totals: Sequence[Total], terms: Terms, by: str | None = None) -> list[Suggestion]:
    """Limits for each kind of task, the most frequent kind first."""
    kinds: dict[str | None, list[Total]] = {}
    for one in totals:
        kinds.setdefault(one.kind, []).append(one)
    return [
        Suggestion(
            agent=agent, by=by, kind=kind, runs=len(found), tokens=size(found, "tokens", terms),
            dollars=size(found, "nanos", terms),
        )
        for kind, found in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0] or ""))
    ]  # fmt: skip


def size(totals: Sequence[Total], unit: Unit, terms: Terms) -> Size | None:
    """The limit on one side; None where no run's total is known, or the quantile is 0: there is nothing to limit."""
    known = [(amount, one) for one in totals if (amount := getattr(one, unit)) is not None]
    ordered = sorted(amount for amount, _ in known)
    quantile = ordered[max(0, divide_up(len(known) * terms.coverage, PPM) - 1)] if known else 0
    if quantile <= 0:
        return None
    limit = rounded(divide_up(quantile * (PPM + terms.buffer), PPM))
    over = sorted((pair for pair in known if pair[0] > limit), key=lambda pair: (-pair[0], pair[1].run_id))
    cut = sum(one.cut for amount, one in known if amount <= limit)
    share, confidence = terms.promise / PPM, terms.confidence / PPM
    may = odds.allowed(len(known), share, confidence)
    return Size(
        unit=unit,
        runs=len(known),
        unknown=tuple(one.run_id for one in totals if getattr(one, unit) is None),
        quantile=quantile,
        limit=limit,
        stopped=tuple(one.run_id for _, one in over),
        cut=cut,
        at_most=odds.at_most(len(over) + cut, len(known), confidence),
        needed=odds.needed(share, confidence),
        keeps_promise=None if may is None else ordered[len(known) - 1 - may],
        drift=drift(known),
    )


def rounded(amount: int) -> int:
    """Up to a whole multiple of the largest of 1, 2, 2.5 and 5 times a power of ten that is at most a quarter of it.

    So 8,400 -> 10,000, 5,100 -> 6,000 and 31,000 -> 35,000: fewer digits for less than a quarter more.
    """
    step = power = 1
    while 4 * power <= amount:
        step = max(n for n in (power, 2 * power, 5 * power // 2, 5 * power) if 4 * n <= amount)
        power *= 10
    return divide_up(amount, step) * step


def drift(known: Sequence[tuple[int, Total]]) -> Drift | None:
    """Where the later half differs from the earlier one by more than chance; None: it does not, or too few to tell."""
    timed = sorted(known, key=lambda pair: (pair[1].at, pair[1].run_id))
    half = len(timed) // 2
    earlier, later = ([amount for amount, _ in part] for part in (timed[:half], timed[half:]))
    chance = odds.shift(earlier, later)
    if chance is None or chance >= UNLIKELY:
        return None
    return Drift(timed[half][1].at, _median(earlier), _median(later), chance)


def _median(amounts: Sequence[int]) -> int:
    return sorted(amounts)[(len(amounts) - 1) // 2]


# --- for the configuration, and for machines


def snippet(told: Suggestion) -> str:
    """The [[budgets]] section of bursar.toml that sets the limits suggested."""
    kind = "" if told.by is None else f", {told.by} {told.kind or NONE}"
    name = "".join(char for char in f"{told.agent}{kind}, a run" if char.isprintable())
    match = [f"agent = {_text(_exactly(told.agent))}"]
    if told.by is not None:
        match.append(f"tags = {{ {_text(told.by)} = {_text(_exactly(told.kind or NONE))} }}")
    lines = ["[[budgets]]", f"name = {_text(name[-_LONGEST_NAME:].strip())}", 'scope = "run"']
    lines.append(f"match = {{ {', '.join(match)} }}")
    if told.tokens is not None:
        lines.append(f"limit_tokens = {told.tokens.limit:_}")
    if told.dollars is not None:
        lines.append(f'limit_usd = "{rows.usd(told.dollars.limit)}"')
    return "\n".join(lines)


def _exactly(label: str) -> str:
    """A glob that matches this label alone."""
    return re.sub(r"([*?[])", r"[\1]", label)


def _text(text: str) -> str:
    """A TOML string: of JSON's escapes all but that of the slash are TOML's too."""
    return msgspec.json.encode(text).decode()


def as_json(told: Suggestion, terms: Terms) -> dict[str, Any]:
    """Dollars as decimal strings, shares as numbers."""
    return {
        "agent": told.agent,
        "by": None if told.by is None else f"tag:{told.by}",
        "kind": told.kind,
        "runs": told.runs,
        "coverage": terms.coverage / PPM,
        "buffer": terms.buffer / PPM,
        "confidence": terms.confidence / PPM,
        "promise": terms.promise / PPM,
        "limit_tokens": told.tokens.limit if told.tokens else None,
        "limit_usd": rows.usd(told.dollars.limit) if told.dollars else None,
        "tokens": _side(told.tokens),
        "usd": _side(told.dollars),
        "toml": snippet(told) if told.tokens or told.dollars else None,
    }


def _side(told: Size | None) -> dict[str, Any] | None:
    if told is None:
        return None

    def amount(number: int | None) -> Any:
        return rows.usd(number) if told.unit == "nanos" else number

    shifted = told.drift
    return {
        "limit": amount(told.limit),
        "quantile": amount(told.quantile),
        "runs": told.runs,
        "unknown_runs": list(told.unknown),
        "stopped": len(told.stopped),
        "stopped_runs": list(told.stopped),
        "cut_already": told.cut,
        "stopped_at_most": told.at_most,
        "runs_needed": told.needed,
        "limit_that_keeps_the_promise": amount(told.keeps_promise),
        "drift": None if shifted is None else {
            "since": rows.iso(shifted.since), "earlier_median": amount(shifted.earlier),
            "later_median": amount(shifted.later), "p": shifted.odds,
        },
    }  # fmt: skip
