"""A partial answer that Bursar gives itself, at no cost, as a provider would have sent it. What the dialects share."""

from typing import Any, NamedTuple

import msgspec

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


class Finish(NamedTuple):
    """An answer of status 200: a whole completion, or the whole event stream where the request asked for one."""

    content_type: str
    body: bytes


def event(data: Any, *, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: %s\n" % name.encode()
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"
