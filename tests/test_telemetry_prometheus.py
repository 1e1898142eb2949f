"""/metrics as Prometheus reads it: the names, what they count, their bounds, several workers, and Grafana's file."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from prometheus_client.parser import text_string_to_metric_families

from bursar.doors.telemetry.labels import OTHER, Bounded
from bursar.policy import Breaker, Budget, Match, ResponseCache, StepRule
from bursar.policy.breakers import Loop
from bursar.rules.alarm import Incident, case
from bursar.sandbox import Settings as SandboxSettings
from bursar.sandbox.server import SandboxServer
from bursar.stores.base import Store
from bursar.stores.states import Changed
from bursar.types import Instant
from conftest import ROOT
from gateways import TLS, Running, running, until

CHAT: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is double entry?"}]}
DASHBOARD = ROOT / "docs" / "grafana" / "bursar.json"
DAILY = Budget(name='day "1"', scope="user", match=Match(agent="tutor"), window="day", limit_nanos=10**9)


class Scrape:
    """One reading of /metrics by Prometheus' own parser."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Over all series with these labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    @property
    def shape(self) -> dict[str, list[str]]:
        """Every sample's name and its labels."""
        found: dict[str, set[str]] = {}
        for sample in self.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        return {name: sorted(labels) for name, labels in sorted(found.items())}


def scrape(gw: Running) -> Scrape:
    answer = gw.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Scrape(answer.text)


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[Running, Scrape]]:
    """A gateway that has met everything: answers, streams, hits, refusals, failures, unknown prices."""
    free = Match(user_tier="free")
    nothing = Budget(name="nothing", scope="session", match=free, limit_nanos=1, on_exhausted="refuse")
    kept = StepRule(match=Match(step="kept"), response_cache=ResponseCache(ttl_ms=3_600_000))
    loop = Breaker(
        name="loop", scope="session", match=Match(agent="looper"), trigger=Loop(repeats=3), suspend_ms=60_000
    )
    rules: Any = {"budgets": (DAILY, nothing), "steps": (kept,), "breakers": (loop,)}
    with running(SandboxSettings(any_model=True), noisy=True, **rules) as gw:
        for user in ("u1", "u2"):
            who = {"x-bursar-user-id": user, "x-bursar-agent-id": "tutor", "x-bursar-step": "plan"}
            gw.post("/v1/chat/completions", CHAT, who)
            gw.post("/v1/chat/completions", {**CHAT, "stream": True}, who)
            gw.post("/v1/chat/completions", CHAT, {**who, "x-bursar-step": "kept"})
            gw.post("/v1/chat/completions", CHAT, {**who, "x-bursar-step": "kept"})
        for _ in range(5):
            gw.post("/v1/chat/completions", CHAT, {"x-bursar-agent-id": "looper", "x-bursar-session-id": "s"})
            gw.rows()
        open_incident(gw.store)
        gw.post("/v1/chat/completions", CHAT, {"x-bursar-user-tier": "free"})
        gw.post("/v1/chat/completions", CHAT, {"x-sandbox-fault": "400"})
        gw.post("/v1/chat/completions", {**CHAT, "model": 'openai/we"ird\\mo\ndel'})
        gw.post("/v1/chat/completions", {**CHAT, "stream": True}, {"x-sandbox-fault": "no-usage"})
        gw.rows()
        yield gw, scrape(gw)


def open_incident(store: Store) -> None:
    """As the watchman keeps one."""
    one = Incident(
        id="i", rule="spend of the day", subject="", status="open", since=Instant(1), opened_at=Instant(2),
        known_at=Instant(2), value=2, limit=1, unit="nanos", level=0, why="w", peak=2,
    )  # fmt: skip
    body = case.write(case.Case(incident=one, severity="critical"))
    store.states.update(case.KIND, "", case.key_of(one.rule, ""), lambda before, now: Changed(body, None)).result()


def test_names_and_labels(busy: tuple[Running, Scrape]) -> None:
    """The contract of dashboards and alerts. Users, sessions and runs are no labels."""
    _, told = busy
    assert told.shape == snapshot(
        {
            "bursar_added_latency_seconds_bucket": ["le", "served"],
            "bursar_added_latency_seconds_count": ["served"],
            "bursar_added_latency_seconds_sum": ["served"],
            "bursar_alerts_open": ["alert", "severity"],
            "bursar_breakers_tripped": ["breaker", "scope", "state"],
            "bursar_budget_counters": ["budget", "scope", "state"],
            "bursar_budget_held_tokens": ["budget", "scope"],
            "bursar_budget_held_usd": ["budget", "scope"],
            "bursar_budget_settled_tokens": ["budget", "scope"],
            "bursar_budget_settled_usd": ["budget", "scope"],
            "bursar_budget_used_ratio": ["budget", "scope"],
            "bursar_build_info": ["version"],
            "bursar_call_duration_seconds_bucket": ["le", "model", "provider"],
            "bursar_call_duration_seconds_count": ["model", "provider"],
            "bursar_call_duration_seconds_sum": ["model", "provider"],
            "bursar_calls_total": ["agent", "cache", "model", "provider", "status", "step", "tier"],
            "bursar_cost_usd_total": ["agent", "model", "provider", "step", "tier"],
            "bursar_estimated_total": ["model", "provider"],
            "bursar_first_byte_seconds_bucket": ["le", "model", "provider"],
            "bursar_first_byte_seconds_count": ["model", "provider"],
            "bursar_first_byte_seconds_sum": ["model", "provider"],
            "bursar_kept_answers": [],
            "bursar_kept_bytes": [],
            "bursar_saved_usd_total": ["agent", "cache", "model", "provider", "step", "tier"],
            "bursar_telemetry_dropped_total": ["signal"],
            "bursar_tokens_total": ["agent", "model", "provider", "step", "tier", "type"],
            "bursar_unpriced_total": ["model", "provider"],
        }
    )
    assert not {"user", "session", "run"} & {label for labels in told.shape.values() for label in labels}
    for family in told.families.values():
        assert family.documentation, family.name


def test_it_counts_what_the_ledger_counts(busy: tuple[Running, Scrape]) -> None:
    """To the nano-dollar, and tokens of all kinds add up to the rows' own."""
    gw, told = busy
    rows = gw.rows()
    assert told.sum("bursar_calls_total") == len(rows)
    assert round(told.sum("bursar_cost_usd_total") * 1e9) == sum(row.cost_nanos or 0 for row in rows)
    exact = [row.cost_nanos or 0 for row in rows if row.cost_status == "final"]
    assert 0 < sum(exact) <= gw.sandbox.bill.total_nanos()
    tokens = sum((row.input_tokens or 0) + (row.output_tokens or 0) for row in rows)
    assert told.sum("bursar_tokens_total") == tokens > 0
    assert round(told.sum("bursar_saved_usd_total", cache="hit") * 1e9) == sum(row.saved_nanos or 0 for row in rows) > 0
    statuses = {row.status for row in rows}
    assert statuses >= {"completed", "failed", "refused", "hit"}
    for status in statuses:
        assert told.sum("bursar_calls_total", status=status) == sum(row.status == status for row in rows)
    asked = [row for row in rows if (row.agent_id, row.step) == ("tutor", "plan")]
    assert told.sum("bursar_calls_total", agent="tutor", step="plan", provider="openai") == len(asked) > 0
    assert told.sum("bursar_unpriced_total") == sum(row.cost_nanos is None for row in rows) > 0
    assert told.sum("bursar_estimated_total") == sum(row.cost_status == "estimated" for row in rows) > 0


def test_latency_that_bursar_adds(busy: tuple[Running, Scrape]) -> None:
    """Each answered request once; less than the provider's own time is in it."""
    gw, told = busy
    answered = [row for row in gw.rows() if row.status in ("completed", "failed") and row.attempt == 1]
    refused = sum(row.status == "refused" for row in gw.rows())
    hits = sum(row.status == "hit" for row in gw.rows())
    assert told.sum("bursar_added_latency_seconds_count", served="refusal") == refused >= 1
    assert told.sum("bursar_added_latency_seconds_count", served="cache") == hits == 2
    assert 0 < told.sum("bursar_added_latency_seconds_count", served="provider") <= len(answered)
    buckets = [s for s in told.samples if s.name == "bursar_added_latency_seconds_bucket"]
    assert any(sample.labels["le"] == "0.00025" for sample in buckets)


def test_the_providers_time_is_not_added() -> None:
    """A provider that takes 200 ms does not make Bursar slow: whole answers and streams alike."""
    with running(SandboxSettings(latency_ms=200)) as gw:
        for stream in (False, True):
            gw.post("/v1/chat/completions", {**CHAT, "stream": stream})
        gw.rows(2)
        told = scrape(gw)
    assert told.sum("bursar_call_duration_seconds_sum") >= 0.4
    assert told.sum("bursar_added_latency_seconds_count") == 2
    assert told.sum("bursar_call_duration_seconds_sum") > told.sum("bursar_added_latency_seconds_sum")


def test_alerts_and_breakers(busy: tuple[Running, Scrape]) -> None:
    """By the names of the configuration; whom they are about is no label."""
    _, told = busy
    assert told.sum("bursar_alerts_open", alert="spend of the day", severity="critical") == 1
    assert told.sum("bursar_breakers_tripped", breaker="loop", scope="session", state="open") == 1


def test_budgets(busy: tuple[Running, Scrape]) -> None:
    """What is spent and held, how many counters are in which state, and the one with the least left."""
    _, told = busy
    where = {"budget": 'day "1"', "scope": "user"}
    assert round(told.sum("bursar_budget_settled_usd", **where) * 1e9) > 0
    assert told.sum("bursar_budget_held_usd", **where) == 0
    states = {state: told.sum("bursar_budget_counters", **where, state=state) for state in ("ok", "exhausted")}
    assert states["ok"] >= 2 and states["exhausted"] == 0
    assert 0 < told.sum("bursar_budget_used_ratio", **where) < 1


@given(st.lists(st.tuples(st.text(max_size=3) | st.none(), st.text(max_size=3) | st.none()), max_size=60))
def test_labels_are_bounded(rows: list[tuple[str | None, str | None]]) -> None:
    """However many values come, so many are kept; the same labels are always counted under the same series."""
    bounded = Bounded(values=4, rows=6)
    first = [bounded(row) for row in rows]
    assert len(set(first)) <= 6 + 1
    for place in range(2):
        assert len({told[place] for told in first} - {OTHER, "(none)"}) <= 4
    kept = [row for row, told in zip(rows, first, strict=True) if OTHER not in told]
    assert [bounded(row) for row in kept] == [told for told in first if OTHER not in told]


def test_a_caller_cannot_flood_the_metrics() -> None:
    """Three hundred agents are a hundred and the others."""
    with running() as gw:
        for number in range(130):
            gw.post("/v1/chat/completions", {**CHAT, "model": f"no-{number}"}, {"x-bursar-agent-id": f"a{number}"})
        gw.rows(130)
        told = scrape(gw)
    agents = {sample.labels["agent"] for sample in told.samples if sample.name == "bursar_calls_total"}
    assert len(agents) == 101 and OTHER in agents
    assert told.sum("bursar_calls_total") == 130


def test_grafana_asks_for_what_there_is(busy: tuple[Running, Scrape]) -> None:
    """Every metric and label in every query of the dashboard is on /metrics."""
    _, told = busy
    board = json.loads(DASHBOARD.read_text("utf-8"))
    queries = list(_queries(board))
    assert len(queries) > 15
    used: set[str] = set()
    for query in queries:
        found = re.findall(r"\b(bursar_[a-z_]+)(?:\{([^}]*)\})?", query)
        assert found, query
        labels = set(re.findall(r"by \(([^)]*)\)", query))
        grouped = {label.strip() for group in labels for label in group.split(",")}
        matched = {one for _, inner in found for one in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inner)}
        values = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
        wanted = matched | grouped | ({values.group(2)} if values else set())
        known = {label for name, _ in found for label in told.shape.get(name, [])}
        for name, _ in found:
            assert name in told.shape, f"{name} in {query}"
            used.add(name)
        assert wanted <= known | {"le"}, f"{wanted - known} in {query}"
    assert {"bursar_cost_usd_total", "bursar_budget_used_ratio", "bursar_added_latency_seconds_bucket"} <= used


def _queries(board: Any) -> Iterator[str]:
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def test_several_workers_answer_for_all(tmp_path: Path) -> None:
    """Whichever worker is asked, the sum is of all; the counters are gone with the gateway."""
    with SandboxServer() as provider:
        config = tmp_path / "bursar.toml"
        config.write_text(
            f'[store]\nurl = "sqlite:///{tmp_path}/bursar.db"\n[providers.openai]\napi = "openai"\n'
            f'base_url = "{provider.url}/v1"\n[logging]\nformat = "json"\nlevel = "info"\n'
        )
        command = [sys.executable, "-m", "bursar.doors.cli", "serve", "--port", "0", "--workers", "2", "--json"]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([*command, "--config", str(config)], stdout=subprocess.PIPE, stderr=log)
            try:
                assert process.stdout is not None
                url = json.loads(process.stdout.readline())["gateway"]
                until(lambda: _ready(url), "the gateway is ready")
                calls = 40
                for _ in range(calls):  # a connection each, so that both workers have some
                    httpx2.post(f"{url}/v1/chat/completions", json=CHAT, verify=TLS).raise_for_status()
                until(lambda: _counted(url) == calls, "all calls are counted")
                assert {_counted(url) for _ in range(10)} == {float(calls)}
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    told = [line for line in lines if line["logger"] == "bursar.calls"]
    assert len(told) == calls and all(line["status"] == "completed" and line["cost_usd"] for line in told)


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/bursar/v1/ready", verify=TLS).status_code == 200
    except httpx2.TransportError:
        time.sleep(0.01)
        return False


def _counted(url: str) -> float:
    return Scrape(httpx2.get(f"{url}/metrics", verify=TLS).text).sum("bursar_calls_total", status="completed")
