"""From a call, a plan and an outcome to the row of the ledger. Pure.

What is known is booked as it is; what is not is estimated and marked, or stays None: never zero. An error status is
the exception that is known: nothing was produced, nothing is owed (wire.md section 2.3).
"""

import re

import msgspec

from bursar.policy import Card, Policy, Unpriced
from bursar.rules import digest, estimate, price
from bursar.types import (
    Abandoned,
    Bucket,
    Call,
    Charge,
    Completed,
    Entry,
    Failed,
    Hold,
    Instant,
    Outcome,
    Part,
    Plan,
    Price,
    Ratios,
    Reading,
    RefusalKind,
    Refused,
    Status,
    Terms,
    Usage,
)

_TEXT: frozenset[Bucket] = frozenset(("input", "cache_write_5m", "cache_write_30m", "output"))
_LONG = re.compile(rb"12?h")
_LONG_LIVED: frozenset[Bucket] = _TEXT | {"cache_write_1h", "cache_write_12h"}
_MEDIA: frozenset[Bucket] = frozenset(("input_audio", "input_image", "input_video", "output_audio", "output_image"))
_FREE = Usage(parts=(), input_tokens=0, output_tokens=0, cached_tokens=0, cache_write_tokens=0, reasoning_tokens=0)


def opening(call: Call, plan: Plan, attempt: int, at: Instant, policy: Policy) -> Entry:
    """The row as it stands before the bytes leave: who, what, where, and what it may cost at most."""
    tags, view = call.tags, call.view
    blocks, tokens = digest.pack(view.blocks, policy.digest_key)
    if not view.blocks:
        tokens = estimate.tokens(estimate.weigh(call.body))
    return Entry(
        request_id=call.request_id,
        attempt=attempt,
        run_id=tags.run_id,
        parent_run_id=tags.parent_run_id,
        session_id=tags.session_id,
        user_id=tags.user_id,
        user_tier=tags.user_tier,
        agent_id=tags.agent_id,
        step=tags.step if tags.step is not None else digest.step_key(view.blocks),
        tenant=tags.tenant,
        tags=tags.tags,
        key_id=tags.key_id,
        started_at=at,
        api=plan.api or call.api,
        provider=plan.provider,
        requested_model=plan.requested_model,
        model=plan.model,
        tier=plan.tier,
        route_reason=plan.reason,
        decision=plan.decision,
        stream=view.stream,
        cache="miss" if plan.looked else "bypass",
        hold_nanos=_hold(call, plan, tokens, at, policy),
        terms=view.terms,
        input_estimate=tokens,
        purpose=call.purpose,
        sdk_retry=call.sdk_retry,
        blocks=blocks,
        request=call.body if policy.capture else None,
    )


def closing(entry: Entry, outcome: Outcome, learned: Ratios, policy: Policy) -> Entry:
    """The same row with what came of it: status, times, tokens as reported, dollars at the served model's card."""
    reading, timing = outcome.reading, outcome.timing
    usage = _usage(entry, outcome, learned)
    model = reading.model or entry.model
    cost = _cost(entry, usage, model, reading.terms, policy) if usage else _unsaid(entry, reading)
    refused_why = outcome.error if isinstance(outcome, Failed) else reading.error
    known = usage or Usage(parts=())
    return msgspec.structs.replace(
        entry,
        duration_ms=_ms(timing.sent, timing.ended),
        first_byte_ms=_ms(timing.sent, timing.first_byte) if timing.first_byte is not None else None,
        model=model,
        status=_status(outcome),
        http_status=outcome.status,
        error=refused_why,
        input_tokens=known.input_tokens,
        cached_tokens=known.cached_tokens,
        cache_write_tokens=known.cache_write_tokens,
        output_tokens=known.output_tokens,
        reasoning_tokens=known.reasoning_tokens,
        usage=reading.raw_usage,
        service_tier=reading.terms.service_tier,
        terms=reading.terms,
        cost_nanos=cost.nanos,
        cost_status=cost.status,
        price_id=cost.price_id,
        output_estimate=reading.output_units,
        response_id=reading.response_id,
        response=outcome.body if policy.capture and isinstance(outcome, Completed) else None,
    )


def granted(entry: Entry, hold: Hold) -> Entry:
    """The row as its store has opened it: with what it holds and the output limit that is sent."""
    if not hold.charges and hold.output_limit is None:
        return entry
    return msgspec.structs.replace(
        entry,
        hold_nanos=entry.hold_nanos if hold.nanos is None else hold.nanos,
        output_limit=hold.output_limit,
        charges=hold.charges,
    )


def hinted(entry: Entry, plan: Plan) -> Entry:
    """The row with what its body has got for the provider's prompt cache."""
    if plan.marks is None:
        return entry
    return msgspec.structs.replace(entry, marks=msgspec.json.encode(plan.marks).decode())


def charged(entry: Entry, charge: Charge) -> tuple[int, int]:
    """What a closed row adds to one counter it holds of: nano-dollars and tokens; what is unknown counts as held."""
    if entry.status == "refused":
        return 0, 0
    told = entry.input_tokens is not None and entry.output_tokens is not None
    tokens = (entry.input_tokens or 0) + (entry.output_tokens or 0) if told else charge.tokens
    return charge.nanos if entry.cost_nanos is None else entry.cost_nanos, tokens


def owed(entry: Entry) -> int:
    """What an attempt counts for under a guard of its call, in nano-dollars."""
    return entry.cost_nanos if entry.cost_nanos is not None else entry.hold_nanos or 0


def unpriced(entry: Entry, policy: Policy) -> Refused | None:
    """With unknown_price = "refuse", a model without a price is not sent."""
    if policy.unknown_price != "refuse":
        return None
    if entry.model is None:
        return Refused("the body names no model, so its price is unknown, and unknown_price is 'refuse'")
    card = policy.prices.card(entry.provider, entry.model, entry.terms, entry.started_at)
    return Refused(f"{card.why} (unknown_price is 'refuse')") if isinstance(card, Unpriced) else None


def together(one: int | None, other: int | None) -> int | None:
    """The sum; not known where one of them is not."""
    return None if one is None or other is None else one + other


def refusal(entry: Entry, refused: Refused, policy: Policy) -> Entry:
    """The row of a call that was not sent: it cost nothing and says why."""
    return msgspec.structs.replace(
        entry,
        status="refused",
        http_status=refusal_status(refused, policy),
        error=refused.reason,
        duration_ms=0,
        input_tokens=0,
        output_tokens=0,
        cost_nanos=0,
        cost_status="final",
    )


_STATUSES: dict[RefusalKind, int] = {"held": 429, "miss": 504}


def refusal_status(refused: Refused, policy: Policy) -> int:
    """The HTTP status: 404 where nobody serves it, 200 for a partial answer, 429 while held, 504 on a miss, else
    the policy's."""
    if refused.unroutable:
        return 404
    if refused.answer is not None:
        return 200
    return _STATUSES.get(refused.kind, policy.refuse_status)


def needs_estimate(outcome: Outcome) -> bool:
    """True where tokens that are owed were not reported, so that the learned ratios matter."""
    return outcome.reading.usage is None and not _owes_nothing(outcome)


def _usage(entry: Entry, outcome: Outcome, learned: Ratios) -> Usage | None:
    """The tokens to book; None: nothing can be said (a request that was sent and never answered)."""
    reading = outcome.reading
    if reading.usage is not None:
        return reading.usage
    if _owes_nothing(outcome):
        return _FREE
    if outcome.status is None or entry.api == "other" or reading.pending:
        return None
    return _estimated(entry, reading, learned)


def _unsaid(entry: Entry, reading: Reading) -> Price:
    """Where no token is known: a background response that has not ended is booked at its hold, the rest is unknown."""
    if reading.pending and entry.hold_nanos is not None:
        return Price(entry.hold_nanos, "estimated")
    return Price(None, "unpriced")


def _owes_nothing(outcome: Outcome) -> bool:
    if not isinstance(outcome, Failed):
        return False
    return outcome.unsent or (outcome.status is not None and outcome.status >= 300)


def _estimated(entry: Entry, reading: Reading, learned: Ratios) -> Usage:
    """Bursar's own counts times the learned ratios; what the provider did say before the cut stands as it was said."""
    output = round(reading.output_units * learned.output)
    said = reading.partial
    if said is not None and said.input_tokens is not None and said.parts:
        first = said.parts[0]
        seen = max(output, first.buckets.get("output", 0))
        part = Part(buckets={**first.buckets, "output": seen}, model=first.model)
        return msgspec.structs.replace(said, parts=(part, *said.parts[1:]), output_tokens=seen, estimated=True)
    tokens = round((entry.input_estimate or 0) * learned.input)
    if entry.api == "embeddings":
        output = 0
    return Usage(
        parts=(Part(buckets={"input": tokens, "output": output}),),
        input_tokens=tokens,
        output_tokens=output,
        estimated=True,
    )


def _cost(entry: Entry, usage: Usage, model: str | None, terms: Terms, policy: Policy) -> Price:
    """At the served model's card. A served name that no table lists is priced as the one sent where the user did so."""
    cost = price.quote(usage, entry.provider, model, terms, policy.prices, entry.started_at)
    if cost.nanos is None and model != entry.model:
        sent = price.quote(usage, entry.provider, entry.model, terms, policy.prices, entry.started_at)
        if sent.price_id is not None and sent.price_id.startswith("policy/"):
            return sent
    if cost.nanos is None and _goes_by_ceiling(entry, policy):
        most = policy.prices.dearest(entry.provider, entry.started_at)
        if not isinstance(most, Unpriced):
            bound = price.quote(usage, entry.provider, "", terms, _Only(most), entry.started_at)
            return msgspec.structs.replace(bound, status="estimated") if bound.nanos is not None else cost
    return cost


def _goes_by_ceiling(entry: Entry, policy: Policy) -> bool:
    return policy.unknown_price == "ceiling" or (
        policy.unknown_price is None and any(charge.nanos for charge in entry.charges)
    )


class _Only(msgspec.Struct, frozen=True):
    """A price book of one card."""

    only: Card

    def card(self, provider: str, model: str, terms: Terms, at: Instant) -> Card | Unpriced:
        return self.only

    def dearest(self, provider: str, at: Instant) -> Card | Unpriced:
        return self.only


def _hold(call: Call, plan: Plan, tokens: int, at: Instant, policy: Policy) -> int | None:
    """The most that the attempt can cost, in nano-dollars; None where a price or the output limit is unknown."""
    view = call.view
    if plan.model is None or call.api == "other":
        return None
    card = policy.prices.card(plan.provider, plan.model, view.terms, at)
    if isinstance(card, Unpriced):
        return None
    limit = 0 if call.api == "embeddings" else view.max_output_tokens or card.max_output_tokens
    if limit is None:
        return None
    only = possible(card, call, plan)
    return price.ceiling(
        tokens, limit * view.choices, plan.provider, plan.model, view.terms, policy.prices, at, only=only
    )


def held(entry: Entry, call: Call, plan: Plan, policy: Policy) -> Entry:
    """The row with what it may cost at most now that the plan has marks: some are written at a dearer rate."""
    if not _marks_for_long(plan):
        return entry
    most = _hold(call, plan, entry.input_estimate or 0, entry.started_at, policy)
    return msgspec.structs.replace(entry, hold_nanos=most)


def possible(card: Card, call: Call, plan: Plan) -> frozenset[Bucket]:
    """The buckets that a request can touch: media only where its body does not carry all its input."""
    text = _LONG_LIVED if _marks_for_long(plan) or _may_live_long(card, call) else _TEXT
    return text | _MEDIA if call.view.opaque_input else text


def _marks_for_long(plan: Plan) -> bool:
    return plan.marks is not None and any(mark.ttl == "1h" for mark in plan.marks.marks)


def _may_live_long(card: Card, call: Call) -> bool:
    """Whether a longer lifetime in the provider's cache costs more and the body may ask for it."""
    rates = card.rates
    dearest = max(rates.get("cache_write_1h", 0), rates.get("cache_write_12h", 0))
    return dearest > rates.get("input", 0) and _LONG.search(call.body) is not None


def _status(outcome: Outcome) -> Status:
    match outcome:
        case Completed():
            return "failed" if outcome.reading.error is not None else "completed"
        case Failed():
            return "failed"
        case Abandoned():
            return "abandoned"


def _ms(start: Instant, end: Instant) -> int:
    return max(0, end - start) // 1000
