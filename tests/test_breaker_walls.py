"""What a review of breakers and alerts found, each held by a test: rooms, windows, secrets, lines of other versions."""

import logging

import pytest

from bursar.drivers.services import Service
from bursar.policy.breakers import Breaker, Ceiling
from bursar.rules import window
from bursar.rules.breaker import life
from bursar.stores.states import Changed
from bursar.types import Instant
from test_breaker_doors import ask, loop, suspending

USD = 10**9
LATE = Instant(1_764_547_800_000_000)
"""2025-12-01 00:10 UTC."""


def test_one_call_that_is_too_large_suspends_no_tenant() -> None:
    """It is refused alone: everybody else's small calls go on."""
    with suspending(Breaker(name="ceiling", scope="tenant", trigger=Ceiling(over_nanos=USD // 200))) as (gw, _):
        ask(gw, "hi", session="a")
        ask(gw, "x" * 60_000, session="a")
        for session in ("a", "b"):
            ask(gw, "hi", session=session)
        rows = gw.get("/bursar/v1/calls").json()["items"]
        assert [row["status"] for row in reversed(rows)] == ["completed", "refused", "completed", "completed"]
        assert gw.get("/bursar/v1/breakers").json()["items"] == []


def test_a_new_window_ends_the_suspension_of_its_ceiling() -> None:
    """However often a probe was refused before: in the new one there is room."""
    rule = Breaker(name="day", scope="user", trigger=Ceiling(over_nanos=5 * USD, window="day"), suspend_ms=1_800_000)
    _, end = window.bounds("day", "UTC", LATE)
    assert end is not None
    state = life.refused(life.CLOSED, LATE, rule)
    for number in range(20):
        assert state.until is not None and state.until <= end
        if state.until == end:
            break
        state = life.refused(life.admits(state, state.until, rule, f"req_{number}").state, state.until, rule)
    assert state.until == end


def test_a_line_of_another_version_hides_nothing_else() -> None:
    with suspending(noisy=True) as (gw, _):
        loop(gw)
        (one,) = gw.get("/bursar/v1/breakers").json()["items"]
        note = gw.store.states.update("breaker", one["tenant"], one["id"], lambda body, now: Changed(body, 1, (b"{}",)))
        assert note.result() == 1
        assert [gw.get(path).status_code for path in ("/bursar/v1/breakers", "/metrics", "/")] == [200] * 3
        assert [found["id"] for found in gw.get("/bursar/v1/breakers").json()["items"]] == [one["id"]]


def test_a_services_url_is_in_no_log(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """apprise would log it, token and all."""
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match="apprise does not know"):
        Service("slack://T0/SECRETTOKEN")
    out, err = capsys.readouterr()
    assert "SECRETTOKEN" not in caplog.text + out + err
