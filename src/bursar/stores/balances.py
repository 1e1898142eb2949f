"""Every budget's counter, as one transaction finds and changes it. Pure: a shelf lends the counters.

A counter is what its rows come to: open ones are held at what was granted, closed ones are settled at what they cost
(rules/book.py, charged). A row keeps its charges for good, and with them the window that it was granted in, so that
each is given back exactly once, whenever that is.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from bursar.rules.book import charged
from bursar.rules.grant import Counter
from bursar.rules.window import bounds
from bursar.stores.base import BudgetLine, Toucher
from bursar.stores.forest import Forest
from bursar.types import Ask, Balance, Charge, Claim, Entry, Instant

CounterKey: TypeAlias = tuple[str, str, str, str, int]
"""tenant, scope, key, budget, the window's first instant"""


class CounterShelf(Protocol):
    """Where the counters stand between two transactions."""

    def counter(self, key: CounterKey) -> BudgetLine | None: ...
    def of_run(self, tenant: str, key: str) -> Iterable[BudgetLine]:
        """The counters of scope run with this key, the older windows first."""


class Place(msgspec.Struct, frozen=True):
    """A claim and its counter's place in the window that the clock is in."""

    claim: Claim
    key: CounterKey
    end: Instant | None


def place(claim: Claim, now: Instant) -> Place:
    """Where a claim is counted now."""
    start, end = bounds(claim.window, claim.zone, now)
    return Place(claim, (claim.tenant, claim.scope, claim.key, claim.budget, start), end)


def key_of(charge: Charge) -> CounterKey:
    """The counter that a charge is of."""
    return charge.tenant, charge.scope, charge.key, charge.budget, charge.start


def counted(at: Place, line: BudgetLine | None, *, final: bool = True) -> Counter:
    """A claim's counter on the terms that hold for it."""
    claim, start = at.claim, Instant(at.key[-1])
    if line is None:
        return Counter(claim, Balance(), start, at.end, final)
    if claim.least:
        claim = least(claim, line.counter.claim)
    return Counter(claim, line.counter.balance, start, at.end, final)


def least(claim: Claim, other: Claim) -> Claim:
    """The claim with the lower of both limits."""
    nanos, tokens = _lower(claim.limit_nanos, other.limit_nanos), _lower(claim.limit_tokens, other.limit_tokens)
    if (nanos, tokens) == (claim.limit_nanos, claim.limit_tokens):
        return claim
    return msgspec.structs.replace(claim, limit_nanos=nanos, limit_tokens=tokens)


def _lower(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


class Balances:
    """The counters as one transaction sees and changes them."""

    __slots__ = ("_forest", "_now", "_shelf", "changed", "freed")

    def __init__(self, shelf: CounterShelf, forest: Forest, now: Instant) -> None:
        self._shelf, self._forest, self._now = shelf, forest, now
        self.changed: dict[CounterKey, BudgetLine] = {}
        self.freed = False
        """Something that was held has been given back."""

    def claimed(self, entry: Entry, ask: Ask) -> list[Counter]:
        """Every counter that an attempt asks of, those of the runs above it included."""
        places: dict[CounterKey, Place] = {}
        for claim in ask.claims:
            at = place(claim, self._now)
            twice = places.get(at.key)
            places[at.key] = at if twice is None else Place(least(claim, twice.claim), at.key, at.end)
        for run_id in ask.climb:
            self._climb(entry, run_id, places)
        return [
            counted(at, self._line(at.key), final=at.claim.scope != "run" or at.claim.key == entry.run_id)
            for at in places.values()
        ]

    def _climb(self, entry: Entry, start: str, places: dict[CounterKey, Place]) -> None:
        """The counters of a run and of every run above it, on the terms that they were last claimed on.

        A limit from a header is kept under the key that stated it.
        """
        for run_id in self._forest.line(entry.tenant, start):
            for key in (run_id,) if entry.key_id is None else (run_id, f"{entry.key_id}:{run_id}"):
                for line in reversed(self._run_lines(entry.tenant, key)):
                    at = place(line.counter.claim, self._now)
                    places.setdefault(at.key, at)

    def _run_lines(self, tenant: str, key: str) -> list[BudgetLine]:
        found = {line_key(line): line for line in self._shelf.of_run(tenant, key)}
        found.update(
            (at, line) for at, line in self.changed.items() if at[0] == tenant and at[1] == "run" and at[2] == key
        )
        return list(found.values())

    def _line(self, key: CounterKey) -> BudgetLine | None:
        return self.changed.get(key) or self._shelf.counter(key)

    def hold(self, counters: Sequence[Counter], charges: Sequence[Charge]) -> None:
        """A row has been granted these charges."""
        for counter, charge in zip(counters, charges, strict=True):
            key, balance = key_of(charge), counter.balance
            had = self._line(key)
            held = Balance(
                balance.settled_nanos,
                balance.settled_tokens,
                balance.held_nanos + charge.nanos,
                balance.held_tokens + charge.tokens,
            )
            self._put(key, counter, held, 1 if had is None else had.rows + 1)

    def keep_least(self, counters: Iterable[Counter]) -> None:
        """A limit that was said lower than ever stays, though the call that said so was refused."""
        for counter in counters:
            if counter.claim.least:
                key = line_key(counter)
                line = self._line(key)
                if line is None or line.counter.claim != counter.claim:
                    self._put(key, counter, counter.balance, 0 if line is None else line.rows)

    def extend(self, charges: Sequence[Charge], nanos: int, tokens: int) -> tuple[Charge, ...]:
        """Hold so much more wherever the input is held at less than its ceiling."""
        extended = []
        for charge in charges:
            line = self._line(key_of(charge))
            if line is not None and line.counter.claim.learned_input:
                self._move(charge, held=(nanos, tokens))
                charge = msgspec.structs.replace(charge, nanos=charge.nanos + nanos, tokens=charge.tokens + tokens)
            extended.append(charge)
        return tuple(extended)

    def settle(self, before: Entry, after: Entry) -> None:
        """A row has closed, or an expired one has been corrected."""
        for charge in after.charges:
            nanos, tokens = charged(after, charge)
            if before.status == "open":
                self._move(charge, (nanos, tokens), (-charge.nanos, -charge.tokens))
            else:
                had_nanos, had_tokens = charged(before, charge)
                self._move(charge, (nanos - had_nanos, tokens - had_tokens))
            self.freed = True

    def _move(self, charge: Charge, settled: tuple[int, int] = (0, 0), held: tuple[int, int] = (0, 0)) -> None:
        key = key_of(charge)
        line = self._line(key) or _lost(charge, self._now)
        was = line.counter.balance
        balance = Balance(
            was.settled_nanos + settled[0],
            was.settled_tokens + settled[1],
            was.held_nanos + held[0],
            was.held_tokens + held[1],
        )
        self._put(key, line.counter, balance, line.rows)

    def _put(self, key: CounterKey, counter: Counter, balance: Balance, rows: int) -> None:
        standing = Counter(counter.claim, balance, counter.start, counter.end)
        self.changed[key] = BudgetLine(counter=standing, rows=rows, touched_at=self._now)


def _lost(charge: Charge, now: Instant) -> BudgetLine:
    """A counter that somebody has removed from under its rows: no settlement fails for that; the audit tells."""
    claim = Claim(budget=charge.budget, scope=charge.scope, key=charge.key, tenant=charge.tenant)
    return BudgetLine(counter=Counter(claim, Balance(), Instant(charge.start), None), rows=0, touched_at=now)


def touchers(rows: Iterable[Entry], key: CounterKey, limit: int) -> list[Toucher]:
    """Whose rows carry a charge of this counter, the dearest first; open ones at what they hold."""
    sums: dict[tuple[str | None, str | None, str | None], list[int]] = {}
    for entry in rows:
        for charge in entry.charges:
            if key_of(charge) == key:
                amounts = (charge.nanos, charge.tokens) if entry.status == "open" else charged(entry, charge)
                mine = sums.setdefault((entry.agent_id, entry.user_id, entry.step), [0, 0, 0])
                for at, number in enumerate((1, *amounts)):
                    mine[at] += number
    found = [Toucher(*who, *numbers) for who, numbers in sums.items()]
    return sorted(found, key=lambda one: (-one.nanos, -one.tokens, -one.rows))[:limit]


def line_key(line: BudgetLine | Counter) -> CounterKey:
    """The place of a counter."""
    counter = line.counter if isinstance(line, BudgetLine) else line
    claim = counter.claim
    return claim.tenant, claim.scope, claim.key, claim.budget, counter.start
