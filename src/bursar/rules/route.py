"""Which provider and model serve a call, in what order. Pure; never a silent downgrade: the caller's model is kept.

`model` is a tier's name, `provider/model`, or a model served by the first provider of the call's wire family that
lists or prices it (contract.md section 3).
"""

from collections.abc import Iterator
from math import inf

import msgspec

from bursar.policy import Card, Policy, Provider, Unpriced
from bursar.types import Api, Call, Family, Instant, Plan, Refused, Terms

FAMILY: dict[Api, Family] = {
    "chat": "openai",
    "responses": "openai",
    "embeddings": "openai",
    "messages": "anthropic",
    "gemini": "gemini",
}


def ladder(call: Call, policy: Policy) -> tuple[Plan, ...] | Refused:
    """The plans to walk, best first; Refused where no provider can take the call."""
    wanted = call.view.model if call.tier is None else call.tier
    if call.provider is not None:
        return (_plan(call, policy, call.provider, wanted, "caller"),)
    family = FAMILY.get(call.api)
    if wanted is not None and (tier := policy.tiers.get(wanted)) is not None:
        return _tier(call, policy, wanted, family) or _unroutable(
            f"tier {wanted!r} has no model whose provider speaks the {family or call.api} format; "
            f"it lists {', '.join(f'{c.provider}/{c.model}' for c in tier)}: add one under [tiers]"
        )
    if call.tier is not None:
        return _unroutable(f"unknown tier {call.tier!r}: configured are {', '.join(policy.tiers) or 'none'} ([tiers])")
    prefix, slash, model = (wanted or "").partition("/")
    if slash and (provider := policy.providers.get(prefix)) is not None:
        if family is not None and provider.api != family:
            return _unroutable(
                f"provider {prefix!r} speaks the {provider.api} format, this endpoint the {family} format"
            )
        return (_plan(call, policy, prefix, model, "explicit"),)
    peers = [p for p in policy.providers.values() if family is None or p.api == family]
    if not peers:
        return _unroutable(f"no provider of the {family} family is configured: add one under [providers]")
    if len(peers) == 1 and not slash:
        return (_plan(call, policy, peers[0].name, wanted, "caller"),)
    chosen = next((p for p in peers if wanted is not None and _serves(p, wanted, policy, call.received)), None)
    if chosen is None and slash:
        names = ", ".join(policy.providers)
        return _unroutable(f"unknown provider {prefix!r} in model {wanted!r}: configured are {names} ([providers])")
    return (_plan(call, policy, (chosen or peers[0]).name, wanted, "caller"),)


def cheaper(call: Call, plans: tuple[Plan, ...], policy: Policy) -> tuple[Plan, ...]:
    """Plans of the tiers below the call's own, the nearest first: what on_exhausted = "downgrade" may fall back on.

    A model that no tier lists stands above all tiers whose models are cheaper by output. Empty for a fixed upstream
    (the library's clients keep their provider): then only its own models count.
    """
    names = list(policy.tiers)
    own = next((plan.tier for plan in plans if plan.tier is not None), None)
    below = names[: names.index(own)] if own in names else names
    found: list[Plan] = []
    for name in reversed(below):
        for plan in _tier_plans(call, policy, name, FAMILY.get(call.api)):
            fits = call.provider is None or plan.provider == call.provider
            if fits and _rate(plan, call, policy) < min((_rate(p, call, policy) for p in plans), default=0):
                found.append(msgspec.structs.replace(plan, reason=f"downgrade:{name}"))
    return tuple(found)


def _rate(plan: Plan, call: Call, policy: Policy) -> float:
    """Nano-dollars per million output tokens; endless where it is not known."""
    card = policy.prices.card(plan.provider, plan.model or "", Terms(), call.received)
    return card.rates.get("output", inf) if isinstance(card, Card) else inf


def nowhere(call: Call) -> Plan:
    """What the row of a call says that no provider can take."""
    return Plan(provider="(none)", model=call.view.model, requested_model=call.view.model, reason="unroutable")


def _unroutable(reason: str) -> Refused:
    return Refused(reason, unroutable=True)


def _tier(call: Call, policy: Policy, tier: str, family: Family | None) -> tuple[Plan, ...]:
    return tuple(_tier_plans(call, policy, tier, family))


def _tier_plans(call: Call, policy: Policy, tier: str, family: Family | None) -> Iterator[Plan]:
    for rank, candidate in enumerate(policy.tiers[tier]):
        provider = policy.providers.get(candidate.provider)
        if provider is not None and (family is None or provider.api == family):
            reason = f"tier:{tier}" if not rank else f"tier:{tier}:{rank + 1}"
            yield _plan(call, policy, candidate.provider, candidate.model, reason, tier)


def _plan(call: Call, policy: Policy, provider: str, model: str | None, reason: str, tier: str | None = None) -> Plan:
    known = policy.providers.get(provider)
    add_usage = (
        call.api == "chat" and call.view.stream and not call.view.wants_usage and (known is None or known.stream_usage)
    )
    return Plan(
        provider=provider,
        model=model,
        requested_model=call.view.model,
        tier=tier if tier is not None else tier_of(policy, provider, model),
        reason=reason,
        add_usage=add_usage,
    )


def tier_of(policy: Policy, provider: str, model: str | None) -> str | None:
    """The first tier that lists provider/model; None where none does."""
    for name, candidates in policy.tiers.items():
        if any(c.provider == provider and c.model == model for c in candidates):
            return name
    return None


def _serves(provider: Provider, model: str, policy: Policy, at: Instant) -> bool:
    return model in provider.models or not isinstance(policy.prices.card(provider.name, model, Terms(), at), Unpriced)
