"""The whole life of a call, on one page: every decision, no I/O. Each `await` asks the world one question.

A Settle follows every granted Reserve: the driver resumes a parked Send with Completed, Failed or Abandoned whatever
becomes of the stream, and nothing between Send and Settle can fail.
"""

import msgspec

from bursar.effects import (
    Admit,
    Audit,
    Crossing,
    Draft,
    Habit,
    Join,
    Keep,
    Learn,
    Learned,
    Lore,
    Nearby,
    Now,
    Observe,
    Pause,
    Recall,
    Reserve,
    Send,
    Settle,
    Validate,
)
from bursar.policy import JudgePrompt, Policy
from bursar.rules import book, budget, retry, reuse, validate
from bursar.rules.prompt import marking
from bursar.rules.route import climb, course, ladder, rating
from bursar.rules.route.course import Course
from bursar.rules.semantic import choose, question, side
from bursar.types import (
    CacheState,
    Call,
    Entry,
    Hold,
    Judgement,
    Kept,
    Outcome,
    Plan,
    Ratios,
    Refused,
    Verdict,
)

NOTHING = Verdict(Refused("no plan was left to try"), None, attempts=0)


async def handle(call: Call, policy: Policy) -> Verdict:
    """An answer that is known already, or the call's own."""
    if policy.steps:
        call = msgspec.structs.replace(call, rule=budget.rule_at(call, policy))
    admitted = await Admit(call) if policy.breakers else None
    way = course.course(call, policy)
    if isinstance(way, Refused):
        return await refuse(call, book.opening(call, ladder.nowhere(call), 1, await Now(), policy), way, policy)
    if isinstance(admitted, Refused):
        return await refuse(call, book.opening(call, way.first, 1, await Now(), policy), admitted, policy)
    if admitted is not None and admitted.ceilings:
        call = msgspec.structs.replace(call, ceilings=admitted.ceilings)
    known = reuse.wanted(call, way.first, policy)
    found = await Recall(known.key, call) if known is not None and known.reads else None
    if found is not None and found.fresh_until > await Now():  # exact first: free and certain
        return await give(call, way.first, found, "hit", policy)
    told = await nearest(call, way.first, way.allowed, policy)
    if told is not None and told.found is not None:
        await Learn(told)
        return await give(call, way.first, told.found, "semantic_hit", policy)
    if told is not None or known is not None:
        way = way.told(lambda plans: reuse.keeping(choose.keeping(plans, told), known))
    if call.cache == "only":
        return await refuse(call, book.opening(call, way.first, 1, await Now(), policy), reuse.MISS, policy)
    verdict = await (climbed(call, way, policy) if known is None else shared(call, way, known, found, policy))
    if told is not None:
        await Learn(choose.ended(told, verdict))
    return verdict


async def nearest(call: Call, plan: Plan, allowed: tuple[str, ...], policy: Policy) -> choose.Told | None:
    """The answer to a question that means the same, where the step allows it and enough speaks for it."""
    asked = question.question(call, plan, policy)
    if asked is None:
        return None
    paid = side.embedding(call, plan, asked, allowed)
    vector = side.vector((await beside(*paid, NOTHING, policy)).outcome) if paid is not None else None
    around = await Nearby(asked, vector)
    if around is None:
        return None
    choice = choose.choose(asked, around, call.request_id)
    serves = choice is not None and choice.decision == "serve"
    found = await Recall(bytes.fromhex(choice.answer), call) if choice is not None and serves else None
    return choose.Told(asked, around, choice, call.request_id, found)


async def beside(call: Call, plan: Plan, before: Verdict, policy: Policy) -> Verdict:
    """A paid side call: a row of its own, within what the call may cost; refused means skipped."""
    begun = budget.following(before, attempts=0)
    why = await Crossing(call, plan) if plan.api is not None else None
    if why is not None:
        return msgspec.structs.replace(begun, outcome=Refused(why, unroutable=True))
    verdict = await attempt(call, plan, budget.Rung((plan,), clamp=True), begun, policy)
    if isinstance(verdict.outcome, Refused) and verdict.entry is not None:
        return await refuse(call, verdict.entry, verdict.outcome, policy, verdict)
    return verdict


async def shared(call: Call, way: Course, known: reuse.Reuse, found: Kept | None, policy: Policy) -> Verdict:
    """The answer of an equal call under way; else one's own, kept. found: a stale one."""
    joined = await Join(known.key, call, waits=found is None) if known.leads else "alone"
    if isinstance(joined, Kept):
        return await give(call, way.first, joined, "coalesced", policy)
    if found is not None and joined == "alone":  # stale, and somebody fetches a fresh one
        return await give(call, way.first, found, "hit", policy)
    verdict = await climbed(call, way, policy)
    if known.writes:
        fresh = reuse.kept(known, verdict)
        await Keep(known.key, call.request_id, fresh, reuse.again(verdict.outcome))
    return verdict


async def give(call: Call, plan: Plan, found: Kept, state: CacheState, policy: Policy) -> Verdict:
    """An answer that was paid for before: it claims nothing, costs nothing and is a row."""
    entry = book.opening(call, plan, 1, await Now(), policy)
    at = await Now()
    entry = reuse.hit(entry, found, state, at)
    await Settle(Hold(entry.request_id, entry.attempt), entry)
    return Verdict(reuse.served(found, at), entry, attempts=0)


async def climbed(call: Call, way: Course, policy: Policy) -> Verdict:
    """Tier by tier, as far as the step's rule and what is known of it ask for, until an answer has passed its check."""
    if not way.asks:
        return await answered(call, budget.rungs(way.legs[0].plans, None if way.lower is None else ()), NOTHING, policy)
    site = course.site(call)
    known = await Lore(call, way, site, policy.router)
    narrow = course.narrowed(way, call, known, policy)
    if isinstance(narrow, Refused):
        return await refuse(call, book.opening(call, way.first, 1, await Now(), policy), narrow, policy)
    way, state = rating.shortened(narrow, call, known, policy), climb.START
    while (turn := climb.turn(way, state, call, known, policy)) is not None:
        verdict = await answered(call, budget.rungs(turn.plans, turn.below), state.verdict, policy)
        verdict, judgement = await judged(call, way, turn, verdict, policy)
        if (lesson := climb.lesson(site, turn, verdict, judgement)) is not None:
            await Observe(lesson)
        state = climb.after(state, turn, verdict, judgement)
    verdict = climb.concluded(state)
    if climb.audits(way, verdict, policy):
        await Audit(call, way, known, site, verdict)
    return verdict


async def judged(
    call: Call, way: Course, turn: climb.Turn, verdict: Verdict, policy: Policy
) -> tuple[Verdict, Judgement]:
    """What the step's validators say of an answer: the free ones first, the paid ones where another tier may follow."""
    answer = climb.answer_of(call, turn, verdict)
    if isinstance(answer, Judgement):
        return verdict, answer
    checks, paid = climb.validators(way)
    words = [validate.sound(answer), *([await Validate(call, answer, checks)] if checks else [])]
    if paid and turn.last and len(way.legs) > 1 and validate.combine(words).ok:
        return verdict, validate.ACCEPTED
    for number, one in enumerate(paid):
        if validate.combine(words).ok is False:
            break
        told: list[Outcome | Refused] = []
        for side_call, plan in await questions(call, way, turn, verdict, one, number, policy):
            asked = await beside(side_call, plan, verdict, policy)
            verdict = msgspec.structs.replace(verdict, spent_nanos=asked.spent_nanos, cost_nanos=asked.cost_nanos)
            told.append(asked.outcome)
        words.append(validate.weighed(answer, one, told))
    return verdict, validate.combine(words)


async def questions(
    call: Call, way: Course, turn: climb.Turn, verdict: Verdict, asks: climb.Paid, number: int, policy: Policy
) -> tuple[tuple[Call, Plan], ...]:
    """The calls that a validator is paid for; none where its judge cannot be reached."""
    if not isinstance(asks, JudgePrompt):
        return climb.samples(call, turn, verdict, asks, number)
    seat, answer = rating.seat(call, asks, way, policy), climb.answer_of(call, turn, verdict)
    if seat is None or isinstance(answer, Judgement):
        return ()
    return ((await Draft(call, *seat, asks, answer, f"judge{verdict.attempts}.{number}"), seat[0]),)


async def answered(call: Call, rungs: tuple[budget.Rung, ...], before: Verdict, policy: Policy) -> Verdict:
    """Walk the plans that serve the call, best first; where a budget is used up, one rung of its ladder lower."""
    verdict = budget.following(before)
    for rung in rungs:
        if not budget.skips(rung, verdict):
            verdict = await walk(call, rung, verdict, policy)
        if not budget.short(verdict):
            break
    if isinstance(verdict.outcome, Refused) and verdict.entry is not None:
        return await refuse(call, verdict.entry, verdict.outcome, policy, verdict)
    return verdict


async def walk(call: Call, rung: budget.Rung, verdict: Verdict, policy: Policy) -> Verdict:
    """Try each plan of a rung, with retries, until one has answered."""
    for plan in rung.plans:
        why = await Crossing(call, plan) if plan.api is not None else None
        if why is not None:
            if isinstance(verdict.outcome, Refused):  # else what an earlier plan met says more
                entry = book.opening(call, plan, verdict.attempts + 1, await Now(), policy)
                verdict = budget.uncrossed(verdict, entry, why)
            continue
        for turn in range(1, call.attempts + 1):
            verdict = await attempt(call, plan, rung, verdict, policy)
            outcome = verdict.outcome
            if isinstance(outcome, Refused):
                break
            if not retry.retryable(outcome):
                return verdict
            pause = retry.wait_ms(call, outcome, turn, policy)
            if pause is None or turn == call.attempts:
                break
            await Pause(pause)
        if isinstance(verdict.outcome, Refused) and not budget.short(verdict):
            return verdict
    return verdict


async def attempt(call: Call, plan: Plan, rung: budget.Rung, before: Verdict, policy: Policy) -> Verdict:
    """One physical attempt: the row is open before the bytes leave and closed whatever comes of them."""
    entry = book.opening(call, plan, before.attempts + 1, await Now(), policy)
    plan = await marked(call, plan, entry, policy)
    entry = book.held(entry, call, plan, policy)
    high = await Learned(entry.provider, entry.model or "") if budget.learns(policy) else Ratios()
    ask = book.unpriced(entry, policy) or budget.ask(call, plan, entry, rung, before.spent_nanos, high, policy)
    hold = ask if isinstance(ask, Refused) else await Reserve(entry, ask)
    if isinstance(hold, Refused):
        return Verdict(hold, entry, before.attempts, before.spent_nanos, cost_nanos=before.cost_nanos)
    entry = book.granted(entry, hold)
    plan = marking.narrowed(budget.edited(plan, hold, policy), entry)
    entry = book.hinted(entry, plan)
    outcome = await Send(plan, entry, hold, call)
    entry = book.closing(entry, outcome, await learned(entry, outcome), policy)
    await Settle(hold, entry, plan)
    spent, cost = before.spent_nanos + book.owed(entry), book.together(before.cost_nanos, entry.cost_nanos)
    return Verdict(outcome, entry, entry.attempt, spent, budget.after(hold.standing, entry), hold.lowered, cost, plan)


async def marked(call: Call, plan: Plan, entry: Entry, policy: Policy) -> Plan:
    """Hints to the provider's prompt cache, where the step asks for them and they pay."""
    if not marking.wanted(call, plan, policy):
        return plan
    return marking.marked(call, plan, entry, await Habit(call, entry), policy)


async def refuse(call: Call, entry: Entry, refused: Refused, policy: Policy, before: Verdict = NOTHING) -> Verdict:
    """Nothing is sent; the refusal is a row like any other, and perhaps a graceful partial answer."""
    refused = budget.concluded(call, refused, policy)
    entry = book.refusal(entry, refused, policy)
    await Settle(Hold(entry.request_id, entry.attempt), entry)
    spent, cost = before.spent_nanos, before.cost_nanos
    return Verdict(refused, entry, entry.attempt - 1, spent, refused.standing, cost_nanos=cost)


async def learned(entry: Entry, outcome: Outcome) -> Ratios:
    """How this model's own counts compare with ours: asked only where a count has to be estimated."""
    if entry.model is None or not book.needs_estimate(outcome):
        return Ratios()
    return await Learned(entry.provider, entry.model)
