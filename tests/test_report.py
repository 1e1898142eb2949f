"""Reports and call maps: every sum is that of its rows, unknown is never zero, and labels cannot drive a terminal."""

import io
import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bursar.doors.cli import callmap as maps
from bursar.doors.cli import tables
from bursar.insights import callmap, report, rows
from bursar.money import format_usd, parse_usd
from bursar.stores.base import Page, Store
from bursar.stores.memory import MemoryStore
from bursar.types import Entry, Hold, Instant

T0 = Instant(1_760_000_000_000_000)
QUARTER = 900_000_000
TIERS = ("small", "mid", "frontier")


def row(number: int = 0, **told: Any) -> Entry:
    """A completed row of a hundred tokens in, ten out, one cent."""
    usual = Entry(
        request_id=f"req_{number:04}", attempt=1, run_id="r1", parent_run_id=None, session_id=None, user_id="u1",
        user_tier=None, agent_id="a", step="s", tenant="default", tags=(), key_id=None,
        started_at=Instant(T0 + number), duration_ms=5, api="chat", provider="openai", requested_model="gpt-4o",
        model="gpt-4o", tier="mid", route_reason="caller", stream=False, status="completed", http_status=200,
        input_tokens=100, cached_tokens=0, cache_write_tokens=0, output_tokens=10, reasoning_tokens=0,
        cost_nanos=10_000_000, cost_status="final",
    )  # fmt: skip
    return msgspec.structs.replace(usual, **told)


def unpriced(number: int = 0, **told: Any) -> Entry:
    """A completed row of a model without a price."""
    return row(number, **({"model": "mystery", "tier": None, "cost_nanos": None, "cost_status": "unpriced"} | told))


def book(*entries: Entry) -> Store:
    store = MemoryStore()
    for entry in entries:
        opened = msgspec.structs.replace(entry, status="open", cost_nanos=None, cost_status="unpriced")
        hold = store.reserve(opened).result()
        assert isinstance(hold, Hold)
        store.settle(hold, entry).result()
    return store


def shown(found: report.Report) -> str:
    out = io.StringIO()
    tables.print_report(found, Console(file=out, width=1000, markup=False, emoji=False, highlight=False))
    return out.getvalue()


LABELS = {"agent": "agent_id", "step": "step", "user": "user_id", "model": "model", "tier": "tier", "api": "api"}
some = st.sampled_from(("a", "b", None))
entries: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        agent_id=some,
        step=some,
        user_id=some,
        model=some,
        tier=some,
        api=st.sampled_from(("chat", "messages")),
        at=st.integers(0, 200),
        input_tokens=st.none() | st.integers(0, 10**7),
        output_tokens=st.none() | st.integers(0, 10**6),
        cost_nanos=st.none() | st.integers(0, 10**12),
    ),
    max_size=12,
)


@given(entries, st.sampled_from((*LABELS, "day", "hour", "total")))
@settings(deadline=None, max_examples=60)
def test_rows_of_a_report_are_the_sums_of_their_calls(told: list[dict[str, Any]], by: str) -> None:
    """Whatever it is asked by, each row is exactly what its calls add up to, and all rows are the total."""
    booked = []
    for number, one in enumerate(told):
        at = Instant(T0 + one["at"] * QUARTER)
        status = "unpriced" if one["cost_nanos"] is None else "final"
        known = {name: value for name, value in one.items() if name != "at"}
        booked.append(row(number, **known, cost_status=status, started_at=at))
    answer = report.as_json(report.build(book(*booked), by=by))
    sums: defaultdict[str | None, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for entry in booked:
        key = getattr(entry, LABELS[by]) if by in LABELS else _time(entry.started_at, by)
        added = (1, entry.input_tokens or 0, entry.cost_nanos or 0, int(entry.cost_nanos is None))
        sums[key] = [old + new for old, new in zip(sums[key], added, strict=True)]
    found = {line[by]: _numbers(line) for line in answer["rows"]}
    assert found == dict(sums)
    assert _numbers(answer["totals"]) == [sum(column) for column in zip(*sums.values(), strict=True)] or not booked


def _numbers(line: dict[str, Any]) -> list[int]:
    return [line["calls"], line["input_tokens"] or 0, parse_usd(line["cost_usd"] or "0"), line["unpriced"]]


def _time(at: Instant, by: str) -> str | None:
    shapes = {"day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H"}
    return datetime.fromtimestamp(at / 1e6, UTC).strftime(shapes[by]) if by in shapes else None


def test_the_four_metrics() -> None:
    """Cost per run with nested runs in their root's, per user, hit rate, and models by tier, cheapest tier first."""
    store = book(
        row(0, run_id="r1", tier="frontier", model="opus", cost_nanos=3_000_000_000),
        row(1, run_id="n1", parent_run_id="r1", agent_id="helper", cost_nanos=1_000_000_000),
        row(2, run_id="r2", user_id="u2", tier="small", model="mini", cost_nanos=2_000_000_000, cached_tokens=50),
    )
    told = report.as_json(report.build(store, tiers=TIERS))
    runs = told["metrics"]["cost_per_run"]
    assert (runs["runs"], runs["cost_usd"], runs["mean_usd"], runs["p99_usd"]) == (2, "6", "3", "4")
    assert [(line["agent"], line["runs"], line["cost_usd"]) for line in runs["by_agent"]] == [("a", 2, "6")]
    users = told["metrics"]["cost_per_user"]
    assert (users["users"], users["mean_usd"]) == (2, "3")
    assert [(line["user"], line["cost_usd"]) for line in users["top"]] == [("u1", "4"), ("u2", "2")]
    cache = told["metrics"]["cache_hit_rate"]
    assert (cache["rate"], cache["hits"], cache["calls"], cache["provider_rate"]) == (0, 0, 3, 50 / 300)
    models = told["metrics"]["model_distribution"]
    assert [(line["tier"], line["cost_share"]) for line in models["tiers"]] == [
        ("small", 2 / 6), ("mid", 1 / 6), ("frontier", 3 / 6)
    ]  # fmt: skip
    assert {line["model"]: line["cost_usd"] for line in models["models"]} == {"opus": "3", "mini": "2", "gpt-4o": "1"}
    assert told["period"] == {"since": None, "until": None, "zone": "UTC"}
    json.dumps(told)


def ids(store: Store, tiers: tuple[str, ...] = TIERS) -> set[str]:
    return {remark.id for remark in report.build(store, tiers=tiers).remarks}


def test_remarks_are_made_where_they_are_due_and_not_elsewhere() -> None:
    """Under 20 % hits, 80 % at the top tier by calls or by dollars, and every kind of unknown."""
    hits = [row(n, status="hit", cache="hit", cost_nanos=0) for n in range(1, 5)]
    assert ids(book(*hits, *(row(n) for n in range(5, 21)))) == set()  # a hit rate of 20 % is not under it
    assert ids(book(*hits, *(row(n) for n in range(5, 22)))) == {"low_hit_rate"}
    cheap = [row(n, tier="small", cost_nanos=1_000_000_000) for n in range(10)]
    by_dollars = book(*cheap, row(10, tier="frontier", cost_nanos=40_000_000_000))
    assert ids(by_dollars) == {"low_hit_rate", "top_heavy"}
    by_calls = book(*(row(n, tier="frontier", cost_nanos=1) for n in range(8)), *cheap[8:])
    assert ids(by_calls) == {"low_hit_rate", "top_heavy"}
    assert "top_heavy" not in ids(by_calls, ())
    without = book(*(row(n, tier=None) for n in range(8)), row(8, tier=None, model="mini"))
    assert ids(without, ()) == {"low_hit_rate", "one_model"}
    odd = book(unpriced(0), row(1, cost_status="estimated", output_tokens=None))
    assert ids(odd) == {"low_hit_rate", "unpriced", "estimated", "unknown_usage"}
    assert ids(MemoryStore()) == set()


def test_unknown_is_not_zero() -> None:
    """A sum of nothing known is null and "unknown"; one with unknown parts is shown as a lower bound."""
    blind = unpriced(0, run_id="r9", user_id="u9", input_tokens=None, output_tokens=None)
    found = report.build(book(blind), by="model")
    told = report.as_json(found)
    (line,) = told["rows"]
    assert (line["cost_usd"], line["input_tokens"], line["output_tokens"], line["unpriced"]) == (None, None, None, 1)
    assert told["totals"]["cost_usd"] is None
    assert "mystery" in shown(found) and "$0 " not in shown(found).partition("Cache hit rate")[0]
    mixed = shown(report.build(book(blind, row(1, run_id="r9"))))
    assert "≥ $0.0100" in mixed
    assert report.as_csv(found).splitlines()[1].startswith("mystery,1,1,1,0,0,0,0,0,,")
    (run,) = map(rows.run, book(blind).runs().items)
    assert (run["cost_usd"], run["tree_cost_usd"]) == (None, None)


def test_a_period_is_told_as_it_was_summed() -> None:
    """Since and until are widened to whole quarters of an hour, and the report says to which."""
    told = report.build(book(row()), since=Instant(T0 + 1), until=Instant(T0 + QUARTER + 1))
    assert told.since is not None and told.until is not None
    assert told.since % QUARTER == told.until % QUARTER == 0
    assert told.since <= T0 + 1 < told.since + QUARTER and told.until - QUARTER < T0 + QUARTER + 1 <= told.until
    exact = Instant(T0 - T0 % QUARTER)
    assert report.build(book(row()), since=exact, until=exact).until == exact


def test_a_question_that_no_rollup_answers_says_what_can_be_asked() -> None:
    """A wrong `by` is a ValueError with the right ones."""
    with pytest.raises(ValueError, match="ask by agent, step"):
        report.build(book(row()), by="colour")


# --- call maps

trees = st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 8)), min_size=1, max_size=30)


@given(trees)
@settings(deadline=None)
def test_a_call_map_has_every_attempt_once_and_in_order(told: list[tuple[int, int | None]]) -> None:
    """Whatever the parents say, circles and strangers included: no attempt is lost or doubled; the root sums all."""
    calls = [
        row(number, run_id=f"r{run}", parent_run_id=None if parent is None else f"r{parent}")
        for number, (run, parent) in enumerate(told)
    ]
    nodes = callmap.grow("r0", calls)
    attempts = [node.item for node in nodes if isinstance(node.item, Entry)]
    assert sorted(attempts, key=lambda entry: entry.started_at) == calls
    for run in {entry.run_id for entry in calls}:
        of_run = [entry for entry in attempts if entry.run_id == run]
        assert of_run == sorted(of_run, key=lambda entry: entry.started_at)
    head = nodes[0].item
    assert isinstance(head, callmap.Head)
    assert (nodes[0].depth, head.run_id) == (0, "r0")
    assert (head.counts.attempts, head.counts.cost_nanos) == (len(calls), 10_000_000 * len(calls))


def test_a_nested_run_stands_where_it_began() -> None:
    """Its attempts lie one deeper, under a head with its sums; its parent goes on after it."""
    calls = [
        row(0), row(1, run_id="n1", parent_run_id="r1", agent_id="b"), row(2),
        row(3, run_id="n2", parent_run_id="n1", agent_id="c"), row(4),
    ]  # fmt: skip
    told = [
        (node.depth, node.item.request_id if isinstance(node.item, Entry) else node.item.run_id)
        for node in callmap.grow("r1", calls)
    ]
    assert told == [
        (0, "r1"), (1, "req_0000"), (1, "n1"), (2, "req_0001"), (2, "n2"), (3, "req_0003"), (1, "req_0002"),
        (1, "req_0004"),
    ]  # fmt: skip
    answer = callmap.as_json("r1", None, calls)
    assert [(call["request_id"], call["depth"]) for call in answer["calls"]] == [
        ("req_0000", 0), ("req_0001", 1), ("req_0002", 0), ("req_0003", 2), ("req_0004", 0)
    ]  # fmt: skip


def test_runs_may_nest_as_deep_as_they_like() -> None:
    """Three thousand runs within each other are a map like any other."""
    calls = [row(n, run_id=f"r{n}", parent_run_id=f"r{n - 1}" if n else None) for n in range(3000)]
    nodes = callmap.grow("r0", calls)
    assert (len(nodes), nodes[-1].depth) == (6000, 3000)


def test_labels_cannot_drive_the_terminal() -> None:
    """Escape sequences, markup and emoji codes of callers are printed, not obeyed."""
    evil = "\x1b[2J[red]:smile:\n"
    store = book(row(0, run_id=evil, agent_id=evil, step=evil, user_id=evil, model=evil, tier=evil))
    out = io.StringIO()
    console = Console(file=out, width=1000, markup=False, emoji=False, highlight=False)
    tables.print_report(report.build(store), console)
    tables.print_runs(Page(store.runs().items), console)
    maps.print_run(evil, store.run_total(evil), callmap.grow(evil, store.run(evil)), console)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("[2J[red]:smile:\N{REPLACEMENT CHARACTER}") >= 6


@pytest.mark.parametrize(
    ("nanos", "told"),
    [(None, "unknown"), (0, "$0"), (1, "$0.000000"), (123_456, "$0.000123"), (15_040_000, "$0.0150"),
     (-2_500_000_000, "$-2.5000"), (1_234_567_890_000, "$1,234.57")],
)  # fmt: skip
def test_dollars_for_the_eye(nanos: int | None, told: str) -> None:
    """As many decimals as the amount needs to be told from others; --json has all of them."""
    assert tables.dollars(nanos) == told
    assert nanos is None or parse_usd(format_usd(nanos)) == nanos
