"""What a model answers: decided by (seed, model, prompt) alone, so the same request has the same answer everywhere.

A prompt of a registered task gets the right or the wrong answer by the odds of the model's tier; any other prompt
gets plain prose, a tool call or a value of the asked schema. Nothing here fails: a fault is another room's matter.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from bursar.sandbox.asks import Ask, Choice, Json, Tool, ToolCall, dump
from bursar.sandbox.models import Model
from bursar.sandbox.recorded import Cell, Row, right_answer, wrong_answer
from bursar.sandbox.schema import draw, instance, spoilt, unit
from bursar.sandbox.tokens import split

Words: TypeAlias = str | Callable[[str], str]
"""A text, or a function of the prompt."""

ODDS: Mapping[str, Mapping[str, float]] = {
    "classify": {"small": 0.94, "mid": 0.97, "frontier": 0.985},
    "extract": {"small": 0.9, "mid": 0.96, "frontier": 0.985},
    "summarise": {"small": 0.9, "mid": 0.95, "frontier": 0.97},
    "draft": {"small": 0.86, "mid": 0.94, "frontier": 0.97},
    "tools": {"small": 0.84, "mid": 0.93, "frontier": 0.97},
    "code": {"small": 0.55, "mid": 0.8, "frontier": 0.92},
    "reason": {"small": 0.45, "mid": 0.72, "frontier": 0.92},
    "chat": {"small": 0.85, "mid": 0.93, "frontier": 0.97},
}
"""Chance of a right answer by task kind and tier; an unknown kind is `chat`."""

_SHARED = 0.6
"""Share of prompts whose difficulty is the same for every model: a hard prompt fails on small and mid together."""

_LENGTHS = {
    "classify": 6,
    "extract": 60,
    "summarise": 120,
    "draft": 240,
    "tools": 60,
    "code": 200,
    "reason": 160,
    "chat": 80,
}
"""Median output tokens of an answer by kind; log-normal around it."""

_KINDS = (
    ("classify", re.compile(r"\b(classify|label|categor|which of|yes or no)", re.I)),
    ("summarise", re.compile(r"\b(summar|tl;?dr|condense)", re.I)),
    ("extract", re.compile(r"\b(extract|list all|find all|parse)", re.I)),
    ("code", re.compile(r"\b(function|code|program|script|sql)\b", re.I)),
    ("draft", re.compile(r"\b(write|draft|compose|essay|report)\b", re.I)),
    ("reason", re.compile(r"\b(how many|how much|calculate|prove|why|solve)\b", re.I)),
)
_THOUGHTS = {"small": 120, "mid": 260, "frontier": 420, "embedding": 0}
_EFFORT = {"none": 0.0, "minimal": 0.1, "low": 0.35, "medium": 1.0, "high": 2.2, "xhigh": 3.5, "max": 5.0}
_PROSE = split(
    " The request was read in full and the main points were checked against what is known. Most of them hold as they"
    " stand, and the rest need a small correction before they can be used. First, the figures agree with the source"
    " once the dates are aligned. Second, the order of the steps matters more than it seems, since each one depends"
    " on the result of the one before. A careful reader will also notice that two of the terms mean the same thing"
    " and can be merged without loss. In practice it is best to start with the simplest case, confirm that it works,"
    " and only then go on to the others. Where there is doubt, the safer choice is to ask, because a wrong guess"
    " costs more than a short delay. Taken together this leaves a clear course: keep what has been tested, change"
    " what is known to be wrong, and write down the reason for every choice so that it can be reviewed later."
)
_OPENINGS = [at for at, piece in enumerate(_PROSE) if at == 0 or _PROSE[at - 1] == "."]


class Step(msgspec.Struct, frozen=True):
    """One tool call of a plan; without arguments they are made from the tool's schema."""

    tool: str
    arguments: Mapping[str, Any] | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of prompt that the sandbox knows the answer to."""

    kind: str
    match: str | re.Pattern[str] | Callable[[str], bool]
    """The whole user text, a pattern to be found in it, or a predicate of it."""
    right: Words
    wrong: Words = "I am not sure."
    output_tokens: int | None = None
    """Tokens of the answer, reached by prose in front of it (JSON is left alone); None: as long as it is."""
    reasoning_tokens: int | None = None
    """Reasoning of a model that thinks; None: drawn."""
    tool_plan: tuple[Step, ...] = ()
    """Calls made first, one a turn; the answer follows the last result."""
    wrong_call: str | None = None
    """How a wrong model spoils its first call: missing_required | type_error | unexpected_param | wrong_func_name |
    value_error | prose; None: calls are always right."""
    odds: Mapping[str, float] | None = None
    """Chance of a right answer by tier or model name; None: ODDS of the kind."""

    def fits(self, prompt: str) -> bool:
        if isinstance(self.match, str):
            return self.match == prompt
        if isinstance(self.match, re.Pattern):
            return self.match.search(prompt) is not None
        return self.match(prompt)


class Bank:
    """The registered tasks: exact prompts first, then patterns in their order."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._exact = {task.match: task for task in tasks if isinstance(task.match, str)}
        self._others = [task for task in tasks if not isinstance(task.match, str)]

    def find(self, prompt: str) -> Task | None:
        return self._exact.get(prompt) or next((task for task in self._others if task.fits(prompt)), None)


def compose(ask: Ask, model: Model, bank: Bank, row: Row | None, seed: int) -> list[Choice]:
    """The answers to a request, n of them, each within the limits that it set."""
    cell = row.m.get(ask.model) if row else None
    task = None if row else bank.find(ask.prompt)
    return [_choice(ask, model, task, row, cell, (seed, model.name, ask.prompt, n)) for n in range(ask.n)]


def is_right(task: Task, model: Model, prompt: str, seed: int, choice: int = 0) -> bool:
    """Whether that model answers that prompt rightly: by its odds, with a share of difficulty common to all models."""
    odds = task.odds or ODDS.get(task.kind, ODDS["chat"])
    chance = odds.get(model.name, odds.get(model.tier, 0.9))
    # Choosing between two uniform draws keeps the odds of every model exact while their failures coincide.
    common = unit(seed, model.name, prompt, choice, "common") < _SHARED
    return unit(seed, prompt, choice if common else (model.name, choice)) < chance


def _choice(
    ask: Ask, model: Model, task: Task | None, row: Row | None, cell: Cell | None, lot: tuple[Any, ...]
) -> Choice:
    right: bool | None = None
    if cell is not None:
        right = cell.right
    elif task is not None:
        right = is_right(task, model, ask.prompt, lot[0], lot[-1])
    call = _call(ask, task, row, cell, right, lot)
    pieces = [] if call else split(_text(ask, task, row, right, lot))
    body = call.pieces if call else pieces
    visible, thoughts = len(body), _thoughts(ask, model, task, lot)
    if cell is not None:
        visible, thoughts = cell.ot, 0
    wanted = cell.ot if cell else task.output_tokens if task else None
    if wanted and not call:
        pieces = _padded(pieces, wanted, lot)
        visible = wanted if cell else len(pieces)
    choice = Choice(pieces, [call] if call else [], "tools" if call else "stop", visible, thoughts, right=right)
    return _limited(_stopped(choice, ask.stop), ask.max_tokens)


# --- tools


def _call(
    ask: Ask, task: Task | None, row: Row | None, cell: Cell | None, right: bool | None, lot: tuple[Any, ...]
) -> ToolCall | None:
    error = (
        (cell.err or "value_error") if cell and not right else (task.wrong_call if task and right is False else None)
    )
    step = _step(ask, task, row)
    if step is None or (error and ("decoder" in error or error == "prose") and ask.choice != "any"):
        return None
    tool = next(tool for tool in ask.tools if tool.name == step.tool)
    arguments: Json = dict(step.arguments) if step.arguments is not None else instance(tool.schema, *lot, tool.name)
    name = tool.name
    if error and not ask.called:
        arguments = spoilt(arguments, tool.schema, error)
        name = f"{name}_v2" if "wrong_func_name" in error else name
    text = dump(arguments if isinstance(arguments, dict) else {})
    return ToolCall(f"{draw(*lot, len(ask.called), 'call'):016x}", name, split(text))


def _step(ask: Ask, task: Task | None, row: Row | None) -> Step | None:
    """The call to make now, if any: forced, planned, or with no plan at all one on the first turn."""
    if not ask.tools or ask.choice == "none":
        return None
    names = [tool.name for tool in ask.tools]
    if ask.choice == "any" and ask.choice_tool in names:
        return next(
            (s for s in task.tool_plan if s.tool == ask.choice_tool) if task else iter(()), Step(ask.choice_tool or "")
        )
    plan = [step for step in task.tool_plan if step.tool in names] if task else []
    if len(ask.called) < len(plan):
        return plan[len(ask.called)]
    if ask.choice == "any":
        return Step(next((name for name in names if name not in ask.called), names[-1]))
    if task is None and not ask.called:
        return Step(names[0] if row else _likeliest(ask.tools, ask.prompt))
    return None


def _likeliest(tools: tuple[Tool, ...], prompt: str) -> str:
    """The tool whose name shares most words with the prompt; the first of equals."""
    words = set(re.findall(r"[a-z]+", prompt.lower()))
    return max(tools, key=lambda tool: len(words & set(re.findall(r"[a-z]+", tool.name.lower())))).name


# --- text


def _text(ask: Ask, task: Task | None, row: Row | None, right: bool | None, lot: tuple[Any, ...]) -> str:
    if row is not None:
        known = (row.answer or right_answer(row.prompt)) if right else wrong_answer(row.prompt)
        return _shaped(ask, known, lot)
    if task is not None:
        words = task.right if right else task.wrong
        return _shaped(ask, words(ask.prompt) if callable(words) else words, lot)
    if ask.schema is not None:
        return dump(instance(ask.schema, *lot))
    length = max(1, round(_LENGTHS[kind_of(ask.prompt)] * _spread(0.5, *lot, "length")))
    return dump({"answer": filler(length, *lot)}) if ask.wants_json else filler(length, *lot)


def _shaped(ask: Ask, answer: str, lot: tuple[Any, ...]) -> str:
    """An answer as the schema wants it: JSON stays, other text becomes the first text field of a made value."""
    if (ask.schema is None and not ask.wants_json) or answer.lstrip()[:1] in ("{", "["):
        return answer
    value = instance(ask.schema, *lot) if ask.schema else {"answer": answer}
    if isinstance(value, dict):
        properties = (ask.schema or {}).get("properties") or {}
        field = (
            next((key for key, old in value.items() if isinstance(old, str) and "enum" not in properties[key]), None)
            if properties
            else None
        )
        return dump({**value, field: answer} if field else value)
    return dump(value)


def kind_of(prompt: str) -> str:
    """A guess at the kind of an unregistered prompt, from its words; `chat` where none fits."""
    start = prompt[:400]
    return next((kind for kind, words in _KINDS if words.search(start)), "chat")


def filler(length: int, *lot: object) -> str:
    """Prose of exactly so many tokens."""
    at = _OPENINGS[draw(*lot, "prose") % len(_OPENINGS)]
    rounds = 1 + (at + length) // len(_PROSE)
    return "".join((_PROSE * rounds)[at : at + length]).lstrip()


def _padded(pieces: list[str], wanted: int, lot: tuple[Any, ...]) -> list[str]:
    missing = wanted - len(pieces) - 1
    if missing < 0 or (pieces and pieces[0][:1] in ("{", "[")):
        return pieces
    return [*split(filler(missing, *lot)), "\n", *pieces]


def _spread(sigma: float, *lot: object) -> float:
    """A log-normal factor of median 1, within [1/4, 4] (Box-Muller on two draws)."""
    radius = math.sqrt(-2 * math.log(1 - unit(*lot, "radius")))
    return min(max(math.exp(sigma * radius * math.cos(2 * math.pi * unit(*lot, "angle"))), 0.25), 4.0)


def _thoughts(ask: Ask, model: Model, task: Task | None, lot: tuple[Any, ...]) -> int:
    thinks = model.thinks if ask.thinks is None else ask.thinks
    if not thinks:
        return 0
    if task is not None and task.reasoning_tokens is not None:
        amount = float(task.reasoning_tokens)
    else:
        amount = _THOUGHTS[model.tier] * _spread(0.5, *lot, "thoughts")
    amount *= _EFFORT.get(ask.effort or "medium", 1.0)
    return round(amount if ask.thinking_budget is None else min(amount, ask.thinking_budget))


# --- limits


def _stopped(choice: Choice, stop: tuple[str, ...]) -> Choice:
    """Ends the text before the first stop sequence."""
    text = choice.text
    found = [(at, word) for word in stop if word and (at := text.find(word)) >= 0]
    if not found:
        return choice
    at, word = min(found)
    kept = split(text[:at])
    visible = min(choice.visible, len(kept))
    return Choice(kept, [], "stop_sequence", visible, choice.thoughts, stop=word, right=choice.right)


def _limited(choice: Choice, most: int | None) -> Choice:
    """Ends the answer at its output limit, which holds reasoning too."""
    if most is None or choice.thoughts + choice.visible <= most:
        return choice
    thoughts = min(choice.thoughts, most)
    visible = most - thoughts
    share = visible / choice.visible if choice.visible else 0
    pieces = choice.pieces[: math.floor(len(choice.pieces) * share)]
    calls = [ToolCall(call.id, call.name, call.pieces[: math.floor(len(call.pieces) * share)]) for call in choice.calls]
    return Choice(pieces, calls if visible else [], "length", visible, thoughts, right=choice.right)
