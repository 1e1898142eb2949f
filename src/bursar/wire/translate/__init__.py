"""One named pair of dialects, OpenAI chat completions and Anthropic messages: a caller of one is served by the other.

source is the caller's dialect, target the provider's. Nothing that shapes the answer is left out in silence: what has
no place in the other dialect refuses the candidate with the reason (to_messages and to_chat say what is decided for
every member). Total: no body and no stream makes any of this raise.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from bursar.types import Api, Headers, Instant
from bursar.wire import dialect, peek
from bursar.wire.replay.shape import Json, read
from bursar.wire.translate import answers, to_chat, to_messages
from bursar.wire.translate.pinning import pinned as pinned
from bursar.wire.translate.pinning import why_pinned
from bursar.wire.translate.streams import FAILURES, ChatVoice, Converter, MessagesVoice, fault

_VERSION: Headers = (("anthropic-version", "2023-06-01"),)
_LONGEST_WORDS = 2_000
"""Characters of an error that is no JSON."""


class Translated(msgspec.Struct, frozen=True):
    """A request for the provider."""

    body: bytes
    path: str
    """Below the provider's base URL, as its SDK counts it: OpenAI's holds the /v1."""
    headers_needed: Headers
    """Beside the credential and the content type."""


class Refusal(msgspec.Struct, frozen=True):
    """This candidate cannot serve this request."""

    reason: str


class Stream(Protocol):
    """A streamed answer while it is translated."""

    @property
    def over(self) -> bool:
        """The caller has been told an end, a good or a bad one: nothing follows."""
        ...

    @property
    def broken(self) -> bool:
        """That end is an error of ours: what the provider said could not be translated."""
        ...

    def feed(self, chunk: bytes) -> bytes: ...
    def close(self) -> bytes: ...


_REQUESTS: dict[tuple[Api, Api], tuple[str, Headers, Callable[[Json, str, int | None], Json]]] = {
    ("chat", "messages"): ("/v1/messages", _VERSION, to_messages.request),
    ("messages", "chat"): ("/chat/completions", (), to_chat.request),
}


def paired(source: Api, target: Api) -> bool:
    """Whether a caller of source can be served in target by translation."""
    return (source, target) in _REQUESTS


def request(
    body: bytes, source: Api, target: Api, *, model: str, max_output: int | None = None
) -> Translated | Refusal:
    """The caller's request for a model of the other dialect, or why that model cannot serve it.

    max_output: output tokens that the model can give. A limit above it is lowered to it; a caller without a limit means
    all of it, and as Anthropic requires a limit, without this number such a request is refused.
    """
    if not paired(source, target):
        return Refusal(f"no translation from {source} to {target}")
    path, headers, rendered = _REQUESTS[source, target]
    try:
        asked = read(body)
        if (why := why_pinned(asked, source)) is not None:
            return Refusal(f"pinned: {why}")
        return Translated(msgspec.json.encode(rendered(asked, model, max_output)), path, headers)
    except FAILURES as error:
        return Refusal(str(error))


def answer(body: bytes, source: Api, target: Api, *, at: Instant) -> bytes | None:
    """A whole answer (2xx) of target as source has it; None: it is malformed or of a kind that was not asked for.

    at: when it came, for formats that say so.
    """
    try:
        if (source, target) == ("chat", "messages"):
            return msgspec.json.encode(answers.to_chat(body, at))
        if (source, target) == ("messages", "chat"):
            return msgspec.json.encode(answers.to_messages(body))
    except FAILURES:
        pass
    return None


def stream(source: Api, target: Api, *, at: Instant, wants_usage: bool = False) -> Stream:
    """For a streamed answer of target, decoded bytes; ValueError for no pair.

    wants_usage: View.wants_usage of the caller's own request.
    """
    if (source, target) == ("chat", "messages"):
        return Converter(ChatVoice(at, usage=wants_usage), source)
    if (source, target) == ("messages", "chat"):
        return Converter(MessagesVoice(), source)
    raise ValueError(f"no translation from {source} to {target}")


def error(body: bytes, status: int, source: Api, target: Api) -> bytes:
    """An error answer of target as source has it, with the same words. The status stays what it is."""
    del target  # both dialects say {"error": {...}}
    told = (peek.members(body) or {}).get("error")
    try:
        found = msgspec.json.decode(told) if told is not None else None
    except FAILURES:
        found = None
    if not isinstance(found, dict):
        words = body.decode("utf-8", "replace").strip()[:_LONGEST_WORDS]
        return dialect.of(source).error(status, "api_error", words or f"HTTP {status}")
    message, kind = fault(found)
    extra = found.get("details")
    code = found.get("code") or (extra.get("error_code") if isinstance(extra, dict) else None)
    return dialect.of(source).error(status, kind, message, code if isinstance(code, str) else None)
