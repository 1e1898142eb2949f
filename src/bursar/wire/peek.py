"""Reading a request body no deeper than needed: members stay raw JSON. Total: what cannot be read is None.

Unreadable means: no JSON object by RFC 8259 (a byte order mark, NaN, trailing bytes, nesting beyond the interpreter's
limit). A member of the wrong type is as good as missing: the provider will say so better than we can.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import msgspec

from bursar.rules import estimate
from bursar.types import Block, BlockKind

T = TypeVar("T")
Members: TypeAlias = dict[str, msgspec.Raw]

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
LARGEST_COUNT = 1 << 53
_DIGITS = re.compile(r"[0-9]{1,16}")

_NULL = msgspec.Raw(b"null")
_EMPTY = msgspec.Raw(b"[]")


class Part(msgspec.Struct):
    """A message or input item, or a part of one, as far as it tells where its content is."""

    type: Any = None
    role: Any = None
    content: "list[Part] | str | None" = None
    output: "list[Part] | str | None" = None
    audio: Any = None


_PARTS = msgspec.json.Decoder(list[Part])
_OBJECT = msgspec.json.Decoder(Members)
_CLAIMING = frozenset({"safety_identifier", "user", "metadata", "conversation"})
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[Members])
_TEXT = msgspec.json.Decoder(str)
_COUNT: "msgspec.json.Decoder[int | float]" = msgspec.json.Decoder(int | float)
_FLAG = msgspec.json.Decoder(bool)

_PAIR = rb'"(?:cache_control|prompt_cache_breakpoint)"\s*+:\s*+(?:null|\{[^{}]*"(?:ephemeral|explicit)"[^{}]*\})'
_MARK = re.compile(rb'_(?:control|cache_breakpoint)"')
_LATER_MARK = re.compile(rb",\s*+" + _PAIR)
_FIRST_MARK = re.compile(_PAIR + rb"\s*+,?\s*+")


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
    return None if raw is None else read(_OBJECT, raw)


def text(raw: Any) -> str | None:
    """A string; else None."""
    return None if raw is None else read(_TEXT, raw)


def flag(raw: Any) -> bool:
    """True where it stands as true."""
    return raw is not None and read(_FLAG, raw) is True


def count(raw: Any) -> int | None:
    """A count from 0 to 2**53, also where it is written 1e3, 1000.0 or, as lenient readers allow, "1000"; else None."""
    if raw is None:
        return None
    found = read(_COUNT, raw)
    if found is None and (digits := text(raw)) is not None and _DIGITS.fullmatch(digits):
        found = int(digits)
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
    array: bytes | None
    """The bulk as it stands, if it is an array."""
    marked: bool
    """Marks that steer the provider's cache stand somewhere."""

    def block(self, kind: BlockKind, raw: Any) -> Block:
        """The caller's bytes without the marks that only steer the provider's cache."""
        found = bytes(raw)
        return Block(kind, _unmarked(found) if self.marked and _MARK.search(found) else found)

    def messages(self) -> list[Block]:
        """The bulk, a block for each item."""
        if self.marked:
            return [self.block("message", item) for item in self.items]
        return [Block("message", item) for item in self.items]

    def any_item(self, test: Callable[[Part], bool]) -> bool:
        """True where an item passes the test, or where the items are not of the shape that they should have."""
        found = read(_PARTS, self.array) if self.array is not None else []
        return found is None or any(map(test, found))

    def any_nested(self, test: Callable[[Part], bool]) -> bool:
        """The same where an object or array may stand inside an item: no others can hold parts."""
        if self.array is None:
            return False
        if self.array.find(b"[", 1) < 0 and not any(item.find(b"{", 1) > 0 for item in self.items):
            return False
        return self.any_item(test)


class Peek:
    """A reader of bodies whose bulk is one array: its items and every other member, in one pass over the bytes.

    The bulk is cut out by its items and the rest is read as a small object. The cut is proved by comparing bytes;
    where the proof fails (spaces between the items, the key twice), the body is read twice instead.
    """

    __slots__ = ("_bulk", "_decoder", "_opening")

    def __init__(self, bulk: str) -> None:
        self._bulk = bulk
        self._opening = re.compile(b'"' + bulk.encode() + rb'"\s*+:\s*+\[')
        fields = [("bulk", list[msgspec.Raw], msgspec.field(name=bulk))]
        self._decoder: Any = msgspec.json.Decoder(msgspec.defstruct("Bulk", fields))

    def __call__(self, body: bytes) -> Seen | None:
        """None: no object."""
        quick = read(self._decoder, body)
        if quick is not None and quick.bulk:
            seen = self._cut(body, quick.bulk)
            if seen is not None:
                return seen
        found = members(body)
        if found is None:
            return None
        whole = first(found, self._bulk)
        listed = read(_ARRAY, whole)
        if whole is None:
            return Seen(found, [], None, _MARK.search(body) is not None)
        items = [bytes(item) for item in ([whole] if listed is None else listed)]
        return Seen(found, items, None if listed is None else bytes(whole), _MARK.search(body) is not None)

    def _cut(self, body: bytes, items: list[msgspec.Raw]) -> Seen | None:
        for match in self._opening.finditer(body):
            start = match.end()
            comma = b", " if body.startswith(b", ", start + len(items[0])) else b","
            joined = comma.join(items)
            end = start + len(joined)
            if body.startswith(joined, start) and body[end : end + 1] == b"]":
                rest = members(body[:start] + body[end:])
                if rest is not None and rest[self._bulk] == _EMPTY:
                    slices = _slices(body, start, items, len(comma))
                    return Seen(rest, slices, body[start - 1 : end + 1], _MARK.search(body) is not None)
        return None


def _slices(body: bytes, start: int, items: list[msgspec.Raw], gap: int) -> list[bytes]:
    """The items as the body's own bytes, so many bytes apart."""
    slices = []
    for item in items:
        end = start + len(item)
        slices.append(body[start:end])
        start = end + gap
    return slices


def _unmarked(raw: bytes) -> bytes:
    return _FIRST_MARK.sub(b"", _LATER_MARK.sub(b"", raw))


def params(found: Members, apart: frozenset[str]) -> Iterator[Block]:
    """What else shapes the answer: the members not named, sorted, as one raw JSON object; none, no block."""
    rest = [msgspec.json.encode(key) + b":" + bytes(found[key]) for key in sorted(found.keys() - apart)]
    if rest:
        yield Block("params", b"{" + b",".join(rest) + b"}")


def claims(found: Members) -> Iterator[tuple[str, str]]:
    """Whom the body names, first the names that count most (wire.md section 5, fields of the body)."""
    if _CLAIMING.isdisjoint(found):
        return
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


def elsewhere(part: Part, inline: frozenset[str]) -> bool:
    """True where something inside is of a type not known to carry what it means, all the way down (tool results)."""
    if type(part.content) is list and _any_elsewhere(part.content, inline):
        return True
    return type(part.output) is list and _any_elsewhere(part.output, inline)


def _any_elsewhere(parts: list[Part], inline: frozenset[str]) -> bool:
    return any(type(part.type) is not str or part.type not in inline or elsewhere(part, inline) for part in parts)


def listed(raw: Any) -> list[msgspec.Raw]:
    """An array's items; none where it is no array."""
    return read(_ARRAY, raw) or []


def tool_types(raw: Any) -> set[str | None]:
    """The types of the tools themselves; None stands for a tool that has no type."""
    return {text(tool.get("type")) for tool in read(_OBJECTS, raw) or ()}


def tool_names(raw: Any) -> set[str]:
    """The keys of the tools themselves (Gemini names a tool by its key)."""
    return {key for tool in read(_OBJECTS, raw) or () for key in tool}


_SPOKEN = re.compile(rb'"(?:content|text|arguments|thinking|refusal|reasoning_content)"\s*:\s*"((?:[^"\\]|\\.)*)')


_AFTER_THE_TEXT = 450
"""Bytes that follow the text in a whole answer (finish reason, usage): 350 to 600 in the dialects read here."""


def spoken(partial: bytes, length: int | None) -> int:
    """Estimated tokens of the output in a whole answer whose body was cut after `partial`.

    Where its full length in bytes was told, the text is taken to go on to the end: the provider had generated it.
    """
    seen = sum(estimate.weigh(text) for text in _SPOKEN.findall(partial))
    first = _SPOKEN.search(partial)
    if first is not None and length is not None and (shown := len(partial) - first.start(1)) > 0:
        whole = max(shown, length - first.start(1) - _AFTER_THE_TEXT)
        seen = seen * whole // shown
    return estimate.tokens(seen)
