"""The simulated provider, seen by the real SDKs over real sockets, and its laws."""

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from hypothesis import given
from hypothesis import strategies as st

from bursar.money import parse_usd
from bursar.sandbox import SandboxServer, Settings, Step, Task, is_right
from bursar.sandbox.bill import price, tokens
from bursar.sandbox.faults import parse_odds
from bursar.sandbox.models import MODELS, known
from bursar.sandbox.recorded import right_answer, wrong_answer
from bursar.sandbox.schema import instance
from bursar.sandbox.tokens import split

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


@pytest.fixture
def sandbox(server: SandboxServer) -> SandboxServer:
    server.app.reset()
    return server


@pytest.fixture
def oai(sandbox: SandboxServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{sandbox.url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(sandbox: SandboxServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=sandbox.url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def google(sandbox: SandboxServer) -> genai.Client:
    return genai.Client(api_key="k", http_options=genai_types.HttpOptions(base_url=sandbox.url))


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


def test_gemini_chunks_carry_running_usage(google: genai.Client, sandbox: SandboxServer) -> None:
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
    array = httpx.post(f"{sandbox.url}/v1beta/models/gemini-2.5-flash:streamGenerateContent", json=body).json()
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


# --- errors and faults


def test_errors_have_each_dialects_shape(
    oai: openai.OpenAI, claude: anthropic.Anthropic, google: genai.Client, sandbox: SandboxServer
) -> None:
    """Unknown models, bad keys and missing fields are refused as each provider does it, with request ids, unbilled."""
    with pytest.raises(openai.NotFoundError) as missing:
        oai.chat.completions.create(model="gpt-99", messages=said("x"))
    assert missing.value.code == "model_not_found" and missing.value.request_id
    with pytest.raises(openai.AuthenticationError):
        oai.with_options(api_key="bad-key").embeddings.create(model="text-embedding-3-small", input="x")
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="gpt-4o", max_tokens=5, messages=said("x"))
    assert unknown.value.request_id == unknown.value.body["request_id"]  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        claude.post("/v1/messages", body={"model": "claude-haiku-4-5", "messages": said("x")}, cast_to=object)
    with pytest.raises(genai_errors.ClientError) as gone:
        google.models.generate_content(model="gemini-0", contents="x")
    assert gone.value.code == 404 and gone.value.status == "NOT_FOUND"
    assert {line.status for line in sandbox.bill.lines} == {"failed"} and sandbox.bill.total_nanos() == 0


def test_fault_statuses_and_once_markers(
    oai: openai.OpenAI, claude: anthropic.Anthropic, google: genai.Client, sandbox: SandboxServer
) -> None:
    """A marker makes a prompt fail, for ever or once; the SDK's retry then succeeds; only that is billed."""
    with pytest.raises(openai.RateLimitError) as limited:
        oai.chat.completions.create(model="gpt-4o", messages=said("x [[fault:429]]"))
    assert limited.value.response.headers["retry-after-ms"] == "1"
    retried = oai.with_options(max_retries=1).chat.completions.create(
        model="gpt-4o", messages=said("x [[fault:500 once]]"), extra_headers={"x-should-retry": "true"}
    )
    assert retried.usage is not None
    with pytest.raises(anthropic.InternalServerError) as overloaded:
        claude.messages.create(model="claude-haiku-4-5", max_tokens=5, messages=said("x [[fault:overloaded once]]"))
    assert overloaded.value.status_code == 529
    with pytest.raises(genai_errors.ServerError) as unavailable:
        google.models.generate_content(model="gemini-2.5-flash", contents="x [[fault:503]]")
    assert unavailable.value.status == "UNAVAILABLE"
    assert [line.status for line in sandbox.bill.lines] == ["failed", "failed", "completed", "failed", "failed"]
    with pytest.raises(openai.APITimeoutError):
        oai.with_options(timeout=0.2).chat.completions.create(model="gpt-4o", messages=said("x [[fault:timeout]]"))
    assert sandbox.bill.wait(6) and sandbox.bill.lines[-1].nanos == 0


@pytest.mark.parametrize("fault", ["cut:3", "error-event:3", "malformed:3", "no-usage", "slow", "gzip"])
@pytest.mark.parametrize("dialect", ["chat", "responses", "messages", "gemini"])
def test_stream_faults(fault: str, dialect: str, sandbox: SandboxServer) -> None:
    """Every stream fault is what it says on the wire, and what had been generated by then is billed."""
    path, body = STREAMS[dialect]
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01", "x-sandbox-fault": fault}
    whole = httpx.post(sandbox.url + path, json=body, headers=headers | {"x-sandbox-fault": ""}).text
    got, broke = b"", False
    with httpx.stream("POST", sandbox.url + path, json=body, headers=headers) as answer:
        try:
            for part in answer.iter_bytes():
                got += part
        except httpx.RemoteProtocolError:
            broke = True
    text, (clean, line) = got.decode(), sandbox.bill.lines
    kind = fault.split(":")[0]
    assert broke == (kind == "cut")
    if kind in ("cut", "error-event"):
        assert line.status == "cut" and 0 < line.usage["output"] < clean.usage["output"]
        assert line.usage["input"] == clean.usage["input"] and ("error" in text) == (kind == "error-event")
        return
    assert line.status == "completed" and line.nanos == clean.nanos
    if kind == "malformed":
        assert sum(not _parses(event) for event in text.replace("\r", "").split("\n\n")) == 1
    elif kind == "no-usage":
        assert '_tokens":' not in text and "TokenCount" not in text
    else:
        assert len(text) == len(whole)
        assert (answer.headers.get("content-encoding") == "gzip") == (kind == "gzip")


STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "gpt-4o", "messages": said("hi"), "stream": True, "stream_options": {"include_usage": True}},
    ),
    "responses": ("/responses", {"model": "gpt-4o", "input": "hi", "stream": True}),
    "messages": (
        "/v1/messages",
        {"model": "claude-haiku-4-5", "max_tokens": 500, "messages": said("hi"), "stream": True},
    ),
    "gemini": (
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    ),
}


def _parses(event: str) -> bool:
    data = event.split("data: ", 1)[-1].strip()
    try:
        return data in ("", "[DONE]") or bool(json.loads(data))
    except json.JSONDecodeError:
        return False


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages", "gemini"])
def test_a_hang_up_is_billed_by_the_providers_rule(dialect: str, sandbox: SandboxServer) -> None:
    """Anthropic bills what was generated before the hang-up, the others the whole generation; all as `cut`."""
    path, body = STREAMS[dialect]
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    httpx.post(sandbox.url + path, json=body, headers=headers)
    slow = headers | {"x-sandbox-fault": "slow"}
    with SandboxServer(Settings(chunk_ms=20, clock=Clock())) as paced:
        with httpx.stream("POST", paced.url + path, json=body, headers=slow) as answer:
            next(answer.iter_bytes())
        assert paced.bill.wait(1)
        line, whole = paced.bill.lines[0], sandbox.bill.lines[0]
    assert line.status == "cut" and line.usage["input"] == whole.usage["input"]
    if dialect == "messages":
        assert line.usage.get("output", 0) < whole.usage["output"]
    else:
        assert line.nanos == whole.nanos


def test_odds_are_seeded_and_set_from_outside(sandbox: SandboxServer) -> None:
    """PUT /sandbox/faults sets odds; a body's nth arrival has its own draw; nonsense is refused with its reason."""
    assert httpx.put(f"{sandbox.url}/sandbox/faults", json={"faults": "429:0.5"}).status_code == 200
    body = {"model": "gpt-4o", "messages": said("x")}
    runs = []
    for _ in range(2):
        runs.append([httpx.post(f"{sandbox.url}/v1/chat/completions", json=body).status_code for _ in range(20)])
        sandbox.app.faults.set("429:0.5")
    assert runs[0] == runs[1] and set(runs[0]) == {200, 429}
    for wrong in ("nonsense:0.1", "429", "429:0.7,500:0.7"):
        assert httpx.put(f"{sandbox.url}/sandbox/faults", json={"faults": wrong}).status_code == 400
        with pytest.raises(ValueError, match="faults:"):
            parse_odds(wrong)


# --- prompt caches


def test_anthropic_cache_writes_reads_refreshes_and_expires(
    claude: anthropic.Anthropic, sandbox: SandboxServer, clock: Clock
) -> None:
    """A marked prefix is written at its ttl, read until five idle minutes have passed, and billed so."""

    def ask(question: str, ttl: str = "5m") -> anthropic.types.Usage:
        control: Any = {"type": "ephemeral", "ttl": ttl}
        system: Any = [{"type": "text", "text": LONG, "cache_control": control}]
        return claude.messages.create(
            model="claude-haiku-4-5", max_tokens=5, system=system, messages=said(question)
        ).usage

    first = ask("a")
    size = first.cache_creation_input_tokens or 0
    assert size > 4096 and first.cache_creation is not None
    assert first.cache_creation.ephemeral_5m_input_tokens == size and first.cache_read_input_tokens == 0
    for _ in range(3):
        clock.now += 200
        again = ask("b")
        assert (again.cache_read_input_tokens, again.cache_creation_input_tokens) == (size, 0)
    line = sandbox.bill.lines[-1]
    assert line.nanos == usd("claude-haiku-4-5", input=again.input_tokens, cache_read=size, output=5)
    clock.now += 301
    assert ask("c", "1h").cache_creation.ephemeral_1h_input_tokens == size  # type: ignore[union-attr]
    clock.now += 3500
    assert ask("d", "1h").cache_read_input_tokens == size


def test_anthropic_cache_floor_look_back_and_order(claude: anthropic.Anthropic, sandbox: SandboxServer) -> None:
    """Under the floor nothing is cached; a moving top-level mark reads the earlier turn; wrong marks are refused."""
    tool: Any = {"name": "w", "input_schema": WEATHER}
    control: Any = {"type": "ephemeral"}
    short = claude.messages.create(
        model="claude-haiku-4-5", max_tokens=5, messages=said("x " * 900), cache_control=control
    ).usage
    assert (short.cache_creation_input_tokens, short.cache_read_input_tokens) == (0, 0)
    turns: list[Any] = said(LONG)
    sizes = []
    for _ in range(3):
        use = claude.messages.create(
            model="claude-sonnet-5-5", max_tokens=9, messages=turns, tools=[tool], cache_control=control
        ).usage
        sizes.append((use.cache_read_input_tokens or 0, use.cache_creation_input_tokens or 0))
        turns += [{"role": "assistant", "content": "yes"}, *said("go on")]
    assert sizes[0][0] == 0 and sizes[1][0] == sum(sizes[0]) and sizes[2][0] == sum(sizes[1])
    changed = claude.messages.create(
        model="claude-sonnet-5-5",
        max_tokens=9,
        messages=turns,
        tools=as_is([{**tool, "name": "v"}]),
        cache_control=control,
    ).usage
    assert changed.cache_read_input_tokens == 0
    mixed: Any = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": t}} for t in ("5m", "1h")]
    with pytest.raises(anthropic.BadRequestError, match="1h"):
        claude.messages.create(model="claude-haiku-4-5", max_tokens=5, system=mixed, messages=said("x"))
    with pytest.raises(anthropic.BadRequestError, match="maximum of 4"):
        claude.messages.create(model="claude-haiku-4-5", max_tokens=5, system=mixed[:1] * 5, messages=said("x"))


def test_implicit_caches(oai: openai.OpenAI, google: genai.Client, sandbox: SandboxServer) -> None:
    """Old OpenAI models and Gemini read in steps of 128 for free; gpt-5.6 and later bill writes, or nothing if told."""

    def ask(model: str, question: str, **more: Any) -> Any:
        messages: Any = [{"role": "system", "content": LONG}, *said(question)]
        usage = oai.chat.completions.create(model=model, messages=messages, **more).usage
        assert usage is not None
        return usage.prompt_tokens_details

    assert ask("gpt-4o", "a").cached_tokens == 0
    read = ask("gpt-4o", "b")
    assert read.cached_tokens >= 1024 and read.cached_tokens % 128 == 0 and read.cache_write_tokens is None
    first = ask("gpt-6.1-sol", "a")
    same = ask("gpt-6.1-sol", "a")
    assert first.cache_write_tokens > 1024 and same.cached_tokens == first.cache_write_tokens
    assert sandbox.bill.lines[-2].usage["cache_write_30m"] == first.cache_write_tokens
    other = ask("gpt-6.1-sol", "b")
    assert other.cached_tokens == 0 and other.cache_write_tokens > 1024
    off = ask("gpt-6.1-sol", "z", extra_body={"prompt_cache_options": {"mode": "explicit"}})
    assert (off.cached_tokens, off.cache_write_tokens) == (0, 0)
    for expected in (None, 1024):
        use = google.models.generate_content(model="gemini-2.5-flash", contents=LONG).usage_metadata
        assert use is not None and (use.cached_content_token_count or 0) >= (expected or 0)
        assert (use.cached_content_token_count is None) == (expected is None)


# --- recorded mode


def test_recorded_rows_are_answered_with_their_counts(tmp_path: Path) -> None:
    """Known prompts get the row's tokens and correctness in any dialect; tools tell equal prompts apart."""
    tool = {"name": "math.area", "desc": "Area"}
    cell = {"ok": 1, "it": 431, "ot": 30, "usd": 0.000239}
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "m": {"small-FC": cell, "gpt-4o-2024-08-06": {**cell, "ok": 0}}},
        {"prompt": "q", "tools": [tool], "m": {"small-FC": {**cell, "ok": 0, "err": "type_error:simple"}}},
        {"prompt": "q", "tools": [{**tool, "desc": "Volume"}], "m": {"small-FC": {**cell, "it": 7}}},
    ]
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    with SandboxServer(Settings(recorded=str(file))) as s, openai.OpenAI(base_url=s.url, api_key="k") as oai:
        with anthropic.Anthropic(base_url=s.url, api_key="k") as claude:
            message = claude.messages.create(model="small-FC", max_tokens=999, messages=said("p"))
        block = message.content[0]
        assert block.type == "text" and block.text.endswith(right_answer("p"))
        assert (message.usage.input_tokens, message.usage.output_tokens) == (431, 30)
        wrong = oai.chat.completions.create(model="gpt-4o-2024-08-06", messages=said("p"))
        assert (wrong.choices[0].message.content or "").endswith(wrong_answer("p"))
        assert [line.nanos for line in s.bill.lines] == [parse_usd("0.000239"), usd("gpt-4o", input=431, output=30)]
        named: Any = {"name": "math_area", "parameters": WEATHER}
        for description, count in (("Area", 431), ("Volume", 7)):
            tools: Any = [{"type": "function", "function": {**named, "description": description}}]
            answer = oai.chat.completions.create(model="small-FC", messages=said("q"), tools=tools)
            assert answer.usage is not None and answer.usage.prompt_tokens == count
            calls: Any = answer.choices[0].message.tool_calls
            fits = isinstance(json.loads(calls[0].function.arguments)["city"], str)
            assert fits == (description == "Volume")
        cut = oai.chat.completions.create(model="small-FC", messages=said("p"), max_tokens=10)
        assert cut.usage is not None and cut.usage.completion_tokens == 10
    file.write_bytes(b'{"prompt": 1}\n')
    with pytest.raises(ValueError, match="line 1"):
        SandboxServer(Settings(recorded=str(file)))


def test_what_came_is_kept_byte_for_byte(sandbox: SandboxServer) -> None:
    """The bytes, path and headers of each request can be asked for; reset forgets them and the bill."""
    body = b'{ "model":"gpt-4o",  "messages":[{"role":"user","content":"\\u00e9"}] }'
    httpx.post(f"{sandbox.url}/v1/chat/completions?a=1", content=body, headers={"x-mark": "7"})
    (got,) = httpx.get(f"{sandbox.url}/sandbox/requests").json()["requests"]
    assert base64.b64decode(got["body"]) == body and got["path"] == "/v1/chat/completions?a=1"
    assert ["x-mark", "7"] in got["headers"] and sandbox.requests[0].body == body
    bill = httpx.get(f"{sandbox.url}/sandbox/bill").json()
    assert bill["total_nanos"] == sandbox.bill.total_nanos() > 0 and bill["lines"][0]["status"] == "completed"
    httpx.post(f"{sandbox.url}/sandbox/reset")
    assert not sandbox.requests and not sandbox.bill.lines


# --- laws


@given(st.text(max_size=300))
def test_tokens_are_lossless_and_never_more_than_bytes(text: str) -> None:
    """Tokens joined are the text; there are at most as many as UTF-8 bytes."""
    pieces = split(text)
    assert "".join(pieces) == text and len(pieces) <= len(text.encode())


def test_english_is_about_four_characters_a_token() -> None:
    """The tokenizer's grain is that of the real ones on English prose."""
    assert 3.5 < len(LONG) / len(split(LONG)) < 5.5


def test_the_bill_has_known_prices() -> None:
    """Hand-reckoned bills to the nano-dollar: cached reads, the cliff at 272,000, US premium, service tiers."""
    sol, gpt = MODELS["gpt-6.1-sol"], MODELS["gpt-5.4"]
    assert price(sol, {"input": 2000, "cache_read": 12_000, "cache_write_30m": 6000, "output": 1000}) == 30_200_000
    assert price(gpt, {"input": 272_000, "output": 2}) == 680_030_000
    assert price(gpt, {"input": 72_001, "cache_read": 200_000, "output": 2000}) == 505_005_000
    assert price(sol, {"input": 6000, "cache_read": 4000, "output": 1000}, "flex") == 11_200_000
    assert (
        price(MODELS["claude-sonnet-5-5"], {"input": 10_000, "cache_read": 30_000, "output": 1000}, geo="us")
        == 36_300_000
    )
    assert price(MODELS["text-embedding-3-small"], {"input": 123_456}) == 2_469_120
    assert known("models/gemini-2.5-pro") is MODELS["gemini-2.5-pro"]
    assert known("gpt-4o-2024-08-06") is MODELS["gpt-4o"] and known("gpt-4o-audio") is None


LEAVES = st.sampled_from(
    [
        {"type": "string", "maxLength": 3},
        {"type": "INTEGER", "minimum": 5},
        {"enum": ["a", 1]},
        {"type": "boolean"},
    ]
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pair = st.tuples(inner, inner)
    return pair.map(lambda s: {"type": "object", "properties": {"a": s[0], "b": {"type": "array", "items": s[1]}}})


@given(st.recursive(LEAVES, _nested, max_leaves=6), st.integers())
def test_made_values_fit_their_schema(schema: dict[str, Any], seed: int) -> None:
    """A made value has the types, ranges and fields of its schema, and is the same for the same seed."""
    value = instance(schema, seed)
    assert value == instance(schema, seed) and _fits(value, schema)


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "object":
        return set(value) == {"a", "b"} and all(_fits(value[k], s) for k, s in schema["properties"].items())
    if schema["type"] == "array":
        return all(_fits(item, schema["items"]) for item in value)
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= 3
    return isinstance(value, bool) if schema["type"] == "boolean" else value >= 5


def test_the_bill_is_the_sum_of_its_buckets() -> None:
    """Buckets of a prompt are disjoint and sum to the prompt and output tokens."""
    from bursar.sandbox.asks import Prompted

    counts = tokens(Prompted(10, 20, (("cache_write_5m", 30),)), 40)
    assert sum(counts.values()) == 100 and counts["cache_write_5m"] == 30
