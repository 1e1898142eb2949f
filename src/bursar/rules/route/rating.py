"""What each tier is expected to cost this call, and the chain that follows from it. Pure.

Expected costs are never booked. A rate that is not known leaves a cost unknown, and where a cost is unknown the plain
cascade follows. The warm prompt cache that a switch would lose is part of the price of the switch.
"""

import msgspec

from bursar.policy import Card, Check, Consistency, JudgePrompt, Policy
from bursar.rules.chain.cost import default_chain, lean, shape, toll_nanos
from bursar.rules.chain.decide import Tier
from bursar.rules.route import ladder
from bursar.rules.route.course import Course, Leg
from bursar.rules.route.known import Known
from bursar.types import Api, Call, Plan, Terms

_LIKELY_OUTPUT = 400
"""Output tokens of an answer of a step of which none is known."""
_JUDGE_TOKENS = 200
"""What a judge's own prompt adds to what it judges."""
_JUDGE_OUTPUT = 60
_TERMS = Terms()


class Rates:
    """The rate cards of one decision, each looked up once, and the tokens that are expected."""

    __slots__ = ("_at", "_cards", "_known", "_policy", "fresh", "output", "warm")

    def __init__(self, call: Call, known: Known, policy: Policy) -> None:
        self._at, self._known, self._policy = call.received, known, policy
        self._cards: dict[tuple[str, str], Card | None] = {}
        self.output = _likely_output(call, known)
        self.warm = self._warm()
        self.fresh = max(0, known.estimate - self.warm)

    def card(self, provider: str, model: str) -> Card | None:
        place = (provider, model)
        if place not in self._cards:
            found = self._policy.prices.card(provider, model, _TERMS, self._at)
            self._cards[place] = found if isinstance(found, Card) else None
        return self._cards[place]

    def cost(self, plan: Plan, input_tokens: int, output_tokens: int) -> int | None:
        """Nano-dollars of so many tokens by the rate card; None: a rate is not known."""
        card = self.card(plan.provider, plan.model or "")
        read, wrote = (None, None) if card is None else (card.rates.get("input"), card.rates.get("output"))
        return None if read is None or wrote is None else (input_tokens * read + output_tokens * wrote) // 1_000_000

    def prefix(self, plan: Plan) -> int:
        """What this model asks for the prompt's warm prefix: its cache rate where it is warm, a write elsewhere."""
        last = self._known.last
        if last is None or not self.warm:
            return 0
        here, there = self.card(last.provider, last.model), self.card(plan.provider, plan.model or "")
        if here is None or there is None:
            return 0
        read = self.warm * here.rates.get("cache_read", here.rates.get("input", 0)) // 1_000_000
        if (plan.provider, plan.model) == (last.provider, last.model):
            return read
        return read + (toll_nanos(self.warm, here, there) or 0)

    def _warm(self) -> int:
        """Tokens of the prompt that the last model's cache still holds; none where nobody knows what they cost."""
        last = self._known.last
        if last is None or not last.prefix_tokens or self._at - last.at > self._policy.routing.warm_ms * 1000:
            return 0
        return 0 if self.card(last.provider, last.model) is None else min(last.prefix_tokens, self._known.estimate)


def _likely_output(call: Call, known: Known) -> int:
    """Output tokens of an answer: the step's mean, else a guess under the caller's limit."""
    spent = known.step.spent.values()
    counted = sum([one.counted for one in spent])
    if counted:
        return sum([one.output_tokens for one in spent]) * 1_000_000 // counted
    return min(call.view.max_output_tokens or _LIKELY_OUTPUT, _LIKELY_OUTPUT)


def tiers_of(legs: tuple[Leg, ...], call: Call, known: Known, course: Course, policy: Policy) -> tuple[Tier, ...]:
    """The chain as the rule of chain/decide.py reads it, with what each tier would cost this call."""
    rates = Rates(call, known, policy)
    costs = [rates.cost(leg.plans[0], rates.fresh, rates.output) for leg in legs]
    check = _judging(rates, known.estimate + rates.output, call, course, policy)
    samples = sum([one.samples for one in course.validators if isinstance(one, Consistency)])
    tiers = tuple([
        Tier(leg.tier, cost, check + samples * (cost or 0), rates.prefix(leg.plans[0]))
        for leg, cost in zip(legs, costs, strict=True)
    ])  # fmt: skip
    if call.tags.step is not None:
        return tiers
    asked = known.asked
    closed = any(isinstance(one, Check) and one.name == "labels" for one in course.validators)
    form = shape(
        labels=closed, fields=asked.fields, nested=asked.nested, tools="tools" in asked.features,
        input_tokens=known.estimate,
    )  # fmt: skip
    return lean(tiers, form)


def shortened(course: Course, call: Call, known: Known, policy: Policy) -> Course:
    """A learned course over all tiers, by default only those whose prices stand well apart."""
    if course.mode in ("learned", "cascade") and course.validators:
        course = msgspec.structs.replace(course, chain=course.legs)
    if course.mode != "learned" or len(course.legs) < 3 or not course.default:
        return course
    rates = Rates(call, known, policy)
    tiers = [Tier(leg.tier, rates.cost(leg.plans[0], known.estimate, rates.output)) for leg in course.legs]
    kept = {tier.name for tier in default_chain(tuple(tiers))}
    return msgspec.structs.replace(course, legs=tuple([leg for leg in course.legs if leg.tier in kept]))


def cheaper(leg: Leg, call: Call, course: Course, policy: Policy) -> tuple[Plan, ...] | None:
    """Plans of the tiers below a leg, the nearest first: what on_exhausted = "downgrade" may fall back on.

    A model that no tier lists stands above all tiers whose models are cheaper by output. None: nothing is downgraded.
    """
    if course.lower is None:
        return None
    names = [one.tier for one in course.lower]
    below = course.lower[: names.index(leg.tier)] if leg.tier in names else course.lower
    least = min(ladder.rate(plan, call, policy) for plan in leg.plans)
    found = (plan for one in reversed(below) for plan in one.plans)
    return tuple([plan for plan in found if ladder.rate(plan, call, policy) < least])


def seat(call: Call, judge: JudgePrompt, course: Course, policy: Policy) -> tuple[Plan, Api] | None:
    """Who judges, and in which wire format he is asked; None: this door reaches no model of that tier.

    Nobody judges what the step's data policy keeps from him.
    """
    tier = judge.tier if judge.tier is not None else next(iter(policy.tiers), None)
    if tier is None or tier not in policy.tiers:
        return None
    plans = ladder.tier_plans(call, policy, tier, "judge")
    plan = next((plan for plan in plans if not course.allowed or plan.provider in course.allowed), None)
    if plan is None:
        return None
    own: Api = "chat" if ladder.FAMILY.get(call.api) == "openai" else call.api
    return msgspec.structs.replace(plan, api=None, add_usage=False, judged=True), plan.api or own


def _judging(rates: Rates, tokens: int, call: Call, course: Course, policy: Policy) -> int:
    """What the judges of one answer are expected to cost. Unknown counts as none: it leans to the plain cascade."""
    seats = [seat(call, one, course, policy) for one in course.validators if isinstance(one, JudgePrompt)]
    return sum([
        rates.cost(taken[0], tokens + _JUDGE_TOKENS, _JUDGE_OUTPUT) or 0 for taken in seats if taken is not None
    ])  # fmt: skip
