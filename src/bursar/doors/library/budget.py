"""What the code around a run lets it spend, what is left of that, and what a last word may be made of.

An amount that cannot be one raises ValueError where it is written, never in the middle of a run.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias, get_args

from bursar.money import format_usd, parse_usd
from bursar.rules import grant
from bursar.rules.grant import Counter
from bursar.stores.base import Store
from bursar.types import PPM, BudgetState, Cap, Charge, Claim, Kin, OnExhausted


@dataclass(frozen=True, slots=True)
class Finishing:
    """What is known when a call is answered in the provider's place because a budget is used up."""

    run_id: str | None
    reason: str
    """What stood in the way, by how much, and which setting cures it."""
    budget: str
    """The budget's name; "run:ID" for the one that guard.run() was given."""
    limit: str
    """As text: "$0.5", "10,000 tokens" or both, joined by "and"."""
    spent: str
    messages: list[Any]
    """The request's own messages, decoded, in the provider's format: the conversation so far."""
    calls: list[dict[str, Any]]
    """The ledger's rows of the run and of the runs inside it, in order of their start."""


Finish: TypeAlias = Callable[[Finishing], str | Awaitable[str]]
"""Makes the text of a partial answer. An awaitable only for async clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit for one run and all runs inside it, over its lifetime: in dollars, in tokens, or both.

    usd: a Decimal, an int, a decimal string, or a float, which counts as it is written (0.1 is ten cents). tokens:
    input + output of every attempt, cached and reasoning included. finish_reserve: the share, from 0 up to 1, that is
    kept for the run's final answer. on_exhausted: "finish" (a partial answer), "downgrade" (cheaper tiers first) or
    "refuse" (HTTP 402). finish: makes the text of the partial answer; None: what bursar.open() was given, else the
    template. ValueError says what is wrong.
    """

    usd: Decimal | str | int | float | None = None
    tokens: int | None = None
    finish_reserve: Decimal | str | float = 0
    on_exhausted: OnExhausted = "finish"
    finish: Finish | None = None

    def __post_init__(self) -> None:
        if self.usd is None and self.tokens is None:
            raise ValueError("a Budget limits nothing: give usd, tokens or both")
        if self.on_exhausted not in get_args(OnExhausted):
            told = ", ".join(map(repr, get_args(OnExhausted)))
            raise ValueError(f"on_exhausted = {self.on_exhausted!r}: expected one of {told}")
        if self.finish is not None and not callable(self.finish):
            raise ValueError(f"finish = {self.finish!r:.80}: expected a function of a bursar.Finishing that gives text")
        self.cap()

    def cap(self) -> Cap:
        """The same as rules know it."""
        return Cap(
            limit_nanos=None if self.usd is None else _nanos(self.usd),
            limit_tokens=None if self.tokens is None else _tokens(self.tokens),
            finish_reserve=_share(self.finish_reserve),
            on_exhausted=self.on_exhausted,
        )


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left to a run of all budgets that it falls under, its ancestors' included: limit - settled - held.

    None: nothing limits it. A finish reserve is part of what is left.
    """

    usd: Decimal | None = None
    tokens: int | None = None
    budget: str | None = None
    """Of which budget the smallest share is left; None: no budget applies."""


def remaining(counters: Sequence[Counter]) -> Remaining:
    """The least that is left of any of them, in dollars and in tokens; never below 0."""
    tightest = grant.standing(counters, [_untouched(c) for c in counters])
    alone = [grant.standing((c,), (_untouched(c),)) for c in counters]
    nanos = [s.remaining_nanos for s in alone if s is not None and s.remaining_nanos is not None]
    tokens = [s.remaining_tokens for s in alone if s is not None and s.remaining_tokens is not None]
    return Remaining(
        Decimal(format_usd(max(0, min(nanos)))) if nanos else None,
        max(0, min(tokens)) if tokens else None,
        None if tightest is None else tightest.budget,
    )


def state(counters: Sequence[Counter]) -> BudgetState:
    """wrap_up where any of them has come so far that the run should end; else ok."""
    alone = (grant.standing((c,), (_untouched(c),)) for c in counters)
    return "wrap_up" if any(s is not None and s.state != "ok" for s in alone) else "ok"


def resumed(store: Store, run_id: str) -> tuple[Kin, ...]:
    """A run that other code has begun and the runs around it, innermost first, each with the limit that it was given.

    () where the ledger knows nothing of it. StoreFailure where the ledger cannot be read.
    """
    line: dict[str, Kin] = {}
    at: str | None = run_id
    while at is not None and at not in line:
        caps = store.budgets("default", f"run:{at}", 1).items
        cap = _cap_again(caps[0].counter.claim) if caps else None
        run = store.run_total(at)
        if run is not None:
            line[at] = Kin(at, run.agent_id, run.user_tier, cap=cap)
        elif cap is not None:
            line[at] = Kin(at, cap=cap)
        at = run.parent_run_id if run is not None else None
    return tuple(line.values())


def _cap_again(claim: Claim) -> Cap:
    return Cap(
        limit_nanos=claim.limit_nanos,
        limit_tokens=claim.limit_tokens,
        finish_reserve=claim.finish_reserve,
        on_exhausted=claim.on_exhausted,
    )


def _untouched(counter: Counter) -> Charge:
    claim = counter.claim
    return Charge(claim.budget, claim.scope, claim.key, claim.tenant, counter.start, 0, 0)


def _nanos(usd: Decimal | str | int | float) -> int:
    nanos = parse_usd(repr(usd) if isinstance(usd, float) else usd)
    if nanos < 0:
        raise ValueError(f"usd = {usd!r}: expected 0 or more")
    return nanos


def _tokens(tokens: int) -> int:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise ValueError(f"tokens = {tokens!r}: expected a whole number of 0 or more")
    return tokens


def _share(told: Decimal | str | float) -> int:
    """Millionths, rounded down."""
    try:
        share = Decimal(repr(told) if isinstance(told, float) else told)
        if 0 <= share < 1:
            return int(share * PPM)
    except (InvalidOperation, TypeError, ValueError):
        pass
    raise ValueError(f"finish_reserve = {told!r}: expected a share from 0 up to, but not, 1, such as 0.15")
