"""What a request asks of a model beside its text, read from bodies that the real SDKs have built; total on anything."""

import base64
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import msgspec
import openai
import pytest
from google import genai
from google.genai import types as genai_types
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from bursar.policy.steps import Feature
from bursar.rules.route.known import Asked
from bursar.types import Api
from bursar.wire.needs import asked

PIXEL = base64.b64encode(b"\x89PNG").decode()
URL = f"data:image/png;base64,{PIXEL}"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STRUCTURED: frozenset[Feature] = frozenset({"structured"})
HI: Any = [{"role": "user", "content": "hi"}]
APIS: tuple[Api, ...] = ("chat", "responses", "messages", "gemini", "embeddings", "other")


class Place(BaseModel):
    city: str
    days: int | None = None


class Trip(BaseModel):
    places: list[Place] = Field(default_factory=list)
    home: Place


class Caught(Exception):
    def __init__(self, body: bytes) -> None:
        self.body = body


def _catch(request: Any) -> Any:
    raise Caught(request.content)


def sent(ask: Callable[[], object]) -> bytes:
    """The body that an SDK would have sent."""
    try:
        ask()
    except Exception as fault:
        found: BaseException | None = fault
        while found is not None:
            if isinstance(found, Caught):
                return found.body
            found = found.__cause__ or found.__context__
        raise
    raise AssertionError("nothing was sent")


HTTP = httpx.Client(transport=httpx.MockTransport(_catch))
HTTP2 = httpx2.Client(transport=httpx2.MockTransport(_catch))
OPENAI = openai.OpenAI(api_key="k", http_client=HTTP2, max_retries=0)
ANTHROPIC = anthropic.Anthropic(api_key="k", http_client=HTTP2, max_retries=0)
GEMINI = genai.Client(api_key="k", http_options=genai_types.HttpOptions(httpx_client=HTTP))


def chat(**more: Any) -> Asked:
    told = {"model": "gpt-4o", "messages": HI, **more}
    return asked("chat", sent(lambda: OPENAI.chat.completions.create(**told)))


def responses(**more: Any) -> Asked:
    return asked("responses", sent(lambda: OPENAI.responses.create(**{"model": "gpt-4o", "input": "hi", **more})))


def messages(**more: Any) -> Asked:
    told = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": HI, **more}
    return asked("messages", sent(lambda: ANTHROPIC.messages.create(**told)))


def gemini(contents: Any = "hi", **config: Any) -> Asked:
    told = genai_types.GenerateContentConfig(**config)
    body = sent(lambda: GEMINI.models.generate_content(model="gemini-2.5-flash", contents=contents, config=told))
    return asked("gemini", body)


def user(*parts: Any) -> Any:
    return [{"role": "user", "content": [*parts]}]


@pytest.mark.parametrize("plain", [chat, responses, messages, gemini])
def test_plain_text_asks_nothing(plain: Callable[[], Asked]) -> None:
    assert plain() == Asked()


class TestMedia:
    @pytest.mark.parametrize(
        ("part", "kind"),
        [
            ({"type": "image_url", "image_url": {"url": URL}}, "image"),
            ({"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}}, "audio"),
            ({"type": "file", "file": {"filename": "a.pdf", "file_data": URL}}, "file"),
        ],
    )
    def test_chat(self, part: Any, kind: str) -> None:
        assert chat(messages=user({"type": "text", "text": "look"}, part)).inputs == {"text", kind}

    @pytest.mark.parametrize(
        ("part", "kind"),
        [
            ({"type": "input_image", "image_url": URL, "detail": "auto"}, "image"),
            ({"type": "input_file", "filename": "a.pdf", "file_data": URL}, "file"),
        ],
    )
    def test_responses(self, part: Any, kind: str) -> None:
        assert responses(input=user({"type": "input_text", "text": "look"}, part)).inputs == {"text", kind}
        result = {"type": "function_call_output", "call_id": "c", "output": [part]}
        assert responses(input=[result]).inputs == {"text", kind}

    @pytest.mark.parametrize(("name", "kind"), [("image", "image"), ("document", "file")])
    def test_messages(self, name: str, kind: str) -> None:
        """Also inside a tool's result."""
        part = {"type": name, "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
        assert messages(messages=user(part)).inputs == {"text", kind}
        result = {"type": "tool_result", "tool_use_id": "t", "content": [part]}
        assert messages(messages=user(result)).inputs == {"text", kind}

    @pytest.mark.parametrize(
        ("mime", "kind"),
        [("image/png", "image"), ("audio/wav", "audio"), ("video/mp4", "video"), ("application/pdf", "file")],
    )
    def test_gemini(self, mime: str, kind: str) -> None:
        """Inline or by address; in either spelling of the format's names."""
        inline = genai_types.Part.from_bytes(data=b"x", mime_type=mime)
        by_address = genai_types.Part.from_uri(file_uri="https://files.test/x", mime_type=mime)
        assert gemini([inline]).inputs == gemini([by_address]).inputs == {"text", kind}
        snake = {"contents": [{"parts": [{"inline_data": {"mime_type": mime, "data": "eA=="}}]}]}
        assert asked("gemini", msgspec.json.encode(snake)).inputs == {"text", kind}

    def test_what_a_tool_was_called_with_is_no_media(self) -> None:
        """Its arguments may look like a part."""
        call = {"type": "tool_use", "id": "t", "name": "draw", "input": {"content": [{"type": "image"}]}}
        assert messages(messages=[{"role": "assistant", "content": [call]}]).inputs == {"text"}


CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
RESPONSES_TOOL = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
MESSAGES_TOOL = {"name": "f", "input_schema": SCHEMA}
GEMINI_TOOL = genai_types.Tool(function_declarations=[genai_types.FunctionDeclaration(name="f")])
ALLOWED: Any = {"mode": "required", "tools": [{"type": "function", "name": "f"}]}


def mode(name: Any) -> genai_types.ToolConfig:
    return genai_types.ToolConfig(function_calling_config=genai_types.FunctionCallingConfig(mode=name))


class TestTools:
    @pytest.mark.parametrize(
        "ask",
        [
            lambda: chat(tools=[CHAT_TOOL]), lambda: chat(tools=[CHAT_TOOL], tool_choice="auto"),
            lambda: chat(functions=[{"name": "f", "parameters": SCHEMA}]),
            lambda: responses(tools=[RESPONSES_TOOL], tool_choice="none"),
            lambda: messages(tools=[MESSAGES_TOOL], tool_choice={"type": "auto"}),
            lambda: messages(tools=[MESSAGES_TOOL], tool_choice={"type": "none"}),
            lambda: gemini(tools=[GEMINI_TOOL]), lambda: gemini(tools=[GEMINI_TOOL], tool_config=mode("AUTO")),
            lambda: chat(tools=[CHAT_TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": {
                **ALLOWED, "mode": "auto"}}),
        ],
    )  # fmt: skip
    def test_offered(self, ask: Callable[[], Asked]) -> None:
        assert ask().features == {"tools"}

    @pytest.mark.parametrize(
        "ask",
        [
            lambda: chat(tools=[CHAT_TOOL], tool_choice="required"),
            lambda: chat(tools=[CHAT_TOOL], tool_choice={"type": "function", "function": {"name": "f"}}),
            lambda: chat(tools=[CHAT_TOOL], tool_choice={"type": "custom", "custom": {"name": "f"}}),
            lambda: chat(functions=[{"name": "f"}], function_call={"name": "f"}),
            lambda: chat(tools=[CHAT_TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": ALLOWED}),
            lambda: responses(tools=[RESPONSES_TOOL], tool_choice={"type": "function", "name": "f"}),
            lambda: responses(tools=[RESPONSES_TOOL], tool_choice={"type": "allowed_tools", **ALLOWED}),
            lambda: responses(tools=[{"type": "web_search"}], tool_choice={"type": "web_search"}),
            lambda: messages(tools=[MESSAGES_TOOL], tool_choice={"type": "any"}),
            lambda: messages(tools=[MESSAGES_TOOL], tool_choice={"type": "tool", "name": "f"}),
            lambda: gemini(tools=[GEMINI_TOOL], tool_config=mode("ANY")),
        ],
    )  # fmt: skip
    def test_forced(self, ask: Callable[[], Asked]) -> None:
        assert ask().features == {"tools", "forced_tool"}


class TestSampling:
    @pytest.mark.parametrize(
        "ask",
        [
            lambda: chat(temperature=0), lambda: chat(top_p=0.5), lambda: responses(temperature=0.2),
            lambda: messages(extra_body={"temperature": 0.0}), lambda: messages(extra_body={"top_k": 3}),
            lambda: gemini(temperature=0.0), lambda: gemini(top_p=0.5), lambda: gemini(top_k=3),
        ],
    )  # fmt: skip
    def test_other_than_the_default(self, ask: Callable[[], Asked]) -> None:
        """Models that reason refuse a request that states it."""
        assert ask().features == {"sampling"}

    @pytest.mark.parametrize(
        "ask",
        [
            lambda: chat(temperature=1),
            lambda: messages(extra_body={"temperature": 1.0}),
            lambda: gemini(temperature=1.0),
        ],
    )
    def test_the_default_asks_nothing(self, ask: Callable[[], Asked]) -> None:
        assert ask().features == frozenset()


def parsed(api: Api, model: type[BaseModel]) -> Asked:
    """By each SDK's own way from a pydantic model to a schema."""
    asks: dict[str, Callable[[], object]] = {
        "chat": lambda: OPENAI.chat.completions.parse(model="gpt-4o", messages=HI, response_format=model),
        "responses": lambda: OPENAI.responses.parse(model="gpt-4o", input="hi", text_format=model),
        "messages": lambda: ANTHROPIC.messages.parse(
            model="claude-haiku-4-5", max_tokens=10, messages=HI, output_format=model
        ),
        "gemini": lambda: GEMINI.models.generate_content(
            model="gemini-2.5-flash", contents="hi", config={"response_schema": model,
                                                             "response_mime_type": "application/json"}
        ),
    }  # fmt: skip
    return asked(api, sent(asks[api]))


class TestSchemas:
    @pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
    def test_a_flat_one(self, api: Api) -> None:
        """Two scalars, one of them optional."""
        found = parsed(api, Place)
        assert (found.features, (found.fields, found.nested)) == (STRUCTURED, (2, False))

    @pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
    def test_one_of_lists_and_objects(self, api: Api) -> None:
        found = parsed(api, Trip)
        assert (found.features, (found.fields, found.nested)) == (STRUCTURED, (0, True))

    def test_json_without_a_schema_is_not_enforced(self) -> None:
        assert chat(response_format={"type": "json_object"}) == Asked()
        assert gemini(response_mime_type="application/json") == Asked()

    @pytest.mark.parametrize(
        ("properties", "fields", "nested"),
        [
            ({"a": {"type": ["string", "null"]}, "b": {"enum": ["x", "y"]}}, 2, False),
            ({"a": {"type": ["array", "null"]}}, 0, True),
            ({"a": {"$ref": "#/$defs/A"}, "b": {"type": "number"}}, 1, True),
            ({"a": {"anyOf": [{"type": "object"}, {"type": "null"}]}}, 0, True),
            ({"a": True}, 0, True),
        ],
    )
    def test_what_counts_as_scalar(self, properties: Any, fields: int, nested: bool) -> None:
        schema = {"name": "s", "schema": {"type": "object", "properties": properties}}
        found = chat(response_format={"type": "json_schema", "json_schema": schema})
        assert (found.fields, found.nested) == (fields, nested)

    def test_a_list_at_the_top_is_nested(self) -> None:
        config = {"type": "json_schema", "schema": {"type": "array", "items": SCHEMA}}
        found = messages(extra_body={"output_config": {"format": config}})
        assert (found.features, (found.fields, found.nested)) == (STRUCTURED, (None, True))


class TestPinned:
    @pytest.mark.parametrize(
        ("ask", "word"),
        [
            (lambda: responses(previous_response_id="resp_1"), "previous_response_id"),
            (lambda: messages(messages=[*HI, {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"}]}, *HI]), "thinking"),
            (lambda: gemini(cached_content="cachedContents/1"), "cachedContent"),
        ],
    )  # fmt: skip
    def test_what_only_one_model_can_go_on_with(self, ask: Callable[[], Asked], word: str) -> None:
        assert word in (ask().pinned or "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "content", "parts", "output", "text", "format", "schema", "json_schema", "properties", "anyOf",
                 "mode", "inlineData", "mimeType", "allowed_tools", "functionCallingConfig", "enum"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)  # fmt: skip
MEMBERS = [
    "messages", "input", "contents", "tools", "functions", "function_call", "tool_choice", "toolConfig",
    "response_format", "output_config", "output_format", "text", "generationConfig", "temperature", "top_k",
]  # fmt: skip


@given(st.sampled_from(APIS), st.dictionaries(st.sampled_from(MEMBERS), json_values, max_size=6))
def test_any_json_object_is_read(api: Api, body: dict[str, Any]) -> None:
    """Whatever stands where: an answer, and text is always in it."""
    found = asked(api, json.dumps(body).encode())
    assert "text" in found.inputs and (found.fields is None or found.fields >= 0)
    assert ("tools" in found.features) == bool(body.get("tools") or body.get("functions"))


@given(st.sampled_from(APIS), st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read(api: Api, body: bytes) -> None:
    """Of what is no JSON object nothing is known, and nothing is asked."""
    found = asked(api, body)
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        whole = None
    assert isinstance(whole, dict) or found == Asked()


@pytest.mark.parametrize("api", APIS)
def test_however_deep_it_nests(api: Api) -> None:
    for member in (b"messages", b"response_format", b"tool_choice"):
        deep = b'{"%s":' % member + b'{"content":[' * 600 + b"]}" * 600 + b"}"
        assert asked(api, deep).inputs == {"text"}
    assert asked(api, b'{"input":' + b"[" * 100_000) == Asked()
