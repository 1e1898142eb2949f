"""Answers, tiers and rules for the tests of routes: a scripted world with three tiers, and prices that stand apart.

Not a test itself.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from bursar.policy import Candidate, Capability, Card, Check, JudgePrompt, Match, Policy, Provider, StepRule, Unpriced
from bursar.types import Answer, Call, Completed, Instant, Tags, Terms
from worlds import Prices, call, completed, policy

TIERS = {
    "small": (Candidate("openai", "mini"),),
    "mid": (Candidate("openai", "gpt-4o"),),
    "frontier": (Candidate("anthropic", "opus"),),
}
RATES = {"mini": 1, "gpt-4o": 10, "opus": 50, "gpt-4o-spare": 10, "flash": 2}
"""Dollars a million input tokens, four times as much for output."""


class Ladder(Prices):
    """1:10:50; a model that RATES does not name has no price."""

    def card(self, provider: str, model: str, terms: Terms, at: Instant) -> Card | Unpriced:
        base = RATES.get(model)
        if base is None:
            return Unpriced(f"no price for {model}")
        rates: dict[Any, int] = {
            "input": base * 10**9, "output": 4 * base * 10**9, "cache_read": base * 10**8,
            "cache_write_5m": base * 1_250_000_000,
        }  # fmt: skip
        return Card(price_id=f"test:{model}", rates=rates, fees={}, max_output_tokens=1000)


class Able:
    """A table of capabilities; what it does not name is unknown."""

    def __init__(self, table: Mapping[str, Capability]) -> None:
        self.table = table

    def of(self, provider: str, model: str) -> Capability:
        return self.table.get(f"{provider}/{model}", Capability())


def rules(*steps: StepRule, **more: Any) -> Policy:
    prices = more.pop("prices", Ladder())
    made = policy(**{"tiers": TIERS, "steps": steps, **more})
    providers = {**made.providers, "gemini": Provider("gemini", "gemini", "http://gemini.test")}
    return replace(made, prices=prices, providers=providers)


def step(**more: Any) -> StepRule:
    """A rule for the step "extract"."""
    return StepRule(match=Match(step="extract"), **more)


def asking(model: str | None = "gpt-4o", **more: Any) -> Call:
    """A call of the step "extract"; `view` and `body` may say more."""
    base = call(more.pop("api", "chat"), attempts=more.pop("attempts", 1), model=model, **more.pop("view", {}))
    return replace(base, tags=more.pop("tags", Tags(step="extract", run_id="run1")), **more)


def said(text: str = "yes", finish: str = "stop", **more: Any) -> Completed:
    """An answer that can be judged."""
    tokens = {k: more.pop(k) for k in ("input_tokens", "output_tokens", "model") if k in more}
    return replace(completed(**tokens), answer=Answer(text=text, finish_reason=finish, **more))


def yes(answer: Answer) -> bool:
    return answer.text == "yes"


def broken(answer: Answer) -> bool:
    raise RuntimeError("no database")


def mendable(answer: Answer) -> bool:
    assert answer.text == "yes", f"not yes but {answer.text}"
    return True


YES, BROKEN, MENDABLE = Check("yes", yes), Check("broken", broken), Check("mendable", mendable)
JUDGE = JudgePrompt("Is it right?", minimum=0.7)
