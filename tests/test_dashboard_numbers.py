"""What the pages say: the report's own figures, each with the rows that it is made of; time and geometry."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from books import Watch, ask, claim, held
from bursar.doors.cli import tables
from bursar.doors.dashboard import asked as asking
from bursar.doors.dashboard.asked import BadQuery, read
from bursar.doors.dashboard.pages import agents, alerts, budgets, caches, models, overview, parts, runs, users
from bursar.doors.dashboard.view import FULL, HEIGHT, Chart, Series, Table, View, ceiling, columns, stacked
from bursar.insights import report
from bursar.stores.base import Filters, Store
from bursar.stores.counters import BUCKET_US
from bursar.stores.memory import MemoryStore
from bursar.types import Entry, Hold, Instant
from dashboards import EVIL, HOUR, NOW, POLICY, asked, book, rich, row

# --- numbers


def table(view: View, title: str) -> Table:
    return next(part for part in view.parts if isinstance(part, Table) and part.title == title)


LOCAL = ("UTC", "Asia/Kolkata", "America/New_York")
some = st.sampled_from(("a", "b", EVIL, None))
rows_told: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict, agent_id=some, step=some, user_id=some, model=some, at=st.integers(0, 400),
        status=st.sampled_from(("completed", "failed", "hit", "refused")),
        cost_nanos=st.none() | st.integers(0, 10**12), input_tokens=st.none() | st.integers(0, 10**7),
    ),
    min_size=1, max_size=15,
)  # fmt: skip


def booked(told: list[dict[str, Any]]) -> MemoryStore:
    made = []
    for number, one in enumerate(told):
        status = "unpriced" if one["cost_nanos"] is None else "final"
        at = Instant(NOW - one["at"] * BUCKET_US)
        known = {name: value for name, value in one.items() if name != "at"}
        made.append(row(number, **known, cost_status=status, started_at=at))
    return book(*made)


def rows_behind(store: Store, href: str) -> list[Entry]:
    """What the list of calls shows for a link, all pages of it."""
    at = urlsplit(href)
    assert at.path == asking.PATHS["calls"]
    filters = read("calls", dict(parse_qsl(at.query)), NOW).filters
    page = store.calls(filters, 7)
    found = [*page.items]
    while page.next_cursor is not None:
        page = store.calls(filters, 7, page.next_cursor)
        found += page.items
    return found


@given(rows_told, st.sampled_from(("agent", "step", "user", "model")), st.sampled_from(("today", "24h", "7d", "all")))
@settings(deadline=None, max_examples=40)
def test_a_number_is_what_the_rows_behind_its_link_add_up_to(told: list[dict[str, Any]], by: str, since: str) -> None:
    """Every line of a table of sums: its dollars, calls and failures are exactly those of the rows that it links to."""
    store, question = booked(told), asked("agents", since=since)
    lines = parts.spend(store, question, by)
    shown = parts.lines_table(question, "t", by, lines, parts.total(store, question))
    place = {name: at for at, name in enumerate(shown.columns)}
    assert len(shown.rows) == len(lines)
    for cells, line in zip(shown.rows, lines, strict=True):
        spend = cells[place["#Spend"]]
        assert (spend.href is None) == (line.key is None)
        if spend.href is None:
            continue
        rows = rows_behind(store, spend.href)
        assert sum(one.cost_nanos or 0 for one in rows) == line.counts.cost_nanos
        assert spend.text == tables.cost(line.counts) and cells[place["#Calls"]].text == f"{len(rows):,}"
        failed = [one for one in rows if one.status == "failed"]
        assert cells[place["#Failed"]].text == f"{len(failed)}"
        if (behind := cells[place["#Failed"]].href) is not None:
            assert rows_behind(store, behind) == failed


@given(rows_told, st.sampled_from(("today", "24h", "7d", "30d", "all")), st.sampled_from(LOCAL))
@settings(deadline=None, max_examples=40)
def test_a_chart_shows_all_of_the_spend(told: list[dict[str, Any]], since: str, zone: str) -> None:
    """Over series and slots its amounts add up to the period's total, and each column to the rows that it links to."""
    store, question = booked(told), asked("overview", since=since, zone=zone)
    chart = parts.over_time(store, question, "t")
    total = parts.total(store, question)
    slots = question.slots(question.unit(), _first(store, question))
    sums = [sum(one.amounts[at] for one in chart.legend) for at in range(len(slots))] if chart.legend else None
    if sums is not None:
        assert sum(sums) == total.cost_nanos
    heights = {rect.href: 0.0 for rect in chart.rects}
    for rect in chart.rects:
        heights[rect.href] += rect.height
    spent = {href: sum(one.cost_nanos or 0 for one in rows_behind(store, href)) for href in heights}
    assert sum(spent.values()) == total.cost_nanos
    top = ceiling(max(spent.values(), default=0))
    assert all(abs(height - HEIGHT * spent[href] / top) < 0.01 for href, height in heights.items())


def _first(store: Store, question: asking.Asked) -> str | None:
    lines = parts.spend(store, question, question.unit())
    return lines[0].key if lines else None


def test_the_overview_says_what_the_report_says() -> None:
    """The tiles of a ledger with unknowns are the report's own figures of the same period."""
    store = rich()
    question = asked(since="30d")
    told = report.build(store, since=question.filters.since, tiers=tuple(POLICY.tiers), steps=POLICY.steps)
    view = overview.build(store, POLICY, question)
    tiles = {tile.label: tile for tile in view.tiles}
    total, metrics = told.total, told.metrics
    assert tiles["Spend in this period"].value == tables.cost(total) != "$0" and total.unpriced
    assert tiles["Cost per run"].value == f"≥ {tables.dollars(metrics.runs.mean_nanos)}"
    assert tiles["Cost per user"].value == f"≥ {tables.dollars(metrics.cost_per_user_nanos)}"
    assert tiles["Cache hit rate"].value == tables.percent(metrics.hit_rate) != "0%"
    assert tiles["Saved by caches"].value == tables.dollars(total.saved_nanos) != "$0"
    assert tiles["Unknowns"].value == str(total.unpriced)
    said = [line for part in view.parts for line in getattr(part, "lines", ()) if isinstance(line, str)]
    assert said == [remark.text for remark in told.remarks] != []
    spread = table(agents.build(store, POLICY, question), "Cost per run")
    costs = metrics.runs_by_agent
    assert [cells[0].text for cells in spread.rows] == [tables.plain(one.agent_id) for one in costs]
    assert [cells[1].text for cells in spread.rows] == [f"{one.runs:,}" for one in costs]
    p99 = [cells[5].text.removeprefix("≥ ") for cells in spread.rows]
    assert p99 == [tables.dollars(one.p99_nanos) if one.unpriced_runs < one.runs else "unknown" for one in costs]


def test_this_period_is_compared_with_the_one_before() -> None:
    """The same length, and nothing of either is in the other."""
    day = 24 * HOUR
    store = book(row(0, cost_nanos=30_000_000), row(1, cost_nanos=20_000_000, started_at=Instant(NOW - day - HOUR)),
                 row(2, cost_nanos=1, started_at=Instant(NOW - 2 * day - HOUR)))  # fmt: skip
    question = asked(since="24h")
    assert question.before() == (NOW - 2 * day, NOW - day)
    (tile,) = (one for one in overview.build(store, POLICY, question).tiles if one.label == "Spend in this period")
    assert (tile.value, tile.note) == ("$0.0300", "+50% against $0.0200 before")


def test_unknown_is_never_zero() -> None:
    """A ledger of which no price is known has no dollars anywhere, and no paid rate."""
    store = book(row(0, cost_nanos=None, cost_status="unpriced", input_tokens=None))
    tiles = {tile.label: tile for tile in overview.build(store, POLICY, asked()).tiles}
    assert tiles["Spend in this period"].value == "unknown" and "without a price" in tiles["Unknowns"].note
    (line,) = table(models.build(store, POLICY, asked("models")), "Models").rows
    assert [cell.text for cell in line[3:7]] == ["unknown", "1", "unknown", "unknown"]
    (spread,) = table(agents.build(store, POLICY, asked("agents")), "Cost per run").rows
    assert [cell.text for cell in spread[2:6]] == ["unknown"] * 4


def test_the_waterfall_has_every_attempt_where_it_was() -> None:
    """In order, under the run that made it, on one scale of time; what went wrong is said."""
    second = 1_000_000
    store = book(
        row(0, run_id="r", started_at=NOW, duration_ms=1000, status="failed", http_status=429, cost_nanos=0),
        row(1, run_id="r", started_at=Instant(NOW + second), duration_ms=1000, request_id="req_0000", attempt=2),
        row(2, run_id="n", parent_run_id="r", agent_id="helper", started_at=Instant(NOW + 2 * second),
            duration_ms=2000),
    )  # fmt: skip
    view = runs.one(store, POLICY, asked("run", run="r"))
    shown = table(view, "Call by call")
    bars = [[(one.x, one.width, one.look) for one in cells[1].bars] for cells in shown.rows]
    assert bars == [[(0, 250, "bad")], [(250, 250, "s0")], [], [(500, 500, "s0")]]
    assert [cells[0].depth for cells in shown.rows] == [0, 0, 0, 1] and "helper" in shown.rows[2][0].text
    assert [cells[-1].text for cells in shown.rows] == ["failed 429", "attempt 2", "in all", ""]
    tiles = {tile.label: tile for tile in view.tiles}
    assert (tiles["Cost"].value, tiles["Cost"].note, tiles["Took"].value) == ("$0.0200", "with 1 nested runs", "4.00 s")
    with pytest.raises(runs.Missing, match="no run 'x'"):
        runs.one(store, POLICY, asked("run", run="x"))


def test_a_run_of_two_tenants_is_asked_back() -> None:
    """Rows of one tenant are never shown as another's."""
    store = book(row(0, run_id="r"), row(1, run_id="r", tenant="other"))
    with pytest.raises(BadQuery, match="default, other each have a run"):
        runs.one(store, POLICY, asked("run", run="r"))
    shown = table(runs.one(store, POLICY, asked("run", run="r", of="other")), "Call by call")
    assert len(shown.rows) == 1


def test_budgets_show_what_is_held_and_who_was_charged() -> None:
    """Settled, held, left and the pace, of both sides; the one who was charged is named with his rows."""
    watch = Watch(NOW)
    store = MemoryStore(clock=watch)
    daily = claim("daily", "user", "u1", window="day", limit_nanos=1_000, limit_tokens=600)
    opening = row(1, status="open", cost_nanos=None, cost_status="unpriced")
    store.settle(held(store, opening, ask(daily)), row(1, cost_nanos=800)).result()
    held(store, row(2, status="open"), ask(daily))
    question = asked("budgets")
    shown = table(budgets.build(store, POLICY, question), "Windows that are running, last touched first")
    dollars, tokens = shown.rows
    nanos = tables.dollars
    assert [cell.text for cell in dollars[5:9]] == [nanos(1000), nanos(800), nanos(110), nanos(90)]
    assert [cell.text for cell in tokens[5:9]] == ["600 tokens", "110", "110", "380"]
    assert [(one.width, one.look) for one in dollars[3].bars] == [(800, "warn"), (110, "soft")]
    assert (dollars[9].text, dollars[10].text) == ("25 Nov 00:00", "24 Nov 20:00")
    assert tokens[10].text == "not in this window"
    close = budgets.near(store, question)
    assert close is not None and len(close.rows) == 2
    href = dollars[1].href
    assert href is not None
    who = budgets.one(store, POLICY, read("budget", dict(parse_qsl(urlsplit(href).query)), NOW))
    (line,) = table(who, "Who was charged, dearest first").rows
    assert [cell.text for cell in line[:3]] == ["a", "s", "u1"] and line[5].text == "2"
    with pytest.raises(runs.Missing):
        budgets.one(store, POLICY, asked("budget", name="nobody's"))


@pytest.mark.parametrize("page", ["agents", "users", "models"])
def test_a_page_of_one_label_is_of_its_rows_alone(page: str) -> None:
    """One agent, user or model: the spend is that of its own rows, though others have spent more."""
    store = book(row(0), row(1, agent_id="b", user_id="u2", model="other", cost_nanos=70_000_000))
    label, key = {"agents": ("agent", "a"), "users": ("user", "u1"), "models": ("model", "gpt-4o")}[page]
    build = {"agents": agents.build, "users": users.build, "models": models.build}[page]
    view = build(store, POLICY, asked(page, **{label: key}))
    chart = next(part for part in view.parts if isinstance(part, Chart))
    assert sum(cells[1].text == "$0.0100" for cells in chart.table.rows) == len(chart.table.rows) == 1
    others = {tables.plain(text) for text in ("b", "u2", "other")}
    assert not others & {cell.text for part in view.parts if isinstance(part, Table) for r in part.rows for cell in r}


# --- time and geometry


ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe")


@given(st.integers(0, 38_400), st.integers(1, 3_840), st.sampled_from(("day", "hour")), st.sampled_from(ZONES))
@settings(deadline=None)
def test_slots_cover_the_period_without_gap_or_overlap(back: int, long: int, unit: str, zone: str) -> None:
    """Each begins where the one before ended, and the store would give every instant in it the slot's own key."""
    end = NOW - back * BUCKET_US
    told = {"since": parts.stamp(end - long * BUCKET_US), "until": parts.stamp(end), "zone": zone}
    slots = asked("overview", **told).slots(unit, None)[-asking.MOST_SLOTS :]
    assert slots[-1].until == end and len({slot.key for slot in slots}) == len(slots)
    if long * BUCKET_US < asking.MOST_SLOTS * HOUR // 2:
        assert slots[0].since == end - long * BUCKET_US
    for one, other in pairwise(slots):
        assert one.until == other.since
    shape = "%Y-%m-%d" if unit == "day" else "%Y-%m-%dT%H"
    for slot in slots:
        for at in (slot.since, slot.until - 1):
            assert datetime.fromtimestamp(at / 1e6, ZoneInfo(zone)).strftime(shape) == slot.key


@given(st.lists(st.lists(st.integers(-5, 10**13), min_size=4, max_size=4), min_size=1, max_size=6))
def test_columns_are_as_high_as_their_amounts(amounts: list[list[int]]) -> None:
    """Within the field, each on the one below it, in proportion; what is nothing or less is not drawn."""
    series = [Series(str(at), tuple(one)) for at, one in enumerate(amounts)]
    rects = columns(series, [[""] * 4] * len(series), ["0", "1", "2", "3"])
    tallest = max(sum(max(one[at], 0) for one in amounts) for at in range(4))
    top = ceiling(tallest)
    assert tallest <= top and (top <= 5 * max(tallest, 1) // 2 + 1)
    assert len(rects) == len({(rect.href, rect.series) for rect in rects})
    for at in range(4):
        foot: float = HEIGHT
        for rect in (one for one in rects if one.href == str(at)):
            amount = amounts[rect.series][at]
            assert amount > 0 and abs(rect.height - HEIGHT * amount / top) < 0.001
            assert abs(rect.y + rect.height - foot) < 0.01 and rect.x >= 0 and rect.x + rect.width <= FULL
            foot = rect.y
        assert foot > -0.01


@given(st.lists(st.integers(-5, 10**13), max_size=5), st.integers(0, 10**13))
def test_bars_never_leave_their_field(amounts: list[int], whole: int) -> None:
    """Side by side from the left, no wider than the whole in all."""
    at = 0.0
    for one in stacked(*((amount, "s0") for amount in amounts), whole=whole):
        assert abs(one.x - at) < 0.02 and one.width > 0
        at = one.x + one.width
    assert at <= FULL + 0.02


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"since": "soon"}, "since: expected a time"), ({"until": "1x"}, "until: expected a time"),
        ({"zone": "Mars/Base"}, "zone: expected"), ({"since": "1d", "until": "2d"}, "until: expected a time after"),
        ({"since": "1200-01-01"}, "since: expected a time between 1970"),
        ({"since": "9999-12-31", "until": "9999-12-31"}, "since: expected"), ({"zone": "../etc/passwd"}, "zone"),
    ],
)  # fmt: skip
def test_a_bad_question_says_what_was_expected(query: dict[str, str], told: str) -> None:
    """By the parameter's name."""
    with pytest.raises(BadQuery, match=told):
        read("overview", query, NOW)


def test_a_period_is_in_whole_quarters() -> None:
    """As the rollups are: a page and the rows behind it are of the same instants."""
    now = datetime(2025, 11, 24, 16, 7, 30, tzinfo=UTC)
    question = read("overview", {"since": "24h"}, Instant(int(now.timestamp() * 1e6)))
    since = question.filters.since
    assert since == int((now - timedelta(days=1, minutes=7, seconds=30)).timestamp()) * 1_000_000
    today = read("overview", {"since": "today", "zone": "Asia/Kolkata"}, Instant(int(now.timestamp() * 1e6)))
    assert today.filters.since == int(datetime(2025, 11, 23, 18, 30, tzinfo=UTC).timestamp()) * 1_000_000


def test_no_page_asks_for_rows_where_sums_will_do() -> None:
    """On any ledger: the pages of sums list at most one row, so that a million rows cost what one does."""

    class Strict(MemoryStore):
        def calls(self, filters: Filters = Filters(), limit: int = 100, cursor: str | None = None) -> Any:  # noqa: B008
            assert limit == 1
            return super().calls(filters, limit, cursor)

        def run(self, *told: Any) -> Any:
            raise AssertionError

        def touchers(self, *told: Any) -> Any:
            raise AssertionError

    store = Strict(clock=Watch(NOW))
    hold = store.reserve(row(status="open")).result()
    assert isinstance(hold, Hold)
    store.settle(hold, row()).result()
    for build, page in ((overview.build, "overview"), (agents.build, "agents"), (users.build, "users"),
                        (models.build, "models"), (budgets.build, "budgets"), (runs.build, "runs"),
                        (caches.build, "caches"), (alerts.build, "alerts")):  # fmt: skip
        assert build(store, POLICY, asked(page)).parts
