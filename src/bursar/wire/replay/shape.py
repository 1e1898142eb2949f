"""What the dialects' replays share: JSON of a checked type, events, text in pieces.

Whatever does not fit raises Misfit, which never leaves the package.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]

PIECE = 512
"""Characters of text in a delta: some clients read lines of no more than 64 KiB."""

_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""Line ends to Unicode but not to SSE; clients that cut the decoded text into lines would tear the JSON there."""


class Misfit(Exception):
    """An answer or a stream that has no other shape."""


def read(data: bytes) -> Json:
    """A JSON object."""
    return obj(msgspec.json.decode(data))


def obj(value: Any) -> Json:
    """The value, an object."""
    if isinstance(value, dict):
        return value
    raise Misfit("an object was expected")


def objs(value: Any) -> list[Json]:
    """The value, an array of objects; null is an empty one."""
    if value is None:
        return []
    if isinstance(value, list):
        return [obj(one) for one in value]
    raise Misfit("an array of objects was expected")


def text(value: Any) -> str:
    """The value, a string."""
    if isinstance(value, str):
        return value
    raise Misfit("a string was expected")


def place(value: Any) -> int:
    """The value, an index."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Misfit("an index was expected")


def without(value: Json, *keys: str) -> Json:
    """The object without these members."""
    return {key: one for key, one in value.items() if key not in keys}


def update(value: Json, members: Json) -> None:
    """Sets members; a null or empty text takes the place of nothing."""
    for key, one in members.items():
        if key not in value or (one is not None and one != ""):
            value[key] = one


def in_order(found: dict[int, Any]) -> Iterator[Any]:
    """Values by their index, which must count from 0 without a gap."""
    if sorted(found) != list(range(len(found))):
        raise Misfit("an index is missing")
    return (found[index] for index in range(len(found)))


def pieces(said: str) -> list[str]:
    """The text cut into deltas; none of an empty one."""
    return [said[start : start + PIECE] for start in range(0, len(said), PIECE)]


def event(data: Json, name: str | None = None, end: bytes = b"\n") -> bytes:
    """One SSE event of one line of data."""
    line = msgspec.json.encode(data)
    for raw, escaped in _LINE_ENDS:
        line = line.replace(raw, escaped)
    head = b"event: " + name.encode() + end if name is not None else b""
    return head + b"data: " + line + end + end


def first_flaw(flaws: Iterable[str | None]) -> str | None:
    """The first reason that is one."""
    return next((flaw for flaw in flaws if flaw is not None), None)
