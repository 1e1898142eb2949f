"""Helicone's requests: rows of its query API, or what its export tool writes (JSON, JSON lines, CSV).

Source: lib/stores/request and examples/export of Helicone/helicone. Its counts are disjoint: prompt tokens leave out
what was read from and written to the provider's cache, completion tokens leave out reasoning. A session is one piece
of an agent's work, so it names the run too. A row is known by its request_id; the CSV has only the response_id.
"""

from bursar.insights.imports.booking import Recorded
from bursar.insights.imports.fields import Malformed, Row
from bursar.types import Api, Instant, Status

_NO_ID = "00000000-0000-0000-0000-000000000000"
_SESSION, _NAME, _PATH = "Helicone-Session-Id", "Helicone-Session-Name", "Helicone-Session-Path"
_CANCELLED, _PENDING = -3, -2
_PATHS: tuple[tuple[str, Api], ...] = (
    ("/chat/completions", "chat"),
    ("/embeddings", "embeddings"),
    ("/responses", "responses"),
    ("/messages", "messages"),
    ("generateContent", "gemini"),
    ("GenerateContent", "gemini"),
)


def recorded(row: Row, tenant: str) -> Recorded:
    """One request."""
    started = row.instant("request_created_at", "created_at")
    name = row.text("request_id", "response_id", "id")
    if name is None or started is None:
        raise Malformed("request_id (or response_id) and request_created_at: expected both")
    properties = row.row("request_properties", "properties")
    session = properties.text(_SESSION)
    status, code = _outcome(row)
    read = row.count("prompt_cache_read_tokens")
    written = row.count("prompt_cache_write_tokens")
    reasoning = row.count("reasoning_tokens")
    return Recorded(
        source="helicone", id=name, started_at=started, tenant=tenant, status=status,
        cache="hit" if status == "hit" else "miss" if row.flag("cache_enabled") else "bypass",
        api=_api(row),
        provider=(row.text("provider") or "unknown").lower(),
        model=row.text("response_model", "model", "request_model"),
        requested_model=row.text("request_model", "model_override", "model"),
        run_id=session,
        session_id=session,
        user_id=row.text("request_user_id", "user_id", "helicone_user"),
        agent_id=properties.text(_NAME),
        step=properties.text(_PATH),
        tags={key: _label(value) for key, value in properties.items() if key not in (_SESSION, _NAME, _PATH)},
        duration_ms=_duration(row, started),
        first_byte_ms=row.milliseconds("time_to_first_token"),
        http_status=code,
        error=_error(row, status, code),
        input_tokens=_sum(row.count("prompt_tokens"), read, written),
        output_tokens=_sum(row.count("completion_tokens"), reasoning),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        cost_nanos=row.usd("cost", "costUSD", "cost_usd"),
    )  # fmt: skip


def _outcome(row: Row) -> tuple[Status, int | None]:
    told = row.number("response_status", "status")
    code = None if told is None else int(told)
    if row.flag("cache_hit", "is_cached") or row.text("cache_reference_id") not in (None, _NO_ID):
        return "hit", code
    if code == _PENDING:
        return "expired", None
    if code == _CANCELLED:
        return "abandoned", None
    known = code if code is not None and 100 <= code <= 599 else None
    return "completed" if code is None or 200 <= code < 300 else "failed", known


def _error(row: Row, status: Status, code: int | None) -> str | None:
    if status != "failed":
        return None
    return (
        f"HTTP {code}" if code is not None else f"no answer (Helicone's status {row.text('response_status', 'status')})"
    )


def _api(row: Row) -> Api:
    path = row.text("request_path", "target_url") or ""
    return next((api for part, api in _PATHS if part in path), "other")


def _duration(row: Row, started: Instant) -> int | None:
    found = row.milliseconds("delay_ms", "latency")
    if found is not None:
        return found
    ended = row.instant("response_created_at")
    return None if ended is None else max(0, (ended - started) // 1000)


def _label(value: object) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _sum(known: int | None, *more: int | None) -> int | None:
    return None if known is None else known + sum(count or 0 for count in more)
