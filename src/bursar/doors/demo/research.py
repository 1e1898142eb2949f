"""The research assistant, as its users would write it: OpenAI's SDK, tools, a sub-agent, streaming.

Its author reckoned with the last call, the report, at about $0.08. A run is that call and everything before it: every
turn sends the whole conversation again, notes without a source are asked for twice, claims are checked by a sub-agent,
and hard questions are thought over by a reasoning model. Errors of the SDK reach the caller.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

if TYPE_CHECKING:
    from openai import OpenAI

    from bursar import Guard

Tools: TypeAlias = Mapping[str, Callable[..., str]]

MODEL = "gpt-4o"
THINKER = "gpt-5.4"
SYSTEM = """\
You are a research assistant for a strategy team. You answer with evidence from the web, never from memory alone.

How you work:
1. Break the question into parts that can be looked up on their own.
2. For every part search first, then read the two most relevant pages in full before you take notes.
3. Take notes of at most 250 words a part. Every claim ends with the number of its source in brackets, as in [2].
4. Prefer primary sources: statistics offices, regulators, filings, and the companies' own reports. Say so where only
   a secondary source was found. Give the year of every figure and its unit. Never mix nominal and real prices.
5. Where two sources disagree, give both figures and say which one you trust, and why.
6. Do not speculate beyond the sources. Where nothing was found, say that nothing was found.

How you write:
- The reader is a busy manager without technical background. Short sentences, no jargon, no filler.
- A report has a finding in one sentence, the evidence part by part, the risks, and what to do next.
- Figures are rounded to what the source supports. A range is better than a false precision.
- Name the sources at the end, in the order in which they were first cited."""

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the web. Returns the best results with address, title and an excerpt of each.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "description": "A few words, as typed into a search box."}},
                "required": ["query"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "read_page",
            "description": "Read a page found by search, as plain text.",
            "parameters": {
                "type": "object",
                "properties": {"url": {"type": "string", "description": "The page's address, as search gave it."}},
                "required": ["url"],
            },
        },
    },
]
AGAIN = "These notes name no source. Write them again, with the number of a source in brackets behind every claim."
CHECKER = """\
You are a fact checker. You get the notes of a colleague. Read the page that the notes rest on, compare every figure
with it, and answer with one line: CONFIRMED, or WRONG followed by what is wrong."""


class Plan(BaseModel):
    """The parts of a question, and whether it takes more than looking things up."""

    parts: list[str]
    hard: bool


def plan_prompt(question: str) -> str:
    return f"Plan the research for this question: {question}"


def part_prompt(part: str) -> str:
    return f"Research this part now, then give your notes: {part}"


def check_prompt(part: str, notes: str) -> str:
    return f"Check these notes on the part: {part}\n\n{notes}"


def think_prompt(question: str) -> str:
    return f"Before we write: weigh the evidence above against itself and say what it implies for: {question}"


def report_prompt(question: str) -> str:
    return f"Write the report that answers: {question}"


def research(
    guard: "Guard", client: "OpenAI", web: Tools, question: str, *, user: str, session: str, user_tier: str
) -> str:
    """One report: the text. `web` holds the tools by name."""
    with guard.run(agent="researcher", user=user, session=session, user_tier=user_tier) as run:
        messages: list[Any] = [{"role": "system", "content": SYSTEM}]

        with run.step("plan"):
            messages.append({"role": "user", "content": plan_prompt(question)})
            answer = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Plan)
            plan = answer.choices[0].message.parsed or Plan(parts=[question], hard=False)
            messages.append({"role": "assistant", "content": plan.model_dump_json()})

        notes = {}
        for part in plan.parts:
            with run.step("gather"):
                notes[part] = converse(client, web, messages, part_prompt(part))
            if "[" not in notes[part]:
                with run.step("ask again"):
                    notes[part] = converse(client, web, messages, AGAIN)

        with run.step("verify"):
            for part in plan.parts:
                verdict = check(guard, client, web, part, notes[part])
                messages.append({"role": "user", "content": f"The fact checker on {part}: {verdict}"})

        if plan.hard:
            with run.step("think"):
                messages.append({"role": "user", "content": think_prompt(question)})
                thought = client.chat.completions.create(model=THINKER, messages=messages, reasoning_effort="high")
                messages.append({"role": "assistant", "content": thought.choices[0].message.content})

        with run.step("report"):
            messages.append({"role": "user", "content": report_prompt(question)})
            stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def converse(client: "OpenAI", web: Tools, messages: list[Any], prompt: str) -> str:
    """Say something and let the model use its tools until it answers; all of it stays in the conversation."""
    messages.append({"role": "user", "content": prompt})
    while True:
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
        messages.append(answer)
        if not answer.tool_calls:
            return answer.content or ""
        for call in answer.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": use(web, call)})


def use(web: Tools, call: Any) -> str:
    """What a tool says to a call; a call that it cannot take is told so, for the model to see."""
    try:
        return web[call.function.name](**json.loads(call.function.arguments))
    except (KeyError, TypeError, ValueError) as error:
        return f"error: {error}"


def check(guard: "Guard", client: "OpenAI", web: Tools, part: str, notes: str) -> str:
    """A sub-agent with a conversation of its own: a run within the run."""
    with guard.run(agent="fact-checker") as run, run.step("check"):
        return converse(client, web, [{"role": "system", "content": CHECKER}], check_prompt(part, notes))
