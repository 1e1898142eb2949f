"""Coalescing: one of identical calls is sent; who waits is never forgotten and never waits for nobody."""

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bursar.drivers.flights import Flights
from bursar.stores.receipt import Receipt
from bursar.types import Instant, Joined, Kept

KEY = b"k" * 32
KEPT = Kept(
    body=b"{}", request_id="r", provider="p", model="m", tier=None, step=None, tenant="t", cost_nanos=1,
    stored_at=Instant(0), fresh_until=Instant(1), gone_at=Instant(1),
)  # fmt: skip


def test_the_leaders_answer_is_everybodys() -> None:
    """And the next call after that leads again."""
    flights = Flights()
    assert flights.join(KEY, "a").result() == "leads"
    waiting = [flights.join(KEY, f"w{i}") for i in range(3)]
    assert flights.awaited(KEY) and not any(receipt.done() for receipt in waiting)
    flights.land(KEY, "a", KEPT, again=False)
    assert [receipt.result() for receipt in waiting] == [KEPT] * 3
    assert flights.join(KEY, "b").result() == "leads"
    assert not flights.awaited(KEY) and not flights.awaited(None)


def test_a_failure_that_may_pass_promotes_one_and_any_other_frees_all() -> None:
    flights = Flights()
    flights.join(KEY, "a")
    first, second, third = (flights.join(KEY, name) for name in "bcd")
    flights.land(KEY, "a", None, again=True)
    assert first.result() == "leads" and not second.done()
    flights.land(KEY, "a", KEPT, again=False)
    assert not second.done(), "the old leader has no say any more"
    flights.land(KEY, "b", None, again=False)
    assert (second.result(), third.result()) == ("alone", "alone")


def test_who_leaves_is_forgotten() -> None:
    """A waiter that left is not promoted; a leader that left has an heir; the last one leaves nothing behind."""
    flights = Flights()
    flights.join(KEY, "a")
    flights.join(KEY, "gone")
    heir = flights.join(KEY, "heir")
    flights.leave("gone")
    flights.leave("a")
    assert heir.result() == "leads"
    flights.leave("heir")
    flights.leave("heir")
    assert flights.join(KEY, "b").result() == "leads"


def test_who_does_not_wait_goes_on() -> None:
    flights = Flights()
    assert flights.join(KEY, "a", waits=False).result() == "leads"
    assert flights.join(KEY, "b", waits=False).result() == "alone"
    assert not flights.awaited(KEY)


@given(st.lists(st.tuples(st.sampled_from(["join", "land", "again", "keep", "leave"]), st.integers(0, 5)), max_size=40))
def test_there_is_always_one_leader_while_anybody_waits(steps: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order: whoever still waits is led by somebody who has not ended."""
    flights = Flights()
    receipts: dict[str, Receipt[Joined]] = {}
    ended: set[str] = set()
    for step, number in steps:
        name = str(number)
        if step == "join":
            if name not in receipts or name in ended:
                ended.discard(name)
                receipts[name] = flights.join(KEY, name)
            continue
        if name not in receipts or name in ended:
            continue
        leads = receipts[name].done() and receipts[name].result() == "leads"
        if step == "leave":
            flights.leave(name)
            ended.add(name)
        elif leads:
            flights.land(KEY, name, KEPT if step == "keep" else None, again=step == "again")
            ended.add(name)
        alive = {name: receipt for name, receipt in receipts.items() if name not in ended}
        leaders = [n for n, receipt in alive.items() if receipt.done() and receipt.result() == "leads"]
        waiting = [n for n, receipt in alive.items() if not receipt.done()]
        assert len(leaders) <= 1
        assert not waiting or leaders


def test_threads_that_join_at_once_have_one_leader() -> None:
    """Two hundred of them; all the others get its answer."""
    flights, told = Flights(), Counter[str]()
    start = threading.Barrier(200)
    lock = threading.Lock()

    def call(name: str) -> None:
        start.wait()
        answer = flights.join(KEY, name).result(20)
        with lock:
            told[answer if isinstance(answer, str) else "kept"] += 1
        if answer == "leads":
            while len(flights._waiting.get(KEY, ())) < 199:
                pass
            flights.land(KEY, name, KEPT, again=False)

    threads = [threading.Thread(target=call, args=(str(i),)) for i in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert told == {"leads": 1, "kept": 199}
