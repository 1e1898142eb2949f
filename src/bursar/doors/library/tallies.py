"""What the runs of a guard have come to in this process. In memory: the ledger knows it for good."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bursar.doors.library.budget import Finish
from bursar.types import Entry, Kin, Standing

_bill: ContextVar[list[Entry] | None] = ContextVar("bursar_bill", default=None)


@contextmanager
def billed() -> Iterator[list[Entry]]:
    """The rows that the call inside closes before it is answered: attempts, side calls, what its validators ask."""
    outer, rows = _bill.get(), list[Entry]()
    token = _bill.set(rows)
    try:
        yield rows
    finally:
        _bill.reset(token)
        if outer is not None:
            outer += rows


def judging() -> bool:
    """This code runs inside another call: in one of its validators."""
    return _bill.get() is not None


class Tally:
    """What one run, or step, and all runs below it have come to, as heard from the driver; shared by name."""

    def __init__(self, parent: "Tally | None") -> None:
        self.parent = parent
        self.nanos = self.unknown = self.tokens = self.calls = self.flagged = 0
        self.line: tuple[Kin, ...] = ()
        """The run and those around it, as last said."""
        self.finish: Finish | None = None
        self.pressed = False
        """The last word of a budget about a call of the run itself: it should come to its end."""
        self.lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        """Count a closed row here and in every run above."""
        above: Tally | None = self
        while above is not None:
            with above.lock:
                above.nanos += entry.cost_nanos or 0
                above.unknown += entry.cost_nanos is None
                above.tokens += (entry.input_tokens or 0) + (entry.output_tokens or 0)
                above.calls += entry.attempt == 1 and entry.purpose == "call"
            above = above.parent

    def flag(self) -> None:
        """Count an answer that passed no check, here and in every run above."""
        above: Tally | None = self
        while above is not None:
            with above.lock:
                above.flagged += 1
            above = above.parent

    def nearest_finish(self) -> Finish | None:
        """How the nearest run that has its own way answers for a budget that is used up."""
        above: Tally | None = self
        while above is not None and above.finish is None:
            above = above.parent
        return None if above is None else above.finish


class Tallies:
    """The tallies of a guard's runs that somebody still holds."""

    def __init__(self) -> None:
        self._tallies: weakref.WeakValueDictionary[str, Tally] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def of(self, run_id: str, parent: Tally | None) -> Tally:
        with self._lock:
            tally = self._tallies.get(run_id)
            if tally is None:
                tally = self._tallies[run_id] = Tally(parent)
            return tally

    def known(self, run_id: str | None) -> Tally | None:
        return None if run_id is None else self._tallies.get(run_id)

    def reborn(self) -> None:
        """In a forked child: another thread may have held a lock."""
        self._lock = threading.Lock()
        for tally in list(self._tallies.values()):
            tally.lock = threading.Lock()

    def settled(self, entry: Entry) -> None:
        """Hear of a closed row."""
        bill = _bill.get()
        if bill is not None:
            bill.append(entry)
        tally = self.known(entry.run_id)
        if tally is not None:
            tally.add(entry)

    def heard(self, run_id: str | None, standing: Standing | None) -> None:
        """Hear what a budget said of a call. What a breaker says is asked anew: it may be over at any time."""
        tally = self.known(run_id)
        if tally is not None and standing is not None:
            tally.pressed = standing.state in ("wrap_up", "exhausted")
