"""A sandbox whose small models are wrong, and guards whose tiers climb from them. Not a test itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

import bursar
import library_kit as kit
from bursar.money import format_usd
from bursar.policy import Candidate, Policy, Provider, Retry, Routing, StepRule
from bursar.sandbox import SandboxServer, Settings, Step, Task
from bursar.stores.memory import MemoryStore
from bursar.types import Entry

GPT, GPT_MID, CLAUDE, CLAUDE_TOP = "gpt-4o-mini", "gpt-4o", "claude-haiku-4-5", "claude-opus-4-8"
KEYS = {"openai": "sk-of-the-guard", "anthropic": "ant-of-the-guard"}
"""The guard's own credentials; a client's is "k"."""
OWN = {"small": (Candidate("openai", GPT),), "mid": (Candidate("openai", GPT_MID),)}
MIXED = {
    "small": (Candidate("anthropic", CLAUDE),),
    "mid": (Candidate("openai", GPT_MID),),
    "frontier": (Candidate("anthropic", CLAUDE_TOP),),
}
UNAUDITED = Routing(audit_share=0.0)
RIGHT, WRONG = '{"buyer": "Ada", "pages": 3}', '{"buyer": "Ada"}'
RIGHTLY = json.loads(RIGHT)
TRIP = {"city": "Oslo", "days": 2}


class Deal(BaseModel):
    buyer: str
    pages: int


SCHEMA = {"type": "object", "properties": {"pages": {"type": "integer"}}, "required": ["pages"]}


def anything(prompt: str) -> bool:
    return True


def told(prompt: str) -> bool:
    """The prompt ends with what was wrong with an earlier answer."""
    return "rejected:" in prompt


def tasks(first_right: str, mends: bool = False) -> tuple[Task, ...]:
    """Only that tier and those above it are right; mends: and every tier that is told what was wrong."""
    order = ["small", "mid", "frontier"]
    odds = {tier: float(at >= order.index(first_right)) for at, tier in enumerate(order)}
    again = (Task(kind="extract", match=told, right=RIGHT, odds=dict.fromkeys(order, 1.0)),) if mends else ()
    return (
        Task(kind="tools", match="plan it", right="Done.", tool_plan=(Step("get_weather", TRIP),),
             odds=dict.fromkeys(order, 1.0)),
        Task(kind="classify", match=lambda prompt: '"score"' in prompt, right='{"score": 0.9}', wrong='{"score": 0.9}'),
        *again,
        Task(kind="extract", match=anything, right=RIGHT, wrong=WRONG, odds=odds),
    )  # fmt: skip


def settings(first_right: str, mends: bool = False) -> Settings:
    return Settings(tasks=tasks(first_right, mends), clock=lambda: 1_700_000_000.0, retry_after_s=0.01)


def guarded(
    url: str, tiers: Any = None, *, keys: Any = None, rules: tuple[StepRule, ...] = (), connect: Any = None, **more: Any
) -> bursar.Guard:
    """Two providers at that URL."""
    providers = {
        "openai": Provider("openai", "openai", url + "/v1", "OPENAI_API_KEY"),
        "anthropic": Provider("anthropic", "anthropic", url, "ANTHROPIC_API_KEY"),
        **more.pop("providers", {}),
    }
    policy = Policy(
        prices=kit.PRICES, providers=providers, tiers=OWN if tiers is None else tiers, steps=rules,
        retry=Retry(base_ms=1, cap_ms=4), digest_key=b"d" * 32, routing=UNAUDITED, **more,
    )  # fmt: skip
    return bursar.Guard(policy, MemoryStore(), credentials=keys, connect=connect)


def openai(guard: bursar.Guard, url: str, *kind: Any, **more: Any) -> Any:
    return guard.wrap(kit.openai(url, *kind, max_retries=0, **more))


def anthropic(guard: bursar.Guard, url: str, *kind: Any, **more: Any) -> Any:
    return guard.wrap(kit.anthropic(url, *kind, max_retries=0, **more))


def chat(client: Any, model: str = GPT, text: str = "Who buys?", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=kit.said(text), **more)


def message(client: Any, model: str = CLAUDE, text: str = "Who buys?", **more: Any) -> Any:
    return client.messages.create(model=model, max_tokens=300, messages=kit.said(text), **more)


def chat_text(answer: Any) -> str:
    text: str = answer.choices[0].message.content
    return text


def message_text(answer: Any) -> str:
    return "".join(block.text for block in answer.content if block.type == "text")


def ordered(guard: bursar.Guard) -> list[Entry]:
    return sorted(kit.rows(guard), key=lambda row: row.started_at)


def billed(guard: bursar.Guard, server: SandboxServer) -> int:
    """What the rows cost, which is what the provider billed: each its own response, to the nano-dollar."""
    rows = [row for row in kit.rows(guard) if row.status == "completed"]
    bill = {line.id: line.nanos for line in server.bill.lines}
    assert {row.response_id: row.cost_nanos for row in rows} == bill and None not in bill.values()
    return sum(nanos or 0 for nanos in bill.values())


@contextmanager
def at(server: SandboxServer, *args: Any, **more: Any) -> Iterator[tuple[bursar.Guard, SandboxServer, str]]:
    """A guard on that sandbox, which has forgotten all before."""
    server.app.reset()
    with guarded(server.url, *args, **more) as guard:
        yield guard, server, server.url


def usd(nanos: int) -> Decimal:
    return Decimal(format_usd(nanos))
