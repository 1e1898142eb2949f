"""OpenAI and Anthropic clients served by each other's provider, through the gateway: answers, books, credentials.

A caller has what he would have from a provider of his own; a row costs what the other provider bills, to the
nano-dollar, for the meter reads what that provider said.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from pydantic import BaseModel

from attempts import planned
from bursar.doors.gateway.proxy import Settings as GatewaySettings
from bursar.policy import Candidate
from bursar.sandbox import Settings, Step, Task
from bursar.types import Call, Completed, Plan
from bursar.wire import replay
from gateways import Running, canned, running, streamed

CLAUDE, GPT = "claude-haiku-4-5", "gpt-4o-mini"
FAR_CLAUDE, FAR_GPT = "claude", "gpt"
"""Tiers that list them and nothing else."""
ONCE = GatewaySettings(attempts=1)
KEYS = {"openai": "sk-of-the-gateway", "anthropic": "ant-of-the-gateway"}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TRIP = {"city": "Oslo", "days": 2}
SURE = {"small": 1.0}
TASKS = (
    Task(kind="tools", match="plan it", right="All done.", tool_plan=(Step("get_weather", TRIP),), odds=SURE),
    Task(kind="chat", match="count", right="one two three four", odds=SURE),
)  # fmt: skip
HI: Any = [{"role": "user", "content": "Which ships lie in the harbour?"}]
LONG: Any = [{"role": "user", "content": "Tell me at length about the history of bookkeeping."}]
PLAN: Any = [{"role": "user", "content": "plan it"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Trip(BaseModel):
    city: str
    days: int


def crossed(call: Call, **more: Any) -> Plan:
    """The other family's model, as the router would have it."""
    if call.api == "chat":
        return Plan("anthropic", CLAUDE, call.view.model, api="messages", max_output=4_000, **more)
    return Plan("openai", GPT, call.view.model, api="chat", max_output=4_000, **more)


@pytest.fixture(scope="module", autouse=True)
def tiers() -> Iterator[None]:
    """One of each family, each asked for by the other's callers."""
    with pytest.MonkeyPatch.context() as patch:
        both = {FAR_CLAUDE: (Candidate("anthropic", CLAUDE),), FAR_GPT: (Candidate("openai", GPT),)}
        patch.setattr("gateways.TIERS", both)
        yield


@pytest.fixture(scope="module")
def server(tiers: None) -> Iterator[Running]:
    with running(Settings(tasks=TASKS, retry_after_s=0.001), credentials=KEYS, settings=ONCE) as gateway:
        yield gateway


@pytest.fixture
def gw(server: Running) -> Running:
    """As new."""
    server.fresh()
    return server


def paid(gw: Running, calls: int) -> None:
    """Every row is final, and each costs what the provider billed for it."""
    rows = gw.rows(calls)
    assert [(row.status, row.cost_status) for row in rows] == [("completed", "final")] * calls
    assert {(row.api, row.provider) for row in rows} <= {("messages", "anthropic"), ("chat", "openai")}
    billed = {line.id: line.nanos for line in gw.sandbox.bill.lines}
    assert {row.response_id: row.cost_nanos for row in rows} == billed and None not in billed.values()
    assert gw.store.verify() == []


def chat_tool() -> Any:
    return {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}}


def claude_tool() -> Any:
    return {"name": "get_weather", "description": "Weather", "input_schema": WEATHER}


# An OpenAI caller, served by Claude


def test_openai_text(gw: Running) -> None:
    """Whole, streamed with and without usage, and by the helper: the same words and counts."""
    client = gw.openai()
    whole = client.chat.completions.create(model=FAR_CLAUDE, messages=HI)
    text = whole.choices[0].message.content
    assert text and whole.model == CLAUDE and whole.choices[0].finish_reason == "stop"
    assert whole._request_id and whole._request_id.startswith("req_")
    chunks = list(client.chat.completions.create(model=FAR_CLAUDE, messages=HI, stream=True))
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    with client.chat.completions.stream(
        model=FAR_CLAUDE, messages=HI, stream_options={"include_usage": True}
    ) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == text and final.usage == whole.usage
    paid(gw, 3)
    assert [row.input_tokens for row in gw.rows()] == [whole.usage and whole.usage.prompt_tokens] * 3


def test_openai_tools(gw: Running) -> None:
    """A call, whole and streamed, its result sent back, and the answer to that."""
    client = gw.openai()
    asked: Any = {"model": FAR_CLAUDE, "tools": [chat_tool()]}
    whole = client.chat.completions.create(messages=PLAN, **asked).choices[0]
    call: Any = (whole.message.tool_calls or [None])[0]
    assert (whole.finish_reason, call.function.name, json.loads(call.function.arguments)) == (
        "tool_calls", "get_weather", TRIP,
    )  # fmt: skip
    with client.chat.completions.stream(messages=PLAN, **asked) as events:
        deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
        streamed_call: Any = events.get_final_completion().choices[0].message.tool_calls
    assert len(deltas) > 1 and streamed_call[0].function.arguments == call.function.arguments
    back: Any = [*PLAN, whole.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert client.chat.completions.create(messages=back, **asked).choices[0].message.content == "All done."
    paid(gw, 3)


def test_openai_images_forms_and_ends(gw: Running) -> None:
    """An image, structured output parsed by the helper whole and streamed, an output limit, a stop sequence."""
    client = gw.openai()
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    assert client.chat.completions.create(model=FAR_CLAUDE, messages=[{"role": "user", "content": parts}]).choices
    assert json.loads(gw.got().body)["messages"][0]["content"][1]["source"]["data"] == PIXEL
    parsed = (
        client.chat.completions.parse(model=FAR_CLAUDE, messages=HI, response_format=Trip).choices[0].message.parsed
    )
    with client.chat.completions.stream(model=FAR_CLAUDE, messages=HI, response_format=Trip) as events:
        assert events.get_final_completion().choices[0].message.parsed == parsed
    assert isinstance(parsed, Trip)
    cut = client.chat.completions.create(model=FAR_CLAUDE, messages=HI, max_completion_tokens=3).choices[0]
    assert cut.finish_reason == "length"
    said: Any = [{"role": "user", "content": "count"}]
    stopped = client.chat.completions.create(model=FAR_CLAUDE, messages=said, stop=[" three"]).choices[0]
    assert (stopped.finish_reason, stopped.message.content) == ("stop", "one two")
    paid(gw, 5)


# An Anthropic caller, served by GPT


def test_anthropic_text(gw: Running) -> None:
    """Whole, streamed and by the helper: the same words, and counts that only a chat stream's last event tells."""
    client = gw.anthropic()
    whole: Any = client.messages.create(model=FAR_GPT, max_tokens=999, messages=HI)
    assert (whole.stop_reason, whole.model) == ("end_turn", GPT) and whole._request_id.startswith("req_")
    raw = list(client.messages.create(model=FAR_GPT, max_tokens=999, messages=HI, stream=True))
    assert [event.type for event in raw[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    with client.messages.stream(model=FAR_GPT, max_tokens=999, messages=HI) as told:
        assert "".join(told.text_stream) == whole.content[0].text
        assert told.get_final_message().usage.output_tokens == whole.usage.output_tokens
    paid(gw, 3)
    assert [row.output_tokens for row in gw.rows()] == [whole.usage.output_tokens] * 3


def test_anthropic_tools(gw: Running) -> None:
    """A call, whole and streamed, its result sent back, and the answer to that."""
    client = gw.anthropic()
    asked: Any = {"model": FAR_GPT, "max_tokens": 999, "tools": [claude_tool()]}
    whole: Any = client.messages.create(messages=PLAN, **asked)
    assert (whole.stop_reason, whole.content[0].name, whole.content[0].input) == ("tool_use", "get_weather", TRIP)
    with client.messages.stream(messages=PLAN, **asked) as told:
        assert len([event for event in told if event.type == "input_json"]) > 1
        final: Any = told.get_final_message()
    assert (final.stop_reason, final.content[0].input) == ("tool_use", TRIP)
    result = {"type": "tool_result", "tool_use_id": whole.content[0].id, "content": "rain"}
    turn = {"role": "assistant", "content": [whole.content[0].model_dump(exclude_none=True)]}
    back: Any = [*PLAN, turn, {"role": "user", "content": [result]}]
    last: Any = client.messages.create(messages=back, **asked)
    assert last.content[0].text == "All done."
    paid(gw, 3)


def test_anthropic_images_forms_and_ends(gw: Running) -> None:
    """An image, structured output parsed by the helper whole and streamed, an output limit, a stop sequence."""
    client = gw.anthropic()
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    parts: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    assert client.messages.create(model=FAR_GPT, max_tokens=99, messages=[{"role": "user", "content": parts}]).content
    assert PIXEL in json.loads(gw.got().body)["messages"][0]["content"][0]["image_url"]["url"]
    parsed = client.messages.parse(model=FAR_GPT, max_tokens=999, messages=HI, output_format=Trip).parsed_output
    with client.messages.stream(model=FAR_GPT, max_tokens=999, messages=HI, output_format=Trip) as told:
        assert told.get_final_message().parsed_output == parsed
    assert isinstance(parsed, Trip)
    assert client.messages.create(model=FAR_GPT, max_tokens=3, messages=HI).stop_reason == "max_tokens"
    said: Any = [{"role": "user", "content": "count"}]
    stopped: Any = client.messages.create(model=FAR_GPT, max_tokens=99, messages=said, stop_sequences=[" three"])
    assert stopped.content[0].text == "one two"
    paid(gw, 5)


# What goes out and what comes back


def test_the_callers_key_stays_here(gw: Running) -> None:
    """The other provider gets its own key and its own headers; nothing that was meant for the caller's provider."""
    gw.openai("sk-of-the-caller", organization="org-1").chat.completions.create(
        model=FAR_CLAUDE, messages=HI, extra_headers={"x-my-auth": "sk-of-the-caller", "x-trace": "t"}
    )
    headers = {k.decode(): v.decode() for k, v in gw.got().headers}
    assert (headers["x-api-key"], headers["anthropic-version"]) == (KEYS["anthropic"], "2023-06-01")
    assert (headers["content-type"], headers["x-trace"]) == ("application/json", "t")
    gw.fresh()
    gw.anthropic("ant-of-the-caller").messages.create(model=FAR_GPT, max_tokens=9, messages=HI)
    back = {k.decode(): v.decode() for k, v in gw.got().headers}
    assert back["authorization"] == f"Bearer {KEYS['openai']}"
    for told in (headers, back):
        assert not any("of-the-caller" in value or "org-1" in value for value in told.values())
    assert not [name for name in headers if name.startswith(("openai-", "x-stainless-"))]
    assert not [name for name in back if name.startswith(("anthropic-", "x-stainless-"))]


def test_a_caller_without_a_key_of_ours_gets_none() -> None:
    """No key is configured for the other provider: his own is not tried there, and the refusal is the provider's."""
    with running() as gw:
        with pytest.raises(openai.AuthenticationError):
            gw.openai("sk-of-the-caller").chat.completions.create(model=FAR_CLAUDE, messages=HI)
        assert not any(b"sk-of-the-caller" in value for _, value in gw.got().headers)


@pytest.mark.parametrize("stream", [False, True])
def test_heads_are_the_callers_dialects(gw: Running, stream: bool) -> None:
    """Content type as his own provider has it, a length only where it is known, and the id where his SDK looks."""
    body = json.dumps({"model": FAR_CLAUDE, "messages": HI, "stream": stream}).encode()
    status, heads, raw = streamed(gw.url, "/v1/chat/completions", body, {"authorization": "Bearer k"})
    told = {name.lower(): value for name, value in heads}
    assert status == 200 and told["x-request-id"].startswith("req_") and "request-id" not in told
    if stream:
        assert told["content-type"] == "text/event-stream; charset=utf-8" and "content-length" not in told
        assert raw.startswith(b"data: {") and raw.endswith(b"data: [DONE]\n\n")
    else:
        assert told["content-type"] == "application/json" and int(told["content-length"]) == len(raw)
    names = [name.lower() for name, _ in heads]
    assert names.count("content-type") == 1


def test_openai_errors(gw: Running) -> None:
    """By status, with the same words, and in the middle of a stream; no error costs more than was said before it."""
    client = gw.openai()
    for fault, kind in (("429", openai.RateLimitError), ("529", openai.InternalServerError)):
        for stream in (False, True):
            with pytest.raises(kind) as told:
                client.chat.completions.create(
                    model=FAR_CLAUDE, messages=HI, stream=stream, extra_headers={"x-sandbox-fault": fault}
                )  # fmt: skip
            assert isinstance(told.value, openai.APIStatusError) and told.value.type
    for fault in ("error-event:3", "malformed:3", "cut:3"):
        with pytest.raises(openai.APIError) as broken:
            list(client.chat.completions.create(
                model=FAR_CLAUDE, messages=HI, stream=True, extra_headers={"x-sandbox-fault": fault}
            ))  # fmt: skip
        assert broken.value.message
    *refused, event, malformed, cut = gw.rows(7)
    assert {(row.status, row.cost_nanos) for row in refused} == {("failed", 0)}
    assert [row.status for row in (event, malformed, cut)] == ["failed"] * 3
    assert malformed.error and "translated" in malformed.error and malformed.cost_status == "final"
    assert malformed.cost_nanos == next(
        line.nanos for line in gw.sandbox.bill.lines if line.id == malformed.response_id
    )
    assert (event.cost_status, cut.cost_status) == ("estimated", "estimated")


def test_anthropic_errors(gw: Running) -> None:
    """The same the other way."""
    client = gw.anthropic()
    asked: Any = {"model": FAR_GPT, "max_tokens": 99, "messages": HI}
    for fault, kind in (("quota", anthropic.RateLimitError), ("500", anthropic.InternalServerError)):
        with pytest.raises(kind) as told:
            client.messages.create(**asked, extra_headers={"x-sandbox-fault": fault})
        assert told.value.body["error"]["message"]  # type: ignore[index]
    for fault in ("error-event:3", "malformed:3", "cut:3"):
        with pytest.raises(anthropic.APIStatusError) as broken:
            list(client.messages.create(**asked, stream=True, extra_headers={"x-sandbox-fault": fault}))
        assert broken.value.body["error"]["message"]  # type: ignore[index]
    assert [row.status for row in gw.rows(5)] == ["failed"] * 5


def test_what_has_no_translation_was_paid() -> None:
    """An answer that means nothing to the caller is an error to him, and a row with its price to us."""
    told = json.dumps({
        "id": "msg_1", "type": "message", "role": "assistant", "model": CLAUDE, "stop_reason": "pause_turn",
        "content": [{"type": "text", "text": "wait"}], "usage": {"input_tokens": 1000, "output_tokens": 10},
    }).encode()  # fmt: skip
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(told)
    with canned(head + told) as (url, _), running(upstream=url, settings=ONCE) as gw:
        with pytest.raises(openai.InternalServerError, match="could not be translated"):
            gw.openai().chat.completions.create(model=FAR_CLAUDE, messages=HI)
        row = gw.row()
        assert (row.status, row.cost_status, row.input_tokens) == ("failed", "final", 1000)
        assert row.cost_nanos == 1000 * 1_000 + 10 * 5_000


@pytest.mark.parametrize("stream", [False, True])
def test_what_crosses_is_kept_as_the_caller_has_it(
    server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """With its usage, which a later caller may want; both shapes of an answer are kept as the same."""
    server.fresh()
    outcomes = planned(monkeypatch, lambda call: crossed(call, keep=b"key"))
    for client, model in ((server.openai().chat.completions, CLAUDE), (server.anthropic().messages, GPT)):
        asked: Any = {"model": model, "messages": HI, "max_tokens": 99, "stream": stream}
        answer = client.create(**asked)
        if stream:
            list(answer)
    server.rows(2)
    for outcome, api, usage in zip(outcomes, ("chat", "messages"), ("prompt_tokens", "input_tokens"), strict=True):
        assert isinstance(outcome, Completed) and outcome.keepable is not None
        kept = json.loads(outcome.keepable)
        assert kept["usage"][usage] and replay.unstorable(api, outcome.keepable) is None  # type: ignore[arg-type]
        assert (outcome.body is None) is stream and outcome.body in (None, outcome.keepable)


# Who leaves


@pytest.mark.parametrize("leave", ["closes", "drops the connection"])
def test_who_leaves_a_crossed_stream_is_booked(leave: str) -> None:
    """One row each, abandoned; what was read to its end costs what was billed, what was cut its input exactly."""
    with running(Settings(chunk_ms=3), credentials=KEYS) as gw:
        http = httpx2.Client()
        chat = openai.OpenAI(api_key="k", base_url=gw.url + "/v1", max_retries=0, http_client=http)
        found: Any = chat.chat.completions.create(
            model=FAR_CLAUDE, messages=LONG, stream=True, max_completion_tokens=90
        )
        next(iter(found))
        found.close() if leave == "closes" else http.close()
        row = gw.row()
        assert row.status == "abandoned" and gw.sandbox.bill.wait(1)
        line = gw.sandbox.bill.lines[0]
        assert row.input_tokens == line.usage["input"]
        assert row.cost_status == "estimated" or row.cost_nanos == line.nanos
        gw.fresh()
        claude: Any = gw.anthropic().messages.create(model=FAR_GPT, messages=LONG, stream=True, max_tokens=90)
        next(iter(claude))
        claude.close()
        row = gw.row()
        assert row.status == "abandoned" and gw.sandbox.bill.wait(1)
        assert row.cost_status == "estimated" or row.cost_nanos == gw.sandbox.bill.lines[0].nanos


def test_asyncio(gw: Running) -> None:
    """The asyncio clients read the same, many at once."""

    async def main() -> None:
        async with gw.async_openai() as chat, gw.async_anthropic() as claude:

            async def one(number: int) -> None:
                said: Any = [{"role": "user", "content": f"ship {number}"}]
                async with chat.chat.completions.stream(model=FAR_CLAUDE, messages=said) as events:
                    assert (await events.get_final_completion()).choices[0].message.content
                async with claude.messages.stream(model=FAR_GPT, max_tokens=99, messages=said) as told:
                    assert (await told.get_final_message()).content

            await asyncio.gather(*map(one, range(8)))

    asyncio.run(main())
    paid(gw, 16)
