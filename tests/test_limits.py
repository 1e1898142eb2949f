"""What a body says of its limits, and the edits that budgets make: they change what they must and no other byte."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.sandbox import chat, gemini, messages, responses
from bursar.types import View
from bursar.wire.dialect import OTHER, Dialect
from test_wire import ALL, CHAT, EMBEDDINGS, GEMINI, MESSAGES, RESPONSES, SPACE, VALUES, view

HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
THINKING = {"type": "enabled", "budget_tokens": 2048}
GEM_TOOLS = [{"functionDeclarations": [{"name": "f"}]}]


def thinks(budget: Any) -> dict[str, Any]:
    return {"generationConfig": {"thinkingConfig": {"thinkingBudget": budget}}}


@pytest.mark.parametrize(
    ("dialect", "body", "floor"),
    [
        (CHAT, {"messages": HI}, 1),
        (RESPONSES, {"input": "hi"}, 16),
        (MESSAGES, {"messages": HI, "max_tokens": 4096}, 1),
        (MESSAGES, {"messages": HI, "max_tokens": 4096, "thinking": THINKING}, 2049),
        (MESSAGES, {"messages": HI, "max_tokens": 4096, "thinking": {"type": "adaptive", "budget_tokens": 2048}}, 1),
        (MESSAGES, {"messages": HI, "thinking": {"type": "disabled"}}, 1),
        (MESSAGES, {"messages": HI, "thinking": 7}, 1),
        (GEMINI, {"contents": []}, 1),
        (GEMINI, {"contents": [], **thinks(512)}, 513),
        (GEMINI, {"contents": [], **thinks("512")}, 513),
        (GEMINI, {"contents": [], **thinks(-1)}, 1),
        (GEMINI, {"contents": [], "generation_config": {"thinking_config": {"thinking_budget": 128}}}, 129),
    ],
)
def test_the_smallest_limit_that_a_provider_takes(dialect: Dialect, body: Any, floor: int) -> None:
    """One token, unless the API has a minimum or the request a thinking budget, which the limit must exceed."""
    assert view(dialect, body).output_floor == floor


FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}


@pytest.mark.parametrize(
    ("dialect", "body", "prose"),
    [
        (CHAT, {"messages": HI, "tools": TOOLS, "n": 3}, True),
        (CHAT, {"tool_choice": "auto", "response_format": {"type": "text"}, "modalities": ["text", "audio"]}, True),
        (CHAT, {"tool_choice": "none", "function_call": "auto", "response_format": None, "modalities": None}, True),
        (CHAT, {"response_format": FORM}, False),
        (CHAT, {"response_format": {"type": "json_object"}}, False),
        (CHAT, {"tool_choice": "required"}, False),
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, False),
        (CHAT, {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, True),
        (CHAT, {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}}, False),
        (CHAT, {"function_call": {"name": "f"}}, False),
        (CHAT, {"modalities": ["audio"]}, False),
        (RESPONSES, {"text": {"format": {"type": "text"}, "verbosity": "low"}, "tool_choice": "auto"}, True),
        (RESPONSES, {"text": {"verbosity": "low"}}, True),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}}, False),
        (RESPONSES, {"tool_choice": "required"}, False),
        (RESPONSES, {"tool_choice": {"type": "web_search_preview"}}, False),
        (RESPONSES, {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, True),
        (RESPONSES, {"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}, False),
        (MESSAGES, {"tool_choice": {"type": "auto"}, "output_config": {"effort": "low"}}, True),
        (MESSAGES, {"tool_choice": {"type": "any"}}, False),
        (MESSAGES, {"tool_choice": {"type": "tool", "name": "f"}}, False),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, False),
        (MESSAGES, {"output_format": {"type": "json_schema", "schema": {}}}, False),
        (GEMINI, {"generationConfig": {"responseMimeType": "text/plain", "responseModalities": ["text"]}}, True),
        (GEMINI, {"generationConfig": {"responseMimeType": "application/json"}}, False),
        (GEMINI, {"generation_config": {"response_schema": {"type": "OBJECT"}}}, False),
        (GEMINI, {"generationConfig": {"responseJsonSchema": {}}}, False),
        (GEMINI, {"generationConfig": {"responseModalities": ["AUDIO"]}}, False),
        (GEMINI, {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, False),
        (GEMINI, {"tool_config": {"function_calling_config": {"mode": "VALIDATED"}}}, True),
        (EMBEDDINGS, {"input": "hi"}, False),
        (OTHER, {"prompt": "hi"}, False),
    ],
)
def test_where_a_plain_text_would_do(dialect: Dialect, body: Any, prose: bool) -> None:
    """No structured output, no tool that must be called, no answer without text."""
    assert view(dialect, body).prose is prose


def test_the_limit_is_the_larger_of_two_names() -> None:
    """Whichever of the two a provider goes by, the hold covers it; a number may be written as a string."""
    assert view(CHAT, {"max_completion_tokens": 10, "max_tokens": 90}).max_output_tokens == 90
    assert view(CHAT, {"max_completion_tokens": 90, "max_tokens": 10}).max_output_tokens == 90
    for dialect, body in (
        (GEMINI, {"generationConfig": {"maxOutputTokens": "90", "candidateCount": "2"}}),
        (CHAT, {"max_tokens": "90", "n": "2"}),
    ):
        seen = view(dialect, body)
        assert (seen.max_output_tokens, seen.choices) == (90, 2)


# Edits. Every one is a splice: what stands before and after it is the caller's, byte for byte.


def spliced(before: bytes, after: bytes, key: str, value: str) -> bool:
    """The member's last value was replaced, or the member put first; every other byte is where it was."""
    told = json.loads(before)
    if key not in told:
        return after == before.replace(b"{", f'{{"{key}":{value}{"," if told else ""}'.encode(), 1)
    new = value.encode()
    for at in range(len(after)):
        head, tail = after[:at], after[at + len(new) :]
        if after.startswith(new, at) and before.startswith(head) and before.endswith(tail):
            old = before[len(head) : len(before) - len(tail)]
            if old and json.dumps(told[key]) == _canonical(old):
                return True
    return False


def _canonical(raw: bytes) -> str | None:
    try:
        return json.dumps(json.loads(raw))
    except ValueError:
        return None


LIMITED: dict[str, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
STATED = st.sampled_from(["null", "1", "64", "100", "1e2", "4096", "-1", '"no"', '"64"', "[1]"])


@st.composite
def bodies(draw: st.DrawFn, keys: tuple[str, ...]) -> bytes:
    """JSON objects in any spacing, with the keys given, the same ones escaped, repeated and deeper down."""
    names = st.sampled_from([*keys, keys[0].replace("m", "\\u006d", 1), "messages", "a", "é", f'\\"{keys[0]}'])
    pairs = draw(st.lists(st.tuples(names, STATED | VALUES, SPACE, SPACE), max_size=6))
    return ("{" + ",".join(f'{a}"{k}"{b}:{a}{v}{b}' for k, v, a, b in pairs) + draw(SPACE) + "}").encode()


def counted(value: Any) -> int | None:
    """What a lenient provider may read as a count."""
    if type(value) is str and value.isascii() and value.isdigit():
        return int(value)
    return int(value) if type(value) in (int, float) and value >= 0 and value == int(value) else None


def lowest(before: dict[str, Any], limit: int, keys: tuple[str, ...]) -> dict[str, Any]:
    """What the members are to be, by the rule: all that stand at the limit or below it, else the first put in."""
    stated = [key for key in keys if before.get(key) is not None]
    if not stated:
        return {keys[0]: limit}
    told = {key: counted(before[key]) for key in stated}
    return {key: limit if (n := told[key]) is None or n > limit else before[key] for key in stated}


@pytest.mark.parametrize("dialect", [CHAT, RESPONSES, MESSAGES], ids=lambda dialect: dialect.api)
@settings(max_examples=250)
@given(data=st.data(), limit=st.integers(1, 5000))
def test_the_limit_is_set_and_nothing_else(dialect: Dialect, data: st.DataObject, limit: int) -> None:
    """The caller's own member comes down to the limit, none is ever raised, and a second time changes nothing."""
    keys = LIMITED[dialect.api]
    body = data.draw(bodies(keys))
    before, after = json.loads(body), dialect.patch(body, output_limit=limit)
    wanted = lowest(before, limit, keys)
    assert json.loads(after) == {**before, **wanted}
    told = view(dialect, after).max_output_tokens
    assert told == max(counted(value) or 0 for value in wanted.values()) <= limit
    assert dialect.patch(after, output_limit=limit) is after
    changed = [key for key, value in wanted.items() if key not in before or before[key] is not value]
    assert (after is body) is (changed == [])
    if len(changed) == 1:
        assert spliced(body, after, changed[0], str(limit))


CONFIGS = st.sampled_from(
    [
        "null", "{}", '{"temperature":1.50}', '{ "maxOutputTokens" : 4096 , "topK":1}', '{"max_output_tokens":9000}',
        '{"maxOutputTokens":"9000"}', '{"maxOutputTokens":5}', '{"maxOutputTokens":1,"maxOutputTokens":7000}', "7",
    ]
)  # fmt: skip


@settings(max_examples=250)
@given(
    config=CONFIGS,
    key=st.sampled_from(["generationConfig", "generation_config"]),
    gap=SPACE,
    limit=st.integers(8, 5000),
    absent=st.booleans(),
)
def test_gemini_limit_in_the_callers_spelling(config: str, key: str, gap: str, limit: int, absent: bool) -> None:
    """In the configuration that is there, in either spelling, which is made where there is none."""
    rest = f'"contents":[{gap}{{"parts":[{{"text":"maxOutputTokens"}}]}}]'
    body = ("{" + rest + ("" if absent else f',{gap}"{key}"{gap}:{gap}{config}{gap}') + "}").encode()
    after = GEMINI.patch(body, output_limit=limit)
    before = json.loads(body)
    if before.get(key) == 7:
        assert after is body
        return
    name = "maxOutputTokens" if absent or before.get(key) is None or key == "generationConfig" else "max_output_tokens"
    where = key if before.get(key) is not None else "generationConfig"
    inner = before.get(where) or {}
    own = next((k for k in ("maxOutputTokens", "max_output_tokens") if k in inner), name)
    kept = own in inner and int(inner[own]) <= limit
    assert json.loads(after)[where] == {**inner, own: inner[own] if kept else limit}
    assert view(GEMINI, after).max_output_tokens == (int(inner[own]) if kept else limit)
    assert GEMINI.patch(after, output_limit=limit) is after
    assert rest.encode() in after


@pytest.mark.parametrize(
    ("dialect", "body", "after"),
    [
        (CHAT, {"tools": TOOLS, "parallel_tool_calls": True}, {"tool_choice": "none"}),
        (CHAT, {"tools": TOOLS, "tool_choice": {"type": "function"}}, {"tool_choice": "none"}),
        (CHAT, {"functions": [{"name": "f"}], "function_call": "auto"}, {"function_call": "none"}),
        (CHAT, {"tools": []}, {}),
        (CHAT, {"messages": HI}, {}),
        (RESPONSES, {"tools": [{"type": "web_search"}], "tool_choice": "auto"}, {"tool_choice": "none"}),
        (RESPONSES, {"tools": None}, {}),
        (
            MESSAGES,
            {"tools": [{"name": "f"}], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tool_choice": {"type": "none"}},
        ),
        (MESSAGES, {"messages": HI}, {}),
        (GEMINI, {"tools": GEM_TOOLS}, {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}),
        (
            GEMINI,
            {
                "tools": GEM_TOOLS,
                "tool_config": {
                    "retrieval_config": {"language_code": "de"},
                    "function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"], "stream": True},
                },
            },
            {
                "tool_config": {
                    "retrieval_config": {"language_code": "de"},
                    "function_calling_config": {"mode": "NONE", "stream": True},
                }
            },
        ),
        (GEMINI, {"tools": [{"googleSearch": {}}]}, {}),
        (EMBEDDINGS, {"tools": TOOLS}, {}),
        (OTHER, {"tools": TOOLS}, {}),
    ],
)
def test_tools_off(dialect: Dialect, body: dict[str, Any], after: dict[str, Any]) -> None:
    """No tool may be called where there are any; they stay where they are, byte for byte, and so does all else."""
    raw = json.dumps({"a": 1.50, **body, "z": "\\u00e9"}).encode()
    patched = dialect.patch(raw, tools_off=True)
    assert json.loads(patched) == {**json.loads(raw), **after}
    assert dialect.patch(patched, tools_off=True) is patched
    assert (patched is raw) is (after == {})
    if "tools" in body:
        assert json.dumps(body["tools"]).encode() in patched


NOTE = "Budget left: $0.5."


@settings(max_examples=150)
@given(limit=st.integers(1, 99), off=st.booleans(), note=st.none() | st.just(NOTE), usage=st.booleans())
def test_edits_together_are_the_edits_one_by_one(limit: int, off: bool, note: str | None, usage: bool) -> None:
    """In one pass or each on its own: the same members, and an answer that the view agrees with."""
    body = {"max_tokens": 900, "messages": HI, "tools": TOOLS, "tool_choice": "auto", "model": "a", "input": "hi"}
    raw = json.dumps(body).encode()
    for dialect in (CHAT, RESPONSES, MESSAGES):
        at_once = dialect.patch(raw, model="b", output_limit=limit, tools_off=off, note=note, add_usage=usage)
        one = dialect.patch(raw, model="b")
        one = dialect.patch(one, add_usage=usage)
        one = dialect.patch(one, output_limit=limit)
        one = dialect.patch(one, tools_off=off)
        assert json.loads(dialect.patch(one, note=note)) == json.loads(at_once)
        seen: View = view(dialect, at_once)
        assert (seen.model, seen.max_output_tokens) == ("b", limit)


DECLARED = {"name": "f", "parameters": {"type": "object"}}
READERS: list[tuple[Dialect, Any, dict[str, Any]]] = [
    (CHAT, chat.read, {"messages": HI, "tools": [{"type": "function", "function": DECLARED}]}),
    (RESPONSES, responses.read, {"input": "hi", "tools": [{"type": "function", **DECLARED}]}),
    (
        MESSAGES,
        messages.read,
        {"messages": HI, "max_tokens": 900, "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
    ),
    (
        GEMINI,
        gemini.read,
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "tools": [{"functionDeclarations": [DECLARED]}]},
    ),
]


@pytest.mark.parametrize(("dialect", "read", "body"), READERS, ids=lambda given: getattr(given, "api", ""))
def test_the_sandbox_provider_obeys_the_edits(dialect: Dialect, read: Any, body: dict[str, Any]) -> None:
    """Read as a provider reads it: that limit, no tool, the tools still declared, and a note that costs input."""
    raw = json.dumps({"model": "gpt-4o", **body}).encode()
    before = read(json.loads(raw))
    after = read(json.loads(dialect.patch(raw, output_limit=77, tools_off=True, note=NOTE)))
    assert (after.max_tokens, after.choice, after.tools) == (77, "none", before.tools)
    assert before.choice == "auto" and len(after.tools) == 1
    assert 0 < after.prompt_tokens - before.prompt_tokens < 256


@settings(max_examples=200)
@given(data=st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u00e1nul5.- \n', max_size=40).map(str.encode))
def test_any_bytes_are_edited_or_left(data: bytes) -> None:
    """No bytes make an edit raise; what is no JSON object is left; what is one stays one."""
    frames = (b"%b", b'{"messages":[%b]}', b'{"contents":[{"parts":[%b]}]}', b'{"tools":%b,"input":%b}')
    for frame in frames:
        body = frame.replace(b"%b", data)
        for dialect in ALL:
            patched = dialect.patch(body, output_limit=9, tools_off=True, note=NOTE)
            if view(dialect, body).readable:
                assert isinstance(json.loads(patched), dict)
            else:
                assert patched is body
