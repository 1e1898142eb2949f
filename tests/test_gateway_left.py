"""Who hangs up while his answer is held back: nobody is asked, judged or tried again for nobody.

What the provider bills in any case is read to its end; of the rest as much is booked as was seen.
"""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bursar.policy import Check, Drain, Match, Retry, StepRule
from bursar.sandbox import Settings
from bursar.types import Answer
from gateways import Running, running, until
from test_gateway_ends import STREAMS, opened, take

CALLED = threading.Event()
"""A validator has been asked."""
GO = threading.Event()
LATE = {"x-sandbox-latency-ms": "80"}


def no(answer: Answer) -> bool:
    return False


def waits(answer: Answer) -> bool:
    CALLED.set()
    return GO.wait(20)


RULES = (
    StepRule(match=Match(step="climb"), cascade=("small", "flash"), validators=(Check("no", no),)),
    StepRule(match=Match(step="kept"), validators=(Check("no", no),)),
    StepRule(match=Match(step="slow"), cascade=("small", "flash"), validators=(Check("waits", waits),)),
)


@pytest.fixture(scope="module")
def module_gateway() -> Iterator[Running]:
    keys = {"openai": "k", "second": "k", "anthropic": "k", "gemini": "k"}
    rest = Retry(base_ms=600_000, cap_ms=600_000)
    with running(Settings(chunk_ms=2), steps=RULES, retry=rest, credentials=keys) as gateway:
        yield gateway


@pytest.fixture
def gw(module_gateway: Running) -> Running:
    module_gateway.fresh()
    return module_gateway


def over(gw: Running) -> None:
    """No request is under way any more."""
    until(lambda: not gw.server.server_state.tasks, "the request has ended")


def left(gw: Running, api: str, step: str, **more: Any) -> None:
    """Hang up as soon as the provider has the request."""
    with opened(gw, api, {"x-bursar-step": step, **LATE}, **more):
        until(lambda: len(gw.sandbox.requests) == 1, "the provider was asked")
    over(gw)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_cascade_does_not_climb_for_nobody(gw: Running, api: str, stream: bool) -> None:
    """The first tier's answer is read, since it is billed, and not judged; the second is not asked."""
    left(gw, api, "climb", stream=stream)
    row = gw.row()
    assert (row.status, row.cost_status, row.attempt, row.tier) == ("abandoned", "final", 1, "small")
    assert gw.cost() == gw.sandbox.bill.total_nanos() > 0 and len(gw.sandbox.requests) == 1


def test_where_leaving_stops_the_bill_it_is_left(gw: Running) -> None:
    """Anthropic, in the middle of a stream that is held back."""
    with opened(gw, "messages", {"x-bursar-step": "kept"}):
        until(lambda: len(gw.sandbox.requests) == 1, "the provider was asked")
    over(gw)
    row = gw.row()
    assert (row.status, row.cost_status) == ("abandoned", "estimated") and gw.sandbox.bill.wait(1)
    (line,) = gw.sandbox.bill.lines
    assert line.status == "cut" and line.usage.get("output", 0) < 400
    assert len(gw.sandbox.requests) == 1


def test_a_retry_is_not_waited_for(gw: Running) -> None:
    """The pause before it is ten minutes."""
    fault = {"x-sandbox-fault": "500"}
    with opened(gw, "chat", {**fault, "x-bursar-step": "kept"}, stream=False):
        until(lambda: bool(gw.store.calls(limit=1).items) and gw.row().status == "failed", "the attempt has failed")
    over(gw)
    assert gw.row().http_status == 500 and len(gw.sandbox.requests) == 1


def test_nor_is_a_validator(gw: Running) -> None:
    """Its answer was given and paid; who leaves then is told nothing, and no further tier is asked."""
    CALLED.clear()
    try:
        with opened(gw, "chat", {"x-bursar-step": "slow"}, stream=False):
            assert CALLED.wait(10)
            assert gw.get("/bursar/v1/health").status_code == 200, "the event loop is free meanwhile"
        over(gw)
        row = gw.row()
        assert (row.status, row.cost_status) == ("completed", "final") and len(gw.sandbox.requests) == 1
    finally:
        GO.set()


def test_what_is_read_for_nobody_has_its_bounds() -> None:
    """In number and in time: past them it is cancelled."""
    for drain in (Drain(streams=0), Drain(seconds=0)):
        with running(Settings(chunk_ms=20), steps=RULES, drain=drain, credentials={"openai": "k"}) as own:
            with opened(own, "chat", {"x-bursar-step": "kept"}):
                until(lambda: bool(own.sandbox.requests), "the provider was asked")
            row = own.row()
            assert (row.status, row.cost_status) == ("abandoned", "estimated"), row
            assert own.app.proxy.driver.drains == 0


def test_who_stays_has_his_answer(gw: Running) -> None:
    """A second request on the same connection too."""
    for _ in range(2):
        assert gw.post("/v1/chat/completions", STREAMS["chat"][1], {"x-bursar-step": "kept"}).status_code == 200
    with opened(gw, "chat") as one:
        assert take(one, 15) == b"HTTP/1.1 200 OK"
    gw.rows(3)
