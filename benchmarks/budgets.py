"""Does a cap hold, and is all of it open? Calls of mixed sizes, all at once, on one cap; beside it two rivals.

    python benchmarks/budgets.py [--calls 1000] [--workers 1] [--share 0.1] [--patience 2s]
                                 [--input-hold ceiling] [--rivals ENVIRONMENT] [--json]

The same calls go through each contender to the sandbox provider, whose own bill is the truth; the cap is a share of
what they cost without one. Printed for each:

overshoot         the bill over the cap, in percent of the cap; `trace`: what the ledger's counter had settled and held
                  at most at any instant, of the cap (a trigger of the database writes every state down)
false refusals    calls refused though the money was there: those that what was left in the end would have paid for
one after another the bill over what is open (the cap, less a finish reserve of 15 % with Bursar): by the first refusal,
                  and by the fifth in a row, so that smaller calls may use what a large one could not

Rivals live in an environment of their own: python -m venv rivals && rivals/bin/pip install litellm agentbudget openai
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from bursar.money import format_usd, parse_usd
from bursar.sandbox import SandboxServer, Settings
from bursar.stores.sqlite import SqliteStore

HERE = Path(__file__).resolve().parent
INSTALL = "python -m venv rivals && rivals/bin/pip install litellm agentbudget openai; then --rivals rivals"
WORDS = "ledger invoice balance audit voucher posting accrual reserve settle clause party date amount ".split()  # noqa: SIM905
RESERVE = "0.15"
LITELLM = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "AIOHTTP_CONNECTOR_LIMIT": "4000",
    "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "4000",
}
"""Prices without a download, and a connection for each call: half of them would fail at its 500 a host."""
TRACE = """
CREATE TABLE trace (settled INTEGER, held INTEGER);
CREATE TRIGGER after_insert AFTER INSERT ON counters BEGIN
  INSERT INTO trace VALUES (NEW.settled_nanos, NEW.held_nanos); END;
CREATE TRIGGER after_update AFTER UPDATE ON counters BEGIN
  INSERT INTO trace VALUES (NEW.settled_nanos, NEW.held_nanos); END;
"""


def load(count: int) -> list[dict[str, Any]]:
    """Prompts of 20 to 800 words; answers limited to 50, 200 or 800 tokens or not at all; every third a stream."""
    draw = random.Random(7)
    calls = []
    for index in range(count):
        text = " ".join(draw.choice(WORDS) for _ in range(draw.choice((20, 100, 400, 800))))
        asked: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"{index}: {text}"}]}
        if limit := draw.choice((None, 50, 200, 800)):
            asked["max_tokens"] = limit
        if index % 3 == 0:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        calls.append({"index": index, "asked": asked})
    return calls


class Bench:
    """One sandbox and one load, for every contender in turn."""

    def __init__(self, sandbox: SandboxServer, given: argparse.Namespace, folder: Path) -> None:
        self.sandbox, self.calls, self.workers, self.folder = sandbox, load(given.calls), given.workers, folder
        self.terms = f'patience = "{given.patience}"\ninput_hold = "{given.input_hold}"\n'
        free = self.play("none", sys.executable, 0)
        self.seconds = free["seconds"]
        self.costs = [free["costs"][index] for index in range(given.calls)]

    def play(self, name: str, python: str, cap: int, *, one_by_one: bool = False, **more: Any) -> dict[str, Any]:
        """All calls, over the processes; what became of them, by the sandbox's bill."""
        self.sandbox.app.reset()
        workers = 1 if one_by_one else self.workers
        task = {"url": self.sandbox.url, "cap_usd": cap / 1e9, "one_by_one": one_by_one, **more}
        children = [self._child(python, name) for _ in range(workers)]
        for number, child in enumerate(children):
            _tell(child, json.dumps({**task, "calls": self.calls[number::workers]}))
        for child in children:
            _hear(child)
        began = time.perf_counter()
        for child in children:
            _tell(child, "go")
        told = [one for child in children for one in json.loads(_hear(child))]
        seconds = time.perf_counter() - began
        for child in children:
            child.communicate()
        billed = {line.id: line.nanos or 0 for line in self.sandbox.bill.lines}
        return {
            "seconds": seconds,
            "bill_nanos": self.sandbox.bill.total_nanos(),
            "sent": len(self.sandbox.bill.lines),
            "ended": Counter(one["ended"] for one in told),
            "cut": sum(one["cut"] for one in told),
            "costs": {one["index"]: billed.get(one["id"], 0) for one in told},
            "first_no": next((at for at, one in enumerate(told) if one["ended"] != "answered"), len(told)),
            "refused": [one["index"] for one in told if one["ended"] in ("refused", "held")],
        }

    def _child(self, python: str, name: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [python, str(HERE / "budget_load.py"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **LITELLM},
        )  # fmt: skip

    def contend(self, name: str, python: str, cap: int) -> dict[str, Any]:
        """Both rounds of one contender."""
        more, trace = self._books(name, cap, "0") if name == "bursar" else ({}, None)
        found = self.play(name, python, cap, **more)
        peak = _peak(trace) if trace is not None else None
        more, _ = self._books(name, cap, RESERVE) if name == "bursar" else ({}, None)
        alone = self.play(name, python, cap, one_by_one=True, **more)
        kept = parse_usd(RESERVE) if name == "bursar" else 0
        open_ = cap * (10**9 - kept) // 10**9
        return {
            "bill_usd": format_usd(found["bill_nanos"]),
            "overshoot": max(0, found["bill_nanos"] - cap) / cap,
            "used": found["bill_nanos"] / cap,
            "trace_peak": None if peak is None else peak / cap,
            "ended": dict(found["ended"]),
            "paid_but_refused": found["sent"] - found["ended"]["answered"],
            "cut_short": found["cut"],
            "refused": len(found["refused"]),
            "false_refusals": self._false(found["refused"], cap - found["bill_nanos"]),
            "seconds": found["seconds"],
            "one_by_one": {
                "answered": alone["ended"]["answered"],
                "used_at_first_refusal": sum(list(alone["costs"].values())[: alone["first_no"]]) / open_,
                "used": alone["bill_nanos"] / open_,
                "overshoot": max(0, alone["bill_nanos"] - cap) / cap,
            },
        }

    def _false(self, refused: list[int], left: int) -> int:
        """How many of the refused the rest would have paid for, the cheapest first, at what they cost uncapped."""
        count = 0
        for cost in sorted(self.costs[index] for index in refused):
            left -= cost
            count += left >= 0
        return count

    def _books(self, name: str, cap: int, reserve: str) -> tuple[dict[str, Any], Path]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        path, config = folder / "bursar.db", folder / "bursar.toml"
        SqliteStore(path).close()
        with closing(sqlite3.connect(path)) as db:
            db.executescript(TRACE)
        config.write_text(
            f'[store]\nurl = "sqlite:///{path}"\n'
            f'[providers.openai]\napi = "openai"\nbase_url = "{self.sandbox.url}/v1"\n'
            f'[[budgets]]\nname = "cap"\nscope = "session"\nlimit_usd = "{format_usd(cap)}"\non_exhausted = "refuse"\n'
            f"finish_reserve = {reserve}\n{self.terms}"
        )
        return {"config": str(config)}, path


def _tell(child: "subprocess.Popen[str]", line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def _hear(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"{' '.join(map(str, child.args))} ended early: run it by hand to see why")  # type: ignore[arg-type]
    return line


def _peak(path: Path) -> int:
    """The most that was settled and held together, in nano-dollars; no hold may be left."""
    with closing(sqlite3.connect(path)) as db:
        (peak,) = db.execute("SELECT max(settled + held) FROM trace").fetchone()
        (held,) = db.execute("SELECT sum(held_nanos) FROM counters").fetchone()
    if held:
        raise SystemExit(f"{held} nano-dollars are still held after the end: a leak")
    return int(peak)


def installed(python: Path, package: str) -> str | None:
    """The version of a package in that environment; None: it is not there."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    told = (
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=False) if python.exists() else None
    )
    return told.stdout.strip() if told is not None and told.returncode == 0 else None


def measure(given: argparse.Namespace) -> dict[str, Any]:
    settings = Settings(latency_ms=20, keep_requests=0)
    with tempfile.TemporaryDirectory() as folder, SandboxServer(settings) as sandbox:
        bench = Bench(sandbox, given, Path(folder))
        whole = sum(bench.costs)
        cap = round(whole * given.share)
        results: dict[str, Any] = {
            "calls": given.calls, "workers": given.workers, "uncapped_usd": format_usd(whole),
            "uncapped_seconds": bench.seconds, "cap_usd": format_usd(cap), "patience": given.patience,
            "bursar": bench.contend("bursar", sys.executable, cap),
        }  # fmt: skip
        for name in ("litellm", "agentbudget"):
            python = given.rivals / "bin" / "python"
            found = installed(python, name)
            results[name] = None if found is None else {"version": found, **bench.contend(name, str(python), cap)}
    return results


def show(results: dict[str, Any]) -> None:
    calls, workers, whole, cap = (results[name] for name in ("calls", "workers", "uncapped_usd", "cap_usd"))
    free = results["uncapped_seconds"]
    print(f"{calls:,} calls at once over {workers} process(es); without a cap ${whole} and {free:.1f} s; cap ${cap}")
    for name in ("bursar", "litellm", "agentbudget"):
        told = results[name]
        if told is None:
            print(f"{name}: not installed ({INSTALL})")
            continue
        alone, peak = told["one_by_one"], told["trace_peak"]
        trace = "" if peak is None else f"; trace: settled + held at most {peak:.4%}"
        print(f"{name} {told.get('version', '')}".rstrip())
        print(f"  overshoot {told['overshoot']:.1%}: billed ${told['bill_usd']}, {told['used']:.1%} of the cap{trace}")
        print(f"  false refusals {told['false_refusals']} of {told['refused']:,}")
        print(f"  paid for and not answered {told['paid_but_refused']:,}; cut short {told['cut_short']:,}", end="; ")
        print(f"{', '.join(f'{why} {n:,}' for why, n in sorted(told['ended'].items()))}; {told['seconds']:.1f} s")
        print(
            f"  one after another {alone['used_at_first_refusal']:.1%} of what is open by the first refusal", end=", "
        )
        print(f"{alone['used']:.1%} by the fifth in a row; overshoot {alone['overshoot']:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.1, help="the cap, of what the calls cost without one")
    parser.add_argument("--patience", default="2s", help="as in [[budgets]]: how long a call waits for others' holds")
    parser.add_argument("--input-hold", choices=["ceiling", "p99.9"], default="ceiling", help="as in [[budgets]]")
    parser.add_argument("--rivals", type=Path, default=Path("rivals"), help="their virtual environment")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = measure(given)
    print(json.dumps(results)) if given.json else show(results)


if __name__ == "__main__":
    main()
