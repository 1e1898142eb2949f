"""What both directions of a request share. A member that nobody decided on is refused: Misfit, with its name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bursar.wire.replay.shape import Json, Misfit, obj, objs, text

EFFORTS = {word: word for word in ("low", "medium", "high", "xhigh", "max")}
"""Reasoning efforts that both dialects name."""
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
LARGEST_LIMIT = 1 << 53
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def only(value: Json, where: str, *known: str, neutral: Mapping[str, tuple[Any, ...]] | None = None) -> None:
    """Refuses an object with a member that is not known and says something.

    neutral: members that may be there with these values, which are what the provider takes for granted anyway.
    """
    for key, one in value.items():
        silent = one is None or one is False or one in ("", [], {}) or one in (neutral or {}).get(key, ())
        if key not in known and not silent:
            raise Misfit(f"{where}: {key} cannot be carried")


def stated(value: Json, *keys: str) -> Any:
    """The first of these members that is not null."""
    return next((value[key] for key in keys if value.get(key) is not None), None)


def among(value: Any, table: Mapping[str, str], where: str) -> str:
    """What the other dialect calls that word."""
    if (found := table.get(text(value))) is None:
        raise Misfit(f"{where}: {value} cannot be carried")
    return found


def whole(value: Any, where: str) -> int:
    """A limit of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_LIMIT:
        raise Misfit(f"{where}: no count of at least 1")
    return value


def sampling(body: Json, out: Json) -> None:
    """temperature and top_p, within the range that both dialects know: 0 to 1."""
    for key in ("temperature", "top_p"):
        if (value := body.get(key)) is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise Misfit(f"{key}: not within 0 and 1")
            out[key] = value


def said(value: Any, where: str) -> str:
    """A text that says something: Anthropic takes no blank ones, and what a blank one means nobody knows."""
    found = text(value)
    if not found.strip():
        raise Misfit(f"{where}: a blank text")
    return found


def words(parts: Iterable[str]) -> str | list[Json]:
    """Texts as a content: one is a string, several are text parts. The normal form in both dialects."""
    found = list(parts)
    return found[0] if len(found) == 1 else [{"type": "text", "text": one} for one in found]


def content(parts: list[Json]) -> str | list[Json]:
    """Parts as a content: a single text is a string."""
    return parts[0]["text"] if len(parts) == 1 and parts[0].get("type") == "text" else parts


def parts_of(value: Any) -> list[Json]:
    """A content as parts: a string is short for one text."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else objs(value)


def call_id(value: Any) -> str:
    """An id of a tool call that both providers take."""
    if not _CALL_ID.fullmatch(text(value)):
        raise Misfit("a tool call's id has a form that the other provider does not take")
    return text(value)


def tool_name(value: Any) -> str:
    """A name of a tool that both providers take."""
    if not _TOOL_NAME.fullmatch(text(value)):
        raise Misfit("a tool's name has a form that the other provider does not take")
    return text(value)


# --- schemas

_SAYS = frozenset({"$ref", "anyOf", "const", "enum", "type"})
"""Without one of these a schema takes anything, which nobody enforces."""
_KEYWORDS = _SAYS | {
    "$defs", "additionalProperties", "description", "format", "items", "minItems", "properties", "required", "title",
}  # fmt: skip
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})


def enforceable(schema: Any, *, complete: bool) -> Json:
    """The schema, of the kind that either provider can enforce; Misfit with the keyword that is not of it.

    Source: what the helpers of both SDKs send (anthropic 2.13 lib/_parse/_transform, openai 3.57 lib/_pydantic).
    complete: every property must be required, as OpenAI's strict mode wants it.
    """
    found = obj(schema)
    if odd := sorted(found.keys() - _KEYWORDS):
        raise Misfit(f"schema: {odd[0]}")
    if not found.keys() & _SAYS:
        raise Misfit("schema: one that says nothing")
    kind = found.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in _TYPES):
        raise Misfit("schema: type")
    if found.get("format") not in (None, *_FORMATS):
        raise Misfit("schema: format")
    if found.get("minItems") not in (None, 0, 1):
        raise Misfit("schema: minItems")
    for inner in _inner(found):
        enforceable(inner, complete=complete)
    if kind == "object" or "properties" in found:
        _object(found, complete=complete)
    return found


def _inner(schema: Json) -> Iterable[Any]:
    for key in ("$defs", "properties"):
        yield from obj(schema.get(key) or {}).values()
    yield from objs(schema.get("anyOf"))
    if "items" in schema:
        yield schema["items"]


def _object(schema: Json, *, complete: bool) -> None:
    if schema.get("additionalProperties") is not False:
        raise Misfit("schema: additionalProperties")
    required = schema.get("required") or []
    if not isinstance(required, list) or (complete and set(map(text, required)) != set(schema.get("properties") or {})):
        raise Misfit("schema: required does not name every property")
