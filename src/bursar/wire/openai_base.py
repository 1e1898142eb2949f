"""What the three OpenAI dialects share: the model's place, service tiers, the error object. Nothing here raises."""

import re

import msgspec

from bursar.types import Family, Terms
from bursar.wire import peek, splice

_DEPLOYMENT = re.compile(r"(/deployments/)([^/?]+)(?=/)")
"""Azure names the deployment in the path; it wins over the body's model."""

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


class OpenAIDialect:
    """The shared part of chat, responses and embeddings."""

    family: Family = "openai"

    def path(self, path: str, *, model: str | None) -> str:
        """The path, with Azure's deployment replaced where it carries one."""
        if model is None or "/deployments/" not in path:
            return path
        return _DEPLOYMENT.sub(lambda match: match[1] + model, path, count=1)

    def patch(self, body: bytes, *, model: str | None = None, add_usage: bool = False) -> bytes:
        """The body with that model; the same object where nothing changes."""
        del add_usage
        return splice.set_model(body, model)

    def error(self, status: int, kind: str, message: str, code: str | None = None) -> bytes:
        """{"error": {message, type, param, code}}: the specification wants all four."""
        del status
        return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})

    def error_event(self, message: str, kind: str) -> bytes:
        """An event that the SDKs raise as APIError."""
        return b"data: " + self.error(500, kind, message, kind) + b"\n\n"


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
