"""Runaway loops under a session ceiling of $5, in the library and behind the gateway, by the real SDKs over sockets.

Whatever runs away (the same tool call for ever, a context that grows each turn, sub-agents that call sub-agents), the
provider's own bill stays within the ceiling, the loop ends by itself with a text, and the session beside it is as if
nothing had happened.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import httpx2
import pytest
from anthropic import Anthropic
from openai import OpenAI

import agent_kit
import library_kit
from bursar.drivers.breakers import Document
from bursar.insights import breakers
from bursar.policy.breakers import Breaker, Ceiling, FanOut, Growth, Loop, Trigger
from bursar.sandbox.answers import Step, Task
from bursar.sandbox.server import SandboxServer
from bursar.sandbox.settings import Settings
from bursar.stores.base import Store
from bursar.types import Entry
from gateways import TLS, running

USD = 1_000_000_000
CEILING = Breaker(name="session ceiling", scope="session", trigger=Ceiling(over_nanos=5 * USD))
QUESTION = "How large is the market for night trains"
SEARCH = (Step("search", {"query": "night trains"}),) * 400
TASKS = (Task(kind="tools", match=re.compile(QUESTION), right="Out of ideas.", tool_plan=SEARCH, odds=agent_kit.RIGHT),)
FOUND = "Result 3 of 91: the operator's yearly report speaks of 1.5 million passengers on night trains. "
SETTINGS = Settings(clock=lambda: 1_700_000_000.0, retry_after_s=0.01, timeout_s=5, tasks=TASKS, keep_requests=0)
STOPPED = "I have to stop here: this session is suspended by the breaker session ceiling"
MOST = 300
"""Turns of a loop that nothing stops."""

Say = Callable[..., Any]


class Agent(Protocol):
    """One conversation: each turn sends it and puts the tool's result at its end, until a text comes."""

    def turn(self, found: str) -> str | None: ...


class Chat:
    """Over chat completions. A clock in front of the prompt, as careless agents have it, keeps it from being cached."""

    def __init__(self, say: Say, document: str) -> None:
        self.say, self.turns = say, 0
        self.messages: list[Any] = [{"role": "user", "content": f"{document}\n{QUESTION}"}]

    def turn(self, found: str) -> str | None:
        self.turns += 1
        system = {"role": "system", "content": f"It is second {self.turns} of {id(self)}."}
        said = self.say(
            model="gpt-5.6-sol", messages=[system, *self.messages], tools=agent_kit.OpenAIAgent.tools,
            max_completion_tokens=150, service_tier="priority", reasoning_effort="none",
        )  # fmt: skip
        if not said.tool_calls:
            return str(said.content)
        calls = [call.model_dump() for call in said.tool_calls]
        self.messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        self.messages += [{"role": "tool", "tool_call_id": call.id, "content": found} for call in said.tool_calls]
        return None


class Messages:
    """Over Anthropic's messages."""

    def __init__(self, say: Say, document: str) -> None:
        self.say = say
        self.messages: list[Any] = [{"role": "user", "content": f"{document}\n{QUESTION}"}]

    def turn(self, found: str) -> str | None:
        tools = agent_kit.AnthropicAgent.tools
        said = self.say(model="claude-opus-4-8", messages=self.messages, tools=tools, max_tokens=150)
        calls = [block for block in said.content if block.type == "tool_use"]
        if not calls:
            return agent_kit.text_of(said)
        self.messages.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in calls]})
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": found} for call in calls]
        self.messages.append({"role": "user", "content": results})
        return None


KINDS: dict[str, tuple[Any, Any, Any]] = {
    "openai": (OpenAI, Chat, agent_kit.chat_plain),
    "openai streamed": (OpenAI, Chat, agent_kit.chat_streamed),
    "anthropic": (Anthropic, Messages, agent_kit.messages_plain),
    "anthropic streamed": (Anthropic, Messages, agent_kit.messages_streamed),
}


class House:
    """A door with a provider behind it: agents of sessions and runs, and what it all came to."""

    def __init__(self, sandbox: SandboxServer, store: Store, open_agent: Callable[[str, str, str | None], Say]) -> None:
        self.sandbox, self.store, self._open = sandbox, store, open_agent
        self.agent_kind: Any = None
        self.states: dict[str, list[str | None]] = {}

    def agent(self, session: str, run: str = "r", parent: str | None = None, document: str = "") -> Agent:
        agent: Agent = self.agent_kind(self._open(session, run, parent), document)
        return agent

    def rows(self, session: str) -> list[Entry]:
        self.store.flush()
        page = self.store.calls(limit=1000)
        assert page.next_cursor is None
        return [row for row in page.items if row.session_id == session]

    def cost(self, session: str) -> int:
        costs = [row.cost_nanos for row in self.rows(session)]
        assert None not in costs
        return sum(cost or 0 for cost in costs)


@contextmanager
def library(kind: str, *rules: Breaker) -> Iterator[House]:
    client_kind, agent_kind, way = KINDS[kind]
    make = library_kit.openai if client_kind is OpenAI else library_kit.anthropic
    with SandboxServer(SETTINGS) as sandbox, library_kit.guarded(breakers=rules) as guard:
        say = way(guard.wrap(make(sandbox.url, client_kind)))

        def opened(session: str, run: str, parent: str | None) -> Say:
            def asked(**body: Any) -> Any:
                if parent is None:
                    with guard.run(session=session, run_id=run):
                        return say(**body)
                with guard.run(session=session, run_id=parent), guard.run(run_id=run):
                    return say(**body)

            return asked

        house = House(sandbox, guard._desk.store, opened)
        house.agent_kind = agent_kind
        yield house
        assert guard._desk.store.verify() == []


@contextmanager
def gateway(kind: str, *rules: Breaker) -> Iterator[House]:
    client_kind, agent_kind, way = KINDS[kind]
    with running(SETTINGS, breakers=rules) as gw:
        house: House

        def heard(response: httpx2.Response) -> None:
            session = response.request.headers["x-bursar-session-id"]
            house.states.setdefault(session, []).append(response.headers.get("x-bursar-budget-state"))

        http = httpx2.Client(verify=TLS, event_hooks={"response": [heard]})
        base = gw.url + ("/v1" if client_kind is OpenAI else "")
        say = way(client_kind(api_key="k", base_url=base, http_client=http))

        def opened(session: str, run: str, parent: str | None) -> Say:
            labels = {"session-id": session, "run-id": run, "parent-run-id": parent}
            told = {f"x-bursar-{name}": value for name, value in labels.items() if value is not None}
            return lambda **body: say(**body, extra_headers=told)

        house = House(gw.sandbox, gw.store, opened)
        house.agent_kind = agent_kind
        yield house


Door = Callable[..., AbstractContextManager[House]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=[library, gateway], ids=["library", "gateway"])
def door(request: pytest.FixtureRequest) -> Door:
    opened: Door = request.param
    return opened


def same_tool_call(house: House) -> str:
    """A long document, and the same call with the same result, again and again."""
    agent = house.agent("runaway", document=FOUND * 1_000)
    return ended(lambda: agent.turn(FOUND))


def growing_context(house: House) -> str:
    """Every result is as long as a report, and nothing is ever left out."""
    agent = house.agent("runaway")
    return ended(lambda: agent.turn(FOUND * 300))


def fan_out(house: House) -> str:
    """Three threads of sub-agents that ask for a sub-agent of their own, each with all that is known."""
    texts: list[str] = []

    def work(branch: int) -> None:
        for depth in range(MOST):
            agent = house.agent("runaway", f"{branch}-{depth + 1}", f"{branch}-{depth}", document=FOUND * 500)
            if (text := agent.turn(FOUND)) is not None:
                texts.append(text)
                return

    threads = [threading.Thread(target=work, args=(branch,)) for branch in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 3 and all(text.startswith("I have to stop here") for text in texts)
    return texts[0]


def ended(turn: Callable[[], str | None]) -> str:
    """The text that ended the loop."""
    for _ in range(MOST):
        if (text := turn()) is not None:
            return text
    raise AssertionError(f"{MOST} turns and no end")


@pytest.mark.parametrize("runs_away", [same_tool_call, growing_context, fan_out])
def test_a_runaway_loop_stops_under_its_ceiling(door: Door, kind: str, runs_away: Callable[[House], str]) -> None:
    with door(kind, CEILING) as house:
        neighbour = house.agent("neighbour")
        assert neighbour.turn(FOUND) is None
        assert runs_away(house).startswith(f"{STOPPED} (the ceiling of $5 is reached), until it is reset.")
        for _ in range(3):
            assert neighbour.turn(FOUND) is None
        cost = house.cost("runaway")
        assert 2 * USD < cost <= 5 * USD
        assert house.sandbox.bill.total_nanos() == cost + house.cost("neighbour")
        assert [row.status for row in house.rows("neighbour")] == ["completed"] * 4
        told = opened(house)
        assert (told.subject, told.state.status, told.state.until) == ("runaway", "open", None)
        # Whoever comes later is told without being asked for a claim: one more row, no more dollars.
        before = len(house.rows("runaway"))
        again = house.agent("runaway", "later").turn(FOUND)
        assert again is not None and again.startswith(STOPPED)
        assert (len(house.rows("runaway")), house.cost("runaway")) == (before + 1, cost)
        if house.states:
            assert house.states["runaway"][-1] == "suspended" and "suspended" not in house.states["neighbour"]


@pytest.mark.parametrize(
    ("runs_away", "trigger", "why"),
    [
        (same_tool_call, Loop(), r"16 turns that are alike|the same turn \d+ times"),
        (growing_context, Growth(turns=5, times=4, tokens=20_000), r"the context has grown \d+ turns in a row"),
        (fan_out, FanOut(over_runs=10), r"1\d sub-agent runs within 10 minutes"),
    ],
    ids=["loop", "growth", "fan-out"],
)
def test_what_runs_away_is_known_long_before(
    door: Door, kind: str, runs_away: Callable[[House], str], trigger: Trigger, why: str
) -> None:
    """By the rule for its kind, from the rows alone; the neighbour does a little of the same."""
    with door(kind, CEILING, Breaker(name="watchful", scope="session", trigger=trigger)) as house:
        neighbour = house.agent("neighbour")
        for _ in range(4):
            assert neighbour.turn(FOUND) is None
        assert runs_away(house).startswith("I have to stop here: this session is suspended by the breaker watchful")
        told = opened(house)  # the ceiling's is not
        assert told.subject == "runaway" and re.match(why, told.state.why), told.state.why
        assert neighbour.turn(FOUND) is None


def opened(house: House) -> Document:
    """The one breaker that has tripped."""
    house.store.flush()
    (seen,) = breakers.listed(house.store).items
    return seen.document
