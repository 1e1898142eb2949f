"""Many processes on one ledger: they write at once, are killed, fork amid their work, end without closing."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import books
from books import done, in_child, live, row, total
from bursar.stores import StoreFailure
from bursar.stores.sqlite import SqliteStore
from bursar.types import Hold

path, template = books.path, books.template


WORKER = """
import sys, zlib
sys.path.insert(0, sys.argv[1])
from books import Hold, SqliteStore, done, row
store, me, pairs = SqliteStore(sys.argv[2]), sys.argv[3], int(sys.argv[4])
for start in range(0, pairs, 20):
    numbers = range(start, start + 20)
    entries = [row(f"{me}-{n}", run_id=f"run{n % 7}", parent_run_id="root", agent_id=me) for n in numbers]
    for entry, receipt in [(entry, store.reserve(entry)) for entry in entries]:
        store.settle(receipt.result(), done(entry))
store.flush()
print("settled", flush=True)
store.reserve(row(f"{me}-open", agent_id=me)).result()
print("open", flush=True)
sys.stdin.read()
store.close()
"""


def worker(path: Path, name: str, pairs: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(path), name, str(pairs)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class TestProcesses:
    def test_four_writers(self, path: Path) -> None:
        """Four processes write at once: every pair is booked exactly once, under shared runs too."""
        workers = [worker(path, f"w{number}", 100) for number in range(4)]
        for each in workers:
            each.communicate(timeout=60)
            assert each.returncode == 0
        store = SqliteStore(path)
        assert {line.key: line.counts.completed for line in store.spend("agent")} == {f"w{n}": 100 for n in range(4)}
        assert (total(store).cost_nanos, total(store).expired) == (400 * 1_000 + 4 * 5_000, 4)
        root = store.run_total("root")
        assert root is not None and root.tree_cost_nanos == 400 * 1_000
        assert store.verify() == []
        store.close()

    def test_kill_9(self, path: Path) -> None:
        """A killed process loses no committed row; what it had open is expired at its hold at the next opening."""
        victim = worker(path, "v", 40)
        assert victim.stdout is not None
        assert [victim.stdout.readline().strip() for _ in range(2)] == ["settled", "open"]
        watcher = SqliteStore(path)
        assert (watcher.sweep(), total(watcher).expired) == (0, 0)
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=10)
        store = SqliteStore(path)
        assert (total(store).completed, total(store).expired) == (40, 1)
        assert [entry.cost_nanos for entry in store.call("v-open")] == [5_000]
        assert (store.verify(), watcher.sweep()) == ([], 0)
        watcher.close()
        store.close()

    def test_fork(self, path: Path) -> None:
        """A forked child writes as an owner of its own; the parent goes on, and its open rows stay its own."""
        store = SqliteStore(path)
        opening = row("parent", agent_id="parent")
        hold = store.reserve(opening).result()
        assert isinstance(hold, Hold)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                live(store, "child", agent_id="child")
                store.settle(hold, done(opening, cost_nanos=7)).result(10)
                code = 0 if (store.ignored, total(store).completed) == (1, 1) else 2
                store.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.settle(hold, done(opening)).result()
        assert {line.key for line in store.spend("agent")} == {"parent", "child"}
        assert (total(store).cost_nanos, store.verify()) == (2_000, [])
        store.close()

    def test_fork_amid_writes(self, path: Path) -> None:
        """A fork while other threads write and read without pause leaves the child a ledger that it can write."""
        store = SqliteStore(path)
        stop, began = threading.Event(), threading.Barrier(3)

        def write(name: str) -> None:
            began.wait(10)
            for number in itertools.count():
                if stop.is_set():
                    return
                live(store, f"{name}-{number}", agent_id="parent")

        def read() -> None:
            began.wait(10)
            while not stop.is_set():
                store.calls(limit=5)

        threads = [threading.Thread(target=write, args=("a",)), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        began.wait(10)
        codes = [in_child(lambda: live(store, f"c{number}", agent_id="child")) for number in range(20)]  # noqa: B023
        stop.set()
        for thread in threads:
            thread.join(30)
        assert codes == [0] * 20
        counts = {line.key: line.counts for line in store.spend("agent")}
        assert (counts["child"].completed, counts["parent"].expired, store.verify()) == (20, 0, [])
        store.close()

    def test_the_child_outlives_its_parents_store(self, path: Path) -> None:
        """The child's locks are its own: the parent, closing, sees that the file is in use and leaves its log."""
        store = SqliteStore(path)
        live(store, "before")
        ours, theirs = os.pipe(), os.pipe()

        def child() -> None:
            live(store, "child 1")
            os.write(theirs[1], b"x")
            os.read(ours[0], 1)
            live(store, "child 2")
            store.close()

        def parent() -> None:
            os.read(theirs[0], 1)
            live(store, "parent")
            store.close()
            assert path.with_name("ledger.db-wal").exists()
            os.write(ours[1], b"x")

        assert in_child(child, parent) == 0
        after = SqliteStore(path)
        assert {entry.request_id for entry in after.calls().items} == {"before", "child 1", "child 2", "parent"}
        assert after.verify() == []
        after.close()

    def test_a_closed_store_stays_closed_in_a_child(self, path: Path) -> None:
        """A fork does not open again what was closed."""
        store = SqliteStore(path)
        store.close()

        def refused() -> None:
            with pytest.raises(StoreFailure, match="has been closed"):
                store.reserve(row("r")).result(10)

        assert in_child(refused) == 0

    def test_a_fork_does_not_keep_the_dead_alive(self, path: Path) -> None:
        """A child that outlives its parent does not hold the parent's rows open."""
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[1]); from books import SqliteStore, row\n"
            "store = SqliteStore(sys.argv[2]); store.reserve(row('r')).result()\n"
            "if os.fork() == 0:\n    os.write(1, b'lives'); sys.stdin.read(); os._exit(0)\n"
            "os._exit(0)"
        )
        arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(path)]
        parent = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert parent.stdin is not None and parent.stdout is not None
        assert (parent.wait(30), parent.stdout.read(5)) == (0, b"lives")
        store = SqliteStore(path)
        assert [entry.status for entry in store.call("r")] == ["expired"]
        store.close()
        parent.stdin.close()
        parent.stdout.close()

    def test_dropped_without_close(self, path: Path) -> None:
        """A process that ends without closing its store still books what it had settled."""
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from books import *\n"
            "store = SqliteStore(sys.argv[2])\n"
            "for n in range(50):\n    store.reserve(row(f'r{n}')); store.settle(Hold(f'r{n}', 1), done(row(f'r{n}')))\n"
        )
        subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(path)], check=True)
        store = SqliteStore(path)
        assert (total(store).completed, total(store).expired) == (50, 0)
        store.close()
