"""One process of the budgets benchmark: makes the calls that it is told to make under one contender's budget.

    python benchmarks/budget_load.py bursar|litellm|agentbudget|none < task.json

Stands alone, for the interpreter of the contender's own environment. Reads the task, says "ready", waits for a line,
makes all calls at once (or one after another until five in a row are refused), prints a JSON line of what became of
each.
"""

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

PATIENCE = 5
"""Refusals in a row after which somebody who makes one call after another gives up."""

Create: TypeAlias = Callable[..., Awaitable[Any]]
"""chat.completions.create, as the OpenAI SDK has it."""


def client(task: dict[str, Any]) -> Any:
    openai = importlib.import_module("openai")
    return openai.AsyncOpenAI(api_key="k", base_url=task["url"] + "/v1", max_retries=0, timeout=300)


@asynccontextmanager
async def none(task: dict[str, Any]) -> AsyncIterator[Create]:
    """The SDK alone."""
    yield client(task).chat.completions.create


@asynccontextmanager
async def bursar(task: dict[str, Any]) -> AsyncIterator[Create]:
    """The library door; the budget is configured, and counted in the ledger that all processes share."""
    module = importlib.import_module("bursar")
    guard = module.open(task["config"])
    async with guard.run(agent="bench", session="bench"):
        yield guard.wrap(client(task)).chat.completions.create
    await guard.aclose()


@asynccontextmanager
async def litellm(task: dict[str, Any]) -> AsyncIterator[Create]:
    """Its router with a provider's budget, counted in this process, for its other budgets need a database.

    litellm.max_budget would be simpler, but counts nothing in this version.
    """
    module: Any = importlib.import_module("litellm")
    module.suppress_debug_info = True
    served = {"model": "openai/gpt-4o", "api_base": task["url"] + "/v1", "api_key": "k", "timeout": 300}
    router = module.Router(
        model_list=[{"model_name": "gpt-4o", "litellm_params": served}],
        provider_budget_config={"openai": {"budget_limit": task["cap_usd"], "time_period": "1d"}},
        num_retries=0,
        disable_cooldowns=True,
    )
    yield router.acompletion


@asynccontextmanager
async def agentbudget(task: dict[str, Any]) -> AsyncIterator[Create]:
    """agentbudget.init, its drop-in mode; its alarm about repeated calls is set aside, for they are meant here."""
    module = importlib.import_module("agentbudget")
    module.init(budget=task["cap_usd"], max_repeated_calls=10**9)
    yield client(task).chat.completions.create
    module.teardown()


CONTENDERS = {"none": none, "bursar": bursar, "litellm": litellm, "agentbudget": agentbudget}


def ending(fault: Exception) -> str:
    """refused: by a budget. held: by a budget, for the moment. Else what it was."""
    status = getattr(fault, "status_code", None)
    if status == 429:
        return "held"
    about = type(fault).__name__ == "BudgetExhausted" or "budget" in str(fault).lower()
    return "refused" if status == 402 or about else type(fault).__name__


async def one(create: Create, call: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"index": call["index"], "id": None, "cut": False}
    try:
        answer = await create(**call["asked"])
        if call["asked"].get("stream"):
            async for chunk in answer:
                _note(told, chunk)
        else:
            _note(told, answer)
        told["ended"] = "answered"
    except Exception as fault:
        told["ended"] = ending(fault)
    return told


def _note(told: dict[str, Any], answer: Any) -> None:
    told["id"] = answer.id or told["id"]
    told["cut"] = told["cut"] or any(choice.finish_reason == "length" for choice in answer.choices)


async def lives(name: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    async with CONTENDERS[name](task) as create:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if not task["one_by_one"]:
            return list(await asyncio.gather(*(one(create, call) for call in task["calls"])))
        found: list[dict[str, Any]] = []
        for call in task["calls"]:
            found.append(await one(create, call))
            await asyncio.sleep(0)  # a contender may keep its books in a task of its own
            if len(found) >= PATIENCE and all(told["ended"] != "answered" for told in found[-PATIENCE:]):
                break
        return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(lives(sys.argv[1], json.loads(sys.stdin.readline())))), flush=True)
