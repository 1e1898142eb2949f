"""What routes must not do beside choosing: each was once a hole."""

from typing import Any

import pytest
from msgspec.structs import replace

from bursar.doors.validators import validators
from bursar.policy import Consistency, Endpoint, ResponseCache, SemanticCache, StepRule
from bursar.rules import reuse
from bursar.rules.route import course
from bursar.rules.route.course import Course
from bursar.rules.semantic import question, side
from bursar.types import Answer, Failed, Tags
from route_kit import JUDGE, YES, asking, rules, said, step
from test_engine_cascade import CHAIN, Climbed, lived
from worlds import failed

BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"What is it?"}]}'


class TestCaches:
    """An answer is given again only where it came about in the same way."""

    def key(self, given: object) -> bytes | None:
        rule = step(validators=validators(given), response_cache=ResponseCache(ttl_ms=1000))
        known = reuse.wanted(asking(body=BODY), course_of(rule).first, rules(rule))
        return None if known is None else known.key

    def test_another_check_of_the_same_kind_is_another_check(self) -> None:
        kinds: list[object] = [
            ["yes", "no"], ["A", "B"], {"type": "object"}, {"type": "array"}, (lambda text: True), (lambda text: False),
        ]  # fmt: skip
        keys = [self.key(given) for given in kinds]
        assert len(set(keys)) == len(keys) and None not in keys
        assert self.key(["yes", "no"]) == self.key(["no", "yes"])

    def test_nor_does_a_like_question_cross_tiers_or_checks(self) -> None:
        cache = SemanticCache(ttl_ms=1000, threshold=0.9, scope="user")
        kinds: list[dict[str, Any]] = [
            {}, {"tier": "small"}, {"tier": "frontier"}, {"cascade": CHAIN, "validators": (YES,)},
        ]  # fmt: skip
        found = []
        for kind in kinds:
            rule = step(semantic_cache=cache, **kind)
            call = asking(body=BODY, tags=Tags(step="extract", user_id="u1"))
            asked = question.question(call, course_of(rule).first, rules(rule))
            assert asked is not None
            found.append(asked.partition)
        assert len(set(found)) == len(kinds)


def course_of(rule: StepRule) -> Course:
    found = course.course(asking(body=BODY), rules(rule))
    assert isinstance(found, Course)
    return found


@pytest.mark.parametrize("api", ["embeddings", "other"])
def test_only_what_chats_is_routed(api: Any) -> None:
    """A rule for all steps sends no embedding to a model that writes."""
    for more in ({"tier": "small"}, {"cascade": CHAIN}, {"tier": "auto"}, {"validators": (YES,)}):
        found = course.course(asking("gpt-4o", api=api), rules(StepRule(**more)))
        assert isinstance(found, Course) and found.mode == "kept" and not found.validators and not found.asks


def test_an_embedder_is_a_provider_like_any_other() -> None:
    """The data policy of the step keeps its questions from him too."""
    cache = SemanticCache(ttl_ms=1000, threshold=0.9, scope="user", embedder=Endpoint("spare", "embed"))
    rule = step(semantic_cache=cache, providers=("openai",))
    call = asking(body=BODY, tags=Tags(step="extract", user_id="u1"))
    asked = question.question(call, course_of(rule).first, rules(rule))
    assert asked is not None and side.embedding(call, course_of(rule).first, asked) is not None
    assert side.embedding(call, course_of(rule).first, asked, course_of(rule).allowed) is None


def test_a_steps_output_limit_is_not_its_judges() -> None:
    """Sixteen tokens do for a label and not for a judge."""
    world = Climbed(said("a"), said('{"score": 0.9}'))
    lived(world, validators=(JUDGE,), max_output_tokens=16)
    assert [send.plan.output_limit for send in world.sends] == [16, None]


@pytest.mark.parametrize(("status", "goes_on"), [(404, True), (401, True), (403, True), (400, False), (422, False)])
def test_a_tier_that_is_not_there_is_passed_over(status: int, goes_on: bool) -> None:
    """The caller did not choose it; what is wrong with his own request is wrong everywhere."""
    world = Climbed(failed(status), said("yes"))
    world.spare = not goes_on
    verdict = lived(world)
    assert world.models == (["mini", "gpt-4o"] if goes_on else ["mini"])
    assert isinstance(verdict.outcome, Failed) is not goes_on


def test_samples_are_of_the_model_that_answered() -> None:
    """Whichever of the tier that was."""
    world = Climbed(failed(503), said("Paris"), said("Paris"), said("Paris"))
    tiers = {"small": (*rules().tiers["small"], *rules().tiers["mid"]), "frontier": rules().tiers["frontier"]}
    policy = rules(step(cascade=("small", "frontier"), validators=(Consistency(2),)), tiers=tiers)
    lived(world, replace(asking(), attempts=1), policy=policy)
    assert world.models == ["mini", "gpt-4o", "gpt-4o", "gpt-4o"]


def test_several_choices_are_not_judged() -> None:
    """Nobody knows which of them is used."""
    world = Climbed(said("no"))
    verdict = lived(world, asking(view={"choices": 3}))
    assert world.models == ["mini"] and not verdict.flagged and not world.lessons


def test_no_model_mends_the_callers_own_limit() -> None:
    """An answer of five tokens under a limit of five is cut by its caller: given, flagged, nobody else is asked."""
    world = Climbed(said("a b c d", "length"))
    verdict = lived(world, asking(view={"max_output_tokens": 5}))
    assert world.models == ["mini"] and verdict.flagged
    assert world.lessons[-1].judgement.ok is None and Answer().finish_reason is None
