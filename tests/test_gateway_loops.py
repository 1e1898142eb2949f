"""An agent behind the gateway whose budget is too small: it ends by itself with a useful answer, without a retry storm.

Plan, tools, synthesis by the real SDKs, set to retry as they are by default. All that the agent's author knows of
budgets is one header that he reads, x-bursar-budget-state, and the step that he names.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from anthropic import Anthropic
from openai import OpenAI

import agent_kit
from agent_kit import REPORT, TURNS, Agent, AnthropicAgent, OpenAIAgent, sandbox_settings
from bursar.policy import Budget, Match
from gateways import TLS, Running, running

TOKENS = 20_000
RUN = {"x-bursar-run-id": "r1", "x-bursar-agent-id": "researcher"}
KINDS: dict[str, tuple[Any, Any, str, Callable[[Any], agent_kit.Say]]] = {
    "openai": (OpenAI, OpenAIAgent, "/v1", agent_kit.chat_plain),
    "openai streamed": (OpenAI, OpenAIAgent, "/v1", agent_kit.chat_streamed),
    "anthropic": (Anthropic, AnthropicAgent, "", agent_kit.messages_plain),
    "anthropic streamed": (Anthropic, AnthropicAgent, "", agent_kit.messages_streamed),
}
Start = Callable[[Running], "Desk"]


class Desk:
    """An agent, the step that it names, and what the gateway has told it of its budget."""

    def __init__(self, gw: Running, kind: str) -> None:
        self._named = ""
        client, agent, path, way = KINDS[kind]
        http = httpx2.Client(verify=TLS, event_hooks={"response": [self._heard]})
        say = way(client(api_key="k", base_url=gw.url + path, http_client=http))
        self._agent: Agent = agent(lambda **asked: say(**asked, extra_headers={**RUN, "x-bursar-step": self._named}))
        self.states: list[str] = []

    def _heard(self, response: httpx2.Response) -> None:
        self.states.append(response.headers["x-bursar-budget-state"])

    def step(self, name: str) -> Agent:
        self._named = name
        return self._agent


@pytest.fixture(params=KINDS)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    yield lambda gw: Desk(gw, request.param)


def task(reserve: int) -> Budget:
    return Budget(
        name="task", scope="run", match=Match(agent="researcher"), limit_tokens=TOKENS, finish_reserve=reserve
    )


def tools_are_off(body: Any) -> bool:
    return body.get("tool_choice") in ("none", {"type": "none"})


def test_it_ends_with_its_report_from_the_reserve(start: Start) -> None:
    """It researches while the state is ok, then names the step final: that call is open to the reserve, is sent with
    its tools left in place and off, and brings the report. Every request was sent once."""
    with running(sandbox_settings(), budgets=(task(500_000),)) as gw:
        desk = start(gw)
        desk.step("plan").plan()
        turns = 0
        while desk.states[-1] == "ok" and turns < 2 * TURNS:
            turns += 1
            if desk.step("research").turn() is not None:
                break
        assert desk.step("final").report() == REPORT
        assert 2 <= turns < TURNS
        *before, last = [msgspec.json.decode(got.body) for got in gw.sandbox.requests]
        assert tools_are_off(last) and len(last["tools"]) == 1
        assert not any(map(tools_are_off, before))
        rows = gw.rows()
        assert len(desk.states) == len(rows) and {row.sdk_retry for row in rows} == {0}
        assert len([row for row in rows if row.status == "completed"]) == len(gw.sandbox.requests)
        assert {row.status for row in rows} <= {"completed", "refused"}
        assert sum(sum(line.usage.values()) for line in gw.sandbox.bill.lines) <= TOKENS


def test_a_second_final_answer_is_not_paid_for(start: Start) -> None:
    """The reserve is for one answer a run: who asks again gets the partial answer, and the limit still holds."""
    with running(sandbox_settings(), budgets=(task(500_000),)) as gw:
        desk = start(gw)
        while desk.step("research").turn() is None:
            pass
        assert desk.states[-1] == "exhausted"
        sent = len(gw.sandbox.requests)
        assert desk.step("final").report() == REPORT
        assert desk.step("final").report().startswith("I have to stop here")
        assert desk.states[-1] == "exhausted"
        assert len(gw.sandbox.requests) == sent + 1
        assert sum(sum(line.usage.values()) for line in gw.sandbox.bill.lines) <= TOKENS


def test_a_loop_that_ignores_everything_ends_too(start: Start) -> None:
    """The partial answer calls no tool, and so the loop is over; one refused row, no exception, no retry."""
    with running(sandbox_settings(), budgets=(task(0),)) as gw:
        desk = start(gw)
        desk.step("plan").plan()
        text, turns = None, 0
        while text is None:
            text, turns = desk.step("research").turn(), turns + 1
        assert text.startswith("I have to stop here: the budget for this work (task: 20,000 tokens) is used up")
        assert turns < TURNS
        rows = gw.rows()
        assert [row.status for row in rows].count("refused") == 1
        assert len(rows) == len(gw.sandbox.requests) + 1 == turns + 1 == len(desk.states)
        assert sum(sum(line.usage.values()) for line in gw.sandbox.bill.lines) <= TOKENS
