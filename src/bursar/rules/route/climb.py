"""One request on its way up the tiers: which is next, what its outcome means, and the answer that is given. Pure.

The same call, knowledge and seed give the same way. What broke in transport is passed over and says nothing of the
tier; a budget's refusal ends the way; the best answer obtained is given, flagged where no check has passed it.
"""

from typing import Literal, NamedTuple, TypeAlias

import msgspec

from bursar.policy import Check, Consistency, JudgePrompt, Margin, Policy
from bursar.rules import retry, validate
from bursar.rules.chain.decide import Decision, Params, decide
from bursar.rules.route import rating
from bursar.rules.route.course import Course, Leg
from bursar.rules.route.known import Known, Lesson, Site
from bursar.types import Answer, Call, Completed, Failed, Judgement, Plan, Refused, Verdict

_LONGEST_HINT = 600

Paid: TypeAlias = JudgePrompt | Consistency | Margin


class Climb(msgspec.Struct, frozen=True, kw_only=True):
    """How far a request has come."""

    failed: tuple[str, ...] = ()
    """Tiers whose answer did not pass."""
    broken: tuple[str, ...] = ()
    """Tiers that gave no answer."""
    repairs: int = 0
    """Of the tier that is being tried."""
    again: Decision | None = None
    """The same tier is to mend its answer."""
    hint: str | None = None
    verdict: Verdict = Verdict(Refused("nothing was tried"), None, attempts=0)
    """The last one."""
    best: Verdict | None = None
    """The last answer that was given at all."""
    over: Literal["no", "passed", "flagged", "ended"] = "no"


class Turn(msgspec.Struct, frozen=True):
    """A tier to be tried now."""

    decision: Decision
    plans: tuple[Plan, ...]
    last: bool
    judged: bool
    below: tuple[Plan, ...] | None = None
    """What a used-up budget may downgrade it to; None: no budget does."""


START = Climb()


def turn(course: Course, climb: Climb, call: Call, known: Known, policy: Policy) -> Turn | None:
    """The next tier to try; None: the way is at its end."""
    if climb.over != "no":
        return None
    legs = [leg for leg in course.legs if leg.tier not in climb.broken]
    open_ = legs[1 + max((at for at, leg in enumerate(legs) if leg.tier in climb.failed), default=-1) :]
    if not open_:
        return None
    decision: Decision
    well = _healthy(legs, open_, known)
    if climb.again is not None:
        decision = climb.again
    elif course.mode == "learned":
        decision = _learned(well, climb, call, known, course, policy)
    else:
        decision = _plain([leg for leg in open_ if leg in well], climb, course)
    leg = next(leg for leg in legs if leg.tier == decision.tier)
    last = leg.tier == legs[-1].tier
    judged = bool(course.validators) or (course.mode == "cascade" and not call.view.stream)
    judged = judged and call.view.choices == 1  # of several answers nobody knows which one is used
    decision = msgspec.structs.replace(decision, left_out=course.left_out)
    below = rating.cheaper(leg, call, course, policy)
    told = _Telling(climb, course, decision, judged, judged or (course.mode == "audited" and not call.view.stream))
    return Turn(decision, told.of(leg.plans), last, judged, None if below is None else told.of(below))


def after(climb: Climb, taken: Turn, verdict: Verdict, judgement: Judgement) -> Climb:
    """Where a request stands after that outcome of a turn."""
    outcome, tier = verdict.outcome, taken.decision.tier
    if not isinstance(outcome, Completed):
        passes = isinstance(outcome, Refused) and outcome.kind == "policy"
        passes = passes or (isinstance(outcome, Failed) and _elsewhere(outcome))
        if isinstance(outcome, Refused) and verdict.entry is not None:
            # The refusal is a row: the next attempt has a number of its own.
            verdict = msgspec.structs.replace(verdict, attempts=verdict.entry.attempt)
        hint = None if climb.again is not None else climb.hint  # that one spoke of this tier's own answer
        return msgspec.structs.replace(
            climb, verdict=verdict, again=None, hint=hint, broken=(*climb.broken, tier),
            over="no" if passes else "ended",
        )  # fmt: skip
    if verdict.entry is not None and taken.judged:
        verdict = msgspec.structs.replace(verdict, entry=msgspec.structs.replace(verdict.entry, validated=judgement.ok))
    moved = msgspec.structs.replace(climb, verdict=verdict, best=verdict, again=None)
    if not taken.judged or judgement == validate.ACCEPTED:
        return msgspec.structs.replace(moved, over="passed")
    if judgement == validate.ASKED:
        return msgspec.structs.replace(moved, over="flagged")
    match validate.action(judgement, repairs=climb.repairs, dearer=not taken.last):
        case "accept":
            return msgspec.structs.replace(moved, over="passed")
        case "repair":
            hint = f"Your last answer was rejected: {judgement.retry_hint or judgement.reason}"
            return msgspec.structs.replace(moved, again=taken.decision, repairs=climb.repairs + 1, hint=_cut(hint))
        case "escalate":
            # The error is carried on, the bad answer is not.
            told = f"An earlier answer was rejected: {judgement.reason}" if judgement.ok is False else None
            return msgspec.structs.replace(moved, failed=(*climb.failed, tier), repairs=0, hint=_cut(told))
        case "accept_with_flag":
            return msgspec.structs.replace(moved, over="flagged")


def _elsewhere(failed: Failed) -> bool:
    """Another tier may do better: the request itself is not at fault, and the caller has not had a byte."""
    return not failed.relayed and failed.status not in (400, 422)


def lesson(site: Site, taken: Turn, verdict: Verdict, judgement: Judgement) -> Lesson | None:
    """What is to be kept of a judged attempt. An answer that a limit of ours has cut says nothing of its tier."""
    entry = verdict.entry
    if not taken.judged or entry is None or not isinstance(verdict.outcome, Completed):
        return None
    speaks = not verdict.lowered and entry.tier == taken.decision.tier
    return Lesson(site=site, entry=entry, judgement=judgement, decision=taken.decision if speaks else None)


def concluded(climb: Climb) -> Verdict:
    """The call's end: the answer that passed, else the best one obtained, flagged, else what the last attempt met."""
    best, last = climb.best, climb.verdict
    if best is None:
        return last
    flagged = climb.over != "passed"
    return msgspec.structs.replace(
        best, attempts=last.attempts, spent_nanos=last.spent_nanos, cost_nanos=last.cost_nanos,
        standing=last.standing or best.standing, flagged=flagged,
    )  # fmt: skip


def answer_of(call: Call, taken: Turn, verdict: Verdict) -> Answer | Judgement:
    """What there is to judge; a Judgement where there is nothing, or where it would be unfair."""
    outcome = verdict.outcome
    if not taken.judged or not isinstance(outcome, Completed):
        return Judgement(ok=None, reason="not judged")
    if outcome.answer is None:
        return Judgement(ok=None, reason="the answer cannot be read")
    if verdict.lowered and (outcome.answer.finish_reason or "") in validate.CUT:
        return Judgement(ok=None, reason="cut by a limit that its budget lowered")
    written, limit = 0 if verdict.entry is None else verdict.entry.output_tokens or 0, call.view.max_output_tokens
    if limit is not None and written >= limit and (outcome.answer.finish_reason or "") in validate.CUT:
        return validate.ASKED
    return outcome.answer


def validators(course: Course) -> tuple[tuple[Check, ...], tuple[Paid, ...]]:
    """Those that are functions, and those whose word may have to be paid for."""
    given = course.validators
    return (
        tuple([one for one in given if isinstance(one, Check)]),
        tuple([one for one in given if not isinstance(one, Check)]),
    )


def samples(
    call: Call, taken: Turn, verdict: Verdict, asked: Consistency | Margin, number: int
) -> tuple[tuple[Call, Plan], ...]:
    """The further calls that a validator compares the answer with: the same request to the model that gave it."""
    plan = verdict.plan if verdict.plan is not None else taken.plans[0]
    plan = msgspec.structs.replace(plan, keep=None, marks=None, hint=None, judged=True, reason="sample")
    ids = range(asked.samples) if isinstance(asked, Consistency) else ()
    name = f"{call.request_id}-sample{verdict.attempts}.{number}"
    return tuple([
        (msgspec.structs.replace(call, request_id=f"{name}.{n}", purpose="judge", attempts=1), plan) for n in ids
    ])  # fmt: skip


def audits(course: Course, verdict: Verdict, policy: Policy) -> bool:
    """Whether an audit may follow: of an answer that was given as good, where something is to be learned of it."""
    if not policy.routing.audit_share or len(course.chain) < 2 or verdict.flagged or verdict.lowered:
        return False
    return isinstance(verdict.outcome, Completed) and verdict.outcome.answer is not None


# --- decisions


def _plain(open_: list[Leg], climb: Climb, course: Course) -> Decision:
    """The cheapest of what is left."""
    tier = open_[0].tier
    gone = [f"{name} failed its check" for name in climb.failed] + [f"{name} gave no answer" for name in climb.broken]
    why = ", ".join(gone) or {"fixed": "named", "kept": "the caller's model", "audited": "proved by audits"}.get(
        course.mode, "the first of the cascade"
    )
    return Decision(tier=tier, reason=f"{tier}: {why}", failed=climb.failed)


def _learned(legs: list[Leg], climb: Climb, call: Call, known: Known, course: Course, policy: Policy) -> Decision:
    if known.routed in [leg.tier for leg in legs] and not climb.failed:
        return Decision(tier=known.routed or "", reason=f"{known.routed}: the router's choice")
    tiers = rating.tiers_of(tuple(legs), call, known, course, policy)
    draw = retry.draw(policy.seed, call.request_id, f"probe:{len(climb.failed)}")
    params = Params(second_nanos=policy.routing.second_nanos, failure_nanos=policy.routing.failure_nanos)
    return decide(known.step, tiers, climb.failed, draw, pool=known.pool, params=params)


def _healthy(legs: list[Leg], open_: list[Leg], known: Known) -> list[Leg]:
    """Without tiers that have not answered lately, as long as one is left that may still be tried."""
    ill = {leg.tier for leg in open_ if all((p.provider, p.model or "") in known.broken for p in leg.plans)}
    if len(ill) == len(open_):
        return legs
    return [leg for leg in legs if leg.tier not in ill]


class _Telling(NamedTuple):
    """What every plan of a turn is told."""

    climb: Climb
    course: Course
    decision: Decision
    judged: bool
    reads: bool

    def of(self, plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
        plain = self.course.mode == "kept" and not self.judged
        told = None if plain else msgspec.json.encode(self.decision).decode()
        odds = any(isinstance(one, Margin) for one in self.course.validators)
        return tuple([
            msgspec.structs.replace(plan, judged=self.reads, hint=self.climb.hint, decision=told, logprobs=odds)
            for plan in plans
        ])  # fmt: skip


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:_LONGEST_HINT]
