"""Store.recent, on every store: what a provider has seen of a tenant or of one step, the newest first, and no more."""

from typing import Any

import books
from books import MINUTE, NOON, AnyStore, done, live, row
from bursar.stores import rows
from bursar.types import Entry, Hold, Instant

opened, path, store, template = books.opened, books.path, books.store, books.template


def named(found: list[Entry]) -> list[str]:
    return [entry.request_id for entry in found]


def test_of_a_step_and_of_a_tenant(store: AnyStore) -> None:
    """By tenant, agent and step, missing labels included; a limit takes the newest."""
    for number, (tenant, agent, step) in enumerate(
        [("t", "a", "s"), ("t", "a", None), ("t", None, "s"), ("u", "a", "s"), ("t", "a", "s")]
    ):
        labels: dict[str, Any] = {"tenant": tenant, "agent_id": agent, "step": step}
        live(store, f"r{number}", started_at=Instant(NOON + number * MINUTE), **labels)
    assert named(store.recent("t", ("a", "s"))) == ["r4", "r0"]
    assert named(store.recent("t", ("a", None))) == ["r1"]
    assert named(store.recent("t", (None, "s"))) == ["r2"]
    assert named(store.recent("t")) == ["r4", "r2", "r1", "r0"]
    assert named(store.recent("t", limit=2)) == ["r4", "r2"]
    assert store.recent("t", ("a", "s"))[0] == store.call("r4")[0], "whole rows"


def test_only_calls_that_were_sent(store: AnyStore) -> None:
    """Neither open rows, nor refusals and hits, nor what Bursar asked for itself."""
    for number, status in enumerate(("completed", "abandoned", "failed", "refused", "hit")):
        live(store, f"r{number}", outcome={"status": status}, started_at=Instant(NOON + number))
    live(store, "judge", purpose="judge")
    store.reserve(row("open")).result()
    assert named(store.recent("default")) == ["r2", "r1", "r0"]


def test_only_so_many_rows_are_looked_at(store: AnyStore) -> None:
    """A step whose rows lie further back has no history."""
    live(store, "old", step="old", started_at=Instant(NOON - MINUTE))
    for number in range(rows.RECENT):
        opening = row(f"r{number}", step="new", started_at=Instant(NOON + number))
        store.reserve(opening)
        store.settle(Hold(opening.request_id, 1), done(opening))
    assert store.recent("default", (None, "old")) == []
    assert len(store.recent("default", (None, "new"), 100)) == 100
