"""`bursar price`: usage objects in, dollars out, one JSON line each; a line that cannot be read is answered, not fatal.

A line is {"id", "api", "model", "usage", "ctx"}; `usage` is as the provider sends it, or a list of a stream's usage
objects. `ctx` tells what the bill depends on beside it: at, service_tier, batch, region, inference_geo, speed,
completion_window, cache_ttl, tool_usage, stop_reason, refusal_category, content_empty, grounding_queries, ...
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from bursar.money import format_usd
from bursar.policy import PriceBook
from bursar.rules.price import quote
from bursar.types import Api, Instant, Terms
from bursar.wire.usage import Unreadable, UsageFacts, examine, read_terms

_PROVIDERS: dict[str, str] = {
    "chat": "openai",
    "responses": "openai",
    "embeddings": "openai",
    "messages": "anthropic",
    "gemini": "google",
    "converse": "aws",
}


def price_lines(lines: Iterable[str], prices: PriceBook, now: Instant) -> Iterator[dict[str, Any]]:
    """Each JSON line -> {"id", "usd", "status"} and, where useful, price_id and why; blank lines are passed over.

    usd: a decimal string, None exactly when status is "unpriced". now: the instant of lines without ctx.at.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        identity: Any = None
        try:
            row = json.loads(line)
            if not isinstance(row, Mapping):
                raise ValueError("the line is not a JSON object")
            identity = row.get("id")
            answer = _priced(row, prices, now)
        except (ValueError, RecursionError, OverflowError) as bad:
            answer = {"usd": None, "status": "unpriced", "error": f"line {number}: {bad}"[:300]}
        yield {"id": identity, **answer}


def _priced(row: Mapping[str, Any], prices: PriceBook, now: Instant) -> dict[str, Any]:
    api, ctx = row.get("api"), row.get("ctx")
    if api not in _PROVIDERS:
        raise ValueError(
            f"api is {str(api)[:40]!r}, not one of {', '.join(a for a in get_args(Api) if a in _PROVIDERS)}"
        )
    ctx = {} if ctx is None else ctx
    if not isinstance(ctx, Mapping):
        raise ValueError("ctx is not an object")
    model = _text(ctx, "served_model") or _text(row, "model")
    at = _instant(_first(ctx, "at", "timestamp", "time", "date"), now)
    facts = _facts(ctx, model, at)
    usage = examine(api, row.get("usage"), facts)
    if isinstance(usage, Unreadable):
        return {"usd": None, "status": "unpriced", "error": usage.why}
    terms = read_terms(api, row.get("usage"), facts, _asked(ctx))
    provider = _text(ctx, "provider") or _text(row, "provider") or _PROVIDERS[api]
    price = quote(usage, provider, model, terms, prices, at)
    answer: dict[str, Any] = {
        "usd": None if price.nanos is None else format_usd(price.nanos),
        "status": price.status,
        "price_id": price.price_id,
        "why": price.why,
    }
    return {key: value for key, value in answer.items() if value is not None or key == "usd"}


def _facts(ctx: Mapping[str, Any], model: str | None, at: Instant) -> UsageFacts:
    details = ctx.get("stop_details")
    details = details if isinstance(details, Mapping) else {}
    headers = ctx.get("headers")
    headers = {str(k).lower(): v for k, v in headers.items()} if isinstance(headers, Mapping) else {}
    says_null = any("category" in key and value is None for key, value in (*ctx.items(), *details.items()))
    category = _text(ctx, "refusal_category", "category") or _text(details, "category")
    content = ctx.get("content")
    empty = ctx.get("content_empty", not content if isinstance(content, list | str) else None)
    grounding = _first(
        ctx, "grounding_queries", "web_search_queries", "search_queries", "groundingMetadata", "grounding"
    )
    if isinstance(grounding, Mapping):
        grounding = _first(grounding, "webSearchQueries", "queries")
    return UsageFacts(
        model=model,
        at=at,
        service_tier=_text(ctx, "service_tier", "serviceTier", "tier"),
        header_tier=_text(ctx, "header_tier", "x-gemini-service-tier") or _text(headers, "x-gemini-service-tier"),
        stop_reason=_text(ctx, "stop_reason"),
        refusal_category=category or ("null" if says_null else None),
        content_empty=empty if isinstance(empty, bool) else None,
        tool_usage=ctx.get("tool_usage"),
        search_items=_searches(_first(ctx, "search_items", "web_search_calls", "web_searches", "output")),
        file_searches=_number(_first(ctx, "file_searches", "file_search_calls")),
        image_model=_text(ctx, "image_model"),
        cache_ttl=_ttl(ctx),
        grounding_queries=_number(grounding),
        grounded=bool(_first(ctx, "grounded", "grounding", "grounded_prompts", "groundingMetadata")),
    )


def _asked(ctx: Mapping[str, Any]) -> Terms:
    background = ctx.get("background_options")
    background = background if isinstance(background, Mapping) else {}
    return Terms(
        batch=ctx.get("batch") is True or ctx.get("processing") == "batch",
        region=_text(ctx, "inference_geo", "region", "residency", "data_residency", "regional"),
        window=_text(ctx, "completion_window", "window", "background_window") or _text(background, "completion_window"),
        fast=ctx.get("speed") == "fast" or ctx.get("fast") is True,
    )


def _ttl(ctx: Mapping[str, Any]) -> str | None:
    """The only cache lifetime that was asked for, however it is spelled."""
    options = ctx.get("prompt_cache_options")
    options = options if isinstance(options, Mapping) else {}
    if ctx.get("only_1h") is True:
        return "1h"
    return _text(ctx, "cache_ttl", "cache_write_ttl", "prompt_cache_ttl", "ttl") or _text(options, "ttl")


def _searches(value: Any) -> int:
    """A count, or output items of which the searches count (opening a page does not)."""
    if not isinstance(value, list):
        return _number(value)
    items = [i for i in value if isinstance(i, Mapping) and i.get("type") == "web_search_call"]
    return sum(1 for i in items if isinstance(a := i.get("action"), Mapping) and a.get("type") == "search")


def _number(value: Any) -> int:
    """A count, or the length of a list."""
    if isinstance(value, list):
        return len(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _first(source: Mapping[str, Any], *keys: str) -> Any:
    return next((source[key] for key in keys if source.get(key) is not None), None)


def _text(source: Mapping[str, Any], *keys: str) -> str | None:
    """The first of these that is a text; True means the key's own name ({"regional": true})."""
    value = _first(source, *keys)
    if value is True:
        return next(key for key in keys if source.get(key) is True)
    if isinstance(value, Mapping):
        value = value.get("type")
    return value if isinstance(value, str) and value else None


def _instant(value: Any, now: Instant) -> Instant:
    """A date or ISO time (UTC unless it says otherwise), or seconds since the epoch."""
    if value is None:
        return now
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Instant(int(value * 1_000_000))
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"at is {str(value)[:40]!r}, not a date or an ISO 8601 time") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Instant((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)
