"""The simulated provider's faults, caches, bill and recorded mode, over real sockets."""

import base64
import gzip
import json
import re
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

from bursar.money import parse_usd
from bursar.sandbox import SandboxServer, Settings, Step, Task
from bursar.sandbox.bill import price
from bursar.sandbox.faults import parse_odds
from bursar.sandbox.models import MODELS
from bursar.sandbox.recorded import right_answer, wrong_answer

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
def test_stream_faults(fault: str, dialect: str, sandbox: SandboxServer, http: httpx.Client) -> None:
    """Every stream fault is what it says on the wire, and what had been generated by then is billed."""
    path, body = STREAMS[dialect]
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01", "x-sandbox-fault": fault}
    whole = http.post(sandbox.url + path, json=body, headers=headers | {"x-sandbox-fault": ""}).text
    got, broke = b"", False
    with http.stream("POST", sandbox.url + path, json=body, headers=headers) as answer:
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
        assert line.usage["input"] == clean.usage["input"] and ("event: error" in text or '"error":{' in text) == (
            kind == "error-event"
        )
        return
    assert line.status == "completed" and line.nanos == clean.nanos
    if kind == "malformed":
        assert sum(not _parses(event) for event in text.replace("\r", "").split("\n\n")) == 1
    elif kind == "no-usage":
        assert re.search(r'_tokens":\d|TokenCount', text) is None and "usage" in whole.lower()
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
def test_a_hang_up_is_billed_by_the_providers_rule(dialect: str, sandbox: SandboxServer, http: httpx.Client) -> None:
    """Anthropic bills what was generated before the hang-up, the others the whole generation; all as `cut`."""
    path, body = STREAMS[dialect]
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    http.post(sandbox.url + path, json=body, headers=headers)
    slow = headers | {"x-sandbox-fault": "slow"}
    with SandboxServer(Settings(chunk_ms=20, clock=Clock())) as paced:
        with http.stream("POST", paced.url + path, json=body, headers=slow) as answer:
            next(answer.iter_bytes())
        assert paced.bill.wait(1)
        line, whole = paced.bill.lines[0], sandbox.bill.lines[0]
    assert line.status == "cut" and line.usage["input"] == whole.usage["input"]
    if dialect == "messages":
        assert line.usage.get("output", 0) < whole.usage["output"]
    else:
        assert line.nanos == whole.nanos


def test_odds_are_seeded_and_set_from_outside(sandbox: SandboxServer, http: httpx.Client) -> None:
    """PUT /sandbox/faults sets odds; a body's nth arrival has its own draw; nonsense is refused with its reason."""
    assert http.put(f"{sandbox.url}/sandbox/faults", json={"faults": "429:0.5"}).status_code == 200
    body = {"model": "gpt-4o", "messages": said("x")}
    runs = []
    for _ in range(2):
        runs.append([http.post(f"{sandbox.url}/v1/chat/completions", json=body).status_code for _ in range(20)])
        sandbox.app.faults.set("429:0.5")
    assert runs[0] == runs[1] and set(runs[0]) == {200, 429}
    for wrong in ("nonsense:0.1", "429", "429:0.7,500:0.7"):
        assert http.put(f"{sandbox.url}/sandbox/faults", json={"faults": wrong}).status_code == 400
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


def test_what_came_is_kept_byte_for_byte(sandbox: SandboxServer, http: httpx.Client) -> None:
    """The bytes, path and headers of each request can be asked for; reset forgets them and the bill."""
    body = b'{ "model":"gpt-4o",  "messages":[{"role":"user","content":"\\u00e9"}] }'
    http.post(f"{sandbox.url}/v1/chat/completions?a=1", content=body, headers={"x-mark": "7"})
    (got,) = http.get(f"{sandbox.url}/sandbox/requests").json()["requests"]
    assert base64.b64decode(got["body"]) == body and got["path"] == "/v1/chat/completions?a=1"
    assert ["x-mark", "7"] in got["headers"] and sandbox.requests[0].body == body
    bill = http.get(f"{sandbox.url}/sandbox/bill").json()
    assert bill["total_nanos"] == sandbox.bill.total_nanos() > 0 and bill["lines"][0]["status"] == "completed"
    http.post(f"{sandbox.url}/sandbox/reset")
    assert not sandbox.requests and not sandbox.bill.lines
