"""The counters of every store: held, settled, expired, corrected, in windows, along runs, with the finish reserve."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import books
from books import HOUR, NOON, AnyStore, Watch, ask, claim, done, held, refused, row, stands
from bursar.types import Balance, Charge, Hold, Instant, Refused

opened, path, store, template, watch = books.opened, books.path, books.store, books.template, books.watch

USER = claim()
DAY = claim("day", window="day", limit_nanos=None, limit_tokens=500)


class TestHolding:
    def test_held_then_settled(self, store: AnyStore) -> None:
        """Every claim is held at what the call can cost at most, and charged what it did cost; the row keeps both."""
        opening = row("r", user_id="u")
        hold = held(store, opening, ask(USER, DAY))
        today = hold.charges[1].start
        assert hold.charges == (
            Charge("b", "user", "u", "default", 0, 110, 110, 890_000),
            Charge("day", "user", "u", "default", today, 110, 110, 780_000),
        )  # fmt: skip
        assert (hold.nanos, hold.output_limit, hold.lowered) == (110, None, False)
        assert (stands(store, USER), stands(store, DAY)) == ((0, 110, 0, 110), (0, 110, 0, 110))
        (entry,) = store.call("r")
        assert (entry.hold_nanos, entry.charges, entry.status) == (110, hold.charges, "open")
        store.settle(hold, done(opening, cost_nanos=70, input_tokens=8, output_tokens=62)).result()
        assert (stands(store, USER), stands(store, DAY)) == ((70, 0, 70, 0), (70, 0, 70, 0))
        (entry,) = store.call("r")
        assert (entry.charges, entry.cost_nanos) == (hold.charges, 70)
        assert store.verify() == []

    def test_all_or_none(self, store: AnyStore) -> None:
        """Where one budget has no room, nothing is held of the others and there is no row."""
        narrow = claim("narrow", limit_nanos=109)
        answer = refused(store, row("r"), ask(USER, narrow))
        assert (answer.kind, answer.budget) == ("exhausted", "narrow")
        assert (stands(store, USER), stands(store, narrow), store.call("r")) == ((0,) * 4, (0,) * 4, [])
        assert store.budgets().items == ()

    def test_to_the_last_nano(self, store: AnyStore) -> None:
        """One call after another, exactly the limit can be spent: with nothing in flight only what is spent counts."""
        for number in range(9):
            opening = row(f"r{number}")
            hold = held(store, opening, ask(USER))
            store.settle(hold, done(opening, cost_nanos=100))
        opening = row("last")
        hold = held(store, opening, ask(USER, output=90))
        store.settle(hold, done(opening, cost_nanos=100)).result()
        assert stands(store, USER)[:2] == (1_000, 0)
        assert refused(store, row("more"), ask(USER, output=1)).kind == "exhausted"

    @pytest.mark.parametrize(
        ("outcome", "charged"),
        [
            ({"cost_nanos": None, "cost_status": "unpriced"}, (110, 0, 150, 0)),
            ({"output_tokens": None}, (1_000, 0, 110, 0)),
            ({"status": "failed", "cost_nanos": 0, "input_tokens": 0, "output_tokens": 0}, (0, 0, 0, 0)),
            ({"cost_nanos": 5_000}, (5_000, 0, 150, 0)),
        ],
    )
    def test_unknown_counts_as_held(self, store: AnyStore, outcome: dict[str, Any], charged: tuple[int, ...]) -> None:
        """What is not known is charged at the hold, what is free at nothing, an overrun whole."""
        opening = row("r")
        store.settle(held(store, opening, ask(USER)), done(opening, **outcome)).result()
        assert (stands(store, USER), store.verify()) == (charged, [])

    def test_the_limit_that_is_sent(self, store: AnyStore) -> None:
        """A hold that would take too large a share gets a lower output limit, and the row says which."""
        hold = held(store, row("r"), ask(claim(limit_nanos=60_000), output=50_000, floor=1))
        (entry,) = store.call("r")
        assert hold.lowered and hold.output_limit is not None and hold.output_limit < 50_000
        assert hold.output_limit == entry.output_limit
        assert entry.hold_nanos == hold.nanos == 10 + hold.output_limit

    def test_a_guard_needs_no_counter(self, store: AnyStore) -> None:
        """The caller's own limit of one call lowers its output, or refuses it, without any budget."""
        hold = held(store, row("r"), ask(output=100, floor=1, max_nanos=50))
        assert (hold.charges, hold.output_limit, hold.nanos) == ((), 40, 50)
        assert refused(store, row("s"), ask(output=100, floor=1, max_nanos=10)).kind == "call"
        assert store.verify() == []

    def test_settled_twice(self, store: AnyStore) -> None:
        """A second settlement moves no counter."""
        opening = row("r")
        hold = held(store, opening, ask(USER))
        for cost in (70, 90):
            store.settle(hold, done(opening, cost_nanos=cost)).result()
        assert (stands(store, USER)[:2], store.ignored) == ((70, 0), 1)

    def test_refusals_and_hits_cost_nothing(self, store: AnyStore) -> None:
        """The row of a refusal is charged nothing, nor can a settlement bring charges of its own."""
        charges = (Charge("b", "user", "u", "default", 0, 110, 110),)
        store.settle(Hold("r", 1), done(row("r"), status="refused", cost_nanos=0)).result()
        store.settle(Hold("h", 1), done(row("h"), status="hit", charges=charges)).result()
        store.reserve(row("free", charges=charges)).result()
        assert (stands(store, USER), store.verify()) == ((0,) * 4, [])


class TestExtending:
    def test_only_where_it_was_held_low(self, store: AnyStore) -> None:
        """More input than was held is held where the input stood at its learned size; the ceiling covers it already."""
        learned = claim("learned", learned_input=True)
        opening = row("r")
        hold = held(store, opening, ask(USER, learned))
        assert (stands(store, USER)[1], stands(store, learned)[1]) == (110, 105)
        store.extend(hold, 3, 3).result()
        assert (stands(store, USER), stands(store, learned)) == ((0, 110, 0, 110), (0, 108, 0, 108))
        store.extend(hold, 2, 2)
        store.settle(hold, done(opening, cost_nanos=None, cost_status="unpriced", output_tokens=None)).result()
        assert (stands(store, USER), stands(store, learned)) == ((110, 0, 110, 0), (110, 0, 110, 0))
        assert [charge.nanos for charge in store.call("r")[0].charges] == [110, 110]
        assert store.verify() == []

    def test_nothing_to_extend(self, store: AnyStore) -> None:
        """A closed row, one without charges and one that is not there stay as they are."""
        closed = row("closed")
        hold = held(store, closed, ask(USER))
        store.settle(hold, done(closed)).result()
        store.reserve(row("free")).result()
        for known in (hold, Hold("free", 1), Hold("nobody", 1)):
            store.extend(known, 5, 5).result()
        assert (stands(store, USER)[1], store.verify()) == (0, [])


class TestTheDead:
    def test_charged_in_full_and_corrected_once(self, opened: Callable[[], AnyStore], watch: Watch) -> None:
        """A hold that its process left behind is spent in full; the late real outcome corrects it, once, in the window
        of the reserve, whatever day it is."""
        first = opened()
        opening = row("r")
        hold = held(first, opening, ask(USER, DAY))
        first.close()
        second = opened()
        assert (stands(second, USER), stands(second, DAY)) == ((110, 0, 110, 0), (110, 0, 110, 0))
        watch.forward(24 * HOUR)
        for cost in (40, 60):
            second.settle(hold, done(opening, cost_nanos=cost, input_tokens=8, output_tokens=32)).result()
        assert (stands(second, USER), stands(second, DAY)) == ((40, 0, 40, 0), (0, 0, 0, 0))
        watch.forward(-24 * HOUR)
        assert (stands(second, DAY), second.ignored, second.verify()) == ((40, 0, 40, 0), 1, [])

    def test_no_refusal_for_their_holds(self, opened: Callable[[], AnyStore]) -> None:
        """Where only the dead hold, they are settled first: the answer is what is spent, not that others hold."""
        watcher, victim = opened(), opened()
        held(victim, row("r"), ask(USER, output=900))
        assert refused(watcher, row("s"), ask(USER)).kind == "held"
        victim.close()
        answer = refused(watcher, row("t"), ask(USER))
        assert (answer.kind, stands(watcher, USER)[:2], watcher.verify()) == ("exhausted", (910, 0), [])


class TestWindows:
    def test_the_window_of_the_reserve(self, store: AnyStore, watch: Watch) -> None:
        """A call is charged to the day in which it was reserved; the next day begins at nothing."""
        opening = row("r")
        hold = held(store, opening, ask(DAY))
        watch.forward(24 * HOUR)
        assert stands(store, DAY) == (0, 0, 0, 0)
        store.settle(hold, done(opening, input_tokens=8, output_tokens=62)).result()
        assert stands(store, DAY) == (0, 0, 0, 0)
        watch.forward(-24 * HOUR)
        assert (stands(store, DAY)[2:], store.verify()) == ((70, 0), [])

    def test_the_stores_clock(self, store: AnyStore, watch: Watch) -> None:
        """The instant that a caller gives is recorded, not trusted: it chooses no window."""
        hold = held(store, row("r", started_at=Instant(NOON - 1_000 * HOUR)), ask(DAY))
        (counter,) = store.balances((DAY,))
        assert (hold.charges[0].start, counter.balance.held_tokens) == (counter.start, 110)
        assert counter.end is not None and counter.start <= watch.now < counter.end


class TestTerms:
    def test_the_least_stays(self, store: AnyStore) -> None:
        """A limit that is said with every call can be lowered and never raised, even by a call that is refused."""
        for limit, said in ((800, None), (900, 50), (500, None)):
            capped = claim("run:x", "run", "x", limit_nanos=limit, limit_tokens=said, least=True)
            (counter,) = store.balances((capped,))
            store.reserve(row(f"r{limit}", run_id="x"), ask(capped, output=30)).result()
        assert (counter.claim.limit_nanos, counter.claim.limit_tokens) == (500, 50)
        low = claim("run:x", "run", "x", limit_nanos=1, least=True)
        assert refused(store, row("low", run_id="x"), ask(low)).kind == "exhausted"
        (counter,) = store.balances((msgspec.structs.replace(low, limit_nanos=9_999),))
        assert (counter.claim.limit_nanos, store.verify()) == (1, [])

    def test_one_counter_under_two_limits(self, store: AnyStore) -> None:
        """Claimed twice it is charged once, and the lower limit holds."""
        twice = (claim(limit_nanos=500), claim(limit_nanos=200, limit_tokens=90), claim(limit_tokens=400))
        assert refused(store, row("r"), ask(*twice)).kind == "exhausted"
        hold = held(store, row("s"), ask(*twice, output=80))
        assert [charge.nanos for charge in hold.charges] == [90]

    def test_the_terms_of_today(self, store: AnyStore) -> None:
        """A configured limit is the one that the call comes with: raised, there is room again."""
        held(store, row("r"), ask(USER, output=900))
        assert refused(store, row("s"), ask(USER)).kind == "held"
        raised = msgspec.structs.replace(USER, limit_nanos=2_000)
        held(store, row("t"), ask(raised))
        assert store.budgets().items[0].counter.claim == raised


class TestRuns:
    def test_every_run_above(self, store: AnyStore) -> None:
        """A call is charged to all runs above its own, on their own terms; a child cannot spend more than is left."""
        root, middle = claim("tree", "run", "root", limit_nanos=300), claim("tree", "run", "mid", limit_nanos=900)
        store.settle(held(store, row("1", run_id="root"), ask(root)), done(row("1"), cost_nanos=100))
        held(store, row("2", run_id="mid", parent_run_id="root"), ask(middle, output=40, climb=("root",)))
        hold = held(store, row("3", run_id="leaf", parent_run_id="mid"), ask(output=40, climb=("mid",)))
        assert [(charge.key, charge.nanos) for charge in hold.charges] == [("mid", 50), ("root", 50)]
        assert (stands(store, root)[:2], stands(store, middle)[:2]) == ((100, 100), (0, 100))
        answer = refused(store, row("4", run_id="leaf", parent_run_id="mid"), ask(output=140, climb=("mid",)))
        assert (answer.kind, answer.budget) == ("held", "tree")
        assert store.verify() == []

    def test_only_trusted_parents(self, store: AnyStore) -> None:
        """A parent that is only a label is not claimed of; another tenant's run of that name is another run."""
        root = claim("tree", "run", "root")
        held(store, row("1", run_id="root"), ask(root))
        assert held(store, row("2", run_id="a", parent_run_id="root"), ask(claim("a", "run", "a"))).charges[1:] == ()
        assert held(store, row("3", run_id="b", tenant="other"), ask(climb=("root",))).charges == ()

    def test_circles_end(self, store: AnyStore) -> None:
        """Runs that name each other as parents are each claimed once."""
        one, two = claim("t", "run", "one"), claim("t", "run", "two")
        held(store, row("1", run_id="one", parent_run_id="two"), ask(one, climb=("two",)))
        held(store, row("2", run_id="two", parent_run_id="one"), ask(two, climb=("one",)))
        hold = held(store, row("3", run_id="one", parent_run_id="two"), ask(one, climb=("two",)))
        assert [charge.key for charge in hold.charges] == ["one", "two"]
        assert stands(store, one)[1] == 330

    def test_a_limit_from_a_header(self, store: AnyStore) -> None:
        """It is kept under the key that stated it and holds for the runs below, for that key's calls alone."""
        capped = claim("run:root", "run", "k1:root", limit_nanos=200, least=True)
        held(store, row("1", run_id="root", key_id="k1"), ask(capped))
        below: dict[str, Any] = {"run_id": "c", "parent_run_id": "root"}
        answer = refused(store, row("2", key_id="k1", **below), ask(climb=("root",)))
        assert (answer.kind, answer.budget) == ("held", "run:root")
        assert held(store, row("3", key_id="k2", **below), ask(climb=("root",))).charges == ()


class TestTheFinishReserve:
    RUN = claim("task", "run", "run", limit_nanos=1_000, finish_reserve=200_000)

    def spent(self, store: AnyStore) -> None:
        """All that is open to everybody is spent."""
        hold = held(store, row("work", run_id="run"), ask(self.RUN, output=790))
        store.settle(hold, done(row("work"), cost_nanos=800))
        assert refused(store, row("more", run_id="run"), ask(self.RUN)).kind == "exhausted"

    def test_one_final_answer(self, store: AnyStore) -> None:
        """The reserve is open to the run's final call, once; the same request may try again."""
        self.spent(store)
        hold = held(store, row("end", run_id="run"), ask(self.RUN, output=80, final=True))
        assert hold.from_reserve
        again = ask(self.RUN, output=80, final=True)
        assert refused(store, row("end2", run_id="run"), again).kind == "exhausted"
        assert held(store, row("end", 2, run_id="run"), again).from_reserve
        run = store.run_total("run")
        assert run is not None and run.final_request == "end"
        assert store.verify() == []

    @pytest.mark.parametrize(("status", "cost", "freed"), [("failed", 0, True), ("failed", 5, False),
                                                           ("completed", 0, False)])  # fmt: skip
    def test_a_failure_that_cost_nothing(self, store: AnyStore, status: str, cost: int, freed: bool) -> None:
        """It was no answer: another request may have it."""
        self.spent(store)
        final = ask(self.RUN, output=80, final=True)
        hold = held(store, row("end", run_id="run"), final)
        store.settle(hold, done(row("end"), status=status, cost_nanos=cost))
        answer = store.reserve(row("end2", run_id="run"), final).result(10)
        assert isinstance(answer, Hold) is freed

    def test_not_a_childs(self, store: AnyStore) -> None:
        """A child's final call does not open its parent's reserve; a session's is open to any run's."""
        self.spent(store)
        below = row("end", run_id="child", parent_run_id="run")
        assert refused(store, below, ask(output=80, final=True, climb=("run",))).kind == "exhausted"
        chat = claim("chat", "session", "s", finish_reserve=200_000)
        store.settle(held(store, row("talk", run_id="a"), ask(chat, output=790)), done(row("talk"), cost_nanos=800))
        final = ask(chat, output=80, final=True)
        assert held(store, row("bye", run_id="a"), final).from_reserve
        assert refused(store, row("bye2", run_id="a"), final).kind == "exhausted"
        assert refused(store, row("bye3"), final).kind == "exhausted"
        assert held(store, row("bye4", run_id="b"), final).from_reserve

    def test_not_taken_where_it_is_not_needed(self, store: AnyStore) -> None:
        """A final call that everybody's part pays for leaves the reserve to a later one."""
        assert not held(store, row("early", run_id="run"), ask(self.RUN, final=True)).from_reserve
        run = store.run_total("run")
        assert run is not None and run.final_request is None


class TestLearning:
    WIDE = claim(limit_nanos=10**8, max_share=1)

    def need(self, store: AnyStore, request: str, step: str = "s") -> int | None:
        """The limit that is sent where only what the step usually needs counts."""
        asked = ask(self.WIDE, output=1_000_000, floor=1)
        return held(store, row(request, agent_id="a", step=step), asked).output_limit

    def live(self, store: AnyStore, count: int, name: str, *, sent: int | None = None, **outcome: Any) -> None:
        for number in range(count):
            opening = row(f"{name}{number}", agent_id="a", step="s", output_limit=sent)
            store.reserve(opening)
            store.settle(Hold(opening.request_id, 1), done(opening, **outcome))
        store.flush()

    def test_what_a_step_usually_needs(self, store: AnyStore) -> None:
        """After a hundred whole answers a step's hold is its p99.9, to a bin; before, and elsewhere, a fixed guess."""
        self.live(store, 99, "a", output_tokens=300)
        self.live(store, 50, "failed", status="failed", output_tokens=9_000)
        assert self.need(store, "early") == 4_096
        self.live(store, 1, "b", output_tokens=300)
        limit = self.need(store, "late")
        assert limit is not None and 300 <= limit <= 337
        assert self.need(store, "other", "t") == 4_096

    def test_what_we_cut_would_have_been_longer(self, store: AnyStore) -> None:
        """An answer that our own limit ended teaches twice its length, so that the estimate can grow."""
        self.live(store, 100, "a", sent=300, output_tokens=300)
        limit = self.need(store, "late")
        assert limit is not None and 600 <= limit <= 675

    def test_input(self, store: AnyStore) -> None:
        """Reported tokens per estimated one, by the model that was sent: the p99.9 of a hundred, else unknown."""
        self.live(store, 99, "a", input_tokens=120)
        assert store.ratios("openai", "gpt-4o").input_high is None
        self.live(store, 1, "b", input_tokens=240)
        high = store.ratios("openai", "gpt-4o").input_high
        assert high is not None and 2.4 <= high <= 2.7

    def test_another_process_learns_it(self, opened: Callable[[], AnyStore]) -> None:
        """What one store has learned another that opens later goes by."""
        self.live(opened(), 100, "a", output_tokens=300)
        limit = self.need(opened(), "late")
        assert limit is not None and limit < 400


class TestAsking:
    def test_budgets(self, store: AnyStore, watch: Watch) -> None:
        """Counters of running windows, the last touched first, page by page, by tenant and budget."""
        for number in range(5):
            held(store, row(f"r{number}"), ask(claim("b", key=f"u{number}")))
            watch.forward(1_000)
        other = claim("hourly", "global", "(all)", window="hour")
        held(store, row("g", tenant="other"), ask(other))
        watch.forward(1_000)
        held(store, row("again"), ask(claim("b", key="u2")))
        first = store.budgets(limit=4)
        assert [line.counter.claim.key for line in first.items] == ["u2", "(all)", "u4", "u3"]
        rest = store.budgets(limit=4, cursor=first.next_cursor)
        assert ([line.counter.claim.key for line in rest.items], rest.next_cursor) == (["u1", "u0"], None)
        (line,) = store.budgets(tenant="").items
        assert (line.rows, line.touched_at, line.counter.balance) == (1, watch.now - 1_000, Balance(0, 0, 110, 110))
        assert len(store.budgets(budget="b").items) == 5
        watch.forward(HOUR)
        assert len(store.budgets().items) == 5

    def test_touchers(self, store: AnyStore) -> None:
        """Who was charged to a counter, the dearest first: open rows at what they hold, nobody else's."""
        everything, task = claim("all", "tenant", "default"), claim("task", "run", "run")
        for number in range(4):
            opening = row(f"r{number}", agent_id="ab"[number % 2], user_id="u", step="s", run_id="run")
            hold = held(store, opening, ask(everything, USER, task, output=30))
            if number:
                store.settle(hold, done(opening, cost_nanos=20 * number, input_tokens=10, output_tokens=number))
        held(store, row("elsewhere"), ask(claim('all"', "tenant", "default"), claim("b", key="u2")))
        held(store, row("child", agent_id="c", run_id="child", parent_run_id="run"), ask(output=5, climb=("run",)))
        for line in store.budgets().items:
            name = line.counter.claim.budget
            found = [(one.agent_id, one.rows, one.nanos, one.tokens) for one in store.touchers(line)]
            if name == "task":
                assert found == [("a", 2, 80, 52), ("b", 2, 80, 24), ("c", 1, 15, 15)]
            elif name == "all" or (name == "b" and line.counter.claim.key == "u"):
                assert found == [("a", 2, 80, 52), ("b", 2, 80, 24)]
            else:
                assert [rows for _, rows, _, _ in found] == [1]
        assert store.verify() == []

    def test_untouched(self, store: AnyStore) -> None:
        """A counter that nobody has claimed stands at zero, on the terms that are asked with."""
        (counter,) = store.balances((DAY,))
        assert (counter.claim, counter.balance) == (DAY, Balance())

    def test_refused_says_what_is_left(self, store: AnyStore) -> None:
        """A refusal carries the tightest budget's standing."""
        held(store, row("r"), ask(USER, output=900))
        answer = refused(store, row("s"), ask(USER))
        assert isinstance(answer, Refused) and answer.standing is not None
        assert (answer.standing.budget, answer.standing.remaining_nanos) == ("b", 90)
