"""A life of one attempt by a plan of the test's own, in place of the engine's: what drivers and doors make of a plan.

Not a test itself.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bursar.effects import Now, Reserve, Send, Settle
from bursar.policy import Policy
from bursar.rules import book
from bursar.types import Call, Hold, Outcome, Plan, Ratios, Verdict


def planned(monkeypatch: pytest.MonkeyPatch, plan: Callable[[Call], Plan], **changes: Any) -> list[Outcome]:
    """From here on every call, so changed, is sent once by this plan; the outcomes, as they come."""
    outcomes: list[Outcome] = []

    async def handle(call: Call, policy: Policy) -> Verdict:
        call = msgspec.structs.replace(call, **changes)
        way = plan(call)
        entry = book.opening(call, way, 1, await Now(), policy)
        hold: Any = await Reserve(entry)
        assert isinstance(hold, Hold)
        outcome = await Send(way, entry, hold, call)
        outcomes.append(outcome)
        entry = book.closing(entry, outcome, Ratios(), policy)
        await Settle(hold, entry, way)
        return Verdict(outcome, entry, 1)

    monkeypatch.setattr("bursar.drivers.life.handle", handle)
    return outcomes
