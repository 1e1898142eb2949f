"""A partial answer of ours: what the SDKs' own parsers make of it, whole and streamed, and that it costs nothing."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types as genai_types
from hypothesis import given
from hypothesis import strategies as st

from bursar.types import Instant, View
from bursar.wire.dialect import OTHER, Dialect, Finish, dialect_of
from test_wire import CHAT, EMBEDDINGS, GEMINI, MESSAGES, RESPONSES

TEXT = 'Budget used up: "$0.5" of $0.5 spent.\n\nWas bisher gefunden wurde: 数字 😀 data: [DONE] \u2028\x85 end'
WHOLE = View()
AT = Instant(1_763_900_000_123_456)


def finish(dialect: Dialect, view: View = WHOLE, text: str = TEXT) -> Finish:
    return dialect.finish(text, view, model="the-model", request_id="r1", at=AT)


class Gate:
    """Answers every request with the finish that its body and path ask for, as a door does."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        path = request.url.raw_path.decode()
        dialect = dialect_of("POST", path)
        assert dialect is not None
        answer = finish(dialect, dialect.view(request.read(), path, ()))
        return httpx2.Response(200, content=answer.body, headers={"content-type": answer.content_type})


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def http(gate: Gate) -> Iterator[httpx2.Client]:
    with httpx2.Client(transport=httpx2.MockTransport(gate)) as client:
        yield client


@pytest.fixture
def gpt(http: httpx2.Client) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=http)


@pytest.fixture
def claude(http: httpx2.Client) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1", http_client=http)


HI: list[Any] = [{"role": "user", "content": "hi"}]


def test_chat(gpt: openai.OpenAI) -> None:
    """A completion of as many choices as were asked for, each cut by its length."""
    answer = gpt.chat.completions.create(model="m", messages=HI, n=2)
    assert [choice.message.content for choice in answer.choices] == [TEXT, TEXT]
    assert [(choice.index, choice.finish_reason) for choice in answer.choices] == [(0, "length"), (1, "length")]
    assert (answer.model, answer.created, answer.object) == ("the-model", 1_763_900_000, "chat.completion")
    assert answer.usage is not None and answer.usage.total_tokens == 0


@pytest.mark.parametrize("wants_usage", [False, True])
def test_chat_streamed(gpt: openai.OpenAI, wants_usage: bool) -> None:
    """Role, text and end of each choice; the usage chunk only where it was asked for, and then the last."""
    options: Any = {"stream_options": {"include_usage": True}} if wants_usage else {}
    chunks = list(gpt.chat.completions.create(model="m", messages=HI, n=2, stream=True, **options))
    said = ["", ""]
    ends = []
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            ends += [choice.finish_reason] if choice.finish_reason else []
    assert said == [TEXT, TEXT] and ends == ["length", "length"]
    told = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert [usage.total_tokens for usage in told] == ([0] if wants_usage else [])
    assert (chunks[-1].choices == []) is wants_usage


def test_chat_stream_helper(gpt: openai.OpenAI, gate: Gate) -> None:
    """Its events come to the end. A final completion that was cut is this SDK's own error, ours as any provider's."""
    with gpt.chat.completions.stream(model="m", messages=HI) as stream:
        done = [event.content for event in stream if event.type == "content.done"]
        assert done == [TEXT]
        with pytest.raises(openai.LengthFinishReasonError) as raised:
            stream.get_final_completion()
    assert raised.value.completion.choices[0].message.content == TEXT
    assert gate.asked == 1


def test_responses(gpt: openai.OpenAI) -> None:
    """An incomplete response with one message in it."""
    answer = gpt.responses.create(model="m", input="hi", max_output_tokens=50)
    assert (answer.output_text, answer.status, answer.model) == (TEXT, "incomplete", "the-model")
    assert answer.incomplete_details is not None and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None and answer.usage.total_tokens == 0
    assert answer.max_output_tokens == 50


def test_responses_streamed(gpt: openai.OpenAI) -> None:
    """Every event in its order and numbered, as the provider sends them; the helper comes to the same end."""
    events = list(gpt.responses.create(model="m", input="hi", stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(9))
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.output_text == TEXT
    with gpt.responses.stream(model="m", input="hi") as stream:
        told = [event.type for event in stream]
    assert told == [event.type for event in events]


def test_messages(claude: anthropic.Anthropic) -> None:
    """A message of one text block that met its max_tokens."""
    answer = claude.messages.create(model="m", max_tokens=50, messages=HI)
    assert [block.text for block in answer.content if block.type == "text"] == [TEXT]
    assert (answer.stop_reason, answer.model, answer.role) == ("max_tokens", "the-model", "assistant")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (0, 0)


def test_messages_streamed(claude: anthropic.Anthropic) -> None:
    """Every event in its order; the helper builds the same message from them."""
    events = list(claude.messages.create(model="m", max_tokens=50, messages=HI, stream=True))
    assert [event.type for event in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    with claude.messages.stream(model="m", max_tokens=50, messages=HI) as stream:
        assert "".join(stream.text_stream) == TEXT
        whole = stream.get_final_message()
    plain = claude.messages.create(model="m", max_tokens=50, messages=HI)
    assert whole.to_dict() == plain.to_dict() | {"stop_details": None}


@pytest.mark.parametrize("count", [1, 2])
def test_gemini(http: httpx2.Client, count: int) -> None:
    """As many candidates as were asked for, each cut at MAX_TOKENS, whole and as a stream of one chunk."""
    options = genai_types.HttpOptions(base_url="http://127.0.0.1", httpx_client=http)
    with genai.Client(api_key="k", http_options=options) as client:
        config = genai_types.GenerateContentConfig(candidate_count=count)
        whole = client.models.generate_content(model="m", contents="hi", config=config)
        [streamed] = client.models.generate_content_stream(model="m", contents="hi", config=config)
    for answer in (whole, streamed):
        candidates = answer.candidates or []
        assert len(candidates) == count and answer.text == TEXT
        assert {candidate.finish_reason for candidate in candidates} == {genai_types.FinishReason.MAX_TOKENS}
        assert answer.model_version == "the-model"
        assert answer.usage_metadata is not None and answer.usage_metadata.total_token_count == 0


TALKING = (CHAT, RESPONSES, MESSAGES, GEMINI)


@pytest.mark.parametrize("dialect", TALKING, ids=lambda dialect: dialect.api)
@given(text=st.text(), count=st.integers(1, 3), wants_usage=st.booleans())
def test_our_own_meters_read_it_as_free(dialect: Dialect, text: str, count: int, wants_usage: bool) -> None:
    """Any text: ended, cut by its length, no token billed. The stream ends between two events."""
    view = View(stream=True, choices=count, wants_usage=wants_usage)
    answer = finish(dialect, view, text)
    assert answer.content_type.startswith("text/event-stream")
    meter = dialect.meter(view, (), hide_usage=False)
    relayed = meter.feed(answer.body) + meter.close()
    assert relayed == answer.body and meter.terminal and not meter.midway
    cut = {"chat": "length", "responses": "max_output_tokens", "messages": "max_tokens", "gemini": "MAX_TOKENS"}
    whole = finish(dialect, View(choices=count), text)
    assert whole.content_type == "application/json"
    for reading in (meter.reading(), dialect.read(whole.body, view, ())):
        assert (reading.finish_reason, reading.error, reading.malformed) == (cut[dialect.api], None, 0)
        assert reading.model == "the-model"
        if dialect is not CHAT or wants_usage:
            assert reading.usage is not None
            assert (reading.usage.input_tokens, reading.usage.output_tokens) == (0, 0)
            assert all(part.buckets == {} for part in reading.usage.parts) and reading.usage.fees == ()


@pytest.mark.parametrize("dialect", TALKING, ids=lambda dialect: dialect.api)
def test_the_text_stands_once_a_choice(dialect: Dialect) -> None:
    """Whole answers hold the text, JSON-escaped, once for each choice."""
    body = finish(dialect, WHOLE).body
    assert body.count(json.dumps(TEXT, ensure_ascii=False).encode()) == 1


@pytest.mark.parametrize("dialect", [EMBEDDINGS, OTHER], ids=lambda dialect: dialect.api)
def test_no_text_where_none_is_an_answer(dialect: Dialect) -> None:
    """Vectors, and what is passed through unread, have no partial answer; their views say so."""
    assert not dialect.view(b'{"input":"hi"}', "/x", ()).prose
    with pytest.raises(ValueError, match="no text is an answer"):
        finish(dialect)
