"""Reserves on their way to a grant: granted, refused, or kept waiting while only others' holds stand in the way.

First come, first served at each counter: who asks of a counter that somebody waits for stands behind him, so that small
calls do not starve a large one; when its patience is over a reserve is decided by what is free, whoever waits. Before
anybody waits or is refused, what the dead have left open is settled. Pure: a waiter is looked at again whenever
something was given back, and when its time has come.
"""

from collections.abc import Callable, Set

import msgspec

from bursar.rules.grant import Grant
from bursar.stores.balances import CounterKey, line_key
from bursar.stores.receipt import Answer, Receipt
from bursar.stores.rows import RowKey, taken_twice
from bursar.stores.transaction import Transaction, Weighing
from bursar.types import Ask, Entry, Hold, Instant, Refused

_GIVEN_UP = Refused("given up while it waited for others' holds", kind="held")
"""The answer that nobody hears any more."""


class Waiter(msgspec.Struct, frozen=True, kw_only=True):
    """A reserve, and why it waits."""

    entry: Entry
    ask: Ask
    receipt: Receipt[Hold | Refused]
    owner: str
    since: Instant
    due: Instant = Instant(0)
    """When its patience is over, by the store's clock."""
    claims: frozenset[CounterKey] = frozenset()
    blocked: frozenset[CounterKey] = frozenset()
    """The counters that it waits for."""
    resets: Instant | None = None
    """When the first of its windows ends."""

    @property
    def key(self) -> RowKey:
        return self.entry.request_id, self.entry.attempt

    def ripe(self, now: Instant) -> bool:
        """It is to be looked at though nothing was given back. A clock that was set back does not prolong a wait."""
        return now >= self.due or now < self.since or (self.resets is not None and now >= self.resets)


class Waiting:
    """Those who wait, as one transaction finds and leaves them."""

    def __init__(self, waiters: dict[RowKey, Waiter], books: Transaction, bury: Callable[[bool], bool]) -> None:
        """bury settles the rows of the dead and says whether there were any; True: it must look now."""
        self.waiters = dict(waiters)
        self.told: list[Answer] = []
        """The answers of those that wait no more, should the transaction be committed."""
        self._books, self._bury = books, bury
        self._moved = False
        self._ahead: set[CounterKey] | None = None

    def reserve(self, entry: Entry, ask: Ask, receipt: Receipt[Hold | Refused], owner: str) -> Waiter | None:
        """Answer a reserve whose id is new in `told`, or let it wait."""
        books = self._books
        if not self.waiters:
            counters, answer = books.weigh(entry, ask)
            if isinstance(answer, Grant):
                self.told.append((receipt, books.grant(entry, counters, answer, owner), None))
                return None
        if self._ahead is None:
            self._ahead = set[CounterKey]().union(*(other.blocked for other in self.waiters.values()))
        waiter = Waiter(entry=entry, ask=ask, receipt=receipt, owner=owner, since=books.now)
        waits = self._try(waiter, self._ahead)
        if waits is not None:
            self.waiters[waits.key] = waits
            self._ahead |= waits.blocked
        return waits

    def give_up(self, key: RowKey, owner: str, fault: BaseException | None = None) -> None:
        """Its owner wants no answer any more, or (fault) can have none."""
        waiter = self.waiters.get(key)
        if waiter is not None and waiter.owner == owner:
            del self.waiters[key]
            self.told.append((waiter.receipt, None if fault is not None else _GIVEN_UP, fault))
            self._moved = True

    def look(self, *, afresh: bool) -> None:
        """Try again whoever may have become lucky, in order. afresh: other processes have written meanwhile."""
        now = self._books.now
        if not self.waiters:
            return
        everyone = afresh or self._moved or self._books.balances.freed
        if not everyone and not any(waiter.ripe(now) for waiter in self.waiters.values()):
            return
        ahead: set[CounterKey] = set()
        for key, waiter in list(self.waiters.items()):
            if waiter.ripe(now) or (everyone and ahead.isdisjoint(waiter.claims)):
                waits = self._retry(waiter, ahead)
                if waits is None:
                    del self.waiters[key]
                    continue
                waiter = self.waiters[key] = waits
            ahead |= waiter.blocked

    def _retry(self, waiter: Waiter, ahead: Set[CounterKey]) -> Waiter | None:
        """As _try; the id may have been taken since it began to wait."""
        if not self._books.knows(waiter.key):
            return self._try(waiter, ahead)
        self.told.append((waiter.receipt, None, taken_twice(waiter.entry)))
        return None

    def _try(self, waiter: Waiter, ahead: Set[CounterKey]) -> Waiter | None:
        """Answer in `told`; a Waiter where there is no answer yet."""
        weighed = self._weighed(waiter, must=False)
        waits = _waits(waiter, weighed, ahead, self._books)
        if waits is not None and waits.due > self._books.now >= waits.since:
            return waits
        if waits is not None and isinstance(weighed.answer, Refused):
            weighed = self._weighed(waiter, must=True)
        answer = weighed.answer
        if isinstance(answer, Grant):
            hold = self._books.grant(waiter.entry, weighed.counters, answer, waiter.owner)
            self.told.append((waiter.receipt, hold, None))
        else:
            self._books.balances.keep_least(weighed.counters)
            self.told.append((waiter.receipt, answer, None))
        return None

    def _weighed(self, waiter: Waiter, *, must: bool) -> Weighing:
        weighed = self._books.weigh(waiter.entry, waiter.ask)
        if isinstance(weighed.answer, Refused) and weighed.answer.kind == "held" and self._bury(must):
            weighed = self._books.weigh(waiter.entry, waiter.ask)
        return weighed


def _waits(waiter: Waiter, weighed: Weighing, ahead: Set[CounterKey], books: Transaction) -> Waiter | None:
    """How long it would wait and for what; None: there is nothing to wait for."""
    counters, answer = weighed
    if isinstance(answer, Grant) and not ahead:
        return None
    claims = {line_key(counter): counter for counter in counters}
    if isinstance(answer, Refused):
        if answer.kind != "held":
            return None
        patience = answer.patience_ms
        blocked = frozenset(
            key for key, counter in claims.items()
            if isinstance(books.decided(waiter.entry, waiter.ask, [counter]), Refused)
        )  # fmt: skip
    else:
        blocked = frozenset(ahead & claims.keys())
        if not blocked:
            return None
        patience = min(claims[key].claim.patience_ms for key in blocked)
    ends = [counter.end for counter in counters if counter.end is not None]
    return msgspec.structs.replace(
        waiter,
        due=Instant(waiter.since + 1000 * patience),
        claims=frozenset(claims),
        blocked=blocked,
        resets=min(ends, default=None),
    )
