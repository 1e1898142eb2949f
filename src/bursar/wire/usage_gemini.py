"""Usage of Gemini's generateContent (wire.md 1.6): the prompt includes cached tokens; thoughts and tool prompts stand
beside prompt and candidates; a missing count is 0, for Google leaves zeros out.
"""

from collections.abc import Mapping
from typing import Any

from bursar.types import Bucket, Usage
from bursar.wire.counts import Buckets, Json, Unbelievable, UsageFacts, count, fees, fresh_and_cached, left, part

_MEDIA: dict[str, tuple[Bucket, Bucket]] = {
    "AUDIO": ("input_audio", "output_audio"),
    "IMAGE": ("input_image", "output_image"),
    "VIDEO": ("input_video", "output_video"),
}


def gemini(usage: Json, facts: UsageFacts) -> Usage:
    """generateContent, whole or the last usageMetadata of a stream."""
    made, thoughts = count(usage, "candidatesTokenCount") or 0, count(usage, "thoughtsTokenCount") or 0
    tool, cached = count(usage, "toolUsePromptTokenCount") or 0, count(usage, "cachedContentTokenCount") or 0
    prompt, total = count(usage, "promptTokenCount"), count(usage, "totalTokenCount")
    if prompt is None:
        if total is None:
            raise Unbelievable("promptTokenCount and totalTokenCount are missing")
        prompt = left(total, made, thoughts, tool, name="totalTokenCount")
    stored = usage.get("cacheTokensDetails")
    told = _media(stored, 0) if isinstance(stored, list) and stored else None
    buckets, guessed = fresh_and_cached(prompt, _media(usage.get("promptTokensDetails"), 0), cached, told)
    beside = _media(usage.get("toolUsePromptTokensDetails"), 0)
    beside["input"] = left(tool, *beside.values(), name="toolUsePromptTokenCount")
    for bucket, tokens in beside.items():
        buckets[bucket] = buckets.get(bucket, 0) + tokens
    answer = _media(usage.get("candidatesTokensDetails"), 1)
    buckets |= answer
    buckets["output"] = left(made, *answer.values(), name="candidatesTokenCount") + thoughts
    grounded = facts.grounded or facts.grounding_queries > 0
    return Usage(
        (part(buckets),),
        input_tokens=prompt + tool,
        output_tokens=made + thoughts,
        cached_tokens=cached,
        cache_write_tokens=0,
        reasoning_tokens=thoughts,
        # The same search in both of Google's units: the model's card prices one of them and gives the other for free.
        fees=fees(("web_search", max(facts.grounding_queries, 1)), ("grounded_prompt", 1)) if grounded else (),
        # The account's free allowance of searches is not known here: the list price is then an estimate.
        estimated=guessed or grounded,
    )


def _media(details: Any, side: int) -> Buckets:
    """Modality details -> tokens that are not text, by bucket; documents and what is unspecified are text."""
    found: Buckets = {}
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, Mapping) and (media := _MEDIA.get(str(detail.get("modality")).upper())):
            found[media[side]] = found.get(media[side], 0) + (count(detail, "tokenCount") or 0)
    return found
