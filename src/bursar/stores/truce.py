"""When a process may fork: while none of its threads is inside SQLite and no connection is open.

SQLite keeps one table of locks per file and process. A child inherits the table but none of the kernel's locks behind
it, so a lock that was held at the fork is held for good there, and one that is taken on top of it protects nothing
(sqlite.org/howtocorrupt.html, section 2.6). A fork waits for the work that is under way, however long that takes.
"""

import threading


class Truce:
    """`with truce:` is work inside SQLite, by any number of threads; it must not be nested."""

    __slots__ = ("_changed", "_inside", "_pauses")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = self._pauses = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._pauses:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if self._pauses:
                self._changed.notify_all()

    def pause(self) -> None:
        """Returns once nobody is inside; nobody comes in before `resume`."""
        with self._changed:
            self._pauses += 1
            while self._inside:
                self._changed.wait()

    def resume(self) -> None:
        """The fork is over. One that was never paused (its store was opened meanwhile) stays as it is."""
        with self._changed:
            self._pauses = max(0, self._pauses - 1)
            self._changed.notify_all()
