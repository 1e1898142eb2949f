"""A provider's usage object, in any of six shapes, as disjoint buckets and inclusive totals; and the terms it was
served under (wire.md sections 1 and 2). Pure.

What contradicts itself is not repaired: a negative or non-integer count, parts that exceed their whole, a missing
total give no usage at all, with the reason (`examine`), never a negative bucket and never an exception. Unknown keys
are ignored. Where a count had to be guessed, Usage.estimated is set.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from bursar.types import Api, Terms, Usage
from bursar.wire.counts import Json, Unbelievable, UsageFacts, inner
from bursar.wire.usage_anthropic import converse, messages
from bursar.wire.usage_gemini import gemini
from bursar.wire.usage_openai import chat, embeddings, responses

__all__ = ["Unreadable", "UsageFacts", "examine", "merge", "read_terms", "read_usage"]

_READERS: dict[Api, Callable[[Json, UsageFacts], Usage]] = {
    "chat": chat,
    "responses": responses,
    "embeddings": embeddings,
    "messages": messages,
    "gemini": gemini,
    "converse": converse,
}
_WORDS = {
    "auto": "standard",
    "default": "standard",
    "unspecified": "standard",
    "standard_only": "standard",
    "fast": "priority",  # OpenAI's newer word: the answer says priority either way
    "on_demand": "standard",
    "on_demand_priority": "priority",
    "on_demand_flex": "flex",
    "on_demand_offpeak": "offpeak",
    "traffic_type_unspecified": "standard",
}


class Unreadable(msgspec.Struct, frozen=True):
    """A usage object that cannot be believed, and why."""

    why: str


def read_usage(api: Api, usage: Any, facts: UsageFacts) -> Usage | None:
    """The normalised usage; None where there is none or it cannot be believed (`examine` says why)."""
    found = examine(api, usage, facts)
    return found if isinstance(found, Usage) else None


def examine(api: Api, usage: Any, facts: UsageFacts) -> Usage | Unreadable:
    """The normalised usage, or why there is none. A list is a stream's usage objects in order, to be merged."""
    reader, merged = _READERS.get(api), merge(api, usage)
    if reader is None:
        return Unreadable(f"usage of the {api} format is not read")
    if merged is None:
        return Unreadable("the answer has no usage object")
    try:
        return reader(merged, facts)
    except Unbelievable as bad:
        return Unreadable(f"usage not believed: {bad}")


def merge(api: Api, usage: Any) -> Json | None:
    """One usage object of a stream's several: Anthropic's later non-null values replace the earlier ones, as its SDK
    does, and are never added; of the other formats the last object is the whole truth. None: there is none."""
    if isinstance(usage, dict):
        return usage
    objects = [u for u in usage if isinstance(u, dict)] if isinstance(usage, list | tuple) else []
    if not objects:
        return None
    if api != "messages":
        return objects[-1]
    return {key: value for u in objects for key, value in u.items() if value is not None}


def read_terms(api: Api, usage: Any, facts: UsageFacts, asked: Terms) -> Terms:
    """The billing facts as served; what the answer does not say stays as asked (batch, window, regional endpoint).

    A word that is not known stays as it is: the price book has no rate for it, and says so.
    """
    told = merge(api, usage) or {}
    batch, fast, region = asked.batch, asked.fast, asked.region
    tier: Any = facts.service_tier
    if api == "messages":
        tier = told.get("service_tier") or facts.service_tier
        if isinstance(speed := told.get("speed"), str):
            fast = speed == "fast"
        if isinstance(geo := told.get("inference_geo"), str):
            region = geo
    elif api == "gemini":
        tier = facts.header_tier or told.get("trafficType") or facts.service_tier
    elif api == "converse":
        tier = facts.service_tier or inner(told, "serviceTier").get("type")
    word = _word(tier if isinstance(tier, str) and tier else asked.service_tier)
    if word == "batch":
        word, batch = None, True
    return Terms(
        service_tier=word,
        batch=batch,
        region=None if (region or "").lower() in ("", "global", "not_available") else region,
        window=None if asked.window == "soonest" else asked.window,
        fast=fast,
    )


def _word(tier: str | None) -> str | None:
    return None if not tier else _WORDS.get(tier.lower(), tier.lower())
