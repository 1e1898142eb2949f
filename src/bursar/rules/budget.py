"""Which budgets a call falls under, what it asks of them, and what becomes of it when they are used up. Pure.

A key's trust decides whose counter a claim is for (contract.md section 3): an id that the key may not state is
replaced by the key's own, and chooses no budget. A run's budgets cap every run below it.
"""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from math import ceil
from typing import NamedTuple

import msgspec

from bursar.money import format_usd
from bursar.policy import Budget, Card, Match, Policy, StepRule, Unpriced
from bursar.rules import book, estimate, price
from bursar.rules.breaker import telling
from bursar.types import (
    Ask,
    Call,
    Cap,
    Claim,
    Entry,
    Hold,
    Kin,
    Plan,
    Purpose,
    Ratios,
    Refused,
    Scope,
    Standing,
    Tags,
    Verdict,
)

NONE = "(none)"
FINAL_STEP = "final"
_NOTE_BYTES = 256
"""What a note at the end of the prompt may add to the input beside a hint's own text, in tokens."""
_UNBOUNDED = 1 << 40
"""Tokens that no budget covers: for input that nothing bounds, under a run whose limits only the store knows."""
_LIKELY = 1.5
"""What the learned p99.9 of the input is taken to be, over our estimate, until it has been measured."""


class Rung(NamedTuple):
    """One way down the ladder: plans to try, and whether their output may be cut below what the step usually needs."""

    plans: tuple[Plan, ...]
    clamp: bool
    cheaper: bool = False
    """Taken only where the budget that is used up says on_exhausted = "downgrade"."""


def downgrades(call: Call, policy: Policy) -> bool:
    """A budget over this call may send it to a cheaper tier."""
    return any(budget.on_exhausted == "downgrade" for budget in policy.budgets) or any(
        kin.cap is not None and kin.cap.on_exhausted == "downgrade" for kin in call.tags.line
    )


def rungs(plans: tuple[Plan, ...], below: tuple[Plan, ...] | None) -> tuple[Rung, ...]:
    """The plans as they are; under a budget that downgrades: whole answers first, by cheaper plans if need be.

    below: those, the nearest first; None: no budget downgrades.
    """
    if below is None:
        return (Rung(plans, clamp=True),)
    return (Rung(plans, clamp=False), Rung(below, clamp=False, cheaper=True), Rung(below[-1:] or plans, clamp=True))


def short(verdict: Verdict) -> bool:
    """The call came to nothing because a budget is used up: the next rung may still do."""
    return isinstance(verdict.outcome, Refused) and verdict.outcome.kind == "exhausted"


def skips(rung: Rung, verdict: Verdict) -> bool:
    """A rung that the used-up budget does not ask for."""
    outcome = verdict.outcome
    return rung.cheaper and not (isinstance(outcome, Refused) and outcome.on_exhausted == "downgrade")


def claims(tags: Tags, step: str | None, policy: Policy, purpose: Purpose = "call") -> tuple[Claim, ...]:
    """Every counter that a call with these tags is charged to.

    What Bursar asks in the background for its own ends (an audit, a refresh) is nobody's run, session or user: only
    what limits a whole tenant, or all of them, limits it.
    """
    if purpose in ("audit", "refresh"):
        return tuple(_claim(b, subject(b.scope, tags, step), tags.tenant) for b in policy.budgets
                     if b.scope in ("tenant", "global") and matches(b.match, tags, step))  # fmt: skip
    own = [_claim(b, subject(b.scope, tags, step), tags.tenant) for b in policy.budgets
           if b.scope != "run" and matches(b.match, tags, step)]  # fmt: skip
    return (*own, *_run_claims(tags, step, policy.budgets))


def _run_claims(tags: Tags, step: str | None, budgets: Sequence[Budget]) -> Iterator[Claim]:
    """A run's and all its ancestors': each by the labels of its own run."""
    scoped = [b for b in budgets if b.scope == "run"]
    line = tags.line or (Kin(tags.run_id or NONE, tags.agent_id, tags.user_tier, tags.tags),)
    for depth, kin in enumerate(line):
        theirs = tags if depth == 0 else labelled(tags, kin)
        key = subject("run", theirs, None)
        for budget in scoped:
            if matches(budget.match, theirs, step if depth == 0 else None):
                yield _claim(budget, key, tags.tenant)
        if kin.cap is not None:
            yield _capped(kin.cap, kin, tags)


def labelled(tags: Tags, kin: Kin) -> Tags:
    """The tags of a call of that run."""
    return msgspec.structs.replace(
        tags, run_id=kin.run_id, agent_id=kin.agent_id, user_tier=kin.user_tier, tags=kin.tags
    )


def _claim(budget: Budget, key: str, tenant: str) -> Claim:
    return Claim(
        budget=budget.name,
        scope=budget.scope,
        key=key,
        tenant="" if budget.scope == "global" else tenant,
        window=budget.window,
        zone=budget.zone,
        limit_nanos=budget.limit_nanos,
        limit_tokens=budget.limit_tokens,
        finish_reserve=budget.finish_reserve,
        max_share=budget.max_share,
        wrap_up=budget.wrap_up,
        patience_ms=budget.patience_ms,
        on_exhausted=budget.on_exhausted,
        learned_input=budget.learned_input,
    )


def _capped(cap: Cap, kin: Kin, tags: Tags) -> Claim:
    """The limit that the code around the run gave it. One from a header belongs to the key that stated it."""
    stated = cap.least and tags.key_id is not None
    return Claim(
        budget=f"run:{kin.run_id}",
        scope="run",
        key=f"{tags.key_id}:{kin.run_id}" if stated else kin.run_id,
        tenant=tags.tenant,
        limit_nanos=cap.limit_nanos,
        limit_tokens=cap.limit_tokens,
        finish_reserve=cap.finish_reserve,
        on_exhausted=cap.on_exhausted,
        least=cap.least,
    )


def trusts(tags: Tags, claim: str) -> bool:
    """The key may state this label."""
    return tags.trusted is None or claim in tags.trusted


def subject(scope: Scope, tags: Tags, step: str | None) -> str:
    """Whose counter: the label, "(none)" where it is missing, the key's own id where it may not be stated."""
    if scope == "global":
        return "(all)"
    if scope == "tenant":
        return tags.tenant
    return identity(scope, tags, step)


def identity(kind: str, tags: Tags, step: str | None = None) -> str:
    """Who or what a call is for, as far as its key may say so."""
    if not trusts(tags, kind):
        return f"key:{tags.key_id}"
    told = {"run": tags.run_id, "session": tags.session_id, "user": tags.user_id, "agent": tags.agent_id, "step": step}
    return told[kind] or NONE


def matches(match: Match, tags: Tags, step: str | None) -> bool:
    """All that the rule asks for is there. A label that the key may not state counts as missing."""
    told = (
        (match.agent, tags.agent_id, "agent"),
        (match.step, step, "step"),
        (match.user_tier, tags.user_tier, "user_tier"),
    )
    for wanted, label, claim in told:
        if wanted is not None and not fnmatchcase((label if trusts(tags, claim) else None) or NONE, wanted):
            return False
    labels = dict(tags.tags) if match.tags and trusts(tags, "tags") else {}
    return all(fnmatchcase(labels.get(name) or NONE, wanted) for name, wanted in match.tags)


def rule_of(call: Call, policy: Policy) -> StepRule | None:
    """The first [[steps]] rule that matches."""
    at = rule_at(call, policy) if call.rule is None else call.rule
    return None if at < 0 else policy.steps[at]


def rule_at(call: Call, policy: Policy) -> int:
    """The place of that rule; -1 where none matches."""
    tags = call.tags
    return next((at for at, rule in enumerate(policy.steps) if matches(rule.match, tags, tags.step)), -1)


def ask(call: Call, plan: Plan, entry: Entry, rung: Rung, spent: int, learned: Ratios, policy: Policy) -> Ask | Refused:
    """What this attempt asks of its budgets. spent: nano-dollars of the call's attempts before it.

    Refused where a limit in dollars would have to hold what has no price, or where input that cannot be bounded is not
    allowed. learned: for claims with learned_input.
    """
    tags, view = call.tags, call.view
    wants = (*claims(tags, tags.step, policy, call.purpose), *call.ceilings)
    rule = rule_of(call, policy)
    limit = None if rule is None or plan.reason == "judge" else rule.max_output_tokens
    guard = call.max_cost_nanos
    climb = _climb(tags, policy)
    if not wants and limit is None and guard is None and not climb:
        return Ask(stated=view.max_output_tokens, wanted=view.max_output_tokens)
    in_dollars = guard is not None or any(claim.limit_nanos is not None for claim in wants)
    card = _card(plan, entry, policy, in_dollars)
    if isinstance(card, Unpriced):
        return Refused(card.why)
    tokens = _input_ceiling(call, plan, card, policy)
    if tokens is None and (wants or guard is not None):
        return _unbounded(wants)
    ceiling = _UNBOUNDED if tokens is None else tokens
    likely = min(ceiling, ceil((entry.input_estimate or 0) * (learned.input_high or _LIKELY)))
    if view.opaque_input:
        likely = ceiling
    only = book.possible(card, call, plan) if card is not None and plan.model is not None else None
    model = card.max_output_tokens if card is not None else None
    own = 0 if call.api == "embeddings" else view.max_output_tokens
    stated = own if own is not None else model
    known = [n for n in (stated, limit) if n is not None]
    return Ask(
        claims=wants,
        input_tokens=ceiling,
        input_cost=None if card is None else price.input_cost(card, ceiling, only),
        likely_tokens=likely,
        likely_cost=None if card is None else price.input_cost(card, likely, only),
        output_rate=None if card is None else price.output_rate(card, ceiling, only),
        choices=view.choices,
        stated=stated,
        wanted=min(known, default=None),
        floor=0 if call.api == "embeddings" else view.output_floor,
        clamp=rung.clamp,
        final=is_final(tags),
        max_nanos=None if guard is None else guard - spent,
        climb=climb,
    )


def _climb(tags: Tags, policy: Policy) -> tuple[str, ...]:
    """The trusted runs from which the store has to look upward: what earlier calls said of a run still caps this one.

    The library's line names all of its runs, so there it is the parent alone, for what another process may have said.
    Where no budget is configured only a call that names a parent is looked after so: the look-up costs every call.
    """
    if not trusts(tags, "run") or not (policy.budgets or tags.parent_run_id):
        return ()
    knows_line = any(kin.cap is None or not kin.cap.least for kin in tags.line)
    runs = (tags.parent_run_id,) if knows_line else (tags.run_id, tags.parent_run_id)
    return tuple(run for run in runs if run is not None)


def is_final(tags: Tags) -> bool:
    """The run's final answer: said by run.finish(), or by a step of that name that the key may state."""
    return tags.final or (tags.step == FINAL_STEP and trusts(tags, "step"))


def learns(policy: Policy) -> bool:
    """Whether the ask wants to know how the input's own count compares with ours."""
    return any(budget.learned_input for budget in policy.budgets)


def _card(plan: Plan, entry: Entry, policy: Policy, in_dollars: bool) -> Card | Unpriced | None:
    """The rates to hold at; None: unknown and allowed to be. Unpriced: must not be sent."""
    found: Card | Unpriced = Unpriced("the body names no model")
    if plan.model is not None:
        found = policy.prices.card(plan.provider, plan.model, entry.terms, entry.started_at)
    if isinstance(found, Card) or not in_dollars:
        return found if isinstance(found, Card) else None
    if policy.unknown_price == "allow":
        return None
    dearest = policy.prices.dearest(plan.provider, entry.started_at)
    if isinstance(dearest, Unpriced):
        return Unpriced(
            f"{found.why}: a limit in dollars cannot hold a call without a price, and none of {plan.provider!r} is "
            f"known; set one, or unknown_price = 'allow' to let it pass uncounted"
        )
    return dearest


def _input_ceiling(call: Call, plan: Plan, card: Card | None, policy: Policy) -> int | None:
    """The most input tokens there can be; None: nothing bounds them."""
    carried = max(estimate.input_ceiling(call.body, api) for api in (call.api, plan.api or call.api))
    if plan.hint is not None:
        carried += len(plan.hint.encode()) + _NOTE_BYTES
    if any(budget.tell_model for budget in policy.budgets):
        carried += _NOTE_BYTES
    if not call.view.opaque_input:
        return carried
    elsewhere = policy.opaque_input_tokens
    if elsewhere is None:
        elsewhere = card.context_tokens if card is not None else None
    return None if not elsewhere else max(carried, elsewhere)


def _unbounded(wants: Iterable[Claim]) -> Refused:
    name = next((claim.budget for claim in wants), None)
    return Refused(
        "the request's input is not all in its body (files, URLs, stored state or server tools), so no budget can hold "
        "it: set opaque_input_tokens to what it may come to at most",
        budget=name,
    )


def edited(plan: Plan, hold: Hold, policy: Policy) -> Plan:
    """The plan with the edits that a hold asks for."""
    note = _note(hold, policy)
    if hold.output_limit is None and not hold.from_reserve and note is None:
        return plan
    return msgspec.structs.replace(plan, output_limit=hold.output_limit, tools_off=hold.from_reserve, note=note)


def _note(hold: Hold, policy: Policy) -> str | None:
    """What tell_model tells, in fewer than _NOTE_BYTES bytes."""
    told = hold.standing
    if told is None or not any(b.tell_model and b.name == told.budget for b in policy.budgets):
        return None
    left = []
    if told.remaining_nanos is not None:
        left.append(f"${format_usd(max(0, told.remaining_nanos) // 10_000 * 10_000)}")
    if told.remaining_tokens is not None:
        left.append(f"{max(0, told.remaining_tokens)} tokens")
    end = " Finish now with what you have." if told.state != "ok" else ""
    return f"Budget left for this {told.scope} after this answer: {' and '.join(left)}.{end}"


def following(before: Verdict, attempts: int | None = None) -> Verdict:
    """What the next attempt of a call, or a side call of it, begins with: what was spent so far counts."""
    return Verdict(
        Refused("no plan was left to try"), None, before.attempts if attempts is None else attempts,
        before.spent_nanos, cost_nanos=before.cost_nanos,
    )  # fmt: skip


def uncrossed(before: Verdict, entry: Entry, why: str) -> Verdict:
    """A plan whose provider's format cannot carry the call: nothing was asked of anybody."""
    return msgspec.structs.replace(following(before), outcome=Refused(why, unroutable=True), entry=entry)


def after(standing: Standing | None, entry: Entry) -> Standing | None:
    """Where the tightest budget stands once the row is closed: what it held and did not cost is there again."""
    if standing is None:
        return None
    charge = next((c for c in entry.charges if (c.budget, c.scope) == (standing.budget, standing.scope)), None)
    if charge is None:
        return standing
    nanos, tokens = book.charged(entry, charge)
    until = _less(standing.wrap_nanos, nanos), _less(standing.wrap_tokens, tokens)
    wrap = standing.state == "wrap_up" or any(rest is not None and rest <= 0 for rest in until)
    return msgspec.structs.replace(
        standing,
        state="wrap_up" if wrap else standing.state,
        remaining_nanos=_less(standing.remaining_nanos, nanos - charge.nanos),
        remaining_tokens=_less(standing.remaining_tokens, tokens - charge.tokens),
        wrap_nanos=until[0],
        wrap_tokens=until[1],
    )


def _less(amount: int | None, taken: int) -> int | None:
    return None if amount is None else amount - taken


def concluded(call: Call, refused: Refused, policy: Policy) -> Refused:
    """A used-up budget's last word, or a breaker's: a text for a graceful answer where one is wanted and valid."""
    refused = telling.reached(refused, policy.breakers, call.received)
    graceful = refused.kind in ("exhausted", "suspended") and refused.on_exhausted != "refuse"
    if not (graceful and call.view.prose and call.view.readable):
        return refused
    return msgspec.structs.replace(refused, answer=_filled(_template(refused, policy), refused))


def _template(refused: Refused, policy: Policy) -> str:
    if refused.kind == "suspended":
        rule = telling.named(refused, policy.breakers)
        return (None if rule is None else rule.text) or telling.SUSPEND_TEXT
    budget = next((b for b in policy.budgets if b.name == refused.budget), None)
    return budget.finish_text if budget is not None and budget.finish_text is not None else policy.finish_text


def _filled(template: str, refused: Refused) -> str:
    """The template with what is known; a placeholder that is not known stays as it is written."""
    for name, value in refused.facts:
        template = template.replace("{" + name + "}", value)
    return template
