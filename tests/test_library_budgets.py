"""Budgets in the agent's own process: what a run may spend, what it is told, and how a call ends that it cannot pay."""

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic as anthropic_sdk
import openai as openai_sdk
import pytest
from anthropic import AsyncAnthropic
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

import bursar
from bursar import testing
from bursar.sandbox.server import SandboxServer
from library_kit import (
    ASK,
    STOPPED,
    anthropic,
    chat,
    chat_streamed,
    chat_text,
    gemini,
    message,
    openai,
    rows,
    settings,
)

GONE = bursar.Budget(tokens=0)
"""Nothing may be spent under it."""


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as server:
        yield server


# What may be written as a budget


@given(st.decimals(0, 10**6, places=9, allow_nan=False))
def test_dollars_are_taken_exactly(usd: Decimal) -> None:
    """As a Decimal, a string or an int to the nano-dollar; a float as it is written, not as it is stored."""
    nanos = int(usd * 10**9)
    assert bursar.Budget(usd=usd).cap().limit_nanos == nanos
    assert bursar.Budget(usd=f"{usd:f}").cap().limit_nanos == nanos
    assert bursar.Budget(usd=int(usd)).cap().limit_nanos == int(usd) * 10**9
    assert bursar.Budget(usd=float(usd)).cap().limit_nanos == round(Decimal(repr(float(usd))) * 10**9)


def test_a_float_is_what_was_written() -> None:
    """0.1 is ten cents and 0.15 is fifteen hundredths, though no float is."""
    cap = bursar.Budget(usd=0.1, tokens=7, finish_reserve=0.15, on_exhausted="refuse").cap()
    assert (cap.limit_nanos, cap.limit_tokens) == (100_000_000, 7)
    assert (cap.finish_reserve, cap.on_exhausted) == (150_000, "refuse")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "limits nothing"),
        ({"usd": -1}, "expected 0 or more"),
        ({"usd": "two"}, "not an amount in dollars"),
        ({"usd": float("nan")}, "finite"),
        ({"usd": True}, "not an amount"),
        ({"tokens": 1.5}, "whole number"),
        ({"tokens": -1}, "whole number"),
        ({"tokens": 1, "finish_reserve": 1}, "a share from 0"),
        ({"tokens": 1, "finish_reserve": float("nan")}, "a share from 0"),
        ({"tokens": 1, "on_exhausted": "stop"}, "expected one of 'finish', 'downgrade', 'refuse'"),
        ({"tokens": 1, "finish": "text"}, "expected a function"),
    ],
)
def test_a_wrong_budget_is_said_where_it_is_written(wrong: dict[str, Any], told: str) -> None:
    """ValueError names the field, what it got and what it expected."""
    with pytest.raises(ValueError, match=told):
        bursar.Budget(**wrong)


def test_a_run_takes_a_budget_and_nothing_else(guard: bursar.Guard) -> None:
    """TypeError for a bare number, whose unit nobody knows."""
    with pytest.raises(TypeError, match=r"expected a bursar\.Budget"):
        guard.run(budget=10_000)  # type: ignore[arg-type]


# How a call ends that a budget does not pay for


def responses_text(answer: Any) -> tuple[str, str]:
    return answer.output_text, answer.incomplete_details.reason


def responses_streamed(events: Any) -> tuple[str, str]:
    *_, last = seen = list(events)
    assert last.type == "response.incomplete"
    deltas = (event.delta for event in seen if event.type == "response.output_text.delta")
    return "".join(deltas), last.response.incomplete_details.reason


def messages_streamed(client: Any) -> tuple[str, str]:
    with client.messages.stream(model="claude-haiku-4-5", max_tokens=60, messages=ASK) as stream:
        text = "".join(stream.text_stream)
        return text, stream.get_final_message().stop_reason


def gemini_text(answer: Any) -> tuple[str, str]:
    return answer.text, answer.candidates[0].finish_reason.value


ENDS: dict[str, tuple[Any, Callable[[Any], tuple[str, str]], str]] = {
    "chat": (openai, lambda c: chat_text(chat(c)), "length"),
    "chat streamed": (openai, lambda c: chat_streamed(chat(c, stream=True)), "length"),
    "responses": (
        openai,
        lambda c: responses_text(c.responses.create(model="gpt-4o", input="hi")),
        "max_output_tokens",
    ),
    "responses streamed": (
        openai,
        lambda c: responses_streamed(c.responses.create(model="gpt-4o", input="hi", stream=True)),
        "max_output_tokens",
    ),
    "messages": (anthropic, lambda c: ((m := message(c)).content[0].text, m.stop_reason), "max_tokens"),
    "messages streamed": (anthropic, messages_streamed, "max_tokens"),
    "gemini": (
        gemini,
        lambda c: gemini_text(c.models.generate_content(model="gemini-2.5-flash", contents="hi")),
        "MAX_TOKENS",
    ),
    "gemini streamed": (
        gemini,
        lambda c: gemini_text(list(c.models.generate_content_stream(model="gemini-2.5-flash", contents="hi"))[-1]),
        "MAX_TOKENS",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_used_up_budget_ends_in_an_answer(sandbox: SandboxServer, guard: bursar.Guard, name: str) -> None:
    """A valid completion in each dialect, plain and streamed, cut by length; nothing is sent and nothing is owed."""
    make, ask, reason = ENDS[name]
    client = guard.wrap(make(sandbox.url))
    with guard.run(agent="a", budget=GONE) as run:
        text, ended = ask(client)
        assert text.startswith(STOPPED)
        assert "0 tokens" in text
        assert ended == reason
        assert run.should_finish
        assert run.cost == 0
    assert not sandbox.requests
    (row,) = rows(guard)
    assert (row.status, row.http_status, row.cost_nanos) == ("refused", 200, 0)
    assert row.error is not None and "raise the limit that the run was given" in row.error


def test_the_async_clients_end_the_same_way(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """AsyncOpenAI and AsyncAnthropic, plain and streamed."""

    async def main() -> None:
        client = guard.wrap(openai(sandbox.url, AsyncOpenAI))
        claude = guard.wrap(anthropic(sandbox.url, AsyncAnthropic))
        async with guard.run(budget=GONE), client, claude:
            assert chat_text(await chat(client))[0].startswith(STOPPED)
            seen = [chunk async for chunk in await chat(client, stream=True)]
            assert chat_streamed(seen)[0].startswith(STOPPED)
            assert (await message(claude)).content[0].text.startswith(STOPPED)
            async with claude.messages.stream(model="claude-haiku-4-5", max_tokens=60, messages=ASK) as stream:
                assert (await stream.get_final_text()).startswith(STOPPED)

    asyncio.run(main())
    assert not sandbox.requests
    assert [row.status for row in rows(guard)] == ["refused"] * 4


def test_a_helper_that_wants_whole_answers_says_so_itself(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """openai's parse() raises on whatever was cut by length; its exception carries the answer, and nothing retries."""
    client = guard.wrap(openai(sandbox.url))
    with guard.run(budget=GONE), pytest.raises(openai_sdk.LengthFinishReasonError) as caught:
        client.chat.completions.parse(model="gpt-4o", messages=ASK)
    assert chat_text(caught.value.completion)[0].startswith(STOPPED)
    assert len(rows(guard)) == 1


def test_what_the_answer_says_of_the_budget(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """State, scope and what remains stand in the headers; a token budget says nothing of dollars."""
    client = guard.wrap(openai(sandbox.url))
    with guard.run(budget=bursar.Budget(tokens=40)):
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)
    told = {name: value for name, value in raw.headers.items() if name.startswith("x-bursar-")}
    assert told.pop("x-bursar-request-id") == rows(guard)[0].request_id
    assert told == {
        "x-bursar-budget-state": "exhausted",
        "x-bursar-budget-scope": "run",
        "x-bursar-budget-remaining-tokens": "40",
    }


SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CLAUDE_TOOL: Any = {"name": "look", "input_schema": {"type": "object"}}
UNANSWERABLE: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "refuse": (openai, lambda c: chat(c)),
    "structured": (openai, lambda c: chat(c, response_format=SCHEMA)),
    "structured streamed": (openai, lambda c: list(chat(c, response_format=SCHEMA, stream=True))),
    "forced tool": (openai, lambda c: chat(c, tools=[TOOL], tool_choice="required")),
    "embeddings": (openai, lambda c: c.embeddings.create(model="text-embedding-3-small", input="a")),
    "anthropic forced tool": (anthropic, lambda c: message(c, tools=[CLAUDE_TOOL], tool_choice={"type": "any"})),
}


@pytest.mark.parametrize("name", UNANSWERABLE)
def test_where_no_text_would_be_valid_it_is_a_402(sandbox: SandboxServer, guard: bursar.Guard, name: str) -> None:
    """on_exhausted = "refuse", structured output, a forced tool: one attempt, the provider's error type and code."""
    make, ask = UNANSWERABLE[name]
    client = guard.wrap(make(sandbox.url))
    budget = bursar.Budget(usd=0, on_exhausted="refuse" if name == "refuse" else "finish")
    kinds = (openai_sdk.APIStatusError, anthropic_sdk.APIStatusError)
    with guard.run(budget=budget), pytest.raises(kinds) as caught:
        ask(client)
    error: Any = caught.value
    assert error.status_code == 402
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.headers["x-bursar-budget-state"] == "exhausted"
    told = error.response.json()["error"]
    if make is openai:
        assert (told["type"], told["code"]) == ("insufficient_quota", "budget_exceeded")
    else:
        assert (told["type"], told["details"]["error_code"]) == ("billing_error", "budget_exceeded")
    assert "is used up" in told["message"]
    assert len(rows(guard)) == 1
    assert not sandbox.requests


# What is left, and when to finish


def test_what_remains_is_the_least_of_all_budgets(guard: bursar.Guard) -> None:
    """Dollars and tokens each from the budget that leaves least of them; None where nothing limits."""
    with testing.Script() as script:
        client = guard.wrap(OpenAI(api_key="k", http_client=script.client()))
        script.answer("yes", input_tokens=1000, output_tokens=100)
        with guard.run() as free:
            assert free.remaining == bursar.Remaining()
            assert not free.should_finish
        with guard.run(budget=bursar.Budget(usd=1, tokens=5_000)) as outer:
            with guard.run(budget=bursar.Budget(usd="0.5")) as inner:
                client.chat.completions.create(model="gpt-4o", messages=ASK)
                left = inner.remaining
                assert left == bursar.Remaining(Decimal("0.4965"), 3_900, f"run:{outer.id}")
            assert outer.remaining == bursar.Remaining(Decimal("0.9965"), 3_900, f"run:{outer.id}")
            assert (outer.cost, outer.tokens) == (Decimal("0.0035"), 1_100)


def test_a_run_is_told_to_finish_in_time(guard: bursar.Guard) -> None:
    """From 80 % of what is open to everybody on; the finish reserve is not. An inner run hears of the outer's too."""
    with testing.Script() as script:
        client = guard.wrap(OpenAI(api_key="k", http_client=script.client()))
        with guard.run(budget=bursar.Budget(tokens=20_000, finish_reserve=0.5)) as run:
            script.answer("a", input_tokens=7_000, output_tokens=999)
            client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=1000)
            told = [run.should_finish]
            with guard.run() as inner:
                script.answer("b", input_tokens=1, output_tokens=0)
                client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=1000)
                told += [inner.should_finish, run.should_finish]
            assert told == [False, True, True]
            assert run.remaining.tokens == 12_000


def test_a_refused_call_tells_the_run_to_finish(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """Half is left, but not for a call of this size: that is the end too, and not for the runs around it."""
    client = guard.wrap(openai(sandbox.url))
    with guard.run() as outer, guard.run(budget=bursar.Budget(tokens=600)) as run:
        told = [run.should_finish]
        assert chat_text(chat(client, "word " * 500))[0].startswith(STOPPED)
        told += [run.should_finish, outer.should_finish]
        assert told == [False, True, False]
        assert not chat_text(chat(client, "hi", max_tokens=5))[0].startswith(STOPPED)


def test_the_last_part_is_for_the_final_answer(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """What the reserve keeps only run.finish() may spend, once, with its tools off and left in place."""
    client = guard.wrap(openai(sandbox.url))
    asked: Any = {"tools": [TOOL], "max_tokens": 50}
    with guard.run(budget=bursar.Budget(tokens=2_000, finish_reserve=0.9)) as run:
        assert chat_text(chat(client, **asked))[0].startswith(STOPPED)
        with run.finish():
            final = chat_text(chat(client, **asked))[0]
            assert final and not final.startswith(STOPPED)
            assert chat_text(chat(client, **asked))[0].startswith(STOPPED)
    (got,) = sandbox.requests
    assert b'"tool_choice":"none"' in got.body
    assert b'"look"' in got.body
    assert [row.step for row in rows(guard)][1:] == ["final", "final"]


def test_a_step_named_final_is_the_final_answer_too(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """run.step("final") and a decorated function; an inner run's calls are not the outer's final answer."""
    client = guard.wrap(openai(sandbox.url))

    @guard.step("final")
    def conclude() -> str:
        with guard.run():
            assert chat_text(chat(client, max_tokens=50))[0].startswith(STOPPED)
        return chat_text(chat(client, max_tokens=50))[0]

    with guard.run(budget=bursar.Budget(tokens=2_000, finish_reserve=0.9)):
        assert not conclude().startswith(STOPPED)


def test_output_is_cut_to_what_is_left(sandbox: SandboxServer, guard: bursar.Guard) -> None:
    """The limit that leaves is the caller's own until the budget is short; then what it still pays for."""
    client = guard.wrap(openai(sandbox.url))
    with guard.run(budget=bursar.Budget(tokens=1_000)) as run:
        chat(client, "write a report", max_tokens=4_000)
        assert run.tokens <= 1_000
    (got,) = sandbox.requests
    (row,) = rows(guard)
    assert row.output_limit is not None and b'"max_tokens":%d' % row.output_limit in got.body
    assert row.output_limit + len(got.body) <= 1_000 + 256
