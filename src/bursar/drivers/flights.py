"""Coalescing: of identical calls under way one is sent, the others wait for its answer. One table a process.

Whoever comes first leads. When the leader's answer may be kept everybody gets it; a leader that failed in a way that
may pass, or was given up, makes the first of those who wait the new leader; any other end sends all of them on their
own way. Nobody waits longer than he wants: a waiter who leaves is forgotten.
"""

import threading
from collections import OrderedDict

from bursar.stores.receipt import Receipt, resolve
from bursar.types import Joined, Kept


class Flights:
    """Thread-safe; waited for by threads and event loops alike."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._lock = threading.Lock()
        self._flights: dict[bytes, OrderedDict[str, Receipt[Joined]]] = {}
        self._leaders: dict[bytes, str] = {}

    def join(self, key: bytes, request_id: str) -> Receipt[Joined]:
        """Resolved at once for a leader; for the others when the leader's answer is there, or is not to come."""
        receipt: Receipt[Joined] = Receipt(self._gate)
        with self._lock:
            if key in self._leaders:
                self._flights[key][request_id] = receipt
                return receipt
            self._leaders[key] = request_id
            self._flights[key] = OrderedDict()
        resolve(self._gate, [(receipt, "leads", None)])
        return receipt

    def awaited(self, key: bytes | None) -> bool:
        """Somebody waits for this answer: it is read to its end though its caller has left."""
        return key is not None and bool(self._flights.get(key))

    def land(self, key: bytes, request_id: str, kept: Kept | None, *, again: bool) -> None:
        """The leader's end. again: another may fare better, so the first who waits is sent."""
        with self._lock:
            if self._leaders.get(key) != request_id:
                return
            waiting = self._flights[key]
            if kept is None and again and waiting:
                heir, receipt = waiting.popitem(last=False)
                self._leaders[key] = heir
                told: list[tuple[Receipt[Joined], Joined]] = [(receipt, "leads")]
            else:
                del self._leaders[key], self._flights[key]
                told = [(receipt, "alone" if kept is None else kept) for receipt in waiting.values()]
        resolve(self._gate, [(receipt, answer, None) for receipt, answer in told])

    def leave(self, key: bytes, request_id: str) -> None:
        """A call is given up, whether it waits or leads."""
        with self._lock:
            waited = self._flights.get(key, OrderedDict[str, Receipt[Joined]]()).pop(request_id, None)
        if waited is None:
            self.land(key, request_id, None, again=True)
