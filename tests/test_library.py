"""The library door: a wrapped client behaves as it did, and every call of it is seen, attributed, priced and booked."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
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
from bursar.rules.cards import compile_book
from bursar.sandbox.server import SandboxServer
from bursar.sandbox.settings import Settings
from bursar.stores.base import StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.types import Entry

PRICES = compile_book({}, {})
TLS = ssl.create_default_context()
ASK: Any = [{"role": "user", "content": "What is double entry?"}]


def guarded(**policy: Any) -> bursar.Guard:
    return bursar.Guard(Policy(prices=PRICES, **policy), MemoryStore())


def rows(guard: bursar.Guard) -> list[Entry]:
    """Every row, oldest first; the ledger audits clean."""
    guard.flush()
    assert guard._desk.store.verify() == []
    return sorted(guard._desk.store.calls().items, key=lambda row: (row.request_id, row.attempt))


def settings() -> Settings:
    return Settings(clock=lambda: 1_700_000_000.0, retry_after_s=0.01, timeout_s=5)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[SandboxServer, SandboxServer]]:
    """Two equal providers: what one is asked, the other is asked."""
    with SandboxServer(settings()) as one, SandboxServer(settings()) as other:
        yield one, other


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs' own pauses, shortened."""
    for sdk in ("openai", "anthropic"):
        monkeypatch.setattr(f"{sdk}._base_client.INITIAL_RETRY_DELAY", 0.001)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as server:
        yield server


def openai(url: str, kind: Any = OpenAI, **more: Any) -> Any:
    http = (httpx2.AsyncClient if kind is AsyncOpenAI else httpx2.Client)(verify=TLS, follow_redirects=True)
    return kind(api_key="k", base_url=url + "/v1", http_client=http, **more)


def anthropic(url: str, kind: Any = Anthropic, **more: Any) -> Any:
    http = (httpx2.AsyncClient if kind is AsyncAnthropic else httpx2.Client)(verify=TLS, follow_redirects=True)
    return kind(api_key="k", base_url=url, http_client=http, **more)


def gemini(url: str) -> genai.Client:
    return genai.Client(api_key="k", http_options=google.HttpOptions(base_url=url))


# A wrapped client behaves as before: each scenario is played on two equal sandboxes, with and without Bursar.


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def chat(client: Any, text: str = "What is double entry?", **more: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o", messages=said(text), **more)


def message(client: Any, text: str = "What is double entry?", **more: Any) -> Any:
    return client.messages.create(model="claude-haiku-4-5", max_tokens=60, messages=said(text), **more)


def streaming_bytes(found: Any) -> Any:
    with found as answer:
        # Chunks say "usage": null where usage was asked for; to cut that out of each would cost more than it is worth.
        return answer.status_code, kept(answer.headers), b"".join(answer.iter_bytes()).replace(b',"usage":null', b"")


def raw(answer: Any) -> Any:
    return answer.status_code, kept(answer.headers), answer.http_response.content, answer.parse().model_dump()


def kept(headers: Any) -> list[tuple[str, str]]:
    return [(k, v) for k, v in headers.multi_items() if k not in ("date", "server")]


CHAT: dict[str, Callable[[Any], Any]] = {
    "plain": lambda c: chat(c).model_dump(),
    "n_choices": lambda c: chat(c, n=2).model_dump(),
    "raw": lambda c: raw(c.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)),
    "streaming_response": lambda c: streaming_bytes(
        c.chat.completions.with_streaming_response.create(model="gpt-4o", messages=ASK)
    ),
    "stream": lambda c: [chunk.model_dump() for chunk in chat(c, stream=True)],
    "stream_with_usage": lambda c: [
        chunk.model_dump() for chunk in chat(c, stream=True, stream_options={"include_usage": True})
    ],
    "raw_stream": lambda c: streaming_bytes(
        c.chat.completions.with_streaming_response.create(model="gpt-4o", messages=ASK, stream=True)
    ),
    "responses": lambda c: c.responses.create(model="gpt-4o", input="hi").model_dump(),
    "responses_stream": lambda c: [e.model_dump() for e in c.responses.create(model="gpt-4o", input="hi", stream=True)],
    "embeddings": lambda c: c.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).model_dump(),
    "models": lambda c: [m.id for m in c.models.list()],
    "not_found": lambda c: c.chat.completions.create(model="no-such-model", messages=ASK),
    "unauthorised": lambda c: chat(c.with_options(api_key="bad-key")),
    "429_once": lambda c: chat(c, "[[fault:429 once]]").model_dump(),
    "429_always": lambda c: chat(c, "[[fault:429]]"),
    "500_twice": lambda c: chat(c, "[[fault:500 x2]]").model_dump(),
    "500_always": lambda c: chat(c, "[[fault:500]]"),
    "no_retries": lambda c: chat(c.with_options(max_retries=0), "[[fault:503]]"),
    "timeout": lambda c: chat(c.with_options(timeout=0.05, max_retries=1), "[[fault:timeout]]"),
    "cut_stream": lambda c: list(chat(c, "[[fault:cut:3]]", stream=True)),
    "cut_plain": lambda c: chat(c.with_options(max_retries=1), "[[fault:cut]]"),
    "error_event": lambda c: list(chat(c, "[[fault:error-event]]", stream=True)),
    "malformed": lambda c: list(chat(c, "[[fault:malformed]]", stream=True)),
    "gzip": lambda c: chat(c, "[[fault:gzip]]").model_dump(),
    "gzip_stream": lambda c: [chunk.model_dump() for chunk in chat(c, "[[fault:gzip]]", stream=True)],
    "slow": lambda c: [chunk.model_dump() for chunk in chat(c, "[[fault:slow]]", stream=True, max_tokens=9)],
    "refused": lambda c: chat(c.with_options(base_url="http://127.0.0.1:9/v1", max_retries=1)),
}
MESSAGES: dict[str, Callable[[Any], Any]] = {
    "plain": lambda c: message(c).model_dump(),
    "stream": lambda c: [event.model_dump() for event in message(c, stream=True)],
    "stream_helper": lambda c: final(c.messages.stream(model="claude-haiku-4-5", max_tokens=60, messages=ASK)),
    "raw": lambda c: raw(c.messages.with_raw_response.create(model="claude-haiku-4-5", max_tokens=9, messages=ASK)),
    "raw_stream": lambda c: streaming_bytes(
        c.messages.with_streaming_response.create(model="claude-haiku-4-5", max_tokens=9, messages=ASK, stream=True)
    ),
    "count_tokens": lambda c: c.messages.count_tokens(model="claude-haiku-4-5", messages=ASK).input_tokens,
    "429_once": lambda c: message(c, "[[fault:429 once]]").model_dump(),
    "overloaded": lambda c: message(c, "[[fault:overloaded]]"),
    "timeout": lambda c: message(c.with_options(timeout=0.05, max_retries=1), "[[fault:timeout]]"),
    "cut_stream": lambda c: list(message(c, "[[fault:cut:3]]", stream=True)),
    "error_event": lambda c: list(message(c, "[[fault:error-event]]", stream=True)),
    "no_such_model": lambda c: c.messages.create(model="no-such-model", max_tokens=9, messages=ASK),
}


def final(helper: Any) -> Any:
    with helper as stream:
        return list(stream.text_stream), stream.get_final_message().model_dump()


def outcome(scenario: Callable[[Any], Any], client: Any, url: str) -> Any:
    """What came of it: a value, or everything about the exception that a caller can tell."""
    try:
        return scenario(client)
    except Exception as error:
        response = getattr(error, "response", None)
        answer = response and (response.status_code, getattr(response, "_content", None))
        told = str(error).replace(url, ""), str(error.__cause__), getattr(error, "body", None), answer
        return type(error), type(error.__cause__), type(error.__context__), told


def requests(server: SandboxServer, *, edited: bool) -> list[Any]:
    """What the provider got, byte for byte, without what differs for good reasons."""
    host = server.url.removeprefix("http://").encode()
    apart = {b"accept-encoding", *((b"content-length",) if edited else ())}
    return [
        (
            got.method,
            got.path,
            [(k, b"" if v == host else v) for k, v in got.headers if k not in apart],
            None if edited else got.body,
        )
        for got in server.requests
    ]


@pytest.mark.parametrize(
    ("make", "name", "scenario"),
    [*((openai, *item) for item in CHAT.items()), *((anthropic, *item) for item in MESSAGES.items())],
    ids=[*(f"openai-{name}" for name in CHAT), *(f"anthropic-{name}" for name in MESSAGES)],
)
def test_a_wrapped_client_behaves_as_before(
    pair: tuple[SandboxServer, SandboxServer], make: Any, name: str, scenario: Callable[[Any], Any]
) -> None:
    """Same values, exceptions (type, message, cause, body), retries, bytes out and in; and no call goes unbooked."""
    before, after = pair
    for server in pair:
        server.app.requests.clear()
        server.app.faults.set("")
    with guarded() as guard:
        bare, wrapped = make(before.url), guard.wrap(make(after.url))
        assert outcome(scenario, wrapped, after.url) == outcome(scenario, bare, before.url)
        edited = make is openai and "stream" in name and "usage" not in name and "responses" not in name
        edited = edited or (name in ("cut_stream", "error_event", "malformed", "slow") and make is openai)
        assert requests(after, edited=edited) == requests(before, edited=edited)
        posts = [got for got in after.requests if got.method == "POST" and "count_tokens" not in got.path]
        assert len(rows(guard)) == (2 if name == "refused" else len(posts))


def test_the_hidden_usage_chunk_is_all_that_was_edited(sandbox: SandboxServer) -> None:
    """Bursar asks for the usage that the caller did not ask for: in the body that leaves, and nowhere else."""
    with guarded() as guard:
        list(chat(openai(sandbox.url), stream=True))
        assert all(chunk.choices for chunk in chat(guard.wrap(openai(sandbox.url)), stream=True))
        bare, wrapped = (got.body for got in sandbox.requests)
        assert wrapped.replace(b'"stream_options":{"include_usage":true},', b"", 1) == bare
        (row,) = rows(guard)
        assert (row.status, row.cost_status) == ("completed", "final")
        assert row.cost_nanos == sandbox.bill.lines[1].nanos


def test_every_retry_is_a_row(sandbox: SandboxServer) -> None:
    """The SDK retries, not Bursar: each retry is a request of its own that says which it was, and failures are free."""
    with guarded() as guard:
        chat(guard.wrap(openai(sandbox.url)), "[[fault:500 x2]]")
        found = rows(guard)
        assert [row.sdk_retry for row in found] == [0, 1, 2]
        assert [row.status for row in found] == ["failed", "failed", "completed"]
        assert [row.cost_nanos for row in found] == [0, 0, sandbox.bill.total_nanos()]
        assert len({row.request_id for row in found}) == 3


def test_bursar_retries_where_it_was_told_to(sandbox: SandboxServer) -> None:
    """attempts = 2: one request, two rows; and an error after that is marked so that no SDK tries again."""
    guard = bursar.Guard(Policy(prices=PRICES), MemoryStore(), attempts=2)
    with guard:
        client = guard.wrap(openai(sandbox.url))
        chat(client, "[[fault:429 once]]")
        assert [row.attempt for row in rows(guard)] == [1, 2]
        assert len({row.request_id for row in rows(guard)}) == 1
        with pytest.raises(Exception, match="500") as caught:
            chat(client, "[[fault:500]]")
        assert caught.value.response.headers["x-should-retry"] == "false"  # type: ignore[attr-defined]
        assert len(rows(guard)) == 4


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
