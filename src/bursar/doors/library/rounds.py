"""The library's watch over its alerts: a daemon thread that does the watchman's rounds and harms no call.

It ends when its guard is closed or dropped, and with the process; a forked child has one of its own.
"""

import atexit
import os
import threading
import weakref

from bursar.drivers.watchman import PERIOD_SECONDS, Watchman


class Rounds:
    """A round at once and then every so often, until closed."""

    def __init__(self, watchman: Watchman, seconds: float = PERIOD_SECONDS) -> None:
        self._watchman, self._seconds = watchman, seconds
        self._start()
        me = weakref.ref(self)
        atexit.register(_end, me)
        os.register_at_fork(after_in_child=lambda: _reborn(me))

    def _start(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_walk, args=(self._watchman, self._stop, self._seconds), name="bursar-alerts", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._stop.set).atexit = False

    def close(self, seconds: float = 5.0) -> None:
        """Do no more rounds; wait at most that long for the one under way."""
        self._stop.set()
        self._thread.join(seconds)

    def reborn(self) -> None:
        """In a forked child, which has none of its parent's threads."""
        if not self._stop.is_set():
            self._start()


def _walk(watchman: Watchman, stop: threading.Event, seconds: float) -> None:
    while not stop.is_set():
        watchman.once()
        stop.wait(seconds)


def _end(rounds: "weakref.ref[Rounds]") -> None:
    alive = rounds()
    if alive is not None:
        alive.close()


def _reborn(rounds: "weakref.ref[Rounds]") -> None:
    alive = rounds()
    if alive is not None:
        alive.reborn()
