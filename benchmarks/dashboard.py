"""How fast is a large ledger read? Every page of the dashboard, and the sums behind them, over HTTP and in process.

    python benchmarks/dashboard.py [--rows 1000000] [--ledger FILE] [--rounds 9] [--json]

The ledger is ninety days of agents' runs, written through the store itself; FILE is filled if it is not there, and
kept. Server time is from the request's first byte to the answer's last, of `bursar dashboard` on loopback, the median
and the slowest round; cpu is what the server used a round, which a busy machine distorts least. First paint is
Chromium's own, from the start of the navigation, where Chromium is installed. Sums are Store.spend and Store.metrics,
a connection's first question left out.
"""

import argparse
import functools
import http.client
import itertools
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bursar.doors.dashboard.asked import PATHS
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry, Instant

DAY_US = 86_400_000_000
DAYS = 90
USERS, AGENTS, STEPS, CALLS_A_RUN = 2_000, 4, 5, 8
MODELS = (("gpt-4o", "openai", "large"), ("gpt-4o-mini", "openai", "small"), ("claude-sonnet-4-5", "anthropic", "mid"))
PERIODS = ("7d", "30d", "90d", "all")
AHEAD = 256
Times = dict[str, float]


def calls_of(rows: int, until: Instant) -> Iterator[tuple[Entry, Entry]]:
    """Open and closed rows, oldest first: runs of eight calls within two minutes, some users far busier than others,
    sessions of a user's day, a row in fifty failed or of unknown cost."""
    chance = random.Random(1)
    runs = -(-rows // CALLS_A_RUN)
    since, gap = until - DAYS * DAY_US, DAYS * DAY_US // runs
    for number in range(rows):
        run, step = divmod(number, CALLS_A_RUN)
        if step == 0:
            user = int(USERS * chance.random() ** 2)
            agent = chance.randrange(AGENTS)
        at = since + run * gap + step * min(gap // 10, 15_000_000)
        model, provider, tier = MODELS[min(int(chance.expovariate(1.2)), 2)]
        entry = Entry(
            request_id=f"r-{number:08x}", attempt=1, run_id=f"run-{run}", parent_run_id=None,
            session_id=f"s-{user}-{at // DAY_US}", user_id=f"user-{user}", user_tier=("free", "pro")[user % 2],
            agent_id=f"agent-{agent}", step=f"step-{step % STEPS}", tenant="default", tags=(("team", "research"),),
            key_id=None, started_at=Instant(at), api="chat", provider=provider, requested_model=model, model=model,
            tier=tier, route_reason="caller", stream=False, hold_nanos=90_000, input_estimate=1_200,
            blocks=b"\x07" * 96,
        )  # fmt: skip
        odd = number % 50
        closed = msgspec.structs.replace(
            entry, status="failed" if odd == 0 else "completed", http_status=500 if odd == 0 else 200, duration_ms=900,
            first_byte_ms=120, input_tokens=1_000 + odd, cached_tokens=400, output_tokens=None if odd == 1 else 88,
            usage='{"prompt_tokens":1234,"completion_tokens":88}', cost_nanos=None if odd == 1 else 3_965_000 + number,
            cost_status="unpriced" if odd == 1 else "final", price_id="openai:gpt-4o", output_estimate=90,
            response_id="chatcmpl-1",
        )  # fmt: skip
        yield entry, closed


def fill(path: Path, rows: int) -> None:
    """Write the ledger, many calls in flight."""
    began = time.perf_counter()
    with closing(SqliteStore(path)) as store:
        flying: deque[tuple[Any, Entry]] = deque()
        for entry, closed in calls_of(rows, Instant(time.time_ns() // 1000)):
            flying.append((store.reserve(entry), closed))
            if len(flying) >= AHEAD:
                receipt, last = flying.popleft()
                store.settle(receipt.result(60), last)
        for receipt, last in flying:
            store.settle(receipt.result(60), last)
        store.flush()
    print(f"{rows:,} rows written in {time.perf_counter() - began:,.0f} s", file=sys.stderr)


@contextmanager
def dashboard(path: Path) -> Iterator[tuple[str, int]]:
    """`bursar dashboard` on the ledger; its address and process."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "bursar.toml")
        config.write_text(f'[store]\nurl = "sqlite:///{path}"\n')
        command = [sys.executable, "-m", "bursar.doors.cli", "dashboard", "--port", "0", "--json"]
        child = subprocess.Popen(
            [*command, "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert child.stdout is not None
            told = "".join(itertools.takewhile("}\n".__ne__, child.stdout))
            if not told:
                raise SystemExit(f"{' '.join(command)} has ended with {child.wait()}")
            url = str(json.loads(told + "}")["dashboard"]).rstrip("/")
            _await(url)
            yield url, child.pid
        finally:
            child.terminate()
            child.wait(20)


def _await(url: str) -> None:
    """Until somebody listens there."""
    place = urlsplit(url)
    for _ in range(200):
        try:
            socket.create_connection((place.hostname or "", place.port or 80)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise SystemExit(f"nobody listens at {url}")


def cpu_of(pid: int) -> float:
    """User + system seconds of a process so far; to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object], rounds: int, cpu: Callable[[], float]) -> Times:
    """Milliseconds, after one round that does not count."""
    work()
    found = []
    used = cpu()
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) * 1e3)
    used = (cpu() - used) / rounds * 1e3
    return {"median_ms": statistics.median(found), "slowest_ms": max(found), "cpu_ms": used}


def questions() -> Iterator[str]:
    """The pages, of several periods, and those of one user and one agent."""
    for period in PERIODS:
        for name in ("overview", "agents", "users", "models", "caches", "budgets", "alerts", "runs", "calls"):
            yield f"{PATHS[name]}?since={period}"
        yield f"{PATHS['users']}?user=user-7&since={period}"
        yield f"{PATHS['agents']}?agent=agent-1&since={period}"
    yield f"{PATHS['overview']}?since=90d&zone=Europe/Berlin"
    yield f"{PATHS['run']}?run=run-5"


def served(url: str, pid: int, rounds: int) -> dict[str, Times]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)

    def ask(question: str) -> None:
        connection.request("GET", question)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or b"</html>" not in body:
            raise SystemExit(f"{question}: {answer.status} {body[:200]!r}")

    cpu = functools.partial(cpu_of, pid)
    with closing(connection):
        return {question: timed(functools.partial(ask, question), rounds, cpu) for question in questions()}


def painted(url: str, results: dict[str, Times]) -> None:
    """Add Chromium's first contentful paint to each page; nothing where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        return
    from playwright.sync_api import sync_playwright

    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)  # styles are cached from here on, as for a reader
        for question, times in results.items():
            found = []
            for _ in range(3):
                page.goto(url + question)
                while (at := float(page.evaluate(paint))) < 0:
                    page.wait_for_timeout(5)
                found.append(at)
            times["first_paint_ms"] = statistics.median(found)
        browser.close()


def summed(path: Path, rounds: int) -> dict[str, Times]:
    """The store's own sums."""
    results: dict[str, Times] = {}
    now, cpu = Instant(time.time_ns() // 1000), time.process_time
    with closing(SqliteStore(path)) as store:
        for days in (7, 30, None):
            since = None if days is None else Instant(now - days * DAY_US)
            name = "all" if days is None else f"{days}d"
            for by in ("total", "model", "agent", "step", "user", "session", "tag:team", "day"):
                results[f"spend {by} {name}"] = timed(functools.partial(store.spend, by, since), rounds, cpu)
            results[f"metrics {name}"] = timed(functools.partial(store.metrics, since), rounds, cpu)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = (given.ledger or Path(folder, "ledger.db")).absolute()
        if not path.exists():
            fill(path, given.rows)
        sums = summed(path, given.rounds)
        with dashboard(path) as (url, pid):
            pages = served(url, pid, given.rounds)
            painted(url, pages)
    if given.json:
        print(json.dumps({"rows": given.rows, "sums": sums, "pages": pages}))
        return
    for results in (sums, pages):
        for name, times in results.items():
            print(f"{name:48}", "  ".join(f"{key.removesuffix('_ms')} {value:7.1f} ms" for key, value in times.items()))


if __name__ == "__main__":
    main()
