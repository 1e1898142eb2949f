"""Usage of OpenAI's Chat Completions, Responses and Embeddings (wire.md 1.1-1.3). Cached, written and media tokens are
inside the prompt; reasoning, audio and predictions (the rejected ones too) are inside the output.
"""

from collections.abc import Mapping

import msgspec

from bursar.types import Part, Usage
from bursar.wire.counts import Buckets, Json, UsageFacts, count, fees, fresh_and_cached, inner, left, needed, part


def chat(usage: Json, facts: UsageFacts) -> Usage:
    """Chat Completions and whatever speaks its format."""
    return _hosted(_text(usage, facts, "prompt", "completion"), facts)


def responses(usage: Json, facts: UsageFacts) -> Usage:
    """Responses; what its hosted tools cost is told beside the usage, in tool_usage."""
    return _hosted(_text(usage, facts, "input", "output"), facts)


def embeddings(usage: Json, facts: UsageFacts) -> Usage:
    """Embeddings: input only."""
    prompt = needed(usage, "prompt_tokens")
    return Usage((part({"input": prompt}),), input_tokens=prompt, output_tokens=0)


def _hosted(base: Usage, facts: UsageFacts) -> Usage:
    if facts.tool_usage is None and not facts.search_items and not facts.file_searches:
        return base
    tools = facts.tool_usage if isinstance(facts.tool_usage, Mapping) else {}
    searches = count(inner(tools, "web_search"), "num_requests")
    image = _image(inner(tools, "image_gen"), facts)
    return msgspec.structs.replace(
        base,
        parts=base.parts if image is None else (*base.parts, image),
        fees=fees(
            ("web_search", facts.search_items if searches is None else searches), ("file_search", facts.file_searches)
        ),
        estimated=base.estimated or (searches is None and facts.search_items > 0),
    )


def _text(usage: Json, facts: UsageFacts, prompt_name: str, output_name: str) -> Usage:
    prompt, output = needed(usage, f"{prompt_name}_tokens"), needed(usage, f"{output_name}_tokens")
    inside, made = inner(usage, f"{prompt_name}_tokens_details"), inner(usage, f"{output_name}_tokens_details")
    cached = count(inside, "cached_tokens")
    if cached is None:  # as DeepSeek and Moonshot spell it
        cached = count(usage, "prompt_cache_hit_tokens") or count(usage, "cached_tokens")
    write = count(inside, "cache_write_tokens")
    media = _media(inside, "audio_tokens", "image_tokens")
    details = inner(inside, "cached_tokens_details")
    told = _media(details, "audio_tokens", "image_tokens") if details else None
    read = left(prompt, write or 0, name="the prompt")
    buckets, guessed = fresh_and_cached(read, media, cached or 0, told)
    if write or "cache_write_tokens_details" in inside:
        buckets |= _writes(write or 0, inner(inside, "cache_write_tokens_details"), facts)
    reasoning = count(made, "reasoning_tokens")
    if reasoning and count(usage, "total_tokens") == prompt + output + reasoning:
        output += reasoning  # vendors that count reasoning beside the completion show it in their total
    left(output, reasoning or 0, name="the output")
    audio = count(made, "audio_tokens") or 0
    buckets |= {"output": left(output, audio, name="the output"), "output_audio": audio}
    return Usage(
        (part(buckets),),
        input_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
        estimated=guessed,
    )


def _media(source: Json, audio: str, image: str) -> Buckets:
    return {"input_audio": count(source, audio) or 0, "input_image": count(source, image) or 0}


def _writes(write: int, details: Json, facts: UsageFacts) -> Buckets:
    """Cache writes by lifetime; what the details leave open is at the lifetime asked for, by default 30 minutes."""
    half_hour, half_day = count(details, "ttl_30m_tokens") or 0, count(details, "ttl_12h_tokens") or 0
    rest = left(write, half_hour, half_day, name="the cache writes")
    if facts.cache_ttl == "12h":
        return {"cache_write_30m": half_hour, "cache_write_12h": half_day + rest}
    return {"cache_write_30m": half_hour + rest, "cache_write_12h": half_day}


def _image(image: Json, facts: UsageFacts) -> Part | None:
    """The image tool's tokens, at the image model's rates; where that is not known the call cannot be priced."""
    prompt, output = count(image, "input_tokens") or 0, count(image, "output_tokens") or 0
    if not prompt and not output:
        return None
    media = _media(inner(image, "input_tokens_details"), "audio_tokens", "image_tokens")
    details = inner(image, "cached_tokens_details")
    told = _media(details, "cached_audio_tokens", "cached_image_tokens") if details else None
    buckets, _ = fresh_and_cached(prompt, media, count(image, "cached_tokens") or 0, told)
    text = count(inner(image, "output_tokens_details"), "text_tokens") or 0
    buckets |= {"output": text, "output_image": left(output, text, name="the image tool's output")}
    return part(buckets, facts.image_model or "(image model not named)")
