"""Laws of the budget's decision: never over the limit (law 3), never a false no (law 4), and how much is held."""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules.grant import UNMEASURED_OUTPUT, Counter, Grant, decide
from bursar.types import PPM, Ask, Balance, Charge, Claim, Instant, Refused, Standing

NOW = Instant(1_764_000_000_000_000)
DOLLAR = 1_000_000_000
PER_MILLION = 1_000_000

shares = st.sampled_from([0, 50_000, 100_000, 150_000, 333_333, 500_000, PPM])
outputs = st.integers(0, 20_000)


@st.composite
def asks(draw: st.DrawFn, /, **fixed: Any) -> Ask:
    """A call as the rules describe it: priced or not, with a limit of its own, of its step, of its model or none."""
    tokens = draw(st.integers(0, 50_000))
    likely = draw(st.integers(0, tokens))
    rate = draw(st.sampled_from([0, 600 * 10**6, 15 * 10**9, 75 * 10**9]))
    priced = draw(st.booleans()) or draw(st.booleans())
    stated = draw(st.none() | outputs)
    of_step = draw(st.none() | outputs)
    told = {
        "input_tokens": tokens,
        "input_cost": tokens * rate // 5 if priced else None,
        "likely_tokens": likely,
        "likely_cost": likely * rate // 5 if priced else None,
        "output_rate": rate if priced else None,
        "choices": draw(st.integers(1, 3)),
        "stated": stated,
        "wanted": min((n for n in (stated, of_step) if n is not None), default=None),
        "floor": draw(st.sampled_from([0, 1, 16, 1_025])),
        "clamp": draw(st.booleans()),
        "final": draw(st.booleans()),
        "max_nanos": draw(st.none() | st.integers(-1, 2 * DOLLAR)),
    }
    return Ask(**{**told, **fixed})


@st.composite
def one_counter(draw: st.DrawFn, /, number: int, idle: bool = False, **terms: Any) -> Counter:
    nanos = draw(st.none() | st.integers(0, 5 * DOLLAR))
    tokens = draw(st.integers(0, 300_000) if nanos is None else st.none() | st.integers(0, 300_000))

    def upto(limit: int | None) -> int:
        return draw(st.integers(0, (limit if limit is not None else 10**6) * 11 // 10))

    claim = Claim(
        **{
            "budget": f"b{number}", "scope": "run", "key": f"r{number}", "tenant": "t", "limit_nanos": nanos,
            "limit_tokens": tokens, "finish_reserve": draw(shares), "max_share": draw(shares),
            "learned_input": draw(st.booleans()), **terms,
        }
    )  # fmt: skip
    held = (0, 0) if idle else (upto(nanos), upto(tokens))
    end = draw(st.none() | st.just(Instant(NOW + 10)))
    return Counter(claim, Balance(upto(nanos), upto(tokens), *held), NOW, end, draw(st.booleans()))


def counters(idle: bool = False, **terms: Any) -> st.SearchStrategy[list[Counter]]:
    """Some counters, anywhere between untouched and overrun; idle: nothing in flight."""
    return st.integers(1, 3).flatmap(lambda n: st.tuples(*(one_counter(i, idle, **terms) for i in range(n))).map(list))


typicals = st.none() | outputs

# --- the same sums, reckoned apart


def bill(ask: Ask, output: int, likely: bool = False) -> tuple[Fraction, int]:
    """Nano-dollars and tokens of the call with so much output a choice."""
    tokens, cost = (ask.likely_tokens, ask.likely_cost) if likely else (ask.input_tokens, ask.input_cost)
    made = output * ask.choices
    nanos = Fraction(0 if cost is None else cost + made * (ask.output_rate or 0), PER_MILLION)
    return nanos, tokens + made


def open_to(claim: Claim, final: bool) -> tuple[Fraction | None, Fraction | None]:
    part = 1 if final else 1 - Fraction(claim.finish_reserve, PPM)
    return tuple(None if n is None else n * part for n in (claim.limit_nanos, claim.limit_tokens))  # type: ignore[return-value]


def fits(ask: Ask, counter: Counter, output: int, final: bool, held: bool = True, of: Fraction = Fraction(1)) -> bool:
    """So much output is paid for by that part of what is left, of money not spent (and not held)."""
    balance = counter.balance
    taken = (balance.settled_nanos, balance.settled_tokens)
    if held:
        taken = (taken[0] + balance.held_nanos, taken[1] + balance.held_tokens)
    nanos, tokens = bill(ask, output, counter.claim.learned_input)
    priced = (ask.likely_cost if counter.claim.learned_input else ask.input_cost) is not None
    limits = open_to(counter.claim, final and counter.final)
    return all(
        limit is None or want is None or want <= (limit - used) * of
        for limit, used, want in zip(limits, taken, (nanos if priced else None, tokens), strict=True)
    )


def sent(ask: Ask, grant: Grant) -> int | None:
    """The output limit that the provider will go by."""
    return ask.stated if grant.output_limit is None else grant.output_limit


def lowest(ask: Ask) -> int:
    return ask.floor if ask.wanted is None else min(ask.floor, ask.wanted)


def with_held(found: list[Counter], held: int) -> list[Counter]:
    return [
        msgspec.structs.replace(c, balance=msgspec.structs.replace(c.balance, held_nanos=held, held_tokens=held))
        for c in found
    ]


def no_worse(ask: Ask, before: Grant, after: Grant | Refused, found: list[Counter]) -> bool:
    """At least as much output. Or a wait: where one counter is not short any more, the step's whole need is worth
    waiting for what others hold of another one."""
    if isinstance(after, Refused):
        return after.kind == "held" and len(found) > 1 and before.lowered
    limits = [sent(ask, grant) for grant in (before, after)]
    return limits[1] is None or (limits[0] is not None and limits[0] <= limits[1])


# --- law 3


@given(ask=asks(), found=counters(), typical=typicals, reserve_open=st.booleans())
def test_what_is_held_covers_what_is_sent_and_never_passes_a_limit(
    ask: Ask, found: list[Counter], typical: int | None, reserve_open: bool
) -> None:
    """Each counter in order: the charge pays for input and output limit, whole, and settled + held stays within."""
    grant = decide(ask, found, typical, reserve_open, NOW)
    if isinstance(grant, Refused):
        return
    final = ask.final and reserve_open
    limit = sent(ask, grant)
    assert [(c.budget, c.scope, c.key, c.tenant, c.start) for c in grant.charges] == [
        (c.claim.budget, c.claim.scope, c.claim.key, c.claim.tenant, c.start) for c in found
    ]
    for counter, charge in zip(found, grant.charges, strict=True):
        balance = counter.balance
        nanos, tokens = bill(ask, limit or 0, counter.claim.learned_input)
        assert nanos <= charge.nanos < nanos + 1 and charge.tokens == tokens
        assert type(charge.nanos) is int and type(charge.tokens) is int
        most_nanos, most_tokens = open_to(counter.claim, final and counter.final)
        assert most_tokens is None or balance.settled_tokens + balance.held_tokens + charge.tokens <= most_tokens
        if most_nanos is not None and ask.input_cost is not None:  # what has no price passes uncounted
            assert balance.settled_nanos + balance.held_nanos + charge.nanos <= most_nanos
    if limit is not None and ask.input_cost is not None:
        assert grant.nanos is not None and bill(ask, limit)[0] <= grant.nanos < bill(ask, limit)[0] + 1
    if limit is None:
        assert all(c.claim.limit_tokens is None and not (c.claim.limit_nanos and ask.output_rate) for c in found)


@given(ask=asks(), found=counters(), typical=typicals)
def test_the_limit_sent_is_never_above_the_one_wanted_nor_below_the_floor(
    ask: Ask, found: list[Counter], typical: int | None
) -> None:
    grant = decide(ask, found, typical, True, NOW)
    if isinstance(grant, Refused):
        return
    limit = sent(ask, grant)
    assert limit is None or limit >= lowest(ask)
    if ask.wanted is not None:
        assert limit is not None and limit <= ask.wanted
        assert grant.lowered == (limit < ask.wanted)
    if grant.output_limit is not None:
        assert grant.output_limit != ask.stated


class Life(msgspec.Struct, frozen=True):
    """One call of an interleaving: what it asks, and the part of its hold that it will have used."""

    ask: Ask
    used: Fraction
    ends: int
    """Which of the calls under way ends after it has begun; none where there are fewer."""


lives = st.builds(
    Life, asks(max_nanos=None), st.integers(0, 100).map(lambda n: Fraction(n, 100)), st.integers(0, 6)
)  # fmt: skip


@dataclass
class Books:
    """Counters of one lifetime window, as a store would keep them."""

    claims: list[Claim]
    balances: list[Balance] = field(init=False)
    flying: list[tuple[tuple[Charge, ...], Fraction]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.balances = [Balance() for _ in self.claims]

    def counters(self) -> list[Counter]:
        return [Counter(c, b, Instant(0), None) for c, b in zip(self.claims, self.balances, strict=True)]

    def hold(self, charges: tuple[Charge, ...], used: Fraction) -> None:
        self.flying.append((charges, used))
        self.balances = [
            msgspec.structs.replace(b, held_nanos=b.held_nanos + c.nanos, held_tokens=b.held_tokens + c.tokens)
            for b, c in zip(self.balances, charges, strict=True)
        ]

    def settle(self, at: int) -> None:
        charges, used = self.flying.pop(at)
        self.balances = [
            Balance(
                b.settled_nanos + int(c.nanos * used), b.settled_tokens + int(c.tokens * used),
                b.held_nanos - c.nanos, b.held_tokens - c.tokens,
            )
            for b, c in zip(self.balances, charges, strict=True)
        ]  # fmt: skip


@given(
    start=counters(idle=True),
    calls=st.lists(lives, min_size=5, max_size=25),
    typical=typicals,
    one_by_one=st.booleans(),
)
def test_no_interleaving_passes_a_limit_and_one_by_one_all_of_it_is_open(
    start: list[Counter], calls: list[Life], typical: int | None, one_by_one: bool
) -> None:
    """Whatever begins and ends when: settled + held never pass the limit. One by one, a no means that what is left
    does not pay for the smallest such call."""
    books = Books([counter.claim for counter in start])
    for life in calls:
        before = books.counters()
        grant = decide(life.ask, before, typical, True, NOW)
        if isinstance(grant, Grant):
            books.hold(grant.charges, life.used)
        elif one_by_one:
            assert grant.kind == "exhausted"
            need = typical if typical is not None else UNMEASURED_OUTPUT
            wanted = life.ask.wanted if life.ask.wanted is not None else need
            least = lowest(life.ask) if life.ask.clamp else max(lowest(life.ask), min(wanted, need))
            assert not all(fits(life.ask, counter, least, life.ask.final) for counter in before)
        for counter in books.counters():
            claim, balance = counter.claim, counter.balance
            for limit, taken in (
                (claim.limit_nanos, balance.settled_nanos + balance.held_nanos),
                (claim.limit_tokens, balance.settled_tokens + balance.held_tokens),
            ):
                assert limit is None or taken <= limit
        if one_by_one:
            while books.flying:
                books.settle(0)
        elif life.ends < len(books.flying):
            books.settle(life.ends)


# --- law 4


@given(ask=asks(max_nanos=None, clamp=True), found=counters(idle=True), typical=typicals)
def test_with_nothing_in_flight_only_spent_money_refuses(ask: Ask, found: list[Counter], typical: int | None) -> None:
    """Granted exactly where what is left pays for the input and the smallest output that makes sense."""
    granted = isinstance(decide(ask, found, typical, True, NOW), Grant)
    assert granted == all(fits(ask, counter, lowest(ask), ask.final) for counter in found)


@given(ask=asks(), found=counters(), typical=typicals, reserve_open=st.booleans())
def test_held_and_exhausted_are_told_apart(
    ask: Ask, found: list[Counter], typical: int | None, reserve_open: bool
) -> None:
    """ "held" clears when the others end; "exhausted" and the call's own guard do not."""
    told = decide(ask, found, typical, reserve_open, NOW)
    alone = decide(ask, with_held(found, 0), typical, reserve_open, NOW)
    if isinstance(told, Grant) or told.kind == "held":
        assert isinstance(alone, Grant)
    else:
        assert isinstance(alone, Refused) and alone.kind == told.kind


# --- how much output


@given(
    ask=asks(final=False, max_nanos=None), wanted=outputs, found=counters(), typical=typicals, spare=st.integers(2, 99)
)
def test_the_callers_own_limit_is_kept_where_its_hold_is_a_small_share(
    ask: Ask, wanted: int, found: list[Counter], typical: int | None, spare: int
) -> None:
    """With limits so high that the share of what is available pays for it."""
    ask = msgspec.structs.replace(ask, wanted=wanted)

    def roomy(counter: Counter) -> Counter:
        claim, balance = counter.claim, counter.balance
        nanos, tokens = bill(ask, wanted, claim.learned_input)
        part = Fraction(max(claim.max_share, 50_000), PPM) * (1 - Fraction(min(claim.finish_reserve, 500_000), PPM))
        terms = {
            "max_share": max(claim.max_share, 50_000),
            "finish_reserve": min(claim.finish_reserve, 500_000),
            "limit_nanos": ceil((balance.settled_nanos + balance.held_nanos + nanos + spare) / part),
            "limit_tokens": ceil((balance.settled_tokens + balance.held_tokens + tokens + spare) / part),
        }
        return msgspec.structs.replace(counter, claim=msgspec.structs.replace(claim, **terms))

    grant = decide(ask, [roomy(counter) for counter in found], typical, True, NOW)
    assert isinstance(grant, Grant)
    assert sent(ask, grant) == wanted and not grant.lowered


@given(ask=asks(max_nanos=None), found=counters(), typical=typicals)
def test_never_below_what_the_step_needs_until_the_money_itself_is_short(
    ask: Ask, found: list[Counter], typical: int | None
) -> None:
    """A lowered limit still gives this step its p99.9, unless spent money leaves less; then all of it is given."""
    grant = decide(ask, found, typical, True, NOW)
    if isinstance(grant, Refused) or not grant.lowered:
        return
    limit, need = sent(ask, grant), UNMEASURED_OUTPUT if typical is None else typical
    assert limit is not None
    if limit < need:
        assert ask.clamp
        assert not all(fits(ask, counter, limit + 1, ask.final, held=False) for counter in found)


@given(ask=asks(final=False, max_nanos=None), found=counters(), typical=typicals)
def test_a_hold_takes_more_than_its_share_only_for_what_the_step_needs(
    ask: Ask, found: list[Counter], typical: int | None
) -> None:
    grant = decide(ask, found, typical, True, NOW)
    if isinstance(grant, Refused):
        return
    limit, need = sent(ask, grant), UNMEASURED_OUTPUT if typical is None else typical
    within = all(fits(ask, counter, limit or 0, False, of=Fraction(counter.claim.max_share, PPM)) for counter in found)
    assert limit is None or within or limit <= max(need, lowest(ask))


# --- the finish reserve


@given(ask=asks(max_nanos=None), found=counters(), typical=typicals)
def test_the_reserve_is_open_to_final_calls_alone(ask: Ask, found: list[Counter], typical: int | None) -> None:
    """A final call gets all that another gets and more; once the run has had its final answer it is as any other."""
    plain, last = (msgspec.structs.replace(ask, final=final) for final in (False, True))
    other, final = (decide(told, found, typical, True, NOW) for told in (plain, last))
    assert decide(last, found, typical, False, NOW) == other
    if isinstance(other, Grant):
        assert not other.from_reserve
        assert no_worse(ask, other, final, found)
    if isinstance(final, Grant) and final.from_reserve:
        assert any(c.claim.finish_reserve and not fits(ask, c, sent(ask, final) or 0, False) for c in found)


def test_a_run_that_has_spent_all_it_may_still_answers() -> None:
    """10,000 tokens, 15 % kept: at 8,500 spent a further call is refused, the final one gets what is kept."""
    claim = Claim(budget="task", scope="run", key="r", tenant="t", limit_tokens=10_000, finish_reserve=150_000)
    counter = Counter(claim, Balance(settled_tokens=8_500), Instant(0), None)
    ask = Ask(claims=(claim,), input_tokens=300, wanted=4_000, stated=4_000)
    refused = decide(ask, [counter], 200, True, NOW)
    assert isinstance(refused, Refused) and refused.kind == "exhausted"
    grant = decide(msgspec.structs.replace(ask, final=True), [counter], 200, True, NOW)
    assert isinstance(grant, Grant)
    assert (grant.output_limit, grant.from_reserve, grant.lowered) == (1_200, True, True)
    assert grant.standing == Standing("task", "run", "wrap_up", None, 0, None, 6_800 - 8_500)


# --- the call's own guard


@given(ask=asks(), guard=st.integers(-1, 2 * DOLLAR), found=counters(), typical=typicals)
def test_a_call_is_held_at_no_more_than_its_own_guard(
    ask: Ask, guard: int, found: list[Counter], typical: int | None
) -> None:
    ask = msgspec.structs.replace(ask, max_nanos=guard)
    told = decide(ask, found, typical, True, NOW)
    too_dear = ask.input_cost is not None and bill(ask, lowest(ask))[0] > guard
    assert (isinstance(told, Refused) and told.kind == "call") == too_dear
    if isinstance(told, Grant):
        assert told.nanos is None or told.nanos <= guard


# --- monotone


@given(ask=asks(), found=counters(), typical=typicals, nanos=st.integers(0, DOLLAR), tokens=st.integers(0, 50_000))
def test_more_money_never_gives_less(
    ask: Ask, found: list[Counter], typical: int | None, nanos: int, tokens: int
) -> None:
    """Raising every limit, and having spent less, keeps a yes a yes and gives no smaller an output."""

    def richer(counter: Counter) -> Counter:
        claim, balance = counter.claim, counter.balance
        return msgspec.structs.replace(
            counter,
            claim=msgspec.structs.replace(
                claim,
                limit_nanos=None if claim.limit_nanos is None else claim.limit_nanos + nanos,
                limit_tokens=None if claim.limit_tokens is None else claim.limit_tokens + tokens,
            ),
            balance=msgspec.structs.replace(balance, settled_nanos=max(0, balance.settled_nanos - nanos)),
        )

    before, after = (decide(ask, told, typical, True, NOW) for told in (found, [richer(c) for c in found]))
    if isinstance(before, Grant):
        assert no_worse(ask, before, after, found)


# --- what is told


def test_without_counters_everything_is_as_the_caller_said() -> None:
    grant = decide(Ask(stated=900, wanted=900), [], None, True, NOW)
    assert isinstance(grant, Grant)
    assert (grant.charges, grant.output_limit, grant.lowered, grant.from_reserve) == ((), None, False, False)
    assert grant.standing is None


def test_a_steps_limit_is_sent_where_the_body_has_none() -> None:
    """Whether the model has a maximum of its own or not."""
    for stated in (None, 16_384):
        grant = decide(Ask(stated=stated, wanted=800), [], None, True, NOW)
        assert isinstance(grant, Grant) and (grant.output_limit, grant.lowered) == (800, False)


@pytest.mark.parametrize(
    ("balance", "kind", "told"),
    [
        (Balance(settled_nanos=DOLLAR // 2 - 1), "exhausted", "is used up: $0.499999999 of $0.5 spent"),
        (Balance(held_nanos=DOLLAR // 2 - 1), "held", "$0.499999999 held, this call needs $0.00101 at the least"),
    ],
)
def test_a_refusal_says_which_budget_by_how_much_and_what_cures_it(balance: Balance, kind: str, told: str) -> None:
    claim = Claim(
        budget="free users", scope="user", key="u42", tenant="t", window="day", limit_nanos=DOLLAR // 2,
        patience_ms=1_500,
    )  # fmt: skip
    ask = Ask(claims=(claim,), input_cost=1_000_000 * PER_MILLION, output_rate=10 * DOLLAR, stated=100, wanted=100)
    refused = decide(ask, [Counter(claim, balance, Instant(0), Instant(NOW + 7_000_000))], 50, True, NOW)
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.budget) == (kind, "free users")
    assert told in refused.reason and "user u42, day" in refused.reason and "raise" in refused.reason
    assert refused.standing is not None and refused.standing.remaining_nanos == 1
    if kind == "exhausted":
        assert refused.retry_after_ms == 7_000 and refused.standing.state == "exhausted"
        assert dict(refused.facts) == {
            "budget": "free users", "scope": "user u42, day", "limit": "$0.5", "spent": "$0.499999999",
            "resets": "2025-11-24T16:00:07Z",
        }  # fmt: skip
    else:
        assert (refused.patience_ms, refused.standing.state, refused.facts) == (1_500, "ok", ())


@given(ask=asks(), found=counters(), typical=typicals)
def test_the_standing_is_the_tightest_budgets(ask: Ask, found: list[Counter], typical: int | None) -> None:
    """The smallest share of a limit that is left after the hold, and what is left of it."""
    grant = decide(ask, found, typical, True, NOW)
    if isinstance(grant, Refused):
        return
    left = {}
    for counter, charge in zip(found, grant.charges, strict=True):
        claim, balance = counter.claim, counter.balance
        rest = (
            (claim.limit_nanos, balance.settled_nanos + balance.held_nanos + charge.nanos),
            (claim.limit_tokens, balance.settled_tokens + balance.held_tokens + charge.tokens),
        )
        left[claim.budget] = (
            min(Fraction(limit - used, limit) if limit else Fraction(0) for limit, used in rest if limit is not None),
            tuple(None if limit is None else limit - used for limit, used in rest),
        )
    told = grant.standing
    assert told is not None
    share, remaining = left[told.budget]
    assert float(share) <= float(min(found[0] for found in left.values())) + 1e-9
    assert (told.remaining_nanos, told.remaining_tokens) == remaining
