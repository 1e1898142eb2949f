"""The simulated provider, seen by the real SDKs over real sockets, and its laws."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types as genai_types

from bursar.sandbox import SandboxServer, Settings, Step, Task, is_right
from bursar.sandbox.bill import price
from bursar.sandbox.models import MODELS

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER},
}
LONG = "The archive holds one more line about the harbour and its ships. " * 400
TASKS = (
    Task(kind="reason", match="capital?", right="Paris", wrong="Lyon", odds={"small": 0.0, "frontier": 1.0}),
    Task(
        kind="tools", match="plan it", right="All done.", tool_plan=(Step("get_weather", {"city": "Oslo", "days": 2}),)
    ),
    Task(kind="draft", match="write long", right="The end.", output_tokens=600),
)


class Clock:
    """A clock that moves when told."""

    now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server(clock: Clock) -> Iterator[SandboxServer]:
    with SandboxServer(Settings(tasks=TASKS, clock=clock, retry_after_s=0.001, slow_ms=0)) as running:
        yield running


@pytest.fixture(autouse=True)
def sandbox(server: SandboxServer) -> SandboxServer:
    server.app.reset()
    return server


@pytest.fixture(scope="module")
def oai(server: SandboxServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(server: SandboxServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def google(server: SandboxServer) -> genai.Client:
    return genai.Client(api_key="k", http_options=genai_types.HttpOptions(base_url=server.url))


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def as_is(value: Any) -> Any:
    """Past the SDKs' typed dictionaries."""
    return value


def usd(model: str, **counts: int) -> int:
    card = MODELS[model]
    total = price(card, counts)  # type: ignore[arg-type]
    assert total is not None
    return total


# --- plain and streamed


def test_chat_stream_says_the_same_as_the_plain_answer(oai: openai.OpenAI, sandbox: SandboxServer) -> None:
    """Streamed and plain answers agree in text and usage; usage comes only in the last chunk; both are billed."""
    plain = oai.chat.completions.create(model="gpt-4o-mini", messages=said("hello"))
    chunks = list(
        oai.chat.completions.create(
            model="gpt-4o-mini", messages=said("hello"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == [] and chunks[-1].usage == plain.usage
    assert plain.usage is not None
    cost = usd("gpt-4o-mini", input=plain.usage.prompt_tokens, output=plain.usage.completion_tokens)
    assert [line.nanos for line in sandbox.bill.lines] == [cost, cost]
    bare = list(oai.chat.completions.create(model="gpt-4o-mini", messages=said("hello"), stream=True))
    assert all(c.usage is None and c.choices for c in bare)


def test_responses_stream_ends_in_a_terminal_event_with_usage(oai: openai.OpenAI) -> None:
    """Responses streams number their events, have no [DONE], and carry usage in response.completed alone."""
    plain = oai.responses.create(model="gpt-5.4", input="hello")
    events: list[Any] = list(oai.responses.create(model="gpt-5.4", input="hello", stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].type == "response.completed" and events[-1].response.usage == plain.usage
    assert events[-1].response.output_text == plain.output_text
    assert plain.usage is not None and plain.usage.output_tokens_details.reasoning_tokens > 0
    short = oai.responses.create(model="gpt-4o", input="hello", max_output_tokens=5)
    assert short.status == "incomplete" and short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"
    assert short.usage is not None and short.usage.output_tokens == 5


def test_stored_and_background_responses(oai: openai.OpenAI, sandbox: SandboxServer) -> None:
    """previous_response_id bills the earlier turns again; a background response has its usage at the GET."""
    first = oai.responses.create(model="gpt-4o", input="hello there")
    second = oai.responses.create(model="gpt-4o", input="and now?", previous_response_id=first.id)
    assert first.usage is not None and second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    queued = oai.responses.create(model="gpt-4o", input="hello", background=True)
    assert queued.status == "queued" and queued.usage is None
    got = oai.responses.retrieve(queued.id)
    assert got.status == "completed" and got.usage is not None
    assert sandbox.bill.lines[-1].usage["output"] == got.usage.output_tokens
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve("resp_none")
    count = oai.responses.input_tokens.count(model="gpt-4o", input="hello there")
    assert count.input_tokens == first.usage.input_tokens


def test_messages_stream_accumulates_to_the_plain_message(claude: anthropic.Anthropic) -> None:
    """The SDK's accumulated stream equals the plain message, thinking included; count_tokens agrees with usage."""
    ask: Any = {
        "model": "claude-opus-4-8",
        "max_tokens": 4000,
        "messages": said("hello"),
        "thinking": {"type": "adaptive"},
        "system": "Be brief.",
    }
    plain = claude.messages.create(**ask)
    with claude.messages.stream(**ask) as stream:
        streamed = stream.get_final_message()
    assert [b.type for b in plain.content] == ["thinking", "text"] == [b.type for b in streamed.content]
    assert plain.usage == streamed.usage and plain.stop_reason == streamed.stop_reason == "end_turn"
    details = plain.usage.output_tokens_details
    assert details is not None and 0 < details.thinking_tokens < plain.usage.output_tokens
    counted = claude.messages.count_tokens(model=ask["model"], messages=ask["messages"], system="Be brief.")
    assert counted.input_tokens == plain.usage.input_tokens
    short = claude.messages.create(model="claude-haiku-4-5", max_tokens=3, messages=said("hello"))
    assert short.stop_reason == "max_tokens" and short.usage.output_tokens == 3


def test_gemini_chunks_carry_running_usage(google: genai.Client, sandbox: SandboxServer, http: httpx.Client) -> None:
    """Usage runs up chunk by chunk to the plain answer's; thoughts are outside the candidates and billed as output."""
    plain = google.models.generate_content(model="gemini-2.5-flash", contents="hello")
    chunks = list(google.models.generate_content_stream(model="gemini-2.5-flash", contents="hello"))
    assert "".join(c.text or "" for c in chunks) == plain.text
    running = [c.usage_metadata.candidates_token_count or 0 for c in chunks if c.usage_metadata]
    assert running == sorted(running) and chunks[-1].usage_metadata == plain.usage_metadata
    use = plain.usage_metadata
    assert use is not None and use.thoughts_token_count and use.candidates_token_count and use.prompt_token_count
    assert sandbox.bill.lines[-1].usage["output"] == use.thoughts_token_count + use.candidates_token_count
    assert google.models.count_tokens(model="gemini-2.5-flash", contents="hello").total_tokens == use.prompt_token_count
    body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    array = http.post(f"{sandbox.url}/v1beta/models/gemini-2.5-flash:streamGenerateContent", json=body).json()
    assert array[-1]["usageMetadata"]["totalTokenCount"] == use.total_token_count


def test_embeddings_are_unit_vectors_of_the_text_alone(oai: openai.OpenAI, sandbox: SandboxServer) -> None:
    """Equal texts have equal vectors in both encodings, others are unrelated; input alone is billed."""
    coded = oai.embeddings.create(model="text-embedding-3-small", input=["one", "two", "one"])
    a, b, c = (item.embedding for item in coded.data)
    assert len(a) == 1536 and a == c and sum(x * x for x in a) == pytest.approx(1, abs=1e-5)
    assert abs(sum(x * y for x, y in zip(a, b, strict=True))) < 0.2
    floats = oai.embeddings.create(
        model="text-embedding-3-small", input="one", encoding_format="float", dimensions=1536
    )
    assert floats.data[0].embedding == pytest.approx(a)
    assert sandbox.bill.lines[0].nanos == usd("text-embedding-3-small", input=coded.usage.prompt_tokens)


# --- tools, structured output, limits


def test_tool_calls_fit_their_schema_and_the_loop_ends(oai: openai.OpenAI) -> None:
    """A planned call comes first, streamed or not; after its result comes the text; `none` forbids, a name forces."""
    ask: Any = {"model": "gpt-4o", "messages": said("plan it"), "tools": [TOOL]}
    message = oai.chat.completions.create(**ask).choices[0].message
    assert message.tool_calls is not None
    call: Any = message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Oslo", "days": 2}
    chunks = list(oai.chat.completions.create(**ask, stream=True))
    deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or ()]
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    ask["messages"] += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert oai.chat.completions.create(**ask).choices[0].message.content is not None
    assert (
        oai.chat.completions.create(**{**ask, "messages": said("plan it"), "tool_choice": "none"})
        .choices[0]
        .message.content
    )
    forced = oai.chat.completions.create(
        model="gpt-4o",
        messages=said("capital?"),
        tools=as_is([TOOL]),
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    assert forced.choices[0].finish_reason == "tool_calls"


def test_tool_calls_in_the_other_dialects(
    oai: openai.OpenAI, claude: anthropic.Anthropic, google: genai.Client
) -> None:
    """Responses, Messages and Gemini call with arguments of the schema and answer after the result."""
    response = oai.responses.create(
        model="gpt-4o",
        input="weather?",
        tools=[{"type": "function", "name": "w", "parameters": WEATHER, "strict": True}],
    )
    call = response.output[0]
    assert call.type == "function_call" and set(json.loads(call.arguments)) == {"city", "days"}
    items: Any = [
        *said("weather?"),
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sun"},
    ]
    assert oai.responses.create(model="gpt-4o", input=items).output_text
    tools: Any = [{"name": "w", "input_schema": WEATHER}]
    with claude.messages.stream(
        model="claude-haiku-4-5", max_tokens=500, messages=said("weather?"), tools=tools
    ) as stream:
        message = stream.get_final_message()
    use = message.content[0]
    assert message.stop_reason == "tool_use" and use.type == "tool_use" and set(use.input) == {"city", "days"}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sun"}]}
    history: Any = [*said("weather?"), {"role": "assistant", "content": message.content}, result]
    after = claude.messages.create(model="claude-haiku-4-5", max_tokens=500, messages=history, tools=tools)
    assert after.stop_reason == "end_turn"
    declared = genai_types.FunctionDeclaration(name="w", description="w", parameters_json_schema=WEATHER)
    config = genai_types.GenerateContentConfig(tools=[genai_types.Tool(function_declarations=[declared])])
    reply = google.models.generate_content(model="gemini-2.5-flash", contents="weather?", config=config)
    assert reply.function_calls and set(reply.function_calls[0].args or ()) == {"city", "days"}


def test_structured_output_fits_the_schema(
    oai: openai.OpenAI, claude: anthropic.Anthropic, google: genai.Client
) -> None:
    """json_schema, output_config.format, text.format and responseJsonSchema all give a value of the schema."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER, "strict": True}}
    chat = oai.chat.completions.create(model="gpt-4o", messages=said("x"), response_format=form)
    text: Any = {"format": {"type": "json_schema", "name": "w", "schema": WEATHER}}
    response = oai.responses.create(model="gpt-4o", input="x", text=text)
    config: Any = {"format": {"type": "json_schema", "schema": WEATHER}}
    message = claude.messages.create(
        model="claude-sonnet-5-5", max_tokens=900, messages=said("x"), output_config=config
    )
    gemini = google.models.generate_content(
        model="gemini-2.5-flash",
        contents="x",
        config={"response_mime_type": "application/json", "response_json_schema": WEATHER},
    )
    block = message.content[0]
    assert block.type == "text"
    for made in (chat.choices[0].message.content, response.output_text, block.text, gemini.text):
        value = json.loads(made or "")
        assert isinstance(value["city"], str) and 1 <= value["days"] <= 7


def test_n_stop_and_limits_are_honoured(oai: openai.OpenAI) -> None:
    """n choices are all billed; a stop word ends the text before it; max tokens hold, reasoning inside."""
    many = oai.chat.completions.create(model="gpt-4o", messages=said("hello"), n=3, max_completion_tokens=10)
    assert len(many.choices) == 3 and many.usage is not None and many.usage.completion_tokens == 30
    assert {choice.finish_reason for choice in many.choices} == {"length"}
    stopped = oai.chat.completions.create(model="gpt-4o", messages=said("hello"), stop=["."])
    assert "." not in (stopped.choices[0].message.content or ".") and stopped.choices[0].finish_reason == "stop"
    tight = oai.chat.completions.create(model="o3", messages=said("hello"), max_completion_tokens=8)
    assert tight.usage is not None and tight.usage.completion_tokens == 8 and not tight.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="max_completion_tokens"):
        oai.chat.completions.create(model="o3", messages=said("hello"), max_tokens=8)


def test_tiers_are_right_by_their_odds(oai: openai.OpenAI, sandbox: SandboxServer) -> None:
    """A registered task is answered by the tier's odds, the same each time, and the bill knows whether rightly."""
    for model, answer in (("gpt-4o-mini", "Lyon"), ("gpt-5.4", "Paris")) * 2:
        assert oai.chat.completions.create(model=model, messages=said("capital?")).choices[0].message.content == answer
    assert [line.right for line in sandbox.bill.lines] == [False, True, False, True]
    padded = oai.chat.completions.create(model="gpt-4o", messages=said("write long"))
    assert padded.usage is not None and padded.usage.completion_tokens == 600
    assert (padded.choices[0].message.content or "").endswith("The end.") or sandbox.bill.lines[-1].right is False
    task = Task(kind="code", match="", right="r")
    for tier, expected in (("gpt-4o-mini", 0.55), ("gpt-4o", 0.8), ("gpt-5.4", 0.92)):
        rate = sum(is_right(task, MODELS[tier], f"q{i}", 7) for i in range(2000)) / 2000
        assert rate == pytest.approx(expected, abs=0.04)
