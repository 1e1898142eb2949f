"""The contract of every store, held against memory and SQLite: rows, the dead, listings, ratios, keys, any order."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import books
from books import MINUTE, NOON, AnyStore, done, live, row, total
from bursar.stores import StoreFailure
from bursar.stores.base import Filters, Key
from bursar.stores.counters import Counters
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.stores.tables import Books
from bursar.types import Entry, Hold, Instant, Ratios, Terms

opened, path, store, template = books.opened, books.path, books.store, books.template


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
        closed = done(
            opening, terms=Terms(region="us"), validated=True, response=b"\x00\xff", service_tier="flex",
            verdict='{"ok":true}', decision='{"tier":"small"}',
        )  # fmt: skip
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

    def test_a_listing_holds_what_is_under_way(self, store: AnyStore) -> None:
        """By session and by user too, open rows stand among the closed ones in order of time, over all pages."""
        for number in range(12):
            labels: dict[str, Any] = {"started_at": NOON + number // 2, "user_id": "u", "session_id": "s"}
            if number % 3:
                live(store, f"r{number}", **labels)
            else:
                store.reserve(row(f"r{number}", **labels)).result()
        for filters in (Filters(user_id="u"), Filters(session_id="s"), Filters(session_id="s", user_id="u")):
            found, cursor = list[str](), None
            while not found or cursor is not None:
                page = store.calls(filters, 5, cursor)
                found += [entry.request_id for entry in page.items]
                cursor = page.next_cursor
            assert found == [f"r{number}" for number in reversed(range(12))]
        for status, count in (("open", 4), ("completed", 8), ("failed", 0)):
            assert len(store.calls(Filters(user_id="u", status=status)).items) == count
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
        closed = done(entry, validated=None, verdict=None, **said)
        self.stores[which].settle(Hold(*key), closed)
        if entry.status == "expired" or (entry.status == "open" and owner == which):
            marks = {"validated": entry.validated, "verdict": entry.verdict}
            self.rows[key] = (msgspec.structs.replace(closed, **marks), None)
        self.stores[which].flush()

    @rule(which=st.integers(0, 1), pick=st.integers(0, 200), word=st.none() | st.booleans())
    def judge(self, which: int, pick: int, word: bool | None) -> None:
        """Any row by any store, once and again; one that is open stays as it is."""
        if not self.rows:
            return
        key = list(self.rows)[pick % len(self.rows)]
        entry, _ = self.rows[key]
        self.stores[which].judged(entry, word, f"{word}")
        if entry.status != "open":
            self.rows[key] = (msgspec.structs.replace(entry, validated=word, verdict=f"{word}"), None)
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
            assert found.passed == sum(entry.validated is True for entry in closed)
            assert found.rejected == sum(entry.validated is False for entry in closed)
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
    """Whatever the order of reserves, settlements, marks, deaths, sweeps: the same totals, the audit finds nothing."""
    machine: Any = type(f"{kind}_books", (Interleaving,), {"kind": kind, "template": template})
    machine.TestCase.settings = settings(
        max_examples=60 if kind == "memory" else 12, stateful_step_count=20, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    machine.TestCase().runTest()
