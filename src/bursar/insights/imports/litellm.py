"""LiteLLM's spend log: rows of LiteLLM_SpendLogs, from the database or from its API.

Source: schema.prisma and spend_tracking_utils.py of BerriAI/litellm. Prompt tokens hold the cached ones. The table's
session_id is filled from the trace id, so it names the run too. Columns default to 0: a completed row with no token at
all has recorded none, and a cost of 0 of a model that LiteLLM's own price map lacks is unknown.
"""

from bursar.insights.imports.booking import Recorded
from bursar.insights.imports.fields import Malformed, Row
from bursar.types import Api, CacheState, Instant, Status

_APIS: dict[str, Api] = {
    "completion": "chat",
    "text_completion": "other",
    "embedding": "embeddings",
    "responses": "responses",
    "anthropic_messages": "messages",
    "generate_content": "gemini",
    "generate_content_stream": "gemini",
}
"""By call_type, a leading `a` for asynchronous taken off."""


def recorded(row: Row, tenant: str) -> Recorded:
    """One row of the spend log."""
    started = row.instant("startTime", "start_time")
    name = row.text("request_id", "id")
    if name is None or started is None:
        raise Malformed("request_id and startTime: expected both")
    metadata = row.aside("metadata")
    usage = metadata.aside("usage_object")
    extra = metadata.aside("additional_usage_values")
    provider, model = _served(row)
    status, cache = _outcome(row, metadata)
    counts = [row.count("prompt_tokens"), row.count("completion_tokens")]
    if status == "completed" and not any(counts):
        counts = [None, None]
    session = row.text("session_id")
    duration, first = _times(row, started)
    return Recorded(
        source="litellm", id=name, started_at=started, tenant=tenant, status=status, cache=cache,
        api=_api(row),
        provider=provider,
        model=model,
        requested_model=row.text("model_group"),
        run_id=session,
        session_id=session,
        user_id=row.text("end_user", "user"),
        agent_id=row.text("agent_id"),
        tags=_tags(row, metadata),
        duration_ms=duration,
        first_byte_ms=first,
        http_status=_http_status(metadata),
        error=_error(metadata) if status == "failed" else None,
        input_tokens=counts[0],
        output_tokens=counts[1],
        cached_tokens=_detail(usage, extra, "cache_read_input_tokens", "prompt_tokens_details", "cached_tokens"),
        cache_write_tokens=_detail(
            usage, extra, "cache_creation_input_tokens", "prompt_tokens_details", "cache_creation_tokens"
        ),
        reasoning_tokens=_detail(usage, extra, "reasoning_tokens", "completion_tokens_details", "reasoning_tokens"),
        usage=usage.json(),
        cost_nanos=_cost(row, metadata, status),
    )  # fmt: skip


def _times(row: Row, started: Instant) -> tuple[int | None, int | None]:
    """Duration and first byte, in milliseconds. What did not stream has its end for its first token: no first byte."""
    duration = row.milliseconds("request_duration_ms")
    if duration is None:
        duration = _since(started, row.instant("endTime", "end_time"))
    first = _since(started, row.instant("completionStartTime", "completion_start_time"))
    return duration, first if first is not None and duration is not None and first < duration else None


def _served(row: Row) -> tuple[str | None, str | None]:
    """Provider and model; the model may be written "provider/model"."""
    provider, model = row.text("custom_llm_provider"), row.text("model")
    if model is not None and "/" in model:
        head, _, tail = model.partition("/")
        if provider in (None, head):
            return head, tail
    return provider, model


def _api(row: Row) -> Api:
    kind = row.text("call_type") or ""
    return _APIS.get(kind) or _APIS.get(kind.removeprefix("a"), "other")


def _outcome(row: Row, metadata: Row) -> tuple[Status, CacheState]:
    if row.flag("cache_hit"):
        return "hit", "hit"
    failed = "failure" in (row.text("status"), metadata.text("status"))
    off = row.text("cache_key") in (None, "Cache OFF")
    return "failed" if failed else "completed", "bypass" if off else "miss"


def _cost(row: Row, metadata: Row, status: Status) -> int | None:
    nanos = row.usd("spend")
    priced = metadata.aside("model_map_information")
    unlisted = priced.items() and not priced.aside("model_map_value").items()
    return None if nanos == 0 and status == "completed" and unlisted else nanos


def _detail(usage: Row, extra: Row, flat: str, group: str, name: str) -> int | None:
    for told in (usage, extra):
        for found in (told.row(group).count(name), told.count(flat)):
            if found is not None:
                return found
    return None


def _tags(row: Row, metadata: Row) -> dict[str, str]:
    tags = dict(row.tags("request_tags"))
    labels = (
        ("team", row.text("team_id")),
        ("organization", row.text("organization_id")),
        ("key", metadata.text("user_api_key_alias")),
    )
    return tags | {name: label for name, label in labels if label is not None}


def _http_status(metadata: Row) -> int | None:
    code = metadata.aside("error_information").text("error_code")
    return int(code) if code is not None and code.isdecimal() and 100 <= int(code[:9]) <= 599 else None


def _error(metadata: Row) -> str | None:
    told = metadata.aside("error_information")
    parts = [part for part in (told.text("error_class"), told.text("error_message")) if part]
    return ": ".join(parts)[:300] or None


def _since(start: Instant, end: Instant | None) -> int | None:
    """Milliseconds; an end before its start is a clock's fault and counts as 0."""
    return None if end is None else max(0, (end - start) // 1000)
