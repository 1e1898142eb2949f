"""Hints to the provider's prompt cache, spliced into a request; no byte of its content is another. Nothing here raises.

A body with marks or cache options of its caller's own, or whose input the provider keeps (a conversation), is left
alone as a whole; so is one whose bytes cannot be cut exactly. A text that bears a mark becomes an array of one part,
as the providers' own shorthand means it.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from bursar.rules.prompt.hints import Spot
from bursar.types import Api, Marks, View
from bursar.wire import peek, splice
from bursar.wire.splice import Edits

_LETTER = rb"\\u00(?:5[fF]|[67][0-9a-fA-F])"
_OWN = re.compile(
    rb'"(?:cache_control|prompt_cache_(?:breakpoint|options))"|"[a-z_]*+%b(?:[a-z_]|%b)*+"' % (_LETTER, _LETTER)
)
"""Also a name that is spelled with escapes for its letters: it may come to the same."""
_STATE = ("previous_response_id", "conversation", "prompt")
_EXPLICIT = b'{"mode":"explicit"}'
_SKIP = b" \t\r\n,"

_CLAUDE_PARTS = frozenset(
    {"text", "image", "document", "search_result", "tool_use", "tool_result", "server_tool_use"}
    | {"web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"}
)
"""Parts that take cache_control (types of anthropic 2.13); thinking takes none."""
_CHAT_PARTS = frozenset({"text", "image_url", "input_audio"})
_CHAT_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_INPUT_PARTS = frozenset({"input_text", "input_image", "input_file"})
_INPUT_ROLES = frozenset({"system", "developer", "user"})
"""Roles whose content can be made of input parts; what assistants said is output_text, which takes no breakpoint."""


class _Place(NamedTuple):
    """Where a block of View.blocks stands: a member of the body, or an item of that member's array."""

    member: str
    item: int | None
    raw: bytes


class _Form(NamedTuple):
    """How a wire format is marked."""

    fronts: tuple[str, ...]
    """Members that are a block each, in the order of View.blocks, before the bulk."""
    bulk: str
    peek: Callable[[bytes], peek.Seen | None]
    mark: str
    """The member of a part that marks its end."""
    parts: frozenset[str]
    text: bytes
    """The type of the part that a plain text is short for."""
    roles: frozenset[str]


_FORMS: Mapping[str, _Form] = {
    "messages": _Form(
        ("tools", "system"), "messages", peek.Peek("messages"), "cache_control", _CLAUDE_PARTS, b"text",
        frozenset({"user", "assistant", "system"}),
    ),
    "chat": _Form(
        ("tools", "functions"), "messages", peek.Peek("messages"), "prompt_cache_breakpoint", _CHAT_PARTS, b"text",
        _CHAT_ROLES,
    ),
    "responses": _Form(
        ("tools", "instructions"), "input", peek.Peek("input"), "prompt_cache_breakpoint", _INPUT_PARTS, b"input_text",
        _INPUT_ROLES,
    ),
}  # fmt: skip


def spots(api: Api, body: bytes) -> tuple[Spot, ...]:
    """Each block of the prompt, by its place in View.blocks, as a marker sees it; none: leave the body alone."""
    form = _FORMS.get(api)
    seen = form and _ours(form, body)
    return tuple(_spot(form, place) for place in _places(form, seen)) if form and seen else ()


def apply(api: Api, body: bytes, marks: Marks) -> bytes:
    """The body with the marks; the very same object where there are none, or where it is to be left alone."""
    form = _FORMS.get(api)
    seen = form and marks and _ours(form, body)
    if not form or not seen:
        return body
    places = _places(form, seen)
    edits: Edits = {}
    items: dict[int, bytes] = {}
    for mark in marks.marks:
        place = places[mark.block] if mark.block < len(places) else None
        if place is None or not _spot(form, place).takes:
            return body
        value = _EXPLICIT if form.mark != "cache_control" else _ephemeral(mark.ttl)
        if place.item is None:
            edits[place.member] = _marked(form, place, value)
        else:
            items[place.item] = _marked(form, place, value)
    if items:
        array = _with_items(seen, items)
        if array is None:
            return body
        edits[form.bulk] = array
    if marks.explicit and form.mark != "cache_control":
        edits["prompt_cache_options"] = _EXPLICIT
    if marks.key is not None and peek.first(seen.members, "prompt_cache_key") is None:
        edits["prompt_cache_key"] = msgspec.json.encode(marks.key)
    return splice.set_members(body, edits) if edits else body


def as_sent(view: View, marks: Marks) -> View:
    """The request as the provider has it: how long it keeps what is written, for answers that do not say so."""
    ttls = {mark.ttl for mark in marks.marks}
    return msgspec.structs.replace(view, cache_ttl=ttls.pop()) if len(ttls) == 1 else view


def _ours(form: _Form, body: bytes) -> peek.Seen | None:
    """The body as read, where nothing forbids to mark it."""
    if _OWN.search(body):
        return None
    seen = form.peek(body)
    if seen is None or (form.bulk == "input" and peek.first(seen.members, *_STATE) is not None):
        return None
    return seen


def _places(form: _Form, seen: peek.Seen) -> list[_Place]:
    """The blocks before output format and parameters, in the order of View.blocks."""
    fronts = [_Place(key, None, bytes(seen.members[key])) for key in form.fronts if key in seen.members]
    if seen.array is None:
        return [*fronts, *(_Place(form.bulk, None, item) for item in seen.items)]
    return [*fronts, *(_Place(form.bulk, number, item) for number, item in enumerate(seen.items))]


def _spot(form: _Form, place: _Place) -> Spot:
    if place.member in ("tools", "functions"):
        tools = peek.listed(place.raw)
        last = peek.members(tools[-1]) if tools else None
        takes = form.mark == "cache_control" and last is not None and not peek.flag(last.get("defer_loading"))
        return Spot(max(1, len(tools)), takes)
    if place.item is None:
        return _content(form, place.raw, takes=place.member in ("system", "input"))
    message = peek.members(place.raw) or {}
    plain = peek.first(message, "type") is None or peek.text(message["type"]) == "message"
    return _content(form, message.get("content"), takes=plain and peek.text(message.get("role")) in form.roles)


def _content(form: _Form, content: bytes | msgspec.Raw | None, *, takes: bool) -> Spot:
    """A text, or an array of parts, whose last one bears the mark. An empty text takes none."""
    said = peek.text(content)
    if said is not None:
        return Spot(1, takes and bool(said.strip()))
    parts = peek.listed(content)
    last = peek.members(parts[-1]) if parts else None
    if last is None:
        return Spot(1, False)
    words = peek.text(last.get("text")) if "text" in last else "-"
    return Spot(len(parts), takes and peek.text(last.get("type")) in form.parts and bool(words and words.strip()))


def _marked(form: _Form, place: _Place, value: bytes) -> bytes:
    """The block with the mark at its end, where _spot says that it takes one."""
    mark: Edits = {form.mark: value}
    if place.member in ("tools", "functions"):
        return _last_marked(place.raw, mark)
    if place.item is not None:
        message = peek.members(place.raw) or {}
        return splice.set_members(place.raw, {"content": _parts(form, bytes(message["content"]), mark)}, message)
    whole = _parts(form, place.raw, mark)
    return b'[{"role":"user","content":' + whole + b"}]" if place.member == form.bulk else whole


def _parts(form: _Form, content: bytes, mark: Edits) -> bytes:
    if not content.startswith(b'"'):
        return _last_marked(content, mark)
    return b"[" + splice.set_members(b'{"type":"' + form.text + b'","text":' + content + b"}", mark) + b"]"


def _last_marked(array: bytes, mark: Edits) -> bytes:
    last = bytes(peek.listed(array)[-1])
    return splice.set_last(array, last, splice.set_members(last, mark))


def _with_items(seen: peek.Seen, items: Mapping[int, bytes]) -> bytes | None:
    """The bulk with these items replaced; None: an item does not stand where it should."""
    array = seen.array or b""
    pieces: list[bytes] = []
    at = done = 1
    for number, item in enumerate(seen.items):
        while array[at : at + 1] and array[at] in _SKIP:
            at += 1
        if not array.startswith(item, at):
            return None
        if number in items:
            pieces += [array[done:at], items[number]]
            done = at + len(item)
        at += len(item)
    return array[:1] + b"".join(pieces) + array[done:]


def _ephemeral(ttl: str) -> bytes:
    return b'{"type":"ephemeral"}' if ttl == "5m" else b'{"type":"ephemeral","ttl":"%b"}' % ttl.encode()
