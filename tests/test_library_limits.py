"""Limits of library calls under any concurrency, in runs that go on elsewhere, and from the configuration."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai as openai_sdk
import pytest
from openai import AsyncOpenAI

import bursar
from bursar import testing
from bursar.policy import Budget, Candidate, Policy, Provider
from bursar.sandbox.server import SandboxServer
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Ask, Entry, Hold, Refused
from library_kit import (
    PRICES,
    STOPPED,
    chat,
    chat_streamed,
    chat_text,
    decided,
    openai,
    patient_chat,
    rows,
    settings,
)


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as server:
        yield server


# Under any concurrency


@pytest.fixture(params=["memory", "sqlite"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bursar.Guard]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "books.db")
    with bursar.Guard(Policy(prices=PRICES), store) as guard:
        yield guard


@pytest.mark.parametrize(
    "limit", [{"usd": "0.05"}, pytest.param({"tokens": 12_000}, marks=pytest.mark.slow)], ids=["dollars", "tokens"]
)
def test_a_thousand_calls_in_fifty_threads(sandbox: SandboxServer, shared: bursar.Guard, limit: Any) -> None:
    """One run budget, fifty threads: the provider's own bill stays within it, and nearly all of it can be spent."""
    client = shared.wrap(openai(sandbox.url, max_retries=0))

    def ask(number: int) -> str:
        with run.step("fan"):
            if number % 3:
                return chat_text(patient_chat(client, f"{number}", max_tokens=5 + number % 40))[0]
            return chat_streamed(patient_chat(client, f"{number}", max_tokens=5 + number % 40, stream=True))[0]

    with shared.run(budget=bursar.Budget(**limit)) as run, ThreadPoolExecutor(50) as pool:
        texts = list(pool.map(ask, range(1000)))
        assert run.should_finish
    found = decided(rows(shared))
    assert len(found) == 1000
    assert {row.status for row in found} == {"completed", "refused"}
    assert sum(text.startswith(STOPPED) for text in texts) == sum(row.status == "refused" for row in found)
    spent = sandbox.bill.total_nanos() if "usd" in limit else sum(sum(x.usage.values()) for x in sandbox.bill.lines)
    most = 50_000_000 if "usd" in limit else 12_000
    assert 0.9 * most <= spent <= most


FREE = Ask()


class Watched(MemoryStore):
    """Says how many calls have asked."""

    asked = 0

    async def reserve_async(self, entry: Entry, ask: Ask = FREE) -> Hold | Refused:
        self.asked += 1
        return await super().reserve_async(entry, ask)


def test_a_waiting_call_that_is_cancelled_leaves_nothing_held(sandbox: SandboxServer) -> None:
    """Only another call's hold stands in the way, so it waits; cancelled while it waits, it was never there."""
    store = Watched()
    guard = bursar.Guard(Policy(prices=PRICES), store)

    async def main() -> None:
        async with guard, guard.wrap(openai(sandbox.url, AsyncOpenAI)) as client:
            with guard.run(budget=bursar.Budget(tokens=1_000)) as run:
                stream = await chat(client, max_tokens=600, stream=True)
                before = run.remaining
                assert before.tokens is not None and before.tokens < 500
                waiting = asyncio.create_task(chat(client, max_tokens=600))
                while store.asked < 2:
                    await asyncio.sleep(0)
                assert not waiting.done()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert run.remaining == before
                await stream.close()
                await guard.aflush()
                assert run.remaining.tokens == 1_000 - run.tokens
                assert run.calls == 2
            assert rows(guard)[0].status == "abandoned"
            assert len(sandbox.requests) == 1

    asyncio.run(main())


def test_what_others_hold_is_waited_for_and_then_said(sandbox: SandboxServer) -> None:
    """Out of patience it is a 429 that says when to come back, which an SDK obeys; never an exhausted answer."""
    limit = Budget(name="one at a time", scope="global", limit_tokens=1_000, patience_ms=1)
    with bursar.Guard(Policy(prices=PRICES, budgets=(limit,)), MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url, max_retries=0))
        with chat(client, max_tokens=600, stream=True) as stream:
            with pytest.raises(openai_sdk.RateLimitError) as caught:
                chat(client, max_tokens=600)
            assert caught.value.code == "budget_held"
            headers = caught.value.response.headers
            assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1000")
            assert "x-should-retry" not in headers
            assert len(list(stream)) > 1
        assert not chat_text(chat(client, max_tokens=600))[0].startswith(STOPPED)


# Where runs go on, and what the configuration says


def test_a_run_that_goes_on_elsewhere_keeps_its_budget(sandbox: SandboxServer, tmp_path: Path) -> None:
    """Another process names the run and nothing else: its own limit and those around it hold there too."""
    store = f"sqlite:///{tmp_path / 'books.db'}"
    with bursar.open(store=store) as first:
        client = first.wrap(openai(sandbox.url))
        with first.run(budget=bursar.Budget(tokens=3_000)) as root, first.run(budget=bursar.Budget(usd=5)) as inner:
            chat(client, max_tokens=50)
        spent = inner.tokens
    with bursar.open(store=store) as second:
        client = second.wrap(openai(sandbox.url))
        with second.run(run_id=inner.id) as again:
            assert again.parent_id == root.id
            assert again.remaining.tokens == 3_000 - spent
            assert again.remaining.usd is not None and again.remaining.usd < 5
            while not chat_text(chat(client, max_tokens=50))[0].startswith(STOPPED):
                pass
        assert again.tokens + spent <= 3_000
        with second.run(run_id="nobody knows it") as fresh:
            assert fresh.remaining == bursar.Remaining()
        assert len(rows(second)) > 3


def test_a_run_entered_again_keeps_its_budget(guard: bursar.Guard) -> None:
    """By its id in the same process, inside itself or apart; a new budget takes the old one's place."""
    ten = bursar.Budget(tokens=10)
    with guard.run(budget=ten) as root, guard.run() as inner, guard.run(run_id=inner.id) as same:
        assert same.parent_id == root.id
        assert [kin.run_id for kin in same.labels.line] == [inner.id, root.id]
    with guard.run(run_id=inner.id) as apart:
        assert apart.parent_id == root.id
        assert apart.remaining.tokens == 10
    with guard.run(run_id=root.id) as again:
        assert again.remaining.tokens == 10
    with guard.run(run_id=root.id, budget=bursar.Budget(tokens=20)) as wider:
        assert wider.remaining.tokens == 20


def test_the_configuration_limits_library_calls(sandbox: SandboxServer, tmp_path: Path) -> None:
    """[[budgets]] of bursar.toml: a free user's day and a researcher's run, by their labels; others go free."""
    (tmp_path / "bursar.toml").write_text(CONFIG)
    with bursar.open(tmp_path / "bursar.toml", store=testing.ledger()) as guard:
        client = guard.wrap(openai(sandbox.url))
        with guard.run(user="u1", user_tier="free") as run:
            while not chat_text(chat(client, max_tokens=40))[0].startswith("Enough"):
                pass
            assert run.cost <= Decimal("0.004")
            assert run.remaining.budget == "free users, daily"
        with guard.run(user="u2", user_tier="free"):
            assert not chat_text(chat(client, max_tokens=40))[0].startswith("Enough")
        with guard.run(user="u1", user_tier="paid", agent="researcher") as run:
            assert run.remaining == bursar.Remaining(None, 10_000, "a research task")


CONFIG = """
[[budgets]]
name = "free users, daily"
scope = "user"
match = { user_tier = "free" }
window = "day"
limit_usd = "0.004"
finish_text = "Enough for today: {limit}."

[[budgets]]
name = "a research task"
scope = "run"
match = { agent = "researcher" }
limit_tokens = 10_000
"""


def test_a_run_may_fall_back_on_a_cheaper_model(sandbox: SandboxServer) -> None:
    """on_exhausted = "downgrade": a whole answer by the same provider's cheaper tier before anything is cut."""
    tiers = {"small": (Candidate("openai", "gpt-4o-mini"),), "mid": (Candidate("openai", "gpt-4o"),)}
    providers = {"openai": Provider("openai", "openai", "https://api.openai.com/v1")}
    with bursar.Guard(Policy(prices=PRICES, tiers=tiers, providers=providers), MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        budget = bursar.Budget(usd="0.01", on_exhausted="downgrade")
        with guard.run(budget=budget):
            answers = []
            while not (answer := chat(client, max_tokens=500)).choices[0].message.content.startswith(STOPPED):
                answers.append(answer.model)
        assert set(answers) == {"gpt-4o", "gpt-4o-mini"}
        assert answers == sorted(answers)
        assert {row.route_reason for row in rows(guard) if row.model == "gpt-4o-mini"} >= {"downgrade:small"}
    assert sandbox.bill.total_nanos() <= 10_000_000
