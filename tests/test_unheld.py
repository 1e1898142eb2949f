"""A ledger that fails in the middle of a call: nothing more is sent, and an answer that was paid for is given."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from audit_kit import AsyncWhole, Whole, calling, closed_rows, world
from bursar.drivers.aio import AsyncDriver
from bursar.drivers.blocking import Driver
from bursar.drivers.life import Shipment, TransportFailure
from bursar.policy import Check, Consistency, JudgePrompt, Policy, Validator
from bursar.stores.base import StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.stores.receipt import Receipt
from bursar.types import Ask, Completed, Entry, Hold, Refused, Verdict
from route_kit import rules, step

Way = Literal["blocking", "asyncio"]
FREE = Ask()


class Failing(MemoryStore):
    """Takes so many Reserves."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self._left = takes

    def _take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreFailure("the disk is full")

    def reserve(self, entry: Entry, ask: Ask = FREE) -> Receipt[Hold | Refused]:
        self._take()
        return super().reserve(entry, ask)


def no(answer: Any) -> bool:
    return False


def lived(way: Way, store: MemoryStore, policy: Policy, asked: Callable[[], None], attempts: int = 1) -> Verdict:
    """The verdict of one call; `asked` hears of every request that is sent."""
    call = replace(calling(), attempts=attempts)
    if way == "blocking":

        def upstream(shipment: Shipment) -> Any:
            asked()
            return Whole(shipment)

        verdict = Driver(world(store), policy).serve(call, upstream).verdict
    else:

        async def aupstream(shipment: Shipment) -> Any:
            asked()
            return AsyncWhole(shipment)

        verdict = asyncio.run(AsyncDriver(world(store), policy).serve(call, aupstream)).verdict
    assert verdict is not None
    return verdict


@pytest.mark.parametrize("way", ["blocking", "asyncio"])
@pytest.mark.parametrize(
    ("validator", "takes"),
    [(Check("no", no), 1), (JudgePrompt("Is it right?"), 1), (JudgePrompt("Is it right?"), 2), (Consistency(2), 1)],
)
def test_what_was_paid_for_is_given_and_flagged(way: Way, validator: Validator, takes: int) -> None:
    """Whatever the Reserve that fails is for: an escalation, a judge, a sample."""
    sent = list[str]()
    store = Failing(takes)
    policy = rules(step(cascade=("small", "mid"), validators=(validator,)))
    verdict = lived(way, store, policy, lambda: sent.append("one"))
    assert isinstance(verdict.outcome, Completed) and verdict.flagged
    assert len(sent) == takes
    rows = closed_rows(store)
    assert [row.status for row in rows].count("completed") == takes
    told = [row.error for row in rows if row.status != "completed"]
    assert all("nothing more was sent: the disk is full" in (error or "") for error in told)


@pytest.mark.parametrize("way", ["blocking", "asyncio"])
@pytest.mark.parametrize("takes", [0, 1])
def test_where_there_is_no_answer_the_door_hears_of_it(way: Way, takes: int) -> None:
    """Of the first attempt, and of one that follows an attempt that failed."""

    def breaks() -> None:
        raise TransportFailure("gone")

    with pytest.raises(StoreFailure, match="the disk is full"):
        lived(way, Failing(takes), rules(step(tier="small")), breaks, attempts=2)
