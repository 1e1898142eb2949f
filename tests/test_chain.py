"""The learned chain: the plain cascade until the evidence is in, exact in its state, the same for the same log."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules.chain.decide import Decision, Params, Tier, decide, forecast, observe, wilson_upper
from bursar.rules.chain.state import LATE, UNIT, Count, Spent, Step, cell, learn, merge, repool
from bursar.rules.retry import draw

NAMES = ("small", "mid", "large", "frontier")
THREE = (Tier("small", 1_000), Tier("mid", 10_000), Tier("large", 50_000))

names = st.sampled_from(NAMES)
counts = st.builds(Count, *[st.integers(0, 100 * UNIT)] * 4)
spents = st.builds(Spent, *[st.integers(0, 10**14)] * 8)
keys = st.builds(lambda tier, failed: cell(tier, tuple(failed - {tier})), names, st.frozensets(names))
states = st.builds(
    Step,
    st.dictionaries(keys, counts),
    st.dictionaries(names, spents),
    st.frozensets(keys).map(lambda some: tuple(sorted(some))),
)
tier_lists = st.lists(names, min_size=1, max_size=4, unique=True).flatmap(
    lambda some: st.tuples(
        *(
            st.builds(
                Tier,
                st.just(name),
                st.none() | st.integers(0, 10**12),
                st.integers(0, 10**9),
                st.integers(-(10**9), 10**9),
                st.none() | st.tuples(st.floats(0, 4), st.floats(0, 4)),
            )
            for name in sorted(some, key=NAMES.index)
        )
    )
)


def failures(step: Step, tier: str, number: int) -> Step:
    for _ in range(number):
        step = observe(step, Decision(tier, "test"), False)
    return step


@pytest.mark.parametrize(("ratio", "calls"), [(5, 7), (10, 15), (20, 32), (50, 81)])
def test_a_tier_that_never_passes_is_skipped_after_so_many_failures(ratio: int, calls: int) -> None:
    """Break-even 20 %, 10 %, 5 %, 2 %: 7, 15, 32, 81 failed calls, not one fewer and not one more."""
    tiers = (Tier("small", 1_000), Tier("large", 1_000 * ratio))
    step = failures(Step(), "small", calls - 1)
    assert decide(step, tiers).tier == "small"
    skipping = decide(failures(step, "small", 1), tiers)
    assert (skipping.tier, skipping.probe) == ("large", False)
    assert "small skipped" in skipping.reason
    assert wilson_upper(0, calls, 1.28) < 1 / ratio < wilson_upper(0, calls - 1, 1.28)


def test_nothing_known_is_the_plain_cascade() -> None:
    """Each tier in turn, cheapest first, each with its reason; after the last there is none to try."""
    failed: tuple[str, ...] = ()
    for tier in THREE:
        decision = decide(Step(), THREE, failed)
        assert (decision.tier, decision.failed) == (tier.name, failed)
        assert decision.reason.startswith(f"{tier.name}: ")
        failed = (*failed, tier.name)
    with pytest.raises(ValueError, match="no tier is left after small, mid, large"):
        decide(Step(), THREE, failed)
    with pytest.raises(ValueError, match="empty chain"):
        decide(Step(), ())
    with pytest.raises(ValueError, match="cannot be a tier's name"):
        Tier("a>b")


def test_an_unknown_cost_is_never_nothing() -> None:
    """A tier without a price is tried in its turn, says so, and is neither skipped nor called cheap."""
    tiers = (Tier("small"), Tier("large"))
    step = failures(Step(), "small", 90)
    decision = decide(step, tiers)
    assert decision.tier == "small"
    assert "cost is unknown" in decision.reason
    assert decision.expected_nanos is decision.last_nanos is decision.candidates[0].nanos is None
    step = observe(step, Decision("small", "test"), False, cost_nanos=1_000)
    step = observe(step, Decision("large", "test", ("small",)), None, cost_nanos=5_000)
    assert decide(step, tiers).tier == "large"


def test_the_middle_is_judged_after_the_first_has_failed() -> None:
    """Counts go by who has failed before: a middle tier that passes alone may be waste behind the first."""
    tiers = (Tier("small", 1_000), Tier("mid", 3_000), Tier("large", 5_000))
    step = Step()
    for _ in range(20):
        step = learn(step, "small", (), True)
        step = learn(step, "mid", (), True)
        step = learn(step, "mid", ("small",), False)
    assert decide(step, tiers).tier == "small"
    assert decide(step, tiers, ("small",)).tier == "large"


def test_a_skipped_tier_is_probed_and_comes_back() -> None:
    """5 % of requests try it all the same; where it passes again a few probes are enough."""
    tiers = (Tier("small", 1_000), Tier("large", 5_000))
    step = failures(Step(), "small", 500)
    assert decide(step, tiers, draw=0.05).tier == "large"
    probes = 0
    while (decision := decide(step, tiers, draw=0.049)).tier != "small" or decision.probe:
        assert decision.probe
        assert "probe" in decision.reason
        step = observe(step, decision, True, cost_nanos=1_000)
        probes += 1
    assert 2 <= probes <= LATE
    dear = (Tier("small", 1_000), Tier("mid", 20_000), Tier("large", 25_000))
    step = failures(failures(Step(), "small", 100), "mid", 100)
    assert decide(step, dear, draw=0.051).tier == "mid", "a dear tier is probed in proportion less"
    assert decide(step, dear, draw=0.053).tier == "large"


def test_hysteresis_holds_a_plan() -> None:
    """A skipped tier needs a gain of 2 % to come back; the same tier, not skipped, is kept at the margin."""
    tiers = (Tier("small", 1_000), Tier("large", 5_000))
    step = Step({"small": Count(UNIT * 16, UNIT * 84)})
    free = decide(step, tiers)
    assert (free.tier, free.candidates[0].skipped) == ("small", False)
    kept = decide(Step(step.cells, {}, ("small",)), tiers)
    assert (kept.tier, kept.candidates[0].skipped) == ("large", True)
    assert observe(step, kept, None).skipped == ("small",)
    assert observe(Step(step.cells, {}, ("small",)), free, None).skipped == ()


def test_terms_of_a_decision() -> None:
    """A check, a cold cache, waiting and a failure's cost each move a decision; a shape only leans on it."""
    tiers = (Tier("small", 1_000), Tier("large", 5_000))
    step = Step({"small": Count(40 * UNIT, 60 * UNIT)})
    assert decide(step, tiers).tier == "small"
    for change in ({"check_nanos": 3_000}, {"extra_nanos": 3_000}):
        assert decide(step, (msgspec.structs.replace(tiers[0], **change), tiers[1])).tier == "large"
    slow = observe(step, Decision("small", "test"), True, cost_nanos=1_000, ms=30_000)
    assert decide(slow, tiers).tier == "small"
    assert decide(slow, tiers, params=Params(second_nanos=100)).tier == "large"
    shaped = (msgspec.structs.replace(tiers[0], prior=(0.0, 4.0)), tiers[1])
    assert decide(failures(Step(), "small", 3), shaped).tier == "large", "4 pseudo-failures and 3 real ones"
    assert decide(failures(Step(), "small", 3), tiers).tier == "small"
    worse = learn(Step({"small": Count(8 * UNIT, 92 * UNIT)}), "large", (), False)
    for _ in range(60):
        worse = learn(learn(worse, "large", (), False), "large", ("small",), True)
    assert decide(worse, tiers).tier == "large"
    assert decide(worse, tiers, params=Params(failure_nanos=50_000)).tier == "small", "the last tier fails alone"


def test_a_middle_tier_borrows_from_other_steps() -> None:
    """What the other steps have shown of a middle tier counts like two answers, this step's own only once."""
    elsewhere = Step()
    for _ in range(50):
        elsewhere = learn(elsewhere, "mid", ("small",), False)
    tiers = (Tier("small", 1_000), Tier("mid", 3_000), Tier("large", 5_000))
    own = learn(Step(), "mid", ("small",), False)
    alone = decide(own, tiers, ("small",)).candidates[0].upper
    pool = repool(repool(Step(), Step(), elsewhere), Step(), own)
    assert decide(own, tiers, ("small",), pool=pool).candidates[0].upper == wilson_upper(0, 3, 1.28) < alone
    assert decide(own, tiers, ("small",), pool=repool(Step(), Step(), own)).candidates[0].upper == alone
    assert decide(Step(), tiers, pool=pool).candidates[0].upper == 1.0, "a first tier speaks for itself"


def test_a_model_that_changed_is_seen_in_a_few_answers() -> None:
    """From 80 % to nothing: the old answers go at once, where fading alone would take over a hundred."""
    count = Count()
    for number in range(200):
        count = count.after(number % 5 != 0, 100)
    assert abs(count.passed / count.seen - 0.8) < 0.05
    for _ in range(8):
        count = count.after(False, 100)
    assert count.seen <= 2 * LATE * UNIT
    assert count.passed / count.seen < 0.5


@pytest.mark.parametrize("percent", [5, 30, 50, 80, 95])
def test_a_steady_tier_is_seldom_thought_to_have_changed(percent: int) -> None:
    """By chance the earlier answers are dropped less than once in a thousand."""
    count, drops = Count(), 0
    for number in range(10_000):
        after = count.after(draw("steady", str(percent), str(number)) * 100 < percent, 100)
        drops += after.seen < count.seen - 2 * UNIT
        count = after
    assert drops <= 10


def test_forecast_warns_of_a_chain_that_is_dearer_than_its_last_tier() -> None:
    """At prices near each other, with tiers that fail, the plain cascade costs more than the last alone."""
    tiers = (Tier("small", 1_000), Tier("mid", 3_000), Tier("large", 5_000))
    step = Step({"small": Count(5 * UNIT, 45 * UNIT), "small>mid": Count(5 * UNIT, 40 * UNIT)})
    seen = forecast(step, tiers)
    assert seen.plain_nanos is not None
    assert seen.learned_nanos == seen.last_nanos == 5_000
    assert seen.plain_nanos > 5_000
    assert seen.warning is not None
    assert "small, mid, large" in seen.warning
    assert forecast(Step(), THREE).warning is None
    assert forecast(Step(), (Tier("a"), Tier("b"))).plain_nanos is None


@given(step=states, tiers=tier_lists, failed=st.frozensets(names), chance=st.floats(0, 1), pool=st.none() | states)
def test_every_decision_has_a_reason_and_is_the_same_again(
    step: Step, tiers: tuple[Tier, ...], failed: frozenset[str], chance: float, pool: Step | None
) -> None:
    """Fuzz: a tier after the last that failed, a reason that names it, whole amounts, and the same twice over."""
    before = tuple(sorted(failed))
    left = tiers[1 + max((at for at, tier in enumerate(tiers) if tier.name in failed), default=-1) :]
    if not left:
        with pytest.raises(ValueError, match="no tier is left"):
            decide(step, tiers, before, chance, pool=pool)
        return
    decision = decide(step, tiers, before, chance, pool=pool)
    assert decision == decide(step, tiers, before, chance, pool=pool)
    assert decision.tier in {tier.name for tier in left}
    assert decision.reason.startswith(f"{decision.tier}: ")
    assert len(decision.reason) > len(decision.tier) + 2
    assert decision.probe == any(one.tier == decision.tier and one.skipped for one in decision.candidates)
    for amount in (decision.expected_nanos, decision.last_nanos, *(one.nanos for one in decision.candidates)):
        assert amount is None or type(amount) is int
    for one in decision.candidates:
        assert 0 <= one.mean <= 1
        assert 0 <= one.upper <= 1
    text = msgspec.json.encode(decision)
    assert msgspec.json.decode(text, type=Decision) == decision


@given(one=states, two=states, three=states)
def test_states_save_load_and_merge_exactly(one: Step, two: Step, three: Step) -> None:
    """Merging is a sum: in any order and grouping the same, nothing beside nothing; JSON gives the state back."""
    assert msgspec.json.decode(msgspec.json.encode(one), type=Step) == one
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, Step()) == merge(Step(), one) == one


@given(
    log=st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 10**9)), max_size=60), seed=st.text(max_size=5)
)
def test_the_same_log_and_seed_give_the_same_decisions(log: list[tuple[bool, bool, int]], seed: str) -> None:
    """Two lives over one log, one of them saved and loaded after every step: decision for decision the same."""

    def live(reload: bool) -> list[Decision]:
        step, pool, made = Step(), Step(), []
        for number, (small, mid, cost) in enumerate(log):
            failed: tuple[str, ...] = ()
            for turn in range(len(THREE)):
                chance = draw(seed, str(number), f"probe:{turn}")
                made.append(decide(step, THREE, failed, chance, pool=pool))
                ok = {"small": small, "mid": mid, "large": None}[made[-1].tier]
                after = observe(step, made[-1], ok, cost_nanos=cost)
                pool, step = repool(pool, step, after), after
                if reload:
                    step = msgspec.json.decode(msgspec.json.encode(step), type=Step)
                if ok is not False:
                    break
                failed = (*failed, made[-1].tier)
        return made

    assert live(False) == live(True)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_the_pool_is_the_sum_of_its_steps(log: list[tuple[str, bool]]) -> None:
    """Kept up with every change of a step, the pool's counts are those of all steps together."""
    pool, steps = Step(), {name: Step() for name in "abc"}
    for name, ok in log:
        after = learn(steps[name], "mid", ("small",), ok, memory=10)
        pool, steps[name] = repool(pool, steps[name], after), after
    whole = merge(merge(steps["a"], steps["b"]), steps["c"]).count("small>mid")
    assert (pool.count("small>mid").passed, pool.count("small>mid").failed) == (whole.passed, whole.failed)


@given(st.lists(st.sampled_from([True, False, None]), max_size=300))
def test_what_nobody_judged_is_not_learned(verdicts: list[bool | None]) -> None:
    """Unknown changes no count; counts never go below nothing nor much above what they remember."""
    step = Step()
    for ok in verdicts:
        after = learn(step, "small", (), ok, cost_nanos=7, memory=50)
        if ok is None:
            assert after.cells == step.cells
        step = after
        count = step.count("small")
        assert min(count.passed, count.failed, count.late_passed, count.late_failed) >= 0
        assert count.seen <= 51 * UNIT
    if verdicts:
        means = [mean for ok in (True, False) if (mean := step.spent["small"].mean_nanos(ok)) is not None]
        assert means
        assert all(6.9 < mean < 7.1 for mean in means)


def test_a_state_of_four_tiers_is_small() -> None:
    """Every cell that there can be, after very many answers: at most 4 KB."""
    step = Step()
    for number in range(4_000):
        order = sorted(NAMES, key=lambda name: draw("size", str(number), name))
        size = number % 4
        step = learn(step, order[0], tuple(order[1 : size + 1]), number % 3 == 0, cost_nanos=10**11, ms=60_000)
    assert len(step.cells) == 32
    assert len(msgspec.json.encode(step)) <= 4096
