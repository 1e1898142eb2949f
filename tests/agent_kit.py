"""Agents as their authors write them (plan, tools, synthesis), for the tests of budgets. Not a test itself.

The sandbox's model never has enough: it asks for one more search thirty times before it answers of itself. Each agent
keeps one SDK's conversation; how it asks (plain or streamed, blocking or asyncio) is given to it.
"""

import asyncio
import contextvars
import json
from collections.abc import Callable
from typing import Any, Protocol

from openai.types.chat import ChatCompletionMessage

from bursar.sandbox.answers import Step, Task
from bursar.sandbox.settings import Settings

QUESTION = "How large is the market for night trains?"
WRAP_UP = f"{QUESTION} Write the report now, with what you have."
REPORT = "Night trains: about 8 million passengers a year, and growing."
TURNS = 30
RIGHT = {"small": 1.0, "mid": 1.0, "frontier": 1.0}
MORE = (Step("search", {"query": "night trains"}),) * TURNS
TASKS = (
    Task(kind="tools", match=QUESTION, right="Out of ideas.", tool_plan=MORE, odds=RIGHT),
    Task(kind="draft", match=WRAP_UP, right=REPORT, tool_plan=MORE, odds=RIGHT),
    Task(kind="chat", match=f"Plan: {QUESTION}", right="1. search 2. read 3. report", odds=RIGHT),
)
FOUND = "Result 3 of 91: the operator's yearly report speaks of 1.5 million passengers on night trains in 2023."
SCHEMA: Any = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}


def sandbox_settings() -> Settings:
    return Settings(clock=lambda: 1_700_000_000.0, retry_after_s=0.01, timeout_s=5, tasks=TASKS)


Say = Callable[..., Any]
"""One request, by the keywords of the SDK's create(): the message that came back."""


def chat_plain(client: Any) -> Say:
    return lambda **asked: client.chat.completions.create(**asked).choices[0].message


def chat_streamed(client: Any) -> Say:
    return lambda **asked: joined(client.chat.completions.create(stream=True, **asked))


def messages_plain(client: Any) -> Say:
    return lambda **asked: client.messages.create(**asked)


def messages_streamed(client: Any) -> Say:
    def say(**asked: Any) -> Any:
        with client.messages.stream(**asked) as stream:
            return stream.get_final_message()

    return say


def achat_plain(client: Any) -> Say:
    async def say(**asked: Any) -> Any:
        return (await client.chat.completions.create(**asked)).choices[0].message

    return say


def achat_streamed(client: Any) -> Say:
    async def say(**asked: Any) -> Any:
        return joined([chunk async for chunk in await client.chat.completions.create(stream=True, **asked)])

    return say


def amessages_plain(client: Any) -> Say:
    async def say(**asked: Any) -> Any:
        return await client.messages.create(**asked)

    return say


def amessages_streamed(client: Any) -> Say:
    async def say(**asked: Any) -> Any:
        async with client.messages.stream(**asked) as stream:
            return await stream.get_final_message()

    return say


def awaiting(runner: asyncio.Runner, say: Say) -> Say:
    """The async request, lived on the runner's loop in the caller's context."""
    return lambda **asked: runner.run(say(**asked), context=contextvars.copy_context())


class Agent(Protocol):
    """One conversation over one SDK."""

    def plan(self) -> str: ...
    def turn(self) -> str | None:
        """One turn with tools, their results put into the conversation; a text ends it."""

    def report(self) -> str:
        """The synthesis, tools still declared."""


class OpenAIAgent:
    """Chat completions."""

    tools: Any = [{"type": "function", "function": {"name": "search", "parameters": SCHEMA}}]

    def __init__(self, say: Say) -> None:
        self.say = say
        self.messages: list[Any] = [{"role": "user", "content": QUESTION}]

    def _say(self, messages: list[Any], **more: Any) -> Any:
        return self.say(model="gpt-4o", messages=messages, max_tokens=150, **more)

    def plan(self) -> str:
        return str(self._say([{"role": "user", "content": f"Plan: {QUESTION}"}]).content)

    def turn(self) -> str | None:
        said = self._say(self.messages, tools=self.tools)
        if not said.tool_calls:
            return str(said.content)
        calls = [{"id": c.id, "type": "function", "function": {"name": c.function.name,
                  "arguments": c.function.arguments}} for c in said.tool_calls]  # fmt: skip
        self.messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        for call in said.tool_calls:
            json.loads(call.function.arguments)
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": FOUND})
        return None

    def report(self) -> str:
        return str(self._say([*self.messages, {"role": "user", "content": WRAP_UP}], tools=self.tools).content)


class AnthropicAgent:
    """Messages."""

    tools: Any = [{"name": "search", "input_schema": SCHEMA}]

    def __init__(self, say: Say) -> None:
        self.say = say
        self.messages: list[Any] = [{"role": "user", "content": QUESTION}]

    def _say(self, messages: list[Any], **more: Any) -> Any:
        return self.say(model="claude-haiku-4-5", messages=messages, max_tokens=150, **more)

    def plan(self) -> str:
        return text_of(self._say([{"role": "user", "content": f"Plan: {QUESTION}"}]))

    def turn(self) -> str | None:
        said = self._say(self.messages, tools=self.tools)
        calls = [block for block in said.content if block.type == "tool_use"]
        if not calls:
            return text_of(said)
        self.messages.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in calls]})
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": FOUND} for call in calls]
        self.messages.append({"role": "user", "content": results})
        return None

    def report(self) -> str:
        asked = {"role": "user", "content": [{"type": "text", "text": WRAP_UP}]}
        return text_of(self._say([*self.messages, asked], tools=self.tools))


def joined(chunks: Any) -> ChatCompletionMessage:
    """A streamed answer put together, as agents do."""
    text = ""
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for part in delta.tool_calls or ():
            call = calls.setdefault(part.index, {"type": "function", "function": {"name": "", "arguments": ""}})
            call["id"] = call.get("id") or part.id
            call["function"]["name"] += part.function.name or ""
            call["function"]["arguments"] += part.function.arguments or ""
    said = {"role": "assistant", "content": text or None, "tool_calls": list(calls.values()) or None}
    return ChatCompletionMessage.model_validate(said)


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")
