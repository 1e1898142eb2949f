"""What a validator sees of an answer, out of any dialect, and out of anything that is none."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules import validate
from bursar.types import Answer, Api, ToolCall
from bursar.wire.said import said
from replays import CHATS, GEMINIS, MESSAGES, RESPONSES, Json, encode, stream_of, whole_of

SCORES = [{"token": "A", "logprob": -0.1, "top_logprobs": [{"logprob": -2.5}, {"logprob": -0.1}]}]


def chat(message: Any, finish: str = "stop", **more: Any) -> Any:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish, **more}]}


def response(*output: Any, **more: Any) -> Any:
    return {"status": "completed", "output": list(output), **more}


def message(*content: Any, reason: str = "end_turn", **more: Any) -> Any:
    return {"type": "message", "content": list(content), "stop_reason": reason, **more}


def candidate(*parts: Any, finish: str = "STOP", **more: Any) -> Any:
    return {"candidates": [{"content": {"parts": list(parts)}, "finishReason": finish, **more}]}


CASES: list[tuple[Api, Any, Answer]] = [
    ("chat", chat({"content": "hi"}), Answer(text="hi", finish_reason="stop")),
    ("chat", chat({"content": None, "refusal": "no"}), Answer(finish_reason="stop", refusal="no")),
    ("chat", chat({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "LENGTH"),
     Answer(text="ab", finish_reason="length")),
    ("chat",
     chat({"tool_calls": [
         {"function": {"name": "f", "arguments": '{"a":1}'}}, {"custom": {"name": "g", "input": "x"}},
     ]}, "tool_calls"),
     Answer(finish_reason="tool_calls", tool_calls=(ToolCall("f", '{"a":1}'), ToolCall("g", "x")))),
    ("chat", chat({"function_call": {"name": "f", "arguments": ""}}, "function_call"),
     Answer(finish_reason="function_call", tool_calls=(ToolCall("f", ""),))),
    ("chat", chat({"content": "A"}, logprobs={"content": SCORES}),
     Answer(text="A", finish_reason="stop", likeliest=(-0.1, -2.5))),
    ("chat", chat({"content": "A"}, logprobs={"content": [{"logprob": -0.1, "top_logprobs": []}]}),
     Answer(text="A", finish_reason="stop")),
    ("chat", {"choices": [*chat({"content": "second"})["choices"], {"index": -1, "message": {"content": "first"}}]},
     Answer(text="first")),
    ("responses",
     response({"type": "reasoning", "summary": []},
              {"type": "message", "content": [{"type": "output_text", "text": "A", "logprobs": SCORES}]}),
     Answer(text="A", finish_reason="completed", likeliest=(-0.1, -2.5))),
    ("responses", response({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}),
     Answer(finish_reason="completed", refusal="no")),
    ("responses",
     response({"type": "function_call", "name": "f", "arguments": "{}"},
              {"type": "custom_tool_call", "name": "g", "input": "x"}),
     Answer(finish_reason="completed", tool_calls=(ToolCall("f", "{}"), ToolCall("g", "x")))),
    ("responses", {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
     Answer(finish_reason="incomplete")),
    ("responses", {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}, "output": []},
     Answer(finish_reason="content_filter")),
    ("messages", message({"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"},
                         {"type": "text", "text": "b"}), Answer(text="ab", finish_reason="end_turn")),
    ("messages", message({"type": "tool_use", "name": "f", "input": {"a": 1}}, reason="tool_use"),
     Answer(finish_reason="tool_use", tool_calls=(ToolCall("f", '{"a":1}'),))),
    ("messages", message(reason="refusal", stop_details={"explanation": "no"}),
     Answer(finish_reason="refusal", refusal="no")),
    ("gemini", candidate({"text": "hm", "thought": True}, {"text": "a"}, {"functionCall": {"name": "f", "args": {}}}),
     Answer(text="a", finish_reason="stop", tool_calls=(ToolCall("f", "{}"),))),
    ("gemini", candidate({"text": "A"}, logprobsResult={
        "topCandidates": [{"candidates": [{"logProbability": -0.1}, {"logProbability": -2.5}]}]}),
     Answer(text="A", finish_reason="stop", likeliest=(-0.1, -2.5))),
    ("gemini", {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, Answer(finish_reason="prohibited_content")),
]  # fmt: skip


@pytest.mark.parametrize(("api", "body", "answer"), CASES)
def test_what_is_seen(api: Api, body: Any, answer: Answer) -> None:
    """Text without thoughts, calls with their arguments as text, the end in lower case, the two likeliest words."""
    assert said(api, json.dumps(body).encode()) == answer


@pytest.mark.parametrize(
    ("api", "body", "reason"),
    [
        ("chat", chat({"content": ""}, "length"), "cut off"),
        ("responses", {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
         "cut off"),
        ("messages", message({"type": "text", "text": "a"}, reason="max_tokens"), "cut off"),
        ("gemini", candidate({"text": "a"}, finish="MAX_TOKENS"), "cut off"),
        ("chat", chat({"content": "x"}, "content_filter"), "refused"),
        ("responses", response({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}), "refused"),
        ("messages", message(reason="refusal"), "refused"),
        ("gemini", candidate(finish="SAFETY"), "refused"),
        ("gemini", {"promptFeedback": {"blockReason": "SAFETY"}}, "refused"),
    ],
)  # fmt: skip
def test_cuts_and_refusals_are_known_to_validators(api: Api, body: Any, reason: str) -> None:
    """In every dialect's own words."""
    answer = said(api, json.dumps(body).encode())
    assert answer is not None
    judgement = validate.sound(answer)
    assert judgement.ok is False and judgement.reason.startswith(reason)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_both_shapes_say_the_same(data: st.DataObject) -> None:
    """A whole answer, and what its stream is gathered to."""
    kinds: dict[Api, st.SearchStrategy[Json]] = {
        "chat": CHATS, "responses": RESPONSES, "messages": MESSAGES, "gemini": GEMINIS,
    }  # fmt: skip
    for api, answers in kinds.items():
        answer = data.draw(answers)
        whole = said(api, encode(answer))
        assert whole is not None
        assert said(api, encode(whole_of(api, stream_of(api, answer)))) == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "choices", "message", "content", "output", "type", "candidates", "parts", "tool_calls", "function", "text",
            "logprobs", "top_logprobs", "logprob", "index", "functionCall", "stop_reason", "status", "name", "input",
        ]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400)
@given(body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30))
def test_nothing_raises(body: bytes) -> None:
    """An Answer or None, of any JSON and of no JSON."""
    for api in ("chat", "responses", "messages", "gemini"):
        found = said(api, body)
        assert found is None or isinstance(found.text, str)
    assert said("embeddings", body) is None and said("other", body) is None


@pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error":{"message":"m"}}', b'{"choices":[]}', b'{"output":7}'])
def test_what_is_no_answer_is_not_seen(api: Api, body: bytes) -> None:
    """None, which no validator takes for a pass."""
    assert said(api, body) is None
