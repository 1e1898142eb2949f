"""Headers, keys and model lists, each in its provider's words."""

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qs

from bursar.sandbox.asks import Bad, Dialect, Json
from bursar.sandbox.exchange import Exchange
from bursar.types import Family

FAMILY: dict[Dialect, Family] = {
    "chat": "openai",
    "responses": "openai",
    "embeddings": "openai",
    "messages": "anthropic",
    "gemini": "gemini",
}
_PER_MINUTE = 10_000


def authorise(dialect: Dialect, exchange: Exchange) -> str:
    """The cache scope of the caller's key; Bad (401) for `bad-key`, or for no key where the provider says so."""
    headers = exchange.headers
    key = headers.get("authorization", "").removeprefix("Bearer ").strip()
    key = key or headers.get("x-api-key") or headers.get("x-goog-api-key") or ""
    if not key and exchange.query:
        key = (parse_qs(exchange.query).get("key") or [""])[0]
    if key == "bad-key" or (dialect == "messages" and not key):
        words = {"messages": "invalid x-api-key", "gemini": "API key not valid. Please pass a valid API key."}
        raise Bad(401, words.get(dialect, "Incorrect API key provided."))
    if dialect == "messages" and "anthropic-version" not in headers:
        raise Bad(400, "anthropic-version: header is required")
    return blake2b(key.encode("utf-8", "replace"), digest_size=8).hexdigest()


class Heads:
    """Response headers: ids and rate limits; the limits count but never bite."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minute = 0
        self._used = 0

    def of(self, dialect: Dialect, request_id: str, kind: str = "application/json") -> list[tuple[str, str]]:
        """The headers of an answer."""
        now = self._clock()
        if (minute := int(now // 60)) != self._minute:
            self._minute, self._used = minute, 0
        self._used += 1
        left = str(max(_PER_MINUTE - self._used, 0))
        headers = [("content-type", kind)]
        if dialect == "messages":
            reset = datetime.fromtimestamp((minute + 1) * 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return [
                *headers,
                ("request-id", request_id),
                ("anthropic-organization-id", "org_sandbox"),
                ("anthropic-ratelimit-requests-limit", str(_PER_MINUTE)),
                ("anthropic-ratelimit-requests-remaining", left),
                ("anthropic-ratelimit-requests-reset", reset),
            ]
        if dialect == "gemini":
            return [*headers, ("x-gemini-service-tier", "standard")]
        return [
            *headers,
            ("x-request-id", request_id),
            ("openai-organization", "org-sandbox"),
            ("openai-processing-ms", "1"),
            ("openai-version", "2020-10-01"),
            ("x-ratelimit-limit-requests", str(_PER_MINUTE)),
            ("x-ratelimit-remaining-requests", left),
            ("x-ratelimit-reset-requests", f"{60 - int(now % 60)}s"),
        ]

    def retry(self, bad: Bad) -> list[tuple[str, str]]:
        """When to come again: whole seconds, and milliseconds where that would be too coarse."""
        if bad.retry_after_s is None:
            return []
        headers = [("retry-after", f"{bad.retry_after_s:g}")]
        if bad.retry_after_s < 1:
            headers.append(("retry-after-ms", f"{bad.retry_after_s * 1000:g}"))
        return headers

    def listing(self, dialect: Dialect, names: list[str]) -> Json:
        """GET /models."""
        created, at = 1_700_000_000, "2026-01-01T00:00:00Z"
        if dialect == "gemini":
            verbs = ["generateContent", "countTokens"]
            return {"models": [{"name": f"models/{name}", "supportedGenerationMethods": verbs} for name in names]}
        if dialect == "messages":
            data: list[Any] = [
                {"type": "model", "id": name, "display_name": name, "created_at": at, "lifecycle": "active"}
                for name in names
            ]
            return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}
        data = [{"id": name, "object": "model", "created": created, "owned_by": "sandbox"} for name in names]
        return {"object": "list", "data": data}
