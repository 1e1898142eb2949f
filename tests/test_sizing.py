"""Limits from recorded runs: what is suggested, what it would have stopped, and how much of that may be promised."""

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import books
from books import MINUTE, NOON, AnyStore, done, live, row
from bursar.config import load
from bursar.doors.open import make_policy
from bursar.insights import odds, sizing
from bursar.insights.sizing import Terms, Total, rounded
from bursar.rules.budget import claims
from bursar.types import PPM, Hold, Instant, Tags

opened, path, store, template = books.opened, books.path, books.store, books.template

TERMS = Terms()
amounts = st.integers(1, 10**13)


def runs(*tokens: int | None, **told: Any) -> list[Total]:
    """A run a minute, with so many tokens each, and as many nano-dollars."""
    return [
        Total(run_id=f"r{n:03}", at=Instant(NOON + n * MINUTE), tokens=count, nanos=count, **told)
        for n, count in enumerate(tokens)
    ]


def sized(*tokens: int | None, terms: Terms = TERMS, **told: Any) -> sizing.Size:
    found = sizing.size(runs(*tokens, **told), "tokens", terms)
    assert found is not None
    return found


# --- odds


def exactly(most: int, runs: int, share: Fraction) -> Fraction:
    """The odds of at most so many of so many."""
    return sum((comb(runs, n) * share**n * (1 - share) ** (runs - n) for n in range(most + 1)), Fraction(0))


@given(runs=st.integers(1, 40), part=st.floats(0, 1), percent=st.integers(50, 99))
def test_the_bound_is_that_of_the_binomial(runs: int, part: float, percent: int) -> None:
    """At the bound so few over the limit are seen in just 1 - confidence of all cases; a hair more share, in fewer."""
    over = min(int(part * runs), runs - 1)
    bound = odds.at_most(over, runs, percent / 100)
    hair, risk = Fraction(1, 10**9), 1 - Fraction(percent, 100)
    assert exactly(over, runs, Fraction(bound) - hair) > risk
    assert bound > 1 - hair or exactly(over, runs, Fraction(bound) + hair) < risk
    assert over / runs < bound <= odds.at_most(over + 1, runs, percent / 100)


def test_nothing_is_promised_where_all_were_over() -> None:
    assert odds.at_most(3, 3, 0.95) == 1.0 == odds.at_most(0, 0, 0.95)
    for wrong in ((-1, 3, 0.9), (4, 3, 0.9), (1, 3, 1.0), (1, 3, 0.0)):
        with pytest.raises(ValueError, match="makes no sense"):
            odds.at_most(*wrong)
    with pytest.raises(ValueError, match="makes no sense"):
        odds.needed(0.0, 0.95)


@pytest.mark.parametrize(("runs", "quantile"), [(20, 18), (50, 45), (100, 90)])
def test_the_bound_holds_for_a_limit_chosen_from_the_same_runs(runs: int, quantile: int) -> None:
    """The quantile is one order statistic and the limit depends on it alone. Whatever part of the runs above the one is
    above the other, the share above the limit passes its bound in 5 % of all samples at most."""
    above = runs - quantile
    bounds = [Fraction(odds.at_most(over, runs, 0.95)) for over in range(above + 1)]
    for part in (Fraction(n, 10) for n in range(1, 11)):
        failed = sum(
            (
                comb(above, over) * part**over * (1 - part) ** (above - over)
                * exactly(above, runs, min(Fraction(1), bounds[over] / part))
                for over in range(above + 1)
            ),
            Fraction(0),
        )  # fmt: skip
        assert failed <= Fraction(5, 100) + Fraction(1, 10**6)


@given(share=st.floats(0.005, 0.5), confidence=st.floats(0.5, 0.99))
def test_how_many_runs_a_promise_needs(share: float, confidence: float) -> None:
    """The fewest with which none over the limit keeps it."""
    needed = odds.needed(share, confidence)
    assert odds.at_most(0, needed, confidence) <= share + 1e-9
    assert needed == 1 or odds.at_most(0, needed - 1, confidence) > share - 1e-9


def test_two_percent_at_95_need_149_runs() -> None:
    assert odds.needed(0.02, 0.95) == 149
    assert [odds.allowed(n, 0.02, 0.95) for n in (148, 149, 235, 236)] == [None, 0, 0, 1]


@given(runs=st.integers(1, 400), share=st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.3]))
def test_as_many_may_be_over_as_the_promise_allows(runs: int, share: float) -> None:
    may = odds.allowed(runs, share, 0.95)
    if may is None:
        assert odds.at_most(0, runs, 0.95) > share
    else:
        assert odds.at_most(may, runs, 0.95) <= share < odds.at_most(may + 1, runs, 0.95)


@given(values=st.lists(st.integers(0, 12), min_size=16, max_size=16), more=st.integers(0, 12))
def test_a_shift_is_as_odd_as_dealing_the_runs_at_random_would_have_it(values: list[int], more: int) -> None:
    """Against all 12,870 ways to split sixteen runs in two halves, ties and all, where it would be acted upon."""
    values = [*values[:8], *(value + more for value in values[8:])]
    told = odds.shift(values[:8], values[8:])
    assert told is not None and told == pytest.approx(odds.shift(values[8:], values[:8]))
    ranks = [2 * sum(v < value for v in values) + sum(v == value for v in values) for value in values]
    centre = sum(ranks) // 2
    seen = abs(sum(ranks[8:]) - centre)
    ways = [abs(sum(ranks[at] for at in half) - centre) >= seen for half in combinations(range(16), 8)]
    exact = sum(ways) / len(ways)
    assert exact <= 2 * sizing.UNLIKELY if told < sizing.UNLIKELY else exact > sizing.UNLIKELY / 5


def test_too_few_tell_nothing_of_a_shift() -> None:
    assert odds.shift([1] * 7, [9] * 50) is None
    assert odds.shift([5] * 50, [5] * 50) == 1.0


# --- the limit


@pytest.mark.parametrize(
    ("amount", "limit"),
    [(8_400, 10_000), (5_100, 6_000), (31_000, 35_000), (12_300, 12_500), (10_000, 10_000), (999, 1_000), (7, 7),
     (0, 0), (1, 1), (9, 10), (101, 125), (40_001, 50_000)],
)  # fmt: skip
def test_rounded_as_a_person_would(amount: int, limit: int) -> None:
    assert rounded(amount) == limit


@given(amount=amounts, more=st.integers(0, 10**6))
def test_rounding_never_goes_down_nor_up_by_a_quarter(amount: int, more: int) -> None:
    """Less than a quarter is added, a round number stays, and the order of two numbers too."""
    limit = rounded(amount)
    assert amount <= limit and 4 * (limit - amount) < amount
    assert rounded(limit) == limit <= rounded(amount + more)
    assert len(str(limit).rstrip("0")) <= 3


@given(tokens=st.lists(amounts, min_size=1, max_size=60), coverage=st.integers(1, PPM), buffer=st.integers(0, PPM))
def test_the_quantile_is_the_least_that_covers_so_many(tokens: list[int], coverage: int, buffer: int) -> None:
    found = sized(*tokens, terms=Terms(coverage=coverage, buffer=buffer))
    covered = Fraction(sum(n <= found.quantile for n in tokens), len(tokens))
    fewer = Fraction(sum(n < found.quantile for n in tokens), len(tokens))
    assert fewer < Fraction(coverage, PPM) <= covered and found.quantile in tokens
    assert found.limit == rounded(-(-found.quantile * (PPM + buffer) // PPM))
    over = [one for one in runs(*tokens) if (one.tokens or 0) > found.limit]
    assert sorted(found.stopped) == [one.run_id for one in over]
    assert found.at_most == odds.at_most(len(over), len(tokens), 0.95)


def test_seven_of_212() -> None:
    """The issue's own example: the ninth decile 7,000, a fifth on top, rounded to 10,000; seven runs came to more."""
    found = sized(*[5_000] * 100, *[7_000] * 91, *[9_500] * 14, *range(20_000, 27_000, 1_000))
    assert (found.runs, found.quantile, found.limit) == (212, 7_000, 10_000)
    assert found.stopped == ("r211", "r210", "r209", "r208", "r207", "r206", "r205")
    assert found.at_most == pytest.approx(0.0611, abs=1e-4)
    assert (found.needed, found.keeps_promise) == (149, 26_000)
    assert sized(*range(1, 149)).keeps_promise is None
    assert sized(*range(1, 150)).keeps_promise == 149


def test_unknown_totals_are_named_and_never_nothing() -> None:
    """They are not among the runs that the figures are of."""
    found = sized(1_000, None, 2_000, None)
    assert (found.runs, found.unknown, found.quantile) == (2, ("r001", "r003"), 2_000)
    assert sizing.size(runs(None, None), "tokens", TERMS) is None
    assert sizing.size(runs(0, 0, 0), "nanos", TERMS) is None
    assert sizing.size([], "nanos", TERMS) is None


def test_runs_that_were_cut_count_as_stopped() -> None:
    """A budget ended them: nobody knows what they would have come to, and the promise does not rest on them."""
    free, cut = sized(*[1_000] * 50), sized(*[1_000] * 50, cut=True)
    assert (cut.cut, cut.stopped, cut.at_most) == (50, (), 1.0)
    assert free.at_most == odds.at_most(0, 50, 0.95)


def test_drift_is_told_and_chance_is_not() -> None:
    """The later half against the earlier one, by when the runs began."""
    found = sized(*[1_000 + n % 7 for n in range(20)], *[1_500 + n % 7 for n in range(21)])
    assert found.drift is not None
    assert (found.drift.earlier, found.drift.later) == (1_003, 1_503)
    assert found.drift.since == NOON + 20 * MINUTE and found.drift.odds < 1e-6
    assert sized(*[1_000 + n * 37 % 41 for n in range(41)]).drift is None
    assert sized(*[1_000] * 7, *[9_000] * 7).drift is None


def test_each_kind_of_task_has_its_own_limit() -> None:
    """The most frequent first; a run without the tag is of no kind."""
    totals = [*runs(100, 100, 100, kind="short"), *runs(9_000, 9_000, kind="long"), *runs(5)]
    told = sizing.suggest("a", totals, TERMS, "task")
    limits = [(one.kind, one.runs, one.tokens.limit if one.tokens else None) for one in told]
    assert limits == [("short", 3, 125), ("long", 2, 12_500), (None, 1, 6)]


# --- from the ledger


def test_a_tree_is_added_up(store: AnyStore) -> None:
    """Nested runs count to their root, whoever made them; the kind is that of the root's own tag; oldest first."""
    live(store, "1", run_id="root", agent_id="a", tags=(("task", "long"),))
    live(store, "2", run_id="child", parent_run_id="root", agent_id="b", tags=(("task", "other"),))
    live(store, "3", run_id="grandchild", parent_run_id="child", agent_id="a")
    live(store, "4", run_id="later", agent_id="a", started_at=NOON + MINUTE, outcome={"output_tokens": 80})
    live(store, "5", run_id="elsewhere", agent_id="b")
    found = sizing.sample(store, "a", by="task")
    told = [(one.run_id, one.kind, one.tokens, one.nanos) for one in found.totals]
    assert told == [("root", "long", 450, 3_000), ("later", None, 200, 1_000)]
    assert (found.under_way, found.more) == (0, False)


def test_what_a_budget_counts_is_counted(store: AnyStore) -> None:
    """A hit and a refusal are nothing; unknown tokens or an unknown cost make their side unknown, and it alone."""
    live(store, "1", run_id="hit", agent_id="a")
    store.settle(Hold("2", 1), done(row("2", run_id="hit", agent_id="a"), status="hit", cost_nanos=0)).result(10)
    live(store, "3", run_id="cut", agent_id="a")
    refused = done(
        row("4", run_id="cut", agent_id="a"), status="refused", input_tokens=0, output_tokens=0, cost_nanos=0
    )
    store.settle(Hold("4", 1), refused).result(10)
    live(store, "5", run_id="unpriced", agent_id="a", outcome={"cost_nanos": None, "cost_status": "unpriced"})
    live(store, "6", run_id="silent", agent_id="a", outcome={"output_tokens": None, "cost_nanos": 7})
    told = {one.run_id: (one.tokens, one.nanos, one.cut) for one in sizing.sample(store, "a").totals}
    assert told == {
        "hit": (150, 1_000, False), "cut": (150, 1_000, True), "unpriced": (150, None, False),
        "silent": (None, 7, False),
    }  # fmt: skip


def test_runs_under_way_and_older_ones_are_left_out_and_said(opened: Callable[[], AnyStore]) -> None:
    store = opened()
    for number in range(6):
        live(store, f"{number}", run_id=f"r{number}", agent_id="a", started_at=NOON + number * MINUTE)
    assert isinstance(
        store.reserve(row("open", run_id="r5", agent_id="a", started_at=NOON + 9 * MINUTE)).result(10), Hold
    )
    found = sizing.sample(store, "a", most=3)
    assert [one.run_id for one in found.totals] == ["r2", "r3", "r4"]
    assert (found.under_way, found.more) == (1, True)
    since = sizing.sample(store, "a", since=Instant(NOON + 3 * MINUTE))
    assert [one.run_id for one in since.totals] == ["r3", "r4"]


def test_all_pages_are_read(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_PAGE", 2)
    for number in range(7):
        live(store, f"{number}", run_id=f"r{number}", agent_id="a", started_at=NOON + number * MINUTE)
        live(store, f"n{number}", run_id=f"n{number}", parent_run_id=f"r{number}", agent_id="a")
    assert [one.run_id for one in sizing.sample(store, "a").totals] == [f"r{n}" for n in range(7)]


@pytest.mark.parametrize(
    ("agent", "by", "kind"),
    [("researcher", None, None), ('a "quoted\\" [x]*?', "task kind", "long\nlines"), ("a", "task", None),
     ("ä" * 150, "t", "k")],
)  # fmt: skip
def test_the_snippet_is_a_budget_of_these_runs_alone(
    tmp_path: Path, agent: str, by: str | None, kind: str | None
) -> None:
    """It loads as it is printed, limits what was suggested, and matches that agent and kind and no other."""
    total = Total(run_id="r", kind=kind, at=NOON, tokens=7_000, nanos=41_000_000)
    told = sizing.suggest(agent, [total], TERMS, by)[0]
    file = tmp_path / "bursar.toml"
    file.write_text(sizing.snippet(told), encoding="utf-8")
    policy = make_policy(load(file, {}))
    tags = () if by is None or kind is None else ((by, kind),)
    own = claims(Tags(run_id="r", agent_id=agent, tags=tags), None, policy)
    assert [(c.scope, c.key, c.limit_tokens, c.limit_nanos) for c in own] == [("run", "r", 10_000, 50_000_000)]
    assert not claims(Tags(run_id="r", agent_id=agent + "x", tags=tags), None, policy)
    assert by is None or not claims(Tags(run_id="r", agent_id=agent, tags=((by, "else"),)), None, policy)
