"""Answers that are given again, in the agent's own process: blocking clients, asyncio and threads, with real SDKs."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai as openai_sdk
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

import bursar
from bursar.drivers import flights
from bursar.policy import Budget, Match, ResponseCache, StepRule
from bursar.sandbox.server import SandboxServer
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from gateways import until
from library_kit import (
    ASK,
    PRICES,
    anthropic,
    chat,
    chat_streamed,
    final,
    gemini,
    guarded,
    openai,
    rows,
    settings,
)

RULES = (
    StepRule(match=Match(step="extract"), response_cache=ResponseCache(ttl_ms=86_400_000)),
    StepRule(match=Match(step="shared"), response_cache=ResponseCache(ttl_ms=86_400_000, scope="tenant")),
)


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as server:
        yield server


@pytest.fixture
def guard() -> Iterator[bursar.Guard]:
    with guarded(steps=RULES) as guard:
        yield guard


def caches(guard: bursar.Guard) -> list[str]:
    return [row.cache for row in rows(guard)]


def raw(client: Any, **more: Any) -> Any:
    return client.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK, **more)


# --- what a client sees


def test_a_client_cannot_tell_but_by_the_headers(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """The same completion, with headers that say whence; one request at the provider, one that cost something."""
    client = guard.wrap(openai(sandbox.url))
    with guard.run(user="u1") as run, run.step("extract"):
        first, second = raw(client), raw(client)
    assert first.parse() == second.parse()
    assert "x-bursar-cache" not in first.headers
    assert second.headers["x-bursar-cache"] == "hit" and second.headers["age"].isdecimal()
    paid, hit = rows(guard)
    assert second.headers["x-bursar-request-id"] == hit.request_id
    assert (hit.status, hit.cost_nanos, hit.saved_nanos) == ("hit", 0, paid.cost_nanos)
    assert (run.calls, len(sandbox.requests)) == (2, 1)
    assert run.tokens == (paid.input_tokens or 0) + (paid.output_tokens or 0)


def test_every_dialect_and_shape(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """Plain, streamed and by the SDKs' helpers: each second one is the first again."""
    gpt, claude, flash = openai(sandbox.url), anthropic(sandbox.url), gemini(sandbox.url)
    for client in (gpt, claude, flash):
        guard.wrap(client)
    with guard.run(user="u1"), guard.step("extract"):
        whole = chat(gpt)
        told = chat_streamed(chat(gpt, stream=True))
        assert told == (whole.choices[0].message.content, "stop")
        asked: Any = {"model": "claude-haiku-4-5", "max_tokens": 900, "messages": ASK}
        assert claude.messages.create(**asked) == claude.messages.create(**asked)
        first, second = (final(claude.messages.stream(**asked)) for _ in range(2))
        assert "".join(first[0]) == "".join(second[0]) != "" and first[1] == second[1]
        made = [gpt.responses.create(model="gpt-4o", input="hi").output_text for _ in range(2)]
        with gpt.responses.stream(model="gpt-4o", input="hi") as events:
            assert [events.get_final_response().output_text] * 2 == made
        said = [flash.models.generate_content(model="gemini-2.5-flash", contents="hi").text for _ in range(2)]
        pieces = flash.models.generate_content_stream(model="gemini-2.5-flash", contents="hi")
        assert ["".join(chunk.text or "" for chunk in pieces)] * 2 == said
    assert len(sandbox.requests) == caches(guard).count("miss") == 4
    assert caches(guard).count("hit") == 8


def test_asyncio(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """The same for async clients, streams and helpers too."""

    async def main() -> None:
        gpt, claude = guard.wrap(openai(sandbox.url, AsyncOpenAI)), guard.wrap(anthropic(sandbox.url, AsyncAnthropic))
        async with guard.run(user="u1"), guard.step("extract"):
            whole = await chat(gpt)
            chunks = [chunk async for chunk in await chat(gpt, stream=True)]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
            assert {chunk.id for chunk in chunks} == {whole.id}
            asked: Any = {"model": "claude-haiku-4-5", "max_tokens": 900, "messages": ASK}
            first = await claude.messages.create(**asked)
            async with claude.messages.stream(**asked) as stream:
                assert (await stream.get_final_message()).content[0].text == first.content[0].text
        await gpt.close()
        await claude.close()

    asyncio.run(main())
    assert caches(guard) == ["miss", "hit"] * 2 and len(sandbox.requests) == 2


def test_errors_and_other_headers_stay_the_providers(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """What is not given again is the provider's own answer, headers and all; a failure is not kept."""
    client = guard.wrap(openai(sandbox.url, max_retries=0))
    with guard.run(user="u1"), guard.step("extract"):
        for _ in range(2):
            with pytest.raises(openai_sdk.InternalServerError):
                chat(client, extra_headers={"x-sandbox-fault": "500"})
        answer = raw(client)
        assert answer.headers["x-request-id"]
    assert caches(guard) == ["miss"] * 3


# --- who is given it


def test_runs_of_one_user_share_and_no_others(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """By the user that the run names; a step of the tenant's scope is everybody's."""
    client = guard.wrap(openai(sandbox.url))
    found = []
    for user, step in (("u1", "extract"), ("u2", "extract"), ("u1", "extract"), ("u1", "shared"), ("u2", "shared")):
        with guard.run(user=user) as run, run.step(step):
            chat(client)
        found.append(caches(guard)[-1])
    assert found == ["miss", "miss", "hit", "miss", "hit"]


def test_two_servers_of_one_kind_are_two(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """What one host answered is not given to who asks another, though both pass for the same provider."""
    here, there = (guard.wrap(openai(sandbox.url.replace("127.0.0.1", host))) for host in ("127.0.0.1", "localhost"))
    with guard.run(user="u1"), guard.step("extract"):
        for client in (here, there, here, there):
            chat(client)
    assert caches(guard) == ["miss", "miss", "hit", "hit"]


# --- what the code wants


@pytest.mark.parametrize(
    ("wish", "asked", "seen"),
    [
        (None, 1, "hit"),
        ("on", 1, "hit"),
        ("off", 2, "bypass"),
        ("refresh", 2, "bypass"),
        ("only", 1, "hit"),
    ],
)
def test_a_step_says_what_it_wants(
    guard: bursar.Guard, sandbox: SandboxServer, wish: Any, asked: int, seen: str
) -> None:
    """As a `with` and as a decorator, on the guard and on a run."""
    client = guard.wrap(openai(sandbox.url))
    with guard.run(user="u1"), guard.step("extract"):
        chat(client)
    with guard.run(user="u1") as run, run.step("extract", cache=wish):
        chat(client)
    assert (len(sandbox.requests), caches(guard)[1:]) == (asked, [seen])

    @guard.step("extract", cache=wish)
    def extract() -> None:
        chat(client)

    with guard.run(user="u1"):
        extract()
    assert caches(guard)[2:] == [seen]


def test_only_without_an_answer_ends_in_504(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """Nothing is sent, and no SDK tries it again."""
    client = guard.wrap(openai(sandbox.url, max_retries=3))
    with guard.run(user="u1"), guard.step("extract", cache="only"), pytest.raises(openai_sdk.APIStatusError) as caught:
        chat(client)
    assert (caught.value.status_code, caught.value.code) == (504, "cache_miss")
    assert sandbox.requests == []
    assert [(row.status, row.cache) for row in rows(guard)] == [("refused", "miss")]


def test_an_inner_step_has_the_wish_of_the_one_around_it(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """Unless it has its own, or belongs to another run."""
    client = guard.wrap(openai(sandbox.url))
    with guard.run(user="u1") as run:
        with guard.step("work", cache="off"), guard.step("extract"):
            chat(client)
        with guard.step("work", cache="off"), run.step("extract"):
            chat(client)
        with guard.step("work", cache="off"), guard.step("extract", cache="on"):
            chat(client)
        with guard.step("work", cache="off"), guard.run(), guard.step("extract"):
            chat(client)
    assert caches(guard) == ["bypass", "bypass", "miss", "hit"]


def test_a_wish_that_is_none_is_said_where_it_is_written(guard: bursar.Guard) -> None:
    """Not in the middle of a run."""
    with pytest.raises(ValueError, match="'on', 'off', 'refresh', 'only'"):
        guard.step("extract", cache="never")  # type: ignore[arg-type]


# --- many at once


def test_threads_share_one_call(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """Two hundred at once, plain and streamed: one at the provider, and all have its answer."""
    client = guard.wrap(openai(sandbox.url))
    told: list[str] = []

    def one(at: int) -> None:
        with guard.run(user="u1"), guard.step("extract"):
            if at % 2:
                told.extend({chunk.id for chunk in chat(client, stream=True)})
            else:
                told.append(chat(client).id)

    threads = [threading.Thread(target=one, args=(at,)) for at in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(told), len(set(told)), len(sandbox.requests)) == (200, 1, 1)
    assert sorted(caches(guard)).count("miss") == 1


def test_tasks_share_one_call(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """On one loop, and with the clients of another loop's."""

    async def main(count: int) -> list[str]:
        client = guard.wrap(openai(sandbox.url, AsyncOpenAI))

        async def one() -> str:
            async with guard.run(user="u1"), guard.step("extract"):
                made: str = (await chat(client)).id
                return made

        try:
            return await asyncio.gather(*(one() for _ in range(count)))
        finally:
            await client.close()

    told: list[str] = []
    threads = [threading.Thread(target=lambda: told.extend(asyncio.run(main(100)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(told), len(set(told)), len(sandbox.requests)) == (200, 1, 1)


def test_a_cancelled_leader_makes_way(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """Whoever waited is sent in its place; nobody is left waiting."""

    async def main() -> list[str]:
        client = guard.wrap(openai(sandbox.url, AsyncOpenAI))

        async def one(**more: Any) -> str:
            async with guard.run(user="u1"), guard.step("extract"):
                made: str = (await chat(client, **more)).id
                return made

        leader = asyncio.create_task(one(extra_headers={"x-sandbox-latency-ms": "60000"}))
        await asyncio.to_thread(until, lambda: len(sandbox.requests) == 1, "the leader is under way")
        others = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.to_thread(until, lambda: waiting(guard) == 3, "three wait")
        leader.cancel()
        told = await asyncio.gather(*others)
        with pytest.raises(asyncio.CancelledError):
            await leader
        await client.close()
        return told

    assert len(set(asyncio.run(main()))) == 1
    assert len(sandbox.requests) == 2
    assert sorted(row.cache for row in rows(guard) if row.status == "hit") == ["coalesced"] * 2


def test_a_cancelled_follower_leaves_the_others_alone(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """It is forgotten, and has no row; the leader and the rest go on."""

    async def main() -> None:
        client = guard.wrap(openai(sandbox.url, AsyncOpenAI))

        async def one(**more: Any) -> str:
            async with guard.run(user="u1"), guard.step("extract"):
                made: str = (await chat(client, **more)).id
                return made

        leader = asyncio.create_task(one(extra_headers={"x-sandbox-latency-ms": "1000"}))
        await asyncio.to_thread(until, lambda: len(sandbox.requests) == 1, "the leader is under way")
        others = [asyncio.create_task(one()) for _ in range(2)]
        await asyncio.to_thread(until, lambda: waiting(guard) == 2, "two wait")
        others[0].cancel()
        assert await leader == await others[1]
        with pytest.raises(asyncio.CancelledError):
            await others[0]
        await client.close()

    asyncio.run(main())
    assert len(sandbox.requests) == 1
    assert sorted(caches(guard))[:2] == ["coalesced", "miss"]


def waiting(guard: bursar.Guard) -> int:
    return sum(map(len, guard._desk.world.flights._waiting.values()))


def test_who_waits_outlives_a_stream_that_is_closed(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """The leader's stream is read to its end for them."""
    client = guard.wrap(openai(sandbox.url))
    told: list[str] = []

    def one() -> None:
        with guard.run(user="u1"), guard.step("extract"):
            told.append(chat(client).id)

    with guard.run(user="u1"), guard.step("extract"):
        stream = chat(client, stream=True, extra_headers={"x-sandbox-fault": "slow"})
        made = next(iter(stream)).id
    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: waiting(guard) == 3, "three wait")
    stream.close()
    for thread in threads:
        thread.join()
    assert told == [made] * 3 and len(sandbox.requests) == 1


def test_nobody_waits_for_a_stream_that_is_not_read(
    guard: bursar.Guard, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that left it may be the very code that asks again: it has its own answer, and the stream goes on."""
    monkeypatch.setattr(flights, "STALL_SECONDS", 0.05)
    client = guard.wrap(openai(sandbox.url))
    with guard.run(user="u1"), guard.step("extract"):
        for read in (0, 1):
            stream = iter(chat(client, stream=True, seed=read))
            begun = [next(stream) for _ in range(read)]
            own = chat(client, seed=read)
            told = "".join(chunk.choices[0].delta.content or "" for chunk in (*begun, *stream))
            assert told and own.choices[0].message.content
    assert len(sandbox.requests) == 4 and set(caches(guard)) == {"miss"}


def test_no_task_waits_for_a_stream_that_is_not_read(
    guard: bursar.Guard, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on a loop."""
    monkeypatch.setattr(flights, "STALL_SECONDS", 0.05)

    async def main() -> None:
        client = guard.wrap(openai(sandbox.url, AsyncOpenAI))
        async with guard.run(user="u1"), guard.step("extract"):
            stream = await chat(client, stream=True)
            assert (await chat(client)).id
            assert [chunk async for chunk in stream]
        await client.close()

    asyncio.run(main())
    assert len(sandbox.requests) == 2 and set(caches(guard)) == {"miss"}


# --- budgets and books


def test_a_hit_claims_nothing(sandbox: SandboxServer) -> None:
    """A run that has nothing left is still given what is kept, and what it used stays as it was."""
    cap = Budget(name="cap", scope="user", limit_tokens=600, max_share=10**6, on_exhausted="refuse")
    with guarded(steps=RULES, budgets=(cap,)) as guard:
        client = guard.wrap(openai(sandbox.url, max_retries=0))
        with guard.run(user="u1") as run, run.step("extract"):
            chat(client, max_tokens=100)
            with pytest.raises(openai_sdk.APIStatusError, match="cap"):
                for seed in range(50):
                    chat(client, seed=seed, max_tokens=100)
            before = run.remaining
            assert chat(client, max_tokens=100).id
            assert (run.remaining, before.budget) == (before, "cap")
        assert caches(guard)[-1] == "hit"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_new_process_finds_it(sandbox: SandboxServer, tmp_path: Path, asynchronous: bool) -> None:
    """Beside the ledger, under the same secret; with http_client= too."""
    config = tmp_path / "bursar.toml"
    config.write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/b.db"\n[cache]\npath = "{tmp_path}/kept.db"\n'
        '[[steps]]\nmatch = { step = "extract" }\ncache = { response = "1h" }\n'
    )
    made = []
    for _ in range(2):
        with bursar.open(config) as guard:
            if asynchronous:
                made.append(asyncio.run(_ask(guard, sandbox.url)))
            else:
                http = guard.http_client("httpx2", provider="openai")
                client = openai_sdk.OpenAI(api_key="k", base_url=sandbox.url + "/v1", http_client=http)
                with guard.step("extract"):
                    made.append(chat(client).id)
    assert made[0] == made[1] and len(sandbox.requests) == 1
    assert (tmp_path / "kept.db").exists() and not (tmp_path / "b.db.cache").exists()


async def _ask(guard: bursar.Guard, url: str) -> str:
    http = guard.http_client("httpx2", asynchronous=True, provider="openai")
    async with AsyncOpenAI(api_key="k", base_url=url + "/v1", http_client=http) as client:
        with guard.step("extract"):
            made: str = (await chat(client)).id
            return made


def test_a_cache_that_cannot_be_written_is_a_miss(sandbox: SandboxServer, tmp_path: Path) -> None:
    """Never an error of the call."""
    from bursar.policy import Policy
    from bursar.stores.cache import AnswerCache

    (tmp_path / "kept.db").mkdir()
    store = SqliteStore(tmp_path / "b.db", cache=AnswerCache(tmp_path / "kept.db"))
    with bursar.Guard(Policy(prices=PRICES, steps=RULES), store) as guard:
        client = guard.wrap(openai(sandbox.url))
        with guard.run(user="u1"), guard.step("extract"):
            assert [bool(chat(client).id) for _ in range(2)] == [True, True]
        assert caches(guard) == ["miss", "miss"] and store.cache.failures >= 2


def test_the_report_says_what_was_saved_and_why_not_more(sandbox: SandboxServer) -> None:
    """By cache and by step, in calls and dollars; and the likely reason where it is little."""
    with bursar.Guard(bursar_policy(), MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        with guard.run(user="u1"):
            for step in ("extract", "extract", "plan", "plan", "plan", "plan", "plan", "plan", "plan"):
                with guard.step(step):
                    chat(client)
        told = guard.report("step")
        cache = told["metrics"]["cache_hit_rate"]
        assert (cache["hits"], cache["calls"], round(cache["rate"], 3)) == (1, 9, 0.111)
        assert [line["cache"] for line in cache["by_cache"]] == ["hit", "miss", "bypass"]
        assert cache["by_cache"][0]["call_share"] == 1 / 9
        step = cache["by_step"][0]
        assert (step["step"], step["rate"], step["saved_usd"]) == ("extract", 0.5, cache["saved_usd"])
        assert 0 < step["saved_share"] == cache["saved_share"] < 0.2
        (low,) = (remark["text"] for remark in told["remarks"] if remark["id"] == "low_hit_rate")
        assert "78% of the calls are of steps that keep no answers (plan): say so under [[steps]] cache." in low
        assert [row["cache"] for row in guard.ledger.calls(cache="hit").items] == ["hit"]
        assert {line["cache"] for line in guard.ledger.spend("cache")} == {"hit", "miss", "bypass"}


def bursar_policy() -> Any:
    from bursar.policy import Policy

    return Policy(prices=PRICES, steps=RULES)


def test_httpx_clients_of_ones_own(guard: bursar.Guard, sandbox: SandboxServer) -> None:
    """A plain HTTP client sees a response like any other: its bytes, its length, its type."""
    client = guard.http_client("httpx2", provider="openai")
    body = {"model": "gpt-4o", "messages": ASK}
    with guard.run(user="u1"), guard.step("extract"):
        first, second = (client.post(f"{sandbox.url}/v1/chat/completions", json=body) for _ in range(2))
        with client.stream("POST", f"{sandbox.url}/v1/chat/completions", json={**body, "stream": True}) as third:
            events = "".join(third.iter_text())
    assert isinstance(second, httpx2.Response) and first.json() == second.json()
    assert second.headers["content-type"] == "application/json" and int(second.headers["content-length"])
    assert third.headers["content-type"].startswith("text/event-stream") and events.endswith("data: [DONE]\n\n")
    client.close()
