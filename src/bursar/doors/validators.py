"""Whatever a user may give as a validator -> the policy's own: the one place that decides what a thing means.

A pydantic model (or a dataclass, or list[Model]): the answer is JSON that fits it. A mapping: a JSON Schema. A
collection of words, or an Enum or Literal of them: the answer is one of them. A compiled pattern: the answer holds a
match. A function: what it says. A list of any of these: all of them. What is none of these raises TypeError with what
would be one, when it is given and not when an answer is there; a schema that is wrong in itself ValueError.

A function takes one argument. Where that is annotated `Answer`, or is not annotated and named `answer`, it is given
the Answer (of bursar.types: text, tool calls, finish reason, the request's last message); else the answer's text, and
is not asked about a turn that only calls tools. A further argument named `request` is the text of the request's last
message. It returns a bool, a score, a
Judgement or None for "cannot tell"; ValueError and AssertionError are a no with their text, and any other exception is
unknown.
"""

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from bursar.policy import Check, Consistency, JudgePrompt, Margin, Validator
from bursar.rules import validate
from bursar.types import Answer, Judgement

EXPECTED = (
    "expected a pydantic model, a JSON Schema as a dict, a list of labels, re.compile(...), a function of the "
    "answer's text, or a list of these"
)
_SHOWN = 3
_SHORT = 300
_ORDER = (Check, Margin, JudgePrompt, Consistency)
"""What is free first, then what is paid once, then what is paid for each sample."""


def validators(given: object, minimum: float = 0.5) -> tuple[Validator, ...]:
    """The validators of a step, what is free first; none for None. minimum: what a function's score has to reach."""
    if given is None:
        return ()
    return tuple(sorted(_each(given, minimum), key=lambda one: _ORDER.index(type(one))))


def imported(name: str) -> Any:
    """ "package.module:name" -> what has that name; ValueError where there is none, or its module does not load."""
    module, _, path = name.partition(":")
    try:
        found = functools.reduce(getattr, path.split("."), import_module(module))
    except ImportError as fault:
        raise ValueError(f"{name!r} cannot be imported ({fault}): is its folder on PYTHONPATH?") from None
    except AttributeError as fault:
        raise ValueError(f"{name!r} cannot be imported: {fault}") from None
    except Exception as fault:
        raise ValueError(f"{name!r} cannot be imported: {module} raises {type(fault).__name__}: {fault}") from fault
    if found is None:
        raise ValueError(f"{name!r} is None")
    return found


def _each(given: object, minimum: float) -> Iterable[Validator]:
    match given:
        case Check() | JudgePrompt() | Consistency() | Margin():
            return (given,)
        case str() | bytes():
            raise TypeError(f"{given!r:.60} may be a label or a pattern: give [label, ...] or re.compile(...)")
        case Mapping():
            return (Check("json_schema", validate.json_schema(given), identity=_digest(given)),)
        case re.Pattern(pattern=str() as pattern):
            return (Check("regex", validate.pattern(pattern, given.flags), identity=f"{given.flags}:{pattern}"),)
        case _ if isinstance(given, type) or get_args(given):
            return (_kind(given),)
        case Collection():
            return _many(given, minimum)
        case _ if callable(given):
            return (Check(_name(given), _asked(given), minimum, _place(given)),)
    raise TypeError(f"{given!r:.60} validates nothing: {EXPECTED}")


def _kind(given: Any) -> Check:
    """A class, or a type such as list[Model]."""
    if get_origin(given) is Literal:
        return _labels(get_args(given))
    if get_args(given) or is_dataclass(given) or issubclass(given, BaseModel):
        return _model(given)
    if issubclass(given, Enum):
        return _labels([member.value for member in given])
    raise TypeError(f"the class {given.__name__} is no model: {EXPECTED}")


def _many(given: Collection[object], minimum: float) -> Iterable[Validator]:
    if not given:
        raise TypeError(f"an empty {type(given).__name__} validates nothing: {EXPECTED}")
    if all(isinstance(one, str) for one in given):
        return (_labels(given),)
    if not isinstance(given, list | tuple):
        raise TypeError(f"{given!r:.60} validates nothing: {EXPECTED}")
    return [found for one in given for found in _each(one, minimum)]


def _labels(words: Collection[object]) -> Check:
    labels = [word for word in words if isinstance(word, str)]
    if len(labels) < len(words) or not all(label.strip() for label in labels):
        raise TypeError("labels are words: expected strings that are not empty")
    return Check("labels", validate.labels(labels), identity=_digest(sorted(labels)))


def _model(kind: Any) -> Check:
    """The JSON of the answer, alone or in one fence, is read as pydantic reads JSON."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
    except PydanticUserError as fault:
        raise TypeError(f"pydantic cannot read JSON as {_name(kind)}: {fault!s:.200}") from None

    def check(answer: Answer) -> Judgement:
        if validate.calls_only(answer):
            return validate.PASS
        text = answer.text.strip()
        try:
            if text.startswith("```"):
                text = json.dumps(validate.parsed(text))
            adapter.validate_json(text)
        except ValidationError as error:
            return _unfit(error)
        except ValueError as error:
            return _no(f"not JSON: {error}", "Answer with JSON alone, without any text around it")
        return validate.PASS

    return Check(_name(kind), check, identity=_shape(kind))


@functools.lru_cache(256)
def _shape(kind: Any) -> str:
    """A model is what it is called and what it asks for: either may change."""
    try:
        return f"{_place(kind)}:{_digest(TypeAdapter(kind).json_schema())}"
    except (PydanticUserError, ValueError, TypeError):
        return _place(kind)


def _place(thing: object) -> str:
    """Where it is defined; what has no name of its own is itself alone, for as long as the process lives."""
    name = getattr(thing, "__qualname__", None)
    if not isinstance(name, str) or "<" in name:
        return f"{thing!r}:{id(thing)}"
    return f"{getattr(thing, '__module__', None)}.{name}"


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=repr).encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _unfit(error: ValidationError) -> Judgement:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return _no(f"not JSON: {found[0]['msg']}", "Answer with JSON alone, without any text around it")
    shown = "; ".join(f"{'.'.join(map(str, one['loc'])) or '$'}: {one['msg']}"[:_SHORT] for one in found[:_SHOWN])
    more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
    return _no(shown + more, shown + more)


def _no(reason: str, hint: str) -> Judgement:
    return Judgement(ok=False, reason=reason, repairable=True, retry_hint=hint)


def _asked(function: Callable[..., object]) -> Callable[[Answer], object]:
    """The function, asked with what it wants to see."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        raise TypeError(f"{_name(function)} is async: a validator answers at once; expected a plain function")
    wants, more = _wants_answer(function), _wants_request(function)

    def ask(answer: Answer) -> object:
        if not wants and validate.calls_only(answer):
            return validate.PASS
        shown = (answer if wants else answer.text,)
        return function(*shown, request=answer.request) if more else function(*shown)

    return ask


def _wants_request(function: Callable[..., object]) -> bool:
    try:
        return "request" in list(inspect.signature(function).parameters)[1:]
    except ValueError:
        return False


def _wants_answer(function: Callable[..., object]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some of those written in C do not tell
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    several = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    more = [
        one for one in parameters if one not in positional[:1] and one.kind not in variadic and one.name != "request"
    ]
    if not (positional or several) or any(one.default is one.empty for one in more):
        raise TypeError(f"{_name(function)} is to take the answer's text, or `answer: Answer`, and perhaps `request`")
    if not positional:
        return False
    kind = _annotation(function, positional[0])
    if kind is inspect.Parameter.empty:
        return positional[0].name == "answer"
    if kind in (Answer, "Answer") or (isinstance(kind, str) and kind.endswith(".Answer")):
        return True
    if kind in (str, "str", Any, object, "Any", "object"):
        return False
    raise TypeError(f"{_name(function)} wants {kind!s:.60}: a validator is given the text (str) or the Answer")


def _annotation(function: Callable[..., object], parameter: inspect.Parameter) -> object:
    """Resolved where that is possible."""
    try:
        return inspect.signature(function, eval_str=True).parameters[parameter.name].annotation
    except Exception:
        return parameter.annotation


def _name(thing: object) -> str:
    return str(getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or type(thing).__name__)
