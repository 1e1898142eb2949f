"""A judge's question: accepted by every provider's own format, answered with a score, and the call's own affair."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.policy import JudgePrompt
from bursar.rules import validate
from bursar.sandbox import SandboxServer, Settings, Task
from bursar.types import Answer, Api, Call, Completed, Headers, Reading, ToolCall
from bursar.wire import dialect
from bursar.wire.asking import judge
from bursar.wire.said import said
from worlds import T0, TIMING
from worlds import call as plain

MODELS: dict[Api, tuple[str, str, str]] = {
    "chat": ("openai", "gpt-4o-mini", "/v1"),
    "responses": ("openai", "gpt-4o-mini", "/v1"),
    "messages": ("anthropic", "claude-haiku-4-5", ""),
    "gemini": ("gemini", "gemini-2.5-flash", ""),
}
"""Provider, model, and what stands before the path in the provider's address."""
PATHS: dict[Api, str] = {
    "chat": "/chat/completions",
    "responses": "/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
}
KEYS = {"authorization": "Bearer k", "x-api-key": "k", "x-goog-api-key": "k"}
SCORED = Task(kind="judge", match=lambda prompt: "Is it right?" in prompt, right='{"score": 0.9, "reason": "it is"}',
              odds={"small": 1.0, "mid": 1.0, "frontier": 1.0})  # fmt: skip
QUESTION = "Which ships lie in the harbour?"
JUDGE = JudgePrompt("Is it right?", minimum=0.7)
ANSWER = Answer(text="Two of them", tool_calls=(ToolCall("look", '{"at": "sea"}'),))


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(Settings(tasks=(SCORED,), clock=lambda: 1_795_000_000.0)) as running:
        yield running


def asked(api: Api, question: str = QUESTION, headers: Headers = (("x-org", "o"),), **more: Any) -> Call:
    """A caller's request in that format."""
    model = MODELS[api][1]
    turn: dict[str, Any] = {"role": "user", "content": question}
    bodies: dict[str, dict[str, Any]] = {
        "chat": {"model": model, "messages": [{"role": "system", "content": "Be brief."}, turn]},
        "responses": {"model": model, "input": [turn]},
        "messages": {"model": model, "max_tokens": 9, "messages": [turn]},
        "gemini": {"contents": [{"role": "user", "parts": [{"text": question}]}]},
    }
    body = msgspec.json.encode(bodies[api])
    view = dialect.of(api).view(body, PATHS[api], ())
    return msgspec.structs.replace(
        plain(api), view=view, body=body, path=PATHS[api], headers=headers, received=T0, **more
    )


def question_to(api: Api, caller: Call, ask: JudgePrompt = JUDGE, answer: Answer = ANSWER) -> Call:
    provider, model, _ = MODELS[api]
    return judge(caller, api, provider, model, ask, answer, "req_1-judge1")


@pytest.mark.parametrize("own", [*MODELS])
@pytest.mark.parametrize("api", [*MODELS])
def test_every_provider_takes_the_question_and_the_score_is_read(server: SandboxServer, api: Api, own: Api) -> None:
    """Whatever format the caller speaks: 200, a score, and a usage to bill."""
    made = question_to(api, asked(own))
    headers = {"anthropic-version": "2023-06-01", **KEYS, **dict(made.headers), "content-type": "application/json"}
    answer = httpx.post(server.url + MODELS[api][2] + made.path, content=made.body, headers=headers)
    assert answer.status_code == 200, answer.text
    read = said(api, answer.content)
    assert read is not None
    outcome = Completed(200, (), answer.content, Reading(), TIMING, answer=read)
    word = validate.scored_by(outcome, JUDGE.minimum)
    assert (word.ok, word.score) == (True, 0.9)
    usage = dialect.of(api).read(answer.content, made.view, ()).usage
    assert usage is not None and usage.input_tokens and usage.output_tokens


@pytest.mark.parametrize("own", [*MODELS])
@pytest.mark.parametrize("api", [*MODELS])
def test_it_is_a_call_of_its_own(api: Api, own: Api) -> None:
    """Nobody else's answer, not kept, tried once, bounded, and readable as any other request."""
    caller = asked(own, max_cost_nanos=5, tier="mid", cache="only")
    made = question_to(api, caller)
    assert (made.request_id, made.purpose, made.attempts) == ("req_1-judge1", "judge", 1)
    assert (made.api, made.tier, made.cache, made.no_store) == (api, None, None, True)
    assert (made.tags, made.received) == (caller.tags, caller.received)
    view = made.view
    assert (view.model, view.stream, view.max_output_tokens) == (MODELS[api][1], False, 2_000)
    assert not view.opaque_input and view.blocks
    assert all(part in made.body.decode() for part in ("Is it right?", QUESTION, "Two of them", "look("))


def test_the_callers_headers_go_to_his_own_provider_alone() -> None:
    """But for those that are about one request."""
    secret = (("authorization", "Bearer k"), ("content-type", "application/json"), ("idempotency-key", "i"))
    mine = dict(question_to("chat", asked("chat", headers=secret)).headers)
    assert mine == {"authorization": "Bearer k", "content-type": "application/json"}
    assert dict(question_to("messages", asked("chat", headers=secret)).headers) == {
        "content-type": "application/json", "anthropic-version": "2023-06-01"
    }  # fmt: skip
    named = asked("chat", headers=secret, home="openai")
    assert dict(question_to("chat", named).headers) == mine
    peer = judge(named, "chat", "groq", "llama", JUDGE, ANSWER, "req_1-judge1")
    assert (peer.path, peer.headers) == ("/chat/completions", (("content-type", "application/json"),))
    library = asked("chat", headers=secret, provider="openai")
    assert question_to("chat", library).provider == "openai"
    away = question_to("messages", library)
    assert away.provider == "anthropic" and "authorization" not in dict(away.headers)


def text_of(made: Call) -> str:
    told = json.loads(made.body)
    text: str = told["messages"][0]["content"]
    return text


def test_where_the_prompt_says_so_request_and_answer_stand() -> None:
    caller = asked("chat")
    text = text_of(question_to("chat", caller, JudgePrompt("Q: {request}\nA: {answer}\nScore {it}.")))
    assert text.startswith(f"Q: {QUESTION}\nA: Two of them\nlook(") and "Score {it}." in text
    assert text.endswith('"reason": "<one sentence>"}')
    below = text_of(question_to("chat", caller))
    assert below.startswith(f"Is it right?\n\n# Request\n{QUESTION}\n\n# Answer\nTwo of them")


def test_what_was_asked_cannot_put_itself_in_the_answers_place() -> None:
    """A request that holds "{answer}" is shown as it is, and so is an answer that holds "{request}"."""
    caller = asked("chat", "Say {answer} twice")
    text = text_of(question_to("chat", caller, JudgePrompt("Q: {request} A: {answer}."), Answer(text="{request}")))
    assert text.startswith("Q: Say {answer} twice A: {request}.")


def test_of_long_texts_the_ends_that_matter_are_shown() -> None:
    """The end of the request, the beginning of the answer: no judge costs more than he has to."""
    caller = asked("chat", "first " + "x" * 50_000 + " last")
    text = text_of(question_to("chat", caller, answer=Answer(text="head " + "y" * 50_000 + " tail")))
    assert len(text) < 49_000
    assert " last" in text and "head " in text and "first" not in text and "tail" not in text


@given(st.binary(max_size=200), st.text(max_size=50), st.text(max_size=50))
def test_whatever_was_asked_the_question_is_well_formed(body: bytes, prompt: str, text: str) -> None:
    """A request that cannot be read is shown as it is."""
    caller = msgspec.structs.replace(asked("chat"), body=body, view=dialect.of("chat").view(body, PATHS["chat"], ()))
    made = question_to("chat", caller, JudgePrompt(prompt), Answer(text=text))
    assert json.loads(made.body)["max_completion_tokens"] == 2_000 and made.view.blocks
