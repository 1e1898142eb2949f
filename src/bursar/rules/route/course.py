"""Which tiers a call may be served by, in what order, and who said so. Pure; the first of these that applies:

the caller's own word (a tier, provider/model), the step's rule, what was learned of the step, the caller's model. Hard
filters come before all of them: data policy, context window, modality, tools. Bounds of a rule always hold. Without a
rule, a validator or evidence the caller's model is kept.
"""

from collections.abc import Callable, Iterable
from math import ceil
from typing import Any, Literal, TypeAlias

import msgspec

from bursar.policy import AUTO, Capability, Policy, StepRule, Validator
from bursar.rules import budget, digest, estimate
from bursar.rules.capability import Needs, lacks
from bursar.rules.chain import audit
from bursar.rules.route import ladder
from bursar.rules.route.known import Known, Site
from bursar.types import Call, Plan, Refused

OWN = "(own)"
"""The leg of a model that no tier lists."""

Mode: TypeAlias = Literal["kept", "fixed", "cascade", "learned", "audited"]
"""kept: the caller's model. fixed: one tier. cascade: tier by tier. learned: the chain that pays. audited: without a
validator, the cheapest tier whose agreement with the dearest is proved, else the caller's model."""

_ABLE = Capability(
    context_tokens=1 << 40,
    inputs=frozenset(("text", "image", "file", "audio", "video")),
    features=frozenset(("tools", "forced_tool", "structured", "sampling")),
)


class Leg(msgspec.Struct, frozen=True):
    """A tier and its plans, best first."""

    tier: str
    plans: tuple[Plan, ...]


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """The way of a call: at least one leg, cheapest first."""

    mode: Mode
    legs: tuple[Leg, ...]
    validators: tuple[Validator, ...] = ()
    own: Plan | None = None
    """The caller's model, where he named one that is no tier."""
    chain: tuple[Leg, ...] = ()
    """All tiers that could take the call, where one of them was chosen by what audits have proved or may prove."""
    default: bool = False
    """The chain is that of all tiers, for want of a cascade."""
    allowed: tuple[str, ...] = ()
    """The step's data policy: nobody else is sent its calls, judges included. (): everybody."""
    lower: tuple[Leg, ...] | None = None
    """All tiers that could take the call, where a budget that is used up may downgrade it; None: none may."""
    left_out: tuple[str, ...] = ()
    """Candidates that could not take the call, and why."""

    @property
    def first(self) -> Plan:
        """What the call's row says before anything is tried, and what its cached answers are found under."""
        return self.legs[0].plans[0]

    @property
    def asks(self) -> bool:
        """Whether anything has to be known to choose, or an answer has to be judged."""
        return self.mode != "kept" or bool(self.validators) or bool(self.lower)

    def told(self, edit: Callable[[tuple[Plan, ...]], tuple[Plan, ...]]) -> "Course":
        """The same with every leg's plans edited."""
        legs = tuple([Leg(leg.tier, edit(leg.plans)) for leg in self.legs])
        lower = None if self.lower is None else tuple([Leg(leg.tier, edit(leg.plans)) for leg in self.lower])
        own = self.own if self.own is None else edit((self.own,))[0]
        return msgspec.structs.replace(self, legs=legs, lower=lower, own=own)


def course(call: Call, policy: Policy) -> Course | Refused:
    """The tiers that may serve a call, before anything is known of it but its own word and its step's rule."""
    rule = budget.rule_of(call, policy)
    chats = call.api not in ("embeddings", "other")
    found = _found(call, rule if chats else None, policy)
    if isinstance(found, Refused):
        return found
    if chats and budget.downgrades(call, policy):
        names = _bounded(tuple(policy.tiers), rule or StepRule(), policy) if policy.tiers else ()
        lower = tuple(Leg(name, ladder.tier_plans(call, policy, name, f"downgrade:{name}")) for name in names)
        found = msgspec.structs.replace(found, lower=lower)
    if rule is not None and rule.providers:
        found = msgspec.structs.replace(_sifted(found, lambda plan: _forbids(plan, rule)), allowed=rule.providers)
    return _walkable(found, policy)


def _found(call: Call, rule: StepRule | None, policy: Policy) -> Course | Refused:
    wanted = call.tier if call.tier is not None else call.view.model
    explicit = wanted is not None and _is_tier(wanted, policy)
    if call.tier is not None and not explicit:
        named = ", ".join(policy.tiers) or "none"
        return ladder.unroutable(f"unknown tier {call.tier!r}: configured are {named} ([tiers])")
    own = None if _is_tier(call.view.model or "", policy) else ladder.own(call, policy)
    pinned = isinstance(own, tuple) and own[0].reason == "explicit" and call.tier is None
    chosen = None if pinned else wanted if explicit else None if rule is None else rule.tier
    beyond = isinstance(own, tuple) and not _within(own[0], rule, policy)
    if pinned or (chosen is None and (rule is None or not rule.cascade)):
        if not beyond or not isinstance(own, tuple):
            return own if isinstance(own, Refused) else _kept(own or (), rule)
        chosen = own[0].tier  # and from there to the nearest bound
    mode, names = _names(chosen, rule or StepRule(), policy)
    reason = {"fixed": "tier" if explicit else "step"}.get(mode, mode)
    legs = tuple(Leg(name, ladder.tier_plans(call, policy, name, f"{reason}:{name}")) for name in names)
    known = own[0] if isinstance(own, tuple) and not beyond else None
    return Course(
        mode=mode, legs=legs, validators=() if rule is None else rule.validators,
        own=known if known is not None and known.model is not None else None,
        default=mode == "learned" and not (rule is not None and rule.cascade),
    )  # fmt: skip


def site(call: Call) -> Site:
    """Whose knowledge a call adds to and goes by: a step without a name has one by its tools, system and schema."""
    step = call.tags.step if call.tags.step is not None else digest.step_key(call.view.blocks)
    named = step if call.tags.step is None else budget.identity("step", call.tags, step)
    return Site(call.tags.tenant, budget.identity("agent", call.tags), named or budget.NONE)


def _is_tier(name: str, policy: Policy) -> bool:
    return name in policy.tiers or (name == AUTO and bool(policy.tiers))


def _within(plan: Plan, rule: StepRule | None, policy: Policy) -> bool:
    """A model that no tier lists has no place among them, and is within all bounds."""
    return rule is None or plan.tier is None or _bounded((plan.tier,), rule, policy) == (plan.tier,)


def _kept(plans: tuple[Plan, ...], rule: StepRule | None) -> Course:
    plan = plans[0]
    validators = () if rule is None else rule.validators
    return Course(mode="kept", legs=(Leg(plan.tier or OWN, plans),), validators=validators, own=plan)


def _names(chosen: str | None, rule: StepRule, policy: Policy) -> tuple[Mode, tuple[str, ...]]:
    """The mode and the tiers by name. A tier that stands in the step's cascade is where it begins."""
    chain = rule.cascade
    if chosen == AUTO:
        names = _bounded(chain or tuple(policy.tiers), rule, policy)
        return ("learned" if rule.validators else "audited"), names
    if chosen is None:
        return "cascade", _bounded(chain, rule, policy)
    (first,) = _bounded((chosen,), rule, policy)
    if first in chain and chain[-1] != first:
        return "cascade", _bounded(chain[chain.index(first) :], rule, policy)
    return "fixed", (first,)


def _bounded(names: tuple[str, ...], rule: StepRule, policy: Policy) -> tuple[str, ...]:
    """The tiers between the rule's bounds; where none of them is, the nearest bound."""
    order = list(policy.tiers)
    low = 0 if rule.min_tier is None else order.index(rule.min_tier)
    high = len(order) - 1 if rule.max_tier is None else order.index(rule.max_tier)
    inside = tuple(name for name in names if low <= order.index(name) <= high)
    return inside or (order[low if order.index(names[-1]) < low else high],)


def _forbids(plan: Plan, rule: StepRule) -> str | None:
    if plan.provider in rule.providers:
        return None
    return (
        f"{plan.provider}/{plan.model}: this step may be sent to {', '.join(rule.providers)} only ([[steps]] providers)"
    )


def narrowed(found: Course, call: Call, known: Known, policy: Policy) -> Course | Refused:
    """The course without the candidates that cannot take the call; the caller's own model answers for itself.

    A capability that is not known leaves a candidate out where Bursar chooses, and not where a person did.
    """
    if known.asked.pinned is not None:
        found = msgspec.structs.replace(found, lower=None if found.lower is None else ())
        return found if found.mode == "kept" else _pinned(found, known)
    chooses = found.mode in ("learned", "audited")
    own = found.own
    sifted = _sifted(
        found,
        lambda plan: (
            None
            if own is not None and (plan.provider, plan.model) == (own.provider, own.model)
            else _lacks(plan, call, known, policy, chooses)
        ),
    )
    if found.mode == "audited":
        sifted = _proved(sifted, known, policy)
    return _walkable(sifted, policy)


def _pinned(found: Course, known: Known) -> Course:
    """A conversation that no other model can go on with stays where it was: there, else at the model that it names."""
    last = known.last
    there = [plan for leg in found.legs for plan in leg.plans
             if last is not None and (plan.provider, plan.model) == (last.provider, last.model)]  # fmt: skip
    native = [plan for leg in found.legs for plan in leg.plans if plan.api is None]
    plan = (there or ([found.own] if found.own is not None else native or [found.first]))[0]
    kept = msgspec.structs.replace(plan, reason=f"pinned: {known.asked.pinned}")
    return msgspec.structs.replace(found, mode="fixed", legs=(Leg(kept.tier or OWN, (kept,)),))


def _proved(found: Course, known: Known, policy: Policy) -> Course:
    """The first tier below the caller's whose agreement audits have proved; else his model, or the dearest tier."""
    legs = [leg for leg in found.legs if leg.plans]
    found = msgspec.structs.replace(found, chain=tuple(legs))
    names = [leg.tier for leg in legs[:-1]]
    if found.own is not None and found.own.tier in names:
        names = names[: names.index(found.own.tier)]
    tier = audit.allowed(names, known.audits, policy.routing.agreement)
    proved = [leg for leg in legs if leg.tier == tier]
    if proved or not legs:
        return msgspec.structs.replace(found, legs=tuple(proved))
    if found.own is not None:
        return msgspec.structs.replace(found, legs=(Leg(found.own.tier or OWN, (found.own,)),))
    return msgspec.structs.replace(found, legs=(legs[-1],))


def _lacks(plan: Plan, call: Call, known: Known, policy: Policy, chooses: bool) -> str | None:
    if policy.capabilities is None:
        return None
    name = f"{plan.provider}/{plan.model}"
    able = policy.capabilities.of(plan.provider, plan.model or "")
    if not chooses:
        told: dict[str, Any] = {
            field: value for field in able.__struct_fields__ if (value := getattr(able, field)) is not None
        }
        able = msgspec.structs.replace(_ABLE, **told)
    tokens = estimate.input_ceiling(call.body, call.api)
    if (high := known.highs.get(name)) is not None:
        tokens = min(tokens, ceil(known.estimate * high))
    asked = known.asked
    needs = Needs(
        input_tokens=tokens,
        output_tokens=call.view.max_output_tokens or 0,
        inputs=asked.inputs,
        features=asked.features,
    )
    return lacks(able, needs, name)


def _sifted(found: Course, why: Callable[[Plan], str | None]) -> Course:
    out: list[str] = []

    def passes(plan: Plan) -> bool:
        told = why(plan)
        if told is not None:
            out.append(told)
        return told is None

    legs = tuple([Leg(leg.tier, tuple([plan for plan in leg.plans if passes(plan)])) for leg in found.legs])
    lower = found.lower
    if lower is not None:
        lower = tuple([Leg(leg.tier, tuple([plan for plan in leg.plans if why(plan) is None])) for leg in lower])
    own = found.own if found.own is None or why(found.own) is None else None
    return msgspec.structs.replace(found, legs=legs, lower=lower, own=own, left_out=(*found.left_out, *out))


def _walkable(found: Course, policy: Policy) -> Course | Refused:
    """Without empty legs; with none left the caller's own model, and without one a refusal that tells all reasons."""
    legs = tuple([leg for leg in found.legs if leg.plans])
    if legs:
        return found if len(legs) == len(found.legs) else msgspec.structs.replace(found, legs=legs)
    if found.own is not None:
        kept = msgspec.structs.replace(found.own, reason="caller: no candidate of the step's tiers can take this call")
        return msgspec.structs.replace(found, mode="kept", legs=(Leg(kept.tier or OWN, (kept,)),))
    return ladder.unroutable("; ".join(dict.fromkeys(found.left_out)) or _nobody(found.legs, policy))


def _nobody(legs: Iterable[Leg], policy: Policy) -> str:
    told = [
        f"tier {leg.tier!r} has no model whose provider speaks this endpoint's format (it lists "
        f"{', '.join(f'{c.provider}/{c.model}' for c in policy.tiers.get(leg.tier, ()))})"
        for leg in legs
    ]
    return "; ".join(told) + ": add one under [tiers]"
