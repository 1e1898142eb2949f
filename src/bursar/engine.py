"""The whole life of a call, on one page: every decision, no I/O. Each `await` asks the world one question.

A Settle follows every granted Reserve: the driver resumes a parked Send with Completed, Failed or Abandoned whatever
becomes of the stream, and nothing between Send and Settle can fail.
"""

from bursar.effects import Habit, Join, Keep, Learn, Learned, Nearby, Now, Pause, Recall, Reserve, Send, Settle
from bursar.policy import Policy
from bursar.rules import book, budget, retry, reuse, route
from bursar.rules.prompt import marking
from bursar.rules.semantic import choose, question, side
from bursar.types import CacheState, Call, Entry, Hold, Kept, Outcome, Plan, Ratios, Refused, Verdict


async def handle(call: Call, policy: Policy) -> Verdict:
    """An answer that is known already, or the call's own."""
    plans = route.ladder(call, policy)
    if isinstance(plans, Refused):
        return await refuse(call, book.opening(call, route.nowhere(call), 1, await Now(), policy), plans, policy)
    known = reuse.wanted(call, plans, policy)
    found = await Recall(known.key, call) if known is not None and known.reads else None
    if found is not None and found.fresh_until > await Now():  # exact first: free and certain
        return await give(call, plans[0], found, "hit", policy)
    told = await nearest(call, plans, policy)
    if told is not None and told.found is not None:
        await Learn(told)
        return await give(call, plans[0], told.found, "semantic_hit", policy)
    plans = reuse.keeping(choose.keeping(plans, told), known)
    if call.cache == "only":
        return await refuse(call, book.opening(call, plans[0], 1, await Now(), policy), reuse.MISS, policy)
    verdict = await (answered(call, plans, policy) if known is None else shared(call, plans, known, found, policy))
    if told is not None:
        await Learn(choose.ended(told, verdict))
    return verdict


async def nearest(call: Call, plans: tuple[Plan, ...], policy: Policy) -> choose.Told | None:
    """The answer to a question that means the same, where the step allows it and enough speaks for it."""
    asked = question.question(call, plans, policy)
    if asked is None:
        return None
    paid = side.embedding(call, plans[0], asked)
    vector = side.vector(await aside(*paid, policy)) if paid is not None else None
    around = await Nearby(asked, vector)
    if around is None:
        return None
    choice = choose.choose(asked, around, call.request_id)
    serves = choice is not None and choice.decision == "serve"
    found = await Recall(bytes.fromhex(choice.answer), call) if choice is not None and serves else None
    return choose.Told(asked, around, choice, call.request_id, found)


async def aside(call: Call, plan: Plan, policy: Policy) -> Outcome | Refused:
    """A paid side call: its own row, on the call's own budgets; refused means skipped."""
    nothing = Verdict(Refused("nothing was tried"), None, attempts=0)
    verdict = await attempt(call, plan, budget.Rung((plan,), clamp=True), nothing, policy)
    if isinstance(verdict.outcome, Refused) and verdict.entry is not None:
        await refuse(call, verdict.entry, verdict.outcome, policy)
    return verdict.outcome


async def shared(
    call: Call, plans: tuple[Plan, ...], known: reuse.Reuse, found: Kept | None, policy: Policy
) -> Verdict:
    """The answer of an equal call under way; else one's own, kept. found: a stale one."""
    joined = await Join(known.key, call, waits=found is None) if known.leads else "alone"
    if isinstance(joined, Kept):
        return await give(call, plans[0], joined, "coalesced", policy)
    if found is not None and joined == "alone":  # stale, and somebody fetches a fresh one
        return await give(call, plans[0], found, "hit", policy)
    verdict = await answered(call, plans, policy)
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


async def answered(call: Call, plans: tuple[Plan, ...], policy: Policy) -> Verdict:
    """Walk the plans that serve the call, best first; where a budget is used up, one rung of its ladder lower."""
    verdict = Verdict(Refused("no plan was left to try"), None, attempts=0)
    for rung in budget.rungs(call, plans, policy):
        if not budget.skips(rung, verdict):
            verdict = await walk(call, rung, verdict, policy)
        if not budget.short(verdict):
            break
    if isinstance(verdict.outcome, Refused) and verdict.entry is not None:
        return await refuse(call, verdict.entry, verdict.outcome, policy)
    return verdict


async def walk(call: Call, rung: budget.Rung, verdict: Verdict, policy: Policy) -> Verdict:
    """Try each plan of a rung, with retries, until one has answered."""
    for plan in rung.plans:
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
        return Verdict(hold, entry, before.attempts, before.spent_nanos)
    entry = book.granted(entry, hold)
    plan = marking.narrowed(budget.edited(plan, hold, policy), entry)
    outcome = await Send(plan, entry, hold, call)
    entry = book.closing(entry, outcome, await learned(entry, outcome), policy)
    await Settle(hold, entry, plan)
    spent = before.spent_nanos + book.owed(entry)
    return Verdict(outcome, entry, entry.attempt, spent, budget.after(hold.standing, entry), hold.lowered)


async def marked(call: Call, plan: Plan, entry: Entry, policy: Policy) -> Plan:
    """Hints to the provider's prompt cache, where the step asks for them and they pay."""
    if not marking.wanted(call, plan, policy):
        return plan
    return marking.marked(call, plan, entry, await Habit(call, entry), policy)


async def refuse(call: Call, entry: Entry, refused: Refused, policy: Policy) -> Verdict:
    """Nothing is sent; the refusal is a row like any other, and perhaps a graceful partial answer."""
    refused = budget.concluded(call, refused, policy)
    entry = book.refusal(entry, refused, policy)
    await Settle(Hold(entry.request_id, entry.attempt), entry)
    return Verdict(refused, entry, entry.attempt - 1, standing=refused.standing)


async def learned(entry: Entry, outcome: Outcome) -> Ratios:
    """How this model's own counts compare with ours: asked only where a count has to be estimated."""
    if entry.model is None or not book.needs_estimate(outcome):
        return Ratios()
    return await Learned(entry.provider, entry.model)
