"""The dialects by name, and how a caller's JSON is read without trusting it."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import msgspec

from bursar.sandbox import chat, gemini, messages, responses
from bursar.sandbox.asks import Ask, Bad, Dialect, Json, Reply

T = TypeVar("T")


class Speech(Protocol):
    """A dialect that generates text, as a module."""

    ID_PREFIX: str
    STREAM_TYPE: str
    BILLS_HANGUP_WHOLE: bool

    def read(self, body: Json, /) -> Ask: ...
    def whole(self, reply: Reply, /) -> Json: ...
    def frames(self, reply: Reply, /) -> Iterator[tuple[bytes, int]]: ...
    def error(self, bad: Bad, request_id: str, /) -> Json: ...
    def error_frame(self, bad: Bad, request_id: str, number: int, /) -> bytes: ...
    def torn_frame(self, reply: Reply, /) -> bytes: ...
    def count(self, body: Json, /) -> int: ...


SPEECH: dict[Dialect, Speech] = {"chat": chat, "responses": responses, "messages": messages, "gemini": gemini}


def bills_whole(dialect: Dialect) -> bool:
    """Whether a provider bills the whole generation to a client that hung up."""
    return dialect == "embeddings" or SPEECH[dialect].BILLS_HANGUP_WHOLE


def error_body(dialect: Dialect, bad: Bad, request_id: str) -> bytes:
    """A refusal in its dialect."""
    body = chat.error(bad, request_id) if dialect == "embeddings" else SPEECH[dialect].error(bad, request_id)
    return msgspec.json.encode(body)


def decode(body: bytes) -> Json:
    """A body that is a JSON object, or a 400."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Bad(400, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(value, dict):
        raise Bad(400, "The body must be a JSON object.")
    return value


def guarded(read: Callable[[], T]) -> T:
    """What a reader stumbles over in a caller's JSON is the caller's error."""
    try:
        return read()
    except KeyError as error:
        raise Bad(400, f"Missing required parameter: {error}.", code="missing_required_parameter") from error
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise Bad(400, f"The request could not be read: {error}") from error
