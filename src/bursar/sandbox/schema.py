"""Values made from a JSON schema: the same schema and seed give the same value, and the value fits the schema.

Understood: $ref, allOf, anyOf/oneOf, const, enum, type (also Gemini's upper case), properties, items, length and
range limits, common formats. A keyword beyond these is ignored.
"""

import math
from hashlib import blake2b
from typing import Any

from bursar.sandbox.asks import Json

_FORMATS = {
    "date": "2026-11-23",
    "date-time": "2026-11-23T12:00:00Z",
    "time": "12:00:00",
    "email": "ada@example.com",
    "uri": "https://example.com/",
    "uuid": "6f1c2f0e-6a52-4d38-9a0e-3b7f0c0a1d22",
    "ipv4": "192.0.2.1",
}
_WORDS = ("alpha", "Paris", "blue", "north", "monthly", "42", "cedar", "open", "Lisbon", "delta")


def draw(*parts: object) -> int:
    """64 bits from a hash of the parts: the same everywhere, always."""
    return int.from_bytes(blake2b("\x1f".join(map(str, parts)).encode("utf-8", "replace"), digest_size=8).digest())


def unit(*parts: object) -> float:
    """A draw in [0, 1)."""
    return draw(*parts) / 2**64


def instance(schema: Json, *seed: object) -> Any:
    """A value that the schema accepts."""
    return _make(schema, schema, seed, 0)


def _resolve(schema: Json, root: Json) -> Json:
    while isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for key in reference.removeprefix("#").strip("/").split("/"):
            target = target.get(key, {}) if key else target
        schema = target
    if isinstance(options := schema.get("anyOf") or schema.get("oneOf"), list) and options:
        return _resolve(next((one for one in options if one.get("type") not in ("null", "NULL")), options[0]), root)
    if isinstance(pieces := schema.get("allOf"), list):
        merged: Json = {key: value for key, value in schema.items() if key != "allOf"}
        for piece in pieces:
            for key, value in _resolve(piece, root).items():
                old = merged.get(key)
                merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        return merged
    return schema


def _kind(schema: Json) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if str(one).lower() != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    return "object" if "properties" in schema else "string"


def _make(schema: Any, root: Json, seed: tuple[object, ...], depth: int) -> Any:
    schema = _resolve(schema, root) if isinstance(schema, dict) else {}
    if "const" in schema:
        return schema["const"]
    if options := schema.get("enum"):
        return options[draw(*seed, "enum") % len(options)]
    kind = _kind(schema)
    if kind == "object":
        return _object(schema, root, seed, depth)
    if kind == "array":
        least = int(schema.get("minItems", 0 if depth > 8 else 1))
        return [_make(schema.get("items", {}), root, (*seed, index), depth + 1) for index in range(least)]
    if kind in ("integer", "number"):
        return _number(schema, kind, seed)
    if kind == "boolean":
        return draw(*seed) % 2 == 0
    return None if kind == "null" else _string(schema, seed)


def _object(schema: Json, root: Json, seed: tuple[object, ...], depth: int) -> Json:
    properties: Json = schema.get("properties") or {}
    required = schema.get("required") or ()
    names = [name for name in properties if name in required or depth <= 8]
    return {name: _make(properties[name], root, (*seed, name), depth + 1) for name in names}


def _number(schema: Json, kind: str, seed: tuple[object, ...]) -> float | int:
    least, most = schema.get("minimum"), schema.get("maximum")
    step = schema.get("multipleOf") or 1
    if (above := schema.get("exclusiveMinimum")) is not None and not isinstance(above, bool):
        least = above + step
    if (below := schema.get("exclusiveMaximum")) is not None and not isinstance(below, bool):
        most = below - step
    low = least if least is not None else (min(1, most) if most is not None else 1)
    high = most if most is not None else low + 99
    first, last = math.ceil(low / step), math.floor(high / step)
    if last < first:
        return low
    value = (first + draw(*seed) % (min(last - first, 99) + 1)) * step
    return int(value) if kind == "integer" else value


def _string(schema: Json, seed: tuple[object, ...]) -> str:
    text = _FORMATS.get(schema.get("format", "")) or _WORDS[draw(*seed) % len(_WORDS)]
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    text = text.ljust(least, "x")
    return text if most is None else text[: int(most)]


def spoilt(arguments: Json, schema: Json, error: str) -> Json:
    """Arguments with a fault: missing_required | type_error | unexpected_param; any other name: other values."""
    properties: Json = schema.get("properties") or {}
    required = [name for name in schema.get("required") or () if name in arguments]
    if "missing_required" in error and required:
        return {name: value for name, value in arguments.items() if name != required[0]}
    if "unexpected_param" in error:
        return {**arguments, "unexpected_parameter": True}
    if "type_error" in error and arguments:
        name = required[0] if required else next(iter(arguments))
        wrong: Any = ["not", "a", "text"] if isinstance(arguments[name], str) else "not of that type"
        return {**arguments, name: wrong}
    return {name: _make(properties.get(name, {}), schema, ("other", name), 1) for name in arguments}
