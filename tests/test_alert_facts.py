"""What the rules are told, from the rollups of either store: windows, subjects, late and before, what is not known."""

from typing import Any

import msgspec
import pytest

import books
from alerts_kit import DAY, USD, book, past
from books import HOUR, MINUTE, NOON, AnyStore, Watch, held, row
from bursar.drivers.facts import Past, check, gather
from bursar.policy import Alert, Match
from bursar.policy.alerts import Cap, Drift, Falling, Forecast, Rule, Share, Spike, Stranger, Threshold, Wrong
from bursar.rules.alarm import Budgeted, Costs, Facts, Pair, Series, Spent, Strangers, Tightened, judge
from bursar.rules.cards import compile_book
from bursar.rules.semantic.calibrate import Calibration
from bursar.stores.semantic import Pool
from bursar.types import Claim, Instant

opened, path, store, template, watch = books.opened, books.path, books.store, books.template, books.watch

PRICES = compile_book({}, {})
HOURS, DAYS = Spike(name="h", window="hour"), Spike(name="d", window="day")


def ask(store: AnyStore, rule: Rule, now: int = NOON, known: tuple[str, ...] = (), **alert: Any) -> list[Facts]:
    told = Alert(rule=rule, **alert)
    check(told)
    return gather(store, PRICES, told, Instant(now), Past(), known)


def series(store: AnyStore, rule: Rule, **more: Any) -> Series:
    (found,) = ask(store, rule, **more)
    assert isinstance(found, Series)
    return found


class TestSeries:
    def test_hours_are_consecutive_and_the_running_one_is_apart(self, store: AnyStore) -> None:
        past(store, days=29)
        book(store, "now", NOON + MINUTE, 7)
        book(store, "unknown", NOON + MINUTE, None)
        found = series(store, HOURS, now=NOON + 20 * MINUTE)
        assert len(found.before) == 672 and set(found.before) == {USD}
        assert (found.start, found.current, found.unpriced) == (NOON, 7, 1)

    def test_days_are_local(self, store: AnyStore) -> None:
        """16:00 UTC is 17:00 in Berlin: 17 hours of today are over. On the day that the clock went back, 26 October,
        they are 25."""
        past(store, days=30)
        found = series(store, DAYS, zone="Europe/Berlin", now=NOON + MINUTE)
        assert (found.before, found.current) == ((24 * USD,) * 28, 17 * USD)
        earlier = series(store, DAYS, zone="Europe/Berlin", now=NOON - DAY - HOUR)
        assert earlier.before == (25 * USD, *(24 * USD,) * 27)

    def test_before_the_first_row_nothing_is_known_and_between_rows_it_is_zero(self, store: AnyStore) -> None:
        """Neither is the window in which the ledger began: it is not whole."""
        book(store, "first", NOON - 5 * HOUR + MINUTE)
        book(store, "third", NOON - 3 * HOUR)
        assert series(store, HOURS).before == (None,) * 668 + (0, USD, 0, 0)

    def test_an_older_row_says_that_idle_hours_were_idle(self, store: AnyStore) -> None:
        book(store, "old", NOON - 28 * DAY - 2 * HOUR)
        assert series(store, HOURS).before == (0,) * 672

    def test_a_zone_whose_hours_are_not_those_of_utc(self, store: AnyStore) -> None:
        """16:00 UTC is 21:30 in Kolkata: the running hour began at 15:30."""
        for minutes in (45, 15):
            book(store, f"ago-{minutes}", NOON - minutes * MINUTE, minutes)
        book(store, "old", NOON - 29 * DAY)
        found = series(store, HOURS, zone="Asia/Kolkata")
        assert (found.start, found.current, found.before[-1]) == (NOON - 30 * MINUTE, 15, 45)

    def test_of_an_agent_by_a_glob(self, store: AnyStore) -> None:
        for agent, cost in (("legal-de", 1), ("legal-en", 10), ("shop", 100)):
            book(store, f"now-{agent}", NOON, cost, agent_id=agent)
            book(store, f"old-{agent}", NOON - HOUR, cost, agent_id=agent)
        book(store, "older", NOON - 29 * DAY, agent_id="legal-en")
        found = series(store, HOURS, match=Match(agent="legal-*"))
        assert (found.current, found.before[-1]) == (11, 11)

    def test_by_user_whoever_is_worth_it_or_known(self, store: AnyStore) -> None:
        for user, cost in (("rich", 3 * USD), ("poor", 1), ("open", 2), (None, 9 * USD)):
            book(store, f"now-{user}", NOON, cost, user_id=user)
        found = ask(store, HOURS, by="user", known=("open", "gone"))
        assert {one.subject for one in found} == {"rich", "open"}

    def test_history_is_asked_once_an_hour(self, store: AnyStore) -> None:
        alert, kept = Alert(rule=HOURS), Past()
        book(store, "old", NOON - 28 * DAY - 5 * HOUR)
        (before,) = gather(store, PRICES, alert, Instant(NOON), kept)
        book(store, "late", NOON - HOUR, 5)
        (same,) = gather(store, PRICES, alert, Instant(NOON + 30 * MINUTE), kept)
        (anew,) = gather(store, PRICES, alert, Instant(NOON + HOUR), kept)
        assert isinstance(before, Series) and isinstance(same, Series) and isinstance(anew, Series)
        assert same.before == before.before and anew.before[-2:] == (5, 0)

    def test_a_forecast_has_the_month(self, store: AnyStore) -> None:
        past(store, days=30)
        found = series(store, Forecast(name="f", limit_nanos=1))
        assert found.month == (23 * 24 + 16) * USD and found.current == 16 * USD


class TestSums:
    def test_caps_by_user_in_the_running_hour(self, store: AnyStore) -> None:
        book(store, "a", NOON, 5)
        book(store, "b", NOON - MINUTE, 7)
        book(store, "c", NOON, None, user_id="u2")
        assert ask(store, Cap(name="c", limit_nanos=1), by="user") == [
            Spent(subject="u1", nanos=5), Spent(subject="u2", nanos=0, unpriced=1)
        ]  # fmt: skip
        day = ask(store, Cap(name="c", limit_nanos=1, window="day"))
        assert day == [Spent(subject="", nanos=12, unpriced=1)]

    def test_a_cap_without_spend_is_zero_not_unknown(self, store: AnyStore) -> None:
        assert ask(store, Cap(name="c", limit_nanos=1)) == [Spent(subject="", nanos=0)]

    def test_users_within_an_agent(self, store: AnyStore) -> None:
        book(store, "a", NOON, 5)
        book(store, "b", NOON, 7, agent_id="other")
        assert ask(store, Cap(name="c", limit_nanos=1), by="user", match=Match(agent="shop")) == [
            Spent(subject="u1", nanos=5)
        ]

    def test_shares_take_the_shortest_time_that_has_rows_enough(self, store: AnyStore) -> None:
        rule = Share(name="s", of="failed", over=1, least_rows=3)
        for at in range(3):
            book(store, f"late-{at}", NOON, status="failed" if at else "completed")
            book(store, f"old-{at}", NOON - 4 * HOUR)
        assert ask(store, rule) == [Pair(subject="", part=2, whole=3)]
        assert ask(store, Share(name="s", of="failed", over=1, least_rows=4)) == [Pair(subject="", part=2, whole=6)]
        assert ask(store, Share(name="s", of="unpriced", over=1, least_rows=99)) == [Pair(subject="", part=0, whole=6)]

    def test_hit_rates_of_the_same_hours(self, store: AnyStore) -> None:
        """A night without hits, ten hours ago, is not what the morning is compared with."""
        for days in range(8):
            book(store, f"hit-{days}", NOON - days * DAY, 0, status="hit", cache="hit")
            book(store, f"night-{days}", NOON - days * DAY - 10 * HOUR)
        assert ask(store, Falling(name="f"), now=NOON + MINUTE) == [
            Pair(subject="", part=1, whole=1, part_before=7, whole_before=7)
        ]

    def test_run_costs_late_and_before(self, store: AnyStore) -> None:
        past(store, days=9)
        (all_of_it,) = ask(store, Drift(name="d"))
        assert isinstance(all_of_it, Costs)
        assert (all_of_it.runs, all_of_it.nanos) == (24, 24 * USD)
        assert (all_of_it.runs_before, all_of_it.nanos_before) == (168, 168 * USD)
        (shop,) = ask(store, Drift(name="d"), by="agent")
        assert isinstance(shop, Costs) and (shop.subject, shop.runs) == ("shop", 24)


class TestOthers:
    def test_budgets_but_those_of_runs_and_sessions(self, store: AnyStore, watch: Watch) -> None:
        for scope in ("user", "run", "session"):
            terms: dict[str, Any] = {"window": "day"} if scope == "user" else {}
            own = Claim(
                budget="b", scope=scope, key="k", tenant="default", limit_nanos=1_000, limit_tokens=500, **terms
            )
            hold = held(store, row(scope), books.ask(own))
            store.settle(hold, books.done(row(scope), cost_nanos=800, charges=hold.charges)).result(10)
        found = ask(store, Threshold(name="t"), now=watch.now)
        assert found == [
            Budgeted(subject="b\x1fuser k", limit=1_000, settled=800),
            Budgeted(subject="b\x1fuser k", limit=500, settled=150, tokens=True),
        ]

    def test_strangers_are_models_without_a_card(self, store: AnyStore) -> None:
        """A known model whose usage was cut off is unpriced, and no stranger."""
        book(store, "known", NOON, None)
        book(store, "new", NOON, None, model="gpt-99", requested_model="gpt-99")
        book(store, "old", NOON - 2 * DAY, None, model="gpt-98", requested_model="gpt-98")
        assert ask(store, Stranger(name="s")) == [Strangers(subject="openai/gpt-99", rows=1)]

    def test_pools_of_the_semantic_cache_whose_target_stands_halved(self, store: AnyStore) -> None:
        counts = {"asked": 9, "served": 5, "shadow": 0, "judged": 4, "wrong": 2, "reported": 0}
        state = msgspec.structs.replace(Calibration(max_error=0.05, seed="s"), tightened=2)
        pools = [Pool(pool="p" * 40, tenant="t", step="", state=each, **counts) for each in (state, None)]
        found = gather(store, PRICES, Alert(rule=Wrong(name="w")), NOON, Past(), (), lambda: pools)
        assert found == [Tightened(subject="t (none) pppppppppppp", times=2, wrong=2, judged=4)]
        reading = judge(Wrong(name="w"), found[0], NOON)
        assert (reading.state, reading.value, reading.level) == ("over", 2, 2)
        assert judge(Wrong(name="w"), msgspec.structs.replace(found[0], times=0), NOON).state == "under"

    def test_escalations_are_requests_that_climbed(self, store: AnyStore) -> None:
        rule = Share(name="e", of="escalated", over=1)
        book(store, "a", NOON, tier="small")
        assert ask(store, rule) == [Pair(part=0, whole=0)]
        opening = row("a", 2, started_at=NOON, tier="mid", run_id="a", agent_id="shop")
        store.settle(held(store, opening, books.ask()), books.done(opening)).result(10)
        book(store, "b", NOON, tier="mid")
        assert ask(store, rule, now=NOON + MINUTE) == [Pair(part=1, whole=2)]
        assert ask(store, rule, now=NOON + MINUTE, match=Match(agent="other")) == [Pair(part=0, whole=0)]


@pytest.mark.parametrize(
    ("rule", "more"),
    [
        (HOURS, {"match": Match(tags=(("team", "a"),))}),
        (HOURS, {"match": Match(agent="a", step="b")}),
        (HOURS, {"match": Match(agent="a"), "by": "user"}),
        (Cap(name="c", limit_nanos=1), {"match": Match(step="a"), "by": "user"}),
        (Drift(name="d"), {"by": "user"}),
        (Drift(name="d"), {"match": Match(step="a")}),
        (Threshold(name="t"), {"by": "user"}),
        (Stranger(name="s"), {"match": Match(agent="a")}),
        (Share(name="s", of="escalated", over=1), {"by": "agent"}),
    ],
)
def test_what_no_rollup_answers_is_said_beforehand(rule: Rule, more: Any, store: AnyStore) -> None:
    with pytest.raises(ValueError, match=r"rollup|match|agent|escalations"):
        check(Alert(rule=rule, **more))


@pytest.mark.parametrize("by", [None, "user", "session", "agent", "step", "model", "tier", "provider"])
@pytest.mark.parametrize("agent", [None, "sh*"])
@pytest.mark.parametrize(
    "rule",
    [HOURS, DAYS, Cap(name="c", limit_nanos=1), Threshold(name="t"), Drift(name="d"), Falling(name="f"),
     Share(name="s", of="failed", over=1), Share(name="s", of="escalated", over=1), Stranger(name="s"),
     Wrong(name="w"), Forecast(name="m", limit_nanos=1)],
)  # fmt: skip
def test_what_passes_the_check_can_be_asked(store: AnyStore, rule: Rule, by: Any, agent: str | None) -> None:
    book(store, "a", NOON, session_id="s", step="plan", tier="small")
    alert = Alert(rule=rule, by=by, match=Match(agent=agent))
    try:
        check(alert)
    except ValueError:
        return
    assert isinstance(gather(store, PRICES, alert, Instant(NOON), Past(), ("u1",)), list)
