"""How a call reaches its provider and how the answer comes back: as they are, or each in the other's dialect.

Decisions only. What cannot cross is known beforehand (`crossing`); a plan that was made all the same fails unsent.
"""

import re
from typing import Protocol

from bursar.drivers.life import Shipment, TransportFailure
from bursar.types import Api, Call, Headers, Instant, Plan, View
from bursar.wire import dialect, marks, translate
from bursar.wire.finish import JSON, SSE
from bursar.wire.translate import Refusal, Translated

_PLAIN: Headers = (("accept-encoding", "identity"),)
_HIS_PROVIDERS = re.compile(
    r"anthropic-|openai-|x-stainless-|x-goog-|content-type\Z|.*(?:auth|key|token|secret|cookie)"
)
"""Headers that were written for the caller's own provider, and whatever may be a credential of his there."""
_HIS_ALONE = re.compile(r"openai-(?:organization|project)\Z|x-goog-user-project\Z|.*(?:auth|key|token|secret|cookie)")
"""What of them another provider that speaks the same is not told."""
_REQUEST_ID = {"messages": ("x-request-id", "request-id"), "chat": ("request-id", "x-request-id")}
"""By the caller's dialect: the name that the provider has for it, and the name that the caller's SDK reads."""


class Passage(Protocol):
    """One plan's way out and back. `api` and `view`: the dialect and the request as the provider has them."""

    api: Api
    view: View

    def ship(self) -> Shipment:
        """What leaves."""
        ...

    def streams(self, *, json: bool) -> bool:
        """Whether a 2xx answer is one that comes bit by bit. json: it says that it is JSON."""
        ...

    def head(self, headers: Headers, *, stream: bool) -> Headers:
        """The answer's headers for the caller."""
        ...

    def opened(self, at: Instant) -> translate.Stream | None:
        """What a streamed answer goes through; None: it passes as it is."""
        ...

    def whole(self, body: bytes, at: Instant) -> bytes | None:
        """A whole 2xx answer for the caller; None: it has no such form."""
        ...

    def error(self, body: bytes, status: int) -> bytes:
        """An error's body for the caller."""
        ...


def of(call: Call, plan: Plan) -> Passage:
    """The passage of a call by this plan."""
    return Straight(call, plan) if _speaks_alike(call, plan) else Crossed(call, plan)


def crossing(call: Call, plan: Plan) -> str | None:
    """Why this plan cannot serve this call in the dialect that its provider speaks; None: it can.

    Takes as long as the translation, of which it is a trial. Needs the plan's api, model and max_output only.
    """
    if _speaks_alike(call, plan):
        return None
    if call.provider is not None and plan.provider not in (call.reach or ()):
        return f"the client speaks to {call.provider}, and no key of {plan.provider} is known here"
    found = _translated(call, plan)
    return found.reason if isinstance(found, Refusal) else None


def _speaks_alike(call: Call, plan: Plan) -> bool:
    return plan.api is None or plan.api == call.api


def _translated(call: Call, plan: Plan) -> Translated | Refusal:
    if plan.model is None:
        return Refusal("the body names no model")
    return translate.request(call.body, call.api, plan.api or call.api, model=plan.model, max_output=plan.max_output)


class Straight:
    """The provider speaks the caller's dialect: the body is patched, the answer is passed on.

    A credential of the caller's leaves for the provider that he has addressed; where he has addressed none, the door
    decides (`Shipment.home`).
    """

    def __init__(self, call: Call, plan: Plan) -> None:
        self._call, self._plan = call, plan
        self.api: Api = call.api
        self.view = call.view if plan.marks is None else marks.as_sent(call.view, plan.marks)
        self._home = call.home if call.provider is None else call.provider

    def ship(self) -> Shipment:
        """Patched only where the plan differs from what the caller wrote."""
        call, plan = self._call, self._plan
        model = plan.model if plan.model != call.view.model else None
        marked = call.body if plan.marks is None else marks.apply(call.api, call.body, plan.marks)
        spoken = dialect.of(call.api)
        body = spoken.patch(
            marked, model=model, add_usage=plan.add_usage, output_limit=plan.output_limit, tools_off=plan.tools_off,
            note=plan.note, hint=plan.hint, logprobs=plan.logprobs,
        )  # fmt: skip
        path = spoken.path(call.path, model=model)
        same = body is call.body and path == call.path and call.purpose == "call"
        return Shipment(plan.provider, path, (*self._headers(same=same), *_PLAIN), body, self._home == plan.provider)

    def _headers(self, *, same: bool) -> Headers:
        """The caller's. same: it is his very request; of any other the provider must not think that he repeats it."""
        told = [pair for pair in self._call.headers if pair[0] != "accept-encoding"]
        if not same:
            told = [pair for pair in told if "idempotency" not in pair[0]]
        if self._home not in (None, self._plan.provider):
            told = [pair for pair in told if not _HIS_ALONE.match(pair[0])]
        return tuple(told)

    def streams(self, *, json: bool) -> bool:
        return self._call.view.stream or not json

    def head(self, headers: Headers, *, stream: bool) -> Headers:
        """As they are; a stream that an event is cut out of has no known length."""
        cut = stream and self._plan.add_usage
        return tuple([pair for pair in headers if pair[0] != "content-length"]) if cut else headers

    def opened(self, at: Instant) -> None:
        del at

    def whole(self, body: bytes, at: Instant) -> bytes:
        del at
        return body

    def error(self, body: bytes, status: int) -> bytes:
        del status
        return body


class Crossed:
    """The provider speaks another dialect. Its bytes are metered as it says them and translated behind the meter.

    The plan's edits are made in the provider's dialect, where none of them can make the translation fail. No header
    that may hold a credential of the caller's leaves: the door puts the provider's own one in.
    """

    def __init__(self, call: Call, plan: Plan) -> None:
        self._call, self._plan = call, plan
        self.api: Api = plan.api or call.api
        self._spoken = dialect.of(self.api)
        self._found = found = _translated(call, plan)
        self.view = call.view if isinstance(found, Refusal) else self._spoken.view(found.body, found.path, ())

    def ship(self) -> Shipment:
        found, plan = self._found, self._plan
        if isinstance(found, Refusal):
            raise TransportFailure(f"{plan.provider} cannot serve this request: {found.reason}", unsent=True)
        body = self._spoken.patch(
            found.body, output_limit=plan.output_limit, tools_off=plan.tools_off, note=plan.note, hint=plan.hint,
            logprobs=plan.logprobs,
        )  # fmt: skip
        kept = [(k, v) for k, v in self._call.headers if k != "accept-encoding" and not _HIS_PROVIDERS.match(k)]
        headers = (*kept, ("content-type", JSON), *found.headers_needed, *_PLAIN)
        return Shipment(plan.provider, found.path, headers, body)

    def streams(self, *, json: bool) -> bool:
        """What does not come as it was asked for is read whole: only so can it be told whether it means anything."""
        return self._call.view.stream and not json

    def head(self, headers: Headers, *, stream: bool) -> Headers:
        theirs, his = _REQUEST_ID[self._call.api]
        kept = [(his if k == theirs else k, v) for k, v in headers if k not in ("content-type", "content-length")]
        return (("content-type", SSE if stream else JSON), *kept)

    def opened(self, at: Instant) -> translate.Stream:
        return translate.stream(self._call.api, self.api, at=at, wants_usage=self._call.view.wants_usage)

    def whole(self, body: bytes, at: Instant) -> bytes | None:
        return translate.answer(body, self._call.api, self.api, at=at)

    def error(self, body: bytes, status: int) -> bytes:
        return translate.error(body, status, self._call.api, self.api)
