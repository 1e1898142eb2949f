"""Whatever a user gives as a validator: what it becomes, what it says of an answer, and what is no validator."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum, StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, field_validator

from bursar.doors.validators import imported, validators
from bursar.policy import Check, Consistency, JudgePrompt, Margin
from bursar.rules.validate import raised, said
from bursar.types import Answer, Judgement, ToolCall


class Parties(BaseModel):
    model_config = ConfigDict(strict=True)

    buyer: str
    amount: int
    signed: date | None = None

    @field_validator("amount")
    @classmethod
    def _positive(cls, amount: int) -> int:
        if amount <= 0:
            raise ValueError("nothing is bought")
        return amount


@dataclass
class Point:
    x: int


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Numbers(Enum):
    ONE = 1


SOUND = '{"buyer": "a", "amount": 2, "signed": "2026-01-01"}'


def check(given: object, minimum: float = 0.5) -> Check:
    (found,) = validators(given, minimum)
    assert isinstance(found, Check)
    return found


def judge(given: object, text: str, minimum: float = 0.5) -> Judgement:
    """What the engine makes of it, exceptions as well."""
    found = check(given, minimum)
    try:
        return said(found.run(Answer(text=text, finish_reason="stop")), found.minimum)
    except Exception as error:
        return raised(error)


@pytest.mark.parametrize(
    ("given", "name", "good", "bad"),
    [
        (Parties, "Parties", SOUND, '{"buyer": "a"}'),
        (Parties, "Parties", f"```json\n{SOUND}\n```", "```json\n{}\n```"),
        (Point, "Point", '{"x": 1}', '{"x": "one"}'),
        (list[Point], "list", '[{"x": 1}, {"x": 2}]', '{"x": 1}'),
        (Size, "labels", "Small.", "medium"),
        (Literal["yes", "no"], "labels", "yes", "maybe"),
        (["yes", "no"], "labels", " NO ", "never"),
        ({"yes", "no"}, "labels", "yes", "y"),
        ({"type": "object"}, "json_schema", "{}", "[]"),
        (re.compile(r"\AA-\d+\Z", re.I), "regex", "a-12", "b-12"),
        (lambda text: "x" in text, "<lambda>", "x", "y"),
        (str.isdigit, "str.isdigit", "12", "1a"),
        (functools.partial(re.fullmatch, "a+"), "partial", None, None),
    ],
)
def test_what_it_becomes(given: object, name: str, good: str | None, bad: str | None) -> None:
    """A named check that passes what is sound, and gives a reason for what is not."""
    assert check(given).name.rpartition(".<locals>.")[2] == name
    if good is not None and bad is not None:
        assert judge(given, good).ok is True
        verdict = judge(given, bad)
        assert verdict.ok is False and verdict.reason


def test_a_model_tells_what_is_wrong_and_where() -> None:
    """For the same model to mend; the reader of JSON is pydantic's, so that a date is one even in a strict model."""
    verdict = judge(Parties, '{"buyer": 1, "amount": 0, "more": {}}')
    assert verdict.repairable and verdict.retry_hint == verdict.reason
    assert verdict.reason.startswith("buyer: Input should be a valid string; amount: Value error, nothing is bought")
    for text in ("Sure! Here it is.", "", '{"buyer": ', "```\nno\n```", "[" * 100_000):
        verdict = judge(Parties, text)
        assert (verdict.ok, verdict.repairable) == (False, True)
        assert verdict.reason.startswith("not JSON")
    assert judge(Parties, "[]").reason.startswith("$: ")


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["buyer", "amount"]), inner),
        max_leaves=6,
    )
)
def test_a_model_passes_what_pydantic_reads_and_nothing_else(value: Any) -> None:
    """Alone or in a fence."""
    text = json.dumps(value)
    try:
        Parties.model_validate_json(text)
        sound = True
    except ValueError:
        sound = False
    assert judge(Parties, text).ok is sound
    assert judge(Parties, f"```json\n{text}\n```").ok is sound


# --- functions


def plain(s):  # type: ignore[no-untyped-def]
    return s == "text"


def of_text(words: str, least: int = 1) -> bool:
    return words == "text"


def by_name(answer):  # type: ignore[no-untyped-def]
    return answer.tool_calls[0].name == "tool"


def of_answer(whole: Answer) -> bool:
    return whole.tool_calls[0].name == "tool"


def of_quoted(whole: "Answer") -> bool:
    return whole.tool_calls[0].name == "tool"


Alias = Answer


def of_alias(whole: "Alias") -> bool:
    return whole.tool_calls[0].name == "tool"


def of_unseen(whole: "nowhere.Answer") -> bool:  # type: ignore[name-defined]  # noqa: F821
    return bool(whole.tool_calls[0].name == "tool")


def named_and_annotated(answer: str) -> bool:
    return answer == "text"


class Long:
    def __call__(self, answer: Answer) -> bool:
        return answer.text == "text"


@pytest.mark.parametrize(
    "given",
    [
        plain,
        of_text,
        by_name,
        of_answer,
        of_quoted,
        of_alias,
        of_unseen,
        named_and_annotated,
        Long(),
        lambda *parts: len(parts) == 1,
    ],
)
def test_a_function_is_given_what_it_asks_for(given: Callable[..., object]) -> None:
    """The Answer by its annotation, or by the name `answer` where there is none; else the text."""
    answer = Answer(text="text", tool_calls=(ToolCall("tool", "{}"),))
    assert check(given).run(answer) is True


def unsure(text: str) -> object:
    return {"none": None, "high": 0.8, "low": 0.2, "judged": Judgement(ok=True, score=0.9), "odd": object()}[text]


@pytest.mark.parametrize(
    ("text", "ok"), [("none", None), ("high", True), ("low", False), ("judged", True), ("odd", None), ("absent", None)]
)
def test_what_a_function_says(text: str, ok: bool | None) -> None:
    """A score against the minimum that was named; what is no verdict, and what breaks, is unknown."""
    assert judge(unsure, text, minimum=0.5).ok is ok


def test_a_functions_own_minimum() -> None:
    """The same score passes one and fails another."""
    assert judge(unsure, "high", minimum=0.9).ok is False


def test_a_function_may_fail_by_raising() -> None:
    """ValueError and AssertionError say no, with their text."""

    def strict(text: str) -> bool:
        assert text, "there is nothing"
        raise ValueError("not that")

    assert (judge(strict, "x").ok, judge(strict, "x").reason) == (False, "not that")
    assert judge(strict, "").ok is False


# --- several


def test_several_are_all_asked_what_is_free_first() -> None:
    """Of a list; those of the policy stand for themselves."""
    paid, each, gap = JudgePrompt("p"), Consistency(), Margin()
    found = validators([each, paid, Parties, gap, ["a", "b"], plain])
    assert [one.name for one in found if isinstance(one, Check)] == ["Parties", "labels", "plain"]
    assert found[3:] == (gap, paid, each)
    assert validators(found) == found
    assert validators(paid) == (paid,)
    assert validators(None) == ()


# --- what is none


async def later(text: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (5, "expected a pydantic model, a JSON Schema as a dict"),
        ("yes", "give [label, ...] or re.compile(...)"),
        (b"yes", "give [label, ...] or re.compile(...)"),
        ([], "an empty list validates nothing"),
        (["yes", 5], "may be a label"),
        ([5], "5 validates nothing"),
        ([None], "None validates nothing"),
        ({1, 2}, "validates nothing"),
        ([" "], "strings that are not empty"),
        (Numbers, "strings that are not empty"),
        (Literal["a", 1], "strings that are not empty"),
        (re.compile(b"a"), "validates nothing"),
        (float, "the class float is no model"),
        (Parties.model_construct(), "validates nothing"),
        (dict[str, Check], "pydantic cannot read JSON as dict"),
        (later, "is async"),
        (lambda: True, "is to take the answer's text"),
        (lambda text, prompt: True, "is to take the answer's text"),
        (lambda *, text: True, "is to take the answer's text"),
        (lambda text, *, prompt: True, "is to take the answer's text"),
    ],
)
def test_what_validates_nothing_is_told_at_once(given: object, cure: str) -> None:
    """With what would; not when the first answer is there."""
    with pytest.raises(TypeError, match=re.escape(cure)):
        validators(given)


def test_a_function_of_something_else_is_told_at_once() -> None:
    """What a validator is never given."""

    def of_reply(reply: dict[str, Any]) -> bool:
        return True

    with pytest.raises(TypeError, match="a validator is given the text"):
        validators(of_reply)


def test_a_wrong_schema_is_told_at_once() -> None:
    """As JSON Schema's own rules say."""
    with pytest.raises(ValueError, match="not a JSON Schema"):
        validators({"type": "nothing"})


def test_names_of_python() -> None:
    """Deep ones too; what is not there says so."""
    assert imported("json:loads") is json.loads
    assert imported("json:JSONDecoder.decode") is json.JSONDecoder.decode
    for name, told in (("json:nothing", "no attribute"), ("nowhere_at_all:f", "PYTHONPATH")):
        with pytest.raises(ValueError, match=told):
            imported(name)
