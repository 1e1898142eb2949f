"""Audits behind real calls: on real stores, by both drivers, through both doors, against a sandbox that bills them."""

import json
from pathlib import Path

import pytest

import books
from audit_kit import WAYS, Mood, Way, asking, auto
from bursar.policy import Budget, Check, Match
from bursar.rules.chain.audit import Audits, false_pass_rate
from routing_kit import GPT, GPT_MID, RIGHT, WRONG

path, template = books.path, books.template
PROSE = "The buyer is Ada, and she has bought three pages in all."


@pytest.mark.parametrize("way", WAYS)
def test_a_tier_wins_a_step_by_audits_and_loses_it_by_them(way: Way, path: Path) -> None:
    """With an empty ledger the caller's model is kept, until 29 audits of 29 agree; audits go on, and tell on it."""
    mood = Mood()
    with asking(way, mood.settings(), None if way == "asyncio" else path) as ask:
        assert ask(29) == RIGHT
        assert ask.served() == ["mid"] * 29
        rows = ask.rows("audit")
        told = ("small", "audit:small", "completed")
        assert [(row.tier, row.route_reason, row.status) for row in rows] == [told] * 29
        assert all((row.model or "").startswith(GPT) and row.request_id.endswith("-audit") for row in rows)
        assert ask.book().tiers == {"small": Audits(29, 29)}
        assert ask() == RIGHT and ask.served()[-1] == "small"
        (row,) = ask.rows("audit")[29:]
        assert (row.tier, row.route_reason) == ("mid", "audit:small") and (row.model or "").startswith(GPT_MID)
        mood.bad.set()
        assert ask() == WRONG, "nobody judges: the first wrong answer is not seen before it is audited"
        assert ask() == RIGHT and ask.served()[-1] == "mid"
        mood.bad.clear()
        assert ask.book().tiers["small"].total == (30, 32)
        words = [json.loads(row.verdict or "{}") for row in ask.rows("audit")]
        assert [word["reason"] for word in words[:30]] == ["says the same as small's answer"] * 30
        assert [word["reason"] for word in words[30:]] == ["says another thing than small's answer"] * 2
        assert {row.validated for row in ask.rows("audit")} == {None}
        ask.billed()


def test_at_95_percent_it_takes_59(path: Path) -> None:
    with asking("blocking", Mood().settings(), path, agreement=0.95) as ask:
        ask(60)
        assert ask.served() == ["mid"] * 59 + ["small"]


@pytest.mark.parametrize("way", WAYS)
def test_prose_proves_nothing_and_is_not_paid_for(way: Way) -> None:
    with asking(way, Mood().settings(right=PROSE)) as ask:
        assert ask(5) == PROSE
        assert [row.purpose for row in ask.rows()] == ["call"] * 5 and ask.served() == ["mid"] * 5
        assert ask.book().tiers == {} and ask.book().calls == 5


@pytest.mark.parametrize("way", WAYS)
def test_audits_stay_within_their_share(way: Way) -> None:
    """3 % of what the step has cost: above it by one audit at most, and used where something is to be learned."""
    with asking(way, Mood().settings(), share=0.03) as ask:
        ask(150)
        calls = sum(row.cost_nanos or 0 for row in ask.rows("call"))
        audits = [row.cost_nanos or 0 for row in ask.rows("audit")]
        assert sum(audits) <= 0.03 * calls + max(audits)
        assert len(audits) > 20, "at 1:16 about half of the calls are audited"
        assert ask.book().audits_nanos == sum(audits) and ask.book().spent_nanos == calls


@pytest.mark.parametrize("way", WAYS)
def test_how_often_a_validator_is_wrong(way: Way) -> None:
    """It passes whatever is JSON; the dearest tier says otherwise, and is on no account asked to serve."""
    mood = Mood()
    mood.bad.set()
    passes = Check("json", lambda answer: "buyer" in answer.text)
    with asking(way, mood.settings(), None, auto(cascade=("small", "mid"), validators=(passes,))) as ask:
        assert ask(6) == WRONG
        assert ask.served() == ["small"] * 6
        rows = ask.rows("audit")
        assert {(row.tier, row.route_reason) for row in rows} == {("mid", "audit:small")}
        found = ask.book().tiers["small"]
        assert found == Audits(0, len(rows)) and len(rows) == 6
        assert false_pass_rate(6, 2, found) == 6 / 8
        ask.billed()


@pytest.mark.parametrize("way", WAYS)
def test_an_audit_is_nobodys_run(way: Way) -> None:
    """It is charged to budgets of the tenant and of all, to none of a step, a user or a run."""
    limits = tuple(
        Budget(name=scope, scope=scope, limit_nanos=10**12, match=Match(step="extract"))
        for scope in ("tenant", "global", "user", "agent", "step")
    )
    with asking(way, Mood().settings(), None, budgets=limits) as ask:
        ask(2)
        told = {row.purpose: {charge.budget for charge in row.charges} for row in ask.rows()}
        assert told == {"call": {"tenant", "global", "user", "agent", "step"}, "audit": {"tenant", "global"}}


@pytest.mark.parametrize("way", WAYS)
def test_one_that_is_refused_is_skipped(way: Way) -> None:
    """The call has its answer; the refusal is a row; nothing is pledged for it any more."""
    limit = Budget(name="all", scope="global", limit_tokens=380)
    with asking(way, Mood().settings(), None, budgets=(limit,)) as ask:
        assert ask() == RIGHT
        assert [(row.purpose, row.status) for row in ask.rows()] == [("call", "completed"), ("audit", "refused")]
        assert (ask.book().likely_nanos, ask.book().audits_nanos, ask.book().tiers) == (0, 0, {})


def test_one_that_its_budget_has_cut_short_says_nothing() -> None:
    limit = Budget(name="all", scope="global", limit_tokens=392)
    with asking("blocking", Mood().settings(), None, budgets=(limit,)) as ask:
        assert ask() == RIGHT
        (row,) = ask.rows("audit")
        assert (row.status, row.output_tokens) == ("completed", row.output_limit)
        assert ask.book().tiers == {} and ask.book().audits_nanos == row.cost_nanos
