"""The pages of alerts and breakers, plans and wrong hits: what they show is what the ledger knows, with the rows behind
each number; what is over is of the period that was asked for."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from books import Watch, ask, claim, held
from bursar.doors.dashboard.asked import PATHS, Asked, read
from bursar.doors.dashboard.pages import alerts, breakers, caches, overview, parts, users
from bursar.doors.dashboard.pages.runs import Missing
from bursar.doors.dashboard.view import Steps, Table, View
from bursar.drivers.watchman import Watchman
from bursar.insights import breakers as insight
from bursar.insights import incidents
from bursar.policy import Alert, Match, Policy
from bursar.policy.alerts import Cap, Rule, Share, Spike, Stranger, Threshold
from bursar.rules.semantic.calibrate import Calibration, Label
from bursar.rules.semantic.score import PRIOR, pack
from bursar.stores.memory import MemoryStore
from bursar.stores.semantic import Notes
from bursar.stores.sqlite import SqliteStore
from bursar.types import Instant
from dashboards import CAP, EVIL, HOUR, NAMES, NOW, POLICY, asked, book, rich, row, trip

USD = 1_000_000_000


def table(view: View, title: str) -> Table:
    return next(part for part in view.parts if isinstance(part, Table) and part.title == title)


def texts(shown: Table) -> list[list[str]]:
    return [[cell.text for cell in cells] for cells in shown.rows]


def question(href: str | None) -> tuple[str, Asked]:
    """The page that a link leads to, and what it asks there."""
    assert href is not None
    at = urlsplit(href)
    page = next(name for name, path in PATHS.items() if path == at.path)
    return page, read(page, dict(parse_qsl(at.query)), NOW)


def watched(alert: Alert, store: Any, *times: int) -> Policy:
    """Looked at by one alert at these instants."""
    policy = msgspec.structs.replace(POLICY, alerts=(alert,))
    watch = store.watch
    for at in times:
        watch.now = Instant(at)
        Watchman([alert], store, policy.prices, {}, watch).look()
    return policy


class Watched(MemoryStore):
    """A ledger whose clock is at hand."""

    def __init__(self) -> None:
        self.watch = Watch(NOW)
        super().__init__(clock=self.watch)

    def add(self, number: int, **told: Any) -> None:
        entry = row(number, **told)
        opened = msgspec.structs.replace(entry, status="open", cost_nanos=None, cost_status="unpriced")
        self.settle(held(self, opened, ask()), entry).result()


# --- alerts


def test_open_and_past_are_the_ledgers_own() -> None:
    """Every incident once, under its alert and subject, and the sum that it tells of is that of the rows behind it."""
    store = rich()
    view = alerts.build(store, POLICY, asked("alerts", since="30d"))
    running, past = incidents.running(store), incidents.past(store).items
    assert len(running) == len(NAMES) - 1 and len(past) == 1
    shown, over = table(view, "Open alerts"), table(view, "Alerts that are over")
    assert [cells[0].text for cells in shown.rows] == [CAP.rule.name] * len(running)
    assert [cells[-1].text for cells in over.rows] == [past[0]["why"]]
    for cells, one in zip((*shown.rows, *over.rows), (*running, *past), strict=True):
        page, asks = question(cells[1].href)
        assert (page, asks.filters.user_id) == ("calls", one["subject"])
        spent = sum(found.cost_nanos or 0 for found in store.calls(asks.filters, 500).items if found.status != "open")
        assert spent == 2 * USD and cells[2].text == "$2.0000" and cells[2].href == cells[1].href
        assert cells[3].text == ("" if one["limit"] is None else "$1.0000")
    tiles = {tile.label: tile.value for tile in view.tiles}
    assert tiles["Open alerts"] == str(len(running)) and tiles["Suspended"] == str(len(NAMES) - 1)


def test_what_is_over_is_of_the_period() -> None:
    """An incident that ended outside is not shown; older ones are a link away, and none is lost or shown twice."""
    store = Watched()
    for number in range(120):
        at = NOW - (140 - number) * HOUR
        store.add(number, user_id=f"u{number}", cost_nanos=2 * USD, started_at=Instant(at))
        watched(CAP, store, at)
    policy = watched(CAP, store, NOW)

    def over(**period: str) -> list[str]:
        """Whose incidents are shown, all pages of them."""
        found, asks = list[str](), asked("alerts", **period)
        while True:
            shown = table(alerts.build(store, policy, asks), "Alerts that are over")
            found += [cells[1].text for cells in shown.rows]
            if shown.more is None:
                return found
            asks = question(shown.more[1])[1]

    assert over(since="all") == [f"u{number}" for number in reversed(range(120))]
    ended = [one["resolved_at"] for one in incidents.past(store, 500).items]
    late = over(since="2d")
    assert len(late) == sum(at >= "2025-11-22T16:00" for at in ended) > 20
    assert over(since="all", until="2d") == over(since="all")[len(late) :]


@pytest.mark.parametrize(
    ("rule", "by", "match", "subject", "page", "told"),
    [
        (Cap(name="x", limit_nanos=1), "agent", Match(), "a", "calls", {"agent": "a"}),
        (Cap(name="x", limit_nanos=1), None, Match(step="s"), "", "calls", {"step": "s"}),
        (Cap(name="x", limit_nanos=1), None, Match(step="s*"), "", "calls", {}),
        (Share(name="x", of="failed", over=1), None, Match(), "", "calls", {"status": "failed"}),
        (Stranger(name="x"), None, Match(), "openai/a/b", "calls", {"provider": "openai", "model": "a/b"}),
        (Threshold(name="x"), None, Match(), "daily <b>", "budgets", {"name": "daily <b>"}),
        (Spike(name="x"), None, Match(), "", "calls", {}),
    ],
)  # fmt: skip
def test_an_incident_leads_to_what_it_is_about(
    rule: Rule, by: Any, match: Match, subject: str, page: str, told: dict[str, str]
) -> None:
    """By its alert's own labels, as far as the list of calls can be asked for them."""
    policy = msgspec.structs.replace(POLICY, alerts=(Alert(rule=rule, by=by, match=match),))
    one = {"alert": "x", "subject": subject, "severity": "info", "since": "2025-11-24T15:20:30.5Z", "resolved_at": None,
           "value": "0.5", "limit": None, "peak": "0.5", "unit": "share", "why": "so"}  # fmt: skip
    (cells,) = alerts.open_table(policy, asked("alerts"), [one]).rows
    found, asks = question(cells[1].href)
    labels = asks.labels | ({"name": asks.query["name"]} if "name" in asks.query else {})
    assert (found, labels) == (page, told) and cells[2].text == "50%" and cells[3].text == ""
    if found == "calls":
        assert asks.filters.since is not None and asks.filters.since <= NOW - HOUR
    (unknown,) = alerts.open_table(POLICY, asked("alerts"), [one]).rows
    assert unknown[1].href is unknown[2].href is None


def test_the_overview_says_first_what_is_open() -> None:
    """The first few with a link to all; nothing is said where nothing is."""
    store = rich()
    view = overview.build(store, POLICY, asked(since="30d"))
    first, second = view.parts[:2]
    assert isinstance(first, Table) and isinstance(second, Table)
    assert (first.title, second.title) == ("Open alerts", "Suspended by breakers")
    assert len(first.rows) == 5 and first.more is not None and question(first.more[1])[0] == "alerts"
    tiles = {tile.label: tile for tile in view.tiles}
    assert (tiles["Open alerts"].value, tiles["Open alerts"].note) == ("5", "5 suspended by breakers")
    quiet = overview.build(book(row()), POLICY, asked())
    assert not [part for part in quiet.parts if isinstance(part, Table) and part.title == first.title]


def test_a_ledger_without_targets_or_breakers_says_how_to_get_them() -> None:
    """What is set up already is not told again."""
    store = MemoryStore()

    def steps(policy: Policy) -> str:
        found = [part for part in alerts.build(store, policy, asked("alerts")).parts if isinstance(part, Steps)]
        return " ".join(line for part in found for _, line in part.lines)

    bare = msgspec.structs.replace(POLICY, breakers=())
    assert re.search("alerting.*bursar alerts test.*breakers", steps(bare), re.DOTALL)
    told = msgspec.structs.replace(bare, alerts=(msgspec.structs.replace(CAP, webhooks=("https://a.example/x",)),))
    assert "alerting" not in steps(told) and "[[breakers]]" in steps(told)
    assert steps(msgspec.structs.replace(told, breakers=POLICY.breakers)) == ""


# --- breakers


def test_who_is_suspended_until_when_and_what_became_of_it() -> None:
    """The open ones with a button each, the closed one by whom; each leads to the rows of whoever it suspends."""
    store = rich()
    view = alerts.build(store, POLICY, asked("alerts", since="30d"))
    shut, closed = table(view, "Suspended by breakers"), table(view, "Breakers that are closed again")
    seen = {one.id: one.document for one in insight.listed(store).items}
    assert len(shut.rows) == len(NAMES) - 1 == len(seen) - 1
    for cells in shut.rows:
        form = cells[-1].form
        assert form is not None and form.path == breakers.RESET
        document = seen.pop(dict(form.fields)["id"])
        assert document.state.status == "open" and cells[4].text == "2025-11-24 17:00"
        page, asks = question(cells[1].href)
        assert (page, asks.filters.session_id) == ("calls", document.subject)
        assert store.calls(asks.filters).items
    ((last_id, last),) = seen.items()
    ((name, whose, at, by, _why),) = texts(closed)
    assert (name, at) == (last.breaker, "2025-11-24 16:00") and by == f"hand: {EVIL} (key_1)"
    assert whose == f"session {parts.plain(last.subject)}"
    one = breakers.one(store, POLICY, asked("breaker", id=last_id))
    assert [line[:2] for line in texts(table(one, "What became of it, the last first"))] == [
        ["open", "closed"], ["closed", "open"]
    ]  # fmt: skip
    with pytest.raises(Missing, match="no breaker 'x'"):
        breakers.one(store, POLICY, asked("breaker", id="x"))


def test_a_suspension_that_is_up_says_so() -> None:
    """From then on the next call is let through to see."""
    watch = Watch(NOW)
    store = MemoryStore(clock=watch)
    trip(store, watch)
    late = msgspec.structs.replace(asked("alerts"), now=Instant(NOW + 2 * HOUR))
    shown = breakers.shut_table(late, breakers.suspended(store, late))
    assert {cells[4].text for cells in shown.rows} == {"the next call"}


# --- plans, wrong hits


def test_plans_are_sums_of_their_users_rows() -> None:
    """Dearest first, calls of no plan on a line of their own; how to name one is said where none is named."""
    store = book(
        row(0, user_tier="free"), row(1, user_tier="pro", cost_nanos=30_000_000), row(2, user_tier="free"), row(3)
    )
    shown = table(users.build(store, POLICY, asked("users")), "Plans")
    assert [line[:4] for line in texts(shown)] == [
        ["pro", "50%", "$0.0300", "1"], ["free", "33%", "$0.0200", "2"], ["(none)", "17%", "$0.0100", "1"]
    ]  # fmt: skip
    plain = users.build(book(row()), POLICY, asked("users"))
    assert not [part for part in plain.parts if isinstance(part, Table) and part.title == "Plans"]
    assert "x-bursar-user-tier" in table(plain, "Top spenders").note


def test_how_often_the_semantic_cache_is_wrong(tmp_path: Path) -> None:
    """As its audits measure it, with its bounds and its promise; a file that cannot be read does not take the page."""
    store = SqliteStore(tmp_path / "books.db", clock=Watch(NOW))
    store.settle(held(store, row(0, status="open"), ask()), row(0)).result()
    titles = {part.title for part in caches.build(store, POLICY, asked("caches")).parts if isinstance(part, Table)}
    assert "How often the semantic cache is wrong, of all time" not in titles
    path = tmp_path / "books.db.cache.questions"
    notes = Notes(path)
    labels = tuple(Label(pack((0.0,) * len(PRIOR)), number % 10 > 0, True) for number in range(200))
    notes.count("p", "default", "classify", asked=900, served=400, judged=200, wrong=20)
    notes.save("p", Calibration(0.05, "seed", labels=labels, threshold=0.0))
    notes.count("q", "default", "new", asked=9)
    notes.close()
    view = caches.build(store, POLICY, asked("caches"))
    measured, unknown = texts(table(view, "How often the semantic cache is wrong, of all time"))
    assert measured[:3] == ["classify", "default", "10.0%"] and measured[4:] == ["≤ 5.0%", "400", "200", "20", "0"]
    low, high = (float(text.rstrip("%")) for text in measured[3].split(" to "))
    assert low < 10 < high
    assert unknown[:5] == ["new", "default", "not known yet", "", ""]
    assert {tile.label: tile.value for tile in view.tiles}["Wrong semantic hits"] == "10.0%"
    path.write_bytes(b"no database, but long enough to be taken for one" * 100)
    notes_of = [part for part in caches.build(store, POLICY, asked("caches")).parts if part.title == "Not known now"]
    assert len(notes_of) == 1
    store.close()


def test_a_budget_tells_when_it_is_used_up_and_when_it_begins_anew() -> None:
    """An incident of a budget leads to that budget's counters."""
    store = Watched()
    terms = claim("daily", "user", "u1", window="day", limit_nanos=1_000)
    opened = row(1, status="open", cost_nanos=None, cost_status="unpriced", started_at=NOW)
    store.settle(held(store, opened, ask(terms)), row(1, cost_nanos=900, started_at=NOW)).result()
    policy = watched(Alert(rule=Threshold(name="budgets")), store, NOW)
    (cells,) = table(alerts.build(store, policy, asked("alerts")), "Open alerts").rows
    page, asks = question(cells[1].href)
    assert (page, asks.query["name"], cells[2].text, cells[3].text) == ("budgets", "daily", "90%", "80%")
