"""Requests and errors on the wire: peeking reads what counts, patching changes what it must and nothing else."""

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules import estimate
from bursar.types import Block, Headers, Terms, View
from bursar.wire import peek, splice
from bursar.wire.dialect import OTHER, Dialect, dialect_of

NO_HEADERS: Headers = ()


def speaks(path: str, method: str = "POST") -> Dialect:
    found = dialect_of(method, path)
    assert found is not None
    return found


CHAT = speaks("/v1/chat/completions")
RESPONSES = speaks("/v1/responses")
EMBEDDINGS = speaks("/v1/embeddings")
MESSAGES = speaks("/v1/messages")
GEMINI_PATH = "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
GEMINI = speaks(GEMINI_PATH)
ALL = (CHAT, RESPONSES, EMBEDDINGS, MESSAGES, GEMINI, OTHER)


def view(dialect: Dialect, body: Any, path: str = "/x") -> View:
    return dialect.view(body if isinstance(body, bytes) else json.dumps(body).encode(), path, NO_HEADERS)


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/openai/deployments/gpt/chat/completions?api-version=2026-01-01", "chat"),
        ("/openai/v1/chat/completions", "chat"),
        ("/api/v1/responses", "responses"),
        ("/v1/responses/resp_1/cancel", "other"),
        ("/v1/responses/input_tokens", "other"),
        ("/openai/deployments/e/embeddings?api-version=1", "embeddings"),
        ("/v1/messages", "messages"),
        ("/v1/messages?beta=true", "messages"),
        ("/anthropic/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "other"),
        ("/v1/messages/batches", "other"),
        ("/v1/threads/t/messages", "other"),
        ("/v1/models/g:generateContent", "gemini"),
        (GEMINI_PATH, "gemini"),
        ("/v1beta1/projects/p/locations/l/publishers/google/models/g:generateContent", "gemini"),
        ("/v1beta/models/g:countTokens", "other"),
        ("/v1/images/generations", "other"),
    ],
)
def test_dialect_by_path(path: str, api: str) -> None:
    """Base paths and queries of every client in use lead to the right dialect; a GET creates no charge."""
    assert speaks(path).api == api
    assert dialect_of("GET", path) is None


def test_gemini_model_in_path() -> None:
    """Gemini's model and streaming are read from the path and the model is written there, query and all kept."""
    seen = view(GEMINI, {"contents": [], "generation_config": {"max_output_tokens": 7}}, GEMINI_PATH)
    assert (seen.model, seen.stream, seen.max_output_tokens) == ("gemini-3.8-flash", True, 7)
    assert GEMINI.path(GEMINI_PATH, model="g2") == "/v1beta/models/g2:streamGenerateContent?alt=sse"
    assert GEMINI.path(GEMINI_PATH, model=None) is GEMINI_PATH


def test_azure_deployment_is_the_model() -> None:
    """Azure: the path's deployment wins over the body's model and is rewritten with it."""
    path = "/openai/deployments/dep/chat/completions?api-version=1"
    assert view(CHAT, {"model": "gpt", "messages": []}, path).model == "dep"
    assert CHAT.path(path, model="d2") == "/openai/deployments/d2/chat/completions?api-version=1"


def test_view_of_chat() -> None:
    """Everything that a chat request says, blocks in prompt order, flags and ids outside the parameters."""
    body = {
        "messages": [{"role": "user", "content": "hi"}], "model": "gpt-6.1-sol", "temperature": 0.25, "n": 2,
        "tools": [{"type": "function"}], "response_format": {"type": "text"}, "max_completion_tokens": 9,
        "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}, "service_tier": "fast",
        "user": "u", "prompt_cache_key": "k", "metadata": {"b": "1"}, "prompt_cache_options": {"ttl": "30m"},
    }  # fmt: skip
    seen = view(CHAT, json.dumps(body, separators=(",", ":")).encode())
    assert (seen.model, seen.stream, seen.max_output_tokens, seen.choices) == ("gpt-6.1-sol", True, 9, 2)
    assert seen.wants_usage and seen.terms == Terms(service_tier="priority") and seen.cache_ttl == "30m"
    assert seen.blocks == (
        Block("tools", b'[{"type":"function"}]'),
        Block("message", b'{"role":"user","content":"hi"}'),
        Block("format", b'{"type":"text"}'),
        Block("params", b'{"max_completion_tokens":9,"max_tokens":5,"n":2,"temperature":0.25}'),
    )


def test_view_of_responses_and_messages() -> None:
    """The billing facts that only a request has: window, background, geography, speed, one cache lifetime."""
    asked = view(RESPONSES, {"input": "hi", "background": True, "background_options": {"completion_window": "8h"}})
    assert asked.background and asked.terms == Terms(window="8h")
    assert asked.blocks == (Block("message", b'"hi"'),)
    mark = {"type": "ephemeral", "ttl": "1h"}
    body = {
        "model": "claude", "max_tokens": 3, "inference_geo": "us", "speed": "fast", "system": "s",
        "cache_control": mark, "messages": content({"type": "text", "text": "a", "cache_control": mark})["messages"],
    }  # fmt: skip
    seen = view(MESSAGES, body)
    assert (seen.terms, seen.cache_ttl) == (Terms(region="us", fast=True), "1h")
    assert [block.kind for block in seen.blocks] == ["system", "message", "params"]


@pytest.mark.parametrize("first", [True, False])
def test_cache_marks_do_not_make_another_block(first: bool) -> None:
    """A message with and without cache marks is the same block; a property of that name in a schema is no mark."""
    plain = {"type": "text", "text": 'say "cache_control": {"type":"ephemeral"} now'}
    mark = {"cache_control": {"type": "ephemeral"}}
    marked = {**mark, **plain} if first else {**plain, **mark}
    blocks = []
    for part in (plain, marked):
        body = json.dumps({"messages": [{"role": "user", "content": [part]}]}, separators=(",", ":")).encode()
        blocks.append(view(MESSAGES, body).blocks)
    assert blocks[0] == blocks[1]
    schema = {"properties": {"cache_control": {"type": "string"}}}
    tools = view(MESSAGES, {"tools": [{"name": "f", "input_schema": schema}], "messages": []}).blocks[0].raw
    assert json.loads(tools)[0]["input_schema"] == schema


def test_claims_in_order_of_precedence() -> None:
    """Whom the body names: the most binding name first; a JSON user id also by its parts."""
    whole = '{"session":"s1","n":5}'
    metadata = {"zone": "z", "step": "plan", "user_id": whole, "session_id": "s", "agent_id": "a"}
    body = {"metadata": metadata, "user": "u", "safety_identifier": "i", "conversation": {"id": "c"}}
    assert view(RESPONSES, body).claims == (
        ("safety_identifier", "i"),
        ("user", "u"),
        ("metadata.user_id", whole),
        ("metadata.user_id.session", "s1"),
        ("metadata.session_id", "s"),
        ("metadata.agent_id", "a"),
        ("metadata.step", "plan"),
        ("conversation", "c"),
        ("metadata.zone", "z"),
    )


def content(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


IMAGE = {"type": "image_url", "image_url": {"url": "u"}}
TEXT = {"type": "text", "text": 'a "type":"image_url" in words, [and] brackets'}
CASES: list[tuple[Dialect, Any, bool]] = [
    (CHAT, content(TEXT), False),
    (CHAT, content(TEXT, IMAGE), True),
    (CHAT, json.dumps(content(IMAGE)).replace("image_url", "im\\u0061ge_url").encode(), True),
    (CHAT, b'{"messages":[{"role":"user","content":"a","content":[{"type":"file","file":{}}]}]}', True),
    (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, True),
    (CHAT, {"messages": [{"role": "user", "content": "[]"}], "tools": [{"type": "function"}]}, False),
    (CHAT, {"messages": [], "web_search_options": {}}, True),
    (RESPONSES, {"input": "text"}, False),
    (RESPONSES, {"input": [{"role": "user", "content": "a"}, {"type": "reasoning", "summary": []}]}, False),
    (RESPONSES, {"input": [{"id": "msg_1"}]}, True),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}, True),
    (RESPONSES, {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, True),
    (RESPONSES, {"input": "a", "previous_response_id": "r"}, True),
    (RESPONSES, {"input": "a", "previous_response_id": None}, False),
    (RESPONSES, {"input": "a", "tools": [{"type": "function", "parameters": {"type": "web_search"}}]}, False),
    (RESPONSES, {"input": "a", "tools": [{"type": "web_search"}]}, True),
    (MESSAGES, content(TEXT, {"type": "tool_use", "input": {"type": "image"}}), False),
    (MESSAGES, content({"type": "tool_result", "content": [{"type": "image", "source": {}}]}), True),
    (MESSAGES, {"messages": [], "tools": [{"name": "f"}, {"type": "custom"}, {"type": "bash_20250124"}]}, False),
    (MESSAGES, {"messages": [], "tools": [{"type": "web_search_20250305"}]}, True),
    (GEMINI, {"contents": [{"parts": [{"text": "fileData"}]}]}, False),
    (GEMINI, {"contents": [{"parts": [{"file_data": {"file_uri": "u"}}]}]}, True),
    (GEMINI, {"contents": [], "tools": [{"functionDeclarations": []}]}, False),
    (GEMINI, {"contents": [], "tools": [{"google_search": {}}]}, True),
    (GEMINI, {"contents": [], "cachedContent": "c"}, True),
]


@pytest.mark.parametrize(("dialect", "body", "opaque"), CASES)
def test_opaque_input(dialect: Dialect, body: Any, opaque: bool) -> None:
    """Input that is elsewhere is seen, escaped or behind a repeated key too; words about it are not taken for it."""
    assert view(dialect, body).opaque_input is opaque


BAD = [
    b"", b"null", b"[1]", b'"a"', b"{", b"[" * 200_000, b'{"messages":' + b"[" * 200_000, b'{"a":NaN}',
    b'\xef\xbb\xbf{"model":"m"}', b'{"model":"m"}x', b'{"\xff":1}',
]  # fmt: skip


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:14]))
def test_unreadable_bodies(body: bytes) -> None:
    """What is no JSON object is unreadable, raises nothing and is not patched."""
    for dialect in ALL:
        assert not view(dialect, body).readable
        assert dialect.patch(body, model="m", add_usage=True) is body


def test_members_of_wrong_types_are_missing() -> None:
    """A body with members of wrong types is read for the rest; counts beyond sense are none."""
    body = {
        "model": 5, "stream": "yes", "messages": "x", "n": -1, "max_tokens": 10**40, "metadata": [1], "tools": 7,
        "stream_options": 3, "service_tier": {}, "user": None, "input": {"a": 1}, "contents": 4, "system": 1,
    }  # fmt: skip
    for dialect in ALL:
        seen = view(dialect, body)
        assert (seen.readable, seen.stream, seen.max_output_tokens, seen.choices) == (True, False, None, 1)
        assert seen.model is None and seen.claims == ()
    assert view(CHAT, b'{"max_tokens":1e3,"messages":[]}').max_output_tokens == 1000


@settings(max_examples=300)
@given(data=st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u00e1nul5.- \n', max_size=40).map(str.encode))
def test_any_bytes_are_viewed_and_patched(data: bytes) -> None:
    """No bytes make a view or a patch raise."""
    for dialect in ALL:
        for body in (data, b'{"model":"m",' + data + b"}", b'{"messages":[' + data + b"]}"):
            view(dialect, body)
            dialect.patch(body, model="x", add_usage=True)


# JSON as odd as it comes: any spacing, escapes, repeated keys, decoys of the keys that are patched.

SPACE = st.sampled_from(["", "", " ", "\n  ", "\t", "\r\n"])
KEYS = st.sampled_from(
    ["model", "mod\\u0065l", "stream_options", "messages", "a", "", "é", "include_usage", '\\"model']
)
SCALARS = st.sampled_from(
    ["1", "12", "-0.0", "1.50", "1e5", "true", "null", '"m"', '"gpt-4o"', '"\\u00e9\\/"', '"\\"model\\":1"', '"]}"']
)


@st.composite
def members_of(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(KEYS, inner, SPACE, SPACE), max_size=5))
    return "{" + ",".join(f'{a}"{key}"{b}:{a}{value}{b}' for key, value, a, b in pairs) + draw(SPACE) + "}"


@st.composite
def array_of(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    gap = draw(SPACE)
    return f"[{gap}" + f"{gap},{gap}".join(draw(st.lists(inner, max_size=3))) + f"{gap}]"


VALUES = st.recursive(SCALARS, lambda inner: members_of(inner) | array_of(inner), max_leaves=8)
OBJECTS = members_of(VALUES).map(str.encode)


@settings(max_examples=400)
@given(body=OBJECTS, model=st.sampled_from(["gpt-4o", "m", 'a"b', "é"]))
def test_patch_changes_the_model_and_nothing_else(body: bytes, model: str) -> None:
    """After a patch parsers see the new model; one stretch of bytes was replaced or put in, all others stand."""
    patched = CHAT.patch(body, model=model)
    before = json.loads(body)
    assert json.loads(patched) == {**before, "model": model}
    if before.get("model") == model:
        assert patched is body
        return
    assert view(CHAT, patched).model == model
    head = next((i for i, (a, b) in enumerate(zip(body, patched, strict=False)) if a != b), len(body))
    put_in = json.dumps(model, ensure_ascii=False).encode()
    at = patched.index(put_in, max(0, head - len(put_in)))
    tail = patched[at + len(put_in) :]
    if "model" in before:
        assert body.startswith(patched[:at]) and body.endswith(tail)
    else:
        assert body.endswith(tail.removeprefix(b","))


@settings(max_examples=400)
@given(body=OBJECTS)
def test_patch_asks_for_usage_and_nothing_else(body: bytes) -> None:
    """include_usage becomes true wherever stream_options stands, absent, null, an object or a repeated key."""
    before = json.loads(body)
    patched = CHAT.patch(body, add_usage=True)
    options = before.get("stream_options")
    if options is not None and not isinstance(options, dict):
        assert patched is body
        return
    expected = {**before, "stream_options": {**(options or {}), "include_usage": True}}
    assert json.loads(patched) == expected
    assert CHAT.patch(patched, add_usage=True) is patched


def test_patch_keeps_bytes() -> None:
    """Key order, spaces, escapes and floats stay; the last of repeated keys is the one that is edited."""
    body = b'{ "model" : "a", "t": 1.10, "x":"\\u00e9\\/", "messages":[{"model":"no"}], "model":"b" }'
    assert MESSAGES.patch(body, model="c") == body.replace(b'"b"', b'"c"')
    assert RESPONSES.patch(body, model="b") is body
    options = b'{"stream_options": {"include_usage": false ,"include_obfuscation":false},"model":"a"}'
    assert CHAT.patch(options, add_usage=True) == options.replace(b": false", b": true")
    assert CHAT.patch(b"{}", add_usage=True) == b'{"stream_options":{"include_usage":true}}'
    for dialect in (GEMINI, OTHER):
        assert dialect.patch(body, model="z", add_usage=True) is body


@settings(max_examples=200)
@given(body=OBJECTS, key=KEYS.filter(lambda key: "\\" not in key), value=st.sampled_from([b"1", b'"x"', b"[]"]))
def test_set_member_by_either_way(body: bytes, key: str, value: bytes) -> None:
    """Any member may be set, whichever way its place is found."""
    assert json.loads(splice.set_members(body, {key: value})) == {**json.loads(body), key: json.loads(value)}


@settings(max_examples=200)
@given(items=st.lists(VALUES, max_size=4), gap=SPACE, rest=OBJECTS)
def test_blocks_are_the_items_however_they_are_spaced(items: list[str], gap: str, rest: bytes) -> None:
    """The items are found as they stand, at once or by the slower way, behind repeated and escaped keys too."""
    array = f"[{gap}" + f"{gap},{gap}".join(items) + f"{gap}]"
    inner = rest.decode().strip()[1:-1].strip()
    body = "{" + (inner + "," if inner else "") + f'"messages":{array}' + "}"
    seen = view(CHAT, body.encode())
    assert [block.raw.decode() for block in seen.blocks if block.kind == "message"] == items


def test_a_like_array_elsewhere_is_not_mistaken() -> None:
    """The same items under the same key deeper in the body, or in a repeated key, are left where they are."""
    seen = view(CHAT, b'{"x":{"messages":[1,2]},"messages":[1,2]}')
    assert [block.raw for block in seen.blocks] == [b"1", b"2", b'{"x":{"messages":[1,2]}}']
    repeated = view(CHAT, b'{"messages":[1],"messages":[2],"t":1}')
    assert [block.raw for block in repeated.blocks] == [b"2", b'{"t":1}']


# Errors, as the SDKs themselves read them.


def reply(status: int, body: bytes) -> httpx2.Response:
    return httpx2.Response(status, content=body, headers={"content-type": "application/json"}, request=REQUEST)


REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/x")
STATUSES = (400, 401, 402, 403, 404, 413, 429, 500, 502, 504, 529)


@pytest.mark.parametrize("status", STATUSES)
def test_sdks_read_our_errors(status: int) -> None:
    """Each SDK raises our error body as its own error, with message, code and type where it looks for them."""
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1")
    ours = CHAT.error(status, "insufficient_quota", "no money", "budget_exceeded")
    assert set(json.loads(ours)["error"]) == {"message", "type", "param", "code"}
    raised = client._make_status_error_from_response(reply(status, ours))
    assert (raised.code, raised.type, raised.status_code) == ("budget_exceeded", "insufficient_quota", status)
    claude = anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1")
    failed = claude._make_status_error_from_response(
        reply(status, MESSAGES.error(status, "invalid_request_error", "no money", "budget_exceeded"))
    )
    body: Any = failed.body
    assert failed.status_code == status and body["error"]["details"] == {"error_code": "budget_exceeded"}
    assert body["type"] == "error" and body["error"]["type"].endswith(("_error", "_too_large"))
    with pytest.raises(genai_errors.APIError) as caught:
        genai_errors.APIError.raise_for_response(reply(status, GEMINI.error(status, "k", "no money")))
    assert caught.value.code == status and caught.value.message == "no money"
    assert caught.value.status is not None and caught.value.status.isupper()


def test_budget_refusals_have_the_contract_shapes() -> None:
    """402 as wire.md section 5 fixes it, in all three families."""
    assert json.loads(MESSAGES.error(402, "x", "m", "budget_exceeded"))["error"]["type"] == "billing_error"
    assert json.loads(GEMINI.error(402, "x", "m"))["error"]["status"] == "FAILED_PRECONDITION"
    assert json.loads(RESPONSES.error(402, "insufficient_quota", "m", "budget_exceeded"))["error"] == {
        "message": "m", "type": "insufficient_quota", "param": None, "code": "budget_exceeded",
    }  # fmt: skip


def test_sdks_raise_our_error_events() -> None:
    """In the middle of a stream the SDKs raise our event (Responses: yield it as their error event)."""
    headers = {"content-type": "text/event-stream"}

    def stream(event: bytes) -> httpx2.MockTransport:
        return httpx2.MockTransport(lambda _: httpx2.Response(200, content=event, headers=headers))

    def gpt(event: bytes) -> openai.OpenAI:
        http = httpx2.Client(transport=stream(event))
        return openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=http)

    with pytest.raises(openai.APIError, match="stop"):
        list(gpt(CHAT.error_event("stop", "server_error")).chat.completions.create(model="m", messages=[], stream=True))
    told = list(gpt(RESPONSES.error_event("stop", "server_error")).responses.create(model="m", input="i", stream=True))
    assert [event.type for event in told] == ["error"]
    http = httpx2.Client(transport=stream(MESSAGES.error_event("stop", "overloaded_error")))
    claude = anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1", http_client=http)
    with pytest.raises(anthropic.APIStatusError, match="stop"):
        list(claude.messages.create(model="m", max_tokens=1, messages=[], stream=True))
    http = httpx2.Client(transport=stream(GEMINI.error_event("stop", "INTERNAL")))
    options = genai_types.HttpOptions(base_url="http://127.0.0.1", httpx_client=http)
    with pytest.raises(genai_errors.APIError, match="stop"):
        list(genai.Client(api_key="k", http_options=options).models.generate_content_stream(model="m", contents="x"))


@given(st.integers(60, 95))
def test_a_whole_answer_that_breaks_off_is_taken_to_its_end(share: int) -> None:
    """From its told length: within a fifth of the text that was generated; without a length, what was seen."""
    text = "The quick brown fox jumps over the lazy dog. " * 60
    body = json.dumps({"id": "c", "choices": [{"message": {"content": text}}], "usage": {"x": "y" * 400}}).encode()
    partial = body[: len(body) * share // 100]
    whole = estimate.tokens(estimate.weigh(text.encode()))
    assert abs(peek.spoken(partial, len(body)) - whole) < whole / 5
    assert 0 < peek.spoken(partial, None) <= whole
    assert peek.spoken(b'{"id": "c", "cho', len(body)) == 0
