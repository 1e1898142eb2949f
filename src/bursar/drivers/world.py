"""What both drivers perform effects on: a store and the system's clock.

Only a Reserve is waited for: it has to be durable before any byte leaves. A Settle is handed to the store's writer,
which keeps order, journals what it cannot write and loses nothing; whoever asks the ledger asks behind it.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from bursar.drivers import flights
from bursar.drivers.flights import Flights
from bursar.drivers.life import Life, shaped
from bursar.drivers.prompts import Prompts
from bursar.drivers.semantics import Semantics
from bursar.effects import Effect, Habit, Join, Keep, Learn, Learned, Nearby, Now, Pause, Recall, Reserve, Send, Settle
from bursar.rules.prompt.habits import Habits
from bursar.rules.prompt.marking import Ground
from bursar.rules.semantic.choose import Around
from bursar.stores.base import Store
from bursar.stores.receipt import Receipt
from bursar.types import Call, Entry, Hold, Instant, Joined, Kept, Outcome, Verdict

T = TypeVar("T")


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
    ) -> None:
        """semantics: None where no step asks for a semantic cache."""
        self.store, self.clock, self._settled = store, clock, settled
        self.prompts = Prompts(store)
        self.semantics = semantics
        self.flights = Flights()
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._errand_boy: threading.Thread | None = None

    def extend(self, hold: Hold, nanos: int, tokens: int) -> None:
        """Hold so much more: handed to the store's writer and not waited for."""
        self.store.extend(hold, nanos, tokens)

    def later(self, errand: Callable[[], None]) -> None:
        """Have a thread do it: for the collector, which may run anywhere, in the middle of anything."""
        self._errands.put(errand)

    def ready(self) -> None:
        """Start that thread; called where a stream begins, since a collector must not start one."""
        if self._errand_boy is None:
            self._errand_boy = threading.Thread(target=self._run_errands, name="bursar-errands", daemon=True)
            self._errand_boy.start()

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand()

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
            case Settle(hold, entry, plan):
                self.store.settle(hold, entry)
                if plan is not None and plan.marks is not None:
                    self.prompts.note(entry, plan)
                    self.later(self.prompts.catch_up)
                answer = self._settled(entry)
            case Recall(key, call):
                answer = self.recall(key, call)
            case Join(key, call, waits):
                answer = self.joined(
                    call, self._landed(key, self.flights.join(key, call.request_id, waits=waits), call)
                )
            case Keep(key, request_id, kept, again):
                self.keep(key, request_id, kept, again=again)
                answer = None
            case Habit(call, entry):
                self.ready()
                answer = self.prompts.look(call, entry)
            case Nearby() | Learn():
                answer = self._about_meaning(asked)
            case Learned(provider, model):
                answer = self.store.ratios(provider, model)
            case Pause(ms):
                time.sleep(ms / 1000)
                answer = None
            case _:
                raise TypeError(f"the world cannot perform {effect!r}")
        return cast(T, answer)

    def conclude(self, life: Life, asked: Effect[Any] | Verdict, outcome: Callable[[], Outcome]) -> Verdict:
        """Go on with a life whose caller is gone, without waiting for anything: what it would send is not sent.

        A Reserve that was on its way counts as granted: the store takes the Settle behind it, gives up with it a
        Reserve that still waits for others' holds, and lets the Settle of a refused one fall.
        """
        while not isinstance(asked, Verdict):
            match asked:
                case Reserve(entry):
                    answer: Any = Hold(entry.request_id, entry.attempt)
                case Send():
                    answer = outcome()
                case Pause() | Nearby():
                    answer = None
                case Habit():
                    answer = Ground(Habits(), Habits(), ())
                case Join(_, call):
                    self.flights.leave(call.request_id)
                    answer = "alone"
                case _:
                    answer = self.perform(asked)
            asked = life.step(answer)
        return asked

    def _about_meaning(self, asked: Nearby | Learn) -> Around | None:
        if self.semantics is None:
            return None
        if isinstance(asked, Nearby):
            return self.semantics.around(asked.question, asked.vector)
        self.semantics.learn(asked.told)
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
