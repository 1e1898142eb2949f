"""What a request asks of a model beside its text: media, tools, structured output, and what ties it to one model.

Total: of a body that is no JSON object nothing is known, and nothing is asked.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.policy.steps import Feature, Modality
from bursar.rules.route.known import Asked
from bursar.types import Api
from bursar.wire.translate.pinning import why_pinned

_MEDIA: dict[str, Modality] = {
    "image_url": "image", "input_image": "image", "image": "image", "file": "file", "input_file": "file",
    "document": "file", "input_audio": "audio", "audio": "audio", "video": "video", "video_url": "video",
    "computer_screenshot": "image",
}  # fmt: skip
_DEEPEST = 24


def asked(api: Api, body: bytes) -> Asked:
    """Of a request body in that wire format."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Asked()
    if not isinstance(told, dict):
        return Asked()
    features: set[Feature] = set()
    if told.get("tools") or told.get("functions"):
        features.add("tools")
    choice = told.get("tool_choice") or told.get("toolConfig") or told.get("tool_config")
    if _forces(choice) or isinstance(told.get("function_call"), dict):
        features.add("forced_tool")
    if _samples(told):
        features.add("sampling")
    schema = _schema(told)
    if schema is not None:
        features.add("structured")
    fields, nested = (None, False) if schema is None else _shape(schema)
    return Asked(
        inputs=frozenset({"text", *_media(told.get("messages") or told.get("input") or told.get("contents"), 0)}),
        features=frozenset(features),
        fields=fields,
        nested=nested,
        pinned=why_pinned(told, api),
    )


def _forces(choice: object) -> bool:
    if isinstance(choice, str):
        return choice in ("required", "any")
    if not isinstance(choice, dict):
        return False
    kind = choice.get("type")
    if kind == "allowed_tools":  # the mode stands beside it, or below its own name
        inner = choice.get("allowed_tools")
        return (inner if isinstance(inner, dict) else choice).get("mode") == "required"
    mode = choice.get("functionCallingConfig") or choice.get("function_calling_config")
    return kind not in (None, "auto", "none") or (isinstance(mode, dict) and mode.get("mode") == "ANY")


def _samples(told: dict[str, Any]) -> bool:
    """Temperature, top_p or top_k are other than the default, which is 1 for the first two wherever one is stated."""
    inner = told.get("generationConfig") or told.get("generation_config")
    settings = inner if isinstance(inner, dict) else told
    if any(settings.get(name) is not None for name in ("top_k", "topK")):
        return True
    return any(settings.get(name) not in (None, 1) for name in ("temperature", "top_p", "topP"))


def _schema(told: dict[str, Any]) -> object | None:
    """The JSON Schema that the provider is to enforce."""
    formats = (told.get("response_format"), told.get("output_config"), told.get("output_format"),
               told.get("text"), told.get("generationConfig"), told.get("generation_config"))  # fmt: skip
    for one in formats:
        if not isinstance(one, dict):
            continue
        inner = one.get("format") if isinstance(one.get("format"), dict) else one
        for name in ("schema", "responseSchema", "responseJsonSchema", "response_schema", "response_json_schema"):
            if isinstance(inner, dict) and isinstance(inner.get(name), dict):
                found: object = inner[name]
                return found
        wrapped = inner.get("json_schema") if isinstance(inner, dict) else None
        if isinstance(wrapped, dict):
            schema: object = wrapped.get("schema")
            return schema
    return None


def _shape(schema: object) -> tuple[int | None, bool]:
    """Scalar fields of the schema's top level, and whether it holds objects or arrays."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return None, isinstance(schema, dict) and "array" in _kinds(schema, 0)
    scalar = [not _kinds(one, 0) & {"object", "array", "unknown"} for one in properties.values()]
    return sum(scalar), not all(scalar)


def _kinds(schema: object, depth: int) -> set[str]:
    """What a value may be, in lower case, for Gemini writes its types in capitals; a reference is unknown."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return {"unknown"}
    ways = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(ways, list) and ways:
        return set().union(*[_kinds(way, depth + 1) for way in ways])
    kind = schema.get("type")
    told = {one.lower() for one in (kind if isinstance(kind, list) else [kind]) if isinstance(one, str)}
    return told or ({"string"} if "enum" in schema or "const" in schema else {"unknown"})


def _media(value: object, depth: int) -> Iterator[Modality]:
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for item in value:
            yield from _media(item, depth + 1)
    elif isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _MEDIA:
            yield _MEDIA[kind]
        for name in ("inlineData", "fileData", "inline_data", "file_data"):
            if isinstance(data := value.get(name), dict):
                yield _by_mime(str(data.get("mimeType") or data.get("mime_type") or ""))
        for name in ("content", "parts", "output"):
            if name in value:
                yield from _media(value[name], depth + 1)


def _by_mime(mime: str) -> Modality:
    kind = mime.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "file"  # type: ignore[return-value]
