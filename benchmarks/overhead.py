"""CPU and latency that Bursar adds to a call, both doors, against the SDK alone and the bare pass-through, in one run.

The provider is a stub on loopback that answers about 100 tokens at once. CPU is user + system time of the measured
process per call; rounds alternate between the contenders, and the median round is printed. Ratios are what to read.

    python benchmarks/overhead.py [--calls 1500] [--rounds 5] [--json]
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

HERE = Path(__file__).resolve().parent
SMALL = {"model": "gpt-4o-mini", "max_tokens": 200, "messages": [{"role": "user", "content": "What is a closure?"}]}
LONG_TEXT = "An observation of the agent with numbers 12345 and some prose around it to fill the context. " * 11
LARGE = {
    **SMALL,
    "messages": [
        {"role": "system", "content": "You are a careful assistant."},
        *({"role": ("user", "assistant")[i % 2], "content": LONG_TEXT} for i in range(28)),
        {"role": "user", "content": "Go on."},
    ],
}
STREAM = {**SMALL, "stream": True, "stream_options": {"include_usage": True}}
CASES = {"small": SMALL, "30 KB": LARGE, "stream of 100": STREAM}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_of(pid: int) -> float:
    """User + system seconds of a process so far, its own threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def process(*command: str, ready: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        host, port = ready.split(":")
        while time.monotonic() < deadline:
            try:
                socket.create_connection((host, int(port)), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield child
    finally:
        child.terminate()
        child.wait(20)


async def load(url: str, payload: dict[str, Any], calls: int, at_once: int) -> list[float]:
    """Latencies in seconds of `calls` calls, `at_once` at a time."""
    body = json.dumps(payload).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer k"}
    took: list[float] = []
    left = iter(range(calls))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for _ in left:
                start = time.perf_counter()
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
                    assert answer.status == 200, await answer.text()
                took.append(time.perf_counter() - start)

        await asyncio.gather(*(worker() for _ in range(at_once)))
    return took


def gateway(calls: int, rounds: int, provider: int) -> dict[str, Any]:
    """CPU per call of `bursar serve` and of the bare pass-through, for each case, 16 at a time, rounds in turn."""
    ours, bare = free_port(), free_port()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "bursar.toml")
        config.write_text(
            f'[store]\nurl = "sqlite:///{folder}/b.db"\n[providers.openai]\napi = "openai"\n'
            f'base_url = "http://127.0.0.1:{provider}/v1"\n'
        )
        serve = [sys.executable, "-m", "bursar.doors.cli", "serve", "--config", str(config), "--port", str(ours)]
        with (
            process(*serve, ready=f"127.0.0.1:{ours}") as gate,
            process(
                sys.executable, str(HERE / "bare_gateway.py"), str(bare), str(provider), ready=f"127.0.0.1:{bare}"
            ) as plain,
        ):
            contenders = {
                "gateway": (gate.pid, f"http://127.0.0.1:{ours}/v1/chat/completions"),
                "bare": (plain.pid, f"http://127.0.0.1:{bare}/v1/chat/completions"),
            }
            for case, payload in CASES.items():
                for at_once in (1, 16):
                    number = calls // (4 if case.startswith("stream") else 1)
                    results[f"{case}, {at_once} at a time"] = contest(contenders, payload, number, rounds, at_once)
            with urllib.request.urlopen(f"http://127.0.0.1:{ours}/bursar/v1/health") as health:
                assert health.status == 200
    return results


def contest(
    contenders: dict[str, tuple[int, str]], payload: dict[str, Any], calls: int, rounds: int, at_once: int
) -> dict[str, Any]:
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    p50: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, (pid, url) in contenders.items():
            before = cpu_of(pid)
            took = asyncio.run(load(url, payload, calls, at_once))
            if turn:
                cpu[name].append((cpu_of(pid) - before) / calls * 1e6)
                p50[name].append(statistics.median(took) * 1e6)
    ratios = [a / b for a, b in zip(cpu["gateway"], cpu["bare"], strict=True)]
    return {
        "gateway_cpu_us": round(statistics.median(cpu["gateway"])),
        "bare_cpu_us": round(statistics.median(cpu["bare"])),
        "cpu_ratio": round(statistics.median(ratios), 2),
        "p50_added_us": round(statistics.median(p50["gateway"]) - statistics.median(p50["bare"])),
    }


def library(calls: int, rounds: int, provider: int) -> dict[str, Any]:
    """CPU and p50 latency that a wrapped client adds to the SDK alone, in this process, rounds in turn."""
    import openai

    import bursar

    base_url = f"http://127.0.0.1:{provider}/v1"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, bursar.open(store=f"sqlite:///{folder}/b.db") as guard:
        alone = openai.OpenAI(base_url=base_url, api_key="k", max_retries=0)
        wrapped = guard.wrap(openai.OpenAI(base_url=base_url, api_key="k", max_retries=0))
        for case, payload in CASES.items():
            number = calls // (8 if case.startswith("stream") else 1)
            results[case] = duel(spend, payload, alone, wrapped, number, rounds)
        alone.close()
        wrapped.close()
    return results


def spend(client: Any, payload: dict[str, Any]) -> None:
    answer = client.chat.completions.create(**payload)
    if payload.get("stream"):
        for _ in answer:
            pass


def duel(
    call: Callable[[Any, Any], None], payload: Any, alone: Any, wrapped: Any, calls: int, rounds: int
) -> dict[str, Any]:
    cpu: dict[str, list[float]] = {"alone": [], "wrapped": []}
    p50: dict[str, list[float]] = {"alone": [], "wrapped": []}
    for turn in range(rounds + 1):
        for name, client in (("alone", alone), ("wrapped", wrapped)):
            took = []
            start_cpu = time.process_time()
            for _ in range(calls):
                start = time.perf_counter()
                call(client, payload)
                took.append(time.perf_counter() - start)
            if turn:
                cpu[name].append((time.process_time() - start_cpu) / calls * 1e6)
                p50[name].append(statistics.median(took) * 1e6)
    added = [b - a for a, b in zip(cpu["alone"], cpu["wrapped"], strict=True)]
    return {
        "sdk_cpu_us": round(statistics.median(cpu["alone"])),
        "added_cpu_us": round(statistics.median(added)),
        "cpu_ratio": round(statistics.median(cpu["wrapped"]) / statistics.median(cpu["alone"]), 2),
        "p50_added_us": round(statistics.median(p50["wrapped"]) - statistics.median(p50["alone"])),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--calls", type=int, default=1500)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true")
    asked = options.parse_args()
    provider = free_port()
    with process(sys.executable, str(HERE / "provider_stub.py"), str(provider), ready=f"127.0.0.1:{provider}"):
        results = {
            "library": library(asked.calls // 3, asked.rounds, provider),
            "gateway": gateway(asked.calls, asked.rounds, provider),
        }
    if asked.json:
        print(json.dumps(results, indent=2))
        return
    for door, cases in results.items():
        for case, figures in cases.items():
            print(f"{door:8} {case:24}", "  ".join(f"{name} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
