"""The decision inside a Reserve: how much output an attempt may have, and what it holds of every counter, or why not.

Pure, and the one place where a budget says yes or no: every store asks it inside its own atomic step. All claims are
held or none. Integers only; a hold covers the input at its ceiling and the output limit that is sent, so that a limit
is never passed (architecture.md, law 3), and only what is spent can exhaust it (law 4).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from bursar.money import divide_up, format_usd
from bursar.types import PPM, Ask, Balance, BudgetState, Charge, Claim, Hold, Instant, Refused, Standing

_MTOK = 1_000_000
_ENDLESS = 1 << 60
UNMEASURED_OUTPUT = 4_096
"""What a step is taken to need of output, in tokens, until it has been measured."""
_HELD_RETRY_MS = 1_000


class Counter(msgspec.Struct, frozen=True):
    """A claim in the window that the store's clock is in, and where its counter stands."""

    claim: Claim
    balance: Balance
    start: Instant
    end: Instant | None
    """When the window resets; None: never."""
    final: bool = True
    """Its finish reserve is open to this call, if that is a final answer: not to a descendant's."""


class Grant(msgspec.Struct, frozen=True):
    """What is to be held: a charge for each counter, in their order."""

    charges: tuple[Charge, ...]
    nanos: int | None
    output_limit: int | None
    lowered: bool
    from_reserve: bool
    learned_input: int | None
    input_rate: int
    standing: Standing | None

    def hold(self, request_id: str, attempt: int) -> Hold:
        """The receipt of this grant."""
        return Hold(
            request_id, attempt, self.charges, self.nanos, self.output_limit, self.lowered, self.from_reserve,
            self.learned_input, self.input_rate, self.standing,
        )  # fmt: skip


def decide(
    ask: Ask, counters: Sequence[Counter], typical: int | None, reserve_open: bool, now: Instant
) -> Grant | Refused:
    """Grant, or refuse.

    typical: the p99.9 of this step's output in tokens; None: too few were seen. reserve_open: the run has not had its
    final answer yet. now: the store's clock.
    """
    final = ask.final and reserve_open
    wanted = _ENDLESS if ask.wanted is None else ask.wanted
    if ask.max_nanos is not None:
        most = _most(ask, ask.max_nanos, ask.input_cost)
        if most < min(ask.floor, wanted):
            return _too_dear(ask, ask.max_nanos)
        wanted = min(wanted, most)
    need = max(min(wanted, UNMEASURED_OUTPUT if typical is None else typical), min(ask.floor, wanted))
    share = spent = free = _ENDLESS
    tightest = blocking = 0
    for at, counter in enumerate(counters):
        room = _room(ask, counter, final and counter.final)
        share = min(share, room.share)
        if room.spent < spent:
            spent, tightest = room.spent, at
        if room.free < free:
            free, blocking = room.free, at
    limit = wanted if final else min(wanted, max(need, share))
    if spent < limit:
        limit = spent
        if limit < (min(ask.floor, wanted) if ask.clamp else need):
            return _exhausted(ask, counters, tightest, final and counters[tightest].final, now)
    if free < limit:
        if free < min(limit, need):
            return _held(ask, counters, blocking)
        limit = free
    return _grant(ask, counters, limit, need, final)


class Amount(msgspec.Struct, frozen=True):
    """Dollars and tokens side by side; None: that side has no limit. As text: "$0.5 and 10,000 tokens"."""

    nanos: int | None
    tokens: int | None

    def __str__(self) -> str:
        told = []
        if self.nanos is not None:
            told.append(f"{'-' if self.nanos < 0 else ''}${format_usd(abs(self.nanos))}")
        if self.tokens is not None:
            told.append(f"{self.tokens:,} tokens")
        return " and ".join(told) or "no limit"

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(
            None if self.nanos is None else self.nanos - (other.nanos or 0),
            None if self.tokens is None else self.tokens - (other.tokens or 0),
        )

    def share(self, ppm: int) -> "Amount":
        return Amount(
            None if self.nanos is None else self.nanos * ppm // PPM,
            None if self.tokens is None else self.tokens * ppm // PPM,
        )

    @staticmethod
    def settled(balance: Balance) -> "Amount":
        return Amount(balance.settled_nanos, balance.settled_tokens)


def _limit(claim: Claim) -> Amount:
    return Amount(claim.limit_nanos, claim.limit_tokens)


def _open_to(claim: Claim, final: bool) -> Amount:
    """What of the limit a call may touch: the finish reserve is for final ones."""
    limit = _limit(claim)
    if final or not claim.finish_reserve:
        return limit
    kept = Amount(_up(claim.limit_nanos, claim.finish_reserve), _up(claim.limit_tokens, claim.finish_reserve))
    return limit - kept


def _up(amount: int | None, ppm: int) -> int | None:
    return None if amount is None else divide_up(amount * ppm, PPM)


def _input(ask: Ask, claim: Claim) -> tuple[int | None, int]:
    """Cost and tokens of the input as this claim holds it."""
    return (ask.likely_cost, ask.likely_tokens) if claim.learned_input else (ask.input_cost, ask.input_tokens)


class _Room(msgspec.Struct, frozen=True, gc=False):
    """The largest output limits that a counter pays for; negative where not even the input is paid for."""

    share: int
    """By the claim's share of what is available to everybody now."""
    spent: int
    """By all that is not spent."""
    free: int
    """By what is neither spent nor held."""


def _room(ask: Ask, counter: Counter, final: bool) -> _Room:
    """On plain numbers: this runs for every claim of every call."""
    claim, balance = counter.claim, counter.balance
    cost, tokens = _input(ask, claim)
    share = spent = free = _ENDLESS
    if claim.limit_tokens is not None:
        limit, taken = claim.limit_tokens, balance.settled_tokens + balance.held_tokens
        common = limit - divide_up(limit * claim.finish_reserve, PPM)
        mine = limit if final else common
        share = ((common - taken) * claim.max_share // PPM - tokens) // ask.choices
        spent = (mine - balance.settled_tokens - tokens) // ask.choices
        free = (mine - taken - tokens) // ask.choices
    if claim.limit_nanos is not None:
        limit, taken = claim.limit_nanos, balance.settled_nanos + balance.held_nanos
        common = limit - divide_up(limit * claim.finish_reserve, PPM)
        mine = limit if final else common
        share = min(share, _most(ask, (common - taken) * claim.max_share // PPM, cost))
        spent = min(spent, _most(ask, mine - balance.settled_nanos, cost))
        free = min(free, _most(ask, mine - taken, cost))
    return _Room(share, spent, free)


def _most(ask: Ask, nanos: int, input_cost: int | None) -> int:
    if input_cost is None:
        return _ENDLESS
    left = nanos * _MTOK - input_cost
    if left < 0:
        return -1
    rate = (ask.output_rate or 0) * ask.choices
    return left // rate if rate else _ENDLESS


def _nanos(ask: Ask, input_cost: int | None, limit: int) -> int | None:
    if input_cost is None:
        return None
    return divide_up(input_cost + limit * ask.choices * (ask.output_rate or 0), _MTOK)


def _grant(ask: Ask, counters: Sequence[Counter], limit: int, need: int, final: bool) -> Grant:
    known = limit < _ENDLESS
    charges = []
    from_reserve = False
    for counter in counters:
        claim = counter.claim
        cost, tokens = _input(ask, claim)
        nanos = _nanos(ask, cost, limit if known else 0) or 0
        tokens += limit * ask.choices if known else 0
        left = round(_left(counter, nanos, tokens) * PPM)
        charges.append(Charge(claim.budget, claim.scope, claim.key, claim.tenant, counter.start, nanos, tokens, left))
        if final and counter.final and claim.finish_reserve:
            from_reserve |= limit > _room(ask, counter, False).free
    sent = limit if known and limit != ask.stated else None
    return Grant(
        charges=tuple(charges),
        nanos=_nanos(ask, ask.input_cost, limit) if known else None,
        output_limit=sent,
        lowered=known and limit < (_ENDLESS if ask.wanted is None else ask.wanted),
        from_reserve=from_reserve,
        learned_input=ask.likely_tokens if any(c.claim.learned_input for c in counters) else None,
        input_rate=(ask.input_cost or 0) // ask.input_tokens if ask.input_tokens else 0,
        standing=standing(counters, charges, short=limit < need),
    )


def standing(counters: Sequence[Counter], charges: Sequence[Charge], *, short: bool = False) -> Standing | None:
    """The counter with the smallest share left, after these charges; None without any."""
    if not counters:
        return None
    tightest = min(zip(counters, charges, strict=True), key=lambda pair: _left(pair[0], pair[1].nanos, pair[1].tokens))
    return _standing(*tightest, short)


def _left(counter: Counter, nanos: int, tokens: int) -> float:
    """The share of its limit that a counter has left after so much more, of the side that has less."""
    claim, balance, share = counter.claim, counter.balance, 1.0
    if claim.limit_nanos is not None:
        left = claim.limit_nanos - balance.settled_nanos - balance.held_nanos - nanos
        share = left / claim.limit_nanos if claim.limit_nanos else 0.0
    if claim.limit_tokens is not None:
        left = claim.limit_tokens - balance.settled_tokens - balance.held_tokens - tokens
        share = min(share, left / claim.limit_tokens if claim.limit_tokens else 0.0)
    return share


def _standing(counter: Counter, charge: Charge, short: bool) -> Standing:
    claim, balance = counter.claim, counter.balance
    open_ = _open_to(claim, False)
    taken = Amount(balance.settled_nanos + balance.held_nanos + charge.nanos,
                  balance.settled_tokens + balance.held_tokens + charge.tokens)  # fmt: skip
    left, until = _limit(claim) - taken, open_.share(claim.wrap_up) - Amount.settled(balance)
    wrap = short or any(rest is not None and rest <= 0 for rest in (until.nanos, until.tokens))
    return Standing(
        claim.budget, claim.scope, "wrap_up" if wrap else "ok", left.nanos, left.tokens, until.nanos, until.tokens
    )


def state(counter: Counter) -> BudgetState:
    """Where a counter stands by what is open to everybody: exhausted where spent money has taken all of it."""
    left = _open_to(counter.claim, False) - Amount.settled(counter.balance)
    if any(rest is not None and rest <= 0 for rest in (left.nanos, left.tokens)):
        return "exhausted"
    told = standing((counter,), _nothing((counter,)))
    return "ok" if told is None else told.state


def _nothing(counters: Sequence[Counter]) -> list[Charge]:
    return [Charge(c.claim.budget, c.claim.scope, c.claim.key, c.claim.tenant, c.start, 0, 0) for c in counters]


def _exhausted(ask: Ask, counters: Sequence[Counter], at: int, final: bool, now: Instant) -> Refused:
    counter = counters[at]
    claim, balance = counter.claim, counter.balance
    left = _open_to(claim, final) - Amount.settled(balance)
    kept = ", of which a share is kept for the final answer" if claim.finish_reserve and not final else ""
    told = standing(counters[at : at + 1], _nothing(counters[at : at + 1]))
    until = f" or wait until it resets at {_clock(counter.end)}" if counter.end is not None else ""
    setting = "the limit that the run was given" if claim.budget.startswith("run:") else f'[[budgets]] "{claim.budget}"'
    return Refused(
        f"the budget {claim.budget!r} ({whose(claim)}) is used up: {_only(Amount.settled(balance), claim)} of "
        f"{_limit(claim)} spent{kept}; {left} left and this call needs {_needs(ask, claim)}: raise "
        f"{setting}{until}",
        kind="exhausted",
        budget=claim.budget,
        on_exhausted=claim.on_exhausted,
        retry_after_ms=None if counter.end is None else max(0, counter.end - now) // 1000,
        standing=None if told is None else msgspec.structs.replace(told, state="exhausted"),
        facts=(
            ("budget", claim.budget),
            ("scope", whose(claim)),
            ("limit", str(_limit(claim))),
            ("spent", str(_only(Amount.settled(balance), claim))),
            ("resets", "never" if counter.end is None else _clock(counter.end)),
        ),
    )


def _held(ask: Ask, counters: Sequence[Counter], at: int) -> Refused:
    counter = counters[at]
    claim, balance = counter.claim, counter.balance
    held = Amount(balance.held_nanos, balance.held_tokens)
    return Refused(
        f"the budget {claim.budget!r} ({whose(claim)}) is held by other calls under way: "
        f"{_only(held, claim)} held, this call needs {_needs(ask, claim)}; try again when they have ended, or "
        f"raise patience or the limit",
        kind="held",
        budget=claim.budget,
        retry_after_ms=_HELD_RETRY_MS,
        patience_ms=claim.patience_ms,
        standing=standing(counters[at : at + 1], _nothing(counters[at : at + 1])),
    )


def _too_dear(ask: Ask, cap: int) -> Refused:
    least = _nanos(ask, ask.input_cost, ask.floor)
    needs = "an unknown sum" if least is None else f"${format_usd(least)}"
    return Refused(
        f"this call can cost {needs} at the least and its guard allows ${format_usd(max(cap, 0))}: raise "
        f"x-bursar-max-cost-usd or send less",
        kind="call",
    )


def whose(claim: Claim) -> str:
    """ "user u42, day": whose counter and which window, for people."""
    key = "" if claim.scope in ("global", "tenant") else f" {claim.key}"
    return f"{claim.scope}{key}, {claim.window}"


def _only(pair: Amount, claim: Claim) -> Amount:
    """The sides that the claim limits."""
    return Amount(
        None if claim.limit_nanos is None else pair.nanos, None if claim.limit_tokens is None else pair.tokens
    )


def _needs(ask: Ask, claim: Claim) -> str:
    cost, tokens = _input(ask, claim)
    nanos = _nanos(ask, cost, ask.floor)
    return f"{_only(Amount(nanos, tokens + ask.floor * ask.choices), claim)} at the least"


def _clock(at: Instant) -> str:
    return datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
