"""Answers across the pair: a stream amounts to the whole answer, however it is cut; both are of the SDKs' own types."""

import json
from collections.abc import Iterable
from typing import Any, get_args

import pytest
from anthropic.types import Message, RawMessageStreamEvent, StopReason
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from bursar.types import Api, Instant
from bursar.wire import replay, sse, translate
from bursar.wire.replay.shape import Misfit
from bursar.wire.translate import answers
from replays import ASKED, Json, accumulated, encode, parsed, plain
from test_translate import ODD, places, spoilt
from wire_streams import SAID as SAID_THERE
from wire_streams import chat_stream, messages_stream

AT = Instant(1_795_000_000_000_000)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)

# Answers of every kind

TEXT = st.text(max_size=12) | st.just("a \u2028 \u0085 b" * 60)
SAID = TEXT.filter(bool)
NAMES = st.sampled_from(["look_up", "add"])
VALUES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | SAID
INPUTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)
COUNT = st.integers(0, 10**6)


@st.composite
def messages(draw: st.DrawFn) -> Json:
    """A message: thinking, text and calls in any order, with its usage."""
    blocks = draw(
        st.lists(
            st.fixed_dictionaries({"type": st.just("text"), "text": TEXT, "citations": st.none()})
            | st.fixed_dictionaries({"type": st.just("thinking"), "thinking": TEXT, "signature": st.just("s")})
            | st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": st.just("s")})
            | st.fixed_dictionaries({"type": st.just("tool_use"), "name": NAMES, "input": INPUTS}),
            max_size=5,
        )
    )
    content = [
        {**block, "id": f"toolu_{n}"} if block["type"] == "tool_use" else block for n, block in enumerate(blocks)
    ]
    stop = draw(st.sampled_from([reason for reason in get_args(StopReason) if reason != "pause_turn"]))
    refusal = {"type": "refusal", "category": "bio", "explanation": draw(st.none() | SAID)}
    usage = {
        "input_tokens": draw(COUNT), "output_tokens": draw(COUNT), "cache_read_input_tokens": draw(st.none() | COUNT),
        "cache_creation_input_tokens": draw(st.none() | COUNT), "service_tier": "priority",
        **draw(st.fixed_dictionaries({}, optional={"output_tokens_details": st.just({"thinking_tokens": 0})})),
    }  # fmt: skip
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": content,
        "stop_reason": stop, "stop_sequence": "x" if stop == "stop_sequence" else None,
        "stop_details": refusal if stop == "refusal" else None, "usage": usage,
    }  # fmt: skip


CALL = st.fixed_dictionaries({"name": NAMES, "arguments": INPUTS.map(json.dumps)})


@st.composite
def chats(draw: st.DrawFn) -> Json:
    """A completion of one choice: text or refusal, and calls, with its usage."""
    said: Json = {"role": "assistant", "content": draw(st.none() | TEXT), "refusal": draw(st.none() | SAID)}
    if calls := draw(st.lists(CALL, max_size=3)):
        said["tool_calls"] = [{"id": f"call_{n}", "type": "function", "function": one} for n, one in enumerate(calls)]
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    cached, written, fresh, output = (draw(COUNT) for _ in range(4))
    usage: Json = {
        "prompt_tokens": cached + written + fresh, "completion_tokens": output,
        "total_tokens": cached + written + fresh + output,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": min(3, output)},
    }  # fmt: skip
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [choice],
        "usage": usage, "service_tier": "default",
    }  # fmt: skip


def crossed(source: Api, target: Api, body: Json) -> Json:
    found = translate.answer(encode(body), source, target, at=AT)
    assert found is not None
    answer: Json = json.loads(found)
    return answer


def streamed(source: Api, target: Api, pieces: Iterable[bytes], *, usage: bool = True) -> bytes:
    stream = translate.stream(source, target, at=AT, wants_usage=usage)
    return b"".join([*(stream.feed(piece) for piece in pieces), stream.close()])


def every_way(source: Api, target: Api, events: bytes) -> bytes:
    """The stream as it is translated in one piece; byte by byte it is the same."""
    whole = streamed(source, target, [events])
    assert streamed(source, target, [bytes([one]) for one in events]) == whole
    return whole


def native(api: Api, body: Json) -> bytes:
    events = replay.streamed(api, encode(body), ASKED)
    assert events is not None
    return events


def amounts(api: Api, events: bytes) -> Json:
    whole = replay.gathered(api, events)
    assert whole is not None, events
    answer: Json = json.loads(whole)
    return answer


def read_arguments(answer: Json) -> Json:
    """With the arguments of calls read, as they may be spaced in any way."""
    for call in answer["choices"][0]["message"].get("tool_calls") or ():
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return answer


@settings(max_examples=40, deadline=None)
@given(body=messages())
def test_messages_for_a_chat_caller(body: Json) -> None:
    """Stream and whole are one answer, to us and to the SDK, and every piece is of the SDK's types."""
    whole, events = crossed("chat", "messages", body), every_way("chat", "messages", native("messages", body))
    ChatCompletion.model_validate(whole)
    for data in sse.Events().read(events):
        if data.strip() != b"[DONE]":
            ChatCompletionChunk.model_validate_json(data)
    told = amounts("chat", events)
    if told["choices"][0]["message"].get("tool_calls") is None:
        told["choices"][0]["message"].pop("tool_calls", None)
    assert plain(read_arguments(told)) == plain(read_arguments(whole))
    if whole["choices"][0]["finish_reason"] in ("stop", "tool_calls"):  # at a cut the helper raises
        whole = crossed("chat", "messages", body)
        assert read_arguments(accumulated("chat", events)) == read_arguments(parsed("chat", encode(whole)))
    assert "".join(block["text"] for block in body["content"] if block["type"] == "text") == (
        whole["choices"][0]["message"]["content"] or ""
    )


@settings(max_examples=40, deadline=None)
@given(body=chats())
def test_chat_for_a_messages_caller(body: Json) -> None:
    """Stream and whole are one answer, to us and to the SDK, and every piece is of the SDK's types."""
    whole, events = crossed("messages", "chat", body), every_way("messages", "chat", native("chat", body))
    Message.model_validate(whole)
    for data in sse.Events().read(events):
        EVENT.validate_json(data)
    told = amounts("messages", events)
    joined = "".join(block["text"] for block in whole["content"] if block["type"] == "text")
    texts = "".join(block["text"] for block in told["content"] if block["type"] == "text")
    assert (
        texts
        == joined
        == (body["choices"][0]["message"]["content"] or "") + (body["choices"][0]["message"]["refusal"] or "")
    )
    calls = [block for block in told["content"] if block["type"] == "tool_use"]
    assert calls == [block for block in whole["content"] if block["type"] == "tool_use"]
    kept = ("id", "model", "stop_reason", "stop_details")
    assert {key: told.get(key) for key in kept} == {key: whole.get(key) for key in kept}
    counts = {key: one for key, one in whole["usage"].items() if key != "service_tier"}
    assert {key: told["usage"].get(key) for key in counts} == counts
    final = accumulated("messages", events)
    assert [plain(block) for block in final["content"] if block["type"] == "tool_use"] == plain(calls)


@settings(max_examples=30, deadline=None)
@given(body=messages())
def test_there_and_back(body: Json) -> None:
    """Text, calls, why it ended and all counts survive the way there and back."""
    back = crossed("messages", "chat", crossed("chat", "messages", body))
    told = "".join(block["text"] for block in body["content"] if block["type"] == "text")
    calls = [block for block in body["content"] if block["type"] == "tool_use"]
    refusal = (body["stop_details"] or {}).get("explanation") or ""
    assert "".join(block["text"] for block in back["content"] if block["type"] == "text") == told + refusal
    assert [block for block in back["content"] if block["type"] == "tool_use"] == calls
    ends = {"stop_sequence": "end_turn", "model_context_window_exceeded": "max_tokens"}
    stop = ends.get(body["stop_reason"], body["stop_reason"])
    if stop in ("end_turn", "tool_use"):
        stop = "tool_use" if calls else "end_turn"
    assert back["stop_reason"] == stop
    assert plain(back["usage"]) == plain(body["usage"])


# Edges


def test_every_stop_reason_is_decided() -> None:
    """Each reason of either SDK has a fellow, but for a turn that is only paused and the older function call."""
    finishes = {
        "end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "max_tokens": "length",
        "model_context_window_exceeded": "length", "refusal": "content_filter",
    }  # fmt: skip
    assert {*finishes, "pause_turn"} == {*get_args(StopReason)}
    assert {reason: answers.chat_finish(reason) for reason in finishes} == finishes
    stops = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "end_turn", "content_filter": "refusal"}
    choice = get_args(ChatCompletion.model_fields["choices"].annotation)[0]
    assert {*stops, "function_call"} == {*get_args(choice.model_fields["finish_reason"].annotation)}
    assert {one: answers.messages_stop(one, calls=False, refused=False) for one in stops} == stops
    assert answers.messages_stop("stop", calls=True, refused=False) == "tool_use"
    assert answers.messages_stop("stop", calls=False, refused=True) == "refusal"
    with pytest.raises(Misfit):
        answers.chat_finish("pause_turn")
    with pytest.raises(Misfit):
        answers.messages_stop("function_call", calls=False, refused=False)


def test_counts_that_nobody_told_are_unknown() -> None:
    """No count is made up: null, also where what was told cannot be."""
    assert answers.messages_usage({}) == dict.fromkeys(
        ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    )
    assert (
        answers.messages_usage({"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}})["input_tokens"]
        is None
    )
    told = answers.chat_usage({"output_tokens": 3})
    assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (None, 3, None)
    full = {"input_tokens": 1, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 300, "output_tokens": 4}
    assert answers.chat_usage(full) == {
        "prompt_tokens": 321, "completion_tokens": 4, "total_tokens": 325,
        "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 300},
    }  # fmt: skip


def chunk(delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + encode({"id": "c", "model": "m", "choices": [choice]}) + b"\n\n"


def part(index: int, arguments: str = "", **start: str) -> Json:
    function = {"arguments": arguments, **({"name": start["name"]} if start else {})}
    return {"tool_calls": [{"index": index, **({"id": start["id"]} if start else {}), "function": function}]}


def test_calls_in_pieces_that_take_turns() -> None:
    """Parts of parallel calls that come by turns, and text between, come out as blocks one after the other."""
    events = b"".join([
        chunk({"role": "assistant", "content": "So: "}),
        chunk(part(0, name="f", id="a")), chunk(part(1, name="g", id="b")),
        chunk(part(0, '{"x"')), chunk(part(1, '{"y":')), chunk(part(0, ":1}")), chunk({"content": "Wait."}),
        chunk(part(1, "2}")), chunk({}, "tool_calls"), b"data: [DONE]\n\n",
    ])  # fmt: skip
    told = every_way("messages", "chat", events)
    kinds = [(data["type"], data.get("index")) for data in map(json.loads, sse.Events().read(told))]
    order = [index for kind, index in kinds if kind.startswith("content_block_") and index is not None]
    assert order == sorted(order)
    message = amounts("messages", told)
    assert message["content"] == [
        {"type": "text", "text": "So: "},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {"y": 2}},
        {"type": "text", "text": "Wait."},
    ]
    assert accumulated("messages", told)["content"] == message["content"]
    stream = translate.stream("messages", "chat", at=AT)
    stream.feed(chunk({"content": "So: "}) + chunk(part(0, name="f", id="a")))
    assert b'"partial_json":"{' in stream.feed(chunk(part(0, "{")))  # the first call does not wait


def block(start: Json, *deltas: Json, index: int = 0) -> bytes:
    told = [{"type": "content_block_start", "index": 0, "content_block": start}]
    told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return b"".join(b"data: " + encode(one) + b"\n\n" for one in [*told, {"type": "content_block_stop", "index": 0}])


@pytest.mark.parametrize(
    ("given", "deltas", "arguments"),
    [({}, [], "{}"), ({}, [""], "{}"), ({"x": 1}, [], '{"x":1}'), ({}, ["{", "}"], "{}")],
)
def test_calls_told_without_deltas(given: Json, deltas: list[str], arguments: str) -> None:
    """A call whose input stands in its start, or that takes none, has arguments that are JSON."""
    begun, *_, ended, stopped = sse.Events().feed(native("messages", {**EXAMPLE, "stop_reason": "tool_use"}))
    told = [{"type": "input_json_delta", "partial_json": one} for one in deltas]
    start: Json = {"type": "tool_use", "id": "a", "name": "f", "input": given}
    out = amounts("chat", every_way("chat", "messages", begun + block(start, *told) + ended + stopped))
    assert out["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == arguments


def test_a_delta_of_no_open_block() -> None:
    """What belongs to no open block is told to nobody."""
    begun, *_ = sse.Events().feed(native("messages", EXAMPLE))
    stray = block({"type": "text", "text": ""}, {"type": "text_delta", "text": "stray"}, index=3)
    out = streamed("chat", "messages", [begun, stray])
    assert b"stray" not in out and b'"error"' in out


def test_what_the_sdks_types_send() -> None:
    """Streams built of the SDKs' own events; a ping goes on as a comment, hidden usage stays hidden."""
    first, *_ = messages_stream()
    assert streamed("chat", "messages", [first, PING]).endswith(b": ping\n\n")
    given = b"".join(chat_stream(usage=True, end="\r\n"))
    message = amounts("messages", every_way("messages", "chat", given))
    assert message["usage"] == {
        "input_tokens": 20, "cache_creation_input_tokens": None, "cache_read_input_tokens": 100, "output_tokens": 40,
        "output_tokens_details": {"thinking_tokens": 16},
    }  # fmt: skip
    assert message["content"][0]["text"] == "".join(SAID_THERE)
    assert message["content"][1]["input"] == {"usage": {"a": 1}}
    silent = streamed("chat", "messages", [native("messages", EXAMPLE)], usage=False)
    assert b"usage" not in silent and silent.endswith(b"data: [DONE]\n\n")


PING = b'event: ping\ndata: {"type": "ping"}\n\n'
EXAMPLE: Json = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "events"),
    [
        ("chat", "messages", b'data: {"type":"error","error":{"type":"overloaded_error","message":"Busy."}}\n\n'),
        ("chat", "messages", b'data: {"type":"content_block_del\n\n'),
        ("chat", "messages", b'data: {"type":"message_stop"}\n\n'),
        ("messages", "chat", b'data: {"error":{"message":"Busy.","type":"server_error"}}\n\n'),
        ("messages", "chat", b'data: {"id":"c","choices":[{"ind\n\n'),
        ("messages", "chat", chunk(part(0, "{}"))),
        ("messages", "chat", chunk({"content": "x"}) + b"data: [DONE]\n\n"),
        ("messages", "chat", chunk({"content": "x"}, "function_call") + b"data: [DONE]\n\n"),
        ("messages", "chat", chunk({"content": "x"}, "function_call")),
    ],
)
def test_errors_in_the_middle(source: Api, target: Api, events: bytes) -> None:
    """An error, and what cannot be read, is the caller's own error event, and nothing follows it."""
    stream = translate.stream(source, target, at=AT)
    told = stream.feed(events) + stream.close()
    last = json.loads(sse.Events().read(told)[-1])
    assert last["error"]["message"]
    assert last["error"]["message"] == "Busy." or b"Busy." not in events
    assert stream.feed(events) == stream.close() == b""


def test_no_end_is_made_up() -> None:
    """A stream that breaks off anywhere has no last event; without [DONE] a finished one is whole."""
    events = sse.Events().feed(native("messages", EXAMPLE))
    for cut in range(len(events)):
        told = streamed("chat", "messages", events[:cut])
        assert b"[DONE]" not in told and b'"error"' not in told
    chat = chunk({"content": "Hi"}) + chunk({}, "stop")
    assert amounts("messages", streamed("messages", "chat", [chat]))["stop_reason"] == "end_turn"
    assert b"message_stop" not in streamed("messages", "chat", [chunk({"content": "Hi"})])


def test_whole_answers_that_do_not_fit() -> None:
    """Paused turns, server tools, several choices and calls of another kind are no answer to a translated request."""
    for body in ({**EXAMPLE, "stop_reason": "pause_turn"}, {**EXAMPLE, "content": [{"type": "server_tool_use"}]},
                 {**EXAMPLE, "type": "error"}, {**EXAMPLE, "stop_reason": None}):  # fmt: skip
        assert translate.answer(encode(body), "chat", "messages", at=AT) is None
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":'}}
    said: Json = {"role": "assistant", "content": None, "tool_calls": [call]}

    def answer(*choices: Json) -> bytes | None:
        return translate.answer(encode({"id": "c", "model": "m", "choices": choices}), "messages", "chat", at=AT)

    ended: Json = {"index": 0, "message": said, "finish_reason": "tool_calls"}
    assert answer() is None and answer(ended, ended) is None
    assert answer(ended) is None  # arguments that are no JSON
    cut = answer({**ended, "finish_reason": "length"})
    assert cut is not None and json.loads(cut)["content"][0]["input"] == {}
    assert answer({**ended, "message": {**said, "tool_calls": None, "audio": {"id": "x"}}}) is None


def test_errors() -> None:
    """The words survive, whatever the body is; a code too."""
    claude = {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Slow.", "details": {"error_code": "r"}},
    }
    assert json.loads(translate.error(encode(claude), 429, "chat", "messages")) == {
        "error": {"message": "Slow.", "type": "rate_limit_error", "param": None, "code": "r"}
    }
    gpt = {"error": {"message": "No.", "type": "invalid_request_error", "param": "n", "code": "c"}}
    assert json.loads(translate.error(encode(gpt), 400, "messages", "chat"))["error"] == {
        "type": "invalid_request_error", "message": "No.", "details": {"error_code": "c"},
    }  # fmt: skip
    page = json.loads(translate.error(b"<html>Bad gateway</html>", 502, "messages", "chat"))
    assert page["error"] == {"type": "api_error", "message": "<html>Bad gateway</html>"}
    assert json.loads(translate.error(b"", 502, "chat", "messages"))["error"]["message"] == "HTTP 502"


PIECES = st.sampled_from([
    *sse.Events().feed(native("messages", EXAMPLE)), chunk({"content": "x"}), chunk({}, "stop"), b"data: [DONE]\n\n",
    chunk(part(0, name="f", id="a")), chunk(part(1, "{}")), chunk(part(0, "1")), b"data: {}\n\n", b"data: []\n\n",
    b'data: {"type":"content_block_delta","index":"x"}\n\n', b": c\n\n", b"\r\n\r\n", b'data: {"choices":[{}]}\n\n',
    b'data: {"type":"message_start","message":{"id":1}}\n\n', b'data: {"type":"ping"}\r\rdata: 1\n\n',
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(events=st.lists(PIECES | st.binary(max_size=9), max_size=9).map(b"".join))
def test_total(events: bytes) -> None:
    """No stream raises; any cutting gives the same; after the caller's last event there is nothing."""
    for source, target in (("chat", "messages"), ("messages", "chat")):
        told = every_way(source, target, events)  # type: ignore[arg-type]
        ends = [b"[DONE]" in data or b"message_stop" in data or b'"error"' in data for data in sse.Events().read(told)]
        assert not any(ends[:-1])


@settings(max_examples=80, deadline=None)
@given(answers_=st.tuples(messages(), chats()), data=st.data())
def test_one_value_spoilt(answers_: tuple[Json, Json], data: st.DataObject) -> None:
    """One value of the wrong kind anywhere in an answer or an event raises nothing, however the stream is cut."""
    for source, target, body in (("chat", "messages", answers_[0]), ("messages", "chat", answers_[1])):
        odd = spoilt(body, data.draw(st.sampled_from([*places(body)])), data.draw(ODD))
        found = translate.answer(encode(odd), source, target, at=AT)  # type: ignore[arg-type]
        assert found is None or json.loads(found)
        events = sse.Events().feed(native(target, body))  # type: ignore[arg-type]
        at = data.draw(st.integers(0, len(events) - 1))
        told = sse.Events().read(events[at])[0]
        if told.strip() != b"[DONE]":
            event = json.loads(told)
            bad = spoilt(event, data.draw(st.sampled_from([*places(event)])), data.draw(ODD))
            events[at] = b"data: " + encode(bad) + b"\n\n"
        every_way(source, target, b"".join(events))  # type: ignore[arg-type]


def test_no_pair() -> None:
    """A pair that is not named has no stream, and its answers none either."""
    with pytest.raises(ValueError, match="responses"):
        translate.stream("responses", "chat", at=AT)
    assert translate.answer(b"{}", "responses", "chat", at=AT) is None
    assert translate.paired("chat", "messages") and not translate.paired("chat", "chat")
