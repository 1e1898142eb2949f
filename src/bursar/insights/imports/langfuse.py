"""Langfuse's observations: from its API, its tables' export, a trace's download or a blob storage export.

Source: Langfuse's API definition and its blob storage field reference; names in camel case or snake case. Usage is
kept in disjoint buckets; what begins with `input` or `output` is summed, as Langfuse itself does. A total of 0 beside
empty details is Langfuse's way of saying nothing. Only observations that used a model are calls.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from bursar.insights.imports.booking import Recorded
from bursar.insights.imports.fields import Malformed, Row
from bursar.types import Instant

_CALLS = ("GENERATION", "EMBEDDING")
_START = ("startTime", "start_time")
_TRACE = ("traceId", "trace_id")


def parts(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A trace with its observations inside, or beside it, as rows of their own."""
    inner = values.get("observations")
    if not isinstance(inner, list):
        return [values]
    beside = values.get("trace")
    trace = beside if isinstance(beside, Mapping) else {k: v for k, v in values.items() if k != "observations"}
    # A list of traces has its observations as ids alone.
    return [trace, *({"traceId": trace.get("id"), **one} for one in inner if isinstance(one, Mapping))]


def is_trace(row: Row) -> bool:
    _, name = row.found("id") or ("", None)
    return isinstance(name, str) and row.found("timestamp") is not None and row.found(*_START) is None


def recorded(row: Row, traces: Mapping[str, Row], tenant: str) -> Recorded | None:
    """One observation, with the labels of its trace; None where it is no call of a model."""
    usage, cost = row.row("usageDetails", "usage_details"), _cost(row)
    kind, model = row.text("type"), row.text("model", "providedModelName", "provided_model_name")
    counts = _counts(row, usage)
    if kind not in _CALLS and not (model and (cost is not None or counts.input is not None)):
        return None
    started, name = row.instant(*_START), row.text("id")
    if name is None or started is None:
        raise Malformed("id and startTime: expected both")
    trace_id = row.text(*_TRACE)
    trace = traces.get(trace_id or "", Row({}))
    metadata = row.aside("metadata")
    ended = row.instant("endTime", "end_time")
    failed = row.text("level") == "ERROR"
    return Recorded(
        source="langfuse", id=name, started_at=started, tenant=tenant, status="failed" if failed else "completed",
        api="embeddings" if kind == "EMBEDDING" else "other",
        provider=metadata.text("ls_provider", "gen_ai.provider.name", "gen_ai.system"),
        model=model,
        run_id=trace_id,
        session_id=row.text("sessionId", "session_id") or trace.text("sessionId", "session_id"),
        user_id=row.text("userId", "user_id") or trace.text("userId", "user_id"),
        agent_id=row.text("traceName", "trace_name") or trace.text("name"),
        step=row.text("name"),
        tags=_tags(row, trace),
        duration_ms=_milliseconds(started, ended),
        first_byte_ms=_first_byte(row, started),
        error=(row.text("statusMessage", "status_message") or "ERROR")[:300] if failed else None,
        usage=usage.json(),
        cost_nanos=cost,
        input_tokens=counts.input,
        output_tokens=counts.output,
        cached_tokens=counts.cached,
        cache_write_tokens=counts.written,
        reasoning_tokens=counts.reasoning,
    )  # fmt: skip


class _Counts(NamedTuple):
    input: int | None
    output: int | None
    cached: int | None = None
    written: int | None = None
    reasoning: int | None = None


def _counts(row: Row, usage: Row) -> _Counts:
    if not usage.items():
        return _plain_counts(row)

    def total(*words: str, of: Sequence[str]) -> int | None:
        found = [usage.count(key) for key in of if any(word in key for word in words)]
        known = [count for count in found if count is not None]
        return sum(known) if known else None

    keys = [key for key, _ in usage.items()]
    went = [key for key in keys if key.startswith(("output", "completion"))]
    written = [key for key in keys if "cache_creation" in key or "cache_write" in key]
    return _Counts(
        input=total("input", "prompt", of=[key for key in keys if key not in went]),
        output=total("", of=went),
        cached=total("cached", "cache_read", of=[key for key in keys if key not in written]),
        written=total("", of=written),
        reasoning=total("reasoning", of=keys),
    )


def _plain_counts(row: Row) -> _Counts:
    """The older shape: an object `usage`, or plain columns."""
    usage = row.row("usage")
    came = usage.count("input", "promptTokens")
    went = usage.count("output", "completionTokens")
    if came is None and went is None:
        came = row.count("inputUsage", "inputTokens", "promptTokens", "input_tokens", "prompt_tokens")
        went = row.count("outputUsage", "outputTokens", "completionTokens", "output_tokens", "completion_tokens")
        if not came and not went:
            came = went = None
    return _Counts(came, went)


def _cost(row: Row) -> int | None:
    details = row.row("costDetails", "cost_details")
    if details.items():
        total = details.usd("total")
        if total is not None:
            return total
        exact = sum((details.number(key) or Decimal(0) for key, _ in details.items()), Decimal(0))
        return Row({"costDetails": exact}).usd("costDetails")
    return row.usd("calculatedTotalCost", "totalCost", "total_cost") or row.row("usage").usd("totalCost") or None


def _tags(row: Row, trace: Row) -> dict[str, str]:
    tags = dict(row.tags("traceTags", "trace_tags", "tags") or trace.tags("tags"))
    environment = row.text("environment") or trace.text("environment")
    return tags if environment is None else tags | {"environment": environment}


def _first_byte(row: Row, started: Instant) -> int | None:
    found = _milliseconds(started, row.instant("completionStartTime", "completion_start_time"))
    return found if found is not None else row.milliseconds("timeToFirstToken", "time_to_first_token", unit=1000)


def _milliseconds(start: Instant, end: Instant | None) -> int | None:
    """An end before its start is a clock's fault and counts as 0."""
    return None if end is None else max(0, (end - start) // 1000)
