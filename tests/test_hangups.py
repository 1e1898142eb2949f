"""Whoever leaves a stream, however and whenever: its row is settled exactly once and the books agree with the bill.

The bill is the sandbox's own (wire.md section 1.8): OpenAI and Gemini bill what they would have generated, Anthropic
what it had generated when the client left.
"""

import asyncio
import gc
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from bursar.doors.library.guard import Guard
from bursar.policy import Drain, OnDisconnect, Policy
from bursar.rules.cards import compile_book
from bursar.sandbox.server import SandboxServer
from bursar.sandbox.settings import Settings
from bursar.stores.memory import MemoryStore
from bursar.types import Entry

PRICES = compile_book({}, {})
TLS = ssl.create_default_context()
LIMIT = 90
OPENED: list[httpx2.AsyncClient] = []
TEXT = "Tell me at length about the history of bookkeeping."
ASK: Any = [{"role": "user", "content": TEXT}]
APIS = ("chat", "responses", "messages")


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Collections look at this file's objects only, not at all that three SDKs define."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    """A provider that takes three milliseconds an event, so that a stream is under way when its caller leaves."""
    with SandboxServer(Settings(chunk_ms=3)) as server:
        yield server


def guarded(on_disconnect: OnDisconnect = "auto", drain: Drain | None = None) -> Guard:
    return Guard(Policy(prices=PRICES, on_disconnect=on_disconnect, drain=drain or Drain()), MemoryStore())


def openai(guard: Guard, sandbox: SandboxServer) -> OpenAI:
    http = httpx2.Client(verify=TLS)
    return guard.wrap(OpenAI(api_key="k", base_url=sandbox.url + "/v1", max_retries=0, http_client=http))


def stream(guard: Guard, sandbox: SandboxServer, api: str) -> Any:
    """A stream of that API by its SDK's own client, just begun."""
    if api == "messages":
        http = httpx2.Client(verify=TLS)
        claude = guard.wrap(Anthropic(api_key="k", base_url=sandbox.url, max_retries=0, http_client=http))
        return claude.messages.create(model="claude-haiku-4-5", max_tokens=LIMIT, messages=ASK, stream=True)
    client = openai(guard, sandbox)
    if api == "chat":
        asked = {"messages": ASK, "max_completion_tokens": LIMIT}
        return client.chat.completions.create(model="gpt-4o", stream=True, **asked)
    return client.responses.create(model="gpt-4o", input=TEXT, stream=True, max_output_tokens=LIMIT)


async def astream(guard: Guard, sandbox: SandboxServer, api: str, **headers: str) -> Any:
    http = httpx2.AsyncClient(verify=TLS, headers=headers)
    OPENED.append(http)
    if api == "messages":
        claude = guard.wrap(AsyncAnthropic(api_key="k", base_url=sandbox.url, max_retries=0, http_client=http))
        return await claude.messages.create(model="claude-haiku-4-5", max_tokens=LIMIT, messages=ASK, stream=True)
    client = guard.wrap(AsyncOpenAI(api_key="k", base_url=sandbox.url + "/v1", max_retries=0, http_client=http))
    if api == "chat":
        asked = {"messages": ASK, "max_completion_tokens": LIMIT}
        return await client.chat.completions.create(model="gpt-4o", stream=True, **asked)
    return await client.responses.create(model="gpt-4o", input=TEXT, stream=True, max_output_tokens=LIMIT)


async def close_clients() -> None:
    while OPENED:
        await OPENED.pop().aclose()


def only_row(guard: Guard) -> Entry:
    """The one row there is; the ledger audits clean."""
    guard.flush()
    assert guard._desk.store.verify() == []
    (row,) = guard._desk.store.calls().items
    assert row.status != "open"
    return row


def agrees(row: Entry, sandbox: SandboxServer, api: str) -> None:
    """Drained: to the nano-dollar. Cut (Anthropic): the input exactly once it was told, the output near."""
    assert sandbox.bill.wait(1)
    (line,) = sandbox.bill.lines
    if api == "messages":
        assert row.status == "abandoned"
        assert row.cost_status == "estimated"
        told = line.usage["input"]
        assert row.input_tokens == told or (row.usage is None and abs((row.input_tokens or 0) - told) <= 5)
        assert abs((row.output_tokens or 0) - line.usage.get("output", 0)) <= 25
    else:
        assert (row.status, row.cost_status) == ("abandoned", "final")
        assert row.cost_nanos == line.nanos
        assert row.output_tokens == line.usage["output"]


def closes_unread(found: Any) -> None:
    found.close()


def closes_after_a_chunk(found: Any) -> None:
    next(iter(found))
    found.close()
    found.close()


def breaks_out(found: Any) -> None:
    for _ in found:
        break


def closes_a_generator(found: Any) -> None:
    def pieces() -> Generator[Any, None, None]:
        with found:
            yield from found

    generator = pieces()
    next(generator)
    generator.close()


def fails_midway(found: Any) -> None:
    with pytest.raises(KeyError), found:
        for _ in found:
            raise KeyError("the caller's own trouble")


def drops_it(found: Any) -> None:
    next(iter(found))


BLOCKING = (closes_unread, closes_after_a_chunk, breaks_out, closes_a_generator, fails_midway, drops_it)


@pytest.mark.parametrize("leave", BLOCKING, ids=lambda f: f.__name__)
@pytest.mark.parametrize("api", APIS)
def test_a_blocking_stream_left_early_is_settled_once(
    sandbox: SandboxServer, api: str, leave: Callable[[Any], None]
) -> None:
    """Closed before or after the first byte, broken out of, failed in, dropped: one row that agrees with the bill."""
    with guarded() as guard:
        leave(stream(guard, sandbox, api))
        gc.collect()
        agrees(only_row(guard), sandbox, api)


async def acloses_unread(found: Any) -> None:
    await found.close()


async def acloses_after_a_chunk(found: Any) -> None:
    await anext(aiter(found))
    await found.close()
    await found.close()


async def abreaks_out(found: Any) -> None:
    async for _ in found:
        break


async def acloses_a_generator(found: Any) -> None:
    async def pieces() -> AsyncGenerator[Any, None]:
        async with found:
            async for piece in found:
                yield piece

    async with aclosing(pieces()) as generator:
        await anext(generator)


async def is_cancelled(found: Any) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async with found:
            async for _ in found:
                begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def adrops_it(found: Any) -> None:
    await anext(aiter(found))


ASYNC = (acloses_unread, acloses_after_a_chunk, abreaks_out, acloses_a_generator, is_cancelled, adrops_it)


@pytest.mark.parametrize("leave", ASYNC, ids=lambda f: f.__name__)
@pytest.mark.parametrize("api", APIS)
def test_an_async_stream_left_early_is_settled_once(
    sandbox: SandboxServer, api: str, leave: Callable[[Any], Any]
) -> None:
    """Closed, broken out of, cancelled, dropped: one row that agrees with the bill."""

    async def main() -> None:
        found = await astream(guard, sandbox, api)
        await leave(found)
        del found
        for _ in range(5):  # the SDK's generators close one another, a turn of the loop and a collection each
            await asyncio.sleep(0)
            gc.collect()
        await guard.aflush()
        await close_clients()

    with guarded() as guard:
        asyncio.run(main())
        agrees(only_row(guard), sandbox, api)


@pytest.mark.parametrize("api", APIS)
def test_cancelled_before_the_head_is_settled_once(sandbox: SandboxServer, api: str) -> None:
    """Nobody has told anything: the row is closed as abandoned, its tokens unknown and not zero."""

    async def main() -> None:
        late = {"x-sandbox-latency-ms": "5000"}
        before = len(sandbox.requests)
        task = asyncio.create_task(astream(guard, sandbox, api, **late))
        while len(sandbox.requests) == before:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await close_clients()

    with guarded() as guard:
        asyncio.run(main())
        row = only_row(guard)
        assert (row.status, row.http_status) == ("abandoned", None)
        assert row.cost_nanos is None or row.cost_status == "estimated"


@pytest.mark.parametrize("api", APIS)
def test_on_disconnect_is_obeyed(sandbox: SandboxServer, api: str) -> None:
    """drain reads even Anthropic to its end, to the nano-dollar; cancel books an estimate even of OpenAI."""
    with guarded("drain") as guard:
        closes_after_a_chunk(stream(guard, sandbox, api))
        row = only_row(guard)
        assert (row.status, row.cost_status) == ("abandoned", "final")
        assert row.cost_nanos == sandbox.bill.lines[0].nanos
    with guarded("cancel") as guard:
        closes_after_a_chunk(stream(guard, sandbox, api))
        row = only_row(guard)
        assert (row.status, row.cost_status) == ("abandoned", "estimated")


def test_a_full_drain_is_not_joined(sandbox: SandboxServer) -> None:
    """Past the bound on draining streams the rest is cancelled and estimated: nothing is lost, nothing waits."""
    with guarded(drain=Drain(streams=2)) as guard:
        found = [stream(guard, sandbox, "chat") for _ in range(5)]
        for each in found:
            closes_after_a_chunk(each)
        guard.flush()
        rows = guard._desk.store.calls().items
        assert sorted(row.cost_status for row in rows) == ["estimated"] * 3 + ["final"] * 2
        assert {row.status for row in rows} == {"abandoned"}


def test_an_answer_that_was_whole_is_no_hang_up(sandbox: SandboxServer) -> None:
    """An SDK that stops at [DONE] and closes has had its answer: completed, final."""
    with guarded() as guard:
        assert len(list(stream(guard, sandbox, "chat"))) > 2
        assert only_row(guard).status == "completed"


def test_a_client_that_is_dropped_does_not_cut_its_drain(sandbox: SandboxServer) -> None:
    """The client closes its pool when it is collected; what still drains through it is let go to its end first."""
    with guarded() as guard:

        def handle() -> None:
            client = openai(guard, sandbox)
            found = client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
            next(iter(found))
            found.close()
            client.close()

        handle()
        gc.collect()
        agrees(only_row(guard), sandbox, "chat")


def test_closing_the_guard_settles_what_still_streams(sandbox: SandboxServer) -> None:
    """A stream that is neither read nor closed when the guard closes is booked by what was seen of it, once."""
    guard = guarded()
    found = stream(guard, sandbox, "chat")
    next(iter(found))
    store = guard._desk.store
    guard.close(0)
    (row,) = store.calls().items
    assert (row.status, row.cost_status) == ("abandoned", "estimated")
    found.close()
    assert len(store.calls().items) == 1


def test_many_threads_leave_at_once(sandbox: SandboxServer) -> None:
    """Eight threads that each leave a stream: eight rows, each final, and their sum is the bill."""
    with guarded() as guard:
        threads = [
            threading.Thread(target=lambda: closes_after_a_chunk(stream(guard, sandbox, "chat"))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        guard.flush()
        rows = guard._desk.store.calls().items
        assert [row.cost_status for row in rows] == ["final"] * 8
        assert sum(row.cost_nanos or 0 for row in rows) == sandbox.bill.total_nanos()
