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
from books import NOON, done, live, row, total
from bursar.stores import StoreFailure, open_store
from bursar.stores.base import Filters
from bursar.stores.counters import FIELDS
from bursar.stores.group import GroupCommit
from bursar.stores.memory import MemoryStore
from bursar.stores.migrate import HEAD, config
from bursar.stores.owners import Turn
from bursar.stores.sql import CALL_COLUMNS
from bursar.stores.sqlite import SqliteStore, connect
from bursar.types import Hold

path, template = books.path, books.template


class TestTheAudit:
    @pytest.mark.parametrize(
        ("damage", "what"),
        [
            ("UPDATE rollups SET cost_nanos = cost_nanos + 1 WHERE dim = 'agent|step'", "rollup"),
            ("DELETE FROM rollups WHERE dim = 'tier|api'", "rollup"),
            ("UPDATE runs SET tree_cost_nanos = tree_cost_nanos - 1", "tree of run"),
            ("UPDATE runs SET rows = rows + 1", "run run"),
            ("DELETE FROM runs", "run run"),
            ("UPDATE run_histogram SET runs = runs + 1", "histogram"),
            ("UPDATE calls SET cost_nanos = cost_nanos + 1", "rollup"),
            ("UPDATE calls SET cost_status = 'unpriced'", "call r"),
            ("UPDATE calls SET duration_ms = NULL", "call r"),
            ("UPDATE calls SET status = 'open', owner = 'nobody'", "call r"),
            ("DELETE FROM calls", "run run"),
        ],
    )
    def test_finds_what_was_changed(self, path: Path, damage: str, what: str) -> None:
        """Whatever is altered behind Bursar's back is found and named."""
        store = SqliteStore(path)
        live(store, "r", run_id="run", agent_id="a")
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

    def test_columns(self, path: Path) -> None:
        """The tables have exactly the columns that rows are written to; counters too."""
        with sqlite3.connect(path) as db:
            assert {name for _, name, *_ in db.execute("PRAGMA table_info(calls)")} == {"id", *CALL_COLUMNS}
            assert {name for _, name, *_ in db.execute("PRAGMA table_info(rollups)")} >= set(FIELDS)
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
                "SELECT SUM(calls) FROM rollups WHERE dim = 'x' AND bucket_start >= 5 GROUP BY first_key",
                "SELECT * FROM runs WHERE tenant = 'x' AND root_run_id = 'y' AND parent_run_id IS NOT NULL",
            ):
                plan = [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {query}")]
                assert not any(step in ("SCAN calls", "SCAN rollups", "SCAN runs") for step in plan), (query, plan)
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_writer_says_so() -> None:
    """Should the writing thread die of a bug, the jobs it had and all later ones are told; nobody waits for ever."""
    buried, told = list[int](), threading.Event()

    def commit(jobs: list[int]) -> None:
        raise ZeroDivisionError("a bug")

    def bury(jobs: list[int], fault: BaseException) -> None:
        buried.extend(jobs)
        told.set()

    group = GroupCommit[int](commit, bury, lambda: None, lambda: None)
    assert group.submit(1, "now")
    assert told.wait(10)
    assert group._thread is not None
    group._thread.join(10)
    assert (buried, group.submit(2, "now"), type(group.fault)) == ([1], False, ZeroDivisionError)


def test_a_settlement_never_overtakes_its_reserve() -> None:
    """However they were queued, a reserve is written before its settlement, and what asks for all comes last."""
    batches = list[list[str]]()
    gate, began = threading.Event(), threading.Event()

    def commit(jobs: list[str]) -> None:
        began.set()
        gate.wait(10)
        batches.append(jobs)

    group = GroupCommit[str](commit, lambda jobs, fault: None, lambda: None, lambda: None)
    group.submit("first", "now")
    assert began.wait(10)
    for number in range(300):
        group.submit(f"reserve {number}", "now")
        group.submit(f"settle {number}", "soon")
    group.submit("mark", "last")
    gate.set()
    group.close()
    order = [job for batch in batches for job in batch]
    assert len(order) == 602 and order[-1] == "mark"
    assert all(order.index(f"reserve {number}") < order.index(f"settle {number}") for number in range(300))


def test_connection_settings(path: Path) -> None:
    """The ledger runs on a write-ahead log, synced at checkpoints."""
    db = connect(path)
    assert (db.execute("PRAGMA journal_mode").fetchone(), db.execute("PRAGMA synchronous").fetchone()) == (
        ("wal",),
        (1,),
    )
    db.close()
