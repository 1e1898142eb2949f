"""The ladder of a budget, rung by rung, as golden traces: the world is scripted, the decisions are the real ones.

In this world a token of input costs 1 micro-dollar and one of output 4; the body's input is held at 274 tokens.
"""

from typing import Any

import pytest
from inline_snapshot import snapshot
from msgspec.structs import replace

from bursar.policy import Budget, Candidate, Card, Match, StepRule, Unpriced
from bursar.rules import budget
from bursar.types import Call, Cap, Instant, Kin, Outcome, Refused, Tags, Terms, Verdict
from worlds import Prices, Scripted, call, completed, failed, policy

MICRO = 1_000
TIERS = {"small": (Candidate("spare", "mini"),), "large": (Candidate("openai", "gpt-4o"),)}


class Tiered(Prices):
    """A quarter of the price for the mini."""

    def card(self, provider: str, model: str, terms: Terms, at: Instant) -> Card | Unpriced:
        card = super().card(provider, model, terms, at)
        if model != "mini" or isinstance(card, Unpriced):
            return card
        return replace(card, price_id="test:mini", rates={k: v // 4 for k, v in card.rates.items()})


def cap(micros: int | None = None, tokens: int | None = None, **more: Any) -> Budget:
    nanos = None if micros is None else micros * MICRO
    return Budget(name="cap", scope=more.pop("scope", "user"), limit_nanos=nanos, limit_tokens=tokens, **more)


def lived(
    budgets: list[Budget], outcomes: list[Outcome], a_call: Call | None = None, **more: Any
) -> tuple[list[str], Verdict]:
    world = Scripted(outcomes, spent=more.pop("spent", None), held=more.pop("held", None))
    rules = policy(budgets=tuple(budgets), **more)
    if "tiers" in more:
        rules = type(rules)(**{**{f: getattr(rules, f) for f in rules.__struct_fields__}, "prices": Tiered()})
    verdict = world.live(a_call or call(), rules)
    return world.trace, verdict


def test_enough_is_left() -> None:
    """The caller's limit is sent as he wrote it; the hold is input at its ceiling plus that limit."""
    trace, verdict = lived([cap(100_000)], [completed()])
    assert trace == snapshot(
        ["reserve openai/gpt-4o #1 hold 674000", "send openai/gpt-4o", "settle #1 completed final 30000"]
    )
    assert verdict.standing is not None and verdict.standing.state == "ok"


def test_the_output_is_clamped_to_what_is_left() -> None:
    """400 micro-dollars left, 274 for the input: 31 tokens of output are paid for, and only they are asked for."""
    trace, verdict = lived([cap(1_000)], [completed()], spent={"cap": (600 * MICRO, 0)})
    assert trace == snapshot(
        ["reserve openai/gpt-4o #1 hold 398000", "send openai/gpt-4o limit 31", "settle #1 completed final 30000"]
    )
    assert verdict.standing is not None and verdict.standing.state == "wrap_up"
    assert verdict.entry is not None and verdict.entry.output_limit == 31


def test_a_used_up_budget_ends_in_an_answer() -> None:
    """Nothing is sent, a refusal is booked, and the caller gets a text in place of an error."""
    trace, verdict = lived([cap(1_000)], [], spent={"cap": (900 * MICRO, 0)})
    assert trace == snapshot(["refused openai/gpt-4o #1 exhausted", "settle #1 refused final 0"])
    refused = verdict.outcome
    assert isinstance(refused, Refused) and refused.standing is not None and refused.standing.state == "exhausted"
    assert refused.answer == snapshot(
        "I have to stop here: the budget for this work (cap: $0.001) is used up ($0.0009 spent). What was found so "
        "far stands above; it is not complete."
    )
    assert refused.reason == snapshot(
        "the budget 'cap' (user (none), lifetime) is used up: $0.0009 of $0.001 spent; $0.0001 left and this call "
        'needs $0.000278 at the least: raise [[budgets]] "cap"'
    )
    assert verdict.entry is not None and verdict.entry.http_status == 200


@pytest.mark.parametrize("view", [{"prose": False}, {"readable": False}])
def test_where_no_text_would_be_valid_it_is_an_error(view: dict[str, Any]) -> None:
    """Structured output, a forced tool, an unread body: 402."""
    _, verdict = lived([cap(1_000)], [], call(**view), spent={"cap": (900 * MICRO, 0)})
    assert isinstance(verdict.outcome, Refused) and verdict.outcome.answer is None
    assert verdict.entry is not None and verdict.entry.http_status == 402


def test_refuse_means_refuse() -> None:
    _, verdict = lived([cap(1_000, on_exhausted="refuse")], [], spent={"cap": (900 * MICRO, 0)})
    assert isinstance(verdict.outcome, Refused) and verdict.outcome.answer is None


def test_others_holds_are_no_exhaustion() -> None:
    """What is only held by others is waited for by the store; after that it is a 429, never a partial answer."""
    trace, verdict = lived([cap(1_000)], [], held={"cap": (900 * MICRO, 0)})
    assert trace == snapshot(["refused openai/gpt-4o #1 held", "settle #1 refused final 0"])
    assert isinstance(verdict.outcome, Refused) and verdict.outcome.answer is None
    assert verdict.outcome.retry_after_ms and verdict.entry is not None and verdict.entry.http_status == 429


def test_a_downgrade_prefers_a_whole_answer_of_the_cheaper_model() -> None:
    """The dear model could only give 31 tokens; the small one gives all 100 for what is left."""
    trace, _ = lived(
        [cap(1_000, on_exhausted="downgrade")], [completed(model="mini")], tiers=TIERS,
        spent={"cap": (600 * MICRO, 0)},
    )  # fmt: skip
    assert trace == snapshot(
        [
            "lore",
            "refused openai/gpt-4o #1 exhausted",
            "reserve spare/mini #1 hold 168500",
            "send spare/mini",
            "settle #1 completed final 7500",
        ]
    )


def test_after_the_cheaper_plan_the_clamp_and_then_the_end() -> None:
    """Too little even for a whole answer of the small model: its output is clamped; with less still, the end."""
    rules = [cap(1_000, on_exhausted="downgrade")]
    clamped, _ = lived(rules, [completed(model="mini")], tiers=TIERS, spent={"cap": (920 * MICRO, 0)})
    assert clamped == snapshot(
        [
            "lore",
            "refused openai/gpt-4o #1 exhausted",
            "refused spare/mini #1 exhausted",
            "reserve spare/mini #1 hold 79500",
            "send spare/mini limit 11",
            "settle #1 completed final 7500",
        ]
    )
    ended, verdict = lived(rules, [], tiers=TIERS, spent={"cap": (999 * MICRO, 0)})
    assert ended[-1] == "settle #1 refused final 0"
    assert isinstance(verdict.outcome, Refused) and verdict.outcome.answer is not None


def test_a_provider_that_fails_is_no_reason_to_downgrade() -> None:
    """Cheaper plans are for used-up budgets only."""
    rules = [cap(100_000, on_exhausted="downgrade")]
    trace, _ = lived(rules, [failed(400)], tiers=TIERS)
    assert trace == snapshot(
        ["lore", "reserve openai/gpt-4o #1 hold 674000", "send openai/gpt-4o", "settle #1 failed final 0"]
    )


def test_the_finish_reserve_is_for_the_final_answer() -> None:
    """With 15 % kept, 200 of 1,000 left: an ordinary call is at its end; the final one goes, its tools off."""
    rules = [cap(10_000, scope="run", finish_reserve=150_000)]
    spent = {"cap": (8_700 * MICRO, 0)}
    tags = Tags(run_id="r1", step="plan")
    _, verdict = lived(rules, [], _tagged(tags), spent=spent)
    assert isinstance(verdict.outcome, Refused) and verdict.outcome.answer is not None
    trace, _ = lived(rules, [completed()], _tagged(Tags(run_id="r1", step="final")), spent=spent)
    assert trace == snapshot(
        [
            "reserve openai/gpt-4o #1 hold 674000",
            "send openai/gpt-4o tools off",
            "settle #1 completed final 30000",
        ]
    )


def test_retries_are_paid_from_the_same_budget() -> None:
    """An answer that broke off is paid for, and what is left decides about the next attempt."""
    broken = failed(200, reading=completed(10, 200).reading)
    trace, verdict = lived([cap(1_500)], [broken, completed()], call(max_output_tokens=300))
    assert trace == snapshot(
        [
            "reserve openai/gpt-4o #1 hold 1474000",
            "send openai/gpt-4o",
            "settle #1 failed final 810000",
            "pause 411",
            "reserve openai/gpt-4o #2 hold 690000",
            "send openai/gpt-4o limit 104",
            "settle #2 completed final 30000",
        ]
    )
    assert verdict.spent_nanos == 840_000


def test_the_callers_own_guard() -> None:
    """x-bursar-max-cost-usd lowers the output limit, and refuses where not even the input is covered."""
    trace, _ = lived([], [completed()], _guarded(500 * MICRO))
    assert trace == snapshot(
        ["reserve openai/gpt-4o #1 hold 407000", "send openai/gpt-4o limit 56", "settle #1 completed final 30000"]
    )
    _, verdict = lived([], [], _guarded(200 * MICRO))
    assert isinstance(verdict.outcome, Refused) and verdict.outcome.kind == "call"
    assert verdict.outcome.reason == snapshot(
        "this call can cost $0.000278 at the least and its guard allows $0.0002: raise x-bursar-max-cost-usd or send "
        "less"
    )


def test_a_steps_own_output_limit() -> None:
    """max_output_tokens of [[steps]]: sent in place of a larger one, without any budget."""
    rule = StepRule(match=Match(step="extract_*"), max_output_tokens=50)
    a_call = _tagged(Tags(step="extract_names"))
    trace, _ = lived([], [completed()], a_call, steps=(rule,))
    assert trace[1] == "send openai/gpt-4o limit 50"
    trace, _ = lived([], [completed()], _tagged(Tags(step="write")), steps=(rule,))
    assert trace[1] == "send openai/gpt-4o"


def test_no_price_no_dollars() -> None:
    """Under a limit in dollars an unpriced model is held at the provider's dearest rates; "allow" lets it pass."""
    trace, _ = lived([cap(100_000)], [completed(model="mystery")], call(model="mystery"))
    assert trace == snapshot(
        ["reserve openai/mystery #1 hold 3740000", "send openai/mystery", "settle #1 completed estimated 150000"]
    )
    trace, _ = lived([cap(100_000)], [completed(model="mystery")], call(model="mystery"), unknown_price="allow")
    assert trace[-1] == "settle #1 completed unpriced unpriced"


def test_input_that_nothing_bounds_is_refused() -> None:
    """Files and URLs: without opaque_input_tokens and without a known context window no budget can hold them."""
    _, verdict = lived([cap(100_000)], [], call(opaque_input=True))
    assert isinstance(verdict.outcome, Refused) and "opaque_input_tokens" in verdict.outcome.reason
    trace, _ = lived([cap(100_000)], [completed()], call(opaque_input=True), opaque_input_tokens=5_000)
    assert trace[0] == "reserve openai/gpt-4o #1 hold 5400000"


def test_whose_counter() -> None:
    """A key that may not state an id is limited by its own, and no label of its caller chooses a budget."""
    free = Budget(name="free", scope="user", match=Match(user_tier="free"), limit_tokens=1)
    every = Budget(name="all", scope="user", limit_tokens=1)
    session = Budget(name="s", scope="session", limit_tokens=1)
    rules = policy(budgets=(free, every, session))

    def keys(tags: Tags) -> list[tuple[str, str]]:
        return [(claim.budget, claim.key) for claim in budget.claims(tags, tags.step, rules)]

    told = Tags(user_id="u1", user_tier="free", session_id="s1")
    assert keys(told) == [("free", "u1"), ("all", "u1"), ("s", "s1")]
    assert keys(Tags()) == [("all", "(none)"), ("s", "(none)")]
    untrusted = Tags(user_id="u1", user_tier="free", session_id="s1", key_id="k1", trusted=frozenset({"session"}))
    assert keys(untrusted) == [("all", "key:k1"), ("s", "s1")]


def test_a_runs_line_is_claimed_whole() -> None:
    """Each ancestor's own limit and every configured one that fits its labels: no sub-agent escapes its root."""
    each = Budget(name="each", scope="run", match=Match(agent="root"), limit_tokens=1)
    line = (Kin("r3", "leaf"), Kin("r2", "branch", cap=Cap(limit_tokens=5)), Kin("r1", "root", cap=Cap(limit_nanos=7)))
    tags = Tags(run_id="r3", agent_id="leaf", line=line)
    found = [
        (c.budget, c.key, c.limit_nanos, c.limit_tokens) for c in budget.claims(tags, None, policy(budgets=(each,)))
    ]
    assert found == [("run:r2", "r2", None, 5), ("each", "r1", None, 1), ("run:r1", "r1", 7, None)]


def _tagged(tags: Tags) -> Call:
    return replace(call(), tags=tags)


def _guarded(nanos: int) -> Call:
    return replace(call(), max_cost_nanos=nanos)
