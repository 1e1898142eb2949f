"""A refusal as an HTTP answer, the same from every door, in the caller's own dialect.

A used-up budget that ends gracefully is a valid completion; what clears by itself is a 429 that says when; the rest is
an error that no SDK tries again (wire.md section 5: a plain 429 would be sent three times).
"""

from typing import NamedTuple

from bursar.money import format_usd
from bursar.policy import Policy
from bursar.rules import book
from bursar.types import Call, Entry, Headers, RefusalKind, Refused, Standing
from bursar.wire.dialect import Dialect

_CODES: dict[RefusalKind, str] = {
    "policy": "refused_by_bursar",
    "exhausted": "budget_exceeded",
    "held": "budget_held",
    "call": "max_cost_exceeded",
    "miss": "cache_miss",
    "suspended": "suspended",
}
_KINDS = {404: "not_found_error", 429: "rate_limit_error", 504: "api_error"}


class Reply(NamedTuple):
    """A whole HTTP answer."""

    status: int
    headers: Headers
    body: bytes


def reply(refused: Refused, call: Call, dialect: Dialect, policy: Policy) -> Reply:
    """What the caller is told."""
    status = book.refusal_status(refused, policy)
    ours = (("x-bursar-request-id", call.request_id), *budget_headers(refused.standing))
    if refused.answer is not None:
        model = call.view.model or "unknown"
        finish = dialect.finish(refused.answer, call.view, model=model, request_id=call.request_id, at=call.received)
        return Reply(status, (("content-type", finish.content_type), *ours), finish.body)
    body = dialect.error(status, _KINDS.get(status, "insufficient_quota"), refused.reason, _CODES[refused.kind])
    return Reply(status, (("content-type", "application/json"), *_again(refused), *ours), body)


def _again(refused: Refused) -> Headers:
    """When to try again; where waiting does not help, or for hours: not at all."""
    if refused.kind != "held":
        return (("x-should-retry", "false"),)
    wait = refused.retry_after_ms or 1000
    return (("retry-after", str(-(-wait // 1000))), ("retry-after-ms", str(wait)))


def hit_headers(entry: Entry) -> Headers:
    """What tells an answer that was given again from a provider's own, where nothing else does."""
    told = [("x-bursar-request-id", entry.request_id), ("x-bursar-cache", str(entry.cache))]
    if entry.saved_nanos is not None:
        told.append(("x-bursar-saved-usd", format_usd(entry.saved_nanos)))
    return tuple(told)


def budget_headers(standing: Standing | None) -> Headers:
    """The tightest budget of a call: contract.md section 3. What it does not limit is left out."""
    if standing is None:
        return ()
    told = [("x-bursar-budget-state", str(standing.state)), ("x-bursar-budget-scope", str(standing.scope))]
    if standing.remaining_nanos is not None:
        told.append(("x-bursar-budget-remaining-usd", format_usd(max(0, standing.remaining_nanos))))
    if standing.remaining_tokens is not None:
        told.append(("x-bursar-budget-remaining-tokens", str(max(0, standing.remaining_tokens))))
    return tuple(told)
