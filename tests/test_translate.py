"""Requests across the pair of dialects: there and back is the same, and what cannot be carried is refused by name."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import BaseModel, TypeAdapter

from bursar.types import Api
from bursar.wire import translate
from bursar.wire.translate import Refusal, Translated

Json = dict[str, Any]
MODELS: dict[str, str] = {"chat": "gpt-4o-mini", "messages": "claude-haiku-4-5"}
MOST = 64_000

# Requests of every kind, in the normal form

TEXT = st.text(min_size=1, max_size=30).filter(str.strip)
NAMES = st.sampled_from(["look_up", "add", "get-weather"])
IDS = st.integers(0, 99).map(lambda number: f"call_{number}")
VALUES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-9, 9) | TEXT
INPUTS = st.dictionaries(st.sampled_from("abc"), VALUES | st.lists(VALUES, max_size=2), max_size=3)
LEAVES: st.SearchStrategy[Any] = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"enum": ["a", "b"]}, {"type": "string", "format": "date"}]
) | st.fixed_dictionaries({"type": st.just("boolean"), "description": TEXT})


def closed(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


STRICT = st.dictionaries(
    st.sampled_from("xyz"),
    LEAVES
    | st.dictionaries(st.sampled_from("uv"), LEAVES, max_size=2).map(closed)
    | LEAVES.map(lambda leaf: {"type": "array", "items": leaf})
    | LEAVES.map(lambda leaf: {"anyOf": [leaf, {"type": "null"}]}),
    max_size=3,
).map(closed)
LOOSE = INPUTS.map(lambda properties: {"type": "object", "properties": properties, "x-more": 1})
PIXEL = "aGVsbG8="
TEXT_PART = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT})
CHAT_IMAGE = st.sampled_from(["https://example.com/a.png", f"data:image/png;base64,{PIXEL}"]).map(
    lambda url: {"type": "image_url", "image_url": {"url": url}}
)


def normal(parts: list[Json]) -> Any:
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


CONTENT = st.lists(TEXT_PART, min_size=1, max_size=3).map(normal)
USER = st.fixed_dictionaries(
    {"role": st.just("user"), "content": st.lists(TEXT_PART | CHAT_IMAGE, min_size=1, max_size=3).map(normal)}
)
CALL = st.fixed_dictionaries(
    {
        "id": IDS,
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": NAMES, "arguments": INPUTS.map(lambda given: msgspec.json.encode(given).decode())}
        ),
    }
)


@st.composite
def turns(draw: st.DrawFn) -> list[Json]:
    """What an assistant said and called, the results of its calls, and what the user then says, if anything."""
    said, calls = draw(st.none() | CONTENT), draw(st.lists(CALL, max_size=3, unique_by=lambda call: str(call["id"])))
    message: Json = {"role": "assistant"}
    if said is not None or not calls:
        message["content"] = said or draw(CONTENT)
    if not calls:
        return [message, draw(USER)]
    message["tool_calls"] = calls
    results = [{"role": "tool", "tool_call_id": call["id"], "content": draw(CONTENT | st.just(""))} for call in calls]
    return [message, *results, *draw(st.lists(USER, max_size=1))]


def chat_tool(function: Json) -> Json:
    return {"type": "function", "function": function}


TOOL = st.fixed_dictionaries(
    {"name": NAMES, "parameters": STRICT}, optional={"description": TEXT, "strict": st.just(True)}
) | st.fixed_dictionaries({"name": NAMES, "parameters": LOOSE}, optional={"description": TEXT})
CHOICES: st.SearchStrategy[Any] = st.sampled_from(["auto", "none", "required"]) | NAMES.map(
    lambda name: {"type": "function", "function": {"name": name}}
)


@st.composite
def chats(draw: st.DrawFn) -> Json:
    """A chat request in the normal form: there and back it is the very same."""
    messages = [draw(USER), *(one for turn in draw(st.lists(turns(), max_size=3)) for one in turn)]
    if draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": draw(CONTENT)})
    body: Json = {"model": MODELS["chat"], "messages": messages}
    if tools := draw(st.lists(TOOL.map(chat_tool), max_size=2)):
        body["tools"] = tools
        if (choice := draw(st.none() | CHOICES)) is not None:
            body["tool_choice"] = choice
            if choice != "none" and draw(st.booleans()):
                body["parallel_tool_calls"] = False
    body["max_completion_tokens"] = draw(st.integers(1, MOST))
    if draw(st.booleans()):
        schema = {"name": "output", "schema": draw(STRICT), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if draw(st.booleans()):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    more = {
        "temperature": st.floats(0, 1), "top_p": st.floats(0, 1), "stop": st.lists(TEXT, min_size=1, max_size=4),
        "safety_identifier": TEXT, "service_tier": st.sampled_from(["auto", "default"]),
        "reasoning_effort": st.sampled_from(["none", "low", "medium", "high", "xhigh", "max"]),
    }  # fmt: skip
    return {**body, **draw(st.fixed_dictionaries({}, optional=more))}


def encode(body: Json) -> bytes:
    return json.dumps(body).encode()


def carried(body: Json, source: Api, target: Api, most: int | None = MOST) -> Json:
    found = translate.request(encode(body), source, target, model=MODELS[target], max_output=most)
    assert isinstance(found, Translated), found
    decoded: Json = json.loads(found.body)
    return decoded


def refused(body: Json, source: Api, target: Api) -> str:
    found = translate.request(encode(body), source, target, model=MODELS[target], max_output=MOST)
    assert isinstance(found, Refusal), found
    return found.reason


# The SDKs' own types of a request, which say what the provider takes
CHAT_TAKES = TypeAdapter[Any](CompletionCreateParamsNonStreaming | CompletionCreateParamsStreaming)
MESSAGES_TAKES = TypeAdapter[Any](MessageCreateParamsNonStreaming | MessageCreateParamsStreaming)
SAMPLING = {"temperature", "top_p"}
"""Which older models take, and anthropic's types no longer name."""


def read_out(value: Any) -> Any:
    """A validated value with its arrays read to the end: pydantic checks an iterable only as it is read."""
    if isinstance(value, dict):
        return {key: read_out(one) for key, one in value.items()}
    return value if isinstance(value, str) or not isinstance(value, Iterable) else [read_out(one) for one in value]


@settings(max_examples=60, deadline=None)
@given(body=chats())
def test_there_and_back(body: Json) -> None:
    """A request in the normal form comes back as it was; a message of the other dialect does so too."""
    there = carried(body, "chat", "messages")
    assert there["max_tokens"] == body["max_completion_tokens"]
    assert carried(there, "messages", "chat") == body
    assert carried(carried(there, "messages", "chat"), "chat", "messages") == there


@settings(max_examples=40, deadline=None)
@given(body=chats())
def test_types(body: Json) -> None:
    """What is sent is of the SDKs' own request types, and says the same number of things."""
    there = carried(body, "chat", "messages")
    known = {key: one for key, one in there.items() if key not in SAMPLING}
    assert read_out(MESSAGES_TAKES.validate_python(known)) == known
    back = carried(there, "messages", "chat")
    assert read_out(CHAT_TAKES.validate_python(back)) == back
    said = [one for one in body["messages"] if one["role"] == "tool"]
    blocks = [
        one for message in there["messages"] if isinstance(message["content"], list) for one in message["content"]
    ]
    assert [one["tool_use_id"] for one in blocks if one["type"] == "tool_result"] == [m["tool_call_id"] for m in said]


def test_normal_form() -> None:
    """What is written in other ways comes back in the one way, and means the same to the other provider."""
    body = {
        "model": "gpt-4o-mini", "max_tokens": 100_000, "n": 1, "stop": "END", "user": "u1", "logprobs": False,
        "presence_penalty": 0, "metadata": {"team": "a"}, "prompt_cache_key": "k", "store": False,
        "messages": [
            {"role": "system", "content": "One."},
            {"role": "developer", "content": [{"type": "text", "text": "Two.", "prompt_cache_breakpoint": {}}]},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "", "refusal": None, "annotations": [], "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": ' {"x": 1.0}'}},
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}], "parallel_tool_calls": False,
    }  # fmt: skip
    there = carried(body, "chat", "messages")
    assert there == {
        "model": "claude-haiku-4-5", "max_tokens": MOST, "metadata": {"user_id": "u1"}, "stop_sequences": ["END"],
        "system": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1.0}},
                {"type": "tool_use", "id": "b", "name": "f", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "1"},
                {"type": "tool_result", "tool_use_id": "b", "content": "2"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    }  # fmt: skip
    assert carried(carried(there, "messages", "chat"), "chat", "messages") == there
    assert carried({**body, "tool_choice": "none"}, "chat", "messages")["tool_choice"] == {"type": "none"}


def test_the_limit_that_must_be() -> None:
    """max_tokens is the caller's limit, at most the model's; without one all the model can give, if that is known."""
    body: Json = {"messages": [{"role": "user", "content": "Hi"}]}
    assert carried(body, "chat", "messages")["max_tokens"] == MOST
    assert carried({**body, "max_completion_tokens": 7, "max_tokens": 9}, "chat", "messages", None)["max_tokens"] == 7
    unknown = translate.request(encode(body), "chat", "messages", model="m")
    assert isinstance(unknown, Refusal) and unknown.reason.startswith("max_tokens")
    assert refused(body, "messages", "chat").startswith("max_tokens")
    assert carried({**body, "max_tokens": 10**6}, "messages", "chat")["max_completion_tokens"] == MOST


def test_what_is_sent() -> None:
    """The path, and the version header that Anthropic wants."""
    body = encode({"max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]})
    there = translate.request(body, "chat", "messages", model="m")
    back = translate.request(body, "messages", "chat", model="m")
    assert isinstance(there, Translated) and isinstance(back, Translated)
    assert (there.path, there.headers_needed) == ("/v1/messages", (("anthropic-version", "2023-06-01"),))
    assert (back.path, back.headers_needed) == ("/chat/completions", ())


# What cannot be carried

HI: Json = {"role": "user", "content": "Hi"}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
SPLIT = {**OPEN, "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "additionalProperties": False}


def user(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": [*parts]}]}


def spoke(**said: Any) -> Json:
    return {"messages": [HI, {"role": "assistant", **said}, HI]}


def chat_call(arguments: str, name: str = "f", number: str = "a") -> Json:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


USE: Json = {"type": "tool_use", "id": "a", "name": "f", "input": {}}


def chat_schema(schema: Json) -> Json:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


CHAT_REFUSES: list[tuple[Json, str]] = [
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"n": 2}, "n "),
    ({"seed": 0}, "seed"),
    ({"logit_bias": {"1": 2}}, "logit_bias"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"presence_penalty": -1}, "presence_penalty"),
    ({"temperature": 1.2}, "temperature"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"web_search_options": {"a": 1}}, "web_search_options"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"service_tier": {}}, "string"),
    ({"reasoning_effort": "minimal"}, "reasoning_effort"),
    ({"verbosity": "low"}, "verbosity"),
    ({"moderation": {"model": "m"}}, "moderation"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"x_new": 1}, "x_new"),
    ({"stop": ["\n"]}, "stop"),
    ({"response_format": {"type": "json_object"}}, "json_object"),
    (chat_schema(OPEN), "additionalProperties"),
    (chat_schema(closed({"a": {"type": "integer", "minimum": 1}})), "minimum"),
    (chat_schema(closed({"a": {"type": ["string", "null"]}})), "type"),
    (chat_schema(closed({"a": {"type": "string", "format": "regex"}})), "format"),
    (chat_schema(closed({"a": {"type": "array", "items": {}, "minItems": 2}})), "minItems"),
    (chat_schema(closed({"a": {"type": "array", "items": {}}})), "says nothing"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "custom"),
    ({"tools": [chat_tool({"name": "a b"})]}, "name"),
    ({"tools": [chat_tool({"name": "f", "strict": True, "parameters": OPEN})]}, "additionalProperties"),
    ({"tool_choice": "required"}, "no tools"),
    ({"tools": [chat_tool({"name": "f"})], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "allowed"),
    (user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}), "input_audio"),
    (user({"type": "file", "file": {"file_data": "x", "filename": "a.pdf"}}), "file"),
    (user({"type": "text", "text": "  "}), "blank"),
    (user({"type": "image_url", "image_url": {"url": "https://a", "detail": "low"}}), "detail"),
    (user({"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA=="}}), "image"),
    (user({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), "image"),
    ({"messages": [{**HI, "name": "Ada"}]}, "name"),
    ({"messages": [HI, {"role": "system", "content": "Now."}, HI]}, "system message inside"),
    ({"messages": [{"role": "system", "content": "Now."}]}, "begin and end"),
    ({"messages": [HI, {"role": "assistant", "content": "The answer is"}]}, "begin and end"),
    (spoke(refusal="No."), "refusal"),
    (spoke(content="Yes", reasoning_content="Hm"), "reasoning_content"),
    (spoke(content=None), "empty"),
    (spoke(function_call={"name": "f", "arguments": "{}"}), "function_call"),
    (spoke(tool_calls=[chat_call("[1]")]), "no JSON object"),
    (spoke(tool_calls=[chat_call('{"a":')]), "no JSON object"),
    (spoke(tool_calls=[chat_call("{}", number="functions.f:0")]), "id"),
    ({"messages": []}, "begin and end"),
    ({"messages": "Hi"}, "array"),
]
MESSAGES_REFUSES: list[tuple[Json, str]] = [
    ({"top_k": 5}, "top_k"),
    ({"thinking": {"type": "adaptive"}}, "thinking"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "thinking"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"inference_geo": "us"}, "inference_geo"),
    ({"speed": "fast"}, "speed"),
    ({"context_management": {"edits": [1]}}, "context_management"),
    ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
    ({"metadata": {"user_id": "u" * 129}}, "user_id"),
    ({"output_config": {"format": {"type": "json_schema", "schema": SPLIT}}}, "required"),
    ({"output_config": {"task_budget": {"total": 9}}}, "task_budget"),
    ({"tools": [{"name": "f", "input_schema": SPLIT, "strict": True}]}, "required"),
    ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "web_search_20260318"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash"),
    ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "defer_loading"),
    ({"tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}]}, "input_examples"),
    ({"tools": [{"name": "f", "input_schema": {}, "allowed_callers": ["code_execution_20260120"]}]}, "allowed_callers"),
    (user({"type": "document", "source": {"type": "text", "data": "x", "media_type": "text/plain"}}), "document"),
    (user({"type": "search_result", "title": "t", "source": "s", "content": []}), "search_result"),
    (user({"type": "tool_result", "tool_use_id": "a", "is_error": True}), "is_error"),
    (user({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image", "source": {}}]}), "image"),
    (user({"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "a"}), "tool_result"),
    (user({"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": ""}}), "image"),
    (user({"type": "image", "source": {"type": "url", "url": "u"}, "transformations": {"a": "b"}}), "transformations"),
    (spoke(content=[{"type": "text", "text": "x", "citations": [{"type": "char_location"}]}]), "citations"),
    (
        spoke(content=[{"type": "tool_use", "id": "a", "name": "f", "input": {}}, {"type": "text", "text": "x"}]),
        "after",
    ),
    ({"messages": [HI, {"role": "assistant", "content": "The answer is"}]}, "end"),
    ({"messages": [{"role": "user", "content": []}]}, "empty"),
]


@pytest.mark.parametrize(("said", "reason"), CHAT_REFUSES)
def test_chat_refuses(said: Json, reason: str) -> None:
    """A request that a message cannot say is refused, and the reason names what it was."""
    assert reason in refused({"messages": [HI], "max_tokens": 9, **said}, "chat", "messages")


@pytest.mark.parametrize(("said", "reason"), MESSAGES_REFUSES)
def test_messages_refuses(said: Json, reason: str) -> None:
    """A request that a chat completion cannot say is refused, and the reason names what it was."""
    assert reason in refused({"messages": [HI], "max_tokens": 9, **said}, "messages", "chat")


@pytest.mark.parametrize(
    ("source", "target", "takes"),
    [
        ("chat", "messages", [CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming]),
        ("messages", "chat", [MessageCreateParamsNonStreaming, MessageCreateParamsStreaming]),
    ],
)
def test_every_member_is_decided(source: Api, target: Api, takes: list[Any]) -> None:
    """No member that the SDK knows is left out unless it is named here: it is carried, or it refuses."""
    left_out = {
        "chat": {"metadata", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
                 "stream_options"},
        "messages": {"cache_control"},
    }  # fmt: skip
    carries = {"model", "messages", "system", "max_tokens", "metadata"} | {"tool_choice", "parallel_tool_calls"}
    plain: Json = {"messages": [HI], "max_tokens": 9}
    for key in {name for kind in takes for name in kind.__annotations__} - carries - left_out[source]:
        found = translate.request(encode({**plain, key: "?"}), source, target, model="m")
        same = encode(plain)
        alike = translate.request(same, source, target, model="m")
        assert isinstance(alike, Translated)
        assert isinstance(found, Refusal) or found.body != alike.body, key
    for key in left_out[source]:
        assert isinstance(translate.request(encode({**plain, key: {"a": 1}}), source, target, model="m"), Translated)


JSONS: st.SearchStrategy[Any] = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "tool_calls", "function", "name", "input", "id", "source"]
            ),
            inner | st.sampled_from(["user", "assistant", "tool", "text", "image", "tool_use", "tool_result"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(
    st.sampled_from(["messages", "system", "tools", "tool_choice", "stop", "max_tokens", "response_format", "metadata",
                     "output_config", "thinking", "service_tier", "reasoning_effort", "stop_sequences", "user"]),
    JSONS,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    body=BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=30), api=st.sampled_from(get_args(Api))
)
def test_total(body: bytes, api: Api) -> None:
    """Whatever the body, there is a request or a reason; an error stays an error; nothing raises."""
    for source, target in (("chat", "messages"), ("messages", "chat")):
        found = translate.request(body, source, target, model="m", max_output=9)  # type: ignore[arg-type]
        assert isinstance(found, Translated) or found.reason
        assert translate.answer(body, source, target, at=0) is None  # type: ignore[arg-type]
        assert json.loads(translate.error(body, 500, source, target))["error"]["message"]  # type: ignore[arg-type]
    assert isinstance(translate.request(body, api, api, model="m"), Refusal)
    assert translate.pinned(body, api) is None or isinstance(translate.pinned(body, api), str)


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, 1, -1, True, "", "x", [], {}, [1], [[]], {"type": "text"}, 1.5, "tool_use", 2**70]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def spoilt(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """The value with something else at one place."""
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = spoilt(copy[path[0]], path[1:], odd)
    return copy


@settings(max_examples=150, deadline=None)
@given(body=chats(), data=st.data())
def test_one_value_spoilt(body: Json, data: st.DataObject) -> None:
    """One value of the wrong kind anywhere: still a request or a reason, never an exception."""
    for source, target, asked in (("chat", "messages", body), ("messages", "chat", carried(body, "chat", "messages"))):
        odd = spoilt(asked, data.draw(st.sampled_from([*places(asked)])), data.draw(ODD))
        found = translate.request(encode(odd), source, target, model="m", max_output=9)  # type: ignore[arg-type]
        assert isinstance(found, Translated) or found.reason


def test_depth() -> None:
    """Nesting beyond the interpreter's limit is a reason too."""
    for depth in (900, 100_000):
        body = b'{"max_tokens":1,"messages":' + b"[" * depth + b"]" * depth + b"}"
        assert isinstance(translate.request(body, "messages", "chat", model="m"), Refusal)
        assert translate.pinned(body, "messages") is None


# Conversations that may not move

RESULT: Json = {"type": "tool_result", "tool_use_id": "a"}


@pytest.mark.parametrize(
    ("api", "body", "why"),
    [
        ("messages", spoke(content=[{"type": "thinking", "thinking": "Hm", "signature": "s"}]), "thinking"),
        ("messages", spoke(content=[{"type": "redacted_thinking", "data": "s"}]), "thinking"),
        ("messages", spoke(content=[{"type": "server_tool_use", "id": "a", "name": "web_search"}]), "ran"),
        ("messages", spoke(content=[{"type": "web_search_tool_result", "content": []}]), "ran"),
        ("messages", spoke(content=[{"type": "compaction", "content": "x"}]), "compaction"),
        ("messages", user({"type": "image", "source": {"type": "file", "file_id": "f"}}), "file"),
        (
            "messages",
            user({**RESULT, "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}),
            "file",
        ),
        ("messages", spoke(content=[{"type": "text", "text": "x", "citations": [{"encrypted_index": "s"}]}]), "sign"),
        ("messages", {**spoke(content="x"), "container": "c"}, "container"),
        ("chat", spoke(audio={"id": "a"}), "audio"),
        ("chat", user({"type": "file", "file": {"file_id": "f"}}), "file"),
        (
            "chat",
            spoke(tool_calls=[{**chat_call("{}"), "extra_content": {"google": {"thought_signature": "s"}}}]),
            "sign",
        ),
        ("responses", {"previous_response_id": "r", "input": "x"}, "previous_response_id"),
        ("responses", {"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "reasoning"),
        ("responses", {"input": [{"type": "item_reference", "id": "r"}]}, "item"),
        ("gemini", {"contents": [{"parts": [{"text": "x", "thoughtSignature": "s"}]}]}, "signature"),
        ("gemini", {"cachedContent": "c", "contents": []}, "cachedContent"),
    ],
)
def test_pinned(api: Api, body: Json, why: str) -> None:
    """What only one provider can read, or has kept, holds the conversation there; the pair refuses it so."""
    assert why in (translate.pinned(encode(body), api) or "")
    for source, target in (("chat", "messages"), ("messages", "chat")):
        if api == source:
            assert refused({"max_tokens": 9, **body}, source, target).startswith("pinned: ")  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(body=chats())
def test_free(body: Json) -> None:
    """A conversation of texts, images, calls and results may move, whatever a tool's arguments are called."""
    assert translate.pinned(encode(body), "chat") is None
    assert translate.pinned(encode(carried(body, "chat", "messages")), "messages") is None
    named = spoke(content=[{"type": "tool_use", "id": "a", "name": "f", "input": {"signature": "x", "file_id": "y"}}])
    assert translate.pinned(encode(named), "messages") is None


class Trip(BaseModel):
    city: str
    days: int | None


def test_helpers_schemas() -> None:
    """The schemas that either SDK's own helper makes of a model are carried, for formats and strict tools."""
    from anthropic import transform_schema
    from openai import pydantic_function_tool
    from openai.lib._pydantic import to_strict_json_schema

    tool = dict(pydantic_function_tool(Trip))
    for schema in (to_strict_json_schema(Trip), transform_schema(Trip)):
        form = {"type": "json_schema", "json_schema": {"name": "Trip", "schema": schema, "strict": True}}
        body = {"messages": [HI], "max_tokens": 9, "response_format": form, "tools": [tool]}
        there = carried(body, "chat", "messages")
        assert there["output_config"]["format"]["schema"] == schema
        assert there["tools"][0]["strict"] is True
        assert carried(there, "messages", "chat")["response_format"]["json_schema"]["schema"] == schema
