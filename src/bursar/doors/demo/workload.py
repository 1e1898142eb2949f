"""Who asks what, how often, and what the simulated provider answers: all of it drawn from a seed.

The answers follow a tier's odds (the sandbox's business); whether one was right is judged here, from its text alone.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import TypeAlias

from pydantic import BaseModel

from bursar.doors.demo import checks, legal, research, web
from bursar.doors.demo.contracts import Contract, contract, standard
from bursar.doors.demo.lessons import AND_THEN, TOPICS
from bursar.doors.demo.web import Question, question
from bursar.sandbox import Step, Task

Who: TypeAlias = dict[str, str]
"""user, session and user_tier of a run."""

QUESTIONS_A_SESSION = 5
LEAN = 0.12
"""Share of a student's questions that lean on the answer before."""

_EXTRACTED = {"classify": "classified", "obligations": "obligations", "risks": "risks", "compare": "deviations"}
_RECORDED = ("parties", "dates")
"""The legal steps that answer by structured output, with their field of the analysis, and by a tool."""
_REASON = 2_000
"""Characters of a message that says why an answer was rejected, at most."""
_TIERS = ("free", "pro", "enterprise")
_SURE = {"small": 1.0, "mid": 1.0, "frontier": 1.0}


def client_of(number: int) -> Who:
    """Who asked for report or contract of that number: some clients come often."""
    lot = Random(f"client {number}")
    user = min(lot.randrange(12), lot.randrange(12))
    return {"user": f"client-{user:02d}", "session": f"case-{number:04d}", "user_tier": _TIERS[user % 3]}


def sessions(count: int) -> Iterator[tuple[Who, list[str]]]:
    """So many students' sessions, each with its questions; the first topics are asked about most."""
    topics = list(TOPICS)
    weights = [1 / (rank + 3) for rank in range(len(topics))]
    for number in range(count):
        lot = Random(f"session {number}")
        student = lot.randrange(max(2, count * 2 // 3))
        asked: list[str] = []
        topic = ""
        for drawn in lot.choices(topics, weights, k=QUESTIONS_A_SESSION):
            lean = topic and lot.random() < LEAN
            topic = topic if lean else drawn
            asked.append(AND_THEN.format(topic=topic) if lean else lot.choice(TOPICS[topic].asked))
        tier = "pro" if student % 4 == 0 else "free"
        yield {"user": f"student-{student:03d}", "session": f"lesson-{number:04d}", "user_tier": tier}, asked


# --- right or wrong


def right_report(asked: Question, report: str) -> bool:
    """Whether a report finds what is the case."""
    return asked.finding in report


def right_findings(case: Contract, analysis: legal.Analysis) -> int:
    """How many of the seven steps of an analysis are right."""
    fields = (*_EXTRACTED.values(), *_RECORDED)
    found = [bool(getattr(case, field) == getattr(analysis, field)) for field in fields]
    return sum(found) + (case.fee in analysis.summary)


def right_lesson(asked: str, answer: str) -> bool | None:
    """Whether an answer shows the line that does it; None for a question that leans on another: nobody graded it."""
    topic = next((topic for topic in TOPICS.values() if asked in topic.asked), None)
    return None if topic is None else topic.right in answer


# --- what the provider answers


def tasks(count: int) -> tuple[Task, ...]:
    """The sandbox's tasks for so many reports, contracts and sessions."""
    house = standard()
    made = [task for number in range(count) for task in _report(question(number))]
    made += [task for number in range(count) for task in analysis(contract(number), house)]
    made += [task for topic in TOPICS.values() for task in _lessons(topic.asked, topic.right, topic.wrong)]
    again = "The same notes, with their sources behind every claim [1] [2]."
    for match in (research.AGAIN, _sourceless):
        made.append(Task(kind="draft", match=match, right=again, output_tokens=280, odds=_SURE))
    return tuple(made)


def _report(asked: Question) -> Iterator[Task]:
    vague = [*asked.parts, asked.parts[0].replace("demand", "history of demand")]
    yield Task(
        kind="draft",
        match=research.plan_prompt(asked.text),
        right=json.dumps({"parts": asked.parts, "hard": asked.hard}),
        wrong=json.dumps({"parts": vague, "hard": asked.hard}),
    )
    for part in vague:
        pages = web.addresses(part)
        steps = (Step("search", {"query": part}), *(Step("read_page", {"url": url}) for url in pages[:2]))
        yield Task(
            kind="tools",
            match=research.part_prompt(part),
            right=f"Notes on {part}, from the statistics office and the market monitor [1] [2].",
            wrong=f"Notes on {part}, from what is generally known.",
            output_tokens=260,
            tool_plan=steps,
        )
        yield Task(
            kind="tools",
            match=partial(_begins, research.check_prompt(part, "")),
            right="CONFIRMED",
            wrong="WRONG: one figure is a year older than stated.",
            output_tokens=60,
            tool_plan=steps[1:2],
        )
    yield Task(
        kind="reason",
        match=research.think_prompt(asked.text),
        right=asked.finding,
        wrong=asked.mistake,
        output_tokens=500,
        reasoning_tokens=2600,
    )
    yield Task(
        kind="draft",
        match=research.report_prompt(asked.text),
        right=asked.finding,
        wrong=asked.mistake,
        output_tokens=3000,
    )


def _sourceless(prompt: str) -> bool:
    """Bursar asks for the notes again, in its own words, where the step's check found no source in them."""
    return prompt.startswith(("Your last answer was rejected: ", "An earlier answer was rejected: ")) and "[" in prompt


def _begins(start: str, prompt: str) -> bool:
    return prompt.startswith(start)


def analysis(case: Contract, house: str) -> Iterator[Task]:
    """The tasks of the seven steps over one contract."""
    other = contract(case.number + 1)
    for step, shape in _EXTRACTED.items():
        right, wrong = getattr(case, shape), _spoilt(getattr(case, shape), getattr(other, shape))
        text = legal.prompt(step, case.text, house if step == "compare" else "")
        kind = "classify" if step == "classify" else "extract"
        for match in _asked(case, step, text):
            yield Task(kind=kind, match=match, right=right.model_dump_json(), wrong=wrong.model_dump_json())
    for step in _RECORDED:
        call = Step(f"record_{step}", getattr(case, step).model_dump())
        for match in _asked(case, step, legal.prompt(step, case.text)):
            yield Task(kind="extract", match=match, right="", tool_plan=(call,), wrong_call="value")
    _, match = _asked(case, "summary", f"<findings>\n{case.title}\n")
    yield Task(
        kind="summarise",
        match=match,
        right=partial(_judgement, case),
        wrong="What it costs a year is set out in Schedule A.",
        output_tokens=420,
    )


def _asked(case: Contract, step: str, text: str) -> tuple[str, Callable[[str], bool]]:
    """The step's own prompt, and what is asked after a rejected answer: the same with the reason behind it, or the
    reason alone in a message of its own, which says what it is about."""
    return text, partial(_again, text, checks.about(case.title, step))


def _again(text: str, about: str, prompt: str) -> bool:
    return prompt.startswith(text) or (len(prompt) < _REASON and about in prompt)


def _judgement(case: Contract, prompt: str) -> str:
    """Written from the findings: a fee that was found wrongly is wrong here too."""
    found = re.search(r'"fee":"([^"]*)"', prompt)
    return f"It costs EUR {found[1] if found else case.fee} a year."


def _spoilt(right: BaseModel, other: BaseModel) -> BaseModel:
    """What a wrong answer says: a list without its last item, else what is true of another contract."""
    for field, value in right:
        if isinstance(value, list):
            return right.model_copy(update={field: value[:-1]})
    return other


def _lessons(asked: tuple[str, ...], right: str, wrong: str) -> Iterator[Task]:
    for words in asked:
        yield Task(kind="code", match=words, right=_fence(right), wrong=_fence(wrong), output_tokens=300)


def _fence(line: str) -> str:
    return f"```python\n{line}\n```"
