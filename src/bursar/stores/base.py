"""What a store is: the books of every call, answered to the drivers, the doors and the insights.

Every store passes one contract suite. What cannot be written durably is said (StoreFailure), never assumed; a
settlement that cannot be written is kept in a journal and written later. Amounts are nano-dollars, instants
microseconds since the epoch, UTC; None is unknown, never zero.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeAlias

import msgspec

from bursar.rules.grant import Counter
from bursar.stores.cache import AnswerCache
from bursar.stores.counters import Counters
from bursar.stores.forest import Run
from bursar.stores.pages import Page
from bursar.stores.receipt import Receipt
from bursar.stores.states import States
from bursar.types import Ask, Claim, Entry, Hold, Instant, Ratios, Refused

__all__ = [
    "BudgetLine", "Clock", "Counter", "Counters", "Filters", "Finding", "Key", "Line", "Metrics", "Page", "Receipt",
    "Run", "RunCosts", "Store", "StoreFailure", "Toucher", "system_clock",
]  # fmt: skip

Clock: TypeAlias = Callable[[], Instant]
"""A store's own: windows and patience go by it, never by an instant that a caller passes."""


def system_clock() -> Instant:
    """Microseconds since the epoch."""
    return Instant(time.time_ns() // 1000)


class StoreFailure(Exception):
    """The books could not be written or read: what was tried, why it failed, and what cures it."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows to look at: all that is set must hold. `since` is inclusive, `until` exclusive."""

    tenant: str | None = None
    run_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    user_tier: str | None = None
    agent_id: str | None = None
    step: str | None = None
    model: str | None = None
    tier: str | None = None
    provider: str | None = None
    status: str | None = None
    cache: str | None = None
    since: Instant | None = None
    until: Instant | None = None


class Line(msgspec.Struct, frozen=True):
    """One line of a report: what was spent under one key. key is None where nobody said."""

    key: str | None
    counts: Counters
    runs: int | None = None
    """Root runs that began in the period; known by agent and for the total only."""


class RunCosts(msgspec.Struct, frozen=True):
    """Cost per agent run, nested runs within their root's. Quantiles are exact to about 6 % (twenty bins a decade)."""

    agent_id: str | None
    runs: int
    unpriced_runs: int
    """Runs with a call whose cost is unknown: their known part is a lower bound and is what is counted."""
    cost_nanos: int
    mean_nanos: int | None
    p50_nanos: int | None
    p90_nanos: int | None
    p99_nanos: int | None


class Metrics(msgspec.Struct, frozen=True):
    """The four metrics of a period, as numbers: run costs, user costs, cache hit rates, where the calls went."""

    total: Counters
    runs: RunCosts
    runs_by_agent: tuple[RunCosts, ...]
    users: int
    cost_per_user_nanos: int | None
    """Mean over the users that are named; the cost of calls that name none is left out."""
    top_users: tuple[Line, ...]
    hit_rate: float | None
    """Calls answered from Bursar's own caches, of all calls."""
    cached_input_share: float | None
    """Input tokens that the provider read from its prompt cache, of all input tokens."""
    models: tuple[Line, ...]
    tiers: tuple[Line, ...]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A Bursar key: what it may do and for whom. Only the hash of its secret is ever stored."""

    key_id: str
    name: str
    tenant: str
    role: Literal["data", "admin"]
    hash: bytes
    created_at: Instant
    trusted_claims: frozenset[str] = frozenset()
    revoked_at: Instant | None = None


class BudgetLine(msgspec.Struct, frozen=True, kw_only=True):
    """One counter in one window: the terms it was last claimed on, where it stands, and when it was touched."""

    counter: Counter
    rows: int
    """Ledger rows charged to it, open ones included."""
    touched_at: Instant


class Toucher(msgspec.Struct, frozen=True):
    """Whose rows a counter was charged with."""

    agent_id: str | None
    user_id: str | None
    step: str | None
    rows: int
    nanos: int
    tokens: int


class Finding(msgspec.Struct, frozen=True):
    """One mismatch that an audit of the ledger found."""

    what: str
    expected: str
    found: str
    cure: str


By: TypeAlias = str
"""agent | step | user | user_tier | session | model | tier | provider | api | cache | tag:K | day | hour | total"""


class Store(Protocol):
    """Thread-safe. reserve, settle and ratios return at once; everything else blocks for as long as it takes.

    Reads see all that this process has submitted before them and never hold up the writer.
    """

    @property
    def cache(self) -> AnswerCache:
        """The answers that are kept to be given again: beside the books, never in their way."""

    @property
    def states(self) -> States:
        """What all processes on these books know beside them: routes, breakers, incidents."""

    def reserve(self, entry: Entry, ask: Ask = ...) -> Receipt[Hold | Refused]:
        """Open the row and hold all that is asked, in one atomic step, or neither: rules/grant.py decides.

        Resolved once it is committed; StoreFailure where it cannot be: then nothing may be sent. Every settlement that
        was submitted before counts. Where only others' holds stand in the way the answer is waited for, in order of
        arrival, as long as the claim's patience; holds of the dead are settled first. The counters of trusted runs
        above (ask.climb and up) are claimed too, on the terms that they were last claimed on.
        """

    def reserve_async(self, entry: Entry, ask: Ask = ...) -> Awaitable[Hold | Refused]:
        """The same for the running event loop, which is called once a batch and never blocked."""

    def extend(self, hold: Hold, nanos: int, tokens: int) -> Receipt[None]:
        """Hold so much more of an open row's counters, for input found larger than was held. Never refused.

        It is added where the input is held at its learned p99.9; what is held at the ceiling covers it already.
        """

    def settle(self, hold: Hold, entry: Entry) -> Receipt[None]:
        """Close the row and add it to every rollup, run and histogram in one transaction, exactly once.

        A row that is closed already stays as it is, except that an `expired` one takes its late real outcome, once. A
        hit or a refusal needs no reserve. Any other settlement without a row falls: its reserve was refused, or is
        given up with it while it waits. What the row held is given back and what it is charged
        (rules/book.py, charged) is added, in that same transaction.
        """

    def judged(self, entry: Entry, validated: bool | None, verdict: str) -> Receipt[None]:
        """Mark a closed row (by the entry's request and attempt) with what validators said; the last word counts.

        validated: passed, rejected, or unknown (None). verdict: JSON of a Judgement. Behind the row's settlement, and
        nobody waits for it. A row that is not there or still open is left alone and counted (`ignored`). It is
        knowledge, not money: what the disk refuses is lost, logged once a minute and said on the receipt, never
        journalled. A late outcome of an expired row keeps its mark.
        """

    def balances(self, claims: tuple[Claim, ...]) -> list[Counter]:
        """Where each claim's counter stands now, in the window that the store's clock is in. Zero where none is."""

    def budgets(
        self, tenant: str | None = None, budget: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[BudgetLine]:
        """Counters of the windows that are running (and of lifetimes), the last touched first."""

    def touchers(self, line: BudgetLine, limit: int = 10) -> list[Toucher]:
        """Who was charged to a counter in its window, the dearest first: read from its rows, all of them."""

    def ratios(self, provider: str, model: str) -> Ratios:
        """Reported tokens per estimated one, learned from settled rows, by the model that was sent."""

    def sweep(self) -> int:
        """Expire the open rows of processes that are gone: booked at their hold. Returns how many."""

    def flush(self) -> None:
        """Return when everything submitted before is committed, journalled or refused, or waits for others' holds."""

    def close(self) -> None:
        """Flush and let go. Rows still open are expired at the next start."""

    def calls(self, filters: Filters = ..., limit: int = 100, cursor: str | None = None) -> Page[Entry]:
        """Rows, newest first."""

    def call(self, request_id: str) -> list[Entry]:
        """Every attempt of one request, in order."""

    def recent(
        self, tenant: str, step: tuple[str | None, str | None] | None = None, limit: int = 500
    ) -> list[Entry]:  # fmt: skip
        """A tenant's newest closed calls that were sent, or those of one (agent, step), newest first.

        Only the ledger's last 20,000 rows are looked at, so that it takes no longer on a large one.
        """

    def runs(self, filters: Filters = ..., limit: int = 100, cursor: str | None = None) -> Page[Run]:
        """Runs, newest first, of the filters' tenant, agent, user, session and period."""

    def run(self, run_id: str, tenant: str | None = None) -> list[Entry]:
        """The rows of a run and all its descendants, in order of their start."""

    def run_total(self, run_id: str, tenant: str = "default") -> Run | None:
        """One run's own and (for a root) whole-tree totals."""

    def spend(
        self, by: By, since: Instant | None = None, until: Instant | None = None, filters: Filters = ...,
        zone: str = "UTC",
    ) -> list[Line]:  # fmt: skip
        """Sums by one label or by local day or hour, in whole quarters of an hour, from rollups alone.

        A long period costs little more than a short one, but by hour and by days of another zone than UTC.
        """

    def metrics(self, since: Instant | None = None, until: Instant | None = None, tenant: str | None = None) -> Metrics:
        """The four metrics of a period, from rollups and the histogram of run costs alone."""

    def verify(self) -> list[Finding]:
        """Audit the ledger against itself by reading all of it; empty: every sum holds."""

    def create_key(self, key: Key) -> None: ...
    def list_keys(self) -> list[Key]: ...
    def revoke_key(self, key_id: str, at: Instant) -> bool:
        """False where no live key has this id."""

    def find_key(self, hash: bytes) -> Key | None:
        """The live key with this hash."""
