"""LangChain, Pydantic AI and the OpenAI Agents SDK, unchanged, by their documented client parameters.

Plain and streamed, sync and async where they have both, over real sockets: every request is one row, and the rows' sum
is the provider's own bill to the nano-dollar.
"""

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from agents import Agent as OpenAIAgent
from agents import (
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from anthropic import AsyncAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI
from pydantic import BaseModel, SecretStr
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

import bursar
from bursar.policy import Policy
from bursar.rules.cards import compile_book
from bursar.sandbox.server import SandboxServer
from bursar.stores.memory import MemoryStore

TLS = ssl.create_default_context()
ASK = "What is double entry?"


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer() as server:
        yield server


@pytest.fixture
def guard() -> Iterator[bursar.Guard]:
    with bursar.Guard(Policy(prices=compile_book({}, {})), MemoryStore()) as guard:
        yield guard


def settled(guard: bursar.Guard, sandbox: SandboxServer, calls: int) -> list[dict[str, Any]]:
    """The rows, after the proof that they are what the provider has billed."""
    guard.flush()
    rows = list(reversed(guard.ledger.calls().items))
    assert guard._desk.store.verify() == []
    assert [row["status"] for row in rows] == ["completed"] * calls
    assert len(sandbox.bill.lines) == calls
    entries = guard._desk.store.calls().items
    assert sum(entry.cost_nanos or 0 for entry in entries) == sandbox.bill.total_nanos() > 0
    assert {row["cost_status"] for row in rows} == {"final"}
    return rows


def wrapped(guard: bursar.Guard, sandbox: SandboxServer) -> AsyncOpenAI:
    http = httpx2.AsyncClient(verify=TLS)
    return guard.wrap(AsyncOpenAI(api_key="k", base_url=sandbox.url + "/v1", http_client=http))


# LangChain


def test_langchain(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """ChatOpenAI(http_client=, http_async_client=): invoke, stream, structured output, async, Responses; embeddings."""
    sync = guard.http_client(verify=TLS)

    class Answer(BaseModel):
        text: str

    async def main() -> None:
        async with guard.http_client(asynchronous=True, verify=TLS) as http:
            chat = model(http)
            await chat.ainvoke(ASK)
            assert [chunk async for chunk in chat.astream(ASK)]

    def model(http: Any = None, **more: Any) -> ChatOpenAI:
        return ChatOpenAI(
            model="gpt-4o",
            api_key=SecretStr("k"),
            base_url=sandbox.url + "/v1",
            http_client=sync,
            http_async_client=http,
            **more,
        )

    with guard.run(agent="langchain") as run:
        chat = model()
        assert chat.invoke(ASK).usage_metadata is not None
        assert "".join(str(chunk.content) for chunk in chat.stream(ASK))
        assert isinstance(chat.with_structured_output(Answer).invoke(ASK), Answer)
        model(use_responses_api=True).invoke(ASK)
        asyncio.run(main())
        embed = OpenAIEmbeddings(
            model="text-embedding-3-small",
            api_key=SecretStr("k"),
            base_url=sandbox.url + "/v1",
            http_client=sync,
            check_embedding_ctx_length=False,
        )
        embed.embed_documents(["a", "b"])
    rows = settled(guard, sandbox, 7)
    assert {row["run_id"] for row in rows} == {run.id}
    assert [row["api"] for row in rows] == ["chat", "chat", "chat", "responses", "chat", "chat", "embeddings"]
    sync.close()


# Pydantic AI


@pytest.mark.parametrize("kind", ["chat", "responses", "anthropic"])
def test_pydantic_ai(guard: bursar.Guard, sandbox: SandboxServer, kind: str) -> None:
    """A wrapped client in its provider: run and run_stream with a tool; all requests of one run have its id."""

    async def main() -> str:
        client = wrapped(guard, sandbox)
        claude = guard.wrap(
            AsyncAnthropic(api_key="k", base_url=sandbox.url, http_client=httpx2.AsyncClient(verify=TLS))
        )
        model: Any
        if kind == "anthropic":
            model = AnthropicModel("claude-haiku-4-5", provider=AnthropicProvider(anthropic_client=claude))
        elif kind == "responses":
            model = PydanticResponsesModel("gpt-4o", provider=OpenAIProvider(openai_client=client))
        else:
            model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client))
        agent = Agent(model)

        @agent.tool_plain
        def look_up(word: str) -> str:
            """Look a word up in the dictionary."""
            return f"{word}: a word"

        with guard.run(agent="pydantic") as run:
            assert (await agent.run(ASK)).output
            async with agent.run_stream(ASK) as stream:
                assert await stream.get_output()
        await client.close()
        await claude.close()
        return run.id

    run_id = asyncio.run(main())
    rows = settled(guard, sandbox, len(sandbox.bill.lines))
    assert len(rows) > 2
    assert {row["run_id"] for row in rows} == {run_id}
    assert rows[-1]["stream"]


# OpenAI Agents SDK


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel, None])
def test_openai_agents(guard: bursar.Guard, sandbox: SandboxServer, kind: Any) -> None:
    """Runner.run with a tool and Runner.run_streamed, by either model or the default client: each turn is a row."""
    set_tracing_disabled(True)

    @function_tool
    def look_up(word: str) -> str:
        """Look a word up in the dictionary."""
        return f"{word}: a word"

    async def main() -> str:
        client = wrapped(guard, sandbox)
        set_default_openai_client(client, use_for_tracing=False)
        model = kind(model="gpt-4o", openai_client=client) if kind else "gpt-4o"
        agent = OpenAIAgent(name="clerk", model=model, tools=[look_up])
        with guard.run(agent="clerk") as run:
            await Runner.run(agent, ASK)
            streamed = Runner.run_streamed(agent, ASK)
            async for _ in streamed.stream_events():
                pass
        await client.close()
        return run.id

    run_id = asyncio.run(main())
    rows = settled(guard, sandbox, len(sandbox.bill.lines))
    assert {row["run_id"] for row in rows} == {run_id}
    assert {row["stream"] for row in rows} == {False, True}
