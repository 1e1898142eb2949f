"""Reading a request body no deeper than needed: members stay raw JSON. Total: what cannot be read is None.

Unreadable means: no JSON object by RFC 8259 (a byte order mark, NaN, trailing bytes, nesting beyond the interpreter's
limit). A member of the wrong type is as good as missing: the provider will say so better than we can.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import msgspec

from bursar.types import Block, BlockKind

T = TypeVar("T")
Members: TypeAlias = dict[str, msgspec.Raw]

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
LARGEST_COUNT = 1 << 53

_NULL = msgspec.Raw(b"null")
_EMPTY = msgspec.Raw(b"[]")

_OBJECT = msgspec.json.Decoder(Members)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[Members])
_TEXT = msgspec.json.Decoder(str)
_COUNT: "msgspec.json.Decoder[int | float]" = msgspec.json.Decoder(int | float)
_FLAG = msgspec.json.Decoder(bool)

_PAIR = rb'"(?:cache_control|prompt_cache_breakpoint)"\s*+:\s*+(?:null|\{[^{}]*"(?:ephemeral|explicit)"[^{}]*\})'
# Patterns that begin with one rare character and a choice: the engine then looks for that character with memchr.
_MARK = re.compile(rb'_[cC](?:ontrol|ache_breakpoint)"')
_ESCAPED_WORD = re.compile(rb"\\[ux]00[4-7]")
_PAIR = rb'"(?:cache_control|prompt_cache_breakpoint)"\s*+:\s*+(?:null|\{[^{}]*"(?:ephemeral|explicit)"[^{}]*\})'
_MARK = re.compile(rb'_(?:control|cache_breakpoint)"')
_MARKER = re.compile(rb"\s*,\s*" + _PAIR + rb"|" + _PAIR + rb"\s*,?\s*")


def read(decoder: "msgspec.json.Decoder[T]", raw: Any) -> T | None:
    """raw decoded, or None where it is missing, null, malformed or of another type."""
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        return None


def members(raw: Any) -> Members | None:
    """An object's members in order, the last of equal keys; None: no object."""
    return read(_OBJECT, raw)


def text(raw: Any) -> str | None:
    """A string; else None."""
    return read(_TEXT, raw)


def flag(raw: Any) -> bool:
    """True where it stands as true."""
    return read(_FLAG, raw) is True


def count(raw: Any) -> int | None:
    """A count from 0 to 2**53, also where it is written 1e3 or 1000.0; else None."""
    found = read(_COUNT, raw)
    return int(found) if found is not None and 0 <= found <= LARGEST_COUNT and found == int(found) else None


def first(found: Members, *keys: str) -> msgspec.Raw | None:
    """The first of these members that is there and not null."""
    for key in keys:
        value = found.get(key)
        if value is not None and value != _NULL:
            return value
    return None


class Seen(msgspec.Struct):
    """A body as it was peeked at: its members, and the items of its bulk (messages, input, contents)."""

    members: Members
    items: list[bytes]
    """The bulk's items; that one value where it is no array; nothing where it is null or missing."""
    listed: bool
    """The bulk is an array."""
    marked: bool
    """Marks that steer the provider's cache stand somewhere."""
    suspect: bool
    """A word stands in the bulk that may mean input from elsewhere: reason to look closely."""

    def block(self, kind: BlockKind, raw: Any) -> Block:
        """The caller's bytes without the marks that only steer the provider's cache."""
        return Block(kind, _MARKER.sub(b"", bytes(raw)) if self.marked else bytes(raw))

    def messages(self) -> Iterator[Block]:
        """The bulk, a block for each item."""
        return (self.block("message", item) for item in self.items)

    def any_item(self, decoder: "msgspec.json.Decoder[T]", test: Callable[[T], bool]) -> bool:
        """True where an item of a suspect bulk passes the test, or is not of the shape that it should have."""
        if not self.suspect or not self.listed:
            return False
        return any(found is None or test(found) for found in (read(decoder, item) for item in self.items))


class Peek:
    """A reader of bodies whose bulk is one array: its items and every other member, in one pass over the bytes.

    The bulk is cut out by its items and the rest is read as a small object. The cut is proved by comparing bytes;
    where the proof fails (spaces between the items, the key twice), the body is read twice instead.
    """

    __slots__ = ("_bulk", "_decoder", "_opening", "_suspect")

    def __init__(self, bulk: str, suspect: bytes) -> None:
        """suspect: a pattern that no item wholly carried by the body matches; see Seen.suspect."""
        self._bulk = bulk
        self._suspect = re.compile(suspect)
        self._opening = re.compile(b'"' + bulk.encode() + rb'"\s*+:\s*+\[')
        fields = [("bulk", list[msgspec.Raw], msgspec.field(name=bulk))]
        self._decoder: Any = msgspec.json.Decoder(msgspec.defstruct("Bulk", fields))

    def __call__(self, body: bytes) -> Seen | None:
        """None: no object."""
        quick = read(self._decoder, body)
        if quick is not None and quick.bulk:
            joined = b",".join(quick.bulk)
            for match in self._opening.finditer(body):
                start = match.end()
                end = start + len(joined)
                if body.startswith(joined, start) and body[end : end + 1] == b"]":
                    rest = members(body[:start] + body[end:])
                    if rest is not None and rest[self._bulk] == _EMPTY:
                        return self._seen(body, rest, quick.bulk, joined)
        found = members(body)
        if found is None:
            return None
        whole = first(found, self._bulk)
        listed = read(_ARRAY, whole)
        if whole is None or listed is None:
            return self._seen(body, found, [] if whole is None else [whole], None)
        return self._seen(body, found, listed, bytes(whole))

    def _seen(self, body: bytes, found: Members, items: list[msgspec.Raw], array: bytes | None) -> Seen:
        suspect = array is not None and (self._suspect.search(array) or _ESCAPED_WORD.search(array))
        return Seen(
            members=found,
            items=[bytes(item) for item in items],
            listed=array is not None,
            marked=_MARK.search(body) is not None,
            suspect=bool(suspect),
        )


def params(found: Members, apart: frozenset[str]) -> Iterator[Block]:
    """What else shapes the answer: the members not named, sorted, as one raw JSON object; none, no block."""
    rest = [msgspec.json.encode(key) + b":" + bytes(found[key]) for key in sorted(found.keys() - apart)]
    if rest:
        yield Block("params", b"{" + b",".join(rest) + b"}")


def claims(found: Members) -> Iterator[tuple[str, str]]:
    """Whom the body names, first the names that count most (wire.md section 5, fields of the body)."""
    for key in ("safety_identifier", "user"):
        if value := text(found.get(key)):
            yield key, value
    metadata = members(found.get("metadata")) or {}
    if user := text(metadata.pop("user_id", None)):
        yield "metadata.user_id", user
        for key, raw in (members(user.encode()) or {}).items() if user.startswith("{") else ():
            if part := text(raw):
                yield f"metadata.user_id.{key}", part
    for key in ("session_id", "agent_id", "step"):
        if value := text(metadata.pop(key, None)):
            yield f"metadata.{key}", value
    conversation = found.get("conversation")
    if value := text(conversation) or text((members(conversation) or {}).get("id")):
        yield "conversation", value
    for key, raw in metadata.items():
        if value := text(raw):
            yield f"metadata.{key}", value


def tool_types(raw: Any) -> set[str | None]:
    """The types of the tools themselves; None stands for a tool that has no type."""
    return {text(tool.get("type")) for tool in read(_OBJECTS, raw) or ()}


def tool_names(raw: Any) -> set[str]:
    """The keys of the tools themselves (Gemini names a tool by its key)."""
    return {key for tool in read(_OBJECTS, raw) or () for key in tool}
