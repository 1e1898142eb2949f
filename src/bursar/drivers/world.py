"""What both drivers perform effects on: a store and the system's clock.

Only a Reserve is waited for: it has to be durable before any byte leaves. A Settle is handed to the store's writer,
which keeps order, journals what it cannot write and loses nothing; whoever asks the ledger asks behind it.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from bursar.drivers import flights, lore
from bursar.drivers.breakers import Breakers
from bursar.drivers.flights import Flights
from bursar.drivers.life import Life, shaped
from bursar.drivers.lore import Lorekeeper
from bursar.drivers.passage import crossing
from bursar.drivers.prompts import Prompts
from bursar.drivers.semantics import Semantics
from bursar.effects import (
    Admit,
    Audit,
    Crossing,
    Draft,
    Effect,
    Habit,
    Join,
    Keep,
    Learn,
    Learned,
    Lore,
    Nearby,
    Now,
    Observe,
    Pause,
    Recall,
    Reserve,
    Send,
    Settle,
    Validate,
)
from bursar.policy.breakers import Breaker
from bursar.rules.prompt.habits import Habits
from bursar.rules.prompt.marking import Ground
from bursar.rules.semantic.choose import Around
from bursar.stores.base import Store
from bursar.stores.receipt import Receipt
from bursar.types import Admitted, Call, Entry, Hold, Instant, Joined, Judgement, Kept, Outcome, Plan, Verdict
from bursar.wire import asking

T = TypeVar("T")
_log = logging.getLogger("bursar.drivers")

UNHEARD = Judgement(ok=None, reason="its caller had left")
"""What is said of an answer that is for nobody any more: no stranger's code is run for it."""


def wall_clock() -> Instant:
    """The system's clock, in microseconds since the epoch."""
    return Instant(time.time_ns() // 1000)


def _unheard(entry: Entry) -> None:
    """Nobody listens."""


class StoreWorld:
    """Answers effects by blocking. `settled` hears of every row as it is closed."""

    def __init__(
        self,
        store: Store,
        settled: Callable[[Entry], None] = _unheard,
        clock: Callable[[], Instant] = wall_clock,
        semantics: Semantics | None = None,
        breakers: Sequence[Breaker] = (),
    ) -> None:
        """semantics: None where no step asks for a semantic cache."""
        self.store, self.clock, self._settled = store, clock, settled
        self.prompts = Prompts(store)
        self.lore = Lorekeeper(store, clock)
        self.semantics = semantics
        self.breakers = Breakers(store, breakers, clock, self._errand)
        self.flights = Flights()
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._errand_boy: threading.Thread | None = None

    def extend(self, hold: Hold, nanos: int, tokens: int) -> None:
        """Hold so much more: handed to the store's writer and not waited for."""
        self.store.extend(hold, nanos, tokens)

    def later(self, errand: Callable[[], None]) -> None:
        """Have a thread do it: for the collector, which may run anywhere, in the middle of anything."""
        self._errands.put(errand)

    def _errand(self, errand: Callable[[], None]) -> None:
        self.ready()
        self.later(errand)

    def ready(self) -> None:
        """Start that thread; called where a stream begins, since a collector must not start one."""
        if self._errand_boy is None:
            self._errand_boy = threading.Thread(target=self._run_errands, name="bursar-errands", daemon=True)
            self._errand_boy.start()

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                errand()
            except Exception:
                _log.exception("an errand failed; the next ones go on")

    def close(self, seconds: float = 5.0) -> None:
        """Do the errands that are waiting; no more come."""
        if self._errand_boy is not None:
            self._errands.put(None)
            self._errand_boy.join(seconds)
            self._errand_boy = None
        if self.semantics is not None:
            self.semantics.close()

    def perform(self, effect: Effect[T], /) -> T:
        asked: Effect[Any] = effect
        answer: Any
        match asked:
            case Now():
                answer = self.clock()
            case Reserve(entry, ask):
                answer = self.store.reserve(entry, ask).result()
            case Admit(call):
                answer = self.breakers.admit(call)
            case Settle(hold, entry, plan):
                self._settle(hold, entry, plan)
                answer = None
            case Recall() | Join() | Keep():
                answer = self._about_answers(asked)
            case Habit(call, entry):
                self.ready()
                answer = self.prompts.look(call, entry)
            case Nearby() | Learn():
                answer = self._about_meaning(asked)
            case Lore() | Crossing() | Validate() | Draft() | Observe() | Audit():
                answer = self._about_tiers(asked)
            case Learned(provider, model):
                answer = self.store.ratios(provider, model)
            case Pause(ms):
                time.sleep(ms / 1000)
                answer = None
            case _:
                raise TypeError(f"the world cannot perform {effect!r}")
        return cast(T, answer)

    def _settle(self, hold: Hold, entry: Entry, plan: Plan | None, *, sent: bool = True) -> None:
        self.store.settle(hold, entry)
        self.breakers.watch(entry, sent=sent)
        if sent and plan is not None and plan.decision is not None:
            self.lore.note(entry, plan)
        if plan is not None and plan.marks is not None:
            self.prompts.note(entry, plan)
            self.later(self.prompts.catch_up)
        self._settled(entry)

    def conclude(self, life: Life, asked: Effect[Any] | Verdict, outcome: Callable[[], Outcome]) -> Verdict:
        """Go on with a life whose caller is gone, without waiting for anything: what it would send is not sent.

        A Reserve that was on its way counts as granted: the store takes the Settle behind it, gives up with it a
        Reserve that still waits for others' holds, and lets the Settle of a refused one fall.
        """
        first, sent = asked, True
        while not isinstance(asked, Verdict):
            match asked:
                case Admit():
                    answer: Any = Admitted()
                case Reserve(entry):
                    answer = Hold(entry.request_id, entry.attempt)
                case Send():
                    answer, sent = outcome(), asked is first
                case Settle(hold, entry, plan):
                    self._settle(hold, entry, plan, sent=sent)
                    answer = None
                case Pause() | Nearby() | Audit():
                    answer = None
                case Validate():
                    answer = UNHEARD
                case Habit():
                    answer = Ground(Habits(), Habits(), ())
                case Join(_, call):
                    self.flights.leave(call.request_id)
                    answer = "alone"
                case _:
                    answer = self.perform(asked)
            asked = life.step(answer)
        return asked

    def _about_answers(self, asked: Recall | Join | Keep) -> Any:
        match asked:
            case Recall(key, call):
                return self.recall(key, call)
            case Join(key, call, waits):
                landing = self.flights.join(key, call.request_id, waits=waits)
                return self.joined(call, self._landed(key, landing, call))
            case Keep(key, request_id, kept, again):
                self.keep(key, request_id, kept, again=again)
                return None

    def _about_meaning(self, asked: Nearby | Learn) -> Around | None:
        if self.semantics is None:
            return None
        if isinstance(asked, Nearby):
            return self.semantics.around(asked.question, asked.vector)
        self.semantics.learn(asked.told)
        return None

    def _about_tiers(self, asked: Lore | Crossing | Validate | Draft | Observe | Audit) -> Any:
        match asked:
            case Lore():
                return self.lore.known(asked)
            case Crossing(call, plan):
                return crossing(call, plan)
            case Validate():
                return lore.validated(asked)
            case Draft(call, plan, api, judge, said, name):
                name = f"{call.request_id}-{name}"
                return asking.judge(call, api, plan.provider, plan.model or "", judge, said, name)
            case Observe(lesson):
                return self.lore.observe(lesson)
            case Audit():  # the driver's, which knows the way to the provider
                return None

    def recall(self, key: bytes, call: Call) -> Kept | None:
        """The kept answer, as the call asks for it."""
        kept = self.store.cache.get(key, self.clock())
        return None if kept is None else shaped(call, kept)

    def _landed(self, key: bytes, receipt: Receipt[Joined], call: Call) -> Joined:
        while True:
            try:
                return receipt.result(flights.STALL_SECONDS)
            except TimeoutError:
                if self.flights.stalled(key):
                    self.flights.leave(call.request_id)
                    return "alone"

    def joined(self, call: Call, answer: Joined) -> Joined:
        """What a flight came to, as the call asks for it; what has no such shape is no answer."""
        return answer if isinstance(answer, str) else shaped(call, answer) or "alone"

    def keep(self, key: bytes, request_id: str, kept: Kept | None, *, again: bool) -> None:
        """Keep an answer and end its flight."""
        if kept is not None:
            self.store.cache.put(key, kept)
        self.flights.land(key, request_id, kept, again=again)
