"""Meters: any cut of a stream gives the same bytes and the same reading; only the hidden chunk is ever left out."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules import estimate
from bursar.types import Headers, Reading, View
from bursar.wire.dialect import Dialect, Meter, dialect_of
from bursar.wire.meter import BATCH
from wire_streams import (
    SAID,
    SEARCH,
    chat_stream,
    gemini_chunks,
    messages_stream,
    response,
    responses_stream,
)

NO_HEADERS: Headers = ()


def dialect(path: str) -> Dialect:
    found = dialect_of("POST", path)
    assert found is not None
    return found


CHAT = dialect("/v1/chat/completions")
RESPONSES = dialect("/v1/responses")
MESSAGES = dialect("/v1/messages")
GEMINI = dialect("/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse")
GEMINI_SSE = [f"data: {json.dumps(c)}\r\n\r\n".encode() for c in gemini_chunks()]
GEMINI_ARRAY = [("[" + ",\r\n".join(json.dumps(c, indent=2) for c in gemini_chunks()) + "\n]\n").encode()]

STREAMS: dict[str, tuple[Dialect, list[bytes]]] = {
    "chat": (CHAT, chat_stream(usage=True)),
    "chat crlf": (CHAT, chat_stream(usage=True, end="\r\n")),
    "chat cr": (CHAT, chat_stream(usage=True, end="\r")),
    "chat no usage": (CHAT, chat_stream(usage=False)),
    "responses": (RESPONSES, responses_stream()),
    "responses cut": (RESPONSES, responses_stream(complete=False)),
    "messages": (MESSAGES, messages_stream()),
    "messages cut": (MESSAGES, messages_stream(stop=False)),
    "gemini": (GEMINI, GEMINI_SSE),
    "gemini array": (GEMINI, GEMINI_ARRAY),
}


def run(meter: Meter, chunks: Sequence[bytes]) -> tuple[bytes, Reading]:
    out = b"".join(meter.feed(chunk) for chunk in chunks) + meter.close()
    return out, meter.reading()


def cut(stream: bytes, points: Sequence[int]) -> list[bytes]:
    """The stream cut at these points (modulo its length), empty pieces included."""
    edges = [0, *sorted(point % (len(stream) + 1) for point in points), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


POINTS = st.lists(st.integers(0, 1 << 20), max_size=12)


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=25)
@given(points=POINTS)
def test_any_cut_gives_the_same_reading_and_bytes(name: str, points: list[int]) -> None:
    """Law 8: fed whole or in any pieces, a meter gives the same usage and passes the same bytes."""
    speaks, events = STREAMS[name]
    stream = b"".join(events)
    for hide in (False, True):
        whole = run(speaks.meter(View(), NO_HEADERS, hide_usage=hide), [stream])
        assert run(speaks.meter(View(), NO_HEADERS, hide_usage=hide), cut(stream, points)) == whole
        if not hide or speaks is not CHAT:
            assert whole[0] == stream


@pytest.mark.parametrize("name", STREAMS)
def test_byte_by_byte_is_like_whole(name: str) -> None:
    """The extreme cut: one byte at a time, hidden or not."""
    speaks, events = STREAMS[name]
    stream = b"".join(events)
    for hide in (False, True):
        single = [stream[i : i + 1] for i in range(len(stream))]
        assert run(speaks.meter(View(), NO_HEADERS, hide_usage=hide), single) == run(
            speaks.meter(View(), NO_HEADERS, hide_usage=hide), [stream]
        )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@settings(max_examples=60)
@given(points=POINTS, extra=st.sampled_from(["", ": keep-alive{e}{e}", ": a{e}: b{e}", "{e}", "retry: 5{e}{e}"]))
def test_hidden_chunk_leaves_the_stream_that_never_had_it(end: str, points: list[int], extra: str) -> None:
    """Cutting the usage chunk out equals a stream that was never asked for it, comments and line ends included."""
    noise = extra.replace("{e}", end).encode()
    *with_usage, last = chat_stream(usage=True, end=end)
    asked = b"".join([noise, *with_usage[:-1], noise, with_usage[-1], noise, last])
    never = b"".join([noise, *with_usage[:-1], noise, noise, last])
    out, reading = run(CHAT.meter(View(), NO_HEADERS, hide_usage=True), cut(asked, points))
    assert out == never
    assert reading.usage is not None and reading.terminal and reading.malformed == 0


def test_same_object_passes() -> None:
    """A chunk that needs no change is handed back as the very same object, in every dialect."""
    for speaks, events in STREAMS.values():
        meter = speaks.meter(View(), NO_HEADERS, hide_usage=False)
        assert all(meter.feed(event) is event for event in events)
    hiding = CHAT.meter(View(), NO_HEADERS, hide_usage=True)
    assert all(hiding.feed(event) is event for event in chat_stream(usage=False))


def test_only_what_may_be_the_usage_chunk_is_held_back() -> None:
    """The beginning of an event with choices passes at once; one that may be the usage chunk waits, and is not lost."""
    meter = CHAT.meter(View(), NO_HEADERS, hide_usage=True)
    visible = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a'
    assert meter.feed(visible) is visible
    between = [meter.midway]
    assert meter.feed(b'b"}}]}\n\n') == b'b"}}]}\n\n'
    assert meter.feed(b'data: {"id":"x","choices":[]') == b""
    between.append(meter.midway)
    assert between == [True, False]
    assert meter.feed(b',"prompt_filter_results":[]}\n\n').startswith(b'data: {"id":"x","choices":[],"prompt')
    assert meter.feed(b": wait") == b": wait"
    assert meter.feed(b"\ndata: {") == b"\n"
    assert meter.close() == b"data: {"


def test_comments_inside_the_hidden_event_stay() -> None:
    """A comment is nobody's: one that stands before or within the hidden event is relayed without it."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    stream = b": a\n" + usage + b"\n: b\n\ndata: [DONE]\n\n"
    for points in ([], list(range(len(stream)))):
        out, _ = run(CHAT.meter(View(), NO_HEADERS, hide_usage=True), cut(stream, points))
        assert out == b": a\n: b\ndata: [DONE]\n\n"


def test_what_has_begun_to_pass_passes_whole() -> None:
    """An event that did not look like the usage chunk, and proves to be it after it was half relayed, is not torn."""
    odd = b'data: {"x":{"choices":[1]},"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    long = b'data: {"x":"' + b"y" * 20_000 + b'","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    for event in (odd, long):
        out, reading = run(CHAT.meter(View(), NO_HEADERS, hide_usage=True), [event[:19_000], *cut(event[19_000:], [9])])
        halves = run(CHAT.meter(View(), NO_HEADERS, hide_usage=True), [event[:-20], event[-20:]])
        assert out in (b"", event) and halves[0] == event and reading.usage is not None


def test_chat_reading() -> None:
    """Chat: usage, served model and tier, finish reason, [DONE]; a text that quotes [DONE] ends nothing."""
    _, reading = run(CHAT.meter(View(), NO_HEADERS, hide_usage=False), chat_stream(usage=True))
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (120, 40)
    assert (reading.usage.cached_tokens, reading.usage.reasoning_tokens) == (100, 16)
    assert reading.raw_usage is not None and json.loads(reading.raw_usage)["prompt_tokens"] == 120
    assert reading.model == "gpt-6.1-sol-2026-06-01"
    assert (reading.terms.service_tier, reading.response_id) == ("flex", "chatcmpl-7")
    assert (reading.finish_reason, reading.terminal) == ("tool_calls", True)
    text = ("".join(SAID) + '{"usage":{"a":1}}').encode()
    assert reading.output_units == estimate.tokens(estimate.weigh(text))


def test_cut_streams_know_what_was_said() -> None:
    """A cut before the usage: none, but the output seen; Anthropic's exact input stays as the partial usage."""
    chat = run(CHAT.meter(View(), NO_HEADERS, hide_usage=True), chat_stream(usage=True)[:4])[1]
    assert chat.usage is None and chat.partial is None and chat.output_units > 0 and not chat.terminal
    cut_off = run(MESSAGES.meter(View(), NO_HEADERS, hide_usage=False), messages_stream(stop=False))[1]
    assert cut_off.usage is None and cut_off.partial is not None and not cut_off.terminal
    assert cut_off.partial.input_tokens == 3179 and cut_off.output_units > 3
    gemini = run(GEMINI.meter(View(), NO_HEADERS, hide_usage=False), GEMINI_SSE[:3])[1]
    assert gemini.usage is None and gemini.partial is not None and gemini.partial.output_tokens == 3


def test_messages_usage_is_merged_never_added() -> None:
    """Anthropic: the delta's counts replace; what it does not say stays from the start."""
    reading = run(MESSAGES.meter(View(), NO_HEADERS, hide_usage=False), messages_stream())[1]
    assert reading.usage is not None and reading.partial is None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (3179, 510)
    assert (reading.model, reading.finish_reason, reading.terminal) == ("claude-sonnet-5-5", "end_turn", True)


def test_messages_refusal_is_read() -> None:
    """A refusal before any output of a category that is not billed costs nothing, though its usage shows tokens."""
    stream = (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","model":"c",'
        b'"content":[],"usage":{"input_tokens":106,"output_tokens":1}}}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"refusal",'
        b'"stop_details":{"type":"refusal","category":"cyber"}},"usage":{"output_tokens":1}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    reading = run(MESSAGES.meter(View(), NO_HEADERS, hide_usage=False), [stream])[1]
    assert reading.finish_reason == "refusal" and reading.usage is not None
    assert [part.billed for part in reading.usage.parts] == [False]


def test_responses_reading() -> None:
    """Responses: usage from the terminal event, only real searches counted, each once though told twice."""
    reading = run(RESPONSES.meter(View(), NO_HEADERS, hide_usage=False), responses_stream())[1]
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.cached_tokens) == (1000, 200)
    assert reading.usage.fees == (("web_search", 1),) and reading.usage.estimated
    assert (reading.terms.service_tier, reading.finish_reason, reading.terminal) == ("priority", "completed", True)


def test_background_answers_are_pending() -> None:
    """A background answer that is queued is pending, whole or as a stream that was cut; one that ended is not."""
    view = View(background=True)
    queued = RESPONSES.read(response("queued", [], None).to_json().encode(), view, NO_HEADERS)
    assert queued.pending and not queued.terminal and queued.response_id == "resp_1"
    cut_off = run(RESPONSES.meter(view, NO_HEADERS, hide_usage=False), responses_stream(complete=False))[1]
    assert cut_off.pending
    assert not run(RESPONSES.meter(view, NO_HEADERS, hide_usage=False), responses_stream())[1].pending


@pytest.mark.parametrize("events", [GEMINI_SSE, GEMINI_ARRAY], ids=["sse", "array"])
def test_gemini_last_usage_wins(events: list[bytes]) -> None:
    """Gemini: running usage is replaced, thoughts count as output, the header names the tier, in both framings."""
    headers = (("x-gemini-service-tier", "flex"),)
    reading = run(GEMINI.meter(View(), headers, hide_usage=False), events)[1]
    assert reading.usage is not None and reading.terminal
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (30, 20)
    assert (reading.terms.service_tier, reading.finish_reason) == ("flex", "STOP")
    assert ("web_search", 2) in reading.usage.fees


ERRORS: list[tuple[Dialect, bytes, str]] = [
    (CHAT, b'data: {"error":{"message":"slow down","type":"server_error"}}\n\n', "server_error: slow down"),
    (RESPONSES, b'event: error\ndata: {"type":"error","code":"x","message":"m","sequence_number":1}\n\n', "x: m"),
    (MESSAGES, b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"o"}}\n\n', "over"),
    (GEMINI, b'data: {"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}\n\n', "UNAVAILABLE: m"),
]


@pytest.mark.parametrize(("speaks", "event", "said"), ERRORS)
def test_error_events_are_told(speaks: Dialect, event: bytes, said: str) -> None:
    """An error in the middle of a stream is passed on and stands in the reading; what we write, we read."""
    out, reading = run(speaks.meter(View(), NO_HEADERS, hide_usage=False), [event])
    assert out == event and reading.error is not None and reading.error.startswith(said) and not reading.terminal
    own = run(speaks.meter(View(), NO_HEADERS, hide_usage=False), [speaks.error_event("stop", "api_error")])[1]
    assert own.error is not None and "stop" in own.error


def test_grammar_of_events() -> None:
    """BOM, data in several lines, no blank line at the end, other fields, no space after the colon."""
    stream = (
        b'\xef\xbb\xbfdata:{"id":"a","model":"m","choices":[]}\n\nid: 1\nevent: x\ndata: {"choices":[{"delta":\n'
        b'data: {"content":"abc"},\r\ndata: "finish_reason":"stop"}]}\n\n: c\n\ndata: {"choices":[],"usage":'
        b'{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]'
    )
    for points in ([], list(range(len(stream)))):
        out, reading = run(CHAT.meter(View(), NO_HEADERS, hide_usage=False), cut(stream, points))
        assert out == stream
        assert (reading.model, reading.finish_reason, reading.terminal, reading.malformed) == ("m", "stop", True, 0)
        assert reading.usage is not None and reading.usage.output_tokens == 2
        assert reading.output_units == estimate.tokens(estimate.weigh(b"abc"))


def test_unreadable_events_pass_and_are_counted() -> None:
    """Malformed JSON and values of wrong types neither stop a stream nor hide the usage that follows."""
    stream = (
        b'data: {"choices":[{"delta":{"content":"a"}\n\ndata: nonsense\n\ndata: {"choices":5,"model":"m"}\n\n'
        b'data: {"choices":"x","usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
    )
    out, reading = run(CHAT.meter(View(), NO_HEADERS, hide_usage=True), [stream])
    assert out == stream
    assert reading.malformed == 2 and reading.usage is not None and reading.model == "m"


@pytest.mark.parametrize("hide", [False, True])
def test_huge_events_pass(hide: bool) -> None:
    """An event of 2 MB in small pieces passes untouched and is read."""
    big = b'data: {"choices":[{"delta":{"content":"' + b"x" * (2 << 20) + b'"}}]}\n\n'
    stream = big + b"".join(chat_stream(usage=False))
    chunks = [stream[i : i + 4096] for i in range(0, len(stream), 4096)]
    out, reading = run(CHAT.meter(View(), NO_HEADERS, hide_usage=hide), chunks)
    assert out == stream and reading.output_units > 300_000


def test_memory_of_a_long_stream_is_bounded() -> None:
    """After any number of events a meter keeps less than a batch of them."""
    meter: Any = CHAT.meter(View(), NO_HEADERS, hide_usage=False)
    event = chat_stream(usage=False)[1]
    for _ in range(2_000):
        meter.feed(event)
        assert sum(map(len, meter._waiting)) < BATCH + len(event) and len(meter._cutter.tail) <= len(event)
    array: Any = GEMINI.meter(View(), NO_HEADERS, hide_usage=False)
    array.feed(b"[")
    for _ in range(2_000):
        array.feed(json.dumps(gemini_chunks()[0]).encode() + b",")
        assert len(array._cutter.tail) < 2 * BATCH


@given(data=st.binary(max_size=200), points=POINTS)
def test_meters_take_any_bytes(data: bytes, points: list[int]) -> None:
    """No bytes make a meter raise or change, whatever the dialect."""
    for speaks in (CHAT, RESPONSES, MESSAGES, GEMINI):
        for frame in (data, b"data: " + data + b"\n\n", b"[" + data):
            assert run(speaks.meter(View(), NO_HEADERS, hide_usage=True), cut(frame, points))[0] == frame
        speaks.read(data, View(), NO_HEADERS)


WRONG = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ANSWER_KEYS = (
    "id", "model", "type", "status", "choices", "delta", "message", "content", "usage", "error", "output", "item",
    "response", "candidates", "usageMetadata", "finish_reason", "stop_reason", "stop_details", "promptFeedback",
    "service_tier", "tool_usage", "incomplete_details", "modelVersion",
)  # fmt: skip
KINDS = ("message_start", "message_delta", "error", "response.completed", "response.output_item.done")


@settings(max_examples=60)
@given(body=st.dictionaries(st.sampled_from(ANSWER_KEYS), WRONG, max_size=6), kind=st.sampled_from(KINDS))
def test_meters_take_any_json(body: dict[str, Any], kind: str) -> None:
    """No JSON of wrong types makes a meter or a whole answer raise."""
    for answer in (body, {"type": kind, **body}):
        data = json.dumps(answer).encode()
        for speaks in (CHAT, RESPONSES, MESSAGES, GEMINI, dialect("/v1/embeddings")):
            run(speaks.meter(View(), NO_HEADERS, hide_usage=False), [b"data: " + data + b"\n\n"])
            speaks.read(data, View(), NO_HEADERS)


def test_whole_answers() -> None:
    """read() gives of a whole answer what a meter gives of its stream; a broken one says that it is."""
    body: dict[str, Any] = {
        "id": "c",
        "model": "m",
        "choices": [{"message": {"content": "abc"}, "finish_reason": "stop"}],
    }
    body["usage"] = {"prompt_tokens": 5, "completion_tokens": 1, "new_key": {"x": 1}}
    reading = CHAT.read(json.dumps(body).encode(), View(), NO_HEADERS)
    assert reading.usage is not None and reading.terminal and reading.output_units > 0
    answered = RESPONSES.read(response("completed", [SEARCH], None).to_json().encode(), View(), NO_HEADERS)
    assert answered.usage is None and answered.terminal and answered.finish_reason == "completed"
    for speaks in (CHAT, RESPONSES, MESSAGES, GEMINI, dialect("/v1/embeddings")):
        broken = speaks.read(b'{"id":', View(), NO_HEADERS)
        assert broken.usage is None and broken.error is not None and broken.error.startswith("malformed")


def test_a_plain_answer_to_a_streamed_call_is_read() -> None:
    """A provider that answers a stream with one JSON object is metered all the same."""
    body = b'{"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}'
    out, reading = run(CHAT.meter(View(), NO_HEADERS, hide_usage=True), [body[:20], body[20:]])
    assert out == body and reading.usage is not None and reading.terminal
