"""Edits of a JSON body at byte offsets: what is not named stays as it was written, byte for byte.

Where a key stands twice, the last one counts, as with JSON parsers. A body that is no JSON object is returned as it is.
"""

import re
from collections.abc import Iterator

import msgspec

from bursar.wire.peek import Members, members, text

_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]} \t\r\n]+")
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)


def set_member(body: bytes, key: str, value: bytes, found: Members | None = None) -> bytes:
    """The object with that member's value replaced, or the member put first where there was none.

    found: the body's members, where the caller has them already.
    """
    found = members(body) if found is None else found
    if found is None:
        return body
    if key not in found:
        return _insert(body, msgspec.json.encode(key) + b":" + value, empty=not found)
    if bytes(found[key]) == value:
        return body
    start, end = _last(body, key, found)
    return body[:start] + value + body[end:]


def set_model(body: bytes, model: str | None) -> bytes:
    """The body with its model replaced by splice, unless it says the same already."""
    found = members(body) if model is not None else None
    if found is None or text(found.get("model")) == model:
        return body
    return set_member(body, "model", msgspec.json.encode(model), found)


def _insert(body: bytes, member: bytes, *, empty: bool) -> bytes:
    brace = body.index(b"{") + 1
    return body[:brace] + member + (b"" if empty else b",") + body[brace:]


def _last(body: bytes, key: str, found: Members) -> tuple[int, int]:
    """Where the value that counts stands: by the lengths already known, or where keys repeat by a slower walk."""
    spans = _walk(body, iter(found.items()))
    try:
        known = dict(spans)
    except LookupError:
        known = dict(_walk(body, None))
    return known[key]


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
