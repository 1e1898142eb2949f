"""The pages of routes: pass rates and what a solved request cost on Models, what was decided in a run's waterfall."""

from urllib.parse import parse_qsl, urlsplit

import msgspec

from books import ask, claim, held
from bursar.doors.dashboard.asked import read
from bursar.doors.dashboard.pages import models, runs
from bursar.doors.dashboard.view import Notes, Table, View
from bursar.rules.chain.audit import Audits
from bursar.rules.route.auditing import Book
from bursar.rules.route.known import Site
from bursar.stores.memory import MemoryStore
from bursar.stores.states import Changed
from bursar.types import Entry, Judgement
from dashboards import EVIL, NOW, POLICY, asked, book, row


def table(view: View, title: str) -> Table | None:
    return next((part for part in view.parts if isinstance(part, Table) and part.title == title), None)


def said(store: MemoryStore, entry: Entry, word: bool | None) -> None:
    told = Judgement(ok=word, reason="" if word else f"no {EVIL}")
    store.judged(entry, word, msgspec.json.encode(told).decode()).result()


def climbed() -> MemoryStore:
    """Twelve requests of a step: ten end at small, two at mid; and one of a step that nobody judges."""
    first = [row(n, step=EVIL, tier="small", cost_nanos=1_000_000) for n in range(12)]
    second = [row(n, step=EVIL, tier="mid", attempt=2, cost_nanos=5_000_000) for n in range(2)]
    store = book(*first, *second, row(50, step="t", tier=None))
    for at, entry in enumerate(first):
        said(store, entry, at >= 2)
    for entry in second:
        said(store, entry, True)
    audits = msgspec.json.encode(Book(tiers={"small": Audits(6, 12)}))
    key = Site("default", "a", EVIL).key
    store.states.update("audits", "default", key, lambda found, now: Changed(audits, None)).result()
    return store


def test_pass_rates_and_what_a_solved_request_cost() -> None:
    """Each number leads to its rows; a step that has neither tier nor check is left out; what is amiss is said."""
    store = climbed()
    view = models.build(store, POLICY, asked("models"))
    shown = table(view, "Pass rates by step and tier")
    assert shown is not None
    assert [[cell.text for cell in cells] for cells in shown.rows] == [
        [EVIL, "small", "12", "10", "2", "83%", "$0.0120", "$0.001833", "12", "50%", "71%"],
        ["", "mid", "2", "2", "0", "100%", "$0.0100", "", "", "", ""],
    ]
    for cells, count in zip(shown.rows, (12, 2), strict=True):
        href = cells[2].href
        assert href is not None
        filters = read("calls", dict(parse_qsl(urlsplit(href).query)), NOW).filters
        assert len(store.calls(filters, 50).items) == count
    (notes,) = [part for part in view.parts if isinstance(part, Notes)]
    assert notes.title == "What the routes say" and "audits found 6 wrong" in notes.lines[0]


def test_without_routes_there_is_no_such_table() -> None:
    view = models.build(book(row(0, tier=None)), POLICY, asked("models"))
    assert table(view, "Pass rates by step and tier") is None


def test_the_waterfall_says_why() -> None:
    """Tier, what was decided, and the check's word; all of it when pointed at."""
    store = book(
        row(0, run_id="r", tier="small", cache="miss", started_at=NOW),
        row(0, run_id="r", tier="mid", attempt=2, started_at=NOW),
        row(1, run_id="r", tier=None, started_at=NOW),
        row(2, run_id="n", parent_run_id="r", tier=None, started_at=NOW),
    )  # fmt: skip
    entries = store.run("r")
    said(store, entries[0], False)
    said(store, entries[1], True)
    shown = table(runs.one(store, POLICY, asked("run", run="r")), "Call by call")
    assert shown is not None
    assert all(len(cells) == len(shown.columns) for cells in shown.rows)
    at = {name: place for place, name in enumerate(shown.columns)}
    told = [[cells[at[name]].text for name in ("Tier", "Why", "Check")] for cells in shown.rows]
    assert told == [
        ["small", f"check rejected it: no {EVIL}; not in the cache", "rejected"],
        ["mid", "check passed", "passed"],
        ["", "caller", ""],
        ["", "", ""],
        ["", "caller", ""],
    ]
    hint = shown.rows[0][at["Why"]].hint.splitlines()
    assert [line.split(":")[0] for line in hint] == ["cache", "budget", "route", "prompt cache", "check"]
    assert [cells[-1].text for cells in shown.rows[:2]] == ["", "attempt 2"]


def test_the_tightest_budget_is_the_one_that_is_shown() -> None:
    """Of a row that was held by two, the one that has the smaller share of its limit left; with its hold."""
    store = book()
    claims = (claim("wide", limit_nanos=10_000), claim("narrow", "run", "r", limit_nanos=1_000))
    opening = row(0, run_id="r", tier=None, started_at=NOW, status="open")
    store.settle(held(store, opening, ask(*claims)), row(0, run_id="r", tier=None, started_at=NOW)).result()
    shown = table(runs.one(store, POLICY, asked("run", run="r")), "Call by call")
    assert shown is not None
    assert shown.rows[0][shown.columns.index("Why")].text == (
        "budget narrow (run r) held $0.00000011 and 110 tokens with 89% left, the tightest of 2"
    )
