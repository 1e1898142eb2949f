"""One cap, many processes, some of them killed: never over the limit at any instant, by a trace of the file itself."""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import books
from books import ask, claim, done, held, row, stands
from bursar.stores.sqlite import SqliteStore
from bursar.types import Hold, Refused

path, template = books.path, books.template

CAP = claim("cap", "global", "(all)", limit_nanos=40_000, limit_tokens=50_000, patience_ms=20_000)

WORKER = """
import collections, json, sys, zlib
sys.path.insert(0, sys.argv[1])
from books import Hold, SqliteStore, ask, claim, done, row
from test_stores_budget_processes import CAP
store, me, calls = SqliteStore(sys.argv[2]), sys.argv[3], int(sys.argv[4])
told = collections.Counter()
def land(opening, size, receipt):
    answer = receipt.result(60)
    if isinstance(answer, Hold):
        cost = size * (zlib.crc32(opening.request_id.encode()) % 11) // 10
        told["bill"] += cost
        told["granted"] += 1
        store.settle(answer, done(opening, cost_nanos=cost, input_tokens=0, output_tokens=cost))
    else:
        told[answer.kind] += 1
flying = collections.deque()
for number in range(calls):
    name = f"{me}-{number}"
    output = 20 + zlib.crc32(name.encode()) % 400
    opening = row(name, agent_id=me, user_id=f"u{number % 5}")
    user = claim("each", "user", f"u{number % 5}", limit_nanos=9_000, patience_ms=20_000)
    flying.append((opening, output + 10, store.reserve(opening, ask(CAP, user, output=output))))
    if len(flying) == 12:
        land(*flying.popleft())
while flying:
    land(*flying.popleft())
store.close()
print(json.dumps(told))
"""
VICTIM = """
import sys
sys.path.insert(0, sys.argv[1])
from books import SqliteStore, ask, row
from test_stores_budget_processes import CAP
store = SqliteStore(sys.argv[2])
for number in range(5):
    store.reserve(row(f"victim-{number}", agent_id="victim"), ask(CAP, output=990)).result(30)
print("held", flush=True)
sys.stdin.read()
"""


def process(code: str, *arguments: str) -> "subprocess.Popen[str]":
    here = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", code, here, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def traced(path: Path) -> None:
    """From now on the file itself notes every value that any counter ever has."""
    noted = "INSERT INTO trace VALUES (NEW.budget, NEW.key, NEW.settled_nanos + NEW.held_nanos,"
    noted += " NEW.settled_tokens + NEW.held_tokens, NEW.held_nanos, NEW.held_tokens)"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE trace (budget, key, nanos, tokens, held_nanos, held_tokens)")
        for event in ("INSERT", "UPDATE"):
            db.execute(f"CREATE TRIGGER noted_{event} AFTER {event} ON counters BEGIN {noted}; END")
    db.close()


def test_four_processes_and_a_victim(path: Path) -> None:
    """Hundreds of calls of mixed sizes on a shared cap and five more, one process killed with holds open: settled plus
    held is never over a limit, the bill is under the cap, and what the dead held is spent in full."""
    traced(path)
    victim = process(VICTIM, str(path))
    assert victim.stdout is not None and victim.stdout.readline() == "held\n"
    workers = [process(WORKER, str(path), f"w{number}", "90") for number in range(4)]
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=10)
    told = [json.loads(worker.communicate(timeout=100)[0]) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    with sqlite3.connect(path) as db:
        peaks = {
            budget: numbers
            for budget, *numbers in db.execute("SELECT budget, MAX(nanos), MAX(tokens) FROM trace GROUP BY budget")
        }
        least = db.execute("SELECT MIN(held_nanos), MIN(held_tokens), COUNT(*) > 100 FROM trace").fetchone()
    db.close()
    assert peaks["cap"][0] <= 40_000 and peaks["cap"][1] <= 50_000 and peaks["each"][0] <= 9_000
    assert least == (0, 0, 1)
    store = SqliteStore(path)
    bill = sum(answers.get("bill", 0) for answers in told)
    assert stands(store, CAP)[:2] == (bill + 5 * 1_000, 0)
    assert [entry.status for number in range(5) for entry in store.call(f"victim-{number}")] == ["expired"] * 5
    assert sum(answers.get("exhausted", 0) for answers in told) > 0 and bill > 30_000
    assert sum(sum(answers.values()) for answers in told) - bill == 4 * 90
    assert store.verify() == []
    store.close()


def test_killed_while_others_wait(path: Path) -> None:
    """Who waits for the hold of a process that is killed is answered as soon as that is found, long before the end of
    its patience: what was held is spent now."""
    victim = process(VICTIM, str(path))
    assert victim.stdout is not None and victim.stdout.readline() == "held\n"
    store = SqliteStore(path)
    tight = claim("cap", "global", "(all)", limit_nanos=6_000, patience_ms=600_000)
    receipt = store.reserve(row("r"), ask(tight, output=1_500))
    store.flush()
    assert not receipt.done()
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=10)
    answer = receipt.result(30)
    assert isinstance(answer, Refused) and answer.kind == "exhausted"
    assert (stands(store, tight)[:2], store.verify()) == ((5_000, 0), [])
    store.close()


def test_a_fork_holds_nothing(path: Path) -> None:
    """A reserve that waits in the parent is the parent's alone: a forked child neither answers nor opens it."""
    store = SqliteStore(path)
    tight = claim("cap", limit_nanos=1_000, patience_ms=600_000)
    hold = held(store, row("a"), ask(tight, output=900))
    waiting = store.reserve(row("b"), ask(tight, output=500))
    store.flush()
    code = books.in_child(lambda: _lives(store, tight))
    store.settle(hold, done(row("a"), cost_nanos=0))
    assert (code, isinstance(waiting.result(10), Hold)) == (0, True)
    assert stands(store, tight)[1] == 510
    store.settle(Hold("b", 1), done(row("b"), cost_nanos=0)).result(10)
    assert (stands(store, tight)[:2], store.verify()) == ((0, 0), [])
    store.close()


def _lives(store: SqliteStore, tight: Any) -> None:
    child = row("child")
    store.settle(held(store, child, ask(tight, output=50)), done(child, cost_nanos=0)).result(10)
    store.close()
