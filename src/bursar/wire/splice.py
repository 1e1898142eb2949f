"""Edits of a JSON body at byte offsets: what is not named stays as it was written, byte for byte.

Where a key stands twice, the last one counts, as with JSON parsers. A body that is no JSON object is returned as it is.
"""

import re
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from bursar.wire.peek import Members, members

Edits: TypeAlias = dict[str, bytes]
"""Members of an object -> the JSON that each is to become."""

_BLANK = b" \t\r\n"
_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]} \t\r\n]+")
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)


def set_members(body: bytes, edits: Edits, found: Members | None = None) -> bytes:
    """The object with these members' values replaced; those that it has not are put first, in their order.

    found: the body's members, where the caller has them already.
    """
    found = members(body) if found is None else found
    if found is None:
        return body
    put_in: list[bytes] = []
    standing: list[tuple[tuple[int, int], bytes]] = []
    spans: dict[str, tuple[int, int]] = {}
    for key, value in edits.items():
        if key not in found:
            put_in.append(msgspec.json.encode(key) + b":" + value)
        elif bytes(found[key]) != value:
            spans = spans or _spans(body, found)
            standing.append((spans[key], value))
    for (start, end), value in sorted(standing, reverse=True):
        body = body[:start] + value + body[end:]
    return _insert(body, b",".join(put_in), empty=not found) if put_in else body


def append(array: bytes, item: bytes) -> bytes:
    """The JSON array with one more item at its end."""
    empty = not array[1:-1].strip(_BLANK)
    return array[:-1] + (b"" if empty else b",") + item + b"]"


def set_last(array: bytes, last: bytes, item: bytes) -> bytes:
    """The JSON array with its last item, an object that is `last`, replaced."""
    start = len(array[:-1].rstrip(_BLANK)) - len(last)
    return array[:start] + item + array[start + len(last) :]


def _insert(body: bytes, member: bytes, *, empty: bool) -> bytes:
    brace = body.index(b"{") + 1
    return body[:brace] + member + (b"" if empty else b",") + body[brace:]


def _spans(body: bytes, found: Members) -> dict[str, tuple[int, int]]:
    """Where the values that count stand: by the lengths already known, or where keys repeat by a slower walk."""
    try:
        return dict(_walk(body, iter(found.items())))
    except LookupError:
        return dict(_walk(body, None))


def _walk(body: bytes, known: Iterator[tuple[str, msgspec.Raw]] | None) -> Iterator[tuple[str, tuple[int, int]]]:
    """(key, (start, end) of its value), member by member. LookupError: `known` is not the members in their order."""
    at = _skip(body, body.index(b"{") + 1)
    while body[at] != _CLOSE:
        name_end = _end(_STRING, body, at)
        name: str = msgspec.json.decode(body[at:name_end])
        start = _skip(body, _skip(body, name_end) + 1)
        end = _value_end(body, start) if known is None else _known_end(body, start, name, known)
        yield name, (start, end)
        at = _skip(body, end)
        if body[at] == _COMMA:
            at = _skip(body, at + 1)
        elif body[at] != _CLOSE:
            raise LookupError(name)
    if known is not None and next(known, None) is not None:
        raise LookupError("members")


def _known_end(body: bytes, start: int, name: str, known: Iterator[tuple[str, msgspec.Raw]]) -> int:
    """The value known stands here: then it is the one, unless it is a number cut short, which the walk will see."""
    key, raw = next(known, ("", None))
    if raw is None or key != name or not body.startswith(bytes(raw), start):
        raise LookupError(name)
    return start + len(raw)


def _value_end(body: bytes, start: int) -> int:
    if body[start] == _QUOTE:
        return _end(_STRING, body, start)
    if body[start] not in b"[{":
        return _end(_SCALAR, body, start)
    depth = 0
    for mark in _MARK.finditer(body, start):
        depth += (mark[0] in _OPENING) - (mark[0] in _CLOSING)
        if not depth:
            return mark.end()
    raise LookupError("an unclosed value")


def _skip(body: bytes, at: int) -> int:
    return _end(_SPACE, body, at)


def _end(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    match = pattern.match(body, at)
    if match is None:
        raise LookupError(f"no JSON at byte {at}")
    return match.end()


_QUOTE, _COMMA, _CLOSE = b'",}'
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")
