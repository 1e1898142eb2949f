"""A stored answer in either shape: there and back it is the same, and what has no other shape gives None."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.types import Api, View
from bursar.wire import replay
from bursar.wire.dialect import of
from replays import (
    ANSWERS,
    ASKED,
    CHAT_HEAD,
    LINES,
    OBJECTS,
    STORED,
    TRIP,
    VALUES,
    Json,
    encode,
    stream_of,
    whole_of,
)  # fmt: skip

# The laws


@pytest.mark.parametrize("api", ANSWERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_there_and_back_is_the_same_answer(api: Api, data: st.DataObject) -> None:
    """Whatever an answer holds, its stream amounts to it again, and the meter reads the same from both."""
    answer = data.draw(ANSWERS[api])
    stream = stream_of(api, answer)
    assert whole_of(api, stream) == answer
    dialect = of(api)
    meter = dialect.meter(ASKED, (), hide_usage=False)
    meter.feed(stream)
    meter.close()
    streamed, whole = meter.reading(), dialect.read(encode(answer), ASKED, ())
    assert streamed.terminal and not streamed.malformed
    for fact in ("usage", "model", "response_id", "terms", "error"):
        assert getattr(streamed, fact) == getattr(whole, fact)
    if api != "chat":  # whose meter tells one reason of several choices
        assert streamed.finish_reason == whole.finish_reason


@pytest.mark.parametrize("api", ANSWERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_stream_that_is_cut_is_no_answer(api: Api, data: st.DataObject) -> None:
    """Cut at any byte before its last event it gives None; so does one with an event of JSON that breaks off."""
    answer = data.draw(ANSWERS[api])
    if api == "gemini":  # which has no last event but that of each candidate
        del answer["candidates"][1:]
    stream = stream_of(api, answer)
    events = stream.replace(b"\r\n", b"\n").removesuffix(b"\n\n").split(b"\n\n")
    last = len(events[-1])
    cut = data.draw(st.integers(0, len(stream) - last - 2))
    assert replay.gathered(api, stream[:cut]) is None
    torn = data.draw(st.integers(0, len(events) - 1))
    broken = [*events[:torn], b'data: {"x":', *events[torn:]]
    assert replay.gathered(api, b"\n\n".join(broken) + b"\n\n") is None


@pytest.mark.parametrize("api", ANSWERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_raises(api: Api, data: st.DataObject) -> None:
    """Any member replaced by anything: an answer, a stream or None, and a reason or None."""
    answer = json.loads(encode(data.draw(ANSWERS[api])))
    spots = list(_spots(answer))
    holder, key = spots[data.draw(st.integers(0, len(spots) - 1))]
    holder[key] = data.draw(VALUES | OBJECTS | st.lists(OBJECTS | VALUES, max_size=2))
    body = encode(answer)
    for view in (ASKED, View()):
        stream = replay.streamed(api, body, view)
        assert stream is None or isinstance(replay.gathered(api, stream), bytes | None)
    assert isinstance(replay.unstorable(api, body), str | None)
    assert isinstance(replay.gathered(api, b"data: " + body + b"\n\n"), bytes | None)


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as its holder and key."""
    for key, one in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(one, dict | list):
            yield from _spots(one)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"a":' * 5000, b'{"error":{"message":"no"}}'])
def test_what_is_no_answer_has_no_shape(body: bytes) -> None:
    """Neither as an answer nor as a stream, in any dialect."""
    for api in (*ANSWERS, "embeddings", "other"):
        assert replay.streamed(api, body, ASKED) is None
        assert replay.gathered(api, b"data: " + body + b"\n\n") is None
        assert replay.unstorable(api, body) is not None


# Streams as others write them


def sse(*events: Json | str) -> bytes:
    return b"".join(b"data: " + (one.encode() if isinstance(one, str) else encode(one)) + b"\n\n" for one in events)


def chunk(delta: Json, index: int = 0, finish: str | None = None, **more: Any) -> Json:
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return {**CHAT_HEAD, "object": "chat.completion.chunk", "choices": [choice]}


def start(*blocks: Json) -> list[Json]:
    message = {**STORED["messages"], "content": [], "stop_reason": None}
    opened = [{"type": "content_block_start", "index": at, "content_block": one} for at, one in enumerate(blocks)]
    return [{"type": "message_start", "message": message}, {"type": "ping"}, *opened]


def told(index: int, **delta: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def part(*parts: Json, **more: Any) -> Json:
    return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, **more}]}


END: Json = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
CLOSE: Json = {"type": "content_block_stop", "index": 0}
STOP: Json = {"type": "message_stop"}
TEXT_BLOCK: Json = {"type": "text", "text": ""}
TOOL_BLOCK: Json = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
DONE: Json = {"type": "response.completed", "response": STORED["responses"]}
HALF = chunk({"content": "a"})
LAST = chunk({}, finish="stop")


def test_a_chat_stream_of_many_hands() -> None:
    """Choices and calls told in turns, names told again, filters on every chunk, details by their index."""
    details: list[Json] = [{"reasoning_details": [{"index": 0, "type": "text", "text": text}]} for text in ("Hm", "m.")]
    opened = [{"index": at, "id": f"call_{at}", "type": "function", "function": {"name": f"f{at}"}} for at in (1, 0)]
    words = [{"index": at, "function": {"arguments": text}} for at, text in ((0, "{"), (1, "{}"), (0, "}"))]
    answer = whole_of("chat", sse(
        {**CHAT_HEAD, "id": "", "model": "", "object": "", "choices": [], "prompt_filter_results": [1]},
        {**chunk({"role": "assistant", "content": ""}, x_filter={"hate": 0}), "obfuscation": "xyz"},
        *(chunk({"tool_calls": [call]}, 1) for call in (*opened, *words)),
        *(chunk({"role": "assistant", **delta}, x_filter={"hate": 1}) for delta in (*details, {"content": "Hi"})),
        chunk({}, 1, "tool_calls"), LAST, "[DONE]",
    ))  # fmt: skip
    first, second = answer["choices"]
    thought = [{"index": 0, "type": "text", "text": "Hmm."}]
    assert (answer["id"], answer["model"], answer["prompt_filter_results"]) == ("chatcmpl-1", "gpt-4o", [1])
    assert first["message"] == {"role": "assistant", "content": "Hi", "reasoning_details": thought}
    assert first["x_filter"] == {"hate": 1} and not {"usage", "obfuscation"} & answer.keys()
    assert [(call["id"], call["function"]) for call in second["message"]["tool_calls"]] == [
        ("call_0", {"name": "f0", "arguments": "{}"}), ("call_1", {"name": "f1", "arguments": "{}"}),
    ]  # fmt: skip


def test_what_a_later_event_corrects() -> None:
    """Responses whose terminal event leaves the output to the items, and a message whose model a fallback names."""
    items = [{"type": "message", "id": f"msg_{at}"} for at in range(2)]
    done = [{"type": "response.output_item.done", "output_index": at, "item": items[at]} for at in (1, 0)]
    ended = {**DONE, "response": {**STORED["responses"], "output": None}}
    assert whole_of("responses", sse(*done, ended))["output"] == items
    fallback = {"type": "fallback", "to": {"model": "claude-next"}}
    assert whole_of("messages", sse(*start(fallback), CLOSE, END, STOP))["model"] == "claude-next"


def test_gemini_parts_go_on_over_chunks() -> None:
    """A text goes on in the next chunk; a thought, a second text of one chunk and a signed one stand by themselves."""
    signed = {"text": "", "thoughtSignature": "c2ln"}
    answer = whole_of("gemini", sse(
        part({"text": "Hm", "thought": True}), part({"text": "m.", "thought": True}), part({"text": "O"}),
        part({"text": "slo"}, {"text": "and"}), part(signed, finishReason="STOP", index=0), {"usageMetadata": {"x": 1}},
    ))  # fmt: skip
    thought = {"text": "Hmm.", "thought": True}
    assert answer["candidates"][0]["content"]["parts"] == [thought, {"text": "Oslo"}, {"text": "and"}, signed]
    assert answer["usageMetadata"] == {"x": 1}
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {}}
    assert whole_of("gemini", stream_of("gemini", blocked)) == blocked


MISFITS: list[tuple[Api, list[Json | str]]] = [
    ("chat", [HALF, "[DONE]"]),
    ("chat", [HALF, LAST]),
    ("chat", ["[DONE]"]),
    ("chat", [HALF, {"error": {"message": "overloaded"}}, LAST, "[DONE]"]),
    ("chat", [HALF, chunk({}, 2, "stop"), LAST, "[DONE]"]),
    ("chat", [chunk({"audio": {"id": "a"}}), LAST, "[DONE]"]),
    ("chat", [chunk({"tool_calls": [{"function": {"name": "f"}}]}), LAST, "[DONE]"]),
    ("chat", [*(chunk({"tool_calls": [{"index": 0, "id": name}]}) for name in "ab"), LAST, "[DONE]"]),
    ("chat", [*(chunk({"x": value}) for value in (1, 2)), LAST, "[DONE]"]),
    ("messages", [*start(TEXT_BLOCK), END, STOP]),
    ("messages", [*start(TEXT_BLOCK), CLOSE, END]),
    ("messages", [*start(TEXT_BLOCK), CLOSE, STOP]),
    ("messages", [*start(TEXT_BLOCK), CLOSE, CLOSE, END, STOP]),
    ("messages", [*start(TEXT_BLOCK), CLOSE, END, STOP, STOP]),
    ("messages", [*start(TEXT_BLOCK), {"type": "error", "error": {"type": "overloaded_error"}}, CLOSE, END, STOP]),
    ("messages", [*start(TEXT_BLOCK), told(0, type="new_delta", text="a"), CLOSE, END, STOP]),
    ("messages", [*start(TEXT_BLOCK), told(1, type="text_delta", text="a"), CLOSE, END, STOP]),
    ("messages", [*start(TOOL_BLOCK), told(0, type="input_json_delta", partial_json='{"a'), CLOSE, END, STOP]),
    ("responses", [{"type": "response.created", "response": STORED["responses"]}]),
    ("responses", [{"type": "error", "message": "overloaded"}, DONE]),
    ("responses", [DONE, DONE]),
    ("responses", [{**DONE, "type": "response.failed"}]),
    ("gemini", [part({"text": "a"})]),
    ("gemini", [part({"text": "a"}, finishReason="FINISH_REASON_UNSPECIFIED")]),
    ("gemini", [part({"text": "a"}), {"error": {"code": 503}}, part(finishReason="STOP")]),
    ("gemini", [part(citationMetadata={"a": 1}), part(citationMetadata={"b": 1}, finishReason="STOP")]),
    ("gemini", [part({"functionCall": {"name": "f", "willContinue": True}}, finishReason="STOP")]),
]  # fmt: skip


@pytest.mark.parametrize(("api", "events"), MISFITS)
def test_what_has_no_whole_answer(api: Api, events: list[Json | str]) -> None:
    """Streams that broke off, hold an error, contradict themselves, or tell in parts what has no known sum."""
    assert replay.gathered(api, sse(*events)) is None


@pytest.mark.parametrize("api", ANSWERS)
def test_a_long_text_comes_in_short_lines(api: Api) -> None:
    """A delta is a line that any client reads; of Responses, the events that repeat the whole text cannot be."""
    text, said = "0123456789" * 10_000, LINES if api == "gemini" else TRIP
    answer = json.loads(json.dumps(STORED[api]).replace(json.dumps(said), json.dumps(text)))
    stream = stream_of(api, answer)
    short = [line for line in stream.splitlines() if text.encode() not in line]
    assert len(short) > len(text) // 600 and max(map(len, short)) < 2000
    assert len(stream.splitlines()) - len(short) == (4 if api == "responses" else 0)
    assert whole_of(api, stream) == answer


# What may be stored


def stored(api: Api, **changes: Any) -> bytes:
    """The answer of that dialect with members of its only choice, or of itself, changed."""
    answer = json.loads(encode(STORED[api]))
    holder = answer["choices"][0] if api == "chat" else answer["candidates"][0] if api == "gemini" else answer
    for key, value in changes.items():
        place = answer if key in ("usage", "usageMetadata", "error", "promptFeedback") else holder
        place[key] = value
    return encode(answer)


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USED = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
CALLED = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
REFUSAL = {"id": "msg_1", "type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
ASKING: dict[Api, Json] = {
    "chat": {"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [CALL]}},
    "messages": {"stop_reason": "tool_use", "content": [USED]},
    "responses": {"output": [CALLED]},
    "gemini": {"content": {"parts": [{"functionCall": {"id": "call_1", "name": "f"}}]}},
}
REASONS: list[tuple[Api, Json, str | None]] = [
    *((api, {}, None) for api in STORED),
    *((api, {"error": {"message": "m"}}, "error") for api in STORED),
    *((api, changes, "tool calls") for api, changes in ASKING.items()),
    ("chat", {"usage": None}, "no usage"),
    ("chat", {"finish_reason": "length"}, "cut: length"),
    ("chat", {"finish_reason": "content_filter"}, "refusal"),
    ("chat", {"message": {"content": None, "refusal": "No."}}, "refusal"),
    ("chat", {"message": {"content": ""}}, "empty"),
    ("messages", {"usage": None}, "no usage"),
    ("messages", {"stop_reason": "max_tokens"}, "cut: max_tokens"),
    ("messages", {"stop_reason": "pause_turn"}, "cut: pause_turn"),
    ("messages", {"stop_reason": "model_context_window_exceeded"}, "cut: model_context_window_exceeded"),
    ("messages", {"stop_reason": "refusal"}, "refusal"),
    ("messages", {"content": [{"type": "web_search_tool_result", "content": []}]}, "tool calls"),
    ("messages", {"content": [{"type": "thinking", "thinking": "Hm."}]}, "empty"),
    ("responses", {"usage": None}, "no usage"),
    ("responses", {"status": "queued"}, "pending"),
    ("responses", {"background": True}, "pending"),
    ("responses", {"status": "failed"}, "cut: failed"),
    ("responses", {"status": "incomplete", "incomplete_details": {"reason": "max_messages"}}, "cut: max_messages"),
    ("responses", {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "refusal"),
    ("responses", {"output": [REFUSAL]}, "refusal"),
    ("responses", {"output": [{"type": "mcp_call", "arguments": "{}"}]}, "tool calls"),
    ("responses", {"output": []}, "empty"),
    ("gemini", {"usageMetadata": None}, "no usage"),
    ("gemini", {"finishReason": "MAX_TOKENS"}, "cut: MAX_TOKENS"),
    ("gemini", {"finishReason": "CONTINUATION"}, "cut: CONTINUATION"),
    ("gemini", {"finishReason": "SAFETY"}, "refusal"),
    ("gemini", {"promptFeedback": {"blockReason": "SAFETY"}}, "refusal"),
    ("gemini", {"content": {"parts": [{"text": "Hm.", "thought": True}]}}, "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("api", "changes", "reason"), REASONS)
def test_what_must_not_be_stored(api: Api, changes: Json, reason: str | None) -> None:
    """Whole, and as the stream that it would have been; tool calls may be where the step says so."""
    body = stored(api, **changes)
    assert replay.unstorable(api, body) == reason
    assert replay.unstorable(api, body, tools_ok=True) == (None if reason == "tool calls" else reason)
    if (stream := replay.streamed(api, body, ASKED)) is not None:
        again = replay.gathered(api, stream)
        assert again is not None and replay.unstorable(api, again) == reason


def test_embeddings_are_stored_as_they_are() -> None:
    """They have no stream; without usage or vectors they are no answer."""
    body: Json = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 1}}
    assert replay.unstorable("embeddings", encode(body)) is None
    assert replay.unstorable("embeddings", encode({**body, "data": []})) == "empty"
    assert replay.unstorable("embeddings", encode({**body, "usage": None})) == "no usage"
    assert replay.streamed("embeddings", encode(body), ASKED) is None


@pytest.mark.parametrize("api", ASKING)
def test_calls_get_fresh_ids(api: Api) -> None:
    """Another id for each hit, the same for the same hit, of the old one's look; nothing else changes."""
    body = stored(api, **ASKING[api])
    first, again, second = (replay.renewed(api, body, seed) for seed in ("a", "a", "b"))
    assert first is not None and second is not None
    assert first == again != second
    old = {"toolu_1"} if api == "messages" else {"fc_1", "call_1"} if api == "responses" else {"call_1"}
    for one in (first, second):
        told = one.decode()
        for name in old:
            fresh = re.findall(rf'"({name[:-1]}[0-9a-f]{{16}})"', told)
            assert len(fresh) == 1
            told = told.replace(fresh[0], name)
        assert json.loads(told) == json.loads(body)
    plain_body = stored(api)
    assert replay.renewed(api, plain_body, "a") is plain_body
    assert replay.renewed(api, b"[", "a") is None
