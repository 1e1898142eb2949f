"""The log: a line a row with ids and cost, and never a word of a prompt, a key, an answer or what an error quotes."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.doors.telemetry import Listeners, logs
from bursar.money import format_usd
from bursar.policy import Budget, Match
from bursar.sandbox import Settings as SandboxSettings
from bursar.sandbox.answers import Task
from bursar.sandbox.server import SandboxServer
from bursar.types import Entry
from gateways import create_key, running
from library_kit import anthropic, chat, guarded, message, openai, rows

CHAT: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "sentinel-prompt"}]}
CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "google_genai")
"""Loggers of the callers' own side, which may well log what they send."""
SAID = Task(kind="chat", match="sentinel-prompt", right="sentinel-answer", wrong="sentinel-answer")
FAULTS = ("", "400", "429", "500", "overloaded", "cut", "malformed", "error-event", "no-usage", "timeout")


@contextmanager
def logged(style: Any = "json") -> Iterator[io.StringIO]:
    """All that this process logs, from DEBUG on, but for the callers' own side."""
    out, root = io.StringIO(), logging.getLogger()
    before = root.level, logging.getLogger("bursar").level
    handler = logs.configure(style, "debug", out)
    handler.addFilter(lambda record: record.name.partition(".")[0] not in CLIENTS)
    root.setLevel(logging.DEBUG)
    try:
        yield out
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        logging.getLogger("bursar").setLevel(before[1])


def entry(**told: Any) -> Entry:
    said: dict[str, Any] = dict.fromkeys(
        ("run_id", "parent_run_id", "session_id", "user_id", "user_tier", "agent_id", "step", "key_id", "tier")
    )
    said |= {"request_id": "req_1", "attempt": 1, "tenant": "default", "tags": (), "started_at": 1, "api": "chat"}
    said |= {"provider": "openai", "requested_model": "gpt-4o", "model": "gpt-4o", "route_reason": "caller"}
    return Entry(**{**said, "stream": False, **told})


@pytest.mark.parametrize("style", ["json", pytest.param("text", marks=pytest.mark.slow)])
def test_the_gateway_logs_no_content(style: str) -> None:
    """A mixed load with every fault, bad keys, refusals and bodies that are no JSON, at DEBUG."""
    says = SandboxSettings(timeout_s=0.05, tasks=(SAID,))
    nothing = Budget(name="nothing", scope="user", match=Match(user_tier="free"), limit_nanos=1)
    with logged(style) as out, running(says, keyed=True, budgets=(nothing,), noisy=True) as gw:
        key = create_key(gw.store, trusted=frozenset(("user_tier",)))
        for fault in FAULTS:
            for stream in (False, True):
                told = {"authorization": f"Bearer {key}", "x-sandbox-fault": fault}
                answer = gw.post("/v1/chat/completions", {**CHAT, "stream": stream}, told)
                assert fault or "sentinel" in answer.text
        gw.post("/v1/chat/completions", CHAT, {"authorization": "Bearer sentinel-key"})
        gw.post("/v1/chat/completions", CHAT, {"authorization": f"Bearer {key}", "x-bursar-user-tier": "free"})
        gw.post("/v1/chat/completions", b"sentinel-prompt, not JSON", {"authorization": f"Bearer {key}"})
        gw.post("/v1/messages?key=sentinel-key", {"messages": "sentinel-prompt"}, {"x-api-key": key})
        booked = gw.rows()
    text = out.getvalue()
    assert "sentinel" not in text and key not in text and key[4:] not in text
    assert text.count("bursar.calls") == len(booked)
    for row in booked:
        assert row.request_id in text


def test_the_library_logs_no_content() -> None:
    """The same for wrapped clients; a fault in a user's own code is told without its words."""
    says = SandboxSettings(timeout_s=0.05, tasks=(SAID,))
    with SandboxServer(says) as server, logged() as out, guarded() as guard:
        one = guard.wrap(openai(server.url, max_retries=0, timeout=5))
        other = guard.wrap(anthropic(server.url, max_retries=0, timeout=5))
        for fault in FAULTS:
            for ask in (chat, message):
                client = one if ask is chat else other
                with guard.run(agent="a", user="u"):
                    try:
                        ask(client, "sentinel-prompt", extra_headers={"x-sandbox-fault": fault})
                        list(ask(client, "sentinel-prompt", stream=True, extra_headers={"x-sandbox-fault": fault}))
                    except Exception as failed:
                        assert fault, failed
        booked = rows(guard)
    text = out.getvalue()
    assert len(booked) > 20 and "sentinel" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    calls = [line for line in lines if line["logger"] == "bursar.calls"]
    assert {line["request_id"] for line in calls} == {row.request_id for row in booked}
    told = {(line["request_id"], line["attempt"]): line for line in calls}
    for row in booked:
        line = told[row.request_id, row.attempt]
        assert line["status"] == row.status and line.get("agent_id") == "a"
        assert line.get("cost_usd") == (None if row.cost_nanos is None else format_usd(row.cost_nanos))


def test_an_error_is_told_by_its_kind() -> None:
    """A provider's words may quote a prompt; an exception's message may quote anything."""
    told = logs.fields(entry(status="failed", http_status=400, error='HTTP 400: "sentinel" is not allowed'))
    assert told["error"] == "400" and "sentinel" not in str(told)
    assert logs.fields(entry(status="failed", error="ReadTimeout: sentinel"))["error"] == "ReadTimeout"
    assert logs.fields(entry(status="failed", error="sentinel prompt: said"))["error"] == "_OTHER"
    with logged() as out:
        try:
            raise ValueError("sentinel")
        except ValueError:
            logging.getLogger("bursar").exception("it went wrong")
    line = json.loads(out.getvalue())
    assert (line["exception"], line["message"], line["level"]) == ("ValueError", "it went wrong", "error")
    assert any("test_telemetry_logs.py" in place for place in line["at"]) and "sentinel" not in out.getvalue()


@given(label=st.text(min_size=1, max_size=40))
def test_a_label_cannot_break_out_of_its_line(label: str) -> None:
    """Whatever a caller calls an agent: one line of text, one JSON object with that very name."""
    for style in ("text", "json"):
        with logged(style) as out:
            logs.listen(entry(status="completed", agent_id=label))
        (line,) = out.getvalue().removesuffix("\n").split("\n")
        assert "\r" not in line
        if style == "json":
            assert json.loads(line)["agent_id"] == label
        else:
            assert line.count(" status=completed") == 1 or " status=completed" in label


def test_a_listener_that_fails_harms_nobody() -> None:
    """The others still hear; it is said once, by its kind."""
    heard: list[Entry] = []

    def fails(row: Entry) -> None:
        raise RuntimeError("sentinel")

    listeners = Listeners((fails, heard.append))
    with logged() as out:
        for _ in range(3):
            listeners(entry(status="completed"))
    assert len(heard) == 3
    assert out.getvalue().count("RuntimeError") == 1 and "sentinel" not in out.getvalue()
