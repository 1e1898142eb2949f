"""The learned chain over a real ledger: what two processes have seen is one, outlives both, and is unlearned again."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import audit_kit
import books
import bursar
import routing_kit as routes
from audit_kit import STEP, auto
from bursar.doors.validators import validators
from bursar.policy import Candidate
from bursar.sandbox import SandboxServer, Settings, Task
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry
from routing_kit import RIGHT, WRONG, Deal

path, template = books.path, books.template
REPAIRED = threading.Event()
FIVE = {"small": (Candidate("openai", "gpt-4.1-mini"),), "mid": (Candidate("openai", "gpt-4.1"),)}
"""At prices of 1:5 a small model breaks even at one pass in five."""


def settings() -> Settings:
    """The small model is right in one case of twenty, until it is repaired."""
    told: Any = {"kind": "extract", "right": RIGHT, "wrong": WRONG}
    well = Task(match=lambda prompt: REPAIRED.is_set(), odds={"small": 1.0, "mid": 1.0}, **told)
    ill = Task(match=lambda prompt: True, odds={"small": 0.05, "mid": 1.0}, **told)
    return Settings(tasks=(well, ill), clock=lambda: 1_700_000_000.0)


@pytest.fixture
def server() -> Iterator[SandboxServer]:
    REPAIRED.clear()
    with SandboxServer(settings()) as one:
        yield one


def calls(url: str, path: Path, numbers: range) -> None:
    """So many calls of the step, by a process of its own; each gets a right answer."""
    rule = auto(validators=validators(Deal))
    policy = msgspec.structs.replace(audit_kit.policy(url, rule, share=0.0), tiers=FIVE)
    with bursar.Guard(policy, SqliteStore(path)) as guard:
        client = routes.openai(guard, url)
        for number in numbers:
            with guard.step(STEP):
                answer = routes.chat(client, "gpt-4.1", f"Who buys, in case {number}?")
            assert routes.chat_text(answer) == RIGHT


def tries(path: Path) -> list[list[Entry]]:
    """The attempts of each call, in order."""
    store = SqliteStore(path)
    store.flush()
    found: dict[str, list[Entry]] = {}
    cursor = None
    while True:
        page = store.calls(limit=1000, cursor=cursor)
        for row in page.items:
            found.setdefault(row.request_id, []).append(row)
        if (cursor := page.next_cursor) is None:
            break
    assert store.verify() == []
    store.close()
    return sorted((sorted(rows, key=lambda row: row.attempt) for rows in found.values()), key=lambda r: r[0].started_at)


def small_first(found: list[list[Entry]]) -> float:
    """The share of calls that tried the small model first."""
    return sum(rows[0].tier == "small" for rows in found) / len(found)


def test_a_chain_is_learned_by_two_processes_kept_and_unlearned(server: SandboxServer, path: Path) -> None:
    """300 calls at 5 %: it is soon passed over but for probes, by a process beside and by one that begins later; when
    the tier is well again a probe finds it out."""
    beside = lambda: calls(server.url, path, range(100, 200))  # noqa: E731
    assert books.in_child(lambda: calls(server.url, path, range(100)), beside) == 0
    assert books.in_child(lambda: calls(server.url, path, range(200, 300))) == 0
    found = tries(path)
    assert len(found) == 300 and small_first(found[:3]) == 1.0
    assert small_first(found[200:]) < 0.15, "what others have seen a new process knows"
    assert small_first(found[100:200]) < 0.3, "and so does one that runs beside them"
    last = [json.loads(rows[0].decision or "{}") for rows in found[200:]]
    skipped = [one for one in last if one["tier"] == "mid"]
    assert skipped and all("small" in json.dumps(one["candidates"]) for one in skipped)
    assert any(one.get("probe") for one in last) or small_first(found[200:]) == 0.0
    REPAIRED.set()
    calls(server.url, path, range(300, 560))
    again = tries(path)[300:]
    assert small_first(again[-60:]) > 0.9, "a probe has seen that it is well"
    costs = [row.cost_nanos for rows in tries(path) for row in rows]
    assert None not in costs and sum(cost or 0 for cost in costs) == server.bill.total_nanos()
