"""How fast are the books? Pairs of reserve and settle, each a durable row with its rollups, runs and histogram.

    python benchmarks/ledger.py [--pairs 20000] [--json]

Bare SQLite (the same rows inserted and updated, nothing else kept) is measured in the same run: read the ratio, for the
machine is never quiet. Waits are of a reserve, from the call to its answer, with as many calls in flight as AHEAD says.
claims N: each reserve holds of N budgets' counters too (tenant; user and day; run), all under their limits.
"""

import argparse
import asyncio
import functools
import gc
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bursar.rules.book import granted
from bursar.stores import sql
from bursar.stores.rows import opening, outcome
from bursar.stores.sqlite import SqliteStore, connect
from bursar.types import Ask, Claim, Entry, Instant

START = 1_764_000_000_000_000
AHEAD = {"one": 256, "four": 32}
"""How many calls are in flight: in one process, in each of four."""
Numbers = dict[str, float]


def ask_of(entry: Entry, claims: int) -> Ask:
    """A call of 1,300 tokens in and up to 1,000 out, at $2.5 and $10 a million, on so many budgets."""
    wide: dict[str, Any] = {"tenant": "default", "limit_nanos": 10**15, "limit_tokens": 10**12}
    found = (
        Claim(budget="everything", scope="tenant", key="default", window="month", **wide),
        Claim(budget="a day", scope="user", key=entry.user_id or "", window="day", zone="Europe/Berlin", **wide),
        Claim(budget="a task", scope="run", key=entry.run_id or "", finish_reserve=100_000, **wide),
    )
    if not claims:
        return Ask()
    return Ask(
        claims=found[:claims], input_tokens=1_300, input_cost=3_250_000_000_000, output_rate=10_000_000_000,
        wanted=1_000, stated=1_000,
    )  # fmt: skip


def pairs_of(count: int, name: str = "p") -> list[tuple[Entry, Entry]]:
    """Rows as an agent makes them: runs of eight calls, five steps, three agents, some hundreds of users."""
    found = []
    for number in range(count):
        run = number // 8
        entry = Entry(
            request_id=f"{name}-{number:08x}", attempt=1, run_id=f"{name}-run-{run}", parent_run_id=None,
            session_id=f"{name}-s-{run // 2}", user_id=f"user-{run % 300}", user_tier="free",
            agent_id=f"agent-{run % 3}", step=f"step-{number % 5}", tenant="default", tags=(("team", "research"),),
            key_id=None, started_at=Instant(START + number * 20_000), api="chat", provider="openai",
            requested_model="gpt-4o", model="gpt-4o", tier=None, route_reason="caller", stream=False,
            hold_nanos=90_000, input_estimate=1_200, blocks=b"\x07" * 96,
        )  # fmt: skip
        closed = msgspec.structs.replace(
            entry, status="completed", http_status=200, duration_ms=900, first_byte_ms=120, input_tokens=1_234,
            cached_tokens=0, output_tokens=88, usage='{"prompt_tokens":1234,"completion_tokens":88}',
            cost_nanos=3_965_000, cost_status="final", price_id="openai:gpt-4o", output_estimate=90,
            response_id="chatcmpl-1",
        )  # fmt: skip
        found.append((entry, closed))
    gc.collect()
    gc.freeze()
    return found


def bare(path: Path, pairs: list[tuple[Entry, Entry]], batch: int = 128) -> Numbers:
    """The same rows inserted and updated in batches, by executemany, in the same schema."""
    SqliteStore(path).close()
    db = connect(path)
    insert, update = sql.OPEN_ROWS.text(1), sql.CLOSE_READ_ROWS.text(1)
    began, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(pairs), batch):
        part = pairs[at : at + batch]
        db.execute("BEGIN IMMEDIATE")
        db.executemany(insert, [[*opening(entry), "bench"] for entry, _ in part])
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        db.executemany(update, [[at + one, *outcome(closed)] for one, (_, closed) in enumerate(part, 1)])
        db.execute("COMMIT")
    numbers = rate(len(pairs), began, cpu)
    db.close()
    return numbers


def rate(count: int, began: float, cpu: float) -> Numbers:
    seconds = time.perf_counter() - began
    return {"pairs_per_s": count / seconds, "cpu_us": (time.process_time() - cpu) / count * 1e6}


def pipelined(
    store: SqliteStore, pairs: list[tuple[Entry, Entry]], claims: int = 0, window: int = AHEAD["one"]
) -> Numbers:
    """One thread keeps a window of calls in flight."""
    flying: deque[tuple[Any, Entry]] = deque()
    waits: list[float] = []
    asks = [ask_of(entry, claims) for entry, _ in pairs]
    began, cpu = time.perf_counter(), time.process_time()
    for (entry, closed), ask in zip(pairs, asks, strict=True):
        asked, receipt = time.perf_counter(), store.reserve(entry, ask)
        receipt.add_done_callback(functools.partial(_note, waits, asked))
        flying.append((receipt, closed))
        if len(flying) >= window:
            _land(store, *flying.popleft())
    while flying:
        _land(store, *flying.popleft())
    store.flush()
    return {**rate(len(pairs), began, cpu), **waited(waits)}


def waited(waits: list[float]) -> Numbers:
    """Quantiles of seconds, in milliseconds."""
    waits = sorted(waits)
    return {
        "reserve_p50_ms": statistics.median(waits) * 1e3,
        "reserve_p99_ms": waits[-len(waits) // 100] * 1e3,
        "longest_wait_ms": waits[-1] * 1e3,
    }


def _note(waits: list[float], asked: float, _: Any) -> None:
    waits.append(time.perf_counter() - asked)


def _land(store: SqliteStore, receipt: Any, closed: Entry) -> None:
    hold = receipt.result(60)
    store.settle(hold, granted(closed, hold))


def one_by_one(store: SqliteStore, pairs: list[tuple[Entry, Entry]], claims: int = 0) -> Numbers:
    """One caller, nothing else going on: what a blocking client waits for, and the CPU of a pair, thread and all."""
    waits = []
    asks = [ask_of(entry, claims) for entry, _ in pairs]
    began, cpu = time.perf_counter(), time.process_time()
    for (entry, closed), ask in zip(pairs, asks, strict=True):
        asked = time.perf_counter()
        hold: Any = store.reserve(entry, ask).result()
        waits.append(time.perf_counter() - asked)
        store.settle(hold, granted(closed, hold))
    store.flush()
    return {**rate(len(pairs), began, cpu), **waited(waits)}


def on_a_loop(store: SqliteStore, pairs: list[tuple[Entry, Entry]], claims: int = 0, tasks: int = 64) -> Numbers:
    """Tasks of one event loop, as in the gateway."""

    async def life(todo: deque[tuple[Entry, Entry]]) -> None:
        while todo:
            entry, closed = todo.popleft()
            hold: Any = await store.reserve_async(entry, ask_of(entry, claims))
            store.settle(hold, granted(closed, hold))

    async def lives() -> None:
        todo = deque(pairs)
        await asyncio.gather(*(life(todo) for _ in range(tasks)))
        store.flush()

    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(lives())
    return rate(len(pairs), began, cpu)


def _process(path: Path, name: str, count: int, claims: int, go: Any, answers: Any) -> None:
    store, pairs = SqliteStore(path), pairs_of(count, name)
    go.wait()
    began = time.time()
    numbers = pipelined(store, pairs, claims, AHEAD["four"])
    answers.put((began, time.time(), numbers))
    store.close()


def over_processes(path: Path, count: int, claims: int = 0, processes: int = 4) -> Numbers:
    """Several processes on one file, each with 32 calls in flight."""
    spawn = multiprocessing.get_context("spawn")
    go, answers = spawn.Barrier(processes), spawn.Queue()
    workers = [
        spawn.Process(target=_process, args=(path, f"w{number}", count // processes, claims, go, answers))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(end for _, end, _ in found) - min(began for began, _, _ in found)
    longest = {name: max(numbers[name] for _, _, numbers in found) for name in waited([0.0])}
    return {"pairs_per_s": count / seconds, **longest}


def measure(count: int) -> dict[str, Numbers]:
    results: dict[str, Numbers] = {}
    pairs = pairs_of(count)
    with tempfile.TemporaryDirectory() as folder:

        def in_store(name: str, work: Callable[..., Numbers], claims: int, few: int) -> None:
            store = SqliteStore(Path(folder) / f"{name} {claims}.db")
            results[f"{name}, claims {claims}"] = work(store, pairs[:few], claims)
            if name == "pipelined" and store.verify():
                raise SystemExit("the audit found a mismatch: the numbers below would be worth nothing")
            store.close()

        results["bare"] = bare(Path(folder) / "bare.db", pairs)
        for claims in (0, 2, 3):
            in_store("pipelined", pipelined, claims, count)
            in_store("on_a_loop", on_a_loop, claims, count)
            in_store("one_by_one", one_by_one, claims, min(count, 3_000))
            path = Path(folder) / f"four {claims}.db"
            SqliteStore(path).close()
            results[f"four_processes, claims {claims}"] = over_processes(path, count, claims)
    for name, numbers in results.items():
        if name != "bare" and not name.startswith("one_by_one"):
            numbers["of_bare"] = numbers["pairs_per_s"] / results["bare"]["pairs_per_s"]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = measure(given.pairs)
    if given.json:
        print(json.dumps(results))
        return
    for name, numbers in results.items():
        print(f"{name:26}", "  ".join(f"{key} {value:,.1f}" for key, value in numbers.items()))


if __name__ == "__main__":
    main()
