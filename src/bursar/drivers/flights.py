"""Coalescing: of identical calls under way one is sent, the others wait for its answer. One table a process.

Whoever comes first leads. When the leader's answer may be kept everybody gets it; a leader that failed in a way that
may pass, or was given up, makes the first of those who wait the new leader; any other end sends all of them on their
own way. Nobody waits longer than he wants: a waiter who leaves is forgotten. Nor does anybody wait for a leader whose
caller has stopped reading his stream: it may be the very code that waits.
"""

import threading
import time
from collections import OrderedDict

from bursar.stores.receipt import Receipt, resolve
from bursar.types import Joined, Kept

STALL_SECONDS = 2.0
"""So long a leader's caller may leave his stream unread before those who wait go on without it."""


class Flights:
    """Thread-safe; waited for by threads and event loops alike."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._lock = threading.Lock()
        self._leaders: dict[bytes, str] = {}
        self._waiting: dict[bytes, OrderedDict[str, Receipt[Joined]]] = {}
        self._where: dict[str, bytes] = {}
        """The flight that a call leads or waits for."""
        self._unread: dict[bytes, float] = {}
        """Since when a leader's stream waits for its caller to ask for more."""

    def join(self, key: bytes, request_id: str, *, waits: bool = True) -> Receipt[Joined]:
        """Resolved at once for a leader, and for who would not wait; else when the leader's answer is there or not."""
        receipt: Receipt[Joined] = Receipt(self._gate)
        answer: Joined = "leads"
        with self._lock:
            if key in self._leaders:
                answer = "alone"
                if waits:
                    self._waiting[key][request_id] = receipt
                    self._where[request_id] = key
                    return receipt
            else:
                self._leaders[key] = request_id
                self._waiting[key] = OrderedDict()
                self._where[request_id] = key
        resolve(self._gate, [(receipt, answer, None)])
        return receipt

    def awaited(self, key: bytes | None) -> bool:
        """Somebody waits for this answer: it is read to its end though its caller has left."""
        return key is not None and bool(self._waiting.get(key))

    def handed(self, key: bytes | None, request_id: str) -> None:
        """A piece of a stream is with its caller: no more comes before he asks."""
        if key is not None and self._leaders.get(key) == request_id:
            self._unread[key] = time.monotonic()

    def asked(self, key: bytes | None, request_id: str) -> None:
        """More of it is being read, by him or in the background."""
        if key is not None and self._leaders.get(key) == request_id:
            self._unread.pop(key, None)

    def stalled(self, key: bytes) -> bool:
        """Nobody reads the leader's stream."""
        since = self._unread.get(key)
        return since is not None and time.monotonic() - since >= STALL_SECONDS

    def land(self, key: bytes, request_id: str, kept: Kept | None, *, again: bool) -> None:
        """The leader's end. again: another may fare better, so the first who waits is sent."""
        with self._lock:
            if self._leaders.get(key) != request_id:
                return
            self._where.pop(request_id, None)
            self._unread.pop(key, None)
            waiting = self._waiting[key]
            if kept is None and again and waiting:
                heir, receipt = waiting.popitem(last=False)
                self._leaders[key] = heir
                told: list[tuple[Receipt[Joined], Joined]] = [(receipt, "leads")]
            else:
                del self._leaders[key], self._waiting[key]
                for other in waiting:
                    self._where.pop(other, None)
                told = [(receipt, "alone" if kept is None else kept) for receipt in waiting.values()]
        resolve(self._gate, [(receipt, answer, None) for receipt, answer in told])

    def leave(self, request_id: str) -> None:
        """A call is given up, whether it waits or leads."""
        with self._lock:
            key = self._where.get(request_id)
            if key is None:
                return
            leads = self._leaders.get(key) == request_id
            if not leads:
                self._where.pop(request_id)
                self._waiting[key].pop(request_id, None)
        if leads:
            self.land(key, request_id, None, again=True)
