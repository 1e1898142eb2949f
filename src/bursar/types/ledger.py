"""What is kept: the ledger's row, an answer that may be given again, and the end of a call's life."""

from typing import Literal, TypeAlias

import msgspec

from bursar.types.budget import Charge, Refused, Standing
from bursar.types.call import Plan
from bursar.types.outcome import Outcome
from bursar.types.words import Api, CacheState, CostStatus, Instant, Purpose, Status, Terms


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger (`calls`): one physical attempt, hit or refusal. Column names are the contract's."""

    request_id: str
    attempt: int
    """Counted from 1 over all plans of the request."""
    run_id: str | None
    parent_run_id: str | None
    session_id: str | None
    user_id: str | None
    user_tier: str | None
    agent_id: str | None
    step: str | None
    tenant: str
    tags: tuple[tuple[str, str], ...]
    key_id: str | None
    started_at: Instant
    duration_ms: int | None = None
    first_byte_ms: int | None = None
    api: Api
    """The wire format that was spoken with the provider; the caller's own but where it was translated."""
    provider: str
    requested_model: str | None
    model: str | None
    """The served model once the answer has named it, else the one sent."""
    tier: str | None
    route_reason: str
    stream: bool
    status: Status = "open"
    http_status: int | None = None
    error: str | None = None
    cache: CacheState = "bypass"
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage: str | None = None
    """As the provider sent it, JSON text."""
    service_tier: str | None = None
    terms: Terms = Terms()
    """The billing facts used, so that the cost can be computed again."""
    cost_nanos: int | None = None
    cost_status: CostStatus = "unpriced"
    saved_nanos: int | None = None
    price_id: str | None = None
    hold_nanos: int | None = None
    """What the attempt may cost at most; what it is booked at if its process dies."""
    output_limit: int | None = None
    """The output limit that Bursar sent in place of the caller's, per choice."""
    charges: tuple[Charge, ...] = ()
    """What the row holds of each budget's counter."""
    input_estimate: int | None = None
    """Bursar's own count of the request's tokens, before any learned ratio; what the ratios are learned from."""
    output_estimate: int | None = None
    """Bursar's own count of the output that was seen, before any learned ratio."""
    purpose: Purpose = "call"
    sdk_retry: int = 0
    validated: bool | None = None
    """Whether its answer passed the step's validators; None: not judged, or they did not know."""
    verdict: str | None = None
    """What the validators said of it, JSON of a Judgement."""
    decision: str | None = None
    """Why this tier, JSON of a Decision: candidates, counts, expected cost. None: nothing was to be chosen."""
    marks: str | None = None
    """What was added for the provider's prompt cache, JSON of Marks. None: its step asks for nothing."""
    response_id: str | None = None
    blocks: bytes = b""
    """Keyed digests of the request's content, one a block in prompt order (see rules/digest.py)."""
    request: bytes | None = None
    """The caller's body and the answer's: only with capture = true."""
    response: bytes | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was kept to be given again, in its normal form: the whole body, never a stream."""

    body: bytes
    request_id: str
    """Of the call that paid for it."""
    provider: str
    model: str | None
    tier: str | None
    step: str | None
    tenant: str
    tags: tuple[tuple[str, str], ...] = ()
    cost_nanos: int | None
    """What it cost, and so what a hit saves; None: unknown."""
    usage: str | None = None
    price_id: str | None = None
    stored_at: Instant
    fresh_until: Instant
    tools: bool = False
    """It may call tools: each time that it is given its calls get ids of their own."""
    content_type: str = "application/json"
    """Of the body as it is given: a stream's where the caller asked for one."""
    gone_at: Instant
    """Absolute: between fresh_until and this it may still be served while one call refreshes it."""


Joined: TypeAlias = Kept | Literal["leads", "alone"]
"""The answer of an identical call that was under way; or: you lead, others may wait for you; or: nobody does."""


class Ratios(msgspec.Struct, frozen=True):
    """Reported tokens per estimated token, learned per provider and model; 1.0 where nothing is known yet."""

    input: float = 1.0
    output: float = 1.0
    input_high: float | None = None
    """The p99.9 of single calls; None: too few were seen."""


class Verdict(msgspec.Struct, frozen=True):
    """The end of a call's life: the last outcome, its row, and how many attempts were made."""

    outcome: Outcome | Refused
    entry: Entry | None
    attempts: int
    spent_nanos: int = 0
    """What the attempts and their side calls are known, or held, to have cost."""
    standing: Standing | None = None
    """The tightest budget as the last hold, or the refusal, found it."""
    lowered: bool = False
    """A budget made the output limit smaller than the one wanted: nobody else is given this answer."""
    cost_nanos: int | None = 0
    """What they have cost; None: of one of them it is not known."""
    plan: Plan | None = None
    """The last one that was sent."""
    flagged: bool = False
    """The best answer obtained, and none passed its check: nobody else is given this one either."""
