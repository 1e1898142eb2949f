"""Laws of one attempt, without sockets: however the bytes come and whoever waits for them, they mean the same."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.drivers.aio import _read as read_beside
from bursar.drivers.attempt import Attempt
from bursar.drivers.auditor import read as read_whole
from bursar.drivers.life import Clock, TransportFailure
from bursar.effects import Send
from bursar.types import Abandoned, Api, Call, Completed, Failed, Hold, Instant, Outcome, Plan, Tags
from bursar.wire import replay
from bursar.wire.dialect import of
from bursar.wire.said import said
from replays import CHATS, GEMINIS, MESSAGES, RESPONSES, Json, encode, stream_of

PATHS = {"chat": "/chat/completions", "responses": "/responses", "messages": "/v1/messages",
         "gemini": "/v1beta/models/gem:streamGenerateContent?alt=sse"}  # fmt: skip
BODIES: dict[str, Json] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 99, "stream": True},
    "messages": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 99, "stream": True},
    "responses": {"model": "m", "input": "hi", "stream": True},
    "gemini": {"contents": [{"parts": [{"text": "hi"}]}]},
}
WAYS: tuple[tuple[Api, Api], ...] = (
    ("chat", "chat"), ("responses", "responses"), ("messages", "messages"), ("gemini", "gemini"),
    ("chat", "messages"), ("messages", "chat"),
)  # fmt: skip
ANSWERS = {"chat": CHATS, "responses": RESPONSES, "messages": MESSAGES, "gemini": GEMINIS}


class Still:
    """Books at an instant."""

    def __init__(self) -> None:
        self.clock: Clock = lambda: Instant(1_795_000_000_000_000)

    def extend(self, hold: Hold, nanos: int, tokens: int) -> None:
        raise AssertionError("nothing was learned of the input")


def attempt(caller: Api, provider: Api, **more: Any) -> Attempt:
    raw = encode(BODIES[caller])
    call = Call("r", caller, of(caller).view(raw, PATHS[caller], ()), raw, (), PATHS[caller], Tags(), Instant(0))
    api = None if caller == provider else provider
    entry: Any = None
    return Attempt(Send(Plan("p", "m", api=api, max_output=99, **more), entry, Hold("r", 1), call), Still())


def read(one: Attempt, pieces: list[bytes], end: str) -> tuple[bytes, Outcome]:
    """What the caller got, by the relay or at last, and the outcome at that end."""
    relays = one.head(200, (("content-type", "text/event-stream"),))
    got = []
    for piece in pieces:
        got.append(one.feed(piece)) if relays else one.take(piece)
    if end == "broke":
        outcome = one.broke(TransportFailure("gone"))
    elif end == "left":
        outcome = one.hung_up()
    elif relays:
        tail, outcome = one.ended()
        got.append(tail)
    else:
        outcome = one.whole()
    body = outcome.body if isinstance(outcome, Completed | Failed) else None
    return b"".join(got) if relays else body or b"", outcome


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(stream) + 1) for place in places})
    return [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True)]


def reads_as(outcome: Outcome) -> Any:
    return msgspec.structs.replace(outcome.reading, error=None)


@pytest.mark.parametrize("end", ["ended", "broke", "left"])
@pytest.mark.parametrize(("caller", "provider"), WAYS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_held_or_relayed_in_any_pieces(caller: Api, provider: Api, end: str, data: st.DataObject) -> None:
    """The same bytes in the end, the same reading of them; what nobody has had a byte of is never half an answer."""
    stream = stream_of(provider, data.draw(ANSWERS[provider]))
    upto = len(stream) if end == "ended" else data.draw(st.integers(0, len(stream)))
    pieces = cut(stream[:upto], data.draw(st.lists(st.integers(0, 1 << 16), max_size=6)))
    relayed, plain = read(attempt(caller, provider), [stream[:upto]], end)
    again, same = read(attempt(caller, provider, keep=b"k"), pieces, end)
    held, kept_back = read(attempt(caller, provider, judged=True), pieces, end)
    assert again == relayed and reads_as(plain) == reads_as(same) == reads_as(kept_back)
    if isinstance(kept_back, Completed):
        assert isinstance(plain, Completed) and held == relayed
        whole = replay.gathered(provider, stream)
        seen = None if whole is None or (end == "broke" and provider == "gemini") else said(provider, whole)
        assert kept_back.answer == seen
    elif isinstance(kept_back, Failed):
        assert not kept_back.relayed and kept_back.body is None
        assert end == "broke" or kept_back.error
    else:
        assert isinstance(kept_back, Abandoned) and end == "left"
    if isinstance(same, Completed) and same.keepable is not None:
        assert replay.unstorable(caller, same.keepable) is None


@pytest.mark.parametrize("more", [{}, {"judged": True}])
def test_what_only_the_end_tells_is_told(more: Any) -> None:
    """A provider that leaves [DONE] and the last blank line out: its caller has the end of the message all the same."""
    chunk = {"id": "c", "model": "gpt", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
    told, outcome = read(attempt("messages", "chat", **more), [b"data: " + encode(chunk)], "ended")
    assert isinstance(outcome, Completed) and b'"hi"' in told
    assert told.endswith(b'data: {"type":"message_stop"}\n\n')


@pytest.mark.parametrize("more", [{}, {"judged": True}])
def test_what_was_held_back_as_perhaps_hidden_is_told(more: Any) -> None:
    """The beginning of an event that may have been the usage chunk, and was not."""
    event = b'data: {"id":"c","choices":[]'
    told, _ = read(attempt("chat", "chat", add_usage=True, **more), [event], "ended")
    assert told == event


@pytest.mark.parametrize(("caller", "provider"), WAYS)
@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=60) | st.just(b"data: {}\n\n") | st.just(b'{"type":"message"}'), json=st.booleans())
def test_no_answer_makes_it_raise(caller: Api, provider: Api, body: bytes, json: bool) -> None:
    """Whatever comes in place of an answer, streamed or whole, with whatever status, has an outcome."""
    kind = "application/json" if json else "text/event-stream"
    for judged in (False, True):
        for status in (200, 400, 529):
            one = attempt(caller, provider, judged=judged, keep=b"k")
            if one.head(status, (("content-type", kind),)):
                one.feed(body)
                assert isinstance(one.ended()[1], Completed | Failed)
            else:
                one.take(body)
                outcome = one.whole()
                assert isinstance(outcome, Failed if status != 200 else Completed | Failed)


class Endless:
    """A provider that says its last word and does not close: reading past it never ends."""

    status = 200
    headers = (("content-type", "text/event-stream"),)

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.closed = pieces, False

    def chunks(self) -> Iterator[bytes]:
        yield from self.pieces
        raise AssertionError("it was read past its end")

    def close(self) -> None:
        self.closed = True


class AsyncEndless(Endless):
    async def chunks(self) -> AsyncIterator[bytes]:  # type: ignore[override]
        for piece in super().chunks():
            yield piece

    async def close(self) -> None:  # type: ignore[override]
        self.closed = True

    def rest(self) -> bytes:
        return b""


@pytest.mark.parametrize("beside_a_loop", [False, True])
@pytest.mark.parametrize(("caller", "provider"), [way for way in WAYS if way[1] != "gemini"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_judged_stream_is_read_to_its_last_event(
    caller: Api, provider: Api, beside_a_loop: bool, data: st.DataObject
) -> None:
    """Then nobody waits for the provider to hang up; the answer is the same as where it does at once."""
    stream = stream_of(provider, data.draw(ANSWERS[provider]))
    pieces = cut(stream, data.draw(st.lists(st.integers(0, 1 << 16), max_size=6)))
    one, other = attempt(caller, provider, judged=True), attempt(caller, provider, judged=True)
    there = (AsyncEndless if beside_a_loop else Endless)(pieces)
    assert not one.head(200, there.headers)
    waited: Any = there
    outcome = asyncio.run(read_beside(one, waited)) if beside_a_loop else read_whole(one, waited)
    assert there.closed and outcome == read(other, [stream], "ended")[1]


def test_a_judged_stream_of_gemini_is_read_to_its_end() -> None:
    """Its last event is a candidate's; another may follow."""
    one = attempt("gemini", "gemini", judged=True)
    there: Any = Endless([stream_of("gemini", {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "index": 0,
                                                              "finishReason": "STOP"}]})])  # fmt: skip
    one.head(200, there.headers)
    with pytest.raises(AssertionError, match="past its end"):
        read_whole(one, there)
