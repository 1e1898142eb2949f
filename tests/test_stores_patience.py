"""Waiting for others' holds: in order of arrival, until patience is over, given up, or ended with the store."""

import asyncio
import threading
from typing import Any

import pytest

import books
from books import HOUR, AnyStore, Opener, Watch, ask, claim, done, held, refused, row, stands
from bursar.stores import StoreFailure
from bursar.stores.receipt import Receipt
from bursar.types import Ask, Entry, Hold, Refused

opened, path, store, template, watch = books.opened, books.path, books.store, books.template, books.watch

PATIENT = claim(patience_ms=2_000)
Owed = Receipt[Hold | Refused]


def waits(store: AnyStore, request: str, output: int, *claims: Any, **labels: Any) -> Owed:
    """A reserve that is still not answered once everything before it is written."""
    receipt = store.reserve(row(request, **labels), ask(*(claims or (PATIENT,)), output=output))
    store.flush()
    assert not receipt.done()
    return receipt


def ended(store: AnyStore, hold: Any, cost: int = 0) -> None:
    assert isinstance(hold, Hold)
    store.settle(hold, done(row(hold.request_id), cost_nanos=cost))


class TestPatience:
    def test_waits_for_others(self, store: AnyStore) -> None:
        """What only others' holds stand in the way of is granted as soon as they have settled, by what they cost."""
        first = held(store, row("a"), ask(PATIENT, output=900))
        second = waits(store, "b", 500)
        ended(store, first, 400)
        assert isinstance(second.result(10), Hold)
        assert (stands(store, PATIENT)[:2], store.verify()) == ((400, 510), [])

    def test_spent_meanwhile(self, store: AnyStore) -> None:
        """What is spent while it waits ends the wait at once: exhausted, not held."""
        first = held(store, row("a"), ask(PATIENT, output=900))
        second = waits(store, "b", 500)
        ended(store, first, 900)
        answer = second.result(10)
        assert isinstance(answer, Refused) and answer.kind == "exhausted"

    def test_patience_ends(self, store: AnyStore, watch: Watch) -> None:
        """When it is over the answer is that others hold, and when to try again; nothing is held, there is no row."""
        held(store, row("a"), ask(PATIENT, output=900))
        second = waits(store, "b", 500)
        watch.forward(1_999_000)
        store.flush()
        assert not second.done()
        watch.forward(1_000)
        answer = second.result(10)
        assert isinstance(answer, Refused)
        assert (answer.kind, answer.retry_after_ms, store.call("b")) == ("held", 1_000, [])
        assert stands(store, PATIENT)[:2] == (0, 910)

    def test_no_patience(self, store: AnyStore) -> None:
        """Without patience the refusal comes at once."""
        held(store, row("a"), ask(PATIENT, output=900))
        assert refused(store, row("b"), ask(claim(), output=500)).kind == "held"

    def test_a_clock_that_is_set_back(self, store: AnyStore, watch: Watch) -> None:
        """It does not make anybody wait for hours."""
        held(store, row("a"), ask(PATIENT, output=900))
        second = waits(store, "b", 500)
        watch.forward(-HOUR)
        assert isinstance(second.result(10), Refused)

    def test_a_window_that_resets(self, store: AnyStore, watch: Watch) -> None:
        """A new window has room for those who waited in the old one."""
        hourly = claim("h", window="hour", patience_ms=7_200_000)
        held(store, row("a"), ask(hourly, output=900))
        second = waits(store, "b", 500, hourly)
        watch.forward(HOUR)
        assert isinstance(second.result(10), Hold)
        assert (stands(store, hourly)[:2], store.verify()) == ((0, 510), [])


class TestOrder:
    def test_first_come_first_served(self, store: AnyStore) -> None:
        """A small call does not pass a large one that waits for the same counter; each is granted in its turn."""
        first = held(store, row("a"), ask(PATIENT, output=590))
        large, small = waits(store, "b", 790), waits(store, "c", 290)
        ended(store, first)
        hold = large.result(10)
        store.flush()
        assert not small.done()
        ended(store, hold)
        ended(store, small.result(10))
        assert (stands(store, PATIENT)[:2], store.verify()) == ((0, 0), [])

    def test_patience_passes_the_queue(self, store: AnyStore, watch: Watch) -> None:
        """Whose own patience is over is decided by what is free: nobody is refused for the sake of the order."""
        held(store, row("a"), ask(PATIENT, output=590))
        large = waits(store, "b", 790)
        small = waits(store, "c", 290, claim(patience_ms=100))
        assert isinstance(store.reserve(row("d"), ask(claim(), output=10)).result(10), Hold)
        watch.forward(100_000)
        assert isinstance(small.result(10), Hold)
        assert not large.done()

    def test_only_at_the_same_counter(self, store: AnyStore) -> None:
        """Who waits for one user's budget holds up no other user, though both are charged to a wider one."""
        wide = claim("wide", "tenant", "default", limit_nanos=10_000, patience_ms=2_000)
        held(store, row("a"), ask(wide, PATIENT, output=900))
        waits(store, "b", 500, wide, PATIENT)
        assert isinstance(store.reserve(row("c"), ask(wide, claim(key="u2"), output=500)).result(10), Hold)

    def test_all_or_none_of_them(self, store: AnyStore) -> None:
        """A call that waits holds nothing anywhere."""
        other = claim("other", patience_ms=2_000)
        first = held(store, row("a"), ask(PATIENT, output=900))
        waits(store, "b", 500, PATIENT, other)
        assert stands(store, other) == (0, 0, 0, 0)
        ended(store, first)
        store.flush()
        assert stands(store, other)[1] == 510

    def test_settled_before_it_counts(self, store: AnyStore) -> None:
        """A reserve finds every settlement that was handed in before it, though nobody waited for that one."""
        strict = claim(limit_nanos=110)
        for number in range(50):
            hold = held(store, row(f"r{number}"), ask(strict))
            ended(store, hold)
        assert (stands(store, strict)[:2], store.verify()) == ((0, 0), [])


class TestGivenUp:
    def test_with_its_settlement(self, store: AnyStore) -> None:
        """A settlement for a reserve that waits gives it up: no row is left open, its place goes to the next."""
        first = held(store, row("a"), ask(PATIENT, output=900))
        second, third = waits(store, "b", 900), waits(store, "c", 80)
        store.settle(Hold("b", 1), done(row("b"), status="failed", cost_nanos=0)).result(10)
        assert isinstance(second.result(10), Refused)
        assert isinstance(third.result(10), Hold)
        ended(store, first)
        store.flush()
        assert ([entry.request_id for entry in store.calls().items], store.ignored) == (["c", "a"], 1)
        assert (stands(store, PATIENT)[:2], store.verify()) == ((0, 90), [])

    def test_right_behind_it(self, store: AnyStore) -> None:
        """Whether it waits, is granted or is refused: a settlement that is handed in at once leaves nothing open."""
        first = held(store, row("a"), ask(PATIENT, output=400))
        receipts = []
        for number in range(20):
            opening = row(f"r{number}")
            receipts.append(store.reserve(opening, ask(PATIENT, output=50 * number)))
            store.settle(Hold(opening.request_id, 1), done(opening, cost_nanos=1))
        store.flush()
        assert all(receipt.done() for receipt in receipts)
        assert [entry.request_id for entry in store.calls().items if entry.status == "open"] == ["a"]
        ended(store, first)
        store.flush()
        assert (stands(store, PATIENT)[1], store.verify()) == (0, [])

    def test_its_id_is_taken(self, store: AnyStore) -> None:
        """An id that waits cannot be reserved again, with or without limits."""
        held(store, row("a"), ask(PATIENT, output=900))
        waits(store, "b", 500)
        for asked in (ask(PATIENT, output=500), ask(), Ask()):
            with pytest.raises(StoreFailure, match="in the ledger already"):
                store.reserve(row("b"), asked).result(10)

    def test_with_the_store(self, store: AnyStore) -> None:
        """A store that closes tells those who wait."""
        held(store, row("a"), ask(PATIENT, output=900))
        second = waits(store, "b", 500)
        store.close()
        with pytest.raises(StoreFailure, match="closed while"):
            second.result(10)


class TestManyStores:
    def test_what_another_gives_back(self, opened: Opener) -> None:
        """Holds of another process are waited for too."""
        here, there = opened(), opened()
        first = held(there, row("a"), ask(PATIENT, output=900))
        second = waits(here, "b", 500)
        ended(there, first)
        assert isinstance(second.result(10), Hold)
        here.settle(Hold("b", 1), done(row("b"))).result(10)
        assert (stands(there, PATIENT)[1], there.verify()) == (0, [])

    def test_what_the_dead_held(self, opened: Opener) -> None:
        """A process that dies while others wait for its hold is found; then what it held is spent."""
        here, there = opened(), opened()
        held(there, row("a"), ask(PATIENT, output=900))
        second = waits(here, "b", 500)
        there.close()
        answer = second.result(10)
        assert isinstance(answer, Refused) and answer.kind == "exhausted"
        assert (stands(here, PATIENT)[:2], here.verify()) == ((910, 0), [])

    def test_the_row_is_its_own_stores(self, opened: Opener) -> None:
        """A row that was granted after a wait belongs to the store that asked, whoever gave back."""
        here, there = opened(), opened()
        first = held(there, row("a"), ask(PATIENT, output=900))
        second = waits(here, "b", 500)
        ended(there, first)
        assert isinstance(second.result(10), Hold)
        there.close()
        assert [entry.status for entry in here.call("b")] == ["open"]
        here.settle(Hold("b", 1), done(row("b"))).result(10)
        assert [entry.status for entry in here.call("b")] == ["completed"]


def test_on_a_loop(store: AnyStore) -> None:
    """reserve_async waits without holding up the loop; a waiter that is cancelled and given up leaves no hold."""

    async def lives() -> tuple[Any, Any]:
        first = await store.reserve_async(row("a"), ask(PATIENT, output=900))
        second = asyncio.ensure_future(_awaited(store.reserve_async(row("b"), ask(PATIENT, output=500))))
        third = asyncio.ensure_future(_awaited(store.reserve_async(row("c"), ask(PATIENT, output=500))))
        await asyncio.to_thread(store.flush)
        third.cancel()
        store.settle(Hold("c", 1), done(row("c"), status="failed", cost_nanos=0))
        ended(store, first)
        return await second, await asyncio.gather(third, return_exceptions=True)

    second, (third,) = asyncio.run(lives())
    assert isinstance(second, Hold) and isinstance(third, asyncio.CancelledError)
    assert (stands(store, PATIENT)[1], store.verify()) == (510, [])


async def _awaited(thing: Any) -> Any:
    return await thing


def test_many_threads_on_one_cap(store: AnyStore) -> None:
    """Forty threads and one cap for two at a time: all of them get their turn, and the cap is never passed."""
    cap = claim(limit_nanos=220, limit_tokens=220, patience_ms=60_000)
    worst, answers, lock = [0], list[Any](), threading.Lock()

    def work(number: int) -> None:
        opening: Entry = row(f"r{number}")
        hold = store.reserve(opening, ask(cap)).result(30)
        with lock:
            answers.append(hold)
            settled, held_nanos, _, _ = stands(store, cap)
            worst[0] = max(worst[0], settled + held_nanos)
        store.settle(Hold(opening.request_id, 1), done(opening, cost_nanos=0, input_tokens=0, output_tokens=0))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [type(answer) for answer in answers] == [Hold] * 40
    assert (worst[0] <= 220, stands(store, cap), store.verify()) == (True, (0, 0, 0, 0), [])
