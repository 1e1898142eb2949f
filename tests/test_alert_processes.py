"""The watch of several processes on one ledger and one receiver: one message a cause, whoever dies and whenever.

Their minutes pass by a clock that the test moves, the same for all of them and their stores.
"""

import json
import mmap
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import books
from alerts_kit import KEY, USD, Receiver, book, log
from books import MINUTE, NOON
from bursar.drivers.notify import CLAIM_SECONDS
from bursar.insights import incidents
from bursar.rules.alarm.signature import verify
from bursar.stores.sqlite import SqliteStore
from bursar.types import Instant

path, template = books.path, books.template

DEADLINE = 60.0
WORKER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import stamina
from alerts_kit import KEY, USD
from bursar.drivers.notify import Webhook
from bursar.drivers.watchman import Watchman
from bursar.policy import Alert
from bursar.policy.alerts import Cap, Terms
from bursar.rules.cards import compile_book
from bursar.stores.sqlite import SqliteStore
from test_alert_processes import Hand

path, url, hand, mode = sys.argv[2:]
stamina.set_testing(True, attempts=2)
clock = Hand(hand)

class Hangs(Webhook):
    async def post(self, delivery, messages, at):
        print(delivery, flush=True)
        threading.Event().wait()

hook = (Hangs if mode == "hangs" else Webhook)(url, "1", KEY)
alert = Alert(rule=Cap(name="user cap", limit_nanos=2 * USD), by="user", terms=Terms(calm_ms=0))
man = Watchman([alert], SqliteStore(path, clock=clock), compile_book({}, {}), {"user cap": (hook,)}, clock)
print("ready", flush=True)
while True:
    man.once()
    threading.Event().wait(0.005)
"""


class Hand:
    """The hand of a clock that processes share: a number in a file, moved by the test alone."""

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("r+b")  # noqa: SIM115 - as long as the process
        self._map = mmap.mmap(self._file.fileno(), 8)

    def __call__(self) -> Instant:
        return Instant(int.from_bytes(self._map[:8], "little"))

    def set(self, now: int) -> None:
        self._map[:8] = now.to_bytes(8, "little")


class Desk:
    """A ledger, its clock's hand, a receiver, and the workers that watch."""

    def __init__(self, path: Path, processes: ExitStack) -> None:
        self._path, self._processes = path, processes
        self._hand = path.with_name("hand")
        self._hand.write_bytes(NOON.to_bytes(8, "little"))
        self.clock, self.receiver = Hand(self._hand), Receiver()
        self.store = processes.enter_context(closing(SqliteStore(path, clock=self.clock)))

    def worker(self, mode: str = "sends") -> "subprocess.Popen[str]":
        place = [str(Path(__file__).parent), str(self._path), self.receiver.url, str(self._hand), mode]
        arguments = [sys.executable, "-c", WORKER, *place]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._processes.callback(process.communicate)
        self._processes.callback(process.kill)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    def until(self, holds: Callable[[], bool], minutes: int = 24 * 60) -> None:
        """Minute by minute, each with a round of one of the workers, until it holds."""
        for _ in range(minutes):
            if holds():
                return
            self.minute()
        raise AssertionError(f"not within {minutes} minutes: {self.receiver.alerts}, {log(self.store, 'delivery')}")

    def minute(self) -> None:
        now = self.clock() + MINUTE
        self.clock.set(now)
        end = time.monotonic() + DEADLINE
        while (turn := self.store.states.get("watch", "", ["turn"])) == {} or json.loads(turn["turn"])["at"] < now:
            assert time.monotonic() < end, f"no round within {DEADLINE} s"
            time.sleep(0.002)


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    with ExitStack() as processes:
        yield Desk(path, processes)


def test_two_processes_and_one_receiver(desk: Desk) -> None:
    """Twenty causes, one message each, signed; and one for the end of each when the hour is over."""
    receiver, causes = desk.receiver, {f"u{at}" for at in range(20)}
    with receiver.up():
        desk.worker(), desk.worker()
        for user in sorted(causes):
            book(desk.store, user, desk.clock(), 3 * USD, user_id=user)
        desk.until(lambda: len(receiver.alerts) >= 40)
        for _ in range(10):
            desk.minute()
    assert incidents.running(desk.store) == []
    logged = sorted((one["kind"], one["subject"]) for one in log(desk.store))
    assert logged == sorted((kind, user) for kind in ("open", "resolve") for user in causes)
    assert sorted((kind, subject) for kind, _, subject in receiver.alerts) == logged
    assert len(set(receiver.ids)) == len(receiver.ids)
    for headers, body in receiver.got:
        assert verify(headers, body, {"1": KEY}, int(headers["webhook-timestamp"])).startswith("msg_")


def test_a_receiver_that_is_down_and_then_up(desk: Desk) -> None:
    """It gets all that it has missed, in order, once."""
    desk.worker(), desk.worker()
    book(desk.store, "a", desk.clock(), 3 * USD)
    desk.until(lambda: len(log(desk.store)) == 2)
    assert {one["status"] for one in log(desk.store, "delivery")} == {"failed"}
    with desk.receiver.up():
        desk.until(lambda: len(desk.receiver.alerts) >= 2)
        for _ in range(10):
            desk.minute()
    assert desk.receiver.alerts == [("open", "user cap", "u1"), ("resolve", "user cap", "u1")]


def test_the_sender_is_killed_between_claim_and_send(desk: Desk) -> None:
    """Others leave the message to it for as long as its claim holds, and then one of them sends it."""
    receiver = desk.receiver
    book(desk.store, "a", desk.clock(), 3 * USD)
    victim = desk.worker("hangs")
    assert victim.stdout is not None and victim.stdout.readline().startswith("msg_")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    with receiver.up():
        desk.worker(), desk.worker()
        for _ in range(CLAIM_SECONDS // 60 - 1):
            desk.minute()
        assert receiver.got == [] and [one["kind"] for one in log(desk.store)] == ["open"]
        desk.until(lambda: bool(receiver.got), 10)
        for _ in range(10):
            desk.minute()
    assert receiver.alerts == [("open", "user cap", "u1")]
