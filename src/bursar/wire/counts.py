"""Counting with disbelief: the shared part of the usage readers. Pure.

Every reader raises `Unbelievable` on a count that cannot be; `usage.examine` turns it into the reason.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from bursar.types import Bucket, Fee, Instant, Part

Json: TypeAlias = Mapping[str, Any]
Buckets: TypeAlias = dict[Bucket, int]

_MOST = 10**15
_CACHED_AS: dict[Bucket, Bucket] = {
    "input_audio": "cache_read_audio",
    "input_image": "cache_read_image",
    "input_video": "cache_read_video",
}


class UsageFacts(msgspec.Struct, frozen=True):
    """What matters to the bill beside the usage object. None is "not said"."""

    model: str | None = None
    """The served model, as the answer names it."""
    at: Instant | None = None
    """When the call was sent; None: by the newest rules."""
    service_tier: str | None = None
    """The answer's own word for its tier (OpenAI service_tier, Bedrock serviceTier.type)."""
    header_tier: str | None = None
    """Gemini: the x-gemini-service-tier header."""
    stop_reason: str | None = None
    refusal_category: str | None = None
    """Anthropic: stop_details.category of a refusal; the text "null" where the answer says null."""
    content_empty: bool | None = None
    """Anthropic: the answer has no content."""
    tool_usage: Any = None
    """OpenAI Responses: the answer's tool_usage object."""
    search_items: int = 0
    """OpenAI: web_search_call items with action.type "search"; they count where tool_usage is absent."""
    file_searches: int = 0
    """OpenAI Responses: file_search_call items."""
    image_model: str | None = None
    """OpenAI Responses: the image model of the image_generation tool, where known."""
    cache_ttl: str | None = None
    """The only cache lifetime that the request asked for: 5m, 30m, 1h or 12h; None: the API's default, or several."""
    grounding_queries: int = 0
    """Gemini: webSearchQueries over all candidates."""
    grounded: bool = False
    """Gemini: the answer is grounded in a search, whether or not its queries are told."""


class Unbelievable(ValueError):
    """A count that cannot be."""


def count(source: Json, key: str) -> int | None:
    """A token count; None where absent or null."""
    value = source.get(key)
    if type(value) is int and 0 <= value <= _MOST:
        return value
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unbelievable(f"{key} is {str(value)[:40]!r}, not a count")
    if not 0 <= value <= _MOST:
        raise Unbelievable(f"{key} is {value if abs(value) <= _MOST else 'beyond 1e15'}")
    return value


def needed(source: Json, key: str) -> int:
    """A count without which nothing can be said."""
    value = count(source, key)
    if value is None:
        raise Unbelievable(f"{key} is missing")
    return value


def inner(source: Json, key: str) -> Json:
    """An object inside, empty where absent or not an object."""
    value = source.get(key)
    return value if isinstance(value, dict) else {}


def left(whole: int, *parts: int, name: str) -> int:
    """What is left of a whole; more parts than whole cannot be."""
    rest = whole
    for tokens in parts:
        rest -= tokens
    if rest < 0:
        raise Unbelievable(f"the parts of {name} are {sum(parts)} tokens, {-rest} more than its {whole}")
    return rest


def fresh_and_cached(prompt: int, media: Buckets, cached: int, told: Buckets | None) -> tuple[Buckets, bool]:
    """A prompt (without cache writes) as fresh and cached buckets by medium, all disjoint.

    media: tokens inside the prompt that are not text, under their input_* bucket. told: the same of the cached
    tokens; None: not told, then they are text as far as there is text (a cached prefix mostly is), and the second
    value is True where audio, whose cached rate is another, might have been meant.
    """
    if told is None and not any(media.values()):
        return {"input": left(prompt, cached, name="the prompt"), "cache_read": cached}, False
    text = left(prompt, *media.values(), name="the prompt")
    stored: Buckets = dict(told or {})
    if told is None:
        beyond = max(cached - text, 0)
        for bucket, tokens in media.items():
            stored[bucket] = min(beyond, tokens)
            beyond -= stored[bucket]
    cached_text = left(cached, *stored.values(), name="the cached tokens")
    buckets: Buckets = {"input": left(text, cached_text, name="the prompt"), "cache_read": cached_text}
    for fresh, read in _CACHED_AS.items():
        buckets[read] = stored.get(fresh, 0)
        buckets[fresh] = left(media.get(fresh, 0), buckets[read], name=f"the {fresh} tokens")
    return buckets, told is None and cached > 0 and media.get("input_audio", 0) > 0


def part(buckets: Buckets, model: str | None = None, *, billed: bool = True) -> Part:
    """A Part with the buckets that have tokens."""
    return Part({bucket: tokens for bucket, tokens in buckets.items() if tokens}, model, billed)


def fees(*counted: tuple[Fee, int]) -> tuple[tuple[Fee, int], ...]:
    """The fees that were incurred."""
    return tuple((fee, n) for fee, n in counted if n > 0)
