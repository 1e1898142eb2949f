"""What validators said of a row, on every store: marked once it has closed, counted, kept; for SQLite the upgrade."""

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import books
from books import MINUTE, NOON, AnyStore, Opener, aged, done, live, row, total
from bursar.stores import StoreFailure
from bursar.stores.base import Filters
from bursar.stores.owners import Turn
from bursar.stores.sqlite import SqliteStore
from bursar.types import Hold, Instant

opened, path, store, template = books.opened, books.path, books.store, books.template

WORDS = st.none() | st.booleans()


def said(store: AnyStore, request: str = "r", attempt: int = 1) -> tuple[bool | None, str | None]:
    """What the row says of its answer."""
    (found,) = (entry for entry in store.call(request) if entry.attempt == attempt)
    return found.validated, found.verdict


def counted(store: AnyStore, by: str = "total", **filters: Any) -> dict[str | None, tuple[int, int]]:
    """Passed and rejected, by label."""
    lines = store.spend(by, filters=Filters(**filters))
    return {line.key: (line.counts.passed, line.counts.rejected) for line in lines}


class TestMarks:
    @pytest.mark.parametrize(("word", "sums"), [(True, (1, 0)), (False, (0, 1)), (None, (0, 0))])
    def test_marked_behind_the_settlement(self, store: AnyStore, word: bool | None, sums: tuple[int, int]) -> None:
        """Handed in right behind it and waited for by nobody: the row says it and every label's sum counts it."""
        opening = row("r", agent_id="a", step="s", tier="small", user_id="u", session_id="c", tags=(("k", "v"),))
        hold = store.reserve(opening).result(10)
        assert isinstance(hold, Hold)
        closed = done(opening)
        store.settle(hold, closed)
        store.judged(closed, word, '{"ok":1}')
        assert said(store) == (word, '{"ok":1}')
        for by, key in (("step", "s"), ("tier", "small"), ("user", "u"), ("session", "c"), ("tag:k", "v"),
                        ("day", "2025-11-24"), ("total", None)):  # fmt: skip
            assert counted(store, by) == {key: sums}
        assert (total(store).calls, total(store).cost_nanos, store.verify()) == (1, 1_000, [])

    def test_the_last_word_counts(self, store: AnyStore) -> None:
        """Marking again moves the sums by the difference."""
        entry = live(store, "r", step="s", tier="small")
        seen = []
        for word in (False, False, True, None, True):
            store.judged(entry, word, f"{word}").result(10)
            seen.append(counted(store)[None])
            assert said(store) == (word, f"{word}")
        assert seen == [(0, 1), (0, 1), (1, 0), (0, 0), (1, 0)]
        assert store.verify() == []

    def test_of_one_attempt(self, store: AnyStore) -> None:
        """Attempts of one request are judged each for itself, and counted by step and tier together."""
        for attempt, (tier, word) in enumerate((("small", False), ("mid", False), ("large", True)), 1):
            store.judged(live(store, "r", attempt, step="s", tier=tier), word, f"{tier}")
        live(store, "q", step="s", tier="small")
        store.judged(live(store, "p", step="t", tier="small"), True, "small")
        live(store, "o", step="t")
        assert [said(store, "r", attempt) for attempt in (1, 2, 3)] == [
            (False, "small"),
            (False, "mid"),
            (True, "large"),
        ]
        assert counted(store, "tier", step="s") == {"small": (0, 1), "mid": (0, 1), "large": (1, 0)}
        assert counted(store, "step", tier="small") == {"s": (0, 1), "t": (1, 0)}
        assert counted(store, "step", tier="") == {"t": (0, 0)}

    def test_open_and_unknown_rows_are_left_alone(self, store: AnyStore) -> None:
        """They are counted, and nothing else happens."""
        opening = row("r")
        hold = store.reserve(opening).result(10)
        assert isinstance(hold, Hold)
        store.judged(opening, True, "early").result(10)
        store.judged(row("nobody"), True, "lost").result(10)
        assert (said(store), store.call("nobody"), store.ignored) == ((None, None), [], 2)
        store.settle(hold, done(opening)).result(10)
        assert (said(store), counted(store), store.verify()) == ((None, None), {None: (0, 0)}, [])

    def test_by_another_process(self, opened: Opener) -> None:
        """Whoever has the word may say it."""
        first, second = opened(), opened()
        entry = live(first, "r")
        second.judged(entry, False, "no").result(10)
        assert (said(first), counted(first)) == ((False, "no"), {None: (0, 1)})

    def test_a_late_outcome_keeps_the_mark(self, opened: Opener) -> None:
        """The correction of an expired row brings no word of its own: what was said of it stands, and counts once."""
        first = opened()
        opening = row("r", step="s", tier="small")
        first.reserve(opening).result(10)
        first.close()
        second = opened()
        second.judged(opening, True, "yes").result(10)
        second.settle(Hold("r", 1), done(opening, cost_nanos=700)).result(10)
        assert (said(second), counted(second), total(second).cost_nanos) == ((True, "yes"), {None: (1, 0)}, 700)
        second.judged(opening, False, "no").result(10)
        assert (counted(second, "tier", step="s"), second.verify()) == ({"small": (0, 1)}, [])

    def test_a_closed_store_says_so(self, store: AnyStore) -> None:
        entry = live(store, "r")
        store.close()
        with pytest.raises(StoreFailure, match="closed"):
            store.judged(entry, True, "yes").result(10)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.tuples(st.sampled_from(["s", "t", None]), st.sampled_from(["small", "mid", None]), WORDS, WORDS),
                 max_size=8)
    )  # fmt: skip
    def test_sums_are_those_of_the_rows(self, opened: Opener, told: list[Any]) -> None:
        """By step and tier together, for every pair, however often each row was marked."""
        store = opened.stores[0] if opened.stores else opened()
        tenant = f"{len(store.runs(limit=1_000).items)}"
        live(store, f"{tenant}-", tenant=f"{tenant}-", run_id=f"{tenant}-")
        due: dict[str | None, dict[str | None, list[int]]] = {}
        for at, (step, tier, early, late) in enumerate(told):
            entry = live(store, f"{tenant}-{at}", tenant=tenant, step=step, tier=tier,
                         started_at=Instant(NOON + at * 5 * MINUTE))  # fmt: skip
            for word in (early, late):
                store.judged(entry, word, "word")
            sums = due.setdefault(step, {}).setdefault(tier, [0, 0])
            sums[0] += late is True
            sums[1] += late is False
        for name, tiers in due.items():
            found = counted(store, "tier", step=name or "", tenant=tenant)
            assert found == {tier: tuple(sums) for tier, sums in tiers.items()}
        assert store.verify() == []


class TestTheFile:
    def test_what_the_disk_refuses_is_lost(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """It is said on the receipt and in the log, and never journalled; the next word is written."""
        full = False

        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if full and sql.startswith("BEGIN IMMEDIATE"):
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *values)

        def connect(path: Path) -> sqlite3.Connection:
            return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)

        with contextlib.closing(SqliteStore(path, connect)) as store:
            entry = live(store, "r")
            full = True
            with caplog.at_level(logging.ERROR, "bursar.stores"), pytest.raises(StoreFailure, match="disk is full"):
                store.judged(entry, True, "lost").result(10)
            assert caplog.records[0].getMessage().endswith(" 1 changes of states and marks are lost")
            full = False
            store.flush()
            assert said(store) == (None, None)
            store.judged(entry, False, "no").result(10)
            assert (said(store), store.verify()) == ((False, "no"), [])

    def test_poison_fails_alone(self, path: Path) -> None:
        """A word that no table takes fails by itself; what was handed in with it is written."""
        with contextlib.closing(SqliteStore(path)) as store:
            one, other = live(store, "r"), live(store, "s")
            turn = Turn(path)
            with turn.taken():  # the writer has to wait, and the jobs gather
                poison, good = store.judged(one, True, "\ud800"), store.judged(other, True, "yes")
            with pytest.raises(StoreFailure, match="cannot be written"):
                poison.result(10)
            good.result(10)
            turn.close()
            assert (said(store), said(store, "s"), counted(store)) == ((None, None), (True, "yes"), {None: (1, 0)})

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(WORDS, st.sampled_from([None, "", "s"]), st.integers(0, 200)), max_size=8))
    def test_an_older_ledger_gets_its_sums(
        self, template: Path, tmp_path_factory: pytest.TempPathFactory, told: list[Any]
    ) -> None:
        """Of rows that were marked already too, by step and tier, of every grain; the days of sessions are let go."""
        path = tmp_path_factory.mktemp("old") / "b.db"
        path.write_bytes(template.read_bytes())
        with contextlib.closing(SqliteStore(path)) as store:
            for at, (word, label, quarters) in enumerate(told):
                names: Any = dict.fromkeys(("step", "tier", "user_id", "user_tier", "session_id"), label)
                names["tags"] = (("k", label or "none"), ("l.m", "x"))
                live(
                    store, f"r{at}", 1, {"validated": word}, started_at=Instant(NOON + quarters * 15 * MINUTE), **names
                )
            asked = [("tier", {}), ("step", {"tier": "s"}), ("user", {}), ("session", {}), ("tag:k", {}), ("day", {})]
            due = [counted(store, by, **filters) for by, filters in asked]
        aged(path, "0005")
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM rollups WHERE dim = 'step|tier'")
            db.execute(
                "INSERT INTO rollups (grain, bucket_start, dim, first_key, second_key, tenant, calls)"
                " SELECT 1440, bucket_start / 1440 * 1440, dim, first_key, second_key, tenant, SUM(calls) FROM rollups"
                " WHERE dim = 'user|session' GROUP BY 2, 4, 5, 6"
            )
        with contextlib.closing(SqliteStore(path)) as store:
            assert store.verify() == []
            assert [counted(store, by, **filters) for by, filters in asked] == due
