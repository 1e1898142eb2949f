"""What a tier is chosen by, on real stores: shared by two, there again after a restart, the same for the same log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

import books
from books import AnyStore, Opener, Watch, done, row
from bursar.drivers.lore import CHAIN, POOL, Lorekeeper
from bursar.drivers.world import StoreWorld
from bursar.effects import Lore, Reserve, Settle
from bursar.policy import Policy, Routed, Router
from bursar.rules.chain.decide import Decision
from bursar.rules.chain.state import UNIT, Count, Step, cell, learn
from bursar.rules.retry import draw
from bursar.rules.route import climb, course, rating
from bursar.rules.route.course import Course
from bursar.rules.route.known import Known, Lesson, Site
from bursar.stores.base import StoreFailure
from bursar.stores.sqlite import SqliteStore
from bursar.stores.states import Changed
from bursar.types import (
    Ask,
    Call,
    Entry,
    Hold,
    Instant,
    Judgement,
    Plan,
    Ratios,
    Refused,
    Tags,
)
from route_kit import YES, asking, rules, step

opened, path, store, template, watch = books.opened, books.path, books.store, books.template, books.watch

LEARNED = rules(step(tier="auto", validators=(YES,)))
NAMES = ("small", "mid", "frontier")
PROVIDER = {"small": ("openai", "mini"), "mid": ("openai", "gpt-4o"), "frontier": ("anthropic", "opus")}
SECOND = 1_000_000


def way(a_call: Call, policy: Policy = LEARNED) -> Course:
    found = course.course(a_call, policy)
    assert not isinstance(found, Refused)
    return found


class Keeper:
    """A Lorekeeper on a store, asked and taught about the step of one call."""

    def __init__(self, store: AnyStore, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.watch = store, watch
        if not hasattr(type(store), "judged"):
            monkeypatch.setattr(type(store), "judged", lambda *told: None, raising=False)
        self.lore = Lorekeeper(store, watch)

    def known(self, a_call: Call | None = None, policy: Policy = LEARNED, router: Router | None = None) -> Known:
        a_call = a_call or asking()
        return self.lore.known(Lore(a_call, way(a_call, policy), course.site(a_call), router))

    def turn(self, a_call: Call | None = None, failed: tuple[str, ...] = ()) -> climb.Turn:
        """What the rule makes of what is known."""
        a_call = a_call or asking()
        known, found = self.known(a_call), way(a_call)
        taken = climb.turn(found, replace(climb.START, failed=failed), a_call, known, LEARNED)
        assert taken is not None
        return taken

    def teach(self, tier: str, ok: bool | None, a_call: Call | None = None, **more: Any) -> None:
        a_call = a_call or asking()
        decision = more.pop("decision", Decision(tier, "test"))
        closed = entry(tier, a_call, **more)
        self.lore.observe(Lesson(site=course.site(a_call), entry=closed, judgement=Judgement(ok=ok), decision=decision))

    def settle(self) -> None:
        """What was taught is there to be read."""
        self.store.states.list(CHAIN)


def entry(tier: str, a_call: Call, **more: Any) -> Entry:
    """A settled attempt of that tier."""
    provider, model = PROVIDER[tier]
    labels: dict[str, Any] = {
        "run_id": a_call.tags.run_id,
        "step": a_call.tags.step,
        "session_id": a_call.tags.session_id,
    }
    opening = row(a_call.request_id, provider=provider, model=model, tier=tier, **labels)
    return done(opening, **{"cost_nanos": None, **more})


def note(keeper: Keeper, row: Entry) -> None:
    """As the world does of a row that is settled, of a call whose tier was chosen."""
    tags = Tags(step=row.step, run_id=row.run_id, session_id=row.session_id)
    keeper.known(asking(request_id=row.request_id, tags=tags))
    keeper.lore.note(row, Plan(row.provider, row.model, tier=row.tier))


@pytest.fixture
def keeper(store: AnyStore, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    return Keeper(store, watch, monkeypatch)


@pytest.fixture
def another(opened: Opener, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Keeper]:
    """A further process on the same books."""
    return lambda: Keeper(opened(), watch, monkeypatch)


class TestLearning:
    def test_nothing_known_is_the_plain_cascade(self, keeper: Keeper) -> None:
        known = keeper.known()
        assert (known.step, known.pool, known.last, known.broken) == (Step(), Step(), None, frozenset())
        assert known.estimate > 0 and keeper.turn().decision.tier == "small"

    def test_what_one_process_learns_the_others_know(self, keeper: Keeper, another: Callable[[], Keeper]) -> None:
        """Counts of both are one; with 40 failures the small tier is not tried by either."""
        other = another()
        for _ in range(20):
            keeper.teach("small", False)
            other.teach("small", False)
        keeper.settle()
        other.settle()
        for one in (keeper, other):
            assert one.known().step.count("small").failed == 40 * UNIT
            assert one.turn(asking(request_id="req_5")).decision.tier != "small"

    def test_it_is_there_after_a_restart(self, keeper: Keeper, another: Callable[[], Keeper]) -> None:
        for ok in (True, False, True):
            keeper.teach("mid", ok, cost_nanos=7_000, output_tokens=30)
        keeper.settle()
        before = keeper.known()
        keeper.store.close()
        after = another().known()
        assert (after.step, after.pool) == (before.step, before.pool)
        assert after.step.count("mid") == Count(2 * UNIT, UNIT, 2 * UNIT, UNIT)
        assert after.step.spent["mid"].output_tokens == 90

    def test_what_is_unknown_teaches_no_pass_rate(self, keeper: Keeper) -> None:
        """Nor does what says nothing of its tier teach anything."""
        keeper.teach("small", None, cost_nanos=9_000)
        keeper.teach("small", False, decision=None)
        keeper.settle()
        step_known = keeper.known().step
        assert step_known.cells == {} and step_known.spent["small"].accepted_nanos == 9_000

    def test_who_is_learned_of_together(self, keeper: Keeper) -> None:
        """One step of one agent of one tenant; the tenant's pool holds them all, another tenant's none."""
        mine = asking(tags=Tags(step="extract", agent_id="a"))
        peers = [asking(tags=Tags(step="extract", agent_id="b")), asking(tags=Tags(step="classify", agent_id="a"))]
        strange = asking(tags=Tags(step="extract", agent_id="a", tenant="other"))
        for one in (mine, *peers):
            keeper.teach("small", True, one)
        keeper.settle()
        assert keeper.known(mine).step.count("small").passed == UNIT
        assert keeper.known(mine).pool.count("small").passed == 3 * UNIT
        policy = rules(replace(step(tier="auto", validators=(YES,)), match=replace(LEARNED.steps[0].match, step=None)))
        assert keeper.known(peers[1], policy).step.count("small").passed == UNIT
        assert (keeper.known(strange).step, keeper.known(strange).pool) == (Step(), Step())

    def test_no_agents_name_makes_another_ones_key(self) -> None:
        """The step comes last, the agent's length first."""
        sites = [Site("t", "a/b", "c"), Site("t", "a", "b/c"), Site("t", "a:", "b"), Site("t", "", "*")]
        assert len({site.key for site in sites} | {POOL}) == len(sites) + 1

    def test_the_state_of_a_step_stays_small(self, keeper: Keeper) -> None:
        """4 KB with four tiers and every cell that there can be, at the largest figures that it is likely to hold."""
        names, state = ("small", "middle", "large", "frontier"), Step()
        for number in range(5_000):
            order = sorted(names, key=lambda name: draw("size", str(number), name))
            failed = tuple(order[1 : 1 + number % 4])
            state = learn(
                state, order[0], failed, number % 3 == 0, cost_nanos=10**10, ms=99_999, output_tokens=99_999,
                plan={cell(order[0], failed): True},
            )  # fmt: skip
        assert len(state.cells) == 4 * 8 and len(msgspec.json.encode(state)) <= 4096

    def test_the_same_log_gives_the_same_decisions(self, keeper: Keeper) -> None:
        """To the byte: a log of outcomes, replayed for a tenant of whom nothing is known, decides each call alike."""

        def played(tenant: str) -> list[str]:
            told = []
            for number in range(100):
                a_call = asking(request_id=f"req_{number}", tags=Tags(step="extract", tenant=tenant))
                failed: tuple[str, ...] = ()
                while True:
                    taken = keeper.turn(a_call, failed)
                    tier = taken.decision.tier
                    right = draw("truth", str(number), tier) < (0.01 if tier == "small" else 1.0)
                    keeper.teach(tier, right, a_call, decision=taken.decision)
                    keeper.settle()
                    told.append(taken.plans[0].decision or "")
                    if right or taken.last:
                        break
                    failed = (*failed, tier)
            return told

        first = played("one")
        assert first == played("two")
        decisions = [one for one in (msgspec.json.decode(each, type=Decision) for each in first) if not one.failed]
        assert {one.tier for one in decisions[:10]} == {"small"}
        assert any(one.tier == "mid" for one in decisions)


class TestGarbage:
    @pytest.mark.parametrize("garbage", [b"", b"\xff", b"[]", b'{"cells": 7}', b'{"cells": {"small": [1, "x"]}}'])
    def test_what_cannot_be_read_is_not_known(self, keeper: Keeper, garbage: bytes) -> None:
        site = course.site(asking())
        keeper.store.states.update(CHAIN, site.tenant, site.key, lambda body, now: Changed(garbage, None)).result(10)
        assert (keeper.known().step, keeper.turn().decision.tier) == (Step(), "small")

    def test_and_is_learned_anew(self, keeper: Keeper) -> None:
        site = course.site(asking())
        keeper.store.states.update(CHAIN, site.tenant, site.key, lambda body, now: Changed(b"{", None)).result(10)
        keeper.teach("small", True)
        keeper.settle()
        assert keeper.known().step.count("small").passed == UNIT


class TestWhoServedLast:
    def test_the_price_of_leaving_a_warm_cache(self, keeper: Keeper, watch: Watch) -> None:
        """20,000 tokens that frontier has read are in the price of every other tier, for five minutes."""
        a_call = asking(received=watch.now, body=b'"%s"' % (b"word " * 40_000))
        note(keeper, entry("frontier", a_call, cached_tokens=15_000, cache_write_tokens=5_000))
        known, found = keeper.known(a_call), way(a_call)
        assert known.last is not None and known.last.prefix_tokens == 20_000
        tiers = {tier.name: tier.extra_nanos for tier in rating.tiers_of(found.legs, a_call, known, found, LEARNED)}
        assert tiers == {"small": 25_000_000, "mid": 250_000_000, "frontier": 100_000_000}
        later = replace(a_call, received=Instant(watch.now + 301 * SECOND))
        cold = rating.tiers_of(found.legs, later, keeper.known(later), found, LEARNED)
        assert {tier.extra_nanos for tier in cold} == {0}

    def test_it_is_of_the_same_run_and_step(self, keeper: Keeper) -> None:
        note(keeper, entry("mid", asking()))
        for tags in (Tags(step="extract", run_id="run2"), Tags(step="extract")):
            assert keeper.known(asking(tags=tags)).last is None
        last = keeper.known(asking(tags=Tags(step="extract", run_id="run1"))).last
        assert last is not None and (last.provider, last.model, last.tier) == ("openai", "gpt-4o", "mid")

    def test_only_an_answer_counts(self, keeper: Keeper) -> None:
        for status in ("failed", "abandoned", "refused"):
            note(keeper, entry("mid", asking(), status=status, http_status=400))
        assert keeper.known().last is None


class TestTiersThatAreDown:
    def down(self, keeper: Keeper, times: int, **how: Any) -> None:
        told = {"status": "failed", "http_status": None, **how}
        for _ in range(times):
            note(keeper, entry("small", asking(), **told))

    def test_three_attempts_without_an_answer_pass_it_over_for_30_seconds(self, keeper: Keeper, watch: Watch) -> None:
        """By the clock; its counts are untouched."""
        keeper.teach("small", True)
        keeper.settle()
        self.down(keeper, 2)
        assert keeper.turn().decision.tier == "small"
        self.down(keeper, 1)
        assert keeper.known().broken == {("openai", "mini")} and keeper.turn().decision.tier == "mid"
        assert keeper.known().step.count("small") == Count(UNIT, 0, UNIT, 0)
        watch.forward(30 * SECOND - 1)
        assert keeper.turn().decision.tier == "mid"
        watch.forward(1)
        assert keeper.turn().decision.tier == "small"

    @pytest.mark.parametrize(("status", "ill"), [(500, True), (529, True), (429, False), (400, False)])
    def test_an_error_of_the_provider_is_no_answer(self, keeper: Keeper, status: int, ill: bool) -> None:
        self.down(keeper, 3, http_status=status)
        assert bool(keeper.known().broken) is ill

    def test_an_answer_in_between_ends_it(self, keeper: Keeper) -> None:
        self.down(keeper, 2)
        note(keeper, entry("small", asking()))
        self.down(keeper, 2)
        assert keeper.known().broken == frozenset()


class Lived:
    """The effects of one attempt, performed by a real world."""

    def __init__(self, store: AnyStore, watch: Watch) -> None:
        self.world = StoreWorld(store, clock=watch)
        self.number = 0

    def attempt(self, tier: str, *, sent: bool = True, **outcome: Any) -> None:
        self.number += 1
        a_call = asking(request_id=f"req_{self.number}")
        self.world.perform(Lore(a_call, way(a_call), course.site(a_call)))
        provider, model = PROVIDER[tier]
        labels: dict[str, Any] = {"run_id": "run1", "step": "extract", "tier": tier}
        opening = row(a_call.request_id, provider=provider, model=model, **labels)
        hold = self.world.perform(Reserve(opening, Ask()))
        assert isinstance(hold, Hold)
        plan = Plan(provider, model, tier=tier, decision="{}", judged=True)
        if sent:
            self.world.perform(Settle(hold, done(opening, **outcome), plan))
        else:
            self.world._settle(hold, done(opening, **outcome), plan, sent=False)

    def known(self) -> Known:
        a_call = asking()
        return self.world.perform(Lore(a_call, way(a_call), course.site(a_call)))


class TestInTheWorld:
    """Rows as providers answer: with the name of a dated snapshot in place of the model that was asked for."""

    def test_an_answer_ends_an_illness(self, store: AnyStore, watch: Watch) -> None:
        lived = Lived(store, watch)
        for _ in range(2):
            lived.attempt("small", status="failed", http_status=None)
        lived.attempt("small", model="mini-2024-07-18")
        lived.attempt("small", status="failed", http_status=None)
        assert lived.known().broken == frozenset()

    def test_staying_is_not_priced_as_a_switch(self, store: AnyStore, watch: Watch) -> None:
        """Nor is a pinned conversation sent elsewhere."""
        lived = Lived(store, watch)
        lived.attempt("mid", model="gpt-4o-2024-08-06", cached_tokens=8)
        last = lived.known().last
        assert last is not None and (last.provider, last.model) == PROVIDER["mid"]

    def test_who_leaves_before_anything_is_sent_makes_no_tier_ill(self, store: AnyStore, watch: Watch) -> None:
        lived = Lived(store, watch)
        for _ in range(3):
            lived.number += 1
            lived.attempt("small", sent=False, status="failed", http_status=None, error="cancelled before it was sent")
        assert lived.known().broken == frozenset()


def test_a_router_is_asked_where_the_tier_is_learned(keeper: Keeper) -> None:
    """With the tiers open to the call; one that breaks says nothing."""
    heard: list[Routed] = []

    def router(call: Call, routed: Routed, /) -> str | None:
        heard.append(routed)
        return "mid"

    def breaks(call: Call, routed: Routed, /) -> str | None:
        raise RuntimeError("no weights")

    assert keeper.known(router=router).routed == "mid"
    assert heard == [Routed("extract", NAMES)]
    assert keeper.known(router=breaks).routed is None
    assert keeper.known(policy=rules(step(cascade=NAMES, validators=(YES,))), router=router).routed is None


def test_the_learned_count_of_the_input_is_asked_for_every_candidate(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, str]] = set()

    def ratios(self: object, provider: str, model: str) -> Ratios:
        asked.add((provider, model))
        return Ratios(input_high=1.2 if model == "opus" else None)

    monkeypatch.setattr(type(keeper.store), "ratios", ratios)
    assert keeper.known().highs == {"anthropic/opus": 1.2} and asked == {*PROVIDER.values()}


def test_a_store_that_cannot_be_read_knows_nothing(path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain cascade follows; the call does not fail."""
    store = SqliteStore(path, clock=watch)
    try:
        keeper = Keeper(store, watch, monkeypatch)
        keeper.teach("small", False)
        keeper.settle()

        def fails(*asked: object) -> dict[str, bytes]:
            raise StoreFailure("the disk is gone")

        monkeypatch.setattr(type(store.states), "get", fails)
        assert keeper.known().step == Step() and keeper.turn().decision.tier == "small"
    finally:
        store.close()
