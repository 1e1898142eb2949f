"""What the tests of export and import share: a row, ways to book and to read, and one row of LiteLLM's spend log."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec

from bursar.insights import exports, imports
from bursar.insights.imports import Kind, Summary
from bursar.stores.base import Filters, Store
from bursar.types import Entry, Hold, Instant, Terms

NOON = Instant(1_764_000_000_000_000)
"""2025-11-24T16:00:00Z"""
NOW = Instant(NOON + 86_400_000_000)


def row(name: str, **changes: Any) -> Entry:
    """A closed row."""
    told: dict[str, Any] = {
        "request_id": name, "attempt": 1, "run_id": "run", "parent_run_id": None, "session_id": "s", "user_id": "u",
        "user_tier": "free", "agent_id": "a", "step": "plan", "tenant": "default", "tags": (("team", "x"),),
        "key_id": "k", "started_at": NOON, "duration_ms": 900, "first_byte_ms": 100, "api": "chat",
        "provider": "openai", "requested_model": "gpt-4o", "model": "gpt-4o-2024-08-06", "tier": "mid",
        "route_reason": "caller", "stream": True, "status": "completed", "http_status": 200, "input_tokens": 120,
        "output_tokens": 30, "usage": '{"prompt_tokens":120}', "cost_nanos": 1_000_000_015, "cost_status": "final",
        "price_id": "card", "hold_nanos": 5, "input_estimate": 100, "blocks": b"\x00\xff", "terms": Terms(batch=True),
    }  # fmt: skip
    return Entry(**{**told, **changes})


def book(store: Store, *entries: Entry) -> None:
    """Into the ledger, each as a call would be."""
    for entry in entries:
        hold = store.reserve(msgspec.structs.replace(entry, status="open")).result(10)
        assert isinstance(hold, Hold)
        store.settle(hold, entry).result(10)


def exported(store: Store, format: exports.Format = "jsonl", filters: Filters | None = None) -> bytes:
    out = io.BytesIO()
    exports.write(store, format, out, filters or Filters())
    return out.getvalue()


def read(store: Store, path: Path, kind: Kind, content: object) -> Summary:
    """Import a file of this content: bytes or text as they are, anything else as JSON."""
    text = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return imports.read(path, kind, store, NOW)


def calls(store: Store) -> dict[str, Entry]:
    return {entry.request_id: entry for entry in store.calls(limit=10_000).items}


LITELLM: dict[str, Any] = {
    "request_id": "chatcmpl-1", "call_type": "acompletion", "api_key": "88dc28d0", "spend": 4.35e-05,
    "total_tokens": 130, "prompt_tokens": 100, "completion_tokens": 30, "startTime": "2025-11-24T15:00:00.250000Z",
    "endTime": "2025-11-24T15:00:02.750Z", "completionStartTime": "2025-11-24T15:00:00.750Z",
    "model": "openai/gpt-4o-mini", "model_group": "cheap", "custom_llm_provider": "openai", "user": "admin",
    "end_user": "u42", "cache_hit": "False", "cache_key": "Cache OFF", "session_id": "trace-9", "status": "success",
    "request_tags": '["team:search", "nightly"]', "team_id": "t1",
    "metadata": {
        "user_api_key_alias": "batch",
        "usage_object": {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 64},
                         "completion_tokens_details": {"reasoning_tokens": 8}},
    },
}  # fmt: skip
