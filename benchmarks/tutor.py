"""The demo's tutor behind the semantic cache, bounded error: how many questions need no model, and how many err?

    python benchmarks/tutor.py [--sessions 120] [--max-error 0.05] [--seeds 1 2 3 4 5] [--json]

Real SDK, real sockets, the local embedder; students' sessions one after another, and half-way the process's state is
closed and opened again. A hit is wrong where it shows another program than the provider shows to that very question;
the cache learns from answers alone (`same_program`), never from what the sandbox knows.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from openai import OpenAI

from bursar import Guard
from bursar.doors.demo import tutor, workload
from bursar.policy import Match, Policy, SemanticCache, StepRule
from bursar.rules.cards import compile_book
from bursar.sandbox import SandboxServer, Settings
from bursar.stores.sqlite import SqliteStore

Line: TypeAlias = dict[str, float | int | str]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=120)
    parser.add_argument("--max-error", type=float, default=0.05)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            line = play(options.sessions, options.max_error, seed, Path(folder))
        told = (f"{key} {value:.2%}" if isinstance(value, float) else f"{key} {value}" for key, value in line.items())
        print(json.dumps(line) if options.json else "  ".join(told), flush=True)


def play(sessions: int, max_error: float, seed: int, folder: Path) -> Line:
    """All sessions, once without the cache and once with it."""
    plain, bill = lessons(sessions, None, seed, folder / "plain.db")
    asked, cheaper = lessons(sessions, max_error, seed, folder / "cached.db")
    found = [(hit, hit and answer != own) for (hit, answer), (_, own) in zip(asked, plain, strict=True)]
    half = found[len(found) // 2 :]
    hits = sum(hit for hit, _ in half)
    return {
        "seed": seed, "requests": len(found), "max_error": max_error,
        "hit": sum(hit for hit, _ in found) / len(found), "second_half_hit": hits / len(half),
        "second_half_wrong_of_hits": sum(wrong for _, wrong in half) / max(1, hits),
        "saved_of_bill": 1 - cheaper / bill,
    }  # fmt: skip


def lessons(sessions: int, max_error: float | None, seed: int, ledger: Path) -> tuple[list[tuple[bool, str]], int]:
    """(a hit?, the program shown) of each question, and the provider's bill in nano-dollars."""
    with SandboxServer(Settings(seed=0, tasks=workload.tasks(1), chunk_tokens=24)) as provider:
        asked = list(workload.sessions(sessions))
        shown = []
        for part in (asked[: sessions // 2], asked[sessions // 2 :]):  # a restart between the halves
            shown += list(_lessons(provider.url, policy(max_error, seed), ledger, part))
        return shown, provider.bill.total_nanos()


def policy(max_error: float | None, seed: int) -> Policy:
    cache = None
    if max_error is not None:
        cache = SemanticCache(ttl_ms=86_400_000, max_error=max_error, scope="tenant", judge=tutor.same_program)
    rule = StepRule(match=Match(agent="tutor", step="answer"), semantic_cache=cache)
    return Policy(prices=compile_book({}, {}), cache_key=b"benchmark", seed=str(seed), steps=(rule,))


def _lessons(
    url: str, rules: Policy, ledger: Path, asked: list[tuple[workload.Who, list[str]]]
) -> Iterator[tuple[bool, str]]:
    store = SqliteStore(ledger)
    with Guard(rules, store) as guard:
        http = guard.http_client(trust_env=False)
        with OpenAI(base_url=f"{url}/v1", api_key="sandbox", http_client=http) as client:
            for who, questions in asked:
                for answer in tutor.lesson(guard, client, questions, **who):
                    guard.flush()
                    (row,) = store.calls(limit=1).items
                    yield row.cache == "semantic_hit", "".join(answer.split("```")[1:2])


if __name__ == "__main__":
    main()
