"""Lives of calls that climb from tier to tier, as golden traces: judged, mended, passed on, flagged at the end.

In this world input costs 1, 10 and 50 micro-dollars a token on the small, mid and frontier tier, output four times as
much; an answer is 10 tokens in and 5 out.
"""

from typing import Any

import msgspec
import pytest
from inline_snapshot import snapshot
from msgspec.structs import replace

from bursar.effects import Send
from bursar.policy import (
    Budget,
    Candidate,
    Consistency,
    JudgePrompt,
    Margin,
    Policy,
    ResponseCache,
    Routing,
)
from bursar.rules.chain.decide import Decision
from bursar.rules.route.known import Known
from bursar.types import Abandoned, Call, Completed, Failed, Kept, Outcome, Refused, Verdict
from route_kit import BROKEN, JUDGE, MENDABLE, TIERS, YES, asking, broken, rules, said, step
from worlds import TIMING, Scripted, abandoned, completed, failed

CHAIN = ("small", "mid", "frontier")
SCORE = '{"score": %s, "reason": "a date is missing"}'


class Climbed(Scripted):
    """The scripted world, with what each attempt was told."""

    def __init__(self, *outcomes: Outcome, **more: Any) -> None:
        super().__init__(outcomes, **more)
        self.sends: list[Send] = []

    def _answer(self, asked: Any) -> Any:
        if isinstance(asked, Send):
            self.sends.append(asked)
        told = super()._answer(asked)
        if not isinstance(told, Completed):
            return told
        return replace(told, reading=replace(told.reading, model=asked.plan.model))  # billed as what was asked for

    @property
    def models(self) -> list[str | None]:
        return [send.plan.model for send in self.sends]

    @property
    def rows(self) -> list[tuple[str, int, str, str, str | None]]:
        return [(row.request_id, row.attempt, row.purpose, row.status, row.tier) for row in self.settled]


def lived(world: Climbed, a_call: Call | None = None, *, policy: Policy | None = None, **rule: Any) -> Verdict:
    """One life by a rule for the step: a cascade over all tiers that asks for "yes", unless told otherwise."""
    told = {"cascade": CHAIN, "validators": (YES,), **rule}
    return world.live(a_call or asking(), policy or rules(step(**told)))


def answer(verdict: Verdict) -> str:
    assert isinstance(verdict.outcome, Completed) and verdict.outcome.answer is not None
    return verdict.outcome.answer.text


class TestClimbing:
    def test_the_first_answer_that_passes_is_given(self) -> None:
        world = Climbed(said("yes"))
        verdict = lived(world)
        assert world.trace == snapshot(
            [
                "lore",
                "reserve openai/mini #1 hold 408750",
                "send openai/mini",
                "settle #1 completed final 30000",
                "observe small passed",
                "audit?",
            ]
        )
        assert (answer(verdict), verdict.flagged, verdict.attempts) == ("yes", False, 1)

    def test_what_does_not_pass_escalates(self) -> None:
        """The error goes along, the bad answer does not; every attempt is a row of the one request."""
        world = Climbed(said("no"), said("perhaps"), said("yes"))
        verdict = lived(world)
        assert world.trace == snapshot(
            [
                "lore",
                "reserve openai/mini #1 hold 408750",
                "send openai/mini",
                "settle #1 completed final 30000",
                "observe small failed",
                "reserve openai/gpt-4o #2 hold 4087500",
                "send openai/gpt-4o",
                "settle #2 completed final 300000",
                "observe mid failed",
                "reserve anthropic/opus #3 hold 20437500",
                "send anthropic/opus",
                "settle #3 completed final 1500000",
                "observe frontier passed",
                "audit?",
            ]
        )
        assert (answer(verdict), verdict.flagged, verdict.attempts) == ("yes", False, 3)
        assert verdict.spent_nanos == 1_830_000
        assert [send.plan.hint for send in world.sends] == [
            None, *["An earlier answer was rejected: the validator said no"] * 2
        ]  # fmt: skip
        assert [send.plan.api for send in world.sends] == [None, None, "messages"]

    def test_the_last_tiers_answer_is_given_flagged(self) -> None:
        """It is the best that was obtained; nobody else is given it, and its row says that it did not pass."""
        world = Climbed(said("no"), said("no"), said("perhaps"))
        verdict = lived(world)
        assert (answer(verdict), verdict.flagged, verdict.attempts) == ("perhaps", True, 3)
        assert [lesson.judgement.ok for lesson in world.lessons] == [False, False, False]

    def test_one_repair_on_the_same_tier(self) -> None:
        """The model is told what was wrong; a second bad answer goes up, with the error and without the answer."""
        world = Climbed(said("no"), said("still no"), said("yes"))
        verdict = lived(world, validators=(MENDABLE,))
        assert world.trace == snapshot(
            [
                "lore",
                "reserve openai/mini #1 hold 408750",
                "send openai/mini",
                "settle #1 completed final 30000",
                "observe small failed",
                "reserve openai/mini #2 hold 408750",
                "send openai/mini",
                "settle #2 completed final 30000",
                "observe small failed",
                "reserve openai/gpt-4o #3 hold 4087500",
                "send openai/gpt-4o",
                "settle #3 completed final 300000",
                "observe mid passed",
                "audit?",
            ]
        )
        assert [send.plan.hint for send in world.sends] == [
            None,
            "Your last answer was rejected: not yes but no",
            "An earlier answer was rejected: not yes but still no",
        ]
        assert not verdict.flagged

    def test_each_tier_may_mend_once(self) -> None:
        """Also the last: six attempts at most."""
        world = Climbed(*[said("no")] * 6)
        verdict = lived(world, validators=(MENDABLE,))
        assert world.models == ["mini", "mini", "gpt-4o", "gpt-4o", "opus", "opus"]
        assert verdict.flagged and verdict.attempts == 6

    def test_a_validator_that_breaks_is_never_a_pass(self) -> None:
        """It does not know: the call goes up unmended, nothing is learned, and the end is flagged."""
        world = Climbed(*[said("yes")] * 3)
        verdict = lived(world, validators=(YES, BROKEN))
        assert [lesson.judgement.ok for lesson in world.lessons] == [None] * 3
        assert verdict.flagged and answer(verdict) == "yes"
        assert "RuntimeError" in world.lessons[0].judgement.reason
        assert [send.plan.hint for send in world.sends] == [None] * 3

    @pytest.mark.parametrize("bad", [said(""), said("yes", "content_filter"), said("yes", "length"),
                                     said("", refusal="I cannot")])  # fmt: skip
    def test_what_is_always_checked(self, bad: Completed) -> None:
        """Empty, blocked, cut off, refused: without any validator a written cascade goes up on it."""
        world = Climbed(bad, said("whatever"))
        verdict = lived(world, validators=())
        assert world.models == ["mini", "gpt-4o"] and not verdict.flagged

    def test_a_model_that_is_kept_is_judged_where_it_is(self) -> None:
        """No tier is chosen, so nothing is learned of one; the row says whether it passed."""
        world = Climbed(said("no"))
        verdict = lived(world, asking("o3"), cascade=(), validators=(YES,), policy=None)
        assert world.trace[-1] == "observe None failed" and verdict.flagged
        assert world.lessons[0].decision is None

    def test_why_a_tier_was_chosen_is_on_its_row(self) -> None:
        world = Climbed(said("no"), said("yes"))
        lived(world)
        told = [msgspec.json.decode(row.decision or "", type=Decision) for row in world.settled]
        assert [(one.tier, one.failed, one.reason) for one in told] == [
            ("small", (), "small: the first of the cascade"), ("mid", ("small",), "mid: small failed its check")
        ]  # fmt: skip


class TestWithoutAnAnswer:
    """What broke in transport passes its tier over and teaches nothing."""

    def test_a_tier_that_is_down(self) -> None:
        world = Climbed(failed(), failed(None), said("yes"))
        verdict = lived(world)
        assert world.models == ["mini", "gpt-4o", "opus"] and not verdict.flagged
        assert [(lesson.entry.tier, lesson.judgement.ok) for lesson in world.lessons] == [("frontier", True)]

    def test_with_all_tiers_down_the_last_failure_is_the_end(self) -> None:
        world = Climbed(failed(500), failed(502), failed(503))
        verdict = lived(world)
        assert isinstance(verdict.outcome, Failed) and verdict.outcome.status == 503
        assert verdict.attempts == 3 and world.lessons == []

    def test_an_answer_of_before_is_better_than_none(self) -> None:
        """Flagged: it did not pass."""
        world = Climbed(said("no"), failed(), failed())
        verdict = lived(world)
        assert (answer(verdict), verdict.flagged, verdict.attempts) == ("no", True, 3)
        assert verdict.entry is not None and verdict.entry.attempt == 1

    def test_an_error_of_the_caller_is_the_end(self) -> None:
        """No other tier can mend it."""
        world = Climbed(failed(400))
        assert isinstance(lived(world).outcome, Failed) and world.models == ["mini"]

    def test_a_repair_that_breaks_says_nothing_to_the_next_model_of_its_own_answer(self) -> None:
        """It has given none yet."""
        world = Climbed(said("no"), failed(), said("yes"))
        verdict = lived(world, validators=(MENDABLE,))
        assert world.models == ["mini", "mini", "gpt-4o"] and not verdict.flagged
        assert world.sends[2].plan.hint is None

    def test_who_goes_away_in_the_middle_is_asked_nothing_more(self) -> None:
        """The answer of before is not given to those who wait either."""
        world = Climbed(said("no"), abandoned(output_units=3))
        policy = rules(step(cascade=CHAIN, validators=(YES,), response_cache=ResponseCache(ttl_ms=10**6)))
        verdict = lived(world, policy=policy)
        assert world.models == ["mini", "gpt-4o"] and world.trace[-1].startswith("land")
        assert verdict.flagged and world.kept == {}

    def test_who_goes_away_at_once(self) -> None:
        world = Climbed(abandoned())
        assert isinstance(lived(world).outcome, Abandoned) and world.lessons == []


class TestBudgets:
    def cap(self, micros: int, **more: Any) -> Policy:
        budget = Budget(name="b", scope="user", limit_nanos=micros * 1_000, **more)
        return rules(step(cascade=CHAIN, validators=(YES,)), budgets=(budget,))

    def test_used_up_in_the_middle(self) -> None:
        """The best answer obtained is given, flagged, and nobody else gets it; the refusal is a row of its own."""
        world = Climbed(said("no"))
        policy = self.cap(2_000)
        policy = replace(policy, steps=(replace(policy.steps[0], response_cache=ResponseCache(ttl_ms=10**6)),))
        verdict = lived(world, policy=policy)
        assert world.trace == snapshot(
            [
                "recall",
                "join -> leads",
                "lore",
                "reserve openai/mini #1 hold 742500",
                "send openai/mini",
                "settle #1 completed final 30000",
                "observe small failed",
                "refused openai/gpt-4o #2 exhausted",
                "settle #2 refused final 0",
                "land",
            ]
        )
        assert (answer(verdict), verdict.flagged) == ("no", True)
        assert world.rows == [("req_1", 1, "call", "completed", "small"), ("req_1", 2, "call", "refused", "mid")]

    def test_used_up_before_anything(self) -> None:
        world = Climbed()
        verdict = lived(world, policy=self.cap(1))
        assert isinstance(verdict.outcome, Refused) and verdict.outcome.kind == "exhausted"
        assert world.rows == [("req_1", 1, "call", "refused", "small")]

    def test_an_answer_that_a_budget_cut_says_nothing_of_its_tier(self) -> None:
        """Unknown, not failed: the tier is not to blame, and its counts stay as they are."""
        world = Climbed(said("half of it", "length"))
        verdict = lived(world, policy=self.cap(400), a_call=asking(body=b"{}"))
        assert world.trace[2].endswith("limit 19")
        (lesson,) = world.lessons
        assert (lesson.judgement.ok, lesson.decision) == (None, None)
        assert verdict.flagged and verdict.lowered

    def test_no_two_rows_are_one(self) -> None:
        """Refused, passed over, refused again: each attempt has a number of its own."""
        tiers = {"small": (Candidate("openai", "mystery"),), **{k: TIERS[k] for k in ("mid", "frontier")}}
        world = Climbed(said("no"), said("yes"))
        world.crossings = {"anthropic/opus": "a block that has no form there"}
        policy = rules(step(cascade=CHAIN, validators=(YES,)), tiers=tiers, unknown_price="refuse")
        world.spare = True
        verdict = lived(world, policy=policy)
        assert world.rows == [
            ("req_1", 1, "call", "refused", "small"), ("req_1", 2, "call", "completed", "mid"),
            ("req_1", 3, "call", "refused", "frontier"),
        ]  # fmt: skip
        assert verdict.flagged and verdict.attempts == 3

    def test_a_refusal_in_between_forgets_no_spending(self) -> None:
        """All attempts together stay within what the caller said that they may cost."""
        tiers = {**TIERS, "mid": (Candidate("openai", "mystery"),)}
        policy = rules(step(cascade=CHAIN, validators=(YES,)), tiers=tiers, unknown_price="refuse")
        world = Climbed(said("no"), said("yes"))
        verdict = lived(world, asking(max_cost_nanos=500_000_000), policy=policy)
        assert verdict.spent_nanos == 30_000 + 1_500_000

    def test_judges_are_within_what_the_call_may_cost(self) -> None:
        """x-bursar-max-cost-usd holds for all that is paid on a call's behalf."""
        world = Climbed(said("no"), said(SCORE % 0.9))
        verdict = lived(world, asking(max_cost_nanos=60_000_000), validators=(JUDGE,))
        assert verdict.spent_nanos == sum(row.cost_nanos for row in world.settled) == 60_000


class TestJudges:
    """A model that judges is a call of its own, on the call's own budgets."""

    def test_a_score_that_reaches_the_minimum_passes(self) -> None:
        world = Climbed(said("a summary"), said(SCORE % 0.9))
        verdict = lived(world, validators=(JUDGE,))
        assert world.trace == snapshot(
            [
                "lore",
                "reserve openai/mini #1 hold 408750",
                "send openai/mini",
                "settle #1 completed final 30000",
                "reserve openai/mini #1 hold 8060000",
                "send openai/mini",
                "settle #1 completed final 30000",
                "observe small passed",
                "audit?",
            ]
        )
        assert world.rows == [
            ("req_1", 1, "call", "completed", "small"), ("req_1-judge1.0", 1, "judge", "completed", "small")
        ]  # fmt: skip
        assert (answer(verdict), verdict.flagged) == ("a summary", False)
        assert world.settled[1].route_reason == "judge" and world.settled[1].step == "extract"

    def test_one_below_it_is_mended_by_the_judges_reason(self) -> None:
        world = Climbed(said("a"), said(SCORE % 0.3), said("b"), said(SCORE % 0.8))
        verdict = lived(world, validators=(JUDGE,))
        assert world.models == ["mini"] * 4 and answer(verdict) == "b"
        assert world.sends[2].plan.hint == "Your last answer was rejected: a date is missing"
        assert len({(row.request_id, row.attempt) for row in world.settled}) == 4

    def test_he_is_not_asked_where_a_free_check_has_failed(self) -> None:
        world = Climbed(said("no"), said("yes"), said(SCORE % 0.9))
        lived(world, validators=(JUDGE, YES))
        assert [send.call.purpose for send in world.sends] == ["call", "call", "judge"]

    @pytest.mark.parametrize("judge", [failed(500), said("I like it"), said(SCORE % 7), completed(), abandoned()])
    def test_one_that_breaks_does_not_know(self, judge: Outcome) -> None:
        """Never a pass: the call goes up."""
        world = Climbed(said("a"), judge, said("b"), said(SCORE % 0.9))
        verdict = lived(world, validators=(JUDGE,))
        assert [lesson.judgement.ok for lesson in world.lessons] == [None, True]
        assert (world.models, answer(verdict)) == (["mini", "mini", "gpt-4o", "mini"], "b")

    def test_one_that_a_budget_refuses_does_not_know(self) -> None:
        """He is a row all the same; the answer that nobody has judged is given, flagged."""
        world = Climbed(said("a"))
        budget = Budget(name="b", scope="user", limit_nanos=760_000)
        judge = JudgePrompt("Is it right? " * 100)
        verdict = lived(world, policy=rules(step(cascade=CHAIN, validators=(judge,)), budgets=(budget,)))
        assert [row[:4] for row in world.rows] == [
            ("req_1", 1, "call", "completed"), ("req_1-judge1.0", 1, "judge", "refused"),
            ("req_1", 2, "call", "refused"),
        ]  # fmt: skip
        assert (world.lessons[0].judgement.ok, answer(verdict), verdict.flagged) == (None, "a", True)

    def test_one_whom_the_data_policy_forbids_is_not_asked(self) -> None:
        world = Climbed(said("a"), said("b"))
        judge = replace(JUDGE, tier="frontier")
        policy = rules(step(cascade=("small", "mid"), validators=(judge,), providers=("openai",)))
        lived(world, policy=policy)
        assert [send.call.purpose for send in world.sends] == ["call", "call"]
        assert world.lessons[0].judgement.ok is None

    def test_two_judges_are_two_calls(self) -> None:
        world = Climbed(said("a"), said(SCORE % 0.9), said(SCORE % 0.9))
        lived(world, validators=(JUDGE, JudgePrompt("Is it short?")))
        assert len({(row.request_id, row.attempt) for row in world.settled}) == len(world.settled) == 3

    def test_what_nobody_has_judged_has_not_passed(self) -> None:
        """A step with one tier and a judge: he is asked, or the row does not say that the answer was validated."""
        world = Climbed(said("a"), said(SCORE % 0.1), said("b"), said(SCORE % 0.1))
        assert lived(world, cascade=(), tier="small", validators=(JUDGE,)).flagged
        assert world.lessons[-1].judgement.ok is not True


class TestSamplesAndOdds:
    def test_samples_that_agree_pass(self) -> None:
        """Each is a call of its own to the model that answered."""
        world = Climbed(said("Paris"), said("paris "), said("Paris"))
        verdict = lived(world, validators=(Consistency(samples=2, minimum=0.9),))
        assert world.models == ["mini"] * 3 and not verdict.flagged
        assert world.rows == [
            ("req_1", 1, "call", "completed", "small"), ("req_1-sample1.0.0", 1, "judge", "completed", "small"),
            ("req_1-sample1.0.1", 1, "judge", "completed", "small"),
        ]  # fmt: skip
        assert {send.call.body for send in world.sends} == {asking().body}
        assert all(send.plan.keep is None and send.plan.judged for send in world.sends[1:])

    def test_samples_that_do_not_agree_go_up(self) -> None:
        world = Climbed(said("Paris"), said("Lyon"), said("Nice"), said("Paris"), said("Paris"), failed())
        verdict = lived(world, validators=(Consistency(samples=2, minimum=0.9),))
        assert world.models == ["mini"] * 3 + ["gpt-4o"] * 3 and not verdict.flagged

    def test_no_sample_at_all_is_unknown(self) -> None:
        world = Climbed(said("Paris"), failed(), failed(), said("Paris"))
        lived(world, cascade=("small", "mid"), validators=(Consistency(samples=2),))
        assert world.lessons[0].judgement.ok is None

    def test_odds_are_asked_for_and_compared(self) -> None:
        """Two likeliest first tokens: 90 and 5 % stand far enough apart, 50 and 45 % do not; untold is unknown."""
        clear, close = (-0.105, -3.0), (-0.69, -0.8)
        for odds, ok in ((clear, True), (close, False), (None, None)):
            world = Climbed(said("a", likeliest=odds), said("b", likeliest=clear))
            world.spare = True
            lived(world, cascade=("small", "mid"), validators=(Margin(minimum=0.5),))
            assert world.sends[0].plan.logprobs and world.lessons[0].judgement.ok is ok


class TestStreams:
    def test_under_a_validator_all_of_them_are_held_back(self) -> None:
        world = Climbed(said("no"), said("yes"))
        lived(world, asking(view={"stream": True}))
        assert [send.plan.judged for send in world.sends] == [True, True]

    def test_without_one_the_first_tiers_stream_passes_straight(self) -> None:
        world = Climbed(completed())
        verdict = lived(world, asking(view={"stream": True}), validators=())
        assert [send.plan.judged for send in world.sends] == [False] and not verdict.flagged
        assert world.lessons == []

    def test_after_a_byte_of_one_no_other_tier_is_asked(self) -> None:
        world = Climbed(failed(200, relayed=True))
        assert isinstance(lived(world, asking(view={"stream": True}), validators=()).outcome, Failed)

    def test_a_cheaper_tier_of_a_used_up_budget_is_held_back_too(self) -> None:
        """on_exhausted = "downgrade" makes plans of its own; what is judged stays judged."""
        budget = Budget(name="b", scope="user", limit_nanos=5_000_000, on_exhausted="downgrade")
        world = Climbed(said("no"), said("yes"))
        world.spare = True
        policy = rules(step(tier="frontier", validators=(YES,)), budgets=(budget,))
        lived(world, asking(view={"stream": True}), policy=policy)
        assert world.models[0] == "mini" and all(send.plan.judged for send in world.sends)


class TestCrossing:
    def test_what_cannot_be_translated_is_refused_with_its_reason(self) -> None:
        world = Climbed()
        world.crossings = {"anthropic/opus": "audio has no form there"}
        verdict = lived(world, asking("frontier"), validators=())
        assert isinstance(verdict.outcome, Refused) and verdict.outcome.unroutable
        assert world.rows == [("req_1", 1, "call", "refused", "frontier")]
        assert "audio has no form there" in (world.settled[0].error or "")

    def test_the_next_candidate_of_the_tier_serves(self) -> None:
        tiers = {"frontier": (Candidate("anthropic", "opus"), Candidate("spare", "gpt-4o-spare"))}
        world = Climbed(completed())
        world.crossings = {"anthropic/opus": "audio has no form there"}
        lived(world, asking("frontier"), policy=rules(tiers=tiers))
        assert world.rows == [("req_1", 1, "call", "completed", "frontier")]

    def test_it_hides_no_failure(self) -> None:
        """The first candidate answered 503: that is what the caller is told, with its retry-after."""
        tiers = {"frontier": (Candidate("spare", "gpt-4o-spare"), Candidate("anthropic", "opus"))}
        world = Climbed(failed(503))
        world.crossings = {"anthropic/opus": "audio has no form there"}
        verdict = lived(world, asking("frontier"), policy=rules(tiers=tiers))
        assert isinstance(verdict.outcome, Failed) and verdict.outcome.status == 503


class TestKeptAnswers:
    POLICY = rules(step(cascade=CHAIN, validators=(YES,), response_cache=ResponseCache(ttl_ms=10**6)))

    def whole(self, text: str) -> Completed:
        return replace(said(text), keepable=b'{"id":"answer"}')

    def test_only_what_has_passed_is_kept(self) -> None:
        for text, kept in (("yes", 1), ("no", 0)):
            world = Climbed(*[self.whole(text)] * (1 if kept else 3))
            lived(world, policy=self.POLICY)
            assert len(world.kept) == kept
            assert world.trace[-1] == ("keep" if kept else "land")

    def test_what_passed_on_a_dearer_tier_is_found_again(self) -> None:
        """Under the key of the chain, not of the tier: the next call does not climb."""
        world = Climbed(self.whole("no"), self.whole("yes"))
        lived(world, policy=self.POLICY)
        verdict = lived(world, asking(request_id="req_2"), policy=self.POLICY)
        assert world.trace[-2:] == ["recall", "settle #1 hit final 0"]
        assert verdict.entry is not None and verdict.entry.tier == "mid"

    def test_equal_calls_under_way_wait_for_the_one_that_climbs(self) -> None:
        world = Climbed(self.whole("no"), self.whole("yes"))
        lived(world, policy=self.POLICY)
        (kept,) = world.kept.values()
        waiting = Climbed()
        waiting.joins = [kept]
        assert isinstance(kept, Kept) and answer_of(lived(waiting, policy=self.POLICY)) == b'{"id":"answer"}'
        assert waiting.trace == ["recall", "join -> kept", "settle #1 hit final 0"]

    def test_another_check_finds_another_answer(self) -> None:
        """What one validator has passed is not what another would."""
        world = Climbed(self.whole("yes"), self.whole("yes"), self.whole("yes"))
        world.spare = True
        for rule in ({"validators": (YES,)}, {"validators": (MENDABLE,)}, {"cascade": ("small", "frontier")}):
            told = {"cascade": CHAIN, "validators": (YES,), "response_cache": ResponseCache(ttl_ms=10**6), **rule}
            lived(world, policy=rules(step(**told)))
        assert len(world.kept) == 3 and world.trace.count("send openai/mini") == 3


def answer_of(verdict: Verdict) -> bytes | None:
    assert isinstance(verdict.outcome, Completed)
    return verdict.outcome.body


class TestLearned:
    def test_audits_follow_what_was_given_as_good(self) -> None:
        """And nothing else: not what is flagged, not without a share, not the caller's own model."""
        auto: dict[str, Any] = {"cascade": (), "tier": "auto"}
        world = Climbed(said("yes"))
        lived(world, **auto)
        assert world.trace[-1] == "audit?"
        flagged = Climbed(*[said("no")] * 3)
        lived(flagged, **auto)
        assert "audit?" not in flagged.trace
        none = Climbed(said("yes"))
        lived(none, policy=rules(step(tier="auto", validators=(YES,)), routing=Routing(audit_share=0)))
        assert "audit?" not in none.trace

    def test_a_narrowed_call_that_nobody_can_take_is_a_row(self) -> None:
        world = Climbed()
        world.known = Known()
        verdict = lived(world, asking("auto", body=b"x" * 10), policy=rules(step(validators=(YES,)), tiers={
            "small": (Candidate("gemini", "flash"),)}))  # fmt: skip
        assert isinstance(verdict.outcome, Refused) and len(world.rows) == 1


def test_the_kit_breaks_and_times_as_it_says() -> None:
    """The broken validator raises what is no verdict; an outcome has its times."""
    with pytest.raises(RuntimeError):
        broken(said("yes").answer)  # type: ignore[arg-type]
    assert said("yes").timing == TIMING
