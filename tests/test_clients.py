"""Whose clients, which HTTP libraries, refusals, and the doubles for users' own tests."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from google import genai
from google.genai import types as google
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

import bursar
from bursar import testing
from bursar.doors.library.transport import Door
from bursar.policy import Policy
from bursar.sandbox.server import SandboxServer
from bursar.stores.base import StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.types import Entry
from library_kit import ASK, PRICES, TLS, anthropic, chat, final, gemini, guarded, message, openai, rows, settings


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as server:
        yield server


# Whose client, which library


def test_the_async_clients(sandbox: SandboxServer) -> None:
    """AsyncOpenAI, AsyncAnthropic and google-genai's aio, plain and streamed, on two event loops: books equal bill."""

    async def main() -> None:
        client, claude = (
            guard.wrap(openai(sandbox.url, AsyncOpenAI)),
            guard.wrap(anthropic(sandbox.url, AsyncAnthropic)),
        )
        await chat(client)
        async for _ in await chat(client, stream=True):
            pass
        async for _ in await client.responses.create(model="gpt-4o", input="hi", stream=True):
            pass
        await message(claude)
        async with claude.messages.stream(model="claude-haiku-4-5", max_tokens=60, messages=ASK) as stream:
            await stream.get_final_message()
        await google_client.aio.models.generate_content(model="gemini-2.5-flash", contents="hi")
        async for _ in await google_client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents="hi"):
            pass
        await guard.aflush()
        for each in (client, claude, google_client.aio._api_client._async_httpx_client._client_for_running_loop()):  # type: ignore[union-attr]
            await (each.aclose() if hasattr(each, "aclose") else each.close())

    with guarded() as guard:
        google_client = guard.wrap(gemini(sandbox.url))
        for _ in range(2):
            asyncio.run(main())
        found = rows(guard)
        assert [row.status for row in found] == ["completed"] * 14
        assert sum(row.cost_nanos or 0 for row in found) == sandbox.bill.total_nanos()
        assert len(sandbox.bill.lines) == 14


def test_google_genai_blocking(sandbox: SandboxServer) -> None:
    """generate_content plain and streamed, and an error that keeps its type."""
    with guarded() as guard:
        client = guard.wrap(gemini(sandbox.url))
        client.models.generate_content(model="gemini-2.5-flash", contents="hi")
        assert list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi"))
        with pytest.raises(genai.errors.ClientError):
            client.models.generate_content(model="no-such-model", contents="hi")
        client.models.count_tokens(model="gemini-2.5-flash", contents="hi")
        found = rows(guard)
        assert [(row.api, row.provider, row.status) for row in found] == [
            ("gemini", "gemini", "completed"), ("gemini", "gemini", "completed"), ("gemini", "gemini", "failed"),
        ]  # fmt: skip
        assert sum(row.cost_nanos or 0 for row in found) == sandbox.bill.total_nanos()


def test_azure_paths_and_a_provider_by_name(sandbox: SandboxServer) -> None:
    """An Azure deployment's path is read as chat; wrap(provider=) says whose prices hold where the URL does not."""
    with guarded() as guard, testing.Script() as script:
        script.answer("yes", model="gpt-4o-2024-08-06", input_tokens=100, output_tokens=10)
        client = AzureOpenAI(
            api_key="k",
            api_version="2024-10-21",
            azure_endpoint="https://x.openai.azure.com",
            http_client=script.client(),
        )
        chat(guard.wrap(client))
        assert script.requests[0].path.startswith("/openai/deployments/gpt-4o/")
        script.answer("yes")
        chat(guard.wrap(OpenAI(api_key="k", http_client=script.client()), provider="acme"))
        azure, acme = rows(guard)
        assert (azure.provider, azure.api) == ("azure", "chat")
        assert azure.cost_nanos is not None
        assert (acme.provider, acme.cost_status) == ("acme", "unpriced")


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_http_client_of_either_library(sandbox: SandboxServer, library: Any) -> None:
    """guard.http_client() serves whatever takes one, and raw requests too; both libraries, sync and async."""
    body = {"model": "gpt-4o", "messages": ASK}

    async def main() -> None:
        async with guard.http_client(library, asynchronous=True, verify=TLS) as client:
            assert (await client.post(sandbox.url + "/v1/chat/completions", json=body)).status_code == 200

    with guarded() as guard:
        with guard.http_client(library, verify=TLS) as client:
            assert type(client).__module__.startswith(library)
            answer = client.post(sandbox.url + "/v1/chat/completions", json=body)
            assert answer.http_version == "HTTP/1.1"
            assert answer.json()["object"] == "chat.completion"
            OpenAI(api_key="k", base_url=sandbox.url + "/v1", http_client=client).models.list()
        asyncio.run(main())
        assert [row.status for row in rows(guard)] == ["completed"] * 2


def test_what_is_no_model_call_passes_untouched() -> None:
    """GETs, free endpoints and strangers' hosts: the request object itself reaches the inner transport, no row."""
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return httpx2.Response(200, json={})

    with guarded() as guard, httpx2.Client(transport=httpx2.MockTransport(answer)) as plain:
        client = guard.wrap(plain)
        for method, url in [
            ("GET", "https://api.openai.com/v1/models"),
            ("POST", "https://api.openai.com/v1/files"),
            ("POST", "https://api.anthropic.com/v1/messages/count_tokens"),
            ("POST", "https://example.org/anything"),
        ]:
            request = client.build_request(method, url)
            client.send(request)
            assert seen[-1] is request
        assert rows(guard) == []
        client.post("https://api.openai.com/v1/images/generations", json={"model": "gpt-image-1"})
        (row,) = rows(guard)
        assert (row.api, row.model) == ("other", "gpt-image-1")
        assert row.cost_status != "final"


def test_an_upload_is_not_read_into_memory() -> None:
    """A streamed body on an unpriced path goes on as it comes."""

    pulled: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            pulled.append(number)
            yield b"x"

    class Inner(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            assert pulled == []
            assert b"".join(request.stream) == b"xxx"  # type: ignore[arg-type]
            return httpx2.Response(200, json={"text": "hello"})

    with guarded() as guard, httpx2.Client(transport=Inner()) as client:
        guard.wrap(client).post("https://api.openai.com/v1/audio/transcriptions", content=pieces())
        assert len(rows(guard)) == 1


def test_wrapping_in_place_keeps_what_the_client_had(sandbox: SandboxServer) -> None:
    """The same object comes back; proxies' transports are wrapped, not replaced; twice is once; copies share it."""
    with guarded() as guard, guarded() as other:
        http = httpx2.Client(mounts={"https://": httpx2.MockTransport(lambda r: httpx2.Response(418))}, verify=TLS)
        inner, mounted = http._transport, next(iter(http._mounts.values()))
        client = OpenAI(api_key="k", base_url=sandbox.url + "/v1", http_client=http)
        assert guard.wrap(client) is client
        guard.wrap(client)
        door: Any = http._transport
        assert isinstance(door, Door)
        assert door.inner is inner
        assert next(iter(http._mounts.values())).inner is mounted  # type: ignore[union-attr]
        chat(client.with_options(timeout=30))
        chat(client.copy())
        assert len(rows(guard)) == 2
        other.wrap(client)
        chat(client)
        assert (len(rows(guard)), len(rows(other))) == (2, 1)


def test_an_unknown_object_is_refused_with_what_is_known() -> None:
    """TypeError names what can be wrapped, and the way for everything else."""
    with (
        guarded() as guard,
        pytest.raises(TypeError, match=r"cannot wrap a builtins\.dict.*AsyncAnthropic.*http_client"),
    ):
        guard.wrap({})


# Refusals


class BrokenStore(MemoryStore):
    """A ledger whose disk is full."""

    def reserve(self, entry: Entry, claims: Any = ()) -> Any:
        raise StoreFailure("disk full: free some space")

    async def reserve_async(self, entry: Entry, claims: Any = ()) -> Any:
        raise StoreFailure("disk full: free some space")


@pytest.mark.parametrize("make", [openai, anthropic])
def test_a_ledger_that_cannot_be_written_refuses_once_and_says_so(sandbox: SandboxServer, make: Any) -> None:
    """HTTP 503 in the caller's dialect, no retry, nothing sent: an unbooked call would be a hole in the bill."""
    with bursar.Guard(Policy(prices=PRICES), BrokenStore()) as guard:
        client = guard.wrap(make(sandbox.url))
        with pytest.raises(Exception, match="disk full: free some space") as caught:
            (chat if make is openai else message)(client)
        assert caught.value.status_code == 503  # type: ignore[attr-defined]
        assert sandbox.requests == []

        async def main() -> None:
            async with guard.wrap(openai(sandbox.url, AsyncOpenAI)) as client:
                with pytest.raises(Exception, match="disk full"):
                    await chat(client)

        asyncio.run(main())
        assert sandbox.requests == []


def test_a_refusal_is_an_answer_that_is_not_retried(sandbox: SandboxServer) -> None:
    """unknown_price = "refuse": HTTP 402 with the reason and its cure; one attempt, a row, nothing sent."""
    with guarded(unknown_price="refuse") as guard:
        client = guard.wrap(openai(sandbox.url))
        with pytest.raises(Exception, match="no price is known for openai/no-such-model") as caught:
            client.chat.completions.create(model="no-such-model", messages=ASK)
        assert caught.value.status_code == 402  # type: ignore[attr-defined]
        assert sandbox.requests == []
        chat(client)


# The doubles


def test_a_script_speaks_every_dialect() -> None:
    """Text, tool calls, usage and errors reach the SDKs' own types, whole and streamed, and the ledger."""
    with testing.Script() as script, bursar.open(store=testing.ledger()) as guard:
        client = guard.wrap(OpenAI(api_key="k", http_client=script.client(), max_retries=0))
        claude = guard.wrap(Anthropic(api_key="k", http_client=script.client(), max_retries=0))
        options = google.HttpOptions(httpx_client=script.client(), httpx_async_client=script.client(asynchronous=True))
        google_client = guard.wrap(genai.Client(api_key="k", http_options=options))
        script.answer("Paris", input_tokens=12, output_tokens=1, cached_tokens=4)
        assert chat(client).choices[0].message.content == "Paris"
        script.answer(tools=[("look", {"at": 1})])
        assert chat(client).choices[0].message.tool_calls[0].function.arguments == '{"at":1}'
        script.answer("Paris")
        assert "".join(c.choices[0].delta.content or "" for c in chat(client, stream=True)) == "Paris"
        script.answer("Rome").answer("Rome")
        assert client.responses.create(model="gpt-4o", input="?").output_text == "Rome"
        with client.responses.stream(model="gpt-4o", input="?") as stream:
            assert stream.get_final_response().output_text == "Rome"
        script.answer(tools=[("look", {"at": 1})])
        with client.responses.stream(model="gpt-4o", input="?") as stream:
            assert stream.get_final_response().output[0].arguments == '{"at":1}'  # type: ignore[union-attr]
        script.answer(vector=[0.5, 0.25])
        assert client.embeddings.create(model="text-embedding-3-small", input="x").data[0].embedding == [0.5, 0.25]
        script.answer("Bern").answer("Bern").answer(tools=[("look", {"at": 1})])
        assert message(claude).content[0].text == "Bern"
        assert final(claude.messages.stream(model="claude-haiku-4-5", max_tokens=9, messages=ASK))[0] == ["Bern"]
        assert final(claude.messages.stream(model="claude-haiku-4-5", max_tokens=9, messages=ASK))[1]["content"][0][
            "input"
        ] == {"at": 1}
        script.answer("Oslo").answer("Oslo")
        assert google_client.models.generate_content(model="gemini-2.5-flash", contents="?").text == "Oslo"
        found = google_client.models.generate_content_stream(model="gemini-2.5-flash", contents="?")
        assert [chunk.text for chunk in found] == ["Oslo"]
        script.error(429, "slow down", retry_after="7")
        with pytest.raises(Exception, match="slow down") as caught:
            chat(client)
        assert caught.value.response.headers["retry-after"] == "7"  # type: ignore[attr-defined]
        first = rows(guard)[0]
        assert (first.input_tokens, first.cached_tokens, first.output_tokens) == (12, 4, 1)
        assert {row.cost_status for row in rows(guard)} == {"final"}


def test_a_script_that_does_not_fit_fails_the_test() -> None:
    """An answer that nobody asked for, or a request without an answer, is an AssertionError at the end."""
    with pytest.raises(AssertionError, match="1 of 1 answers"), testing.Script() as script:
        script.answer("never asked")
    with pytest.raises(AssertionError, match="no answer left"), testing.Script() as script:
        client = OpenAI(api_key="k", http_client=script.client())
        with pytest.raises(Exception, match="no answer left"):
            chat(client)
        assert len(script.requests) == 1


def test_httpx_takes_a_script_too() -> None:
    """The older library's client asks the same script."""
    with testing.Script() as script, guarded() as guard:
        script.answer("hello")
        client: Any = guard.wrap(OpenAI(api_key="k", http_client=script.client("httpx")))
        assert type(client._client).__module__ == "httpx"
        assert chat(client).choices[0].message.content == "hello"
        assert len(rows(guard)) == 1
