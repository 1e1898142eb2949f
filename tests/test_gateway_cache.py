"""Answers that are given again, at the gateway door, with real SDKs: who is given what, what it costs, how it is told,
how it is forgotten. Every test ends with an audited ledger without open rows (gateways.running)."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest
from google.genai import types as google

from bursar.doors.gateway.proxy import Settings
from bursar.drivers.world import wall_clock
from bursar.money import format_usd
from bursar.policy import Budget, Match, ResponseCache, StepRule
from bursar.sandbox import Settings as Sandbox
from bursar.types import Entry, Instant
from gateways import Running, create_key, running, until

HOUR_MS = 3_600_000
HELLO: Any = [{"role": "user", "content": "Tell me about bookkeeping."}]
MINI = "gpt-4o-mini"
HAIKU = "claude-haiku-4-5"
FLASH = "gemini-2.5-flash"
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("add", "post")
]


def rule(step: str = "extract", **cache: Any) -> StepRule:
    return StepRule(match=Match(step=step), response_cache=ResponseCache(**{"ttl_ms": 24 * HOUR_MS, **cache}))


RULES = (
    rule(),
    rule("act", tools=True),
    rule("shared", scope="tenant"),
    rule("all", scope="global"),
    rule("session", scope="session"),
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Running]:
    with running(steps=RULES) as gw:
        yield gw


@pytest.fixture
def gw(gateway: Running) -> Running:
    """Nothing is kept and nothing was asked."""
    gateway.post("/bursar/v1/cache/purge", {"all": True})
    gateway.fresh()
    return gateway


def by(user: str = "u1", step: str = "extract", **labels: str) -> dict[str, str]:
    told = {"step": step, "user-id": user, **{name.replace("_", "-"): value for name, value in labels.items()}}
    return {f"x-bursar-{name}": value for name, value in told.items()}


def ask(gw: Running, head: dict[str, str] | None = None, **more: Any) -> tuple[str, str, Any]:
    """What became of the look-up, the answer's id, and the answer."""
    body = {"model": MINI, "messages": HELLO, **more}
    raw = gw.openai().chat.completions.with_raw_response.create(**body, extra_headers=by() if head is None else head)
    told = raw.parse()
    return raw.headers["x-bursar-cache"], told.id, told


def states(gw: Running) -> list[tuple[str, str]]:
    return [(row.status, row.cache) for row in gw.rows()]


# --- what an SDK sees


def chat(gw: Running) -> Any:
    return ask(gw)[2]


def chat_streamed(gw: Running) -> Any:
    told = gw.openai().chat.completions.stream(
        model=MINI, messages=HELLO, stream_options={"include_usage": True}, extra_headers=by()
    )
    with told as stream:
        return stream.get_final_completion()


def messages(gw: Running) -> Any:
    return gw.anthropic().messages.create(model=HAIKU, max_tokens=300, messages=HELLO, extra_headers=by())


def messages_streamed(gw: Running) -> Any:
    with gw.anthropic().messages.stream(model=HAIKU, max_tokens=300, messages=HELLO, extra_headers=by()) as stream:
        assert "".join(stream.text_stream)
        return stream.get_final_message()


def responses(gw: Running) -> Any:
    return gw.openai().responses.create(model=MINI, input="Tell me about bookkeeping.", extra_headers=by())


def responses_streamed(gw: Running) -> Any:
    asked = gw.openai().responses.stream(model=MINI, input="Tell me about bookkeeping.", extra_headers=by())
    with asked as stream:
        return stream.get_final_response()


def generated(gw: Running) -> Any:
    config, client = google.GenerateContentConfig(http_options=google.HttpOptions(headers=by())), gw.gemini()
    return client.models.generate_content(model=FLASH, contents="Tell me about bookkeeping.", config=config)


def generated_streamed(gw: Running) -> Any:
    config, client = google.GenerateContentConfig(http_options=google.HttpOptions(headers=by())), gw.gemini()
    told = list(client.models.generate_content_stream(model=FLASH, contents=str(HELLO[0]["content"]), config=config))
    text = "".join(chunk.text or "" for chunk in told)
    return told[-1].model_copy(update={"candidates": [_said(text)]})


def _said(text: str) -> google.Candidate:
    return google.Candidate(content=google.Content(role="model", parts=[google.Part(text=text)]))


def essence(answer: Any) -> Any:
    """What a caller goes by, in whichever shape it came."""
    match answer:
        case google.GenerateContentResponse():
            used = answer.usage_metadata
            return answer.text, answer.response_id, answer.model_version, used and used.model_dump(exclude_none=True)
        case anthropic.types.Message():
            content: Any = [(block.type, getattr(block, "text", None)) for block in answer.content]
            return answer.id, answer.model, content, answer.stop_reason, answer.usage.output_tokens
        case _ if hasattr(answer, "output_text"):
            return answer.id, answer.model, answer.output_text, answer.status, answer.usage.model_dump()
    (choice,) = answer.choices
    return answer.id, answer.model, choice.message.content, choice.finish_reason, answer.usage.total_tokens


@pytest.mark.parametrize("second", [0, 1], ids=["whole", "streamed"])
@pytest.mark.parametrize("first", [0, 1], ids=["of whole", "of streamed"])
@pytest.mark.parametrize(
    "shapes",
    [
        (chat, chat_streamed),
        (messages, messages_streamed),
        (responses, responses_streamed),
        (generated, generated_streamed),
    ],
    ids=["chat", "messages", "responses", "gemini"],
)
def test_a_hit_is_the_answer_again(
    gw: Running, shapes: tuple[Callable[[Running], Any], Callable[[Running], Any]], first: int, second: int
) -> None:
    """In the shape that is asked for, whichever the first was; the provider is asked once, and the row says what it
    saved: to the nano-dollar what the first one cost."""
    paid = essence(shapes[first](gw))
    assert essence(shapes[second](gw)) == paid
    gw.got()
    cost, hit = gw.rows(2)
    assert states(gw) == [("completed", "miss"), ("hit", "hit")]
    assert (hit.cost_nanos, hit.saved_nanos) == (0, cost.cost_nanos) and cost.cost_nanos
    assert (hit.model, hit.provider, hit.stream) == (cost.model, cost.provider, bool(second))


def test_a_stream_says_its_usage_to_who_asks(gw: Running) -> None:
    """Kept from a call that did not ask for it, and given to one that does; and the other way round."""
    for asks in (False, True, False):
        more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks else {}
        told = list(
            gw.openai().chat.completions.create(model=MINI, messages=HELLO, stream=True, extra_headers=by(), **more)
        )
        assert [chunk.usage is not None for chunk in told] == [False] * (len(told) - 1) + [asks]
    gw.got()


def test_embeddings(gw: Running) -> None:
    """Vectors too, for each encoding its own."""
    for _ in range(2):
        made = gw.openai().embeddings.create(model="text-embedding-3-small", input="a", extra_headers=by())
        assert made.data[0].embedding and made.usage.total_tokens
    gw.openai().embeddings.create(
        model="text-embedding-3-small", input="a", encoding_format="float", extra_headers=by()
    )
    assert states(gw) == [("completed", "miss"), ("hit", "hit"), ("completed", "miss")]


def test_gemini_without_alt_sse_gets_its_array(gw: Running) -> None:
    """As the provider sends it to who does not ask for events."""
    body = {"contents": [{"role": "user", "parts": [{"text": "Tell me about bookkeeping."}]}]}
    path = f"/v1beta/models/{FLASH}:streamGenerateContent"
    told = [gw.post(path, body, {"x-goog-api-key": "k", **by()}) for _ in range(2)]
    kinds = [answer.headers["content-type"].partition(";")[0] for answer in told]
    assert kinds == ["application/json"] * 2
    first, second = ([_text(chunk) for chunk in answer.json()] for answer in told)
    assert "".join(first) == "".join(second) != ""
    assert told[1].headers["x-bursar-cache"] == "hit"


def _text(chunk: Any) -> str:
    return "".join(part.get("text", "") for part in chunk["candidates"][0]["content"]["parts"])


def test_headers_tell(gw: Running) -> None:
    """Age, cache, what it cost and what it saved; a step without a rule went past the caches."""
    create = gw.openai().chat.completions.with_raw_response.create
    first = create(model=MINI, messages=HELLO, extra_headers=by()).headers
    second = create(model=MINI, messages=HELLO, extra_headers=by()).headers
    assert (first["x-bursar-cache"], second["x-bursar-cache"]) == ("miss", "hit")
    assert second["age"].isdecimal() and "age" not in first
    assert (second["x-bursar-cost-usd"], second["x-bursar-cost-status"]) == ("0", "final")
    assert second["x-bursar-saved-usd"] == first["x-bursar-cost-usd"] != "0"
    assert "x-bursar-saved-usd" not in first
    assert second["x-bursar-model"] == first["x-bursar-model"]
    assert second["x-bursar-request-id"] != first["x-bursar-request-id"]
    assert (first["x-bursar-attempts"], second["x-bursar-attempts"]) == ("1", "0")
    assert ask(gw, by(step="other"))[0] == "bypass"


# --- never another's answer


DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "users": ({"head": by("u1")}, {"head": by("u2")}),
    "nobody": ({"head": by("u1")}, {"head": {"x-bursar-step": "extract"}}),
    "sessions": (
        {"head": by(step="session", session_id="s1")},
        {"head": by(step="session", session_id="s2")},
    ),
    "system prompts": (
        {"messages": [{"role": "system", "content": "Be brief."}, *HELLO]},
        {"messages": [{"role": "system", "content": "Be brief!"}, *HELLO]},
    ),
    "tools": (
        {"tools": TOOLS[:1], "tool_choice": "none"},
        {"tools": TOOLS[1:], "tool_choice": "none"},
    ),
    "order of tools": (
        {"tools": TOOLS, "tool_choice": "none"},
        {"tools": TOOLS[::-1], "tool_choice": "none"},
    ),
    "temperatures": ({"temperature": 0}, {"temperature": 0.1}),
    "a temperature or none": ({"temperature": 1}, {}),
    "limits": ({"max_tokens": 900}, {"max_tokens": 901}),
    "models": ({}, {"model": "gpt-4.1-mini"}),
    "unknown members": ({"extra_body": {"x_new": 1}}, {"extra_body": {"x_new": 2}}),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_shapes_the_answer_keeps_answers_apart(gw: Running, pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """The same prompt, one thing different: each is asked of the provider, and each finds its own again."""
    found = [ask(gw, **one)[:2] for one in (*pair, *pair)]
    assert [state for state, _ in found] == ["miss", "miss", "hit", "hit"]
    assert [made for _, made in found[:2]] == [made for _, made in found[2:]]
    assert found[0][1] != found[1][1]


def test_tenants_and_their_keys(tmp_path: Path) -> None:
    """The key decides: two tenants share nothing though both say the same user; a key that may not state its user has
    one scope of its own, whatever user it says."""
    with running(steps=RULES, keyed=True, credentials={"openai": "sk"}) as gw:
        may, other = (create_key(gw.store, tenant=t, trusted=frozenset(("user", "step"))) for t in ("acme", "umbrella"))
        blind = create_key(gw.store, tenant="acme", trusted=frozenset(("step",)))

        def become(key: str, user: str, step: str = "extract") -> str:
            create = gw.openai(key).chat.completions.with_raw_response.create
            return create(model=MINI, messages=HELLO, extra_headers=by(user, step)).headers["x-bursar-cache"]

        assert [become(may, "u1"), become(other, "u1"), become(blind, "u1")] == ["miss"] * 3
        assert [become(may, "u1"), become(other, "u1"), become(blind, "u2")] == ["hit"] * 3
        assert [become(may, "a", "shared"), become(blind, "b", "shared"), become(other, "a", "shared")] == [
            "miss", "hit", "miss",
        ]  # fmt: skip
        assert [become(may, "a", "all"), become(blind, "b", "all"), become(other, "a", "all")] == [
            "miss", "hit", "miss",
        ]  # fmt: skip
        assert {item["tenant"] for item in _kept(gw)["items"]} == {"acme", "umbrella"}
        purged = gw.post("/bursar/v1/cache/purge", {"tenant": "umbrella"}, _bearer(gw.admin)).json()
        assert purged == {"purged": 3}
        assert [become(may, "u1"), become(other, "u1")] == ["hit", "miss"]
        assert gw.post("/bursar/v1/cache/purge", {"all": True}, _bearer(may)).status_code == 403
        assert gw.get("/bursar/v1/cache").status_code == 401


def _bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def _kept(gw: Running) -> Any:
    return gw.get("/bursar/v1/cache", _bearer(gw.admin) if gw.admin else {}).json()


# --- what the caller wants


@pytest.mark.parametrize(
    ("head", "seen"),
    [
        ({}, ["miss", "hit", "hit"]),
        ({"x-bursar-cache": "on"}, ["miss", "hit", "hit"]),
        ({"x-bursar-cache": "off"}, ["miss", "bypass", "hit"]),
        ({"helicone-cache-enabled": "false"}, ["miss", "bypass", "hit"]),
        ({"helicone-cache-enabled": "true"}, ["miss", "hit", "hit"]),
        ({"cache-control": "max-age=0, no-store"}, ["miss", "hit", "hit"]),
    ],
)
def test_headers_narrow(gw: Running, head: dict[str, str], seen: list[str]) -> None:
    """Asked without the header, with it, and without it again."""
    told = [ask(gw)[0], ask(gw, {**by(), **head})[0], ask(gw)[0]]
    assert told == seen
    assert all(name.encode() not in dict(got.headers) for got in gw.sandbox.requests for name in head)


@pytest.mark.parametrize(
    "head", [{"x-bursar-cache": "refresh"}, {"cache-control": "no-cache"}, {"x-portkey-cache-force-refresh": "true"}]
)
def test_a_refresh_is_kept(gw: Running, head: dict[str, str]) -> None:
    """It asks the provider, and from then on its answer is the one that is given."""
    first, fresh, last = ask(gw), ask(gw, {**by(), **head}), ask(gw)
    assert len(gw.sandbox.requests) == 2
    assert last[:2] == ("hit", fresh[1]) and first[1] != fresh[1]


def test_no_store_is_not_kept(gw: Running) -> None:
    """It looks, finds nothing and leaves nothing."""
    head = {**by(), "cache-control": "no-store"}
    assert [ask(gw, head)[0] for _ in range(2)] == ["miss", "miss"]
    assert len(gw.sandbox.requests) == 2 and _kept(gw)["answers"] == 0


def test_a_header_does_not_widen(gw: Running) -> None:
    """A step without a rule keeps nothing, whatever the caller says."""
    for wish in ("on", "refresh"):
        ask(gw, {**by(step="other"), "x-bursar-cache": wish})
    assert _kept(gw)["answers"] == 0


@pytest.mark.parametrize("step", ["extract", "other"])
@pytest.mark.parametrize("head", [{"x-bursar-cache": "only"}, {"cache-control": "only-if-cached"}])
def test_only_spends_nothing(gw: Running, step: str, head: dict[str, str]) -> None:
    """Where nothing is kept: 504 in the caller's dialect, which no SDK tries again, and a row that says so."""
    patient = gw.openai().with_options(max_retries=3)
    with pytest.raises(openai.APIStatusError) as caught:
        patient.chat.completions.create(model=MINI, messages=HELLO, extra_headers={**by(step=step), **head})
    assert (caught.value.status_code, caught.value.code) == (504, "cache_miss")
    with pytest.raises(anthropic.APIStatusError) as other:
        gw.anthropic().messages.create(
            model=HAIKU, max_tokens=9, messages=HELLO, extra_headers={**by(step=step), **head}
        )
    assert other.value.status_code == 504
    assert gw.sandbox.requests == []
    assert [(row.status, row.http_status, row.cost_nanos) for row in gw.rows(2)] == [("refused", 504, 0)] * 2


def test_only_finds_what_is_kept(gw: Running) -> None:
    """And is a hit like any other."""
    ask(gw)
    assert ask(gw, {**by(), "x-bursar-cache": "only"})[0] == "hit"


# --- what is not kept


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"max_tokens": 3}, "cut by its limit"),
        ({"messages": [{"role": "user", "content": "What is the latest on bookkeeping?"}]}, "about the present"),
        ({"tools": TOOLS, "tool_choice": "required"}, "calls a tool"),
    ],
)
def test_what_may_be_another_next_time_is_not_kept(gw: Running, more: dict[str, Any], why: str) -> None:
    """The second call is the provider's too."""
    assert "hit" not in [ask(gw, **more)[0] for _ in range(2)], why
    assert len(gw.sandbox.requests) == 2


@pytest.mark.parametrize("fault", ["400", "500", "malformed", "cut", "error-event", "no-usage"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_went_wrong_is_not_kept(gw: Running, fault: str, stream: bool) -> None:
    """Errors, broken streams and answers whose cost nobody told: the next call is answered by the provider."""
    body = {"model": MINI, "messages": HELLO, "stream": stream}
    gw.post("/v1/chat/completions", body, {"authorization": "Bearer k", "x-sandbox-fault": fault, **by()})
    gw.rows()
    assert _kept(gw)["answers"] == 0
    assert ask(gw)[0] == "miss"


def test_tool_calls_are_kept_where_the_step_says_so(gw: Running) -> None:
    """Each time with ids of their own, for providers refuse a conversation in which one stands twice."""
    head, more = by(step="act"), {"tools": TOOLS, "tool_choice": "required"}
    first, second, third = (ask(gw, head, **more) for _ in range(3))
    assert [first[0], second[0], third[0]] == ["miss", "hit", "hit"]
    calls = [one[2].choices[0].message.tool_calls[0] for one in (first, second, third)]
    assert len({call.id for call in calls}) == 3
    assert len({(call.function.name, call.function.arguments) for call in calls}) == 1


def test_a_steps_own_output_limit_is_part_of_the_step() -> None:
    """Its answers end by themselves within it, and so may be kept; the caller's own limit is part of the key."""
    short = StepRule(match=Match(step="extract"), max_output_tokens=400, response_cache=ResponseCache(ttl_ms=HOUR_MS))
    with running(steps=(short,)) as gw:
        assert [ask(gw, max_tokens=900)[0] for _ in range(2)] == ["miss", "hit"]
        assert [ask(gw, max_tokens=300)[0] for _ in range(2)] == ["miss", "hit"]


# --- time


def test_an_answer_has_its_time() -> None:
    """Kept for its hours, ten per cent more or less, from its writing on and however often it was given."""
    with running(steps=(rule(ttl_ms=HOUR_MS, stale_ms=HOUR_MS),)) as gw:
        minutes = 0
        gw.app.world.clock = lambda: Instant(wall_clock() + minutes * 60_000_000)
        first = ask(gw)
        for minutes in (20, 40, 53):  # noqa: B007
            assert ask(gw)[:2] == ("hit", first[1])
        minutes = 67
        assert ask(gw)[0] == "miss"
        minutes = 67 + 200
        assert ask(gw)[0] == "miss"


def test_a_stale_answer_is_given_while_one_fetches_a_fresh_one() -> None:
    """One of them pays; the others need not wait for it."""
    with running(steps=(rule(ttl_ms=HOUR_MS, stale_ms=HOUR_MS),)) as gw:
        minutes = 0
        gw.app.world.clock = lambda: Instant(wall_clock() + minutes * 60_000_000)
        old = ask(gw)
        minutes = 90
        slow = threading.Thread(target=ask, args=(gw, {**by(), "x-sandbox-latency-ms": "1000"}))
        slow.start()
        until(lambda: len(gw.sandbox.requests) == 2, "somebody fetches a fresh one")
        assert ask(gw)[:2] == ("hit", old[1])
        slow.join()
        assert ask(gw)[1] != old[1]
        assert len(gw.sandbox.requests) == 2


# --- many at once


async def crowd(gw: Running, count: int, **more: Any) -> list[Any]:
    """Status, what became of the look-up and the answer's id, of so many equal calls at once; half of them stream."""
    client = gw.async_openai()

    async def one(at: int) -> tuple[int, str, str]:
        create = client.chat.completions.with_raw_response.create
        body = {"model": MINI, "messages": HELLO, **more}
        try:
            if at % 2:
                raw: Any = await create(**body, stream=True, extra_headers=by())
                (made,) = {chunk.id async for chunk in raw.parse()}
            else:
                raw = await create(**body, extra_headers=by())
                made = raw.parse().id
        except openai.APIStatusError as failed:
            return failed.status_code, failed.response.headers["x-bursar-cache"], ""
        return raw.status_code, raw.headers["x-bursar-cache"], made

    try:
        return await asyncio.gather(*(one(at) for at in range(count)))
    finally:
        await client.close()


def test_two_hundred_at_once_are_one_call(tmp_path: Path) -> None:
    """At the provider; all have its answer, and one has paid."""
    with running(path=tmp_path / "b.db", steps=RULES) as gw:
        told = asyncio.run(crowd(gw, 200))
        assert {status for status, _, _ in told} == {200}
        assert len({made for _, _, made in told}) == 1
        gw.got()
        rows = gw.rows(200)
        paid = [row for row in rows if row.status == "completed"]
        assert len(paid) == 1 and gw.cost() == paid[0].cost_nanos == gw.sandbox.bill.total_nanos()
        assert {row.cache for row in rows if row.status == "hit"} <= {"hit", "coalesced"}
        assert all(row.saved_nanos == paid[0].cost_nanos for row in rows if row.status == "hit")


def waiting(gw: Running) -> int:
    return sum(map(len, gw.app.world.flights._waiting.values()))


def followers(gw: Running, count: int, told: list[Any], **more: Any) -> list[threading.Thread]:
    threads = [threading.Thread(target=lambda: told.append(ask(gw, **more)[:2])) for _ in range(count)]
    for thread in threads:
        thread.start()
    until(lambda: waiting(gw) == count, f"{count} wait for the leader")
    return threads


@pytest.mark.parametrize("on_disconnect", ["cancel", "drain"])
def test_who_waits_outlives_a_leader_who_hangs_up(on_disconnect: Any) -> None:
    """The leader's stream is read to its end for them, even where hanging up would have ended it."""
    with running(steps=RULES, on_disconnect=on_disconnect) as gw:
        slow = {**by(), "x-sandbox-fault": "slow"}
        leader = gw.openai().chat.completions.create(model=MINI, messages=HELLO, stream=True, extra_headers=slow)
        made = next(iter(leader)).id
        told: list[tuple[str, str]] = []
        threads = followers(gw, 3, told)
        leader.close()
        for thread in threads:
            thread.join()
        assert told == [("coalesced", made)] * 3
        gw.got()
        first, *others = gw.rows(4)
        assert first.status == "abandoned" and first.cost_nanos == gw.sandbox.bill.total_nanos()
        assert {row.saved_nanos for row in others} == {first.cost_nanos}


def test_a_failed_leader_makes_way() -> None:
    """Of those who wait one is sent in its place, and the rest have that one's answer."""
    fault: Any = [{"role": "user", "content": "Tell me about bookkeeping. [[fault:timeout once]]"}]
    with running(Sandbox(timeout_s=1), settings=Settings(attempts=1), steps=RULES) as gw:
        failed: list[int] = []

        def lead() -> None:
            try:
                ask(gw, messages=fault)
            except openai.APIStatusError as error:
                failed.append(error.status_code)

        leader = threading.Thread(target=lead)
        leader.start()
        until(lambda: len(gw.sandbox.requests) == 1, "the leader is under way")
        told: list[tuple[str, str]] = []
        for thread in [leader, *followers(gw, 4, told, messages=fault)]:
            thread.join()
        assert failed == [504]
        assert sorted(state for state, _ in told) == ["coalesced"] * 3 + ["miss"]
        assert len({made for _, made in told}) == 1 and len(gw.sandbox.requests) == 2


def test_a_cut_leader_sends_everybody_on_his_own_way() -> None:
    """An answer that may not be kept is nobody else's: each asks the provider himself."""
    with running(steps=RULES) as gw:
        leader = threading.Thread(
            target=ask, args=(gw, {**by(), "x-sandbox-latency-ms": "1000"}), kwargs={"max_tokens": 3}
        )
        leader.start()
        until(lambda: len(gw.sandbox.requests) == 1, "the leader is under way")
        told: list[tuple[str, str]] = []
        for thread in [leader, *followers(gw, 3, told, max_tokens=3)]:
            thread.join()
        assert len(gw.sandbox.requests) == 4 and {state for state, _ in told} == {"miss"}


def test_refusals_are_not_shared() -> None:
    """Every one of them is refused by itself, gets its own partial answer and has its own row."""
    spent = Budget(name="spent", scope="global", limit_tokens=0)
    with running(steps=RULES, budgets=(spent,)) as gw:
        told = asyncio.run(crowd(gw, 30))
        assert {state for _, state, _ in told} == {"miss"} and len({made for _, _, made in told}) == 30
        assert {(row.status, row.cache) for row in gw.rows(30)} == {("refused", "miss")}
        assert _kept(gw)["answers"] == 0 and gw.sandbox.requests == []


# --- budgets


def test_a_hit_claims_nothing() -> None:
    """Who has nothing left is still given what is kept, for it costs nothing; anything else is refused."""
    daily = Budget(name="daily", scope="user", window="day", limit_tokens=800, on_exhausted="refuse", max_share=10**6)
    with running(steps=RULES, budgets=(daily,)) as gw:
        ask(gw, max_tokens=300)
        with pytest.raises(openai.APIStatusError, match="daily"):
            for seed in range(50):
                ask(gw, seed=seed)
        (before,) = gw.get("/bursar/v1/budgets").json()["items"]
        assert [ask(gw, max_tokens=300)[0] for _ in range(3)] == ["hit"] * 3
        (after,) = gw.get("/bursar/v1/budgets").json()["items"]
        assert (before["settled_tokens"], before["rows"]) == (after["settled_tokens"], after["rows"])


# --- keeping and forgetting


def test_a_restart_keeps_what_is_kept(tmp_path: Path) -> None:
    """In a file beside the ledger."""
    with running(path=tmp_path / "b.db", steps=RULES) as gw:
        first = ask(gw)
    with running(path=tmp_path / "b.db", steps=RULES) as gw:
        assert ask(gw)[:2] == ("hit", first[1])
        assert gw.sandbox.requests == []


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        ({"step": "extract"}, 2),
        ({"model": "gpt-4o-mini"}, 3),
        ({"tag": "doc=42"}, 1),
        ({"tag": "doc=42", "step": "shared"}, 0),
        ({"tenant": "default"}, 3),
        ({"tenant": "other"}, 0),
        ({"all": True}, 3),
    ],
)
def test_a_purge_forgets_what_it_names(gw: Running, what: dict[str, Any], gone: int) -> None:
    """By step, model, tag and tenant, all of which must hold; at once."""
    ask(gw, by(tags="doc=42"))
    ask(gw, by("u2", tags="doc=43"))
    ask(gw, by(step="shared"))
    before = _kept(gw)
    assert before["answers"] == 3 == sum(item["answers"] for item in before["items"]) and before["bytes"] > 100
    assert gw.post("/bursar/v1/cache/purge", what).json() == {"purged": gone}
    assert _kept(gw)["answers"] == 3 - gone
    found = [ask(gw, by(tags="doc=42"))[0], ask(gw, by("u2", tags="doc=43"))[0], ask(gw, by(step="shared"))[0]]
    assert found.count("miss") == gone


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "truncated"),
        (b"[]", "object"),
        (b"{}", "all: nothing is said"),
        ({"stepp": "x"}, "stepp: is not known"),
        ({"step": 1}, "step: expected text"),
        ({"prefix": "abc"}, "prefix: expected an even number"),
        ({"prefix": ""}, "prefix: expected an even number"),
        ({"tag": "doc"}, "tag: expected k=v"),
        ({"tag": 'a"b=c'}, "tag: expected k=v"),
        ({"all": "yes"}, "all: expected alone"),
        ({"all": True, "step": "x"}, "all: expected alone"),
        (b" " * (70 << 10), "over 65536 bytes"),
    ],
)
def test_a_purge_that_cannot_be_meant_purges_nothing(gw: Running, body: Any, told: str) -> None:
    """A slip of the pen must not forget everything."""
    ask(gw)
    answer = gw.post("/bursar/v1/cache/purge", body)
    assert answer.status_code == 400 and told in answer.json()["error"]["message"]
    assert _kept(gw)["answers"] == 1


def test_a_web_page_forgets_nothing(gw: Running) -> None:
    """Without keys the machine's own programs are trusted, and no page of another site."""
    ask(gw)
    answer = gw.post("/bursar/v1/cache/purge", {"all": True}, {"origin": "https://evil.example"})
    assert answer.status_code == 403 and _kept(gw)["answers"] == 1


def test_the_ledger_is_asked_by_cache() -> None:
    """Sums and rows by what became of the look-up."""
    with running(steps=RULES) as gw:
        _ask_by_cache(gw)


def _ask_by_cache(gw: Running) -> None:
    paid = ask(gw)[2].usage.total_tokens
    ask(gw)
    ask(gw, by(step="other"))
    first: Entry = gw.rows(3)[0]
    lines = {item["cache"]: item for item in gw.get("/bursar/v1/spend?by=cache").json()["items"]}
    assert (lines["hit"]["hits"], lines["hit"]["saved_usd"]) == (1, format_usd(first.cost_nanos or 0))
    assert lines["miss"]["calls"] == 1 and lines["miss"]["input_tokens"] + lines["miss"]["output_tokens"] == paid
    steps = gw.get("/bursar/v1/spend?by=step&cache=bypass").json()["items"]
    assert [item["step"] for item in steps if item["calls"]] == ["other"]
    assert [row["status"] for row in gw.get("/bursar/v1/calls?cache=hit").json()["items"]] == ["hit"]


def test_captured_answers_are_captured_once(tmp_path: Path) -> None:
    """capture = true keeps the body on the row that paid for it."""
    with running(path=tmp_path / "b.db", steps=RULES, capture=True) as gw:
        ask(gw)
        ask(gw)
        paid, hit = gw.rows(2)
        assert paid.response is not None and msgspec.json.decode(paid.response)["usage"]
        assert hit.response is None
