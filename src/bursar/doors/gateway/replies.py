"""From a verdict to what the caller sees: the provider's own answer with our headers, or a refusal in his dialect."""

from typing import NamedTuple

from bursar.doors import refusal, telling
from bursar.drivers.life import TransportFailure
from bursar.policy import Policy
from bursar.types import Abandoned, Call, Completed, Entry, Failed, Headers, Refused, Standing, Verdict
from bursar.wire.dialect import Dialect

RawHeaders = list[tuple[bytes, bytes]]


_KINDS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Reply(NamedTuple):
    """A whole HTTP answer."""

    status: int
    headers: RawHeaders
    body: bytes


def of_verdict(verdict: Verdict, call: Call, dialect: Dialect, policy: Policy) -> Reply:
    """The answer to a call that was not streamed through."""
    outcome = verdict.outcome
    if isinstance(outcome, Refused):
        told = refusal.reply(outcome, call, dialect, policy)
        ours = raw(telling.facts(verdict.entry, verdict.attempts, final=True, cost_nanos=verdict.cost_nanos), None)
        return Reply(told.status, [*raw(told.headers, len(told.body)), *ours], told.body)
    about = (("x-bursar-request-id", call.request_id), *refusal.budget_headers(verdict.standing))
    facts = telling.facts(verdict.entry, verdict.attempts, final=True, cost_nanos=verdict.cost_nanos)
    ours = raw((*about, *facts), None)
    match outcome:
        case Completed():
            body, ours = outcome.body or b"", [*ours, *raw(telling.validation(verdict), None)]
            return Reply(outcome.status, [*raw(outcome.headers, len(body)), *ours], body)
        case Failed() if outcome.status is not None and outcome.body is not None and outcome.status >= 300:
            headers = outcome.headers
            if verdict.attempts > 1:
                headers = (*((k, v) for k, v in headers if k != "x-should-retry"), ("x-should-retry", "false"))
            return Reply(outcome.status, [*raw(headers, len(outcome.body)), *ours], outcome.body)
        case Failed():
            reply = _unreachable(dialect, outcome.error, outcome.cause)
            return Reply(reply.status, [*reply.headers, *_no_retry(verdict.attempts > 1), *ours], reply.body)
        case Abandoned():
            return error(dialect, 499, "the caller went away")


def unreachable(dialect: Dialect, failure: TransportFailure) -> Reply:
    """The provider gave no answer: 504 where it kept silent too long, else 502."""
    return _unreachable(dialect, failure.error, failure.cause)


def _unreachable(dialect: Dialect, message: str, cause: BaseException | None) -> Reply:
    return error(dialect, 504 if isinstance(cause, TimeoutError) else 502, message, code="upstream_unreachable")


def error(dialect: Dialect, status: int, message: str, code: str | None = None) -> Reply:
    """An error of our own, in the caller's dialect."""
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    body = dialect.error(status, kind, message, code)
    return Reply(status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body)


def raw(headers: Headers, length: int | None) -> RawHeaders:
    """Relayed headers as bytes; `length` replaces content-length, None leaves it out (a stream)."""
    kept = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers if k != "content-length"]
    if length is not None:
        kept.append((b"content-length", b"%d" % length))
    return kept


def stream_headers(request_id: str, entry: Entry | None, attempts: int, standing: Standing | None) -> RawHeaders:
    """The `x-bursar-*` headers of contract.md section 3 at a stream's head: what it will cost is not known."""
    about = (("x-bursar-request-id", request_id), *refusal.budget_headers(standing))
    return raw((*about, *telling.facts(entry, attempts, final=False)), None)


def _no_retry(due: bool) -> RawHeaders:
    return [(b"x-should-retry", b"false")] if due else []
