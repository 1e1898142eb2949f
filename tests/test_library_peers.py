"""A client of the library served by providers other than its own: real SDKs, sandboxes on real sockets.

His SDK gets its own objects; what leaves carries the other provider's key and nothing of the caller's that may be one.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
import pytest

import bursar
import library_kit as kit
import routing_kit as routes
from bursar.doors.library.peers import endpoint
from bursar.policy import Candidate, JudgePrompt, Provider
from bursar.sandbox import SandboxServer
from gateways import canned, until
from routing_kit import CLAUDE_TOP, GPT, GPT_MID, KEYS, MIXED, OWN, RIGHT, RIGHTLY, Deal, at, usd


@pytest.fixture(scope="module")
def climbing() -> Iterator[SandboxServer]:
    """From mid on they are right."""
    with SandboxServer(routes.settings("mid")) as server:
        yield server


def bodies_at(server: SandboxServer, path: str) -> list[Any]:
    return [json.loads(got.body) for got in server.requests if got.path.partition("?")[0].endswith(path)]


def seen_at(server: SandboxServer, path: str) -> str:
    """All that came there, headers included."""
    return repr([(got.path, got.headers, got.body) for got in server.requests if path in got.path])


def test_an_openai_client_climbs_over_both_providers(climbing: SandboxServer) -> None:
    """Claude first, by the guard's own key, then GPT by the client's; everything in the client's own format."""
    private = {"cookie": "c-private", "x-vendor-token": "t-private"}
    with at(climbing, MIXED, keys=KEYS) as (guard, server, url), guard.run() as run:
        client = routes.openai(guard, url, default_headers=private, organization="o-private")
        with run.step("extract", cascade=["small", "mid"], validate=Deal):
            answer = routes.chat(client, model="small")
        assert routes.chat_text(answer) == RIGHT and answer.model.startswith(GPT_MID)
        assert [(row.provider, row.tier) for row in routes.ordered(guard)] == [
            ("anthropic", "small"), ("anthropic", "small"), ("openai", "mid"),
        ]  # fmt: skip
        there, here = seen_at(server, "/messages"), seen_at(server, "/chat/completions")
        assert KEYS["anthropic"] in there and "private" not in there and "Bearer" not in there
        assert "Bearer k'" in here and "o-private" in here and KEYS["openai"] not in here
        assert run.cost == usd(routes.billed(guard, server))


@pytest.mark.parametrize("stream", [False, True])
def test_each_sdk_is_served_by_the_others_provider(climbing: SandboxServer, stream: bool) -> None:
    """By a tier's name, judged and not, whole and streamed: the SDK's own objects."""
    tiers = {"claude": (Candidate("anthropic", CLAUDE_TOP),), "gpt": (Candidate("openai", GPT_MID),)}
    with at(climbing, tiers, keys=KEYS) as (guard, server, url):
        ours, theirs = routes.openai(guard, url), routes.anthropic(guard, url)
        for validate in (None, Deal):
            with guard.step("extract", validate=validate):
                if stream:
                    chunks = routes.chat(ours, model="claude", stream=True)
                    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                    with theirs.messages.stream(model="gpt", max_tokens=300, messages=kit.said("Who buys?")) as events:
                        heard = events.get_final_message()
                else:
                    said = routes.chat_text(routes.chat(ours, model="claude"))
                    heard = routes.message(theirs, model="gpt")
                assert json.loads(said) == json.loads(routes.message_text(heard)) == RIGHTLY
                assert heard.stop_reason == "end_turn" and heard.usage.output_tokens > 0
        assert [row.provider for row in routes.ordered(guard)] == ["anthropic", "openai"] * 2
        assert all(row.api == {"anthropic": "messages", "openai": "chat"}[row.provider] for row in kit.rows(guard))
        assert "Bearer k'" not in seen_at(server, "/chat/") and "b'k'" not in seen_at(server, "/messages")
        routes.billed(guard, server)


def test_async_clients_are_served_by_others_on_every_loop(climbing: SandboxServer) -> None:
    """Two loops, one after the other: each has connections of its own, closed with the guard."""
    with at(climbing, MIXED, keys=KEYS) as (guard, server, url):

        async def both() -> list[str]:
            ours = routes.openai(guard, url, openai.AsyncOpenAI)
            theirs = routes.anthropic(guard, url, anthropic.AsyncAnthropic)
            with guard.step("extract", cascade=["small", "mid"], validate=Deal):
                said, heard = await asyncio.gather(
                    routes.chat(ours, model="small"), routes.message(theirs, model="small")
                )
            with guard.step("top"):
                chunks = await routes.chat(ours, model="frontier", stream=True)
                streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
            await guard._desk.peers.aclose()
            return [routes.chat_text(said), routes.message_text(heard), streamed]

        for _ in range(2):
            assert [json.loads(text) for text in asyncio.run(both())] == [RIGHTLY] * 3
        assert len(kit.rows(guard)) == 2 * (3 + 3 + 1)
        routes.billed(guard, server)


def test_only_the_clients_own_provider_without_a_key(climbing: SandboxServer) -> None:
    """What cannot be sent there is left out; with nobody left the refusal says so. No credential is borrowed."""
    with at(climbing, MIXED) as (guard, server, url):
        client = routes.openai(guard, url)
        with guard.step("extract", cascade=["small", "mid"], validate=Deal):
            assert routes.chat_text(routes.chat(client)) == RIGHT
        with pytest.raises(openai.APIStatusError, match="tier 'small' has no model"):
            routes.chat(client, model="small")
        assert bodies_at(server, "/messages") == [] and len(bodies_at(server, "/chat/completions")) == 1


def test_a_provider_of_the_same_family_gets_its_own_credential(climbing: SandboxServer) -> None:
    """The body is patched, not translated; the path is that below the other base URL."""
    with SandboxServer(routes.settings("mid")) as second:
        provider = Provider("second", "openai", second.url + "/v1", "SECOND_KEY", catalog="openai")
        tiers = {"small": (Candidate("second", GPT),), "mid": (Candidate("openai", GPT_MID),)}
        more: Any = {"keys": {"second": "sk-second"}, "providers": {"second": provider}}
        with (
            at(climbing, tiers, **more) as (guard, server, url),
            guard.step("extract", cascade=["small", "mid"], validate=Deal),
        ):
            client = routes.openai(guard, url, organization="o-private", default_query={"api-version": "q-private"})
            assert routes.chat_text(routes.chat(client)) == RIGHT
            responses = client.responses.create(model="small", input="Who buys?")
            assert json.loads(responses.output_text) == RIGHTLY
            there = repr([(got.path, got.headers) for got in second.requests])
            assert "Bearer sk-second" in there and "private" not in there and "Bearer k" not in there
            assert [got.path for got in second.requests] == ["/v1/chat/completions"] * 2 + ["/v1/responses"] * 2
            assert len(server.requests) == 2


def test_of_a_request_that_is_not_the_callers_the_key_of_his_is_not_told(climbing: SandboxServer) -> None:
    """An escalation, a judge: the provider must not take them for the caller's request once more."""
    with at(climbing, OWN) as (guard, server, url):
        client = routes.openai(guard, url)
        once = {"idempotency-key": "mine", "x-stainless-idempotency-key": "mine"}
        judge = JudgePrompt("Give a score", tier="mid")
        with guard.step("extract", cascade=["small", "mid"], validate=[judge, Deal]):
            assert routes.chat_text(routes.chat(client, GPT, extra_headers=once)) == RIGHT
        told = [(json.loads(got.body)["model"], {k.decode() for k, _ in got.headers} & once.keys())
                for got in server.requests]  # fmt: skip
        assert told[0] == (GPT, {*once}) and len(told) >= 2 and all(not keys for _, keys in told[1:])


PATHS = [
    ("/v1/chat/completions?api-version=1", "/chat/completions"),
    ("/openai/deployments/x/chat/completions", "/chat/completions"),
    ("/proxy/v1/messages?beta=true", "/v1/messages"),
    ("/messages", "/v1/messages"),
    ("/v1/responses", "/responses"),
    ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse&key=secret",
     "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"),
    ("/v1beta/models/gemini-2.5-pro:generateContent?key=secret", "/v1beta/models/gemini-2.5-pro:generateContent"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "below"), PATHS)
def test_paths_below_another_base_url(path: str, below: str) -> None:
    """Neither the client's own base path nor its query goes along; what stands there already stays."""
    assert endpoint(path) == below == endpoint(below)


def test_the_guards_own_connections(climbing: SandboxServer) -> None:
    """Made once a guard and once a loop, by the user's function where there is one; closed with the guard."""
    made: list[Any] = []

    def connect(library: str, *, asynchronous: bool) -> Any:
        made.append((httpx2.AsyncClient if asynchronous else httpx2.Client)(verify=kit.TLS))
        assert library == "httpx2"
        return made[-1]

    async def work(guard: bursar.Guard, url: str) -> None:
        async with guard:
            lazy = routes.openai(guard, url, openai.AsyncOpenAI)
            await asyncio.gather(*(routes.chat(lazy, model="frontier", text=f"Who buys {at}?") for at in range(4)))
        assert made[-1].is_closed

    with at(climbing, MIXED, keys=KEYS, connect=connect) as (guard, _, url):
        client = routes.openai(guard, url)
        for model in ("frontier", "small", "frontier"):
            routes.chat(client, model=model)
        assert len(made) == 1 and not made[0].is_closed
        asyncio.run(work(guard, url))
    assert len(made) == 2 and made[0].is_closed


@pytest.mark.parametrize("broken", ["refused", "silent"])
def test_a_provider_that_cannot_be_reached(climbing: SandboxServer, broken: str) -> None:
    """Its own failure ends the call as one of the client's own provider would; the row says who failed."""
    with canned(b"") as (silent, _):
        url = {"refused": "http://127.0.0.1:1", "silent": silent}[broken]
        away = {"anthropic": Provider("anthropic", "anthropic", url, "ANTHROPIC_API_KEY")}
        with at(climbing, MIXED, keys=KEYS, providers=away) as (guard, server, own), guard.step("extract"):
            client = routes.openai(guard, own)
            with pytest.raises(openai.APIConnectionError):
                routes.chat(client, model="frontier")
            with guard.step("climbs", cascade=["small", "mid"], validate=Deal):
                assert routes.chat_text(routes.chat(client, model="small")) == RIGHT
        assert [(row.provider, row.status) for row in routes.ordered(guard)] == [
            ("anthropic", "failed"), ("anthropic", "failed"), ("openai", "completed"),
        ]  # fmt: skip
        assert len(server.requests) == 1


WEATHER: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
ELSEWHERE = {"claude": (Candidate("anthropic", CLAUDE_TOP),), "gpt": (Candidate("openai", GPT_MID),)}


@pytest.mark.parametrize("held", [False, True])
def test_tools_across_providers(climbing: SandboxServer, held: bool) -> None:
    """Asked, called, answered: by streams of both SDKs, straight and held back."""
    with at(climbing, ELSEWHERE, keys=KEYS) as (guard, server, url):
        ours, theirs = routes.openai(guard, url), routes.anthropic(guard, url)
        with guard.step("plan", validate=["Done."] if held else None) as step:
            chat: Any = {"model": "claude", "tools": [{"type": "function", "function": {
                "name": "get_weather", "parameters": WEATHER}}]}  # fmt: skip
            said: Any = kit.said("plan it")
            with ours.chat.completions.stream(messages=said, **chat) as events:
                asked = events.get_final_completion().choices[0].message
            assert json.loads(asked.tool_calls[0].function.arguments) == routes.TRIP
            said = [*said, asked.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}),
                    {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain"}]  # fmt: skip
            assert routes.chat_text(ours.chat.completions.create(messages=said, **chat)) == "Done."
            ask: Any = {"model": "gpt", "max_tokens": 200, "tools": [{"name": "get_weather", "input_schema": WEATHER}]}
            said = kit.said("plan it")
            with theirs.messages.stream(messages=said, **ask) as events:
                told = events.get_final_message()
            (use,) = [block for block in told.content if block.type == "tool_use"]
            assert (told.stop_reason, use.input) == ("tool_use", routes.TRIP)
            used = use.model_dump(include={"type", "id", "name", "input"})
            rain = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
            said = [*said, {"role": "assistant", "content": [used]}, {"role": "user", "content": [rain]}]
            assert routes.message_text(theirs.messages.create(messages=said, **ask)) == "Done."
        assert (
            step.flagged == 0 and [row.provider for row in routes.ordered(guard)] == ["anthropic"] * 2 + ["openai"] * 2
        )
        routes.billed(guard, server)


def test_who_is_cancelled_in_the_middle_leaves_closed_rows() -> None:
    """The first tier at another provider keeps silent; its caller goes: nobody else is asked for nobody."""
    slow = msgspec.structs.replace(routes.settings("mid"), faults="timeout:1", timeout_s=5)
    with SandboxServer(slow) as far, SandboxServer(routes.settings("mid")) as near:
        away = {"anthropic": Provider("anthropic", "anthropic", far.url, "ANTHROPIC_API_KEY")}
        with routes.guarded(near.url, MIXED, keys=KEYS, providers=away) as guard:

            async def leave() -> None:
                async with guard:
                    client = routes.openai(guard, near.url, openai.AsyncOpenAI)
                    with guard.step("extract", cascade=["small", "mid"], validate=Deal):
                        task = asyncio.ensure_future(routes.chat(client, model="small"))
                        await asyncio.to_thread(until, lambda: len(far.requests) == 1, "the request has arrived")
                        task.cancel()
                        with pytest.raises(asyncio.CancelledError):
                            await task
                    (row,) = kit.rows(guard)
                    assert (row.provider, row.status) == ("anthropic", "abandoned") and near.requests == []

            asyncio.run(leave())
