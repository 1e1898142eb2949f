"""Shared states, on every store: no change is lost, the log, listings; for SQLite what only a file can do."""

import functools
import itertools
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import books
from books import NOON, AnyStore, Opener, Watch, done, live, row, total
from bursar.stores import StoreFailure
from bursar.stores.owners import Turn
from bursar.stores.sql import EVENT_COLUMNS, STATE_COLUMNS
from bursar.stores.sqlite import SqliteStore, connect
from bursar.stores.states import Change, Changed, Event, State
from bursar.types import Hold, Instant

opened, path, store, template, watch = books.opened, books.path, books.store, books.template, books.watch


def put(body: bytes | None, *events: bytes) -> Change[bytes | None]:
    """Whatever is there: this from now on. Results in what was there."""
    return lambda found, now: Changed(body, found, events)


def add(found: bytes | None, now: Instant) -> Changed[int]:
    """One more, and a line of the log that says which."""
    number = int(found or b"0") + 1
    return Changed(b"%d" % number, number, (b"%d" % number,))


def fail(found: bytes | None, now: Instant) -> Changed[int]:
    raise LookupError("no such thing")


def keys(store: AnyStore, kind: str = "k", **asked: Any) -> list[str]:
    return [state.key for state in store.states.list(kind, **asked).items]


def lines(store: AnyStore, kind: str = "k", **asked: Any) -> list[bytes]:
    return [event.body for event in store.states.log(kind, limit=10_000, **asked).items]


class TestChanges:
    def test_a_document_lives_and_dies(self, store: AnyStore, watch: Watch) -> None:
        """Made, changed with what was found in hand, deleted; each by the store's own clock."""
        states = store.states
        assert states.get("k", "t", ["a"]) == {}
        assert states.update("k", "t", "a", put(b"1", b"made")).result(10) is None
        watch.forward(5)
        heard: list[Instant] = []

        def change(found: bytes | None, now: Instant) -> Changed[bytes | None]:
            heard.append(now)
            return Changed(b"\x00\xff", found)

        assert states.update("k", "t", "a", change).result(10) == b"1"
        assert (states.get("k", "t", ["a", "b"]), heard) == ({"a": b"\x00\xff"}, [NOON + 5])
        (found,) = states.list("k").items
        assert found == State(tenant="t", key="a", body=b"\x00\xff", changed_at=Instant(NOON + 5))
        assert states.update("k", "t", "a", put(None, b"gone")).result(10) == b"\x00\xff"
        assert states.update("k", "t", "a", put(None)).result(10) is None
        assert (states.get("k", "t", ["a"]), states.list("k").items) == ({}, ())
        assert states.log("k").items == (
            Event(kind="k", tenant="t", key="a", body=b"gone", at=Instant(NOON + 5)),
            Event(kind="k", tenant="t", key="a", body=b"made", at=NOON),
        )

    def test_what_is_found_again_is_no_change(self, store: AnyStore, watch: Watch) -> None:
        """A document that comes out as it went in keeps its time; its line is logged all the same."""
        store.states.update("k", "t", "a", put(b"1")).result(10)
        watch.forward(5)
        store.states.update("k", "t", "a", put(b"1", b"seen")).result(10)
        assert [state.changed_at for state in store.states.list("k").items] == [NOON]
        assert lines(store) == [b"seen"]

    def test_order_of_submission(self, store: AnyStore) -> None:
        """Changes of one process are made one after another, in the order in which they were handed in."""
        receipts = [store.states.update("k", "t", "a", add) for _ in range(1_000)]
        store.flush()
        assert [receipt.result(10) for receipt in receipts] == list(range(1, 1_001))
        assert lines(store) == [b"%d" % number for number in range(1_000, 0, -1)]

    def test_what_raises_harms_nobody_else(self, store: AnyStore) -> None:
        """An exception reaches whoever asked; what was written in the same step stands, ledger rows included."""
        opening = row("r")
        store.reserve(opening).result(10)
        first = store.states.update("k", "t", "a", add)
        failed = store.states.update("k", "t", "a", fail)
        leaves: Any = lambda found, now: sys.exit(3)  # noqa: E731
        left = store.states.update("k", "t", "a", leaves)
        senseless: Any = lambda found, now: None  # noqa: E731
        nonsense = store.states.update("k", "t", "a", senseless)
        last = store.states.update("k", "t", "a", add)
        store.settle(Hold("r", 1), done(opening)).result(10)
        assert (first.result(10), last.result(10)) == (1, 2)
        with pytest.raises(LookupError, match="no such thing"):
            failed.result(10)
        with pytest.raises(SystemExit):
            left.result(10)
        with pytest.raises(AttributeError):
            nonsense.result(10)
        assert (store.states.get("k", "t", ["a"]), lines(store)) == ({"a": b"2"}, [b"2", b"1"])
        assert (total(store).completed, store.verify()) == (1, [])

    def test_threads(self, store: AnyStore) -> None:
        """However many threads count on one document, none of their counts is lost or told twice."""
        told = list[int]()

        def work() -> None:
            receipts = [store.states.update("k", "t", "a", add) for _ in range(100)]
            told.extend(receipt.result(30) for receipt in receipts)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(told) == list(range(1, 801))
        assert store.states.get("k", "t", ["a"]) == {"a": b"800"}

    def test_every_store_on_the_books(self, opened: Opener) -> None:
        """What one store has changed another finds, at once and after the first is closed."""
        first, second = opened(), opened()
        assert [store.states.update("k", "t", "a", add).result(10) for store in (first, second, first)] == [1, 2, 3]
        first.close()
        assert opened().states.get("k", "t", ["a"]) == {"a": b"3"}
        assert lines(second) == [b"3", b"2", b"1"]
        with pytest.raises(StoreFailure, match="open another"):
            first.states.update("k", "t", "a", add).result(10)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.sampled_from("kl"), st.sampled_from("tu"), st.sampled_from("ab"),
                              st.none() | st.binary(max_size=3), st.booleans())))  # fmt: skip
    def test_as_a_dictionary(self, opened: Opener, steps: list[tuple[str, str, str, bytes | None, bool]]) -> None:
        """Any changes of any documents leave what a dictionary and a list would hold, in each kind and tenant."""
        store = opened.stores[0] if opened.stores else opened()
        mark = f"{next(_MARKS)}"
        held: dict[tuple[str, str, str], bytes] = {}
        logged = list[tuple[str, str, str, bytes]]()
        for kind, tenant, key, body, awaited in steps:
            at = (mark + kind, tenant, key)
            receipt = store.states.update(*at, put(body, body or b"-", b"."))
            if awaited:
                assert receipt.result(10) == held.get(at)
            if body is None:
                held.pop(at, None)
            else:
                held[at] = body
            logged += [(*at, body or b"-"), (*at, b".")]
        store.flush()
        for kind, tenant in itertools.product((mark + "k", mark + "l"), "tu"):
            of = {key: body for (a, b, key), body in held.items() if (a, b) == (kind, tenant)}
            assert store.states.get(kind, tenant, ["a", "b", "c"]) == of
            assert {state.key: state.body for state in store.states.list(kind, tenant).items} == of
            told = [event.body for event in store.states.log(kind, tenant, limit=10_000).items]
            assert told == [body for a, b, _, body in reversed(logged) if (a, b) == (kind, tenant)]


_MARKS = itertools.count()


class TestListings:
    def test_by_kind_tenant_and_prefix(self, store: AnyStore, watch: Watch) -> None:
        """The last changed comes first; neither another kind, nor another tenant, nor another beginning is seen."""
        for kind, tenant, key in (
            ("k", "t", "a:1"), ("k", "t", "b:1"), ("k", "u", "a:1"), ("l", "t", "a:9"), ("k", "t", "a:2"),
            ("k", "t", "%:3"), ("k", "t", "ä:4"),
        ):  # fmt: skip
            store.states.update(kind, tenant, key, put(b"x"))
            store.flush()
            watch.forward(1)
        store.states.update("k", "t", "a:1", put(b"y"))
        assert keys(store) == ["a:1", "ä:4", "%:3", "a:2", "a:1", "b:1"]
        assert keys(store, tenant="t", prefix="a:") == ["a:1", "a:2"]
        assert [keys(store, prefix=prefix) for prefix in ("%", "ä", "_:")] == [["%:3"], ["ä:4"], []]
        assert (keys(store, kind="l"), keys(store, kind="m"), keys(store, tenant="v")) == (["a:9"], [], [])
        assert store.states.get("k", "u", ["a:1", "b:1"]) == {"a:1": b"x"}

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
    def test_pages(self, store: AnyStore, watch: Watch, limit: int) -> None:
        """Page by page everything comes once, in order, those of one instant too; a foreign cursor is refused."""
        for number in range(7):
            store.states.update("k", f"t{number % 2}", f"{number}", put(b"x", b"%d" % number))
            store.flush()
            watch.forward(number % 3)
        for tenant in (None, "t0"):
            listed, logged = list[str](), list[bytes]()
            cursor: str | None = None
            while True:
                states = store.states.list("k", tenant, limit=limit, cursor=cursor)
                listed += [state.key for state in states.items]
                cursor = states.next_cursor
                if cursor is None:
                    break
            while True:
                events = store.states.log("k", tenant, limit=limit, cursor=cursor)
                logged += [event.body for event in events.items]
                cursor = events.next_cursor
                if cursor is None:
                    break
            due = [number for number in range(6, -1, -1) if tenant is None or number % 2 == 0]
            assert listed == [f"{number}" for number in due]
            assert logged == [b"%d" % number for number in due]
        for ask in (store.states.list, store.states.log):
            with pytest.raises(ValueError, match="next_cursor"):
                ask("k", cursor="here")

    def test_the_log_of_one(self, store: AnyStore) -> None:
        """By key, in one tenant or in all of them, in the order of writing though the clock was set back."""
        for tenant, key in (("t", "a"), ("u", "a"), ("t", "b"), ("t", "a")):
            store.states.update("k", tenant, key, put(b"x", f"{tenant}{key}1".encode(), f"{tenant}{key}2".encode()))
        assert lines(store, tenant="t", key="a") == [b"ta2", b"ta1", b"ta2", b"ta1"]
        assert lines(store, key="a") == [b"ta2", b"ta1", b"ua2", b"ua1", b"ta2", b"ta1"]
        assert lines(store, tenant="u", key="b") == []

    def test_the_clock_is_set_back(self, store: AnyStore, watch: Watch) -> None:
        """The log is in the order of writing, whatever the clock says."""
        for back in (0, -50, 20):
            watch.forward(back)
            store.states.update("k", "t", "a", put(b"x", b"%d" % back)).result(10)
        assert lines(store) == [b"20", b"-50", b"0"]

    def test_many_at_once(self, store: AnyStore) -> None:
        """More keys than one question holds."""
        for number in range(1_100):
            store.states.update("k", "t", f"{number}", put(b"%d" % number))
        store.flush()
        found = store.states.get("k", "t", [f"{number}" for number in range(-100, 1_200)])
        assert found == {f"{number}": b"%d" % number for number in range(1_100)}
        assert store.states.get("k", "t", []) == {}


COUNTER = """
import sys
sys.path.insert(0, sys.argv[1])
from bursar.stores.sqlite import SqliteStore
from test_stores_states import add
store = SqliteStore(sys.argv[2])
for number in range(int(sys.argv[3])):
    print(store.states.update("k", "t", "a", add).result(), flush=True)
store.close()
"""


def counter(path: Path, times: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", COUNTER, str(Path(__file__).parent), str(path), str(times)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


class TestProcesses:
    def test_none_is_lost(self, path: Path) -> None:
        """Four processes count on one document: each number is told once, and the log has all of them in order."""
        told = [int(line) for process in [counter(path, 150) for _ in range(4)]
                for line in process.communicate(timeout=60)[0].split()]  # fmt: skip
        assert sorted(told) == list(range(1, 601))
        store = SqliteStore(path)
        assert store.states.get("k", "t", ["a"]) == {"a": b"600"}
        assert lines(store) == [b"%d" % number for number in range(600, 0, -1)]
        store.close()

    def test_kill_9(self, path: Path) -> None:
        """What a receipt has confirmed outlives the process, and document and log agree on all that does."""
        victim = counter(path, 1_000_000)
        assert victim.stdout is not None
        told = [int(victim.stdout.readline()) for _ in range(50)]
        victim.send_signal(signal.SIGKILL)
        told += [int(line) for line in victim.communicate(timeout=30)[0].splitlines(keepends=True) if "\n" in line]
        store = SqliteStore(path)
        stands = int(store.states.get("k", "t", ["a"])["a"])
        assert told == list(range(1, len(told) + 1))
        assert stands >= len(told)
        assert lines(store) == [b"%d" % number for number in range(stands, 0, -1)]
        store.close()

    def test_in_a_forked_child(self, path: Path) -> None:
        """States that were asked for before the fork go on in the child, through its own writer."""
        store = SqliteStore(path)
        states = store.states
        assert states.update("k", "t", "a", add).result(10) == 1

        def child() -> None:
            assert states.update("k", "t", "a", add).result(10) == 2
            store.close()

        assert books.in_child(child) == 0
        assert states.update("k", "t", "a", add).result(10) == 3
        store.close()


class Failing(sqlite3.Connection):
    full = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if Failing.full and sql.startswith("BEGIN IMMEDIATE"):
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *values)


def on_a_failing_disk(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)


class TestTheFile:
    def test_read_while_the_writer_waits(self, path: Path) -> None:
        """Reading a document stands behind nothing: neither another process's turn nor an open transaction."""
        store = SqliteStore(path)
        store.states.update("k", "t", "a", put(b"1")).result(10)
        turn = Turn(path)
        stranger = connect(path)
        with turn.taken():
            stranger.execute("BEGIN IMMEDIATE")
            late = store.states.update("k", "t", "a", put(b"2"))
            late.add_done_callback(lambda receipt: None)  # somebody waits: it is handed to the writer now
            assert (store.states.get("k", "t", ["a"]), late.done()) == ({"a": b"1"}, False)
            stranger.execute("ROLLBACK")
        assert late.result(10) == b"1"
        assert store.states.get("k", "t", ["a"]) == {"a": b"2"}
        stranger.close()
        turn.close()
        store.close()

    def test_survives_reopening(self, path: Path) -> None:
        """What nobody waited for is written by close, and is there in the next process."""
        store = SqliteStore(path)
        store.states.update("k", "t", "a", put(json.dumps({"p": 0.5}).encode(), b"learned"))
        store.close()
        after = SqliteStore(path)
        assert (after.states.get("k", "t", ["a"]), lines(after)) == ({"a": b'{"p": 0.5}'}, [b"learned"])
        after.close()

    def test_a_full_disk_loses_knowledge_and_says_so(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A change that cannot be written is told to who waits, logged once, and not tried again; later ones go on."""
        store = SqliteStore(path, on_a_failing_disk)
        try:
            store.states.update("k", "t", "a", add).result(10)
            Failing.full = True
            with caplog.at_level(logging.ERROR, "bursar.stores"):
                for _ in range(3):
                    with pytest.raises(StoreFailure, match=r"disk is full.*free the disk"):
                        store.states.update("k", "t", "a", add).result(10)
            assert [record.getMessage().split(", ")[-1] for record in caplog.records] == [
                "1 changes of states and marks are lost"
            ]
        finally:
            Failing.full = False
        assert store.states.update("k", "t", "a", add).result(10) == 2
        assert lines(store) == [b"2", b"1"]
        store.close()

    @pytest.mark.parametrize(
        ("key", "body"), [("\ud800", b"x"), ("a", "text")], ids=["a key that is no Unicode", "a body that is no bytes"]
    )
    def test_poison_fails_alone(self, path: Path, key: str, body: Any) -> None:
        """What no table takes fails by itself; what was handed in with it is written, in its order and once."""
        store = SqliteStore(path)
        turn = Turn(path)
        with turn.taken():  # the writer has to wait, and the jobs gather
            before = [store.states.update("k", "t", "a", add) for _ in range(3)]
            poison = store.states.update("k", "t", key, put(body))
            after = [store.states.update("k", "t", "a", add) for _ in range(3)]
            store.reserve(row("r"))
        assert [receipt.result(10) for receipt in (*before, *after)] == [1, 2, 3, 4, 5, 6]
        with pytest.raises(StoreFailure, match="cannot be written"):
            poison.result(10)
        assert (lines(store), len(store.call("r"))) == ([b"6", b"5", b"4", b"3", b"2", b"1"], 1)
        turn.close()
        store.close()

    def test_called_again_where_the_step_is_repeated(self, path: Path) -> None:
        """Behind a row that somebody else has closed the step is made twice: the change is written once."""
        store = SqliteStore(path)
        opening = row("r")
        store.reserve(opening).result(10)
        with sqlite3.connect(path) as stranger:
            stranger.execute("UPDATE calls SET status = 'expired', cost_nanos = 5000, cost_status = 'estimated'")
        stranger.close()
        calls: list[bytes | None] = []

        def change(found: bytes | None, now: Instant) -> Changed[int]:
            calls.append(found)
            return add(found, now)

        turn = Turn(path)
        with turn.taken():
            counted = store.states.update("k", "t", "a", change)
            store.settle(Hold("r", 1), done(opening))
        assert (counted.result(10), calls, lines(store)) == (1, [None, None], [b"1"])
        turn.close()
        store.close()

    def test_the_tables(self, path: Path) -> None:
        """They have the columns that are written, and every listing walks an index in its order."""
        with sqlite3.connect(path) as db:
            for table, columns in (("states", STATE_COLUMNS), ("events", EVENT_COLUMNS)):
                assert {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")} == {"id", *columns}
        db.close()
        asked: list[str] = []

        def traced(path: Path) -> sqlite3.Connection:
            connection = connect(path)
            connection.set_trace_callback(asked.append)
            return connection

        store = SqliteStore(path, traced)
        live(store, "r")
        listed: list[Callable[[], object]] = [
            lambda: store.states.get("k", "t", ["a", "b"]),
            lambda: store.states.list("k"),
            lambda: store.states.list("k", cursor="5.5"),
            *(functools.partial(store.states.log, "k", *of) for of in ((), ("t",), ("t", "a"), (None, "a"))),
        ]
        for ask in listed:
            ask()
        store.close()
        with sqlite3.connect(path) as db:
            queries = [text for text in asked if " FROM states" in text or " FROM events" in text]
            assert len(queries) == len(listed)
            for query in queries:
                plan = [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {query}")]
                assert plan and all(step.startswith("SEARCH") for step in plan), (query, plan)
        db.close()
