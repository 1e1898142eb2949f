"""When an audit is due, of whom, what it may cost, and what it proves."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.policy import Policy, Routing, StepRule
from bursar.rules.chain.audit import Audits, proves
from bursar.rules.route import auditing, course
from bursar.rules.route.auditing import Audit, Book
from bursar.rules.route.course import Course
from bursar.rules.route.known import Known
from bursar.types import Answer, ToolCall, Verdict
from route_kit import asking, rules, said, step
from test_lore import entry

AUTO = step(tier="auto")
YES = Answer(text="yes")


def courses(
    rule: StepRule = AUTO, book: Book | None = None, model: str = "opus", **routing: Any
) -> tuple[Course, Policy]:
    """The way of a call of the step by what that book has proved."""
    policy = rules(rule, routing=Routing(**routing))
    found = course.course(asking(model), policy)
    assert isinstance(found, Course)
    narrow = course.narrowed(found, asking(model), Known(audits=(book or Book()).tiers), policy)
    assert isinstance(narrow, Course)
    return narrow, policy


def asked(book: Book, number: int = 0, tier: str = "frontier", answer: Answer = YES, **more: Any) -> Audit | None:
    """What is due of one call that this tier has answered."""
    given = more.pop("spent", 1_000_000)
    way, policy = courses(**{"audit_share": 100.0, **more}, book=book)
    call = replace(asking(more.get("model", "opus")), request_id=f"req_{number}")
    closed = replace(entry(tier, call), cost_nanos=given, input_tokens=10, output_tokens=5)
    verdict = Verdict(replace(said(), answer=answer), closed, 1, given)
    if not auditing.speaks(verdict):
        return None
    return auditing.due(call, way, Known(), verdict, book.spend(given), policy)


def after(book: Book, made: Audit, agrees: bool | None, cost: int) -> Book:
    return book.pledge(made).audited(made.tier, agrees, cost - made.cost_nanos)


class TestWhoIsAsked:
    def test_the_cheapest_tier_beside_the_callers_model(self) -> None:
        found = asked(Book())
        assert found is not None and (found.tier, found.plan.model, found.plan.reason) == (
            "small", "mini", "audit:small",
        )  # fmt: skip
        call = found.call
        assert (call.purpose, call.request_id, call.attempts, call.no_store) == ("audit", "req_0-audit", 1, True)
        assert (call.ceilings, call.max_cost_nanos, found.plan.keep, found.plan.judged) == ((), None, None, True)

    def test_only_tiers_below_the_callers(self) -> None:
        """Who names mid has his own answers compared with small's; what mid is worth is not asked."""
        found = asked(Book(), tier="mid", model="gpt-4o")
        assert found is not None and (found.tier, found.plan.model) == ("small", "mini")
        assert asked(Book(), tier="small", model="mini") is None

    def test_what_serves_in_his_place_is_measured_by_his_model(self) -> None:
        book = Book(tiers={"small": Audits(60, 60)})
        for model, measure in (("gpt-4o", "gpt-4o"), ("opus", "opus"), ("auto", "opus")):
            found = asked(book, tier="small", model=model)
            assert found is not None and (found.tier, found.plan.model) == ("small", measure)

    def test_a_tier_of_which_nothing_is_to_be_hoped_is_passed_over(self) -> None:
        """The next one has its chance; one audit in ten looks again at what may have been repaired."""
        book = Book(tiers={"small": Audits(5, 20)})
        tiers = [found.tier for number in range(400) if (found := asked(book, number)) is not None]
        assert len(tiers) == 400 and 20 <= tiers.count("small") <= 65
        assert tiers.count("mid") + tiers.count("small") == 400
        both = Book(tiers={"small": Audits(5, 20), "mid": Audits(0, 20)})
        again = [found.tier for number in range(400) if (found := asked(both, number)) is not None]
        assert again == ["small"] * tiers.count("small")

    def test_a_validated_answer_of_a_cheaper_tier_is_asked_of_the_dearest(self) -> None:
        cascade = step(cascade=("small", "mid", "frontier"))
        way, policy = courses(cascade, audit_share=100.0)
        way = replace(way, chain=way.legs)
        for tier, wanted in (("small", "opus"), ("mid", "opus"), ("frontier", None)):
            closed = replace(entry(tier, asking()), cost_nanos=10**9, input_tokens=10, output_tokens=5)
            made = auditing.due(asking(), way, Known(), Verdict(said(), closed, 1), Book().spend(10**9), policy)
            assert (None if made is None else made.plan.model) == wanted

    def test_what_no_form_compares_is_not_audited(self) -> None:
        for text in ("two words", "", "x" * 65, "null"):
            assert asked(Book(), answer=Answer(text=text)) is None
        call = ToolCall("get", '{"a": 1}')
        for answer in (YES, Answer(text='{"a": 1}'), Answer(text="", tool_calls=(call,))):
            assert asked(Book(), answer=answer) is not None

    def test_an_unknown_price_is_not_nothing(self) -> None:
        way, policy = courses(audit_share=1.0)
        small = replace(way.chain[0], plans=(replace(way.chain[0].plans[0], model="mystery"),))
        way = replace(way, chain=(small, *way.chain[1:]))
        closed = replace(entry("frontier", asking("opus")), cost_nanos=10**9)
        verdict = Verdict(said(), closed, 1)
        assert auditing.due(asking("opus"), way, Known(), verdict, Book().spend(10**9), policy) is None


class TestShare:
    @given(
        share=st.sampled_from([0.01, 0.03, 0.2]),
        calls=st.lists(
            st.tuples(st.integers(1, 3_000_000), st.integers(1, 40), st.booleans()), min_size=50, max_size=120
        ),
        late=st.integers(0, 8),
    )
    def test_audits_stay_within_their_share(self, share: float, calls: list[tuple[int, int, bool]], late: int) -> None:
        """Whatever calls and audits cost, with several audits under way: nothing is begun beyond the share, and what
        they come to in the end is above it by no more than what those under way have cost beyond their pledge."""
        book, open_, paid, spent, excess = Book(), list[tuple[Audit, int]](), 0, 0, 0
        for number, (nanos, factor, agrees) in enumerate(calls):
            made = asked(book, number, spent=nanos, audit_share=share)
            book, spent = book.spend(nanos), spent + nanos
            if made is not None:
                book = book.pledge(made)
                assert book.audits_nanos <= share * spent
                excess = 0
                open_.append((made, made.likely_nanos * factor // 4))
            while len(open_) > late or (open_ and number == len(calls) - 1):
                done, cost = open_.pop(0)
                paid += cost
                book = book.audited(done.tier, agrees, cost - done.cost_nanos)
                excess += max(0, cost - done.cost_nanos)
                assert book.audits_nanos - sum(one.cost_nanos for one, _ in open_) == paid
            assert book.audits_nanos <= share * spent + excess
        assert book.audits_nanos == paid

    def test_a_model_that_thinks_is_expected_to(self) -> None:
        """What audits have cost beyond an answer of the same length is expected of the next."""
        first = asked(Book())
        assert first is not None and first.cost_nanos == first.likely_nanos == 10 * 1_000 + 5 * 4_000
        second = asked(after(Book(), first, True, 3 * first.cost_nanos), 1)
        assert second is not None and second.cost_nanos == 3 * first.cost_nanos
        third = asked(after(after(Book(), first, True, 3 * first.cost_nanos), second, True, second.cost_nanos), 2)
        assert third is not None and third.cost_nanos == 3 * first.cost_nanos

    def test_one_that_was_never_made_leaves_nothing(self) -> None:
        made = asked(Book())
        assert made is not None and Book().pledge(made).withdraw(made) == Book()

    @given(st.lists(st.sampled_from([True, False, None]), max_size=80))
    def test_only_what_was_compared_proves(self, words: list[bool | None]) -> None:
        book = Book()
        for word in words:
            book = book.audited("small", word, 5)
        known = [word for word in words if word is not None]
        assert book.tiers.get("small", Audits()).total == (sum(known), len(known))
        assert book.audits_nanos == 5 * len(words)
        assert proves(Audits(*book.tiers.get("small", Audits()).total), 0.95) == (len(known) >= 59 and all(known))
