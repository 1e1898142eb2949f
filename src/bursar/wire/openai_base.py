"""What the three OpenAI dialects share: the model's place, tool choice, service tiers, the error object.

Nothing that a caller sends makes anything here raise.
"""

import re

import msgspec

from bursar.types import Api, Family, Instant, Terms, View
from bursar.wire import peek
from bursar.wire.finish import Finish
from bursar.wire.patch import Patching
from bursar.wire.splice import Edits

_DEPLOYMENT = re.compile(r"(/deployments/)([^/?]+)(?=/)")
"""Azure names the deployment in the path; it wins over the body's model."""

_AUTO = msgspec.Raw(b'"auto"')

TIERS_AS_STANDARD = frozenset({"auto", "default", "standard"})

APART = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "metadata",
        "user",
        "safety_identifier",
        "service_tier",
        "store",
        "background",
        "background_options",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)
"""Members that do not shape the answer: who asks, how it is sent and billed, hints to the provider's cache."""


class OpenAIDialect(Patching):
    """The shared part of chat, responses and embeddings."""

    api: Api
    family: Family = "openai"

    def path(self, path: str, *, model: str | None) -> str:
        """The path, with Azure's deployment replaced where it carries one."""
        if model is None or "/deployments/" not in path:
            return path
        return _DEPLOYMENT.sub(lambda match: match[1] + model, path, count=1)

    def finish(self, text: str, view: View, *, model: str, request_id: str, at: Instant) -> Finish:
        """ValueError: no text is an answer here."""
        raise ValueError(f"{self.api}: no text is an answer here, as View.prose says")

    def error(self, status: int, kind: str, message: str, code: str | None = None) -> bytes:
        """{"error": {message, type, param, code}}: the specification wants all four."""
        del status
        return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def error_event(self, message: str, kind: str) -> bytes:
        """An event that the SDKs raise as APIError."""
        return b"data: " + self.error(500, kind, message, kind) + b"\n\n"


def forces_a_tool(choice: msgspec.Raw | None) -> bool:
    """True for a tool_choice, or the older function_call, that leaves no room for a text."""
    if choice is None or choice == _AUTO:
        return False
    word = peek.text(choice)
    if word is not None:
        return word == "required"
    named = peek.members(choice)
    if named is None or peek.text(named.get("type")) != "allowed_tools":
        return named is not None
    return peek.text((peek.members(named.get("allowed_tools")) or named).get("mode")) == "required"


def structured(form: msgspec.Raw | None) -> bool:
    """True for a response format whose answers are no plain text."""
    return peek.text((peek.members(form) or {}).get("type")) not in (None, "text")


def tools_off(found: peek.Members) -> Edits:
    """No tool may be called. Without tools a tool_choice is refused by the provider, and nothing need be said."""
    return {"tool_choice": b'"none"'} if peek.listed(found.get("tools")) else {}


def note_item(items: list[msgspec.Raw], note: str) -> bytes:
    """The note as a message, in the role that the caller's own instructions have."""
    roles = {peek.text((peek.members(item) or {}).get("role")) for item in items}
    return msgspec.json.encode({"role": "developer" if "developer" in roles else "system", "content": note})


def hint_item(hint: str) -> bytes:
    """The hint as a message: the user's, whom a conversation of any kind lets speak next, tool results too."""
    return msgspec.json.encode({"role": "user", "content": hint})


def deployment(path: str) -> str | None:
    """The deployment that an Azure path names."""
    match = _DEPLOYMENT.search(path) if "/deployments/" in path else None
    return match[2] if match else None


def asked(found: peek.Members) -> Terms:
    """The billing facts of a request; "auto" leaves the tier to the project's settings, so it is taken as standard."""
    tier = peek.text(found.get("service_tier"))
    options = peek.members(found.get("background_options")) or {}
    window = peek.text(options.get("completion_window"))
    return Terms(
        service_tier=None if tier in TIERS_AS_STANDARD else "priority" if tier == "fast" else tier,
        window=None if window == "soonest" else window,
    )


def cache_ttl(found: peek.Members) -> str | None:
    """prompt_cache_options.ttl: what cache writes are kept for where the answer does not split them."""
    return peek.text((peek.members(found.get("prompt_cache_options")) or {}).get("ttl"))
