"""An agent with a long system prompt, through the doors and past them with the real SDKs; the arithmetic of its bill.

Not a test itself.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from anthropic import Anthropic
from openai import OpenAI

import bursar
from bursar.policy import Match, Policy, StepRule
from bursar.sandbox import SandboxServer, Settings
from bursar.sandbox.bill import Line, price
from bursar.sandbox.models import MODELS
from bursar.stores.memory import MemoryStore
from bursar.types import Bucket, Entry, Instant
from gateways import running
from library_kit import PRICES, TLS, rows

HOUR = 3600.0


class Clock:
    """Seconds since the epoch, moved when told."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


def words(tokens: int, seed: str) -> str:
    """A text of so many tokens as the sandbox counts them."""
    return "".join(f" {seed}" for _ in range(tokens))


Turn = Callable[[str, list[Any], str, str], str]


def messages(url: str, transport: Any) -> Turn:
    client = Anthropic(api_key="k", base_url=url, http_client=httpx2.Client(transport=transport), max_retries=0)

    def turn(system: str, said: list[Any], model: str, text: str) -> str:
        said.append({"role": "user", "content": text})
        answer = client.messages.create(model=model, max_tokens=100, system=system, messages=said)
        said.append({"role": "assistant", "content": answer.content[0].text})  # type: ignore[union-attr]
        return answer.id

    return turn


def chat(url: str, transport: Any) -> Turn:
    client = OpenAI(api_key="k", base_url=url + "/v1", http_client=httpx2.Client(transport=transport), max_retries=0)

    def turn(system: str, said: list[Any], model: str, text: str) -> str:
        said.append({"role": "user", "content": text})
        told: Any = [{"role": "system", "content": system}, *said]
        answer = client.chat.completions.create(
            model=model, max_completion_tokens=100, messages=told, reasoning_effort="none"
        )
        said.append({"role": "assistant", "content": answer.choices[0].message.content})
        return answer.id

    return turn


def responses(url: str, transport: Any) -> Turn:
    client = OpenAI(api_key="k", base_url=url + "/v1", http_client=httpx2.Client(transport=transport), max_retries=0)

    def turn(system: str, said: list[Any], model: str, text: str) -> str:
        said.append({"role": "user", "content": text})
        answer = client.responses.create(
            model=model, max_output_tokens=100, instructions=system, input=said, reasoning={"effort": "none"}
        )
        said.append({"role": "assistant", "content": answer.output_text})
        return answer.id

    return turn


KINDS: dict[str, tuple[str, str, Callable[[str, Any], Turn]]] = {
    "haiku": ("anthropic", "claude-haiku-4-5", messages),
    "sonnet": ("anthropic", "claude-sonnet-5-5", messages),
    "chat": ("openai", "gpt-6.1-sol", chat),
    "responses": ("openai", "gpt-5.6-sol", responses),
}
SYSTEM = words(6000, "rule")


def buckets(line: Line) -> dict[Bucket, int]:
    """The input's."""
    return {bucket: count for bucket, count in line.usage.items() if bucket != "output"}


def paid(model: str, lines: list[Line]) -> int:
    """The input's price, nano-dollars."""
    return sum(_price(model, buckets(line)) for line in lines)


def uncached(model: str, lines: list[Line]) -> int:
    """Without any cache."""
    return sum(_price(model, {"input": sum(buckets(line).values())}) for line in lines)


def best(model: str, lines: list[Line]) -> int:
    """Each turn reads all that the turn before it sent, and writes the rest: no marker can do better."""
    write: Bucket = "cache_write_5m" if model.startswith("claude") else "cache_write_30m"
    sizes = [0, *(sum(buckets(line).values()) for line in lines)]
    return sum(_price(model, {"cache_read": was, write: size - was}) for was, size in itertools.pairwise(sizes))


def _price(model: str, tokens: dict[Bucket, int]) -> int:
    found = price(MODELS[model], tokens)
    assert found is not None
    return found


def written(lines: list[Line]) -> int:
    return sum(count for line in lines for bucket, count in buckets(line).items() if "write" in bucket)


# --- through the doors

AUTO = (StepRule(match=Match(), prompt_cache="auto"),)


class Agent:
    """Converses at a provider of its own, through one of the doors."""

    def __init__(self, kind: str, url: str, transport: Any, sandbox: SandboxServer, clock: Clock) -> None:
        _, self.model, make = KINDS[kind]
        self.turn: Turn = make(url, transport)
        self.url, self.transport, self.sandbox, self.clock = url, transport, sandbox, clock
        self.ledger: Callable[[], list[Entry]] = list
        """Every row, oldest first."""

    def client(self) -> Anthropic:
        http = httpx2.Client(transport=self.transport)
        return Anthropic(api_key="k", base_url=self.url, http_client=http, max_retries=0)

    def converse(
        self, turns: int, name: str, *, system: str = SYSTEM, gap_s: float = 20, size: int = 380
    ) -> list[Line]:
        """The bill of a conversation: each turn adds what was answered and a question, 500 tokens at most."""
        said: list[Any] = []
        start = len(self.sandbox.bill.lines)
        for n in range(turns):
            self.turn(system, said, self.model, f"{name} {n}" + words(size, "word"))
            self.clock.now += gap_s
        return self.sandbox.bill.lines[start:]

    def sent(self) -> list[Any]:
        """The requests' bodies as the provider got them."""
        return [json.loads(got.body) for got in self.sandbox.requests]


@contextmanager
def agent(door: str, kind: str, steps: tuple[StepRule, ...] = AUTO, **rules: Any) -> Iterator[Agent]:
    clock = Clock()
    if door == "library":
        with SandboxServer(Settings(clock=clock)) as sandbox, guard_on(MemoryStore(), clock, steps, **rules) as guard:
            yield through(guard, kind, sandbox, clock)
        return
    with running(Settings(clock=clock), steps=steps, **rules) as gateway:
        gateway.app.driver.world.clock = micros(clock)
        one = Agent(kind, gateway.url, httpx2.HTTPTransport(verify=TLS), gateway.sandbox, clock)
        one.ledger = gateway.rows
        yield one


def through(guard: bursar.Guard, kind: str, sandbox: SandboxServer, clock: Clock) -> Agent:
    client = guard.http_client("httpx2", provider=KINDS[kind][0], verify=TLS)
    one = Agent(kind, sandbox.url, client._transport, sandbox, clock)
    one.ledger = lambda: rows(guard)
    return one


def guard_on(store: Any, clock: Clock, steps: tuple[StepRule, ...] = AUTO, **rules: Any) -> bursar.Guard:
    guard = bursar.Guard(Policy(prices=PRICES, steps=steps, digest_key=b"d" * 32, **rules), store)
    guard._desk.world.clock = micros(clock)
    return guard


def micros(clock: Clock) -> Callable[[], Instant]:
    return lambda: Instant(int(clock() * 1_000_000))


@contextmanager
def library(kind: str) -> Iterator[tuple[bursar.Guard, Agent]]:
    clock = Clock()
    with SandboxServer(Settings(clock=clock)) as sandbox, guard_on(MemoryStore(), clock) as guard:
        yield guard, through(guard, kind, sandbox, clock)
