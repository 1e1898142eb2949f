"""Validators: what passes, what fails with a reason that helps, and that what breaks never passes."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules.validate import (
    PASS,
    Validator,
    action,
    agreement,
    combine,
    json_schema,
    judged,
    labels,
    margin,
    parsed,
    pattern,
    raised,
    said,
    scored,
    sound,
)
from bursar.types import Answer, Judgement, ToolCall

PARTIES = {
    "type": "object",
    "properties": {"buyer": {"type": "string", "minLength": 1}, "amount": {"$ref": "#/$defs/money"}},
    "required": ["buyer", "amount"],
    "additionalProperties": False,
    "$defs": {"money": {"type": "number", "exclusiveMinimum": 0}},
}

judgements = st.builds(
    Judgement,
    ok=st.sampled_from([True, False, None]),
    score=st.none() | st.floats(0, 1),
    reason=st.text(max_size=5),
    repairable=st.booleans(),
    retry_hint=st.none() | st.text(min_size=1, max_size=5),
    cost_nanos=st.none() | st.integers(0, 10**9),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def judge(validator: Validator, text: str) -> Judgement:
    return said(validator(Answer(text=text)))


def test_a_schema() -> None:
    """JSON alone or in a fence passes; what is wrong is told with its place, and the same model may mend it."""
    check = json_schema(PARTIES)
    good = '{"buyer": "Acme", "amount": 3}'
    for text in (good, f"```json\n{good}\n```", f"  \n```\n{good}\n```\n"):
        assert judge(check, text) == PASS
    bad = judge(check, '{"amount": 0, "note": 1}')
    assert (bad.ok, bad.repairable) == (False, True)
    assert "$.amount: 0 is less than or equal to the minimum of 0" in bad.reason
    assert "'buyer' is a required property" in bad.reason
    assert bad.retry_hint == bad.reason
    for text in (f"Here it is: {good}", "", "{", '{"buyer": "Acme", "amount": NaN}', "[" * 100_000):
        broken = judge(check, text)
        assert (broken.ok, broken.repairable) == (False, True)
        assert broken.reason.startswith("not JSON")


def test_a_schema_that_is_wrong_or_not_whole() -> None:
    """A wrong schema is refused when it is set; a reference outside of it is never fetched, and nobody passes by it."""
    with pytest.raises(ValueError, match=r"not a JSON Schema, at \$\.type"):
        json_schema({"type": "strin"})
    outside = json_schema({"properties": {"a": {"$ref": "http://127.0.0.1:9/none.json"}}})
    unknown = judge(outside, '{"a": 1}')
    assert unknown.ok is None
    assert "http://127.0.0.1:9/none.json" in unknown.reason
    assert judge(json_schema({"$ref": "#/$defs/none"}), "1").ok is None
    old = json_schema({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True})
    assert judge(old, "3").ok is False, "its own draft: in draft 4 exclusiveMaximum is a flag"


@given(value=anything, schema=st.sampled_from([PARTIES, {"type": "array"}, {"enum": [1, "a", None]}, True, False]))
def test_a_schema_agrees_with_the_library(value: Any, schema: Any) -> None:
    """Fuzz: what passes is exactly what fits, whatever the value; a fail says why."""
    verdict = judge(json_schema(schema), json.dumps(value))
    assert verdict.ok is jsonschema.Draft202012Validator(schema).is_valid(value)
    assert verdict.ok or verdict.reason


@given(text=st.text(max_size=200))
def test_no_text_breaks_a_validator(text: str) -> None:
    """Fuzz: each answers with a verdict for any text; parsing agrees with the standard library, or fails cleanly."""
    checks = (json_schema(PARTIES), labels(["yes", "no"]), pattern(r"\d+"), sound)
    for check in checks:
        assert judge(check, text).ok in (True, False)
    try:
        assert parsed(text) == json.loads(text)
    except ValueError:
        assert judge(checks[0], text).reason.startswith("not JSON")


def test_labels() -> None:
    """One of the words, as models write them; anything more is a fail that names the choice."""
    check = labels(["Invoice", "Letter"])
    for text in ("Invoice", " letter\n", '"Invoice".', "**INVOICE**"):
        assert judge(check, text).ok
    for text in ("It is an Invoice", "", "invoices"):
        verdict = judge(check, text)
        assert (verdict.ok, verdict.repairable) == (False, True)
        assert verdict.retry_hint == "Answer with exactly one of: Invoice, Letter"
    assert judge(labels(["Yes"], ignore_case=False), "yes").ok is False
    assert judge(labels(["n.v."]), "N.V.").ok, "a full stop that belongs to the label is kept"
    empty: list[str] = []
    for nothing in (empty, "yes"):
        with pytest.raises(ValueError, match="at least one label"):
            labels(nothing)


def test_patterns() -> None:
    """A match anywhere, unless it is anchored; a wrong expression is refused when it is set."""
    assert judge(pattern(r"\d{4}-\d\d"), "in 2026-11").ok
    assert judge(pattern(r"\A\d{4}-\d\d\Z"), "in 2026-11").ok is False
    with pytest.raises(ValueError, match="not a regular expression"):
        pattern("(")


def test_what_is_always_checked() -> None:
    """Cut, blocked, refused, empty or looping answers fail; a tool call without text is an answer."""
    call = ToolCall("search", '{"q": "a", "n": 1}')
    same = ToolCall("search", '{"n":1,"q":"a"}')
    assert sound(Answer(text="ok", finish_reason="stop")).ok
    assert sound(Answer(tool_calls=(call,), finish_reason="tool_calls")).ok
    assert sound(Answer(tool_calls=(call, same))).ok
    faults = {
        "cut off: length": Answer(text="half", finish_reason="length"),
        "cut off: max_tokens": Answer(text="half", finish_reason="MAX_TOKENS"),
        "refused: content_filter": Answer(text="x", finish_reason="content_filter"),
        "refused: I cannot": Answer(refusal="I cannot", finish_reason="stop"),
        "empty answer": Answer(text=" \n", finish_reason="stop"),
        "the same call of search 3 times": Answer(tool_calls=(call, same, call)),
    }
    for reason, answer in faults.items():
        assert (sound(answer).ok, sound(answer).reason) == (False, reason)


def test_what_a_validator_returns() -> None:
    """A bool as it is, a score against its minimum, a Judgement as it is; anything else is not a verdict."""
    own = Judgement(ok=False, reason="mine", repairable=True)
    assert said(own) == own
    wild = Judgement(ok="yes", score=float("nan"), reason="\ud800", retry_hint="\udfff", cost_nanos=None)  # type: ignore[arg-type]
    assert msgspec.json.encode(said(wild)) and said(wild).ok is None and said(wild).score is None
    assert said(True).ok is True
    assert said(False).ok is False
    assert (said(0.7, 0.7).ok, said(0.7, 0.7).score) == (True, 0.7)
    assert said(0, 0.5).ok is False
    for unknown in (None, "yes", object(), float("nan"), float("inf")):
        assert said(unknown).ok is None


def test_a_fence_is_found_in_the_time_that_reading_takes() -> None:
    """A model that writes line ends for ever stops nobody: 200,000 of them are read like any other text."""
    for text in ("```" + "\n" * 200_000 + "x", "```json\n" + "\n" * 200_000):
        assert json_schema({"type": "object"})(Answer(text=text)).ok is False  # type: ignore[union-attr]
    assert parsed('```json\n{"a": 1}\n```') == parsed('``` \n{"a": 1}```') == {"a": 1}
    for text in ("```not json\n{}\n```", "```\n{}", "{}```"):
        with pytest.raises(ValueError):
            parsed(text)


class ModelRetry(Exception):
    """By the name that Pydantic AI gives it."""


class Parties(pydantic.BaseModel):
    buyer: str


@given(st.sampled_from([RuntimeError, KeyError, OSError, ZeroDivisionError, TypeError]), st.text())
def test_a_broken_validator_is_never_a_pass(kind: type[Exception], text: str) -> None:
    """An exception is unknown; unknown is not accepted, not repaired, and on the last tier it is flagged."""
    verdict = raised(kind(text))
    assert verdict.ok is None
    assert kind.__name__ in verdict.reason
    assert action(verdict, repairs=0, dearer=True) == "escalate"
    assert action(verdict, repairs=0, dearer=False) == "accept_with_flag"


def test_exceptions_that_are_fails() -> None:
    """ValueError, AssertionError, pydantic's ValidationError and ModelRetry fail with their text, for one repair."""
    with pytest.raises(pydantic.ValidationError) as caught:
        Parties.model_validate_json("{}")
    for error in (ValueError("no buyer"), AssertionError("no buyer"), ModelRetry("no buyer"), caught.value):
        verdict = raised(error)
        assert (verdict.ok, verdict.repairable) == (False, True)
        assert "buyer" in (verdict.retry_hint or "")
    assert raised(AssertionError()).reason == "AssertionError: "


def test_scores() -> None:
    """A judge's score, self-consistency and a margin pass from their minimum on; what is no score is unknown."""
    assert judged('{"score": 0.8, "reason": "fine"}', 0.7, cost_nanos=5) == scored(0.8, 0.7, cost_nanos=5)
    low = judged('```json\n{"score": 0.2, "reason": "no date"}\n```', 0.7)
    assert (low.ok, low.retry_hint, low.repairable) == (False, "no date", True)
    assert judged("0.9", 0.7).ok
    for nonsense in ("great", "7", "-0.1", '{"score": "high"}', '{"score": true}', "[0.9]", ""):
        assert judged(nonsense, 0.5, cost_nanos=9) == Judgement(
            ok=None, reason=f"the judge gave no score from 0 to 1: {nonsense!r}", cost_nanos=9
        )
    assert agreement('{"a": 1, "b": 2}', ['{"b":2,"a":1}', "{}"], 0.5).score == 0.5
    assert agreement("Yes ", ["yes", "yes", "no"], 0.7).ok is False
    assert agreement("yes", [], 0.5).ok is None
    assert margin(0.0, None, 0.9).ok
    assert margin(-0.7, -0.7, 0.1).ok is False


@given(st.lists(judgements, max_size=5))
def test_combination(verdicts: list[Judgement]) -> None:
    """One fail fails all, else one unknown leaves it unknown; of nothing, unknown; costs add up, unknown stays so."""
    whole = combine(verdicts)
    words = [one.ok for one in verdicts]
    assert whole.ok == (False if False in words else None if None in words or not words else True)
    costs = [one.cost_nanos for one in verdicts]
    assert whole.cost_nanos == (None if None in costs else sum(cost or 0 for cost in costs))
    assert whole.repairable == (False in words and all(one.repairable for one in verdicts if one.ok is False))
    assert combine([*verdicts, PASS]).ok == (whole.ok if verdicts else True)


@given(judgements, st.integers(0, 3), st.booleans())
def test_actions(verdict: Judgement, repairs: int, dearer: bool) -> None:
    """Only a pass is accepted; one repair at most; never escalated past the last tier."""
    taken = action(verdict, repairs=repairs, dearer=dearer)
    assert (taken == "accept") == (verdict.ok is True)
    if taken == "repair":
        assert verdict.ok is False
        assert verdict.repairable
        assert repairs == 0
    assert dearer or taken != "escalate"
