"""An agent whose budget is too small ends by itself, with a useful answer: no exception, no storm of retries.

Plan, tools, synthesis by the real SDKs over real sockets; every byte that the provider got is looked at.
"""

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

import agent_kit
import bursar
from agent_kit import REPORT, TURNS, Agent, AnthropicAgent, OpenAIAgent, sandbox_settings
from bursar.sandbox.server import SandboxServer
from library_kit import STOPPED, anthropic, openai, rows

KINDS: dict[str, tuple[Any, Any, Any, Any]] = {
    "openai": (openai, OpenAI, OpenAIAgent, agent_kit.chat_plain),
    "openai streamed": (openai, OpenAI, OpenAIAgent, agent_kit.chat_streamed),
    "openai async": (openai, AsyncOpenAI, OpenAIAgent, agent_kit.achat_plain),
    "openai async streamed": (openai, AsyncOpenAI, OpenAIAgent, agent_kit.achat_streamed),
    "anthropic": (anthropic, Anthropic, AnthropicAgent, agent_kit.messages_plain),
    "anthropic streamed": (anthropic, Anthropic, AnthropicAgent, agent_kit.messages_streamed),
    "anthropic async": (anthropic, AsyncAnthropic, AnthropicAgent, agent_kit.amessages_plain),
    "anthropic async streamed": (anthropic, AsyncAnthropic, AnthropicAgent, agent_kit.amessages_streamed),
}
TOKENS = 20_000


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(sandbox_settings()) as server:
        yield server


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest, sandbox: SandboxServer, guard: bursar.Guard) -> Iterator[Agent]:
    make, client_kind, agent_kind, say = KINDS[request.param]
    client = guard.wrap(make(sandbox.url, client_kind))
    if "async" not in request.param:
        yield agent_kind(say(client))
        return
    with asyncio.Runner() as runner:
        yield agent_kind(agent_kit.awaiting(runner, say(client)))
        runner.run(client.close())


def spent(sandbox: SandboxServer) -> int:
    """Tokens on the provider's own bill."""
    return sum(sum(line.usage.values()) for line in sandbox.bill.lines)


def sent(sandbox: SandboxServer) -> list[dict[str, Any]]:
    return [json.loads(got.body) for got in sandbox.requests]


def tools_are_off(body: dict[str, Any]) -> bool:
    return body.get("tool_choice") in ("none", {"type": "none"})


def works(agent: Agent, run: bursar.Run) -> tuple[str, int]:
    """A careful author's loop: it asks whether to finish, and writes its report as the run's final answer."""
    with run.step("plan"):
        agent.plan()
    turns = 0
    with run.step("research"):
        while not run.should_finish and turns < 2 * TURNS:
            turns += 1
            if agent.turn() is not None:
                break
    with run.finish():
        return agent.report(), turns


def test_it_ends_with_the_report_from_the_reserve(sandbox: SandboxServer, guard: bursar.Guard, agent: Agent) -> None:
    """It stops researching in time and writes its report from the reserve: tools off on the wire, still declared."""
    with guard.run(agent="researcher", budget=bursar.Budget(tokens=TOKENS, finish_reserve=0.5)) as run:
        report, turns = works(agent, run)
    assert report == REPORT
    assert 2 <= turns < TURNS
    *before, last = sent(sandbox)
    assert tools_are_off(last) and [t.get("name", "search") for t in last["tools"]] == ["search"]
    assert not any(map(tools_are_off, before))
    assert spent(sandbox) == run.tokens <= TOKENS
    booked = rows(guard)
    assert len([row for row in booked if row.status == "completed"]) == len(sandbox.requests)
    assert {row.status for row in booked} <= {"completed", "refused"}
    assert len(booked) - len(sandbox.requests) <= 1
    assert {row.sdk_retry for row in booked} == {0}


def test_with_enough_it_is_left_alone(sandbox: SandboxServer, guard: bursar.Guard, agent: Agent) -> None:
    """The same loop under an ample budget: nothing is edited, nothing is cut, the final answer needs no reserve."""
    with guard.run(budget=bursar.Budget(tokens=5_000_000, finish_reserve=0.1)) as run:
        _, turns = works(agent, run)
    assert turns == TURNS + 1
    assert not any(map(tools_are_off, sent(sandbox)))
    assert {body["max_tokens"] for body in sent(sandbox)} == {150}
    assert all(row.status == "completed" for row in rows(guard))


def test_a_loop_that_ignores_everything_ends_with_the_graceful_text(
    sandbox: SandboxServer, guard: bursar.Guard, agent: Agent
) -> None:
    """It never asks and has no reserve: what stops it is a valid answer without tool calls, and so its loop ends."""
    with guard.run(budget=bursar.Budget(tokens=TOKENS)) as run:
        agent.plan()
        text, turns = None, 0
        while text is None:
            text, turns = agent.turn(), turns + 1
    assert text.startswith(STOPPED)
    assert turns < TURNS
    assert spent(sandbox) == run.tokens <= TOKENS
    booked = rows(guard)
    assert [row.status for row in booked].count("refused") == 1
    assert len(booked) == len(sandbox.requests) + 1 == turns + 1


def test_dollars_end_it_too(sandbox: SandboxServer, guard: bursar.Guard, agent: Agent) -> None:
    """The same in dollars: the provider's own bill stays within the budget."""
    with guard.run(budget=bursar.Budget(usd="0.05", finish_reserve=0.4)) as run:
        report, turns = works(agent, run)
    assert report == REPORT
    assert 2 <= turns < TURNS
    assert sandbox.bill.total_nanos() <= 50_000_000
    assert run.cost == Decimal(sandbox.bill.total_nanos()) / 10**9
