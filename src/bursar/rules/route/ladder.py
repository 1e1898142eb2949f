"""Which provider and model serve a call by its own word, and which ones a tier lists for it. Pure.

Never a silent downgrade: the caller's model is kept. `model` is a tier's name, `provider/model`, or a model served by
the first provider of the call's wire family that lists or prices it (contract.md section 3).
"""

from collections.abc import Iterator
from math import inf

import msgspec

from bursar.policy import AUTO, Card, Policy, Provider, Unpriced
from bursar.types import Api, Call, Family, Instant, Plan, Refused, Terms

FAMILY: dict[Api, Family] = {
    "chat": "openai",
    "responses": "openai",
    "embeddings": "openai",
    "messages": "anthropic",
    "gemini": "gemini",
}
CROSSED: dict[tuple[Api, Family], Api] = {("chat", "anthropic"): "messages", ("messages", "openai"): "chat"}
"""The wire formats that a caller's one can be translated into, by the family of the provider."""


def own(call: Call, policy: Policy) -> tuple[Plan, ...] | Refused:
    """The caller's model at the provider that has it; Refused where no provider can take the call."""
    wanted = call.view.model
    if call.provider is not None:
        return (plan(call, policy, call.provider, wanted, "caller"),)
    family = FAMILY.get(call.api)
    prefix, slash, model = (wanted or "").partition("/")
    if slash and (provider := policy.providers.get(prefix)) is not None:
        if family is not None and provider.api != family:
            return unroutable(
                f"provider {prefix!r} speaks the {provider.api} format, this endpoint the {family} format"
            )
        return (plan(call, policy, prefix, model, "explicit"),)
    peers = [p for p in policy.providers.values() if family is None or p.api == family]
    if not peers:
        return unroutable(f"no provider of the {family} family is configured: add one under [providers]")
    if len(peers) == 1 and not slash:
        return (plan(call, policy, peers[0].name, wanted, "caller"),)
    chosen = next((p for p in peers if wanted is not None and _serves(p, wanted, policy, call.received)), None)
    if chosen is None and slash:
        names = ", ".join(policy.providers)
        return unroutable(f"unknown provider {prefix!r} in model {wanted!r}: configured are {names} ([providers])")
    return (plan(call, policy, (chosen or peers[0]).name, wanted, "caller"),)


def home(call: Call, policy: Policy) -> str | None:
    """Whom the request addresses by itself, whatever serves it: a credential in its headers is that provider's alone.

    None: it names a tier, and so nobody.
    """
    model = call.view.model or ""
    if model in policy.tiers or (model == AUTO and policy.tiers):
        return None
    plans = own(call, policy)
    return nowhere(call).provider if isinstance(plans, Refused) else plans[0].provider


def tier_plans(call: Call, policy: Policy, tier: str, reason: str) -> tuple[Plan, ...]:
    """What a tier lists that this call can be sent to, in order of preference."""
    return tuple(_tier_plans(call, policy, tier, reason))


def _tier_plans(call: Call, policy: Policy, tier: str, reason: str) -> Iterator[Plan]:
    family = FAMILY.get(call.api)
    for rank, candidate in enumerate(policy.tiers[tier]):
        if not reaches(call, candidate.provider):
            continue
        told = reason if not rank else f"{reason}:{rank + 1}"
        provider = policy.providers.get(candidate.provider)
        if provider is None or family is None or provider.api == family:
            if provider is not None or candidate.provider == call.provider:
                yield plan(call, policy, candidate.provider, candidate.model, told, tier)
        elif (api := CROSSED.get((call.api, provider.api))) is not None and _tells(call, provider):
            card = policy.prices.card(provider.name, candidate.model, Terms(), call.received)
            most = card.max_output_tokens if isinstance(card, Card) else None
            crossed = plan(call, policy, provider.name, candidate.model, told, tier)
            yield msgspec.structs.replace(crossed, api=api, max_output=most, add_usage=False)


def _tells(call: Call, provider: Provider) -> bool:
    """A translated stream asks for its usage: not of a provider that refuses to be asked."""
    return provider.stream_usage or not call.view.stream


def reaches(call: Call, provider: str) -> bool:
    """This door can send the call there: a gateway to every provider, a client of the library to its own at least."""
    if call.provider is None:
        return True
    return provider == call.provider or provider in (call.reach or ())


def rate(plan: Plan, call: Call, policy: Policy) -> float:
    """Nano-dollars per million output tokens; endless where it is not known."""
    card = policy.prices.card(plan.provider, plan.model or "", Terms(), call.received)
    return card.rates.get("output", inf) if isinstance(card, Card) else inf


def nowhere(call: Call) -> Plan:
    """What the row of a call says that no provider can take."""
    return Plan(provider="(none)", model=call.view.model, requested_model=call.view.model, reason="unroutable")


def unroutable(reason: str) -> Refused:
    """No configured provider can take the call, as it is written."""
    return Refused(reason, unroutable=True)


def plan(call: Call, policy: Policy, provider: str, model: str | None, reason: str, tier: str | None = None) -> Plan:
    """The plan for one model. tier: None: the first that lists it, if any does."""
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
