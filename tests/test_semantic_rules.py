"""What the semantic cache decides: who meets whom, what is done about a candidate, when two answers are equal."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.rules.semantic import calibrate, choose
from bursar.rules.semantic.choose import Around
from bursar.rules.semantic.equal import equal
from bursar.rules.semantic.question import Question, question
from bursar.rules.semantic.reading import read
from bursar.rules.semantic.score import Neighbour
from bursar.types import Api, Call, Plan, Tags, View
from meanings import policy, rule
from worlds import T0

PLANS = (Plan(provider="openai", model="gpt-4o"),)
TEXT = "How do I reverse a list?"
BODIES: dict[Api, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": TEXT}]},
    "responses": {"model": "m", "instructions": "S", "input": TEXT},
    "messages": {"model": "m", "max_tokens": 9, "system": "S", "messages": [{"role": "user", "content": TEXT}]},
    "gemini": {"systemInstruction": {"parts": [{"text": "S"}]}, "contents": [{"parts": [{"text": TEXT}]}]},
}
BULK = {"chat": "messages", "responses": "input", "messages": "messages", "gemini": "contents"}
PATHS = {"gemini": "/models/m:generateContent"}


def asked(api: Api, body: Any, tags: Tags | None = None, **changes: Any) -> Question | None:
    told = {"view": View(model="m"), "tags": tags or Tags(user_id="u", step="ask"), **changes}
    call = Call("req_1", api, told["view"], json.dumps(body).encode(), (), PATHS.get(api, "/x"), told["tags"], T0)
    return question(call, PLANS[0], policy(rule(**changes.get("rule", {}))))


def must(found: Question | None) -> Question:
    assert found is not None
    return found


def saying(api: Api, text: str) -> dict[str, Any]:
    return json.loads(json.dumps(BODIES[api]).replace(TEXT, text))  # type: ignore[no-any-return]


@pytest.mark.parametrize("api", BODIES)
def test_only_the_last_user_text_is_no_wall(api: Api) -> None:
    one, other = must(asked(api, BODIES[api])), must(asked(api, saying(api, "What is a tuple?")))
    assert one.text == TEXT and other.text == "What is a tuple?"
    assert (one.partition, one.pool) == (other.partition, other.pool)
    assert one.key != other.key


PARTS: dict[Api, Any] = {
    "chat": [{"type": "text", "text": TEXT}],
    "messages": [{"type": "text", "text": TEXT, "cache_control": {"type": "ephemeral"}}],
}


@pytest.mark.parametrize("api", PARTS)
def test_a_text_in_parts_is_the_same_text(api: Api) -> None:
    body = saying(api, TEXT)
    body["messages"][-1]["content"] = PARTS[api]
    assert must(asked(api, body)).partition == must(asked(api, BODIES[api])).partition


names = st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda name: name not in ("user", "store", "stream", "n"))
values = st.one_of(st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.lists(st.integers(0, 3), max_size=2))


@given(api=st.sampled_from(list(BODIES)), name=names, value=values)
@settings(max_examples=150, deadline=None)
def test_any_other_member_is_a_wall(api: Api, name: str, value: Any) -> None:
    """System text, tools, parameters, unknown members: whatever differs keeps two questions apart."""
    known = must(asked(api, BODIES[api]))
    if name in BODIES[api]:
        return
    other = must(asked(api, {**BODIES[api], name: value}))
    assert other.partition != known.partition and other.pool != known.pool


@given(api=st.sampled_from(list(BODIES)), said=st.text("ab c", min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_conversation_before_is_a_wall(api: Api, said: str) -> None:
    """But not for labels: they are pooled over conversations."""
    before: dict[Api, Any] = {"gemini": {"role": "user", "parts": [{"text": said}]}}
    last = saying(api, TEXT)[BULK[api]]
    turns = [{"role": "user", "content": last}] if isinstance(last, str) else last
    longer = {**BODIES[api], BULK[api]: [before.get(api, {"role": "user", "content": said}), *turns]}
    one, other = must(asked(api, BODIES[api])), must(asked(api, longer))
    assert one.partition != other.partition
    assert one.pool == other.pool


ids = st.sampled_from([None, "u1", "u2"])


@given(st.sampled_from(["t1", "t2"]), ids, ids, st.sampled_from(["t1", "t2"]), ids, ids,
       st.sampled_from(["user", "session", "tenant", "global"]))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_two_callers_meet_only_within_their_scope(
    tenant: str,
    user: str | None,
    session: str | None,
    tenant2: str,
    user2: str | None,
    session2: str | None,
    scope: Any,
) -> None:
    """Never across tenants; a missing id of the scope asks nothing."""
    found = [
        asked("chat", BODIES["chat"], Tags(tenant=t, user_id=u, session_id=s, step="ask"), rule={"scope": scope})
        for t, u, s in ((tenant, user, session), (tenant2, user2, session2))
    ]
    own = {"user": (user, user2), "session": (session, session2)}.get(scope, ("", ""))
    assert [one is None for one in found] == [part is None for part in own]
    if None not in found:
        same = tenant == tenant2 and own[0] == own[1]
        assert (must(found[0]).partition == must(found[1]).partition) == same


def test_an_untrusted_id_is_the_keys_own() -> None:
    """A caller's word never widens a scope: whoever comes in on the key is one."""
    tags = [Tags(user_id=user, step="ask", key_id="k", trusted=frozenset(("step",))) for user in ("a", "b", None)]
    assert len({must(asked("chat", BODIES["chat"], one)).partition for one in tags}) == 1


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
NOT_PLAIN: list[tuple[Api, Any]] = [
    ("chat", [{"role": "user", "content": [{"type": "text", "text": TEXT}, IMAGE]}]),
    ("chat", [{"role": "assistant", "content": TEXT}]),
    ("chat", [{"role": "assistant", "tool_calls": [{}]}, {"role": "user", "content": TEXT}]),
    ("chat", [{"role": "tool", "content": "42"}, {"role": "user", "content": TEXT}]),
    ("chat", []),
    ("chat", "text"),
    ("chat", [{"role": "user", "content": 3}]),
    ("messages", [{"role": "user", "content": [{"type": "tool_result", "content": "42"}]}]),
    ("messages", [{"role": "assistant", "content": [{"type": "tool_use"}]}, {"role": "user", "content": TEXT}]),
    (
        "responses",
        [{"type": "function_call_output", "call_id": "1", "output": "42"}, {"role": "user", "content": TEXT}],
    ),
    ("responses", [{"type": "item_reference", "id": "1", "role": "user", "content": TEXT}]),
    ("gemini", [{"parts": [{"functionResponse": {}}]}, {"parts": [{"text": TEXT}]}]),
    ("gemini", [{"parts": [{"inlineData": {}}, {"text": TEXT}]}]),
]


@pytest.mark.parametrize(("api", "bulk"), NOT_PLAIN)
def test_what_is_no_plain_question_asks_nothing(api: Api, bulk: Any) -> None:
    assert asked(api, {**BODIES[api], BULK[api]: bulk}) is None


@given(st.sampled_from(get_args(Api)), st.recursive(values, lambda part: st.dictionaries(names, part) | st.lists(part)))
@settings(max_examples=150, deadline=None)
def test_nonsense_asks_nothing_and_raises_nothing(api: Api, body: Any) -> None:
    assert asked(api, body) is None


# --- what is done


def near(text: str, cosine: float, answer: str = "a1", **marks: int) -> Neighbour:
    return Neighbour("1", answer, cosine, read(text), **marks)


def around(text: str, *neighbours: Neighbour, **more: Any) -> Around:
    return Around(read(text), (), neighbours, more.pop("state", None), **more)


def decision(found: Around, **changes: Any) -> str | None:
    told = must(asked("chat", BODIES["chat"], rule=changes))
    choice = choose.choose(told, found, "req_1")
    return None if choice is None else choice.decision


@pytest.mark.parametrize(
    ("stored", "cosine", "changes", "expected"),
    [
        (TEXT, 0.95, {}, "serve"),
        (TEXT, 0.91, {}, None),
        (TEXT, 0.91, {"threshold": 0.9}, "serve"),
        ("How do I reverse 2 lists?", 0.99, {}, None),
        ("How do I reverse a string?", 0.99, {}, "serve"),
        ("How do I reverse a string?", 0.99, {"strict": True}, None),
        (TEXT, 0.95, {"mode": "shadow"}, "audit"),
        (TEXT, 0.99, {"max_error": 0.05}, "ask"),
        ("Totally other words 7", 0.1, {"max_error": 0.05}, None),
    ],
)
def test_the_decision(stored: str, cosine: float, changes: dict[str, Any], expected: str | None) -> None:
    """Fixed: cosine and guard; bounded: asked until certified; shadow: asked where it would have been served."""
    assert decision(around(TEXT, near(stored, cosine)), **changes) == expected


def test_a_banned_text_is_not_answered() -> None:
    assert decision(around(TEXT, near(TEXT, 1.0), banned=True)) is None


def certified(**changes: Any) -> calibrate.Calibration:
    return msgspec.structs.replace(calibrate.begin(0.05, "bursar"), threshold=0.5, **changes)


def test_the_floor_holds_whatever_was_learned() -> None:
    found = around(TEXT, near(TEXT, 0.9, confirmed=9), state=certified())
    assert decision(found, max_error=0.05) in ("serve", "audit")
    assert decision(found, max_error=0.05, threshold=0.95) == "ask"


def test_another_target_certifies_anew_and_keeps_the_labels() -> None:
    """A threshold that was learned for one promise is not used for another."""
    state = certified(labels=(calibrate.Label(b"\x80" * 15, True, False),))
    told = must(asked("chat", BODIES["chat"], rule={"max_error": 0.01}))
    changed = choose.state(told, state)
    assert changed.threshold is None and changed.labels == state.labels
    same = must(asked("chat", BODIES["chat"], rule={"max_error": 0.05}))
    assert choose.state(same, state) is state


# --- labels


def chat_body(text: str | None) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.mark.parametrize(
    ("stored", "fresh", "label"),
    [
        ('{"a": 1, "b": "X y"}', '{ "b":"x  Y", "a":1.0 }', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": true}', '{"a": 1}', False),
        ('```json\n{"a": 1}\n```', '{"a": 1}', True),
        ('{"a": 1}', "I do not know", False),
        ("Invoice.", "invoice", True),
        ("invoice", "It is an invoice", False),
        ("It is an invoice", "It is an invoice", None),
        ("It is an invoice", "invoice", None),
        (None, "invoice", None),
        ("invoice", None, None),
    ],
)
def test_a_label_is_equality_of_structured_answers(stored: str | None, fresh: str | None, label: bool | None) -> None:
    """Whether there is one depends on the stored answer's form alone: else only equal answers would be counted."""
    assert equal("chat", TEXT, chat_body(stored), chat_body(fresh), None) is label


def test_a_judge_is_asked_where_the_answer_is_prose() -> None:
    heard: list[tuple[str, str, str]] = []

    def judge(question: str, old: str, new: str) -> bool:
        heard.append((question, old, new))
        return True

    assert equal("chat", TEXT, chat_body("one two"), chat_body("two one"), judge) is True
    assert equal("chat", TEXT, chat_body("one"), chat_body("two"), judge) is False
    assert heard == [(TEXT, "one two", "two one")]


SAID: dict[Api, Any] = {
    "chat": {"choices": [{"message": {"content": "yes"}}]},
    "responses": {"output": [{"type": "reasoning"}, {"type": "message", "content": [{"text": "yes"}]}]},
    "messages": {"content": [{"type": "thinking", "thinking": "no"}, {"type": "text", "text": "yes"}]},
    "gemini": {"candidates": [{"content": {"parts": [{"text": "no", "thought": True}, {"text": "yes"}]}}]},
}


@pytest.mark.parametrize("api", SAID)
def test_every_dialects_answer_is_read(api: Api) -> None:
    body = json.dumps(SAID[api]).encode()
    assert equal(api, TEXT, body, body, None) is True
    assert equal(api, TEXT, b"{}", body, None) is None
    assert equal(api, TEXT, body, b"[1", None) is None
