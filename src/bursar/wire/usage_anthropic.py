"""Usage of Anthropic's Messages and of Bedrock's Converse (wire.md 1.5, 1.7): input excludes cache reads and writes.

`iterations`, where present, is the billing record: each entry at its own model's rates, in place of the top level,
which leaves out compactions, advisors and declined attempts.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from bursar.types import Bucket, Part, Usage
from bursar.wire.counts import Buckets, Json, Unbelievable, UsageFacts, count, fees, inner, left, needed, part

Billing: TypeAlias = Literal["billed", "free", "guessed"]
"""guessed: billed, for the rule that decides is not known; the price is then an estimate."""

_DAY = 86_400_000_000
_FREE_CATEGORIES = frozenset({"cyber", "general_harms", "null"})
_BILLED_CATEGORIES: tuple[tuple[int, frozenset[str]], ...] = (
    (0, frozenset({"bio", "frontier_llm", "reasoning_extraction"})),
)
"""From this day of the Unix epoch on, refusals of these categories before any output are billed (Anthropic's refusal
page, September 2026; no older rule is known). Newest last."""
_ATTEMPTS = ("message", "fallback_message")


def messages(usage: Json, facts: UsageFacts) -> Usage:
    """Messages, whole or merged from a stream."""
    listed = usage.get("iterations")
    entries = listed if isinstance(listed, list) and listed else [usage]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise Unbelievable("iterations has an entry that is not an object")
    billing = [_billing(entries, i, facts) for i in range(len(entries))]
    parts = tuple(_attempt(e, facts, b, own=e is not usage) for e, b in zip(entries, billing, strict=True))
    return _summed(
        parts,
        reasoning=count(inner(usage, "output_tokens_details"), "thinking_tokens"),
        searches=count(inner(usage, "server_tool_use"), "web_search_requests") or 0,
        estimated="guessed" in billing,
    )


def converse(usage: Json, facts: UsageFacts) -> Usage:
    """Bedrock Converse; writes without a lifetime are at the one asked for, by default five minutes."""
    write = count(usage, "cacheWriteInputTokens") or 0
    listed = usage.get("cacheDetails")
    split: Buckets = {"cache_write_5m": 0, "cache_write_1h": 0}
    for detail in listed if isinstance(listed, list) else []:
        if isinstance(detail, Mapping):
            bucket: Bucket = "cache_write_1h" if detail.get("ttl") == "1h" else "cache_write_5m"
            split[bucket] += count(detail, "inputTokens") or 0
    rest = left(write, *split.values(), name="the cache writes")
    split["cache_write_1h" if facts.cache_ttl == "1h" else "cache_write_5m"] += rest
    buckets: Buckets = {
        "input": needed(usage, "inputTokens"),
        "cache_read": count(usage, "cacheReadInputTokens") or 0,
        **split,
        "output": needed(usage, "outputTokens"),
    }
    return _summed((part(buckets),))


def _attempt(entry: Json, facts: UsageFacts, billing: Billing, *, own: bool) -> Part:
    details = inner(entry, "cache_creation")
    short = count(details, "ephemeral_5m_input_tokens") or 0
    long = count(details, "ephemeral_1h_input_tokens") or 0
    write = count(entry, "cache_creation_input_tokens")
    rest = left(short + long if write is None else write, short, long, name="the cache writes")
    if facts.cache_ttl == "1h":
        long += rest
    else:
        short += rest
    model = entry.get("model") if own else None
    return part(
        {
            "input": needed(entry, "input_tokens"),
            "cache_read": count(entry, "cache_read_input_tokens") or 0,
            "cache_write_5m": short,
            "cache_write_1h": long,
            "output": needed(entry, "output_tokens"),
        },
        model if isinstance(model, str) and model else None,
        billed=billing != "free",
    )


def _billing(entries: Sequence[Json], index: int, facts: UsageFacts) -> Billing:
    """Whether an attempt is billed: a refusal before any output is not, unless its category is."""
    entry, later = entries[index], entries[index + 1 :]
    if entry.get("type", "message") not in _ATTEMPTS:
        return "billed"
    if facts.stop_reason == "refusal" and not any(e.get("type") in _ATTEMPTS for e in later):
        if facts.content_empty is False:
            return "billed"
        if facts.content_empty is None and needed(entry, "output_tokens"):
            return "guessed"
        return _by_category(facts, unsaid="free")
    if needed(entry, "output_tokens") == 0 and any(e.get("type") == "fallback_message" for e in later):
        return _by_category(facts, unsaid="guessed")  # declined and passed on: the answer may not say why
    return "billed"


def _by_category(facts: UsageFacts, unsaid: Billing) -> Billing:
    if facts.refusal_category is None:
        return unsaid
    day = facts.at // _DAY if facts.at is not None else _BILLED_CATEGORIES[-1][0]
    billed = next((names for since, names in reversed(_BILLED_CATEGORIES) if day >= since), _BILLED_CATEGORIES[0][1])
    if facts.refusal_category in billed:
        return "billed"
    return "free" if facts.refusal_category in _FREE_CATEGORIES else "guessed"


def _summed(
    parts: tuple[Part, ...], *, reasoning: int | None = None, searches: int = 0, estimated: bool = False
) -> Usage:
    def of(*buckets: Bucket) -> int:
        return sum(p.buckets.get(bucket, 0) for p in parts for bucket in buckets)

    write = of("cache_write_5m", "cache_write_1h")
    return Usage(
        parts,
        input_tokens=of("input", "cache_read") + write,
        output_tokens=of("output"),
        cached_tokens=of("cache_read"),
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
        fees=fees(("web_search", searches)),
        estimated=estimated,
    )
