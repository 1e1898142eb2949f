"""What a ledger answers, on every store: sums by label and time, the four metrics, runs and their trees."""

import itertools
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import books
from books import MINUTE, NOON, AnyStore, Opener, done, live, row
from bursar.stores.answers import Period
from bursar.stores.base import Filters
from bursar.stores.counters import DAYS, GRAINS, cost_bin
from bursar.types import Hold, Instant

opened, path, store, template = books.opened, books.path, books.store, books.template


QUARTER = 15 * MINUTE
times = st.integers(0, 100 * 40_320).map(lambda minute: NOON + minute * MINUTE) | st.integers(NOON, NOON + 3 * QUARTER)
"""Over eight years, and within an hour."""
_TENANTS = itertools.count()


class TestReports:
    @pytest.fixture
    def full(self, store: AnyStore) -> AnyStore:
        for number in range(12):
            live(
                store, f"r{number}", agent_id="ab"[number % 2], step=f"s{number % 3}", user_id=f"u{number % 4}",
                session_id=f"c{number % 4}", user_tier=("free", "pro")[number % 4 > 2], tier="small",
                tags=(("team", "xy"[number % 2]),),
                provider=("openai", "azure")[number % 2], tenant=("default", "other")[number == 11],
                started_at=NOON + number * 40 * MINUTE, outcome={"cost_nanos": 100 * (number + 1)},
            )  # fmt: skip
        return store

    @pytest.mark.parametrize(
        ("by", "label"),
        [("agent", "agent_id"), ("step", "step"), ("user", "user_id"), ("session", "session_id"), ("model", "model"),
         ("tier", "tier"), ("provider", "provider"), ("api", "api"), ("user_tier", "user_tier")],
    )  # fmt: skip
    def test_by_label(self, full: AnyStore, by: str, label: str) -> None:
        """Every label's sums are the sums over its rows."""
        naive: dict[str, int] = {}
        for entry in full.calls(limit=100).items:
            key = getattr(entry, label)
            naive[key] = naive.get(key, 0) + (entry.cost_nanos or 0)
        assert {line.key: line.counts.cost_nanos for line in full.spend(by)} == naive

    def test_within_a_label(self, full: AnyStore) -> None:
        """Steps within one agent, agents of one user, hours of one agent, one tag's values, one tenant."""
        steps = full.spend("step", filters=Filters(agent_id="a"))
        assert {line.key: line.counts.calls for line in steps} == {"s0": 2, "s1": 2, "s2": 2}
        assert [line.key for line in full.spend("agent", filters=Filters(user_id="u1"))] == ["b"]
        assert sum(line.counts.calls for line in full.spend("hour", filters=Filters(agent_id="b"))) == 6
        assert {line.key: line.counts.calls for line in full.spend("tag:team")} == {"x": 6, "y": 6}
        assert [line.counts.cost_nanos for line in full.spend("total", filters=Filters(tenant="other"))] == [1_200]
        assert [line.key for line in full.spend("agent", filters=Filters(agent_id="b"))] == ["b"]

    def test_unanswerable(self, full: AnyStore) -> None:
        """What no rollup answers is an error that names what can be asked."""
        with pytest.raises(ValueError, match="agent and step"):
            full.spend("session", filters=Filters(agent_id="a"))
        with pytest.raises(ValueError, match="ask by agent"):
            full.spend("colour")
        with pytest.raises(ValueError, match="no time zone"):
            full.spend("day", zone="Mars/Olympus")

    def test_period_and_zone(self, full: AnyStore) -> None:
        """since is inclusive and until exclusive, in whole quarters of an hour; days begin at local midnight."""
        later = full.spend("total", since=Instant(NOON + 40 * MINUTE), until=Instant(NOON + 80 * MINUTE))
        assert later[0].counts.cost_nanos == 200 + 300  # the bucket of 17:15 holds the call of 17:20
        utc = [(line.key, line.counts.calls) for line in full.spend("day")]
        assert utc == [("2025-11-24", 12)]
        berlin = [(line.key, line.counts.calls) for line in full.spend("day", zone="Europe/Berlin")]
        assert berlin == [("2025-11-24", 11), ("2025-11-25", 1)]
        of_session = full.spend("day", filters=Filters(session_id="c1"))
        assert [(line.key, line.counts.calls) for line in of_session] == [("2025-11-24", 3)]
        nepal = full.spend("hour", zone="Asia/Kathmandu")
        assert (nepal[0].key, sum(line.counts.calls for line in nepal)) == ("2025-11-24T21", 12)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.tuples(times, st.sampled_from("uvw"), st.sampled_from("ab")), min_size=1, max_size=12),
        st.lists(st.tuples(st.none() | times, st.none() | times), min_size=1, max_size=4),
        st.sampled_from(["UTC", "Asia/Kathmandu"]),
    )
    def test_any_period(
        self, opened: Opener, calls: list[tuple[int, str, str]], periods: list[tuple[int | None, int | None]], zone: str
    ) -> None:
        """Over years and over minutes, sums by label, day and run are those of the rows in the period's quarters."""
        store = opened.stores[0] if opened.stores else opened()
        tenant = f"{next(_TENANTS)}"
        for number, (at, user, agent) in enumerate(calls):
            live(store, f"{tenant}-{number}", tenant=tenant, user_id=user, user_tier=user, agent_id=agent,
                 session_id=f"{user}{number}", run_id=f"r{number}", started_at=Instant(at),
                 outcome={"cost_nanos": 2**number})  # fmt: skip
        for since, until in periods:
            start = -1 if since is None else since - since % QUARTER
            end = 2**60 if until is None else until + -until % QUARTER
            inside = [(at, user, agent, number) for number, (at, user, agent) in enumerate(calls) if start <= at < end]
            asked: Any = {"since": since, "until": until, "filters": Filters(tenant=tenant)}
            for by, name in (("user", 1), ("user_tier", 1), ("agent", 2)):
                due: dict[object, int] = {}
                for call in inside:
                    due[call[name]] = due.get(call[name], 0) + 2 ** call[3]
                assert {line.key: line.counts.cost_nanos for line in store.spend(by, **asked)} == due
            days: dict[str, int] = {}
            for at, _, _, number in inside:
                day = datetime.fromtimestamp(at / 1e6, ZoneInfo(zone)).strftime("%Y-%m-%d")
                days[day] = days.get(day, 0) + 2**number
            told = [(line.key, line.counts.cost_nanos) for line in store.spend("day", **asked, zone=zone)]
            assert told == sorted(days.items())
            found = store.metrics(asked["since"], asked["until"], tenant)
            assert (found.runs.runs, found.runs.cost_nanos) == (len(inside), sum(2 ** call[3] for call in inside))
            assert len(store.spend("session", **asked)) == len(inside)

    @pytest.mark.parametrize("grains", [GRAINS, DAYS, GRAINS[:1]])
    @given(since=st.none() | times, until=st.none() | times)
    def test_spans(self, grains: tuple[int, ...], since: int | None, until: int | None) -> None:
        """A period's spans tile it: whole buckets, no gap, no overlap, few."""
        period = Period(None if since is None else Instant(since), None if until is None else Instant(until), None)
        spans = period.spans(grains)
        assert len(spans) <= 2 * len(grains) - 1
        assert {grain for grain, _, _ in spans} <= set(grains)
        assert all(one[2] == other[1] for one, other in itertools.pairwise(spans))
        for grain, start, end in spans:
            assert start % grain == 0 or start == spans[0][1]
            assert end % grain == 0 or end == spans[-1][2]
        if since is not None and until is not None and since < until:
            assert spans[0][1] * 60_000_000 == since - since % QUARTER
            assert spans[-1][2] * 60_000_000 == until + -until % QUARTER

    def test_metrics(self, store: AnyStore) -> None:
        """Cost per run with quantiles, cost per user, hit rate, and where the calls went."""
        for number in range(100):
            live(
                store, f"r{number}", run_id=f"run{number}", agent_id="a", user_id=f"u{number % 10}",
                outcome={"cost_nanos": 1_000 if number < 90 else 50_000},
            )  # fmt: skip
        store.settle(Hold("h", 1), done(row("h"), status="hit", cost_nanos=0, input_tokens=0, cached_tokens=0)).result()
        found = store.metrics()
        assert (found.runs.runs, found.runs.mean_nanos) == (100, 5_900)
        assert (found.runs.p50_nanos, found.runs.p90_nanos, found.runs.p99_nanos) == (1_000, 1_000, 50_000)
        assert [cost.agent_id for cost in found.runs_by_agent] == ["a"]
        assert (found.users, found.cost_per_user_nanos, len(found.top_users)) == (10, 59_000, 10)
        assert (found.hit_rate, found.cached_input_share) == (1 / 101, 2_000 / 12_000)
        assert [(line.key, line.counts.attempts) for line in found.models] == [("gpt-4o", 100)]
        assert store.spend("agent")[0].runs == 100

    def test_nothing_known(self, store: AnyStore) -> None:
        """An empty ledger has no rates and no means, rather than zeros."""
        found = store.metrics()
        assert (found.hit_rate, found.cost_per_user_nanos, found.runs.mean_nanos, found.runs.p99_nanos) == (None,) * 4
        assert (store.spend("agent"), store.calls().items, store.runs().items) == ([], (), ())

    def test_bins_are_ordered(self) -> None:
        """The histogram's bin grows with the cost, twenty steps a decade; nothing and credits share bin 0."""
        bins = [cost_bin(nanos) for nanos in range(0, 100_000, 7)]
        assert bins == sorted(bins)
        assert cost_bin(10**9) - cost_bin(10**8) == 20
        assert (cost_bin(0), cost_bin(-5)) == (0, 0)


class TestRuns:
    def test_a_tree(self, store: AnyStore) -> None:
        """A root's tree cost is its own and its descendants', whoever is heard of first; the histogram holds roots."""
        live(store, "leaf", run_id="leaf", parent_run_id="mid", agent_id="worker")
        live(store, "mid", run_id="mid", parent_run_id="root", agent_id="worker")
        live(store, "root", run_id="root", agent_id="boss", started_at=NOON + MINUTE)
        root = store.run_total("root")
        assert root is not None
        assert (root.cost_nanos, root.tree_cost_nanos, root.tree_rows, root.agent_id) == (1_000, 3_000, 3, "boss")
        leaf = store.run_total("leaf")
        assert leaf is not None and (leaf.root_run_id, leaf.tree_cost_nanos) == ("root", 0)
        assert [entry.request_id for entry in store.run("root")] == ["leaf", "mid", "root"]
        assert [entry.request_id for entry in store.run("leaf", "default")] == ["leaf"]
        assert [(cost.agent_id, cost.runs, cost.p50_nanos) for cost in store.metrics().runs_by_agent] == [
            ("boss", 1, 3_000)
        ]
        assert store.verify() == []

    def test_a_circle_of_parents(self, store: AnyStore) -> None:
        """Runs that name each other as parents do not lose a nano-dollar or hang."""
        live(store, "1", run_id="a", parent_run_id="b")
        live(store, "2", run_id="b", parent_run_id="a")
        live(store, "3", run_id="c", parent_run_id="c")
        assert (store.metrics().runs.cost_nanos, store.verify()) == (3_000, [])

    def test_the_same_name_in_two_tenants(self, store: AnyStore) -> None:
        """A run's id belongs to its tenant."""
        live(store, "1", run_id="a")
        live(store, "2", run_id="a", tenant="other")
        assert len(store.run("a", "other")) == 1
        assert len(store.run("a")) == 2
        assert store.metrics(tenant="other").runs.runs == 1
        assert store.verify() == []

    def test_listing(self, store: AnyStore) -> None:
        """Runs are listed newest first, page by page, with what is open; a filter that they lack is an error."""
        for number in range(5):
            live(store, f"r{number}", run_id=f"run{number}", user_id=f"u{number % 2}", started_at=NOON + number)
        store.reserve(row("open", run_id="run4", started_at=NOON + 9)).result()
        seen, cursor = list[str](), None
        while True:
            page = store.runs(limit=2, cursor=cursor)
            seen += [run.run_id for run in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == ["run4", "run3", "run2", "run1", "run0"]
        assert [run.run_id for run in store.runs(Filters(user_id="u1")).items] == ["run3", "run1"]
        assert [run.open for run in store.runs(Filters(since=Instant(NOON + 3))).items] == [1, 0]
        newest = store.run_total("run4")
        assert newest is not None and newest.open == 1
        with pytest.raises(ValueError, match="cannot be filtered by model"):
            store.runs(Filters(model="gpt-4o"))
