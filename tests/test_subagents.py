"""Sub-agents spend their root's money: no depth, no fan-out and no budget of their own lets them spend more."""

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

import bursar
from bursar.policy import Policy
from bursar.sandbox.server import SandboxServer
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from library_kit import PRICES, chat, decided, openai, patient_achat, patient_chat, rows, settings

FAN, DEPTH = 8, 3
RUNS = sum(FAN**level for level in range(DEPTH + 1))
RICH = bursar.Budget(usd=1_000, tokens=10**9)
"""What every sub-agent claims for itself."""


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite"])
def guard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bursar.Guard]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "books.db")
    with bursar.Guard(Policy(prices=PRICES), store) as guard:
        yield guard


def spent(sandbox: SandboxServer) -> int:
    return sum(sum(line.usage.values()) for line in sandbox.bill.lines)


def depth(run_id: str, parents: dict[str, str | None]) -> int:
    parent = parents[run_id]
    return 0 if parent is None else 1 + depth(parent, parents)


def is_within(guard: bursar.Guard, sandbox: SandboxServer, run: bursar.Run, limit: int) -> None:
    """The bill is at most the root's limit and most of it could be spent; every run has a row in the root's tree."""
    assert 0.8 * limit <= spent(sandbox) <= limit
    assert run.tokens == spent(sandbox)
    left = run.remaining
    assert (left.tokens, left.budget) == (limit - run.tokens, f"run:{run.id}")
    tree = [row for row in guard.ledger.run(run.id) if row["http_status"] != 429]
    assert len(tree) == len(decided(rows(guard))) == RUNS
    parents = {row["run_id"]: row["parent_run_id"] for row in tree}
    assert Counter(depth(each, parents) for each in parents) == {level: FAN**level for level in range(DEPTH + 1)}
    assert {row["status"] for row in tree} == {"completed", "refused"}


def test_a_tree_of_threads(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """Depth three, fan-out eight, 585 runs in as many threads, each with a budget that dwarfs the root's."""
    limit = 20_000
    client = guard.wrap(openai(sandbox.url, max_retries=0))
    turn = threading.Semaphore(24)

    def work(depth: int) -> None:
        with guard.run(agent=f"level {depth}", budget=RICH):
            with turn:
                patient_chat(client, "look this up", max_tokens=60)
            fan_out(depth)

    def fan_out(depth: int) -> None:
        """Threads inherit nothing: each is given a copy of the context."""
        if depth < DEPTH:
            contexts = [contextvars.copy_context() for _ in range(FAN)]
            threads = [threading.Thread(target=context.run, args=(work, depth + 1)) for context in contexts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    with guard.run(agent="root", budget=bursar.Budget(tokens=limit)) as run:
        chat(client, "plan it", max_tokens=60)
        fan_out(0)
        is_within(guard, sandbox, run, limit)


def test_a_tree_of_tasks(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """The same as asyncio tasks, whose runs nest as they are awaited."""
    limit = 20_000
    turn = asyncio.Semaphore(24)

    async def work(client: Any, depth: int) -> None:
        async with guard.run(agent=f"level {depth}", budget=RICH):
            async with turn:
                await patient_achat(client, "look this up", max_tokens=60)
            if depth < DEPTH:
                await asyncio.gather(*(work(client, depth + 1) for _ in range(FAN)))

    async def main() -> bursar.Run:
        async with guard.wrap(openai(sandbox.url, AsyncOpenAI, max_retries=0)) as client:
            with guard.run(agent="root", budget=bursar.Budget(tokens=limit)) as run:
                await chat(client, "plan it", max_tokens=60)
                await asyncio.gather(*(work(client, 1) for _ in range(FAN)))
            await guard.aflush()
            return run

    is_within(guard, sandbox, asyncio.run(main()), limit)


def test_a_sub_agent_keeps_to_its_own_share(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """A smaller budget inside a larger one stops the sub-agent alone; what it spent is the root's too."""
    client = guard.wrap(openai(sandbox.url, max_retries=0))
    with guard.run(budget=bursar.Budget(tokens=50_000)) as root:
        with guard.run(budget=bursar.Budget(tokens=2_000)) as sub:
            while not sub.should_finish:
                chat(client, max_tokens=60)
        assert 1_000 < sub.tokens <= 2_000
        assert not root.should_finish
        assert root.remaining.tokens == 50_000 - sub.tokens
        chat(client, max_tokens=60)
        assert root.tokens > sub.tokens
