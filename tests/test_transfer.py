"""The ledger out and other tools' logs in: what is exported comes back whole, what is imported is booked once and as
it was recorded, and a line that cannot be read costs that line."""

import base64
import csv
import gzip
import io
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.doors.cli import transfer
from bursar.insights import exports, imports
from bursar.insights.imports import Kind, Summary
from bursar.stores.base import Filters, Store
from bursar.stores.memory import Books, MemoryStore
from bursar.stores.sqlite import SqliteStore
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


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\ufdd0"), max_size=8)
labels = st.none() | texts
counts = st.none() | st.integers(0, 2**40)
closed = st.builds(
    lambda name, at, cost, tags, **labels: row(
        name, started_at=Instant(NOON + at), cost_nanos=cost, cost_status="unpriced" if cost is None else "final",
        tags=tuple(tags.items()), **labels,
    ),
    st.integers(0, 30).map(str), st.integers(0, 3), st.none() | st.integers(-(10**9), 10**15),
    st.dictionaries(texts, texts, max_size=2),
    run_id=st.none() | st.sampled_from(["r1", "r2"]), parent_run_id=st.none() | st.sampled_from(["r1", "r3"]),
    user_id=labels, agent_id=labels, usage=labels, error=labels, input_tokens=counts, reasoning_tokens=counts,
    saved_nanos=counts, blocks=st.binary(max_size=9), request=st.none() | st.binary(max_size=9),
    validated=st.none() | st.booleans(), tenant=st.sampled_from(["default", "acme"]),
    status=st.sampled_from(["completed", "failed", "abandoned", "expired", "refused", "hit"]),
    terms=st.builds(Terms, service_tier=labels, fast=st.booleans()),
)  # fmt: skip


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(closed, max_size=12, unique_by=lambda entry: entry.request_id), st.integers(1, 4))
    def test_export_import_export_is_the_same(self, entries: list[Entry], page: int) -> None:
        """Whatever is in a ledger: its export, imported into an empty one, exports as the same bytes, and the books
        of the new ledger are whole. Pages, and rows that start in the same instant, change nothing."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exports, "_PAGE", page)
            here, there = MemoryStore(), MemoryStore()
            book(here, *entries)
            told = exported(here)
            patch.setattr(imports.records, "_opened", lambda _: io.BytesIO(told))
            summary = imports.read(Path("-"), "bursar", there, NOW)
        assert summary == Summary(imported=len(entries))
        assert exported(there) == told
        assert there.verify() == []
        assert calls(there) == calls(here)

    def test_through_files_on_disk(self, tmp_path: Path) -> None:
        """SQLite to SQLite, more rows than a page holds, many to an instant: same bytes, same runs, clean."""
        here, there = SqliteStore(tmp_path / "here.db"), SqliteStore(tmp_path / "there.db")
        try:
            for n in range(1_300):
                book(here, row(f"{n * 7919 % 1300}", started_at=Instant(NOON + n // 400), run_id=f"run{n % 3}"))
            path = tmp_path / "out.jsonl"
            assert exports.write(here, "jsonl", path) == 1_300
            assert imports.read(path, "bursar", there, NOW) == Summary(imported=1_300)
            assert exported(there) == path.read_bytes()
            assert there.verify() == []
            assert there.runs().items == here.runs().items
            assert imports.read(path, "bursar", there, NOW) == Summary(already=1_300)
            assert there.verify() == []
        finally:
            here.close()
            there.close()

    def test_oldest_first_and_filtered(self, store: MemoryStore) -> None:
        """Rows come oldest first; filters hold; a row under way is left out."""
        book(store, row("late", started_at=Instant(NOON + 2)), row("early"), row("other", user_id="v"))
        store.reserve(row("open", status="open", cost_nanos=None, cost_status="unpriced")).result(10)
        names = [json.loads(line)["request_id"] for line in exported(store, filters=Filters(user_id="u")).splitlines()]
        assert names == ["early", "late"]

    def test_an_unknown_column_is_refused(self, store: MemoryStore, file: Path) -> None:
        """A line of a later version would not come back whole: it is refused with the column's name."""
        told = exports.whole(row("r")) | {"mood": "good"}
        summary = read(store, file, "bursar", told)
        assert (summary.imported, summary.malformed) == (0, 1)
        assert summary.faults[0].reason.startswith("mood: no column of this version")

    def test_what_would_break_the_books_is_refused(self, store: MemoryStore, file: Path) -> None:
        """A row that the audit would not pass, or the database not take, never reaches the ledger."""
        bad: list[dict[str, object]] = [
            {"cost_usd": None}, {"duration_ms": None}, {"status": "open"}, {"status": "done"}, {"tenant": None},
            {"input_tokens": 1 << 70}, {"cost_usd": "1e12"}, {"cost_usd": "NaN"}, {"error": "\ud800"},
            {"started_at": "yesterday"}, {"started_at": None}, {"tags": ["x"]}, {"tags": {"x": 1}},
            {"blocks": "?"}, {"started_at": "2099-01-01"}, {"agent_id": "\ufdd0"},
        ]  # fmt: skip
        good = exports.whole(row("good"))
        lines = [json.dumps(good | {"request_id": str(n)} | change) for n, change in enumerate(bad)]
        summary = read(store, file, "bursar", "\n".join([*lines, json.dumps(good)]))
        assert (summary.imported, summary.malformed) == (1, len(bad))
        assert [fault.line for fault in summary.faults] == list(range(1, len(bad) + 1))
        assert store.verify() == []


class TestFormats:
    def test_csv(self, store: MemoryStore) -> None:
        """CSV has the contract's columns, exact dollars, and an empty cell for the unknown."""
        book(store, row("r", error='a "b",\nc', cost_nanos=15), row("s", cost_nanos=None, cost_status="unpriced"))
        first, second = csv.DictReader(io.StringIO(exported(store, "csv").decode(), newline=""))
        assert (first["cost_usd"], first["error"], first["stream"]) == ("0.000000015", 'a "b",\nc', "true")
        assert (second["cost_usd"], second["cost_status"], second["cached_tokens"]) == ("", "unpriced", "")
        assert json.loads(first["tags"]) == {"team": "x"}
        assert "blocks" not in first
        assert exported(MemoryStore(), "csv").decode().strip() == ",".join(first)

    def test_parquet(self, store: MemoryStore, tmp_path: Path) -> None:
        """Parquet has typed columns: whole counts, instants in UTC, dollars as decimals to the nano-dollar."""
        polars = pytest.importorskip("polars")
        book(store, row("r", cost_nanos=10**17 + 1), row("s", cost_nanos=None, cost_status="unpriced"))
        assert exports.write(store, "parquet", tmp_path / "t.parquet") == 2
        table = polars.read_parquet(tmp_path / "t.parquet")
        assert table["cost_usd"].to_list() == [Decimal("100000000.000000001"), None]
        assert table.schema["input_tokens"] == polars.Int64
        assert table.schema["stream"] == polars.Boolean
        assert str(table["started_at"][0]) == "2025-11-24 16:00:00+00:00"
        assert polars.read_parquet(io.BytesIO(exported(MemoryStore(), "parquet"))).shape == (0, table.width)

    def test_parquet_without_polars(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
        """Where the extra is missing, its name is told and no file is left."""
        monkeypatch.setitem(sys.modules, "polars", None)
        with pytest.raises(exports.MissingExtra, match=r"bursar\[export\]"):
            exports.write(store, "parquet", file)
        assert list(file.parent.iterdir()) == []

    def test_a_file_is_whole_or_not_there(self, store: MemoryStore, file: Path) -> None:
        """An export that fails on the way leaves what was there before."""
        file.write_text("before")
        book(store, row("r"))

        def fail(done: int) -> None:
            raise OSError(f"after {done}")

        with pytest.raises(OSError, match="after 1"):
            exports.write(store, "jsonl", file, Filters(), fail)
        assert [path.name for path in file.parent.iterdir()] == ["file"]
        assert file.read_text() == "before"


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


class TestLitellm:
    def test_a_row(self, store: MemoryStore, file: Path) -> None:
        """Every column of the spend log that the ledger has a place for is in its place, the spend exactly."""
        assert read(store, file, "litellm", [LITELLM]) == Summary(imported=1)
        (entry,) = calls(store).values()
        told = {name: getattr(entry, name) for name in entry.__struct_fields__}
        expected = {
            "request_id": "litellm:chatcmpl-1", "started_at": NOON - 3_600_000_000 + 250_000, "duration_ms": 2_500,
            "first_byte_ms": 500, "stream": True, "api": "chat", "provider": "openai", "model": "gpt-4o-mini",
            "requested_model": "cheap", "run_id": "trace-9", "session_id": "trace-9", "user_id": "u42",
            "status": "completed", "cache": "bypass", "input_tokens": 100, "output_tokens": 30, "cached_tokens": 64,
            "reasoning_tokens": 8, "cache_write_tokens": None, "cost_nanos": 43_500, "cost_status": "final",
            "price_id": "import:litellm", "route_reason": "import:litellm", "saved_nanos": None, "tenant": "default",
            "tags": (("team", "t1"), ("nightly", "true"), ("key", "batch")),
        }  # fmt: skip
        assert {name: told[name] for name in expected} == expected
        assert json.loads(entry.usage or "") == LITELLM["metadata"]["usage_object"]

    def test_both_spellings(self, file: Path) -> None:
        """Snake case times, metadata as JSON text, JSON lines and an API's `data`: the same row."""
        other = LITELLM | {"metadata": json.dumps(LITELLM["metadata"]), "request_tags": ["team:search", "nightly"]}
        for old, new in (("startTime", "start_time"), ("endTime", "end_time")):
            other[new] = str(other.pop(old)).replace("T", " ").removesuffix("Z")
        ledgers = []
        for content in (
            [LITELLM],
            json.dumps(other) + "\n",
            {"data": [other], "total": 1},
            json.dumps(other, indent=1),
        ):
            ledgers.append(MemoryStore())
            assert read(ledgers[-1], file, "litellm", content).imported == 1
        assert len({exported(ledger) for ledger in ledgers}) == 1

    def test_hits_and_failures(self, store: MemoryStore, file: Path) -> None:
        """A cache hit keeps its recorded 0 and saves nobody knows what; a failure tells its error and status."""
        hit = LITELLM | {"request_id": "h", "cache_hit": "True", "spend": 0.0}
        why = {"error_code": "429", "error_class": "RateLimitError", "error_message": "slow down"}
        failed = LITELLM | {
            "request_id": "f", "status": "failure", "spend": 0, "prompt_tokens": 0, "completion_tokens": 0,
            "metadata": {"error_information": why},
        }  # fmt: skip
        assert read(store, file, "litellm", [hit, failed]).imported == 2
        found = calls(store)
        one = found["litellm:h"]
        assert (one.status, one.cache, one.cost_nanos, one.cost_status, one.saved_nanos) == (
            "hit",
            "hit",
            0,
            "final",
            None,
        )
        one = found["litellm:f"]
        assert (one.status, one.http_status, one.error) == ("failed", 429, "RateLimitError: slow down")

    def test_unknown_is_not_zero(self, store: MemoryStore, file: Path) -> None:
        """No spend, or a spend of 0 for a model that LiteLLM has no price of, is unpriced; a completed row without a
        token has recorded none. A 0 that may be true is kept and pointed out."""
        unlisted = {"model_map_information": {"model_map_key": "x", "model_map_value": None}}
        rows = [
            LITELLM | {"request_id": "none", "spend": None},
            LITELLM | {"request_id": "unlisted", "spend": 0.0, "metadata": unlisted},
            LITELLM | {"request_id": "free", "spend": 0.0},
            LITELLM | {"request_id": "image", "prompt_tokens": 0, "completion_tokens": 0},
        ]
        summary = read(store, file, "litellm", rows)
        assert (summary.imported, summary.free) == (4, 1)
        found = calls(store)
        assert [found[f"litellm:{name}"].cost_nanos for name in ("none", "unlisted", "free")] == [None, None, 0]
        assert found["litellm:none"].cost_status == "unpriced"
        assert found["litellm:none"].price_id is None
        assert found["litellm:image"].input_tokens is None
        assert store.verify() == []


OBSERVATION: dict[str, Any] = {
    "id": "obs-1", "traceId": "trace-1", "type": "GENERATION", "name": "extract", "startTime": "2025-11-24T15:00:00Z",
    "endTime": "2025-11-24T15:00:03Z", "completionStartTime": "2025-11-24T15:00:01Z", "model": "claude-sonnet-4-5",
    "usageDetails": {"input": 100, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 10, "output": 20,
                     "output_reasoning_tokens": 5, "total": 175},
    "costDetails": {"input": 0.0003, "output": 0.0003, "total": 0.00063}, "level": "DEFAULT",
    "metadata": {"ls_provider": "anthropic"}, "environment": "prod",
}  # fmt: skip
TRACE: dict[str, Any] = {
    "id": "trace-1", "timestamp": "2025-11-24T15:00:00Z", "name": "contract review", "userId": "u1",
    "sessionId": "s1", "tags": ["tier:free"],
}  # fmt: skip


class TestLangfuse:
    def expect(self, entry: Entry) -> None:
        """The row that OBSERVATION and TRACE come to."""
        assert (entry.run_id, entry.session_id, entry.user_id) == ("trace-1", "s1", "u1")
        assert (entry.agent_id, entry.step, entry.model) == ("contract review", "extract", "claude-sonnet-4-5")
        assert (entry.input_tokens, entry.cached_tokens, entry.cache_write_tokens) == (150, 40, 10)
        assert (entry.output_tokens, entry.reasoning_tokens) == (25, 5)
        assert (entry.cost_nanos, entry.price_id) == (630_000, "import:langfuse")
        assert (entry.duration_ms, entry.first_byte_ms) == (3_000, 1_000)
        assert dict(entry.tags)["tier"] == "free"

    def test_observations_with_their_traces(self, file: Path) -> None:
        """Beside the observations, below them, or around them: a trace lends its user, session, name and tags."""
        download = {"trace": TRACE, "observations": [{k: v for k, v in OBSERVATION.items() if k != "traceId"}]}
        around = TRACE | {"observations": [OBSERVATION]}
        for content in ([OBSERVATION, TRACE], f"{json.dumps(TRACE)}\n{json.dumps(OBSERVATION)}", download, around):
            store = MemoryStore()
            summary = read(store, file, "langfuse", content)
            assert (summary.imported, summary.passed_over, summary.malformed) == (1, 1, 0)
            self.expect(calls(store)["langfuse:obs-1"])

    def test_blob_storage_and_csv(self, file: Path) -> None:
        """Snake case with the trace's labels in the row, gzipped; the same as CSV, objects as JSON text."""
        row = {
            "id": "obs-1", "trace_id": "trace-1", "type": "GENERATION", "name": "extract", "user_id": "u1",
            "session_id": "s1", "trace_name": "contract review", "tags": ["tier:free"],
            "start_time": "2025-11-24 15:00:00.000000", "end_time": "2025-11-24 15:00:03.000000",
            "completion_start_time": "2025-11-24 15:00:01.000000", "provided_model_name": "claude-sonnet-4-5",
            "usage_details": OBSERVATION["usageDetails"], "cost_details": OBSERVATION["costDetails"],
            "total_cost": 0.00063, "level": "DEFAULT", "status_message": "", "metadata": {},
        }  # fmt: skip
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerows([list(row), [v if isinstance(v, str | float) else json.dumps(v) for v in row.values()]])
        for content in (gzip.compress(json.dumps(row).encode()), table.getvalue()):
            store = MemoryStore()
            assert read(store, file, "langfuse", content) == Summary(imported=1)
            self.expect(calls(store)["langfuse:obs-1"])

    def test_what_is_no_call(self, store: MemoryStore, file: Path) -> None:
        """Spans and events are passed over; a failed generation says why; a total of 0 beside no details is unknown."""
        span = OBSERVATION | {"id": "span", "type": "SPAN", "model": None, "usageDetails": {}, "costDetails": {}}
        failed = OBSERVATION | {"id": "bad", "level": "ERROR", "statusMessage": "overloaded", "usageDetails": {},
                                "costDetails": {}, "totalCost": 0, "inputUsage": 0, "outputUsage": 0}  # fmt: skip
        summary = read(store, file, "langfuse", [span, failed])
        assert (summary.imported, summary.passed_over) == (1, 1)
        entry = calls(store)["langfuse:bad"]
        assert (entry.status, entry.error, entry.cost_status) == ("failed", "overloaded", "unpriced")
        assert entry.input_tokens is None

    def test_an_end_that_comes_later(self, store: MemoryStore, file: Path) -> None:
        """An observation exported before its end is booked without one, and a later export corrects that same row."""
        assert read(store, file, "langfuse", [OBSERVATION | {"endTime": None, "costDetails": {}}]).imported == 1
        entry = calls(store)["langfuse:obs-1"]
        assert (entry.status, entry.cost_nanos, entry.duration_ms) == ("expired", None, None)
        assert store.verify() == []
        assert read(store, file, "langfuse", [OBSERVATION]) == Summary(imported=1)
        entry = calls(store)["langfuse:obs-1"]
        assert (entry.status, entry.cost_nanos, entry.duration_ms) == ("completed", 630_000, 3_000)
        assert store.verify() == []
        assert read(store, file, "langfuse", [OBSERVATION]) == Summary(already=1)


HELICONE: dict[str, Any] = {
    "request_id": "req-1", "response_id": "res-1", "request_created_at": "2025-11-24T15:00:00.000Z",
    "response_created_at": "2025-11-24T15:00:04.000Z", "response_status": 200, "response_model": "gpt-4o-2024-08-06",
    "request_model": "gpt-4o", "request_path": "https://oai.helicone.ai/v1/chat/completions", "provider": "OPENAI",
    "request_user_id": "u1", "delay_ms": 1_234, "time_to_first_token": 321, "prompt_tokens": 60,
    "prompt_cache_read_tokens": 40, "prompt_cache_write_tokens": 0, "completion_tokens": 20, "reasoning_tokens": 5,
    "cost": 0.000451, "cache_reference_id": "00000000-0000-0000-0000-000000000000", "cache_enabled": False,
    "request_properties": {"Helicone-Session-Id": "s1", "Helicone-Session-Name": "planner",
                           "Helicone-Session-Path": "/plan", "app": "mobile"},
}  # fmt: skip


class TestHelicone:
    def test_a_row(self, store: MemoryStore, file: Path) -> None:
        """Helicone's disjoint counts become inclusive ones; a session names the run, its path the step."""
        assert read(store, file, "helicone", [HELICONE]) == Summary(imported=1)
        entry = calls(store)["helicone:req-1"]
        assert (entry.input_tokens, entry.cached_tokens, entry.output_tokens, entry.reasoning_tokens) == (
            100,
            40,
            25,
            5,
        )
        assert (entry.run_id, entry.session_id, entry.agent_id, entry.step) == ("s1", "s1", "planner", "/plan")
        assert (entry.api, entry.provider, entry.model) == ("chat", "openai", "gpt-4o-2024-08-06")
        assert (entry.duration_ms, entry.first_byte_ms, entry.http_status) == (1_234, 321, 200)
        assert (entry.cost_nanos, entry.cost_status, entry.tags) == (451_000, "final", (("app", "mobile"),))

    def test_outcomes(self, store: MemoryStore, file: Path) -> None:
        """Cached, refused, cancelled and pending requests are what they were; no cost is unknown."""
        changes: dict[str, dict[str, Any]] = {
            "hit": {"cache_reference_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "cost": 0},
            "failed": {"response_status": 429, "cost": None},
            "abandoned": {"response_status": -3},
            "expired": {"response_status": -2},
        }
        rows = [HELICONE | {"request_id": name} | change for name, change in changes.items()]
        assert read(store, file, "helicone", rows).imported == 4
        found = calls(store)
        assert {name: found[f"helicone:{name}"].status for name in changes} == {name: name for name in changes}
        failed = found["helicone:failed"]
        assert (failed.http_status, failed.error, failed.cost_status) == (429, "HTTP 429", "unpriced")
        assert store.verify() == []

    def test_its_own_csv(self, store: MemoryStore, file: Path) -> None:
        """The export tool's CSV: quotes of an object doubled twice, an empty cell for what is unknown."""
        header = "response_id,response_created_at,response_status,request_created_at,request_body,request_properties,"
        header += "request_user_id,model,prompt_tokens,completion_tokens,latency,cost"
        doubled = '{"""""app"""""":""""mobile""""}'.replace('"""""app""""""', '""""app""""')
        line = f'"res-1","2025-11-24T15:00:04Z","200","2025-11-24T15:00:00Z","hi\nthere","{doubled}","u1","gpt-4o",'
        assert read(store, file, "helicone", f'{header}\n{line}"60","20",,"0.000451"\n') == Summary(imported=1)
        entry = calls(store)["helicone:res-1"]
        assert (entry.tags, entry.duration_ms, entry.cost_nanos) == ((("app", "mobile"),), 4_000, 451_000)
        assert (entry.input_tokens, entry.cached_tokens) == (60, None)


class TestBadFiles:
    def test_bad_lines_cost_themselves(self, store: MemoryStore, file: Path) -> None:
        """Each bad line is reported with its number and why; the good ones around it are booked."""
        lines = [
            b"{", b"", json.dumps(LITELLM).encode(), b"[1]", b'{"request_id": 1}', b"\xff{}", b'{"a": NaN}',
            b'{"a": ' + b"[" * 100_000, b'{"spend": 1e99999999999999999999}',
            json.dumps(LITELLM | {"request_id": "x", "prompt_tokens": -1}).encode(),
            json.dumps(LITELLM | {"request_id": "y", "startTime": "2099-01-01T00:00:00Z"}).encode(),
            json.dumps(LITELLM | {"request_id": "z"}).encode(),
        ]  # fmt: skip
        summary = read(store, file, "litellm", b"\n".join(lines))
        assert (summary.imported, summary.malformed) == (2, 9)
        assert [fault.line for fault in summary.faults] == [1, 4, 5, 6, 7, 8, 9, 10, 11]
        assert "prompt_tokens: expected a whole number from 0 to 2^53, got -1 (row x)" in summary.faults[7].reason
        assert "in the future" in summary.faults[8].reason
        assert store.verify() == []

    def test_a_broken_array(self, store: MemoryStore, file: Path) -> None:
        """What stands before a fault in the syntax is booked, and the line of the fault is told."""
        text = f"[\n{json.dumps(LITELLM)},\n{json.dumps(LITELLM | {'request_id': 'b'})},\n{{nonsense}},\n{{}}]"
        summary = read(store, file, "litellm", text)
        assert (summary.imported, summary.malformed, summary.faults[0].line) == (2, 1, 4)

    def test_a_broken_table(self, store: MemoryStore, file: Path) -> None:
        """A CSV row of another length or with bytes that are no text is refused alone."""
        text = b"request_id,startTime,endTime,model,spend\n"
        for cells in (b"a,2025-11-24T15:00:00Z,2025-11-24T15:00:01Z,m,0.5", b"b,c", b"\xff,2025-11-24,2025-11-24,m,1"):
            text += cells + b"\n"
        summary = read(store, file, "litellm", text)
        assert (summary.imported, [fault.line for fault in summary.faults]) == (1, [3, 4])

    @settings(max_examples=150, deadline=None)
    @given(data=st.data(), kind=st.sampled_from(["litellm", "langfuse", "helicone", "bursar"]))
    def test_nothing_breaks_an_import(self, data: st.DataObject, kind: Kind) -> None:
        """Any JSON in any column: the row is booked or reported, never raised, and the books stay whole."""
        whole = {"litellm": LITELLM, "langfuse": OBSERVATION, "helicone": HELICONE, "bursar": exports.whole(row("r"))}
        values = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
            max_leaves=4,
        )
        changed = data.draw(st.dictionaries(st.sampled_from(sorted(whole[kind])), values, max_size=3))
        store = MemoryStore()
        told = json.dumps(whole[kind] | changed).encode()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(imports.records, "_opened", lambda _: io.BytesIO(told))
            summary = imports.read(Path("-"), kind, store, NOW)
        assert summary.imported + summary.malformed + summary.passed_over >= 1
        assert store.verify() == []

    def test_a_row_twice(self, store: MemoryStore, file: Path) -> None:
        """A row that a file holds twice, and a file that is imported twice, are booked once."""
        assert read(store, file, "litellm", [LITELLM, LITELLM]) == Summary(imported=1, already=1)
        assert read(store, file, "litellm", [LITELLM]) == Summary(already=1)
        (line,) = store.spend("total")
        assert (line.counts.calls, line.counts.cost_nanos) == (1, 43_500)

    def test_a_cut_off_import_is_finished_by_the_next(self, file: Path) -> None:
        """Rows that a killed import had only opened expire, and take their real outcome when it is run again."""
        books = Books()
        killed = MemoryStore(books)
        (entry,) = (e for e in calls_of([LITELLM], file).values())
        killed.reserve(imports._opening(entry)).result(10)
        killed.close()
        store = MemoryStore(books)
        assert calls(store)["litellm:chatcmpl-1"].status == "expired"
        assert read(store, file, "litellm", [LITELLM]) == Summary(imported=1)
        assert calls(store) == {"litellm:chatcmpl-1": entry}
        assert store.verify() == []


def calls_of(rows: list[dict[str, Any]], file: Path) -> dict[str, Entry]:
    """What these rows of LiteLLM come to in a ledger of their own."""
    store = MemoryStore()
    read(store, file, "litellm", rows)
    return calls(store)


class TestCommands:
    @pytest.fixture(autouse=True)
    def at_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("BURSAR_CONFIG", "BURSAR_STORE__URL"):
            monkeypatch.delenv(name, raising=False)

    def test_there_and_back(self, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """`import`, then `export` to stdout, to a file, and into a second ledger: the same rows."""
        file.write_text(json.dumps([LITELLM]))
        assert transfer.import_(file, from_="litellm", json=True) == 0
        told = json.loads(capfd.readouterr().out)
        assert told == {"imported": 1, "already": 0, "passed_over": 0, "malformed": 0, "free": 0, "faults": []}
        assert transfer.export_() == 0
        lines = capfd.readouterr().out
        assert transfer.export_(out=Path("out.jsonl"), json=True) == 0
        assert json.loads(capfd.readouterr().out) == {"rows": 1, "format": "jsonl", "out": "out.jsonl"}
        assert Path("out.jsonl").read_text() == lines
        assert base64.b64decode(json.loads(lines)["blocks"]) == b""
        assert transfer.export_(until="2025-11-24", format="csv") == 0
        assert len(capfd.readouterr().out.splitlines()) == 1

    def test_malformed_lines_are_a_finding(self, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Exit code 1, and each line with its reason on stderr."""
        file.write_text(f"{json.dumps(LITELLM)}\nnonsense\n")
        assert transfer.import_(file, from_="litellm") == 1
        out, err = capfd.readouterr()
        assert out == ""
        assert "1 imported, 1 malformed" in err
        assert "line 2: not JSON" in err

    def test_user_faults(self, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """A missing file, ledger or folder, a time that is none: exit code 2 and one line; no ledger is made."""
        assert transfer.import_(file, from_="litellm") == 2
        assert "is no file" in capfd.readouterr().err
        assert transfer.export_() == 2
        assert "there is no ledger at bursar.db" in capfd.readouterr().err
        assert not Path("bursar.db").exists()
        file.write_text("[]")
        assert transfer.import_(file, from_="litellm") == 0
        assert transfer.export_(since="soon") == 2
        assert "expected a time such as 7d" in capfd.readouterr().err
        assert transfer.export_(out=Path("no/such/folder/x")) == 2
        assert capfd.readouterr().err.count("\n") == 1
        Path("bad.toml").write_text("[stores]\n")
        assert transfer.export_(config=Path("bad.toml")) == 2
        assert "bad.toml:1" in capfd.readouterr().err
