"""The whole life of a call, on one page: every decision, no I/O. Each `await` asks the world one question.

A Settle follows every granted Reserve: the driver resumes a parked Send with Completed, Failed or Abandoned whatever
becomes of the stream, and nothing between Send and Settle can fail.
"""

from bursar.effects import Learned, Now, Pause, Reserve, Send, Settle
from bursar.policy import Policy
from bursar.rules import book, retry, route
from bursar.types import Call, Entry, Hold, Outcome, Plan, Ratios, Refused, Verdict


async def handle(call: Call, policy: Policy) -> Verdict:
    """Walk the plans that serve the call, cheapest and most preferred first, until one has answered."""
    plans = route.ladder(call, policy)
    if isinstance(plans, Refused):
        return await refuse(book.opening(call, route.nowhere(call), 1, await Now(), policy), plans)
    verdict = Verdict(Refused("no plan was left to try"), None, attempts=0)
    for plan in plans:
        for turn in range(1, call.attempts + 1):
            verdict = await attempt(call, plan, verdict.attempts + 1, policy)
            outcome = verdict.outcome
            if isinstance(outcome, Refused) or not retry.retryable(outcome):
                return verdict
            pause = retry.wait_ms(call, outcome, turn, policy)
            if pause is None or turn == call.attempts:
                break
            await Pause(pause)
    return verdict


async def attempt(call: Call, plan: Plan, number: int, policy: Policy) -> Verdict:
    """One physical attempt: the row is open before the bytes leave and closed whatever comes of them."""
    entry = book.opening(call, plan, number, await Now(), policy)
    hold = book.unpriced(entry, policy) or await Reserve(entry)
    if isinstance(hold, Refused):
        return await refuse(entry, hold)
    outcome = await Send(plan, entry)
    entry = book.closing(entry, outcome, await learned(entry, outcome), policy)
    await Settle(hold, entry)
    return Verdict(outcome, entry, number)


async def refuse(entry: Entry, refused: Refused) -> Verdict:
    """Nothing is sent; the refusal is a row like any other."""
    entry = book.refusal(entry, refused)
    await Settle(Hold(entry.request_id, entry.attempt), entry)
    return Verdict(refused, entry, entry.attempt - 1)


async def learned(entry: Entry, outcome: Outcome) -> Ratios:
    """How this model's own counts compare with ours: asked only where a count has to be estimated."""
    if entry.model is None or not book.needs_estimate(outcome):
        return Ratios()
    return await Learned(entry.provider, entry.model)
