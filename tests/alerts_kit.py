"""A webhook's receiver and rows that raise alarms, for the tests of alerts. Not a test itself."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from books import HOUR, NOON, AnyStore, done, row
from bursar.types import Hold, Instant

DAY = 24 * HOUR
USD = 1_000_000_000
KEY = b"k" * 32


def book(store: AnyStore, name: str, at: int, cost: int | None = USD, **more: Any) -> None:
    """One closed call at that instant."""
    outcome = {name: more.pop(name) for name in ("status", "cost_status", "cache", "attempt") if name in more}
    given = {"agent_id": "shop", "user_id": "u1", "run_id": name, **more}
    opening = row(name, started_at=Instant(at), **given)
    hold = store.reserve(opening).result(10)
    assert isinstance(hold, Hold)
    closed = done(opening, cost_nanos=cost, **{"cost_status": "unpriced" if cost is None else "final", **outcome})
    store.settle(hold, closed).result(10)


def past(store: AnyStore, now: int = NOON, cost: int = USD, days: int = 30, **labels: Any) -> None:
    """A call an hour, until the hour before this one."""
    first = now // HOUR * HOUR
    for ago in range(1, days * 24 + 1):
        book(store, f"past-{ago}", first - ago * HOUR, cost, **labels)


class Receiver:
    """Takes webhooks on a port of its own, which it can leave and come back to."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hook/s3cret"

    @contextmanager
    def up(self) -> Iterator["Receiver"]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *told: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def alerts(self) -> list[tuple[str, str, str | None]]:
        """(kind, alert, subject) of every message, in the order in which they came."""
        told = [one for _, body in self.got for one in json.loads(body)["alerts"]]
        return [(one["kind"], one["alert"], one["subject"]) for one in told]

    @property
    def ids(self) -> list[str]:
        return [one["id"] for _, body in self.got for one in json.loads(body)["alerts"]]


def log(store: AnyStore, kind: str = "alert") -> list[dict[str, Any]]:
    """The states' log of one kind, the first line first."""
    events = store.states.log(kind, limit=1000).items
    return [msgspec.json.decode(event.body) for event in reversed(events)]
