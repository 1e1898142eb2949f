"""Whether an answer passes: validators as plain functions, and what their word is worth. Pure.

A validator takes an Answer and says a Judgement, or a bool, or a score. It can pass, fail, or not know; one that
breaks does not know, and not knowing is never a pass. Patterns and schemas come from the configuration and are
trusted; what is checked is not, and is only read. Contract and signals: Instructor (ValidationError re-asks the same
model), Pydantic AI (ModelRetry), Guardrails (FailResult).
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from math import exp, isfinite
from typing import Any, Literal, TypeAlias

import msgspec

from bursar.policy import Consistency, JudgePrompt, Margin
from bursar.types import Answer, Completed, Judgement, Outcome, Refused

_SHOWN = 3
_SHORT = 300
_LOOP = 3
"""The same tool call so often in one answer is a loop."""

CUT = frozenset({"length", "max_tokens", "model_context_window_exceeded", "incomplete"})
_BLOCKED = frozenset({"content_filter", "safety", "refusal", "recitation", "blocklist", "prohibited_content", "spii"})
_FENCE = "```"


Validator: TypeAlias = Callable[[Answer], Judgement | bool | float | None]
Action: TypeAlias = Literal["accept", "repair", "escalate", "accept_with_flag"]

PASS = Judgement(ok=True)
ASKED = Judgement(ok=None, reason="cut by the limit that its caller set: no model can mend that")
ACCEPTED = Judgement(ok=None, reason="the last tier is accepted as it answers: no judge was asked")


def said(returned: object, minimum: float = 0.5) -> Judgement:
    """What a validator returned, as a Judgement: a bool as it is, a score against `minimum`, None for unknown.

    Anything else, and a score that is no number, is unknown.
    """
    match returned:
        case Judgement():
            return _plain(returned)
        case bool():
            return Judgement(ok=returned, reason="" if returned else "the validator said no")
        case int() | float() if isfinite(returned):
            return scored(float(returned), minimum)
        case None:
            return Judgement(ok=None, reason="the validator did not say")
    return Judgement(ok=None, reason=f"the validator returned {type(returned).__name__}: not a verdict")


def raised(error: BaseException) -> Judgement:
    """What an exception out of a validator means: a fail with its text, or that the validator is broken: unknown.

    Fails: ValueError (pydantic's ValidationError is one), AssertionError, and a ModelRetry of any framework.
    """
    text = f"{type(error).__name__}: {error}"[:_SHORT]
    if isinstance(error, ValueError | AssertionError) or any(c.__name__ == "ModelRetry" for c in type(error).__mro__):
        return _fault(str(error)[:_SHORT] or text)
    return Judgement(ok=None, reason=f"the validator broke: {text}")


def sound(answer: Answer) -> Judgement:
    """What costs nothing and is always checked: cut off, blocked, refused, empty, or looping on one tool call."""
    finish = (answer.finish_reason or "").lower()
    if finish in _BLOCKED or answer.refusal:
        return Judgement(ok=False, reason=f"refused: {answer.refusal or finish}"[:_SHORT])
    if finish in CUT:
        return Judgement(ok=False, reason=f"cut off: {finish}")
    if not answer.text.strip() and not answer.tool_calls:
        return Judgement(ok=False, reason="empty answer")
    calls = [(call.name, canonical(call.arguments)) for call in answer.tool_calls]
    if (looping := next((call for call in calls if calls.count(call) >= _LOOP), None)) is not None:
        return Judgement(ok=False, reason=f"the same call of {looping[0]} {calls.count(looping)} times")
    return PASS


def labels(allowed: Collection[str], *, ignore_case: bool = True) -> Validator:
    """The whole answer is one of these words, without regard to white space, case, quotes or a full stop around it."""
    if isinstance(allowed, str) or not allowed:
        raise ValueError("labels needs a list of at least one label")
    fold: Callable[[str], str] = str.casefold if ignore_case else str
    known = {fold(label.strip()) for label in allowed}
    listed = ", ".join(allowed)

    def check(answer: Answer) -> Judgement:
        if calls_only(answer):
            return PASS
        word = answer.text.strip()
        if fold(word) in known or fold(word.strip("\"'`.* \n")) in known:
            return PASS
        return _fault(f"{word[:60]!r} is not one of: {listed}", f"Answer with exactly one of: {listed}")

    return check


def pattern(regex: str, flags: int = 0) -> Validator:
    """The answer holds a match; anchor it (\\A...\\Z) to mean the whole. ValueError where the expression is wrong."""
    try:
        compiled = re.compile(regex, flags)
    except re.error as error:
        raise ValueError(f"{regex!r} is not a regular expression: {error}") from None

    def check(answer: Answer) -> Judgement:
        if calls_only(answer) or compiled.search(answer.text):
            return PASS
        return _fault(f"no match of {regex!r}", f"The answer must match the regular expression {regex}")

    return check


def json_schema(schema: Mapping[str, Any] | bool) -> Validator:
    """The answer is JSON, alone or in one fence, and fits the schema: its own $schema, else draft 2020-12.

    A reference outside the schema is never fetched: such an answer is unknown. `format` is an annotation, as the draft
    has it. Raises ValueError where the schema itself is wrong.
    """
    from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]  # noqa: PLC0415
    from jsonschema.validators import validator_for  # type: ignore[import-untyped]  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except TypeError as error:
        raise ValueError(f"not a JSON Schema: $schema is no text ({error})"[:_SHORT]) from None
    except SchemaError as error:
        raise ValueError(f"not a JSON Schema, at {error.json_path}: {error.message}"[:_SHORT]) from None
    validator = kind(schema, registry=Registry())

    def check(answer: Answer) -> Judgement:
        if calls_only(answer):
            return PASS
        try:
            value = parsed(answer.text)
        except ValueError as error:
            return _fault(f"not JSON: {error}", "Answer with JSON alone, without any text around it")
        try:
            errors = sorted(validator.iter_errors(value), key=lambda error: (error.json_path, error.message))
        except Unresolvable as error:
            return Judgement(ok=None, reason=f"the schema refers to what is not in it: {error}"[:_SHORT])
        if not errors:
            return PASS
        shown = "; ".join(f"{error.json_path}: {error.message[:_SHORT]}" for error in errors[:_SHOWN])
        more = f" (and {len(errors) - _SHOWN} more)" if len(errors) > _SHOWN else ""
        return _fault(f"{shown}{more}")

    return check


def parsed(text: str) -> Any:
    """The JSON value of an answer, alone or in one Markdown fence. ValueError where it is none; NaN is none."""
    try:
        return json.loads(_unfenced(text), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unfenced(text: str) -> str:
    """What stands in the one Markdown fence that is all of the text; else the text. In time linear in its length."""
    bare = text.strip()
    language, newline, rest = bare[len(_FENCE) :].partition("\n")
    fenced = bare.startswith(_FENCE) and bool(newline) and rest.endswith(_FENCE)
    if not fenced or (not language.strip().replace("-", "").replace("_", "").isalnum() and language.strip()):
        return text
    return rest.removesuffix(_FENCE)


def scored(score: float, minimum: float, *, cost_nanos: int | None = 0) -> Judgement:
    """A score against the least that passes; one that is no number is unknown."""
    if not isfinite(score):
        return Judgement(ok=None, reason=f"score {score} is not a number", cost_nanos=cost_nanos)
    reason = f"score {score:.2f}, {minimum:.2f} asked"
    return Judgement(ok=score >= minimum, score=score, reason=reason, cost_nanos=cost_nanos)


def judged(text: str, minimum: float, *, cost_nanos: int | None = 0) -> Judgement:
    """What a judge model answered: JSON with a `score` from 0 to 1, or that number alone; anything else is unknown."""
    try:
        value = parsed(text.strip())
    except ValueError:
        value = None
    reason = str(value.get("reason", ""))[:_SHORT] if isinstance(value, dict) else ""
    score = value.get("score") if isinstance(value, dict) else value
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        return Judgement(ok=None, reason=f"the judge gave no score from 0 to 1: {text[:60]!r}", cost_nanos=cost_nanos)
    verdict = scored(float(score), minimum, cost_nanos=cost_nanos)
    if verdict.ok or not reason:
        return verdict
    return msgspec.structs.replace(verdict, reason=f"{verdict.reason}: {reason}", repairable=True, retry_hint=reason)


def agreement(text: str, samples: Sequence[str], minimum: float, *, cost_nanos: int | None = 0) -> Judgement:
    """Self-consistency: the share of further samples that say the same, white space, case and JSON order aside."""
    if not samples:
        return Judgement(ok=None, reason="no samples to compare with", cost_nanos=cost_nanos)
    mine = canonical(text)
    return scored(sum(canonical(other) == mine for other in samples) / len(samples), minimum, cost_nanos=cost_nanos)


def scored_by(outcome: Outcome | Refused | None, minimum: float) -> Judgement:
    """What came of a judge's call; None: it could not be made. Its cost stands on its own row."""
    match outcome:
        case Completed(answer=Answer() as answer):
            return judged(answer.text, minimum)
        case Refused():
            return Judgement(ok=None, reason=f"the judge was not asked: {outcome.reason}"[:_SHORT])
        case None:
            return Judgement(ok=None, reason="the judge cannot be reached: its provider has no key here")
    return Judgement(ok=None, reason="the judge did not answer")


def weighed(answer: Answer, by: JudgePrompt | Consistency | Margin, outcomes: Sequence[Outcome | Refused]) -> Judgement:
    """What a judge, an answer's own odds, or further samples of it say. outcomes: of the calls made for it."""
    if isinstance(by, JudgePrompt):
        return scored_by(next(iter(outcomes), None), by.minimum)
    if isinstance(by, Margin):
        if answer.likeliest is None:
            return Judgement(ok=None, reason="the answer tells no log-probabilities")
        return margin(*answer.likeliest, by.minimum)
    told = [one.answer.text for one in outcomes if isinstance(one, Completed) and one.answer is not None]
    return agreement(answer.text, told, by.minimum)


def margin(first: float, second: float | None, minimum: float) -> Judgement:
    """The gap between the two likeliest first tokens, as probabilities, from their log-probabilities.

    Calibrate the minimum on audited answers: raw margins are over-confident.
    """
    return scored(exp(min(first, 0.0)) - (0.0 if second is None else exp(min(second, 0.0))), minimum)


def combine(judgements: Sequence[Judgement]) -> Judgement:
    """All must pass: one fail fails, else one unknown is unknown. The lowest score; the costs add up.

    Repairable where every fail is: the hints are told together. Of nothing, unknown.
    """
    judgements = [_plain(one) for one in judgements]
    fails = [one for one in judgements if one.ok is False]
    unknown = [one for one in judgements if one.ok is None]
    costs = [one.cost_nanos for one in judgements]
    hints = [one.retry_hint for one in fails if one.retry_hint]
    blame = fails or unknown
    return Judgement(
        ok=False if fails else None if unknown or not judgements else True,
        score=min((one.score for one in judgements if one.score is not None), default=None),
        reason="; ".join(one.reason for one in blame if one.reason) if judgements else "nothing was checked",
        repairable=bool(fails) and all(one.repairable for one in fails),
        retry_hint="\n".join(hints) or None,
        cost_nanos=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def action(judgement: Judgement, *, repairs: int, dearer: bool) -> Action:
    """What follows: one repair on the same tier where it may help, else the next tier; on the last, the flagged answer.

    repairs: how many this tier has had on this request; dearer: whether a tier is left. Unknown is not a pass: it goes
    on like a fail, but is not repaired and not learned from.
    """
    if judgement.ok:
        return "accept"
    if judgement.ok is False and judgement.repairable and repairs < 1:
        return "repair"
    return "escalate" if dearer else "accept_with_flag"


def _plain(word: Judgement) -> Judgement:
    """What can be kept, whatever was said: text that is UTF-8, numbers that are numbers, a verdict that is one."""
    score = word.score
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not isfinite(score)):
        score = None
    cost = word.cost_nanos
    return msgspec.structs.replace(
        word,
        ok=word.ok if isinstance(word.ok, bool) else None,
        score=score,
        reason=_utf8(word.reason),
        repairable=bool(word.repairable),
        retry_hint=None if word.retry_hint is None else _utf8(word.retry_hint),
        cost_nanos=cost if isinstance(cost, int) and not isinstance(cost, bool) else None,
    )


def _utf8(text: object) -> str:
    return str(text).encode("utf-8", "replace").decode()


def calls_only(answer: Answer) -> bool:
    """A turn of an agent that asks for tools alone: what its last answer has to look like does not bind it."""
    return bool(answer.tool_calls) and not answer.text.strip()


def _fault(reason: str, hint: str | None = None) -> Judgement:
    return Judgement(ok=False, reason=reason, repairable=True, retry_hint=hint or reason)


def canonical(text: str) -> str:
    """Equal for texts that say the same: JSON by value, prose by its words."""
    try:
        value = parsed(text)
    except ValueError:
        return " ".join(text.casefold().split())
    return json.dumps(value, sort_keys=True)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
