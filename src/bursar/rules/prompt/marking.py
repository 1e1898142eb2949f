"""A call's hints to the provider's prompt cache, where its step asks for them: from what is known to a plan. Pure.

A step is judged by its own history. On its very first call tools and system prompt are marked on a guess, messages
never: prompts that do not come back cost a step one premium at most. The guess is even odds, for who asks for "auto"
expects his prompts to return, until the tenant's other new steps have taught better.
"""

from typing import NamedTuple

import msgspec

from bursar.policy import Card, Policy
from bursar.rules import budget
from bursar.rules.prompt import known
from bursar.rules.prompt.habits import Habits, Row, chain, first_return
from bursar.rules.prompt.hints import Spot
from bursar.rules.prompt.place import place
from bursar.types import Call, Entry, Marks, Plan

_FIRM = 4
"""So many new steps the even odds are taken for."""


class Ground(NamedTuple):
    """What the decision stands on."""

    step: Habits
    tenant: Habits
    """Of all its steps together: how new ones begin."""
    spots: tuple[Spot, ...]
    """Where the body could bear a marker; empty: it is to be left alone."""


def wanted(call: Call, plan: Plan, policy: Policy) -> bool:
    """The step asks for it, and it is known how the model's provider caches."""
    if plan.api is not None:
        return False  # the body that the provider gets is a translation
    rule = budget.rule_of(call, policy)
    return rule is not None and rule.prompt_cache == "auto" and known.rules_of(call.api, plan.model).style != "none"


def marked(call: Call, plan: Plan, entry: Entry, ground: Ground, policy: Policy) -> Plan:
    """The plan with the markers that pay."""
    card = policy.prices.card(plan.provider, plan.model or "", call.view.terms, entry.started_at)
    marks = place(
        row(entry),
        ground.spots,
        ground.step,
        card.rates if isinstance(card, Card) else {},
        known.rules_of(call.api, plan.model),
        site=f"{entry.tenant}\0{entry.agent_id}\0{entry.step}",
        conversation=call.tags.session_id,
        cold=first_return(ground.tenant, _FIRM),
    )
    return msgspec.structs.replace(plan, marks=marks)


def narrowed(plan: Plan, entry: Entry) -> Plan:
    """Without markers in the messages where the plan takes the tools away: entries of messages hang on tool_choice
    (Anthropic), so that these would be written, and never read."""
    if not plan.tools_off or not plan.marks or entry.api != "messages":
        return plan
    links = {link.block: link for link in chain(row(entry))}
    if all(link.kind for link in links.values()):
        return plan
    marks = tuple(mark for mark in plan.marks.marks if links[mark.block].kind < 2)
    covered = links[marks[-1].block].end if marks else 0
    return msgspec.structs.replace(plan, marks=Marks(marks, covered=covered))


def row(entry: Entry, plan: Plan | None = None) -> Row:
    """A row of the ledger as the habits see it; with its plan: by the model that was sent, and with its marks."""
    return Row(
        at=entry.started_at,
        api=entry.api,
        provider=entry.provider,
        model=entry.model if plan is None else plan.model,
        blocks=entry.blocks,
        input_tokens=entry.input_tokens,
        cached_tokens=entry.cached_tokens,
        cache_write_tokens=entry.cache_write_tokens,
        first_byte_ms=entry.first_byte_ms,
        marks=None if plan is None else plan.marks,
    )


def teaches(entry: Entry) -> bool:
    """The provider has begun to answer: an error, a hit and a refusal leave nothing in its cache."""
    return entry.status in ("completed", "abandoned", "failed") and (entry.http_status or 0) // 100 == 2
