"""The contract of every store, held against memory and SQLite; then what only a file on a disk can get wrong."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bursar.stores import StoreFailure, open_store
from bursar.stores.base import Filters, Key
from bursar.stores.counters import FIELDS, Counters, cost_bin
from bursar.stores.memory import Books, MemoryStore
from bursar.stores.migrate import HEAD, config
from bursar.stores.owners import Turn
from bursar.stores.sql import CALL_COLUMNS
from bursar.stores.sqlite import SqliteStore, connect
from bursar.types import Entry, Hold, Instant, Ratios, Terms

AnyStore = MemoryStore | SqliteStore
NOON = Instant(1_764_000_000_000_000)
"""2025-11-24T16:00:00Z"""
MINUTE = 60_000_000


def row(request_id: str, attempt: int = 1, **changes: Any) -> Entry:
    """An open row."""
    given: dict[str, Any] = {
        "request_id": request_id, "attempt": attempt, "run_id": None, "parent_run_id": None, "session_id": None,
        "user_id": None, "user_tier": None, "agent_id": None, "step": None, "tenant": "default", "tags": (),
        "key_id": None, "started_at": NOON, "api": "chat", "provider": "openai", "requested_model": "gpt-4o",
        "model": "gpt-4o", "tier": None, "route_reason": "caller", "stream": False, "hold_nanos": 5_000,
        "input_estimate": 100, "blocks": b"\x01\x02",
    }  # fmt: skip
    return Entry(**{**given, **changes})


def done(opening: Entry, **changes: Any) -> Entry:
    """The same row, completed."""
    given: dict[str, Any] = {
        "status": "completed", "http_status": 200, "duration_ms": 900, "first_byte_ms": 100, "input_tokens": 120,
        "output_tokens": 30, "cached_tokens": 20, "usage": '{"prompt_tokens":120}', "cost_nanos": 1_000,
        "cost_status": "final", "price_id": "card", "output_estimate": 15,
    }  # fmt: skip
    return msgspec.structs.replace(opening, **{**given, **changes})


def live(
    store: AnyStore, request: str, attempt: int = 1, outcome: dict[str, Any] | None = None, **labels: Any
) -> Entry:
    """Reserve and settle."""
    opening = row(request, attempt, **labels)
    hold = store.reserve(opening).result(10)
    assert isinstance(hold, Hold)
    closed = done(opening, **(outcome or {}))
    store.settle(hold, closed).result(10)
    return closed


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger, migrated once."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    SqliteStore(path).close()
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A fresh, empty ledger."""
    return Path(shutil.copy(template, tmp_path / "ledger.db"))


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, path: Path) -> Iterator[Callable[[], AnyStore]]:
    """Opens stores, as many processes would, on the same books."""
    books, stores = Books(), list[AnyStore]()

    def another() -> AnyStore:
        stores.append(MemoryStore(books) if request.param == "memory" else SqliteStore(path))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[], AnyStore]) -> AnyStore:
    return opened()


def total(store: AnyStore) -> Counters:
    lines = store.spend("total")
    return lines[0].counts if lines else Counters()


class TestRows:
    def test_open_then_closed(self, store: AnyStore) -> None:
        """A reserved row is in the ledger as open, whole; settled, it is what the settlement says, and every bit of
        it comes back."""
        opening = row(
            "r", run_id="run", session_id="s", user_id="u", user_tier="free", agent_id="a", step="st",
            tags=(("team", "x"), ("env", "prod")), key_id="k", stream=True, terms=Terms(batch=True), request=b"{}",
        )  # fmt: skip
        hold = store.reserve(opening).result()
        assert hold == Hold("r", 1)
        assert store.call("r") == [opening]
        assert total(store) == Counters()
        closed = done(opening, terms=Terms(region="us"), validated=True, response=b"\x00\xff", service_tier="flex")
        store.settle(hold, closed).result()
        assert store.call("r") == [closed]
        assert store.verify() == []

    def test_counts(self, store: AnyStore) -> None:
        """What is known is summed; what is not is counted as not known."""
        live(store, "a")
        live(store, "a", 2, {"status": "failed", "cost_nanos": None, "cost_status": "unpriced", "output_tokens": None})
        live(store, "b", outcome={"cost_status": "estimated", "status": "abandoned", "reasoning_tokens": 7})
        store.settle(Hold("h", 1), done(row("h"), status="hit", cost_nanos=0, saved_nanos=900)).result()
        assert total(store) == Counters(
            calls=3, attempts=3, completed=1, failed=1, abandoned=1, hits=1, input_tokens=480, cached_tokens=80,
            output_tokens=90, reasoning_tokens=7, cost_nanos=2_000, saved_nanos=900, unpriced=1, estimated=1,
            unknown_usage=1,
        )  # fmt: skip
        assert store.verify() == []

    def test_settled_once(self, store: AnyStore) -> None:
        """A second settlement of the same row changes nothing and is counted."""
        closed = live(store, "r")
        before = total(store)
        store.settle(Hold("r", 1), msgspec.structs.replace(closed, cost_nanos=9_999)).result()
        assert (total(store), store.call("r"), store.ignored) == (before, [closed], 1)
        assert store.verify() == []

    def test_settled_behind_a_reserve_under_way(self, store: AnyStore) -> None:
        """A settlement may be handed in before its reserve has been answered."""
        opening = row("r", run_id="run")
        store.reserve(opening)
        store.settle(Hold("r", 1), done(opening))
        assert [entry.status for entry in store.call("r")] == ["completed"]
        assert store.verify() == []

    def test_an_id_pays_once(self, store: AnyStore) -> None:
        """The same request and attempt cannot be reserved again, open or closed."""
        live(store, "r")
        for _ in range(2):
            with pytest.raises(StoreFailure, match="in the ledger already"):
                store.reserve(row("r")).result()
        store.reserve(row("s")).result()
        with pytest.raises(StoreFailure, match="in the ledger already"):
            store.reserve(row("s")).result()
        assert total(store).attempts == 1

    def test_no_row_no_settlement(self, store: AnyStore) -> None:
        """A settlement whose reserve was refused falls; a hit and a refusal need no reserve."""
        store.settle(Hold("x", 1), done(row("x"))).result()
        assert (store.call("x"), store.ignored) == ([], 1)
        store.settle(Hold("y", 1), done(row("y"), status="refused", cost_nanos=0)).result()
        store.settle(Hold("y", 1), done(row("y"), status="refused", cost_nanos=0)).result()
        assert (total(store).refused, store.ignored) == (1, 2)
        assert store.verify() == []

    def test_booked_as_opened(self, store: AnyStore) -> None:
        """A settlement cannot move a row to another user, run or window."""
        hold = store.reserve(row("r", user_id="u", run_id="a")).result()
        assert isinstance(hold, Hold)
        store.settle(hold, done(row("r", user_id="thief", run_id="b", started_at=NOON + 60 * MINUTE))).result()
        (entry,) = store.call("r")
        assert (entry.user_id, entry.run_id, entry.started_at) == ("u", "a", NOON)
        assert store.verify() == []

    def test_closed_store_says_so(self, store: AnyStore) -> None:
        """After close every write fails with its cure."""
        store.close()
        with pytest.raises(StoreFailure, match="open another"):
            store.reserve(row("r")).result(10)
        with pytest.raises(StoreFailure, match="open another"):
            store.settle(Hold("r", 1), done(row("r"))).result(10)

    def test_async(self, store: AnyStore) -> None:
        """reserve_async is awaited on the loop: each answer or failure reaches its own waiter, a cancelled one none."""

        async def lives() -> list[Any]:
            waits = [store.reserve_async(row(f"r{number % 20}")) for number in range(21)]
            gone = asyncio.ensure_future(_awaited(store.reserve_async(row("gone"))))
            gone.cancel()
            return await asyncio.gather(*waits, return_exceptions=True)

        answers = asyncio.run(lives())
        assert answers[:20] == [Hold(f"r{number}", 1) for number in range(20)]
        assert isinstance(answers[20], StoreFailure)


async def _awaited(thing: Any) -> Any:
    return await thing


class TestTheDead:
    def test_expired_at_the_hold(self, opened: Callable[[], AnyStore]) -> None:
        """Rows that a store leaves open are booked at their hold by the next; without a hold the cost is unknown."""
        first = opened()
        first.reserve(row("priced", run_id="run")).result()
        first.reserve(row("unknown", run_id="run", hold_nanos=None)).result()
        first.close()
        second = opened()
        (priced,), (unknown,) = second.call("priced"), second.call("unknown")
        assert (priced.status, priced.cost_nanos, priced.cost_status) == ("expired", 5_000, "estimated")
        assert (unknown.status, unknown.cost_nanos, unknown.cost_status) == ("expired", None, "unpriced")
        assert (priced.input_tokens, total(second).expired, total(second).cost_nanos) == (None, 2, 5_000)
        assert second.verify() == []

    def test_the_living_are_left_alone(self, opened: Callable[[], AnyStore]) -> None:
        """Neither a new store nor a sweep closes another's open rows while it lives, nor settles them for it."""
        first, second = opened(), opened()
        opening = row("r")
        hold = first.reserve(opening).result()
        assert isinstance(hold, Hold)
        assert second.sweep() == 0
        second.settle(hold, done(opening, cost_nanos=1)).result()
        assert [entry.status for entry in second.call("r")] == ["open"]
        first.settle(hold, done(opening)).result()
        assert (total(second).cost_nanos, second.verify()) == (1_000, [])

    def test_a_late_outcome_corrects_once(self, opened: Callable[[], AnyStore]) -> None:
        """The real outcome of an expired row replaces its hold in every sum, and only the first one does."""
        first = opened()
        opening = row("r", run_id="run", agent_id="a")
        first.reserve(opening).result()
        first.close()
        second = opened()
        assert total(second).cost_nanos == 5_000
        late = done(opening, model="gpt-4o-2024-08-06", cost_nanos=700)
        for cost in (700, 800):
            second.settle(Hold("r", 1), msgspec.structs.replace(late, cost_nanos=cost)).result()
        assert second.call("r") == [late]
        assert (total(second).cost_nanos, total(second).expired, second.ignored) == (700, 0, 1)
        assert [line.key for line in second.spend("model")] == ["gpt-4o-2024-08-06"]
        run = second.run_total("run")
        assert run is not None and (run.cost_nanos, run.tree_cost_nanos, run.rows) == (700, 700, 1)
        assert second.metrics().runs.p50_nanos == 700
        assert second.verify() == []


class TestReports:
    @pytest.fixture
    def full(self, store: AnyStore) -> AnyStore:
        for number in range(12):
            live(
                store, f"r{number}", agent_id="ab"[number % 2], step=f"s{number % 3}", user_id=f"u{number % 4}",
                session_id=f"c{number % 4}", tier="small", tags=(("team", "xy"[number % 2]),),
                provider=("openai", "azure")[number % 2], tenant=("default", "other")[number == 11],
                started_at=NOON + number * 40 * MINUTE, outcome={"cost_nanos": 100 * (number + 1)},
            )  # fmt: skip
        return store

    @pytest.mark.parametrize(
        ("by", "label"),
        [("agent", "agent_id"), ("step", "step"), ("user", "user_id"), ("session", "session_id"), ("model", "model"),
         ("tier", "tier"), ("provider", "provider"), ("api", "api")],
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
        nepal = full.spend("hour", zone="Asia/Kathmandu")
        assert (nepal[0].key, sum(line.counts.calls for line in nepal)) == ("2025-11-24T21", 12)

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


class TestListing:
    def test_pages(self, store: AnyStore) -> None:
        """Calls come newest first; pages do not overlap or skip, equal times included; a foreign cursor is an error."""
        for number in range(7):
            live(store, f"r{number}", started_at=NOON + number // 3, user_id="u" if number % 2 else None)
        seen, cursor = list[str](), None
        while True:
            page = store.calls(limit=3, cursor=cursor)
            seen += [entry.request_id for entry in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [f"r{number}" for number in reversed(range(7))]
        assert len(store.calls(Filters(user_id="u", status="completed", until=Instant(NOON + 2))).items) == 3
        with pytest.raises(ValueError, match="no cursor"):
            store.calls(cursor="yesterday")

    def test_attempts_of_a_request(self, store: AnyStore) -> None:
        """Every attempt of a request, in order; only the first counts as a call."""
        for attempt in (1, 2, 3):
            live(store, "r", attempt)
        assert [entry.attempt for entry in store.call("r")] == [1, 2, 3]
        assert (total(store).calls, total(store).attempts) == (1, 3)


class TestRatios:
    def test_learned_by_the_model_sent(self, store: AnyStore) -> None:
        """Reported tokens per estimated one, under the name that was sent; 1.0 where nothing is known."""
        assert store.ratios("openai", "gpt-4o") == Ratios()
        live(store, "r", outcome={"model": "gpt-4o-2024-08-06", "input_tokens": 150, "output_tokens": 30})
        assert store.ratios("openai", "gpt-4o") == Ratios(input=1.5, output=2.0)
        assert store.ratios("openai", "gpt-4o-2024-08-06") == Ratios()

    def test_guesses_teach_nothing(self, store: AnyStore) -> None:
        """An estimated, a cut or an unreported answer leaves the ratios alone."""
        live(store, "a", outcome={"cost_status": "estimated"})
        live(store, "b", outcome={"status": "abandoned"})
        live(store, "c", outcome={"usage": None})
        assert store.ratios("openai", "gpt-4o") == Ratios()

    def test_recent_answers_weigh_more(self, store: AnyStore) -> None:
        """The ratios follow a change of the provider's tokenizer."""
        for number in range(300):
            live(store, f"a{number}", outcome={"input_tokens": 100})
        for number in range(300):
            live(store, f"b{number}", outcome={"input_tokens": 200})
        assert 1.7 < store.ratios("openai", "gpt-4o").input < 2.0


class TestKeys:
    def test_life_of_a_key(self, store: AnyStore) -> None:
        """A key is found by its hash until it is revoked; its id and its secret are taken once."""
        key = Key(key_id="k1", name="app", tenant="t", role="data", hash=b"\x01", created_at=NOON,
                  trusted_claims=frozenset(("user", "run")))  # fmt: skip
        store.create_key(key)
        assert (store.find_key(b"\x01"), store.find_key(b"\x02")) == (key, None)
        with pytest.raises(StoreFailure, match="cannot be written"):
            store.create_key(msgspec.structs.replace(key, key_id="k2"))
        with pytest.raises(StoreFailure, match="cannot be written"):
            store.create_key(msgspec.structs.replace(key, hash=b"\x02"))
        assert (store.revoke_key("k1", Instant(NOON + 1)), store.revoke_key("k1", NOON)) == (True, False)
        assert store.revoke_key("nobody", NOON) is False
        assert store.find_key(b"\x01") is None
        assert store.list_keys() == [msgspec.structs.replace(key, revoked_at=Instant(NOON + 1))]


labels = st.fixed_dictionaries({
    "run_id": st.sampled_from([None, "A", "B", "C", "D"]), "parent_run_id": st.sampled_from([None, "A", "B", "C"]),
    "agent_id": st.sampled_from([None, "x", "y"]), "user_id": st.sampled_from([None, "", "u"]),
    "tenant": st.sampled_from(["default", "other"]), "hold_nanos": st.sampled_from([None, 0, 5_000]),
    "tags": st.sampled_from([(), (("k", "1"), ("k", "2"))]),
    "started_at": st.integers(0, 3).map(lambda step: NOON + step * 10 * MINUTE),
})  # fmt: skip
outcomes = st.fixed_dictionaries({
    "status": st.sampled_from(["completed", "failed", "abandoned"]),
    "cost_nanos": st.sampled_from([0, 1, 99, 10_000]), "model": st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06"]),
    "input_tokens": st.sampled_from([None, 0, 120]),
})  # fmt: skip


class Interleaving(RuleBasedStateMachine):
    """Two processes on one ledger, dying and coming back, against a model that keeps every row in a dictionary."""

    kind = "memory"
    template: Path

    @initialize()
    def begin(self) -> None:
        self.books, self.folder = Books(), Path(tempfile.mkdtemp())
        if self.kind == "sqlite":
            shutil.copy(self.template, self.folder / "ledger.db")
        self.stores = [self.fresh(), self.fresh()]
        self.rows: dict[tuple[str, int], tuple[Entry, int | None]] = {}

    def fresh(self) -> AnyStore:
        return MemoryStore(self.books) if self.kind == "memory" else SqliteStore(self.folder / "ledger.db")

    @rule(which=st.integers(0, 1), said=labels)
    def reserve(self, which: int, said: dict[str, Any]) -> None:
        opening = row(f"r{len(self.rows)}", **said)
        self.stores[which].reserve(opening)
        self.rows[opening.request_id, 1] = (opening, which)

    @rule(which=st.integers(0, 1), pick=st.integers(0, 200), said=outcomes)
    def settle(self, which: int, pick: int, said: dict[str, Any]) -> None:
        """Any row by any store: open or closed already, its own or another's."""
        if not self.rows:
            return
        key = list(self.rows)[pick % len(self.rows)]
        entry, owner = self.rows[key]
        closed = done(entry, **said)
        self.stores[which].settle(Hold(*key), closed)
        if entry.status == "expired" or (entry.status == "open" and owner == which):
            self.rows[key] = (closed, None)
        self.stores[which].flush()

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self.fresh()
        for key, (entry, owner) in self.rows.items():
            if entry.status == "open" and owner == which:
                status = "unpriced" if entry.hold_nanos is None else "estimated"
                changes = {"status": "expired", "cost_nanos": entry.hold_nanos, "cost_status": status}
                self.rows[key] = (msgspec.structs.replace(entry, **changes), None)

    @rule(which=st.integers(0, 1))
    def sweep(self, which: int) -> None:
        assert self.stores[which].sweep() == 0

    @invariant()
    def sums_hold(self) -> None:
        if not hasattr(self, "stores"):
            return
        for store in self.stores:
            store.flush()
        closed = [entry for entry, _ in self.rows.values() if entry.status != "open"]
        for store in self.stores:
            found = total(store)
            assert found.cost_nanos == sum(entry.cost_nanos or 0 for entry in closed)
            assert found.attempts == len(closed)
            assert found.expired == sum(entry.status == "expired" for entry in closed)
            assert found.unpriced == sum(entry.cost_nanos is None for entry in closed)
            with_run = [entry for entry in closed if entry.run_id is not None]
            assert store.metrics().runs.cost_nanos == sum(entry.cost_nanos or 0 for entry in with_run)
        assert self.stores[0].verify() == []

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_any_interleaving_keeps_the_sums(kind: str, template: Path) -> None:
    """Whatever the order of reserves, settlements, deaths and sweeps: the same totals, and the audit finds nothing."""
    machine: Any = type(f"{kind}_books", (Interleaving,), {"kind": kind, "template": template})
    machine.TestCase.settings = settings(
        max_examples=60 if kind == "memory" else 12, stateful_step_count=20, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    machine.TestCase().runTest()


class TestTheAudit:
    @pytest.mark.parametrize(
        ("damage", "what"),
        [
            ("UPDATE rollups SET cost_nanos = cost_nanos + 1 WHERE dim = 'agent|step'", "rollup"),
            ("DELETE FROM rollups WHERE dim = 'tier|api'", "rollup"),
            ("UPDATE runs SET tree_cost_nanos = tree_cost_nanos - 1", "tree of run"),
            ("UPDATE runs SET rows = rows + 1", "run run"),
            ("DELETE FROM runs", "run run"),
            ("UPDATE run_histogram SET runs = runs + 1", "histogram"),
            ("UPDATE calls SET cost_nanos = cost_nanos + 1", "rollup"),
            ("UPDATE calls SET cost_status = 'unpriced'", "call r"),
            ("UPDATE calls SET duration_ms = NULL", "call r"),
            ("UPDATE calls SET status = 'open', owner = 'nobody'", "call r"),
            ("DELETE FROM calls", "run run"),
        ],
    )
    def test_finds_what_was_changed(self, path: Path, damage: str, what: str) -> None:
        """Whatever is altered behind Bursar's back is found and named."""
        store = SqliteStore(path)
        live(store, "r", run_id="run", agent_id="a")
        assert store.verify() == []
        with sqlite3.connect(path) as stranger:
            stranger.execute(damage)
        stranger.close()
        assert any(finding.what.startswith(what) for finding in store.verify())
        store.close()


class Disk:
    """A disk that can be told to fail."""

    def __init__(self) -> None:
        self.full = False

    def connect(self, path: Path) -> sqlite3.Connection:
        disk = self

        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if disk.full and sql.startswith("BEGIN IMMEDIATE"):
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *values)

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)


class TestTheDisk:
    def test_full_then_free(self, path: Path) -> None:
        """With the disk full a reserve fails, a settlement is journalled; freed, the settlement is booked, once."""
        disk = Disk()
        store = SqliteStore(path, disk.connect)
        opening = row("r", run_id="run")
        hold = store.reserve(opening).result()
        assert isinstance(hold, Hold)
        disk.full = True
        store.settle(hold, done(opening)).result()
        with pytest.raises(StoreFailure, match=r"disk is full.*free the disk"):
            store.reserve(row("s")).result()
        assert [entry.status for entry in store.call("r")] == ["open"]
        disk.full = False
        store.settle(hold, done(opening)).result()
        assert (total(store).cost_nanos, store.ignored, store.call("s")) == (1_000, 1, [])
        assert store.verify() == []
        store.close()

    def test_journal_outlives_the_process(self, path: Path) -> None:
        """A settlement that was still in the journal when its process ended is booked by the next, not its hold."""
        disk = Disk()
        store = SqliteStore(path, disk.connect)
        opening = row("r")
        hold = store.reserve(opening).result()
        assert isinstance(hold, Hold)
        disk.full = True
        store.settle(hold, done(opening)).result()
        store.close()
        (journal,) = (path.parent / "ledger.db.owners").iterdir()
        assert journal.stat().st_size > 0
        after = SqliteStore(path)
        assert (total(after).cost_nanos, total(after).expired) == (1_000, 0)
        assert (after.verify(), journal.exists()) == ([], False)
        after.close()

    def test_poison_fails_alone(self, path: Path) -> None:
        """A row that cannot be written fails by itself: those that were committed with it stand."""
        store = SqliteStore(path)
        receipts = [store.reserve(row(f"r{number}" if number != 3 else "\ud800")) for number in range(6)]
        with pytest.raises(StoreFailure, match="surrogate"):
            receipts.pop(3).result()
        assert [receipt.result() for receipt in receipts] == [Hold(f"r{number}", 1) for number in (0, 1, 2, 4, 5)]
        assert len(store.calls().items) == 5
        store.close()

    def test_not_a_ledger(self, tmp_path: Path) -> None:
        """A file that is no database, and a database of a later Bursar, are refused by name."""
        (tmp_path / "noise.db").write_bytes(b"x" * 5000)
        with pytest.raises(StoreFailure, match="cannot be opened"):
            SqliteStore(tmp_path / "noise.db")
        with sqlite3.connect(tmp_path / "later.db") as later:
            later.execute("CREATE TABLE alembic_version (version_num TEXT)")
            later.execute("INSERT INTO alembic_version VALUES ('9999')")
        later.close()
        with pytest.raises(StoreFailure, match="upgrade bursar"):
            SqliteStore(tmp_path / "later.db")

    def test_urls(self, tmp_path: Path) -> None:
        """A store is picked by its URL; an unknown one says what to give."""
        for url, kind in ((f"sqlite:///{tmp_path / 'new' / 'x.db'}", SqliteStore), ("memory://", MemoryStore)):
            store = open_store(url)
            assert isinstance(store, kind)
            store.close()
        with pytest.raises(StoreFailure, match="give sqlite:///"):
            open_store("mysql://x")


class TestTheSchema:
    def test_head(self) -> None:
        """The revision that the quick check compares with is Alembic's head, and the tables have every column."""
        from alembic.script import ScriptDirectory

        assert ScriptDirectory.from_config(config()).get_current_head() == HEAD

    def test_columns(self, path: Path) -> None:
        """The tables have exactly the columns that rows are written to; counters too."""
        with sqlite3.connect(path) as db:
            assert {name for _, name, *_ in db.execute("PRAGMA table_info(calls)")} == {"id", *CALL_COLUMNS}
            assert {name for _, name, *_ in db.execute("PRAGMA table_info(rollups)")} >= set(FIELDS)
        db.close()

    def test_reports_scan_nothing(self, path: Path) -> None:
        """Listings and reports go through an index."""
        with sqlite3.connect(path) as db:
            for query in (
                "SELECT * FROM calls WHERE run_id = 'x' ORDER BY started_at DESC, id DESC LIMIT 9",
                "SELECT * FROM calls WHERE user_id = 'x' ORDER BY started_at DESC, id DESC LIMIT 9",
                "SELECT * FROM calls WHERE session_id = 'x' ORDER BY started_at DESC, id DESC LIMIT 9",
                "SELECT * FROM calls ORDER BY started_at DESC, id DESC LIMIT 9",
                "SELECT * FROM calls WHERE request_id = 'x'",
                "SELECT DISTINCT owner FROM calls WHERE status = 'open'",
                "SELECT SUM(calls) FROM rollups WHERE dim = 'x' AND bucket_start >= 5 GROUP BY first_key",
                "SELECT * FROM runs WHERE tenant = 'x' AND root_run_id = 'y' AND parent_run_id IS NOT NULL",
            ):
                plan = [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {query}")]
                assert not any(step.startswith("SCAN") and "INDEX" not in step for step in plan), (query, plan)
                assert "LIMIT" not in query or not any("TEMP B-TREE" in step for step in plan), (query, plan)
        db.close()

    def test_opening_again_needs_no_alembic(self, path: Path) -> None:
        """Opening a ledger that is up to date imports neither Alembic nor SQLAlchemy."""
        code = (
            "import sys; from bursar.stores.sqlite import SqliteStore; SqliteStore(sys.argv[1]).close();"
            "sys.exit(int(any(name in sys.modules for name in ('alembic', 'sqlalchemy'))))"
        )
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0

    def test_two_processes_open_a_new_file(self, tmp_path: Path) -> None:
        """Both succeed; one of them migrates."""
        code = "import sys; from bursar.stores.sqlite import SqliteStore; SqliteStore(sys.argv[1]).close()"
        runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new.db")]) for _ in range(3)]
        assert [run.wait(60) for run in runs] == [0, 0, 0]
        store = SqliteStore(tmp_path / "new.db")
        live(store, "r")
        assert store.verify() == []
        store.close()


WORKER = """
import sys, zlib
sys.path.insert(0, sys.argv[1])
from test_stores import SqliteStore, Hold, done, row
store, me, pairs = SqliteStore(sys.argv[2]), sys.argv[3], int(sys.argv[4])
for start in range(0, pairs, 20):
    numbers = range(start, start + 20)
    entries = [row(f"{me}-{n}", run_id=f"run{n % 7}", parent_run_id="root", agent_id=me) for n in numbers]
    for entry, receipt in [(entry, store.reserve(entry)) for entry in entries]:
        store.settle(receipt.result(), done(entry))
store.flush()
print("settled", flush=True)
store.reserve(row(f"{me}-open", agent_id=me)).result()
print("open", flush=True)
sys.stdin.read()
store.close()
"""


def worker(path: Path, name: str, pairs: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(path), name, str(pairs)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class TestProcesses:
    def test_four_writers(self, path: Path) -> None:
        """Four processes write at once: every pair is booked exactly once, under shared runs too."""
        workers = [worker(path, f"w{number}", 100) for number in range(4)]
        for each in workers:
            each.communicate(timeout=60)
            assert each.returncode == 0
        store = SqliteStore(path)
        assert {line.key: line.counts.completed for line in store.spend("agent")} == {f"w{n}": 100 for n in range(4)}
        assert (total(store).cost_nanos, total(store).expired) == (400 * 1_000 + 4 * 5_000, 4)
        root = store.run_total("root")
        assert root is not None and root.tree_cost_nanos == 400 * 1_000
        assert store.verify() == []
        store.close()

    def test_kill_9(self, path: Path) -> None:
        """A killed process loses no committed row; what it had open is expired at its hold at the next opening."""
        victim = worker(path, "v", 40)
        assert victim.stdout is not None
        assert [victim.stdout.readline().strip() for _ in range(2)] == ["settled", "open"]
        watcher = SqliteStore(path)
        assert (watcher.sweep(), total(watcher).expired) == (0, 0)
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=10)
        store = SqliteStore(path)
        assert (total(store).completed, total(store).expired) == (40, 1)
        assert [entry.cost_nanos for entry in store.call("v-open")] == [5_000]
        assert (store.verify(), watcher.sweep()) == ([], 0)
        watcher.close()
        store.close()

    def test_fork(self, path: Path) -> None:
        """A forked child writes as an owner of its own; the parent goes on, and its open rows stay its own."""
        store = SqliteStore(path)
        opening = row("parent", agent_id="parent")
        hold = store.reserve(opening).result()
        assert isinstance(hold, Hold)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                live(store, "child", agent_id="child")
                store.settle(hold, done(opening, cost_nanos=7)).result(10)
                code = 0 if (store.ignored, total(store).completed) == (1, 1) else 2
                store.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.settle(hold, done(opening)).result()
        assert {line.key for line in store.spend("agent")} == {"parent", "child"}
        assert (total(store).cost_nanos, store.verify()) == (2_000, [])
        store.close()

    def test_a_fork_does_not_keep_the_dead_alive(self, path: Path) -> None:
        """A child that outlives its parent does not hold the parent's rows open."""
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[1]); from test_stores import SqliteStore, row\n"
            "store = SqliteStore(sys.argv[2]); store.reserve(row('r')).result()\n"
            "if os.fork() == 0:\n    sys.stdin.read(); os._exit(0)\n"
            "os._exit(0)"
        )
        arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(path)]
        parent = subprocess.Popen(arguments, stdin=subprocess.PIPE)
        assert parent.wait(30) == 0
        store = SqliteStore(path)
        assert [entry.status for entry in store.call("r")] == ["expired"]
        store.close()
        assert parent.stdin is not None
        parent.stdin.close()

    def test_dropped_without_close(self, path: Path) -> None:
        """A process that ends without closing its store still books what it had settled."""
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); from test_stores import *\n"
            "store = SqliteStore(sys.argv[2])\n"
            "for n in range(50):\n    store.reserve(row(f'r{n}')); store.settle(Hold(f'r{n}', 1), done(row(f'r{n}')))\n"
        )
        subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(path)], check=True)
        store = SqliteStore(path)
        assert (total(store).completed, total(store).expired) == (50, 0)
        store.close()


class TestThreads:
    def test_many_callers(self, path: Path) -> None:
        """Threads share one store: each gets its own answer and nothing is lost."""
        store = SqliteStore(path)

        def work(name: str) -> None:
            for number in range(50):
                live(store, f"{name}-{number}", agent_id=name)

        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (total(store).completed, store.verify()) == (400, [])
        store.close()

    def test_one_hop_a_batch(self, path: Path) -> None:
        """However many answers a batch holds, each event loop is called into once for it."""
        store = SqliteStore(path)
        hops = list[Any]()
        heard = threading.Event()
        answers = list[Any]()

        def post(function: Callable[..., Any], *arguments: Any) -> None:
            hops.append(function)
            function(*arguments)

        def hear(receipt: Any) -> None:
            answers.append(receipt.result())
            if len(answers) == 100:
                heard.set()

        turn = Turn(path)
        with turn.taken():  # somebody else's: the writer has to wait, and the jobs gather
            for number in range(100):
                store.reserve(row(f"r{number}")).add_done_callback(hear, post)
        assert heard.wait(10)
        turn.close()
        store.close()
        assert len(hops) <= 2
        assert {answer.request_id for answer in answers} == {f"r{number}" for number in range(100)}


def test_connection_settings(path: Path) -> None:
    """The ledger runs on a write-ahead log, synced at checkpoints."""
    db = connect(path)
    assert (db.execute("PRAGMA journal_mode").fetchone(), db.execute("PRAGMA synchronous").fetchone()) == (
        ("wal",),
        (1,),
    )
    db.close()
