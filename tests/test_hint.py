"""Edits for a second try: the hint that a model is always told, and the asking for log-probabilities."""

import json
from typing import Any

import pytest
from anthropic.types import MessageParam
from google.genai import types as genai_types
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import ResponseInputItemParam
from pydantic import TypeAdapter

from bursar.sandbox import chat, gemini, messages, responses
from bursar.types import Api
from bursar.wire import translate
from bursar.wire.dialect import OTHER, Dialect
from test_limits import HI, THINKING
from test_wire import CHAT, EMBEDDINGS, GEMINI, MESSAGES, RESPONSES, SPACE, VALUES

HINT = 'The answer was no JSON: "x".'
SAYS = {"role": "user", "content": HINT}
TEXT = {"type": "text", "text": HINT}
BLOCKS = {"role": "user", "content": [TEXT]}
MARK = {"cache_control": {"type": "ephemeral"}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "t", "content": "r", **MARK}
USE: dict[str, Any] = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
CALLS: dict[str, Any] = {
    "role": "assistant",
    "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
TOLD = {"role": "tool", "tool_call_id": "t", "content": "r"}
SYSTEM = {"role": "system", "content": "s"}
PREFILL = {"role": "assistant", "content": "It"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "o"}
ANSWERED: dict[str, Any] = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}
SPOKEN: dict[str, Any] = {"role": "model", "parts": [{"text": "It"}]}
ASKED: dict[str, Any] = {"role": "user", "parts": [{"text": "hi"}]}
PART = {"text": HINT}
KINDS: dict[str, TypeAdapter[Any]] = {
    "chat": TypeAdapter(list[ChatCompletionMessageParam]),
    "messages": TypeAdapter(list[MessageParam]),
    "responses": TypeAdapter(list[ResponseInputItemParam]),
}
BULK = {"chat": "messages", "messages": "messages", "responses": "input", "gemini": "contents"}


@pytest.mark.parametrize(
    ("dialect", "body", "end"),
    [
        (CHAT, {"messages": HI}, [*HI, SAYS]),
        (CHAT, {"messages": [*HI, CALLS, TOLD]}, [*HI, CALLS, TOLD, SAYS]),
        (CHAT, {"messages": [*HI, PREFILL]}, [*HI, PREFILL, SAYS]),
        (MESSAGES, {"messages": HI}, [{"role": "user", "content": [{"type": "text", "text": "hi"}, TEXT]}]),
        (
            MESSAGES,
            {"messages": [*HI, USE, {"role": "user", "content": [RESULT]}], "thinking": THINKING},
            [*HI, USE, {"role": "user", "content": [RESULT, TEXT]}],
        ),
        (MESSAGES, {"messages": [*HI, PREFILL], **MARK}, [*HI, PREFILL, BLOCKS]),
        (MESSAGES, {"messages": [*HI, SYSTEM]}, [*HI, SYSTEM, BLOCKS]),
        (RESPONSES, {"input": "hi"}, [*HI, SAYS]),
        (RESPONSES, {"input": [OUTPUT], "previous_response_id": "r"}, [OUTPUT, SAYS]),
        (RESPONSES, {"input": [*HI], "conversation": "c"}, [*HI, SAYS]),
        (RESPONSES, {"prompt": {"id": "p"}}, [SAYS]),
        (GEMINI, {"contents": [ASKED]}, [{"role": "user", "parts": [{"text": "hi"}, PART]}]),
        (GEMINI, {"contents": [ANSWERED]}, [ANSWERED, {"role": "user", "parts": [PART]}]),
        (GEMINI, {"contents": [ASKED, SPOKEN]}, [ASKED, SPOKEN, {"role": "user", "parts": [PART]}]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_the_hint_is_told(dialect: Dialect, body: dict[str, Any], end: list[Any], indent: int | None) -> None:
    """The user's last word: behind tool results, a cached end, an answer begun, a conversation of the provider's."""
    bulk = BULK[dialect.api]
    raw = json.dumps({"model": "m", **body, "z": 1.0}, indent=indent).encode()
    patched = dialect.patch(raw, hint=HINT)
    assert json.loads(patched) == {**json.loads(raw), bulk: end}
    kept = patched
    for piece in raw[1:].replace(b'"hi"', b'\0"hi"\0').replace(b"]", b"\0]\0").split(b"\0"):
        assert piece in kept
        kept = kept[kept.index(piece) + len(piece) :]
    accepted(dialect.api, json.loads(patched)[bulk])


def accepted(api: Api, bulk: list[Any]) -> None:
    """The SDK's own types take the prompt as it was left."""
    if api == "gemini":
        for content in bulk:
            genai_types.Content.model_validate(content)
        return
    KINDS[api].validate_python(bulk)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (CHAT, {"messages": []}),
        (CHAT, {"messages": "hi"}),
        (CHAT, {}),
        (MESSAGES, {"messages": []}),
        (RESPONSES, {"input": 7}),
        (GEMINI, {"contents": {}}),
        (EMBEDDINGS, {"input": "hi"}),
        (OTHER, {"messages": HI}),
    ],
)
def test_no_hint_without_a_prompt(dialect: Dialect, body: dict[str, Any]) -> None:
    """What no provider would answer is left as it is."""
    raw = json.dumps(body).encode()
    assert dialect.patch(raw, hint=HINT) is raw


@settings(max_examples=250)
@given(items=st.lists(VALUES, min_size=1, max_size=4), gap=SPACE, hint=st.text(max_size=9), note=st.none() | st.text())
def test_a_hint_behind_anything(items: list[str], gap: str, hint: str, note: str | None) -> None:
    """Whatever the messages are, and with a note as well: they stand unchanged, and the hint is the last word."""
    array = f"[{gap}" + f"{gap},{gap}".join(items) + f"{gap}]"
    for dialect, bulk in ((CHAT, "messages"), (RESPONSES, "input"), (MESSAGES, "messages"), (GEMINI, "contents")):
        body = f'{{"{bulk}":{array},"n":1.0}}'.encode()
        after = json.loads(dialect.patch(body, note=note, hint=hint))
        before = json.loads(body)
        *kept, last = after[bulk]
        said = last.get("content", last.get("parts"))
        assert (said[-1]["text"] if isinstance(said, list) else said) == hint
        assert kept[: len(items) - 1] == before[bulk][:-1]
        assert after["n"] == 1.0 and last["role"] == "user"


@settings(max_examples=250)
@given(content=VALUES, head=st.lists(VALUES, max_size=2), gap=SPACE, role=st.sampled_from(["user", "model", "system"]))
def test_a_hint_in_the_last_message(content: str, head: list[str], gap: str, role: str) -> None:
    """Put behind its parts, or in a message of the user's own: never two roles in the wrong order, never untold."""
    for dialect, bulk, member in ((MESSAGES, "messages", "content"), (GEMINI, "contents", "parts")):
        last = f'{{{gap}"role":"{role}",{gap}"{member}"{gap}:{content}{gap}}}'
        body = f'{{"{bulk}":[{gap}' + f"{gap},{gap}".join([*head, last]) + f'{gap}],"n":1.0}}'
        before, after = json.loads(body), json.loads(dialect.patch(body.encode(), hint=HINT))
        assert after[bulk][: len(head)] == before[bulk][: len(head)]
        assert after[bulk][-1]["role"] == "user" and after[bulk][-1][member][-1]["text"] == HINT
        held = json.loads(content)
        joined = role == "user" and held != [] and isinstance(held, list if dialect is GEMINI else list | str)
        assert len(after[bulk]) == len(head) + (1 if joined else 2)


def test_providers_read_the_hint() -> None:
    """The sandbox's own readers, which refuse what the providers do, take what was made, tool results included."""
    tools: Any = [{"name": "f", "input_schema": {"type": "object"}}]
    bodies: Any = [
        (CHAT, chat.read, {"model": "gpt-4o", "messages": [*HI, CALLS, TOLD]}),
        (RESPONSES, responses.read, {"model": "gpt-4o", "input": "hi"}),
        (
            MESSAGES,
            messages.read,
            {"model": "claude-haiku-4-5", "max_tokens": 9, "tools": tools,
             "messages": [*HI, USE, {"role": "user", "content": [RESULT]}]},
        ),
        (GEMINI, gemini.read, {"model": "gemini-2.5-flash", "contents": [ASKED, SPOKEN]}),
    ]  # fmt: skip
    for dialect, read, body in bodies:
        ask = read(json.loads(dialect.patch(json.dumps(body).encode(), hint=HINT)) | {"model": body["model"]})
        assert HINT in ask.prompt


def test_a_hint_crosses() -> None:
    """Told in the other dialect behind a translated tool result, where a system message could not stand."""
    ask = {"model": "m", "max_tokens": 9, "messages": [*HI, CALLS, TOLD]}
    found = translate.request(json.dumps(ask).encode(), "chat", "messages", model="claude")
    assert isinstance(found, translate.Translated)
    *_, last = json.loads(MESSAGES.patch(found.body, note="n", hint=HINT))["messages"]
    assert [block["type"] for block in last["content"]] == ["tool_result", "text", "text"]
    assert last["content"][-1] == TEXT


@pytest.mark.parametrize(
    ("asked", "then"),
    [
        ({}, {"logprobs": True, "top_logprobs": 2}),
        ({"logprobs": False}, {"logprobs": True, "top_logprobs": 2}),
        ({"logprobs": True, "top_logprobs": 1}, {"logprobs": True, "top_logprobs": 2}),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
    ],
)
def test_logprobs_are_asked_for(asked: Any, then: Any) -> None:
    """Of chat alone, at least the two likeliest; what the caller asked for himself stays."""
    raw = json.dumps({"model": "m", "messages": HI, **asked}).encode()
    patched = CHAT.patch(raw, logprobs=True)
    assert json.loads(patched) == {"model": "m", "messages": HI, **then}
    assert patched is raw if asked == then else patched is not raw
    for dialect in (RESPONSES, MESSAGES, GEMINI, EMBEDDINGS, OTHER):
        assert dialect.patch(raw, logprobs=True) is raw
