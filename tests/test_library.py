"""A client that Bursar wraps behaves as it did: the same scenarios with and without, on two equal providers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bursar
from bursar.policy import Policy
from bursar.sandbox.server import SandboxServer
from bursar.stores.memory import MemoryStore
from library_kit import ASK, PRICES, anthropic, chat, final, guarded, message, openai, rows, settings


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
