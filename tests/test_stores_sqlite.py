"""What only a file on a disk can get wrong: damage, failing disks, schemas, listings that scan, threads."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import books
from books import NOON, ask, claim, done, held, live, row, stands, total
from bursar.stores import StoreFailure, open_store
from bursar.stores.base import Filters
from bursar.stores.counters import FIELDS
from bursar.stores.memory import MemoryStore
from bursar.stores.migrate import HEAD, config
from bursar.stores.owners import Turn
from bursar.stores.sql import AT_COUNTER, CALL_COLUMNS, COUNTER_COLUMNS, FETCH_COUNTERS, RUN_COLUMNS, SKETCH_COLUMNS
from bursar.stores.sqlite import SqliteStore, connect
from bursar.types import Hold

path, template = books.path, books.template


SCANS = {f"SCAN {table}" for table in ("calls", "rollups", "kept", "runs", "counters", "sketches")}


class TestTheAudit:
    @pytest.mark.parametrize(
        ("damage", "what"),
        [
            ("UPDATE rollups SET cost_nanos = cost_nanos + 1 WHERE dim = 'agent|step'", "rollup"),
            ("DELETE FROM rollups WHERE dim = 'tier|api'", "rollup"),
            ("UPDATE rollups SET calls = calls + 1 WHERE grain = 1440 AND dim = 'cache|step'", "rollup"),
            ("DELETE FROM rollups WHERE grain = 40320", "rollup"),
            ("UPDATE run_histogram SET unpriced = 1 WHERE grain = 1440", "histogram"),
            ("UPDATE runs SET tree_cost_nanos = tree_cost_nanos - 1", "tree of run"),
            ("UPDATE runs SET rows = rows + 1", "run run"),
            ("DELETE FROM runs", "run run"),
            ("UPDATE run_histogram SET runs = runs + 1", "histogram"),
            ("UPDATE calls SET cost_nanos = cost_nanos + 1", "rollup"),
            ("UPDATE calls SET cost_status = 'unpriced'", "call r"),
            ("UPDATE calls SET duration_ms = NULL", "call r"),
            ("UPDATE calls SET status = 'open', owner = 'nobody'", "call r"),
            ("DELETE FROM calls", "run run"),
            ("UPDATE counters SET settled_nanos = settled_nanos + 1", "counter"),
            ("UPDATE counters SET held_tokens = 1", "counter"),
            ("UPDATE counters SET rows = rows + 1", "counter"),
            ("DELETE FROM counters", "counter"),
            ("UPDATE calls SET charges = NULL", "counter"),
        ],
    )
    def test_finds_what_was_changed(self, path: Path, damage: str, what: str) -> None:
        """Whatever is altered behind Bursar's back is found and named."""
        store = SqliteStore(path)
        opening = row("r", run_id="run", agent_id="a")
        store.settle(held(store, opening, ask(claim())), done(opening))
        assert store.verify() == []
        with sqlite3.connect(path) as stranger:
            stranger.execute(damage)
        stranger.close()
        assert any(finding.what.startswith(what) for finding in store.verify())
        store.close()


class Disk:
    """A disk that can be told to fail."""

    def __init__(self) -> None:
        self.full = False

    def connect(self, path: Path) -> sqlite3.Connection:
        disk = self

        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if disk.full and sql.startswith("BEGIN IMMEDIATE"):
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *values)

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)


class TestTheDisk:
    def test_full_then_free(self, path: Path) -> None:
        """With the disk full a reserve fails, a settlement is journalled; freed, the settlement is booked, once."""
        disk = Disk()
        store = SqliteStore(path, disk.connect)
        opening = row("r", run_id="run")
        hold = store.reserve(opening).result()
        assert isinstance(hold, Hold)
        disk.full = True
        store.settle(hold, done(opening)).result()
        with pytest.raises(StoreFailure, match=r"disk is full.*free the disk"):
            store.reserve(row("s")).result()
        assert [entry.status for entry in store.call("r")] == ["open"]
        disk.full = False
        store.settle(hold, done(opening)).result()
        assert (total(store).cost_nanos, store.ignored, store.call("s")) == (1_000, 1, [])
        assert store.verify() == []
        store.close()

    def test_journal_outlives_the_process(self, path: Path) -> None:
        """A settlement that was still in the journal when its process ended is booked by the next, not its hold."""
        disk = Disk()
        store = SqliteStore(path, disk.connect)
        opening = row("r")
        hold = store.reserve(opening).result()
        assert isinstance(hold, Hold)
        disk.full = True
        store.settle(hold, done(opening)).result()
        store.close()
        (journal,) = (path.parent / "ledger.db.owners").iterdir()
        assert journal.stat().st_size > 0
        after = SqliteStore(path)
        assert (total(after).cost_nanos, total(after).expired) == (1_000, 0)
        assert (after.verify(), journal.exists()) == ([], False)
        after.close()

    def test_poison_fails_alone(self, path: Path) -> None:
        """A row that cannot be written fails by itself: those that were committed with it stand."""
        store = SqliteStore(path)
        receipts = [store.reserve(row(f"r{number}" if number != 3 else "\ud800")) for number in range(6)]
        with pytest.raises(StoreFailure, match="surrogate"):
            receipts.pop(3).result()
        assert [receipt.result() for receipt in receipts] == [Hold(f"r{number}", 1) for number in (0, 1, 2, 4, 5)]
        assert len(store.calls().items) == 5
        store.close()

    def test_full_while_others_wait(self, path: Path) -> None:
        """Whoever waits for others' holds is told as well; what was held stays held, and is given back later."""
        disk = Disk()
        store = SqliteStore(path, disk.connect)
        patient = claim(patience_ms=60_000)
        opening = row("a")
        hold = held(store, opening, ask(patient, output=900))
        waiting = store.reserve(row("b"), ask(patient, output=500))
        store.flush()
        disk.full = True
        store.settle(hold, done(opening)).result()
        with pytest.raises(StoreFailure, match="disk is full"):
            waiting.result(10)
        assert stands(store, patient)[:2] == (0, 910)
        disk.full = False
        store.settle(hold, done(opening)).result()
        assert (stands(store, patient)[:2], store.verify()) == ((1_000, 0), [])
        store.close()

    def test_poison_does_not_wait(self, path: Path) -> None:
        """What could not be written fails before it begins to wait; those who wait are granted as ever."""
        store = SqliteStore(path)
        patient = claim(patience_ms=60_000)
        live(store, "taken")
        opening = row("a")
        hold = held(store, opening, ask(patient, output=900))
        receipts = [store.reserve(row(name), ask(patient, output=400)) for name in ("b", "\ud800", "taken", "c")]
        with pytest.raises(StoreFailure, match="surrogate"):
            receipts.pop(1).result(10)
        with pytest.raises(StoreFailure, match="in the ledger already"):
            receipts.pop(1).result(10)
        store.flush()
        assert [receipt.done() for receipt in receipts] == [False, False]
        store.settle(hold, done(opening, cost_nanos=0))
        assert [type(receipt.result(10)) for receipt in receipts] == [Hold, Hold]
        assert (stands(store, patient)[:2], store.verify()) == ((0, 820), [])
        store.close()

    def test_not_a_ledger(self, tmp_path: Path) -> None:
        """A file that is no database, and a database of a later Bursar, are refused by name."""
        (tmp_path / "noise.db").write_bytes(b"x" * 5000)
        with pytest.raises(StoreFailure, match="cannot be opened"):
            SqliteStore(tmp_path / "noise.db")
        with sqlite3.connect(tmp_path / "later.db") as later:
            later.execute("CREATE TABLE alembic_version (version_num TEXT)")
            later.execute("INSERT INTO alembic_version VALUES ('9999')")
        later.close()
        with pytest.raises(StoreFailure, match="upgrade bursar"):
            SqliteStore(tmp_path / "later.db")

    def test_urls(self, tmp_path: Path) -> None:
        """A store is picked by its URL; an unknown one says what to give."""
        for url, kind in ((f"sqlite:///{tmp_path / 'new' / 'x.db'}", SqliteStore), ("memory://", MemoryStore)):
            store = open_store(url)
            assert isinstance(store, kind)
            store.close()
        with pytest.raises(StoreFailure, match="give sqlite:///"):
            open_store("mysql://x")


class TestTheSchema:
    def test_head(self) -> None:
        """The revision that the quick check compares with is Alembic's head, and the tables have every column."""
        from alembic.script import ScriptDirectory

        assert ScriptDirectory.from_config(config()).get_current_head() == HEAD

    def test_upgrade_in_place(self, tmp_path: Path) -> None:
        """A ledger of the first revision is brought up to date where it lies: its rows stay, and can be budgeted."""
        from alembic import command
        from sqlalchemy import create_engine, pool

        db = connect(tmp_path / "old.db")
        db.execute("PRAGMA journal_mode = WAL")
        engine = create_engine("sqlite://", creator=lambda: db, poolclass=pool.StaticPool)
        with engine.connect() as bound:
            db.execute("BEGIN IMMEDIATE")
            command.upgrade(config(bound), "0001")
        columns = "request_id, attempt, tenant, tags, started_at, api, provider, model, route_reason, stream, status"
        columns += ", cache, terms, cost_nanos, cost_status, purpose, sdk_retry, blocks, owner, run_id, hold_nanos"
        opening = row("r", run_id="run")
        old = ("r", 1, "default", "{}", opening.started_at, "chat", "openai", "gpt-4o", "caller", 0, "open",
               "bypass", "{}", None, "unpriced", "call", 0, b"", "nobody", "run", 5_000)  # fmt: skip
        db.execute(f"INSERT INTO calls ({columns}) VALUES ({', '.join('?' * len(old))})", old)
        db.execute(
            "INSERT INTO runs (tenant, run_id, root_run_id, first_at, last_at, calls, rows, input_tokens,"
            " output_tokens, cost_nanos, unpriced, tree_rows, tree_cost_nanos, tree_unpriced)"
            " VALUES ('default', 'run', 'run', ?, ?, 0, 0, 0, 0, 0, 0, 0, 0, 0)", (NOON, NOON)
        )  # fmt: skip
        db.close()
        store = SqliteStore(tmp_path / "old.db")
        assert [(entry.status, entry.cost_nanos, entry.charges) for entry in store.call("r")] == [
            ("expired", 5_000, ())
        ]
        asked = ask(claim("task", "run", "run", finish_reserve=200_000), output=900, final=True)
        assert held(store, row("s", run_id="run"), asked).from_reserve
        assert (store.verify(), store.budgets().items[0].rows) == ([], 1)
        store.close()

    def test_columns(self, path: Path) -> None:
        """The tables have exactly the columns that rows are written to; counters too."""
        with sqlite3.connect(path) as db:
            assert {name for _, name, *_ in db.execute("PRAGMA table_info(calls)")} == {"id", *CALL_COLUMNS}
            assert {name for _, name, *_ in db.execute("PRAGMA table_info(rollups)")} >= set(FIELDS)
            for table, columns in (("counters", COUNTER_COLUMNS), ("runs", RUN_COLUMNS), ("sketches", SKETCH_COLUMNS)):
                found = {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}
                assert found - {"id"} == set(columns)
        db.close()

    def test_reports_scan_nothing(self, path: Path) -> None:
        """Listings and reports go through an index."""
        with sqlite3.connect(path) as db:
            for query in (
                "SELECT * FROM calls WHERE run_id = 'x' ORDER BY started_at DESC, id DESC LIMIT 9",
                "WITH family (run_id) AS (VALUES ('x')) SELECT * FROM family CROSS JOIN calls"
                " ON calls.run_id = family.run_id",
                "SELECT * FROM calls ORDER BY started_at DESC, id DESC LIMIT 9",
                "SELECT * FROM calls WHERE request_id = 'x'",
                "SELECT DISTINCT owner FROM calls WHERE status = 'open'",
                "WITH spans (grain, since) AS (VALUES (15, 5), (1440, 9)) SELECT SUM(calls) FROM spans"
                " CROSS JOIN rollups AS kept ON kept.grain = spans.grain AND bucket_start >= since AND dim = 'x'"
                " GROUP BY first_key",
                "SELECT * FROM runs WHERE tenant = 'x' AND root_run_id = 'y' AND parent_run_id IS NOT NULL",
                f"SELECT * FROM counters WHERE {AT_COUNTER.replace('?', '0')}",
                "SELECT * FROM counters WHERE tenant = 'x' AND scope = 'run' AND key = 'y' ORDER BY window_start",
                "SELECT * FROM counters WHERE window_end IS NULL ORDER BY touched_at DESC, id DESC LIMIT 9",
                "SELECT * FROM counters WHERE window_end > 5 ORDER BY touched_at DESC, id DESC",
                FETCH_COUNTERS.replace("?", "'[]'"),
                "SELECT * FROM sketches WHERE kind = 'x' AND first_key = 'x' AND second_key = 'y' AND tenant = 'z'",
            ):
                plan = [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {query}")]
                assert not any(step in SCANS for step in plan), (query, plan)
                assert "LIMIT" not in query or not any("TEMP B-TREE" in step for step in plan), (query, plan)
        db.close()

    @pytest.mark.parametrize(
        ("filters", "indexes"),
        [
            (Filters(), ["calls_time"]),
            (Filters(agent_id="x", status="failed"), ["calls_time"]),
            (Filters(run_id="x"), ["calls_run"]),
            (Filters(user_id="x"), ["calls_user", "calls_open"]),
            (Filters(user_id="x", status="completed"), ["calls_user"]),
            (Filters(session_id="x", since=NOON), ["calls_session", "calls_open"]),
            (Filters(session_id="x", status="open"), ["calls_open"]),
        ],
    )
    def test_listings_walk_an_index(self, path: Path, filters: Filters, indexes: list[str]) -> None:
        """The statement that a listing really runs walks the index of its label; only open rows are ever sorted."""
        asked: list[str] = []

        def traced(path: Path) -> sqlite3.Connection:
            connection = connect(path)
            connection.set_trace_callback(asked.append)
            return connection

        store = SqliteStore(path, traced)
        live(store, "r", user_id="x", session_id="x", run_id="x")
        asked.clear()
        store.calls(filters)
        store.close()
        (query,) = (text for text in asked if text.startswith("SELECT request_id"))
        with sqlite3.connect(path) as db:
            plan = [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {query}")]
        db.close()
        assert [step.split("USING INDEX ")[-1].split()[0] for step in plan if "calls" in step] == indexes, plan
        assert sum("TEMP B-TREE" in step for step in plan) == indexes.count("calls_open"), plan

    def test_opening_again_needs_no_alembic(self, path: Path) -> None:
        """Opening a ledger that is up to date imports neither Alembic nor SQLAlchemy."""
        code = (
            "import sys; from bursar.stores.sqlite import SqliteStore; SqliteStore(sys.argv[1]).close();"
            "sys.exit(int(any(name in sys.modules for name in ('alembic', 'sqlalchemy'))))"
        )
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0

    def test_two_processes_open_a_new_file(self, tmp_path: Path) -> None:
        """Both succeed; one of them migrates."""
        code = "import sys; from bursar.stores.sqlite import SqliteStore; SqliteStore(sys.argv[1]).close()"
        runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new.db")]) for _ in range(3)]
        assert [run.wait(60) for run in runs] == [0, 0, 0]
        store = SqliteStore(tmp_path / "new.db")
        live(store, "r")
        assert store.verify() == []
        store.close()


class TestThreads:
    def test_many_callers(self, path: Path) -> None:
        """Threads share one store: each gets its own answer and nothing is lost."""
        store = SqliteStore(path)

        def work(name: str) -> None:
            for number in range(50):
                live(store, f"{name}-{number}", agent_id=name)

        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (total(store).completed, store.verify()) == (400, [])
        store.close()

    def test_one_hop_a_batch(self, path: Path) -> None:
        """However many answers a batch holds, each event loop is called into once for it."""
        store = SqliteStore(path)
        hops = list[Any]()
        heard = threading.Event()
        answers = list[Any]()

        def post(function: Callable[..., Any], *arguments: Any) -> None:
            hops.append(function)
            function(*arguments)

        def hear(receipt: Any) -> None:
            answers.append(receipt.result())
            if len(answers) == 100:
                heard.set()

        turn = Turn(path)
        with turn.taken():  # somebody else's: the writer has to wait, and the jobs gather
            for number in range(100):
                store.reserve(row(f"r{number}")).add_done_callback(hear, post)
        assert heard.wait(10)
        turn.close()
        store.close()
        assert len(hops) <= 2
        assert {answer.request_id for answer in answers} == {f"r{number}" for number in range(100)}


def test_connection_settings(path: Path) -> None:
    """The ledger runs on a write-ahead log, synced at checkpoints."""
    db = connect(path)
    assert (db.execute("PRAGMA journal_mode").fetchone(), db.execute("PRAGMA synchronous").fetchone()) == (
        ("wal",),
        (1,),
    )
    db.close()
