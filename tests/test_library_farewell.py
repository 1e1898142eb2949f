"""The last word of a used-up budget, where the agent has one of its own."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

import bursar
from bursar import testing
from bursar.policy import Budget, Policy
from bursar.sandbox.server import SandboxServer
from bursar.stores.memory import MemoryStore
from library_kit import (
    ASK,
    PRICES,
    STOPPED,
    chat,
    chat_streamed,
    chat_text,
    openai,
    rows,
    settings,
)


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as server:
        yield server


def test_the_agent_says_what_it_has_found(guard: bursar.Guard) -> None:
    """The function gets the conversation and the run's rows, and its text is the answer, streamed too."""
    seen: list[bursar.Finishing] = []

    def summary(finishing: bursar.Finishing) -> str:
        seen.append(finishing)
        return f"So far: {finishing.messages[-1]['content']} after {len(finishing.calls)} calls, {finishing.spent}."

    with testing.Script() as script:
        client = guard.wrap(OpenAI(api_key="k", http_client=script.client()))
        script.answer("yes", input_tokens=500, output_tokens=500)
        with guard.run(agent="a", budget=bursar.Budget(tokens=1_000, finish=summary)) as run:
            client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=10)
            with guard.run(agent="inner"):
                text, reason = chat_streamed(client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True))
            client.responses.create(model="gpt-4o", input="a bare text")
    assert (text, reason) == ("So far: What is double entry? after 0 calls, 1,000 tokens.", "length")
    inner, outer = seen
    assert (outer.run_id, outer.budget, outer.limit) == (run.id, f"run:{run.id}", "1,000 tokens")
    assert inner.run_id != run.id
    assert outer.messages == [{"role": "user", "content": "a bare text"}]
    assert [row["status"] for row in outer.calls] == ["completed", "refused"]
    assert "is used up" in outer.reason


def test_the_guard_has_a_word_for_all_runs(sandbox: SandboxServer) -> None:
    """bursar.open(finish=) speaks for configured budgets; the nearest run with its own way comes first."""
    limit = Budget(name="all", scope="global", limit_nanos=0)
    guard = bursar.Guard(Policy(prices=PRICES, budgets=(limit,)), MemoryStore(), finish=lambda told: told.budget)
    with guard:
        client = guard.wrap(openai(sandbox.url))
        assert chat_text(chat(client))[0] == "all"
        with guard.run(budget=bursar.Budget(usd=1, finish=lambda told: "mine")):
            assert chat_text(chat(client))[0] == "mine"
            with guard.run(budget=bursar.Budget(usd=1)):
                assert chat_text(chat(client))[0] == "mine"


def test_an_async_client_takes_an_async_function(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """Awaited on the caller's loop; a plain function serves as well."""

    async def slow(finishing: bursar.Finishing) -> str:
        await asyncio.sleep(0)
        return "awaited"

    async def main() -> None:
        async with guard.wrap(openai(sandbox.url, AsyncOpenAI)) as client:
            with guard.run(budget=bursar.Budget(tokens=0, finish=slow)):
                assert chat_text(await chat(client))[0] == "awaited"
            with guard.run(budget=bursar.Budget(tokens=0, finish=lambda told: "plain")):
                assert chat_text(await chat(client))[0] == "plain"

    asyncio.run(main())


def raises(finishing: bursar.Finishing) -> str:
    raise KeyError("the caller's secret")


async def awaited(finishing: bursar.Finishing) -> str:
    return "never awaited"


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("wrong", [raises, lambda told: None, lambda told: "", awaited])
def test_a_function_that_fails_leaves_the_template(
    sandbox: SandboxServer, guard: bursar.Guard, caplog: pytest.LogCaptureFixture, wrong: Any
) -> None:
    """Logged once with its name and place, without content; the caller gets an answer every time."""
    client = guard.wrap(openai(sandbox.url))
    with caplog.at_level(logging.WARNING, "bursar"), guard.run(budget=bursar.Budget(tokens=0, finish=wrong)):
        for _ in range(3):
            assert chat_text(chat(client, "a secret"))[0].startswith(STOPPED)
    (record,) = caplog.records
    assert wrong.__qualname__ in record.getMessage()
    assert "secret" not in caplog.text


def test_a_function_that_calls_a_model_does_not_call_itself(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """Its own call is refused by the same budget, with the template."""
    client = guard.wrap(openai(sandbox.url))

    def ask_again(finishing: bursar.Finishing) -> str:
        return "then: " + chat_text(chat(client))[0]

    with guard.run(budget=bursar.Budget(tokens=0, finish=ask_again)):
        assert chat_text(chat(client))[0].startswith("then: " + STOPPED)
    assert len(rows(guard)) == 2
