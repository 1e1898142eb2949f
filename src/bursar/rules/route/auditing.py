"""What audits ask, when, and what they show: the same request at another tier, behind the call, within a share of the
step's spend. Pure.

An answer of a cheaper tier is asked of the dearest again: how often does what passed deserve it? Where nobody judges,
the caller's own model is what answers are measured by, and while nothing is proved the cheapest tier that may still be
is asked beside it: may it take the step over? What no form can compare is never audited.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.policy import Policy
from bursar.rules import retry, validate
from bursar.rules.chain import audit
from bursar.rules.chain.audit import Audits
from bursar.rules.route.course import Course
from bursar.rules.route.known import Known
from bursar.rules.route.rating import Rates
from bursar.types import Answer, Call, Completed, Plan, Verdict

_LONGEST_WORD = 64
_SECOND_LOOK = 0.1
"""The share of audits that goes to a tier of which nothing good is expected any more: it may have been repaired."""


class Book(msgspec.Struct, frozen=True):
    """What is kept of one step: its audits by tier, and what it and they have cost."""

    tiers: Mapping[str, Audits] = {}
    calls: int = 0
    spent_nanos: int = 0
    audits_nanos: int = 0
    """Of all audits, those under way at what they are expected to cost."""
    likely_nanos: int = 0
    """Of the same audits: what they would have cost with answers as long as those that they are about."""

    def spend(self, nanos: int) -> "Book":
        """With one more call that was answered as good."""
        return msgspec.structs.replace(self, calls=self.calls + 1, spent_nanos=self.spent_nanos + nanos)

    def pledge(self, made: "Audit") -> "Book":
        """With one more audit under way: what many of them cost together is within the share too."""
        return self._pledged(made.cost_nanos, made.likely_nanos)

    def withdraw(self, made: "Audit") -> "Book":
        """Without an audit that came to nothing before it was sent."""
        return self._pledged(-made.cost_nanos, -made.likely_nanos)

    def _pledged(self, cost: int, likely: int) -> "Book":
        return msgspec.structs.replace(
            self, audits_nanos=self.audits_nanos + cost, likely_nanos=self.likely_nanos + likely
        )

    def audited(self, tier: str, agrees: bool | None, nanos: int) -> "Book":
        """With what an audit of that tier came to. agrees: None: it cannot be told. nanos: what it cost beyond its
        pledge; it is paid all the same."""
        tiers = self.tiers
        if agrees is not None:
            tiers = {**tiers, tier: tiers.get(tier, Audits()).after(agrees)}
        return msgspec.structs.replace(self, tiers=tiers, audits_nanos=self.audits_nanos + nanos)


class Audit(msgspec.Struct, frozen=True):
    """One audit to be made."""

    tier: str
    """Whose answers it is about."""
    call: Call
    plan: Plan
    cost_nanos: int
    """What it is expected to cost, as audits of the step have so far."""
    likely_nanos: int
    """What it would cost with an answer as long as the one that it is about."""


def speaks(verdict: Verdict) -> bool:
    """The answer is of a kind that another one can be compared with."""
    outcome = verdict.outcome
    return isinstance(outcome, Completed) and outcome.answer is not None and comparable(outcome.answer)


def due(call: Call, course: Course, known: Known, verdict: Verdict, book: Book, policy: Policy) -> Audit | None:
    """The audit of a call whose answer `speaks`; None: none is wanted, affordable or drawn."""
    asked = _asked(call, course, verdict, book, policy)
    if asked is None:
        return None
    tier, plan = asked
    likely = _likely(plan, call, known, verdict, policy)
    if likely is None:
        return None
    cost = likely
    if book.audits_nanos > book.likely_nanos > 0:  # a model that thinks says more
        cost = likely * book.audits_nanos // book.likely_nanos
    mean = book.spent_nanos // book.calls if book.calls else None
    budget = policy.routing.audit_share
    draw = retry.draw(policy.seed, call.request_id, "audit")
    share = audit.audit_share(mean, cost, budget)
    if not audit.audit_due(draw, share, book.spent_nanos, book.audits_nanos, cost, budget):
        return None
    wide = tuple([claim for claim in call.ceilings if claim.scope in ("tenant", "global")])
    side = msgspec.structs.replace(
        call, request_id=f"{call.request_id}-audit", purpose="audit", attempts=1, cache=None, no_store=True,
        ceilings=wide, max_cost_nanos=None,
    )  # fmt: skip
    told = msgspec.structs.replace(
        plan, reason=f"audit:{tier}", judged=True, keep=None, decision=None, hint=None, marks=None
    )
    return Audit(tier, side, told, cost, likely)


def _likely(plan: Plan, call: Call, known: Known, verdict: Verdict, policy: Policy) -> int | None:
    """The same request for an answer as long; None: a rate is not known."""
    rates, entry = Rates(call, known, policy), verdict.entry
    told = (None, None) if entry is None else (entry.input_tokens, entry.output_tokens)
    return rates.cost(
        plan, known.estimate if told[0] is None else told[0], rates.output if told[1] is None else told[1]
    )


def _asked(call: Call, course: Course, verdict: Verdict, book: Book, policy: Policy) -> tuple[str, Plan] | None:
    """Whose answers are in question, and who is asked."""
    if not course.chain or verdict.entry is None:
        return None
    last = course.chain[-1]
    if course.mode != "audited":
        cheaper = [leg.tier for leg in course.chain[:-1]]
        return (verdict.entry.tier or "", last.plans[0]) if verdict.entry.tier in cheaper else None
    measure, served = course.own or last.plans[0], course.legs[0]
    if not _same(served.plans[0], measure):
        return served.tier, measure
    names = [leg.tier for leg in course.chain]
    top = names.index(measure.tier) if measure.tier in names else len(names) - 1
    below = [leg for leg in course.chain[:top] if not _same(leg.plans[0], measure)]
    again = retry.draw(policy.seed, call.request_id, "audit again") < _SECOND_LOOK
    leg = next((leg for leg in below if _promises(book.tiers.get(leg.tier), policy.routing.agreement, again)), None)
    return None if leg is None else (leg.tier, leg.plans[0])


def _same(one: Plan, other: Plan) -> bool:
    return (one.provider, one.model) == (other.provider, other.model)


def _promises(audits: Audits | None, target: float, again: bool) -> bool:
    """Whether a tier that is not proved may still be. again: even if all so far speaks against it."""
    if audits is None:
        return True
    agreed, audited = audits.total
    if audit.proves(audits, target):
        return False
    return again or 1 - audit.agreement_lower(audited - agreed, audited) >= target


def comparable(answer: Answer) -> bool:
    """Whether another answer can come to the same as this one: it is no prose."""
    return bool(answer.tool_calls) or _form(answer.text) is not None


def agrees(one: Answer, other: Answer) -> bool | None:
    """Whether two answers come to the same: the same tool calls, JSON by value, a word by its letters.

    None: it is prose, of which no form can tell. The first answer's form decides whether it can be told at all.
    """
    if one.tool_calls:
        return _calls(one) == _calls(other)
    form = _form(one.text)
    return None if form is None else form == _form(other.text)


def _calls(answer: Answer) -> list[tuple[str, str]]:
    return sorted((call.name, validate.canonical(call.arguments)) for call in answer.tool_calls)


def _form(text: str) -> str | None:
    try:
        value: Any = validate.parsed(text)
    except ValueError:
        word = text.strip().strip("\"'`.*").casefold()
        return word if word and len(word) <= _LONGEST_WORD and len(word.split()) == 1 else None
    return validate.canonical(text) if value is not None else None
