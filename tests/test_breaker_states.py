"""Breakers over a real store: the same whoever asks, in every process, and after a kill; one probe among all."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import books
import worlds
from books import MINUTE, NOON, AnyStore, Opener, Watch, done, row
from bursar.drivers import breakers as driver
from bursar.drivers.breakers import KIND, Breakers, Document
from bursar.drivers.world import StoreWorld
from bursar.effects import Admit, Reserve, Send, Settle
from bursar.insights import breakers as insight
from bursar.policy.breakers import Breaker, Ceiling, Errors, FanOut, Loop, Velocity
from bursar.rules import book, budget
from bursar.rules.breaker import life
from bursar.rules.breaker.gate import identity
from bursar.rules.breaker.life import CLOSED, State
from bursar.stores.base import StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.stores.states import Changed
from bursar.types import Admitted, Call, Entry, Hold, Plan, Refused, Tags, Verdict, View

path, template, opened, watch, store = books.path, books.template, books.opened, books.watch, books.store

USD = 1_000_000_000
ERRORS = Breaker(name="errors", scope="session", trigger=Errors(failures=2, of=4), suspend_ms=60_000, probe_ms=30_000)
CEILING = Breaker(name="ceiling", scope="session", trigger=Ceiling(over_nanos=1_000))
AUDIT = ("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed"), ("open", "closed")


def call(request_id: str, session: str = "s", **tags: Any) -> Call:
    told = Tags(session_id=session, **tags)
    return Call(request_id, "chat", View(model="gpt-4o"), b"{}", (), "/chat/completions", told, NOON)


def ended(request_id: str, session: str = "s", **changes: Any) -> Entry:
    """The row of such a call."""
    return done(row(request_id, session_id=session), **changes)


def failed(request_id: str, session: str = "s") -> Entry:
    return ended(request_id, session, status="failed", http_status=503, cost_nanos=0)


def over(store: AnyStore, watch: Watch, *rules: Breaker) -> Breakers:
    return Breakers(store, rules or (ERRORS,), watch)


def trip(store: AnyStore, breakers: Breakers, session: str = "s") -> None:
    for number in range(2):
        breakers.watch(failed(f"{session}-{number}", session))
    store.flush()


def state(store: AnyStore, session: str = "s", breaker: Breaker = ERRORS) -> State:
    name = identity(breaker, session, "default")
    found = store.states.get(KIND, "default", [name]).get(name)
    return CLOSED if found is None else msgspec.json.decode(found, type=Document).state


def test_it_opens_and_recovers_by_its_probe(store: AnyStore, watch: Watch) -> None:
    breakers = over(store, watch)
    assert breakers.admit(call("a")) == Admitted()
    trip(store, breakers)
    told = breakers.admit(call("b"))
    assert isinstance(told, Refused)
    assert (told.kind, told.retry_after_ms, told.budget) == ("suspended", 60_000, "breaker:errors")
    assert breakers.admit(call("c", "another")) == Admitted()
    watch.forward(MINUTE)
    assert breakers.admit(call("probe")) == Admitted()
    assert isinstance(breakers.admit(call("d")), Refused)
    breakers.watch(ended("probe"))
    store.flush()
    assert breakers.admit(call("e")) == Admitted() and not breakers._probing
    seen = insight.find(store, identity(ERRORS, "s", "default"))
    assert seen is not None
    audit = [(one.before, one.after, one.by) for one in reversed(insight.changes(store, seen))]
    assert audit == [("closed", "open", "rule"), ("open", "half_open", "probe"), ("half_open", "closed", "probe")]


def concurrently(number: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of so many threads came to, all let go at once."""
    start, answers = threading.Barrier(number), list[Any]()

    def one(at: int) -> None:
        start.wait(30)
        answers.append(work(at))

    threads = [threading.Thread(target=one, args=(at,)) for at in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == number
    return answers


def test_of_fifty_at_once_one_is_the_probe(opened: Opener, watch: Watch) -> None:
    """From two processes' stores; and the next one is let through once the probe has gone well."""
    stores = [opened(), opened()]
    worlds = [over(store, watch) for store in stores]
    trip(stores[0], worlds[0])
    watch.forward(MINUTE)
    answers = concurrently(50, lambda at: (f"p{at}", worlds[at % 2].admit(call(f"p{at}"))))
    (probe,) = [name for name, answer in answers if answer == Admitted()]
    assert {answer.kind for _, answer in answers if isinstance(answer, Refused)} == {"suspended"}
    assert state(stores[1]).probe == probe
    worlds[int(probe[1:]) % 2].watch(ended(probe))
    for store in stores:
        store.flush()
    assert {type(answer) for answer in concurrently(50, lambda at: worlds[at % 2].admit(call(f"q{at}")))} == {Admitted}


def test_of_fifty_tasks_one_is_the_probe(store: AnyStore, watch: Watch) -> None:
    breakers = over(store, watch)
    trip(store, breakers)
    watch.forward(MINUTE)

    async def main() -> list[Admitted | Refused]:
        return await asyncio.gather(*(breakers.admit_async(call(f"p{at}")) for at in range(50)))

    assert sorted(type(answer).__name__ for answer in asyncio.run(main())) == ["Admitted", *["Refused"] * 49]


@pytest.mark.parametrize("end", [{"status": "refused"}, {"status": "hit"}, {"status": "abandoned"}])
def test_a_probe_that_comes_to_nothing_lets_the_next_one_try(store: AnyStore, watch: Watch, end: Any) -> None:
    breakers = over(store, watch)
    trip(store, breakers)
    watch.forward(MINUTE)
    breakers.admit(call("p"))
    breakers.watch(ended("p", **end))
    store.flush()
    assert (state(store).status, state(store).probe) == ("half_open", None)
    assert breakers.admit(call("q")) == Admitted()


def test_who_is_the_probe_of_one_and_not_of_another_gives_it_back(opened: Opener, watch: Watch) -> None:
    """Two breakers wait for a probe, of which another call has one: the call is refused and holds neither for long."""
    wide = msgspec.structs.replace(ERRORS, name="wide", scope="tenant")
    store = opened()
    breakers, elsewhere = over(store, watch, ERRORS, wide), over(opened(), watch, wide)
    trip(store, breakers)
    watch.forward(MINUTE)
    look = breakers._look(call("p"))
    assert not isinstance(look, Refused) and len(look.probes) == 2
    assert elsewhere.admit(call("first")) == Admitted()
    told = breakers._told(look, [receipt.result(10) for receipt in breakers._takes(look, call("p"))])
    assert isinstance(told, Refused) and told.budget == "breaker:wide"
    assert state(store).probe == "p"
    breakers.watch(ended("p", status="refused"))
    store.flush()
    assert state(store).probe is None


def test_a_call_that_was_never_sent_says_nothing(store: AnyStore, watch: Watch) -> None:
    """Neither a failure of the provider's, nor a probe that failed."""
    breakers = over(store, watch)
    for number in range(4):
        breakers.watch(failed(f"{number}"), sent=False)
    trip(store, breakers)
    watch.forward(MINUTE)
    breakers.admit(call("p"))
    breakers.watch(failed("p"), sent=False)
    store.flush()
    assert (state(store).status, state(store).probe) == ("half_open", None)


class _Concluding:
    """A life that goes on from a Reserve to its Send and Settle, whose caller is gone."""

    def __init__(self, *asked: Any) -> None:
        self.asked, self.heard = list(asked), list[Any]()

    def step(self, answer: Any) -> Any:
        self.heard.append(answer)
        return self.asked.pop(0)


def test_a_cancelled_call_is_no_failure_of_the_providers(store: AnyStore, watch: Watch) -> None:
    world = StoreWorld(store, clock=watch, breakers=(ERRORS,))
    trip(store, world.breakers)
    watch.forward(MINUTE)
    world.perform(Admit(call("p")))
    verdict = Verdict(Refused("over"), None, attempts=1)
    gone: Any = _Concluding(Send(Plan("openai", "gpt-4o"), row("p"), Hold("p", 1), call("p")),
                            Settle(Hold("p", 1), failed("p")), verdict)  # fmt: skip
    assert world.conclude(gone, Reserve(row("p", session_id="s")), lambda: worlds.failed()) is verdict
    store.flush()
    assert (state(store).status, state(store).probe) == ("half_open", None)
    asking: Any = _Concluding(verdict)
    world.conclude(asking, Admit(call("q")), lambda: worlds.failed())
    assert asking.heard == [Admitted()] and state(store).probe is None


def test_a_ceiling_opens_by_the_row_of_its_refused_claim(store: AnyStore, watch: Watch) -> None:
    """In the words of that very claim: another session's, or a budget's, opens nothing. What a reset forgives may be
    spent again, and no more."""
    breakers = over(store, watch, CEILING)
    spend(store, breakers, "a", 900)
    assert store.states.list(KIND).items == ()  # until then its counter knows all there is to know
    told = spend(store, breakers, "b", 200)
    assert isinstance(told, Refused) and told.kind == "suspended"
    assert state(store, breaker=CEILING).status == "open"
    assert isinstance(breakers.admit(call("c")), Refused)
    assert isinstance(spend(store, breakers, "d", 900, "t"), Hold)
    name = identity(CEILING, "s", "default")
    assert driver.reset(store, "default", name, "ann") and not driver.reset(store, "default", name, "ann")
    (claim,) = admitted(breakers.admit(call("e"))).ceilings
    assert claim.limit_nanos == 1_900
    assert isinstance(spend(store, breakers, "e", 900), Hold)
    assert isinstance(spend(store, breakers, "f", 200), Refused)
    assert state(store, breaker=CEILING).status == "open"
    assert store.verify() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(11, 700) | st.none(), max_size=25))
def test_no_more_is_ever_spent_than_a_ceiling_and_its_resets_allow(events: list[int | None]) -> None:
    """Amounts are spent, None resets: each reset allows as much again, counted from what was spent by then."""
    with contextlib.closing(MemoryStore(clock=Watch())) as store:
        breakers, spent, most = Breakers(store, (CEILING,), Watch()), 0, 1_000
        for number, event in enumerate(events):
            suspended = state(store, breaker=CEILING).status == "open"
            if event is None:
                assert driver.reset(store, "default", identity(CEILING, "s", "default"), "ann") == suspended
                most = spent + 1_000 if suspended else most
            elif suspended:
                assert isinstance(breakers.admit(call(f"r{number}")), Refused)
            elif isinstance(spend(store, breakers, f"r{number}", event), Hold):
                spent += event
            else:
                assert spent + event > most
            assert spent <= most
        assert store.verify() == []


def admitted(answer: Admitted | Refused) -> Admitted:
    assert isinstance(answer, Admitted), answer
    return answer


def spend(store: AnyStore, breakers: Breakers, request_id: str, nanos: int, session: str = "s") -> Hold | Refused:
    """A call that costs so much at the most and in the end, lived as the engine does."""
    claims = admitted(breakers.admit(call(request_id, session))).ceilings
    opening = row(request_id, session_id=session)
    hold = store.reserve(opening, books.ask(*claims, output=nanos - 10)).result(10)
    if isinstance(hold, Refused):
        hold = budget.concluded(call(request_id, session), hold, worlds.policy(breakers=(CEILING,)))
        closed = book.refusal(opening, hold, worlds.policy())
    else:
        closed = done(book.granted(opening, hold), cost_nanos=nanos)
    store.settle(Hold(request_id, 1), closed)
    breakers.watch(closed)
    store.flush()
    return hold


def test_a_state_that_cannot_be_read_begins_anew(store: AnyStore, watch: Watch) -> None:
    breakers = over(store, watch)
    name = identity(ERRORS, "s", "default")
    store.states.update(KIND, "default", name, lambda body, now: Changed(b'{"another":"version"}', None)).result(10)
    assert breakers.admit(call("a")) == Admitted()
    trip(store, breakers)
    assert isinstance(breakers.admit(call("b")), Refused)


def test_a_store_that_cannot_be_read_lets_nobody_through(path: Path) -> None:
    with contextlib.closing(SqliteStore(path)) as store, contextlib.closing(sqlite3.connect(path)) as file:
        breakers = Breakers(store, (ERRORS,), Watch())
        file.execute("ALTER TABLE states RENAME TO unplugged")
        with pytest.raises(StoreFailure):
            breakers.admit(call("a"))
        file.execute("ALTER TABLE unplugged RENAME TO states")
        assert breakers.admit(call("a")) == Admitted()


def test_what_is_long_silent_is_forgotten_and_what_has_tripped_is_not(store: AnyStore, watch: Watch) -> None:
    errands: list[Callable[[], None]] = []
    breakers = Breakers(store, (ERRORS,), watch, errands.append)
    for number in range(1_200):
        breakers.watch(failed(f"r{number}", f"s{number}"))
    trip(store, breakers, "tripped")
    watch.forward(30 * MINUTE)
    breakers.watch(failed("late", "late"))
    store.flush()
    watch.forward(31 * MINUTE)
    breakers.admit(call("x", "other"))
    breakers.admit(call("y", "other"))
    (prune,) = errands
    prune()
    assert {one.key for one in store.states.list(KIND, limit=5_000).items} == {
        identity(ERRORS, "tripped", "default"), identity(ERRORS, "late", "default")
    }  # fmt: skip


def test_what_has_changed_since_it_was_found_silent_is_kept() -> None:
    assert driver._forgotten(b"as seen", b"as seen", NOON).body is None
    assert driver._forgotten(b"as seen", b"another", NOON).body == b"another"
    assert driver._forgotten(b"as seen", None, NOON).body is None


@pytest.mark.parametrize(
    ("trigger", "micros"),
    [
        (Errors(within_ms=7_200_000), 7_200_000_000), (Loop(), 3_600_000_000), (Velocity(over_nanos=1), 65 * MINUTE),
        (FanOut(within_ms=1), 3_600_000_000), (Ceiling(over_nanos=1), 3_600_000_000),
    ],
)  # fmt: skip
def test_evidence_outlives_what_could_still_count(trigger: Any, micros: int) -> None:
    assert driver._memory_us((msgspec.structs.replace(ERRORS, trigger=trigger),)) == micros


def test_a_listing_shows_each_breaker_once(store: AnyStore, watch: Watch) -> None:
    """At its last change, the newest first, page by page; never one that has not tripped."""
    breakers = over(store, watch)
    breakers.watch(failed("healthy", "healthy"))
    for session in "abc":
        trip(store, breakers, session)
        watch.forward(1)
    driver.reset(store, "default", identity(ERRORS, "a", "default"), "ann")
    told = [(one.document.subject, one.document.state.status) for one in insight.listed(store).items]
    assert told == [("a", "closed"), ("c", "open"), ("b", "open")]
    paged, cursor = [], None
    while True:
        page = insight.listed(store, "default", "open", 1, cursor)
        paged += [one.document.subject for one in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert paged == ["c", "b"]
    assert insight.listed(store, "another tenant").items == ()
    with pytest.raises(ValueError, match="no cursor"):
        insight.listed(store, cursor="?")


# --- processes

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_breaker_states import *
store = SqliteStore(sys.argv[2], clock=Watch())
breakers = over(store, Watch())
trip(store, breakers)
print("open", flush=True)
sys.stdin.read()
"""


def test_another_process_is_suspended_too_and_a_kill_changes_nothing(path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    watch = Watch()
    with contextlib.closing(SqliteStore(path, clock=watch)) as store:
        breakers = over(store, watch)
        assert breakers.admit(call("before")) == Admitted()
        assert worker.stdout is not None and worker.stdout.readline() == "open\n"
        assert isinstance(breakers.admit(call("a")), Refused)
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=30)
        assert isinstance(breakers.admit(call("b")), Refused)
    with contextlib.closing(SqliteStore(path, clock=watch)) as store:
        again = over(store, watch)
        assert isinstance(again.admit(call("c")), Refused)
        watch.forward(MINUTE)
        assert again.admit(call("d")) == Admitted()
        assert store.verify() == []


# --- the whole of it, against its rules


class Machine(RuleBasedStateMachine):
    """Two processes on one ledger, calls and rows of two sessions, time, resets and restarts: what the store keeps is
    what the rules say, as if there were one process and no store."""

    sessions = st.sampled_from(["s", "t"])
    whom = st.integers(0, 1)

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.watch, self.count = Watch(), 0
        self.file = Path(self.folder.name) / "ledger.db"
        self.stores = [SqliteStore(self.file, clock=self.watch) for _ in range(2)]
        self.worlds = [over(store, self.watch) for store in self.stores]
        self.known: dict[str, State] = {"s": CLOSED, "t": CLOSED}
        self.flying: list[tuple[str, str, int]] = []
        self.audit = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for store in self.stores:
                store.close()
            self.folder.cleanup()

    def _is(self, session: str, after: State) -> None:
        before, self.known[session] = self.known[session], after
        self.audit += after.changed != before.changed

    @rule(session=sessions, who=whom)
    def ask(self, session: str, who: int) -> None:
        self.count += 1
        name = f"r{self.count}"
        answer = self.worlds[who].admit(call(name, session))
        expected = life.admits(self.known[session], self.watch.now, ERRORS, name)
        assert isinstance(answer, Refused) == (expected.kind == "refuse")
        if isinstance(answer, Refused):
            assert answer.retry_after_ms == expected.retry_after_ms
        else:
            self._is(session, expected.state)
            self.flying.append((name, session, who))

    @rule(at=st.integers(0, 9), status=st.sampled_from(["completed", "failed", "failed", "abandoned", "hit"]))
    def end(self, at: int, status: str) -> None:
        if not self.flying:
            return
        name, session, who = self.flying.pop(at % len(self.flying))
        closed = ended(name, session, status=status)
        self.worlds[who].watch(closed)
        self.stores[who].flush()
        self._is(session, life.watch(self.known[session], closed, self.watch.now, ERRORS))

    @rule(seconds=st.sampled_from([1, 20, 60, 600, 3_600]))
    def wait(self, seconds: int) -> None:
        self.watch.forward(seconds * 1_000_000)

    @rule(session=sessions, who=whom)
    def reset(self, session: str, who: int) -> None:
        done = driver.reset(self.stores[who], "default", identity(ERRORS, session, "default"), "ann")
        assert done == (self.known[session].status != "closed")
        if done:
            self._is(session, life.reset(self.known[session], self.watch.now, "ann"))

    @rule(who=whom)
    def restart(self, who: int) -> None:
        """Calls under way there are never heard of again."""
        self.stores[who].close()
        self.stores[who] = SqliteStore(self.file, clock=self.watch)
        self.worlds[who] = over(self.stores[who], self.watch)
        self.flying = [one for one in self.flying if one[2] != who]

    @invariant()
    def is_kept(self) -> None:
        if hasattr(self, "stores"):
            for session, known in self.known.items():
                for one in self.stores:
                    assert state(one, session) == known
            lines = self.stores[0].states.log(KIND, limit=1_000).items
            assert len(lines) == self.audit
            for line in lines:
                change = msgspec.json.decode(line.body, type=driver.Line).change
                assert (change.before, change.after) in AUDIT


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase
