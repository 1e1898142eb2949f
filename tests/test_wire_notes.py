"""The note that tells a model its budget: the very end of the prompt, before which no byte is another."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.wire import splice
from bursar.wire.dialect import OTHER, Dialect
from test_limits import HI, THINKING
from test_wire import CHAT, EMBEDDINGS, GEMINI, MESSAGES, RESPONSES, SPACE, VALUES

NOTE = 'Budget left: $0.5 "now".'
MARK = {"cache_control": {"type": "ephemeral"}}
SAID = {"type": "text", "text": NOTE}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}], **MARK}
ANSWER = {"functionResponse": {"name": "f", "response": {}}}


@pytest.mark.parametrize(
    ("dialect", "body", "end"),
    [
        (CHAT, {"messages": HI}, [*HI, {"role": "system", "content": NOTE}]),
        (
            CHAT,
            {"messages": [{"role": "developer", "content": "d"}, *HI]},
            [{"role": "developer", "content": "d"}, *HI, {"role": "developer", "content": NOTE}],
        ),
        (RESPONSES, {"input": "hi"}, [*HI, {"role": "system", "content": NOTE}]),
        (
            RESPONSES,
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}], "previous_response_id": "r"},
            [
                {"type": "function_call_output", "call_id": "c", "output": "o"},
                {"role": "system", "content": NOTE},
            ],
        ),
        (MESSAGES, {"messages": HI}, [{"role": "user", "content": [{"type": "text", "text": "hi"}, SAID]}]),
        (
            MESSAGES,
            {"messages": [*HI, {"role": "assistant", "content": "a"}, {"role": "user", "content": [RESULT]}]},
            [*HI, {"role": "assistant", "content": "a"}, {"role": "user", "content": [RESULT, SAID]}],
        ),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [{**SAID, **MARK}]}], "thinking": THINKING},
            [{"role": "user", "content": [{**SAID, **MARK}, SAID]}],
        ),
        (
            GEMINI,
            {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
            [{"role": "user", "parts": [{"text": "hi"}, {"text": NOTE}]}],
        ),
        (
            GEMINI,
            {"contents": [{"role": "user", "parts": [ANSWER]}]},
            [{"role": "user", "parts": [ANSWER]}, {"role": "user", "parts": [{"text": NOTE}]}],
        ),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_the_note_is_the_end_of_the_prompt(
    dialect: Dialect, body: dict[str, Any], end: list[Any], indent: int | None
) -> None:
    """The last thing that the model reads; all that stood before it, cache marks too, stands as it was."""
    bulk = next(key for key in ("messages", "input", "contents") if key in body)
    raw = json.dumps({"model": "m", **body, "z": 1.0}, indent=indent).encode()
    patched = dialect.patch(raw, note=NOTE)
    assert json.loads(patched) == {**json.loads(raw), bulk: end}
    kept = patched
    for piece in _pieces(json.dumps(NOTE).encode(), raw):
        assert piece in kept
        kept = kept[kept.index(piece) + len(piece) :]


def _pieces(note: bytes, raw: bytes) -> list[bytes]:
    """The caller's bytes, cut only where brackets may have been put in (a string that became an array) or the note."""
    return [piece for piece in raw.replace(b'"hi"', b'\0"hi"\0').replace(b"]", b"\0]\0").split(b"\0") if piece]


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (CHAT, {"messages": []}),
        (CHAT, {"messages": "hi"}),
        (CHAT, {}),
        (RESPONSES, {"prompt": {"id": "p"}}),
        (RESPONSES, {"input": "hi", "conversation": "c"}),
        (MESSAGES, {"messages": HI, "cache_control": {"type": "ephemeral"}}),
        (MESSAGES, {"messages": [*HI, {"role": "assistant", "content": "It"}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": [RESULT]}], "thinking": THINKING}),
        (MESSAGES, {"messages": [{"role": "user", "content": []}]}),
        (MESSAGES, {"messages": [7]}),
        (GEMINI, {"contents": [{"role": "model", "parts": [{"text": "It"}]}]}),
        (GEMINI, {"contents": [{"role": "user"}]}),
        (GEMINI, {"contents": {}}),
        (EMBEDDINGS, {"input": "hi"}),
        (OTHER, {"messages": HI}),
    ],
)
def test_no_note_where_it_would_harm(dialect: Dialect, body: dict[str, Any]) -> None:
    """An end that the provider would cache, an answer to be continued, a conversation that would keep it, no prompt."""
    raw = json.dumps(body).encode()
    assert dialect.patch(raw, note=NOTE) is raw


@settings(max_examples=250)
@given(items=st.lists(VALUES, max_size=4), gap=SPACE, note=st.text(max_size=9))
def test_a_note_behind_any_messages(items: list[str], gap: str, note: str) -> None:
    """However the messages are written and spaced, they stand unchanged before it."""
    array = f"[{gap}" + f"{gap},{gap}".join(items) + f"{gap}]"
    body = f'{{"messages":{array},"n":1.0}}'.encode()
    patched = CHAT.patch(body, note=note)
    if not items:
        assert patched is body
        return
    added = json.loads(patched)["messages"][-1]
    assert added["content"] == note and added["role"] in ("system", "developer")
    assert patched.startswith(body[: body.rindex(b"]")]) and patched.endswith(b'],"n":1.0}')
    assert json.loads(patched)["messages"][:-1] == json.loads(body)["messages"]


@settings(max_examples=250)
@given(content=VALUES, head=st.lists(VALUES, max_size=2), gap=SPACE, role=st.sampled_from(["user", "model"]))
def test_a_note_inside_any_last_message(content: str, head: list[str], gap: str, role: str) -> None:
    """Whatever the last message holds, it is put behind its parts or not at all, and the messages before it stay."""
    for dialect, bulk, member in ((MESSAGES, "messages", "content"), (GEMINI, "contents", "parts")):
        last = f'{{{gap}"role":"{role}",{gap}"{member}"{gap}:{content}{gap}}}'
        body = f'{{"{bulk}":[{gap}' + f"{gap},{gap}".join([*head, last]) + f'{gap}],"n":1.0}}'
        patched = dialect.patch(body.encode(), note=NOTE)
        before, after = json.loads(body), json.loads(patched)
        held = json.loads(content)
        if role == "user" and held != [] and isinstance(held, list if dialect is GEMINI else list | str):
            assert after[bulk][: len(head)] == before[bulk][: len(head)]
            assert after[bulk][-1][member][-1]["text"] == NOTE and len(after[bulk]) == len(before[bulk])
            assert after["n"] == 1.0
        else:
            assert patched == body.encode()


@given(items=st.lists(VALUES, max_size=4), gap=SPACE)
def test_arrays_are_spliced(items: list[str], gap: str) -> None:
    """One more item at the end, and the last item replaced, whatever the spacing."""
    array = (f"[{gap}" + f"{gap},{gap}".join([*items, '{"a":1}']) + f"{gap}]").encode()
    assert json.loads(splice.append(array, b"7")) == [*json.loads(array), 7]
    assert json.loads(splice.set_last(array, b'{"a":1}', b"[]")) == [*json.loads(array)[:-1], []]
    assert splice.append(f"[{gap}]".encode(), b"7") == f"[{gap}7]".encode()
