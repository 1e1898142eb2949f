"""The ledger out and in again: what is exported comes back whole, in every format, and by the two commands."""

import base64
import csv
import io
import json
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.doors.cli import transfer
from bursar.insights import exports, imports, rows
from bursar.insights.imports import Summary
from bursar.stores.base import Filters
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry, Instant, Terms
from transfers import LITELLM, NOON, NOW, book, calls, exported, read, row


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
    validated=st.none() | st.booleans(), verdict=st.sampled_from([None, '{"ok": 1.50}', '"ä"']),
    tenant=st.sampled_from(["default", "acme"]),
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
            {"blocks": "?"}, {"started_at": "2099-01-01"}, {"agent_id": "\ufdd0"}, {"verdict": "{"},
            {"decision": "\ud800"}, {"decision": {}},
        ]  # fmt: skip
        good = exports.whole(row("good"))
        lines = [json.dumps(good | {"request_id": str(n)} | change) for n, change in enumerate(bad)]
        summary = read(store, file, "bursar", "\n".join([*lines, json.dumps(good)]))
        assert (summary.imported, summary.malformed) == (1, len(bad))
        assert [fault.line for fault in summary.faults] == list(range(1, len(bad) + 1))
        assert store.verify() == []


class TestFormats:
    def test_what_was_judged_and_decided(self) -> None:
        """Machines are told as JSON what the ledger keeps as JSON; an export carries the very text."""
        one = row("r", verdict='{"ok": true, "score": 0.90}')
        assert (rows.call(one)["verdict"], rows.call(one)["decision"]) == ({"ok": True, "score": 0.9}, None)
        assert (exports.whole(one)["verdict"], exports.whole(one)["decision"]) == (one.verdict, None)

    def test_csv(self, store: MemoryStore) -> None:
        """CSV has the contract's columns, exact dollars, and an empty cell for the unknown."""
        first_row = row("r", error='a "b",\nc', cost_nanos=15, verdict='{"ok":true}')
        book(store, first_row, row("s", cost_nanos=None, cost_status="unpriced"))
        first, second = csv.DictReader(io.StringIO(exported(store, "csv").decode(), newline=""))
        assert (first["cost_usd"], first["error"], first["stream"]) == ("0.000000015", 'a "b",\nc', "true")
        assert (second["cost_usd"], second["cost_status"], second["cached_tokens"]) == ("", "unpriced", "")
        assert (json.loads(first["tags"]), first["verdict"], first["decision"]) == ({"team": "x"}, '{"ok":true}', "")
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
