"""Why a conversation cannot leave its provider: what only that provider can read or has kept. Never fails.

Seen where it can stand, not by name alone: a tool's own argument may be called signature.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from bursar.types import Api
from bursar.wire import peek
from bursar.wire.replay.shape import Json

_STATE: Mapping[str, tuple[str, ...]] = {
    "messages": ("container",),
    "responses": ("previous_response_id", "conversation", "prompt"),
    "gemini": ("cachedContent", "cached_content", "continuationToken", "continuation_token"),
}
"""Members of a request that name what the provider has kept."""

_BULK: Mapping[str, tuple[str, ...]] = {
    "chat": ("messages",),
    "messages": ("messages",),
    "responses": ("input",),
    "gemini": ("contents",),
}
_SEALED = (
    "signature", "encrypted_content", "encrypted_stdout", "encrypted_index", "thoughtSignature", "thought_signature",
    "thinking_blocks", "reasoning_details",
)  # fmt: skip
"""What a provider signed or wrote for itself; the last two are spellings of gateways that speak chat."""
_KEPT = ("file_id", "fileData", "file_data_id", "container_id")
_KINDS = {
    "thinking": "a thinking block",
    "redacted_thinking": "a thinking block",
    "compaction": "a compaction",
    "item_reference": "an item that the provider has kept",
    "container_upload": "a file that the provider has kept",
    "mcp_approval_response": "an item that the provider has kept",
}
_NESTED = ("content", "parts", "source", "file", "output", "tool_calls", "citations", "extra_content", "google")
"""Where a message's own parts stand; not what a tool was called with, nor its schema."""
_ROUNDS = 9
"""Levels of arrays and objects; deeper no dialect has such a part."""


def pinned(body: bytes, api: Api) -> str | None:
    """Why this conversation may not move, in a few words; None: it may. A body that cannot be read says nothing."""
    try:
        asked = msgspec.json.decode(body)
    except peek.UNREADABLE:
        return None
    return why_pinned(asked, api) if isinstance(asked, dict) else None


def why_pinned(asked: Json, api: Api) -> str | None:
    """The same of a body that has been read."""
    for key in _STATE.get(api, ()):
        if asked.get(key) is not None:
            return f"{key}: state that the provider has kept"
    found = (_why(part, api) for key in _BULK.get(api, ()) for part in _parts(asked.get(key), _ROUNDS))
    return next((why for why in found if why is not None), None)


def _parts(value: Any, rounds: int) -> Iterator[Json]:
    if not rounds:
        return
    if isinstance(value, list):
        for one in value:
            yield from _parts(one, rounds - 1)
    elif isinstance(value, dict):
        yield value
        for key in _NESTED:
            if isinstance(value.get(key), list | dict):
                yield from _parts(value[key], rounds - 1)


def _why(part: Json, api: Api) -> str | None:
    kind = part.get("type")
    if isinstance(kind, str):
        if kind in _KINDS:
            return _KINDS[kind]
        if api == "messages" and (kind == "server_tool_use" or kind.endswith("_tool_result")):
            return "a tool that the provider ran"
        if api == "responses" and kind == "reasoning":
            return "a reasoning item"
    if any(part.get(key) for key in _SEALED):
        return "a signature, or what the provider wrote for itself"
    if any(part.get(key) for key in _KEPT):
        return "a file that the provider has kept"
    audio = part.get("audio")
    if api == "chat" and isinstance(audio, dict) and audio.get("id"):
        return "an audio answer that the provider has kept"
    return None
