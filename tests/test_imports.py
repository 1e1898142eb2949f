"""Other tools' logs: each row is booked once and as it was recorded, and a line that cannot be read costs that line."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.insights import exports, imports
from bursar.insights.imports import Kind, Summary
from bursar.stores.memory import Books, MemoryStore
from bursar.types import Entry
from transfers import LITELLM, NOON, NOW, calls, exported, read, row


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


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

    def test_a_call_that_did_not_stream(self, store: MemoryStore, file: Path) -> None:
        """LiteLLM writes the end as the first token's time where nothing streamed: that is no first byte."""
        read(store, file, "litellm", [LITELLM | {"completionStartTime": LITELLM["endTime"]}])
        (entry,) = calls(store).values()
        assert (entry.first_byte_ms, entry.stream, entry.duration_ms) == (None, False, 2_500)

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
