"""A ledger with everything in it, the pages of any ledger on a socket, and a page as a browser reads it. No test."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import httpx2
import msgspec

from books import Watch, ask, claim, held
from bursar.doors import dashboard
from bursar.doors.dashboard import asked as asking
from bursar.doors.dashboard.asked import read
from bursar.doors.gateway.access import Doorkeeper
from bursar.drivers.breakers import Breakers, reset
from bursar.drivers.watchman import Watchman
from bursar.policy import Alert, Policy
from bursar.policy.alerts import Cap, Terms
from bursar.policy.breakers import Breaker, Ceiling, Errors
from bursar.rules.cards import compile_book
from bursar.stores.base import Store
from bursar.stores.memory import MemoryStore
from bursar.types import Entry, Hold, Instant
from gateways import DEADLINE, HASH_KEY, TLS, serving

NOW = Instant(1_764_000_000_000_000)
"""2025-11-24T16:00:00Z"""
HOUR = 3_600_000_000
CAP = Alert(rule=Cap(name="user cap", limit_nanos=1_000_000_000), by="user", terms=Terms(calm_ms=0))
LOOPS = Breaker(name="errors <b>", scope="session", trigger=Errors(failures=1, of=1), suspend_ms=3_600_000)
CEILING = Breaker(name="ceiling", scope="user", trigger=Ceiling(over_nanos=1))
POLICY = Policy(
    prices=compile_book({}, {}), tiers={"small": (), "mid": ()}, alerts=(CAP,), breakers=(LOOPS, CEILING)
)  # fmt: skip
EVIL = '<script>alert("x")</script>'
NAMES = ("a", EVIL, "../..?since=all&user=x#y", "ü %2F\n\t'\"", "{{ 7*7 }}", "x" * 300)
PAGES = tuple(name for name in asking.PATHS if name not in ("run", "call", "budget", "breaker"))


def row(number: int = 0, **told: Any) -> Entry:
    """A completed row of a hundred tokens in, ten out, one cent, an hour ago."""
    usual = Entry(
        request_id=f"req_{number:04}", attempt=1, run_id=f"r{number % 3}", parent_run_id=None, session_id="s1",
        user_id="u1", user_tier=None, agent_id="a", step="s", tenant="default", tags=(), key_id=None,
        started_at=Instant(NOW - HOUR + number), duration_ms=5, api="chat", provider="openai",
        requested_model="gpt-4o", model="gpt-4o", tier="mid", route_reason="caller", stream=False, status="completed",
        http_status=200, input_tokens=100, cached_tokens=40, cache_write_tokens=0, output_tokens=10,
        reasoning_tokens=0, cost_nanos=10_000_000, cost_status="final",
    )  # fmt: skip
    return msgspec.structs.replace(usual, **told)


def book(*entries: Entry, watch: Watch | None = None) -> MemoryStore:
    """A ledger with these rows."""
    store = MemoryStore(clock=watch or Watch(NOW))
    for entry in entries:
        opened = msgspec.structs.replace(entry, status="open", cost_nanos=None, cost_status="unpriced")
        hold = store.reserve(opened).result()
        assert isinstance(hold, Hold)
        store.settle(hold, entry).result()
    return store


def rich() -> MemoryStore:
    """Rows of every kind under labels of every kind, budgets that hold, alerts and breakers that are open and over."""
    watch, rows = Watch(Instant(NOW - HOUR)), []
    for number in range(90):
        name = NAMES[number % len(NAMES)]
        rows.append(
            row(
                number, agent_id=name, step=name if number % 2 else None, user_id=name, user_tier=name, session_id=name,
                run_id=f"{name} {number}", model=name, tier=name if number % 5 else None, route_reason=name,
                provider=name, error=name, started_at=Instant(NOW - (number + 1) * 7 * HOUR), tenant="default",
                parent_run_id=f"{NAMES[0]} 0" if number == 6 else None,
                status=("completed", "failed", "hit", "refused", "abandoned", "expired")[number % 6],
                cost_nanos=None if number % 7 == 0 else number * 1_000_003, saved_nanos=5 if number % 6 == 2 else None,
                cost_status="unpriced" if number % 7 == 0 else "final", input_tokens=None if number % 11 == 0 else 9,
            )
        )  # fmt: skip
    store = book(*rows, watch=watch)
    for number, name in enumerate(NAMES):
        terms = claim("daily <b>", "user", name, window="day", limit_nanos=1_000, limit_tokens=5_000)
        held(store, row(1000 + number, status="open", user_id=name), ask(terms))
    alarm(store, watch)
    trip(store, watch)
    return store


def alarm(store: MemoryStore, watch: Watch) -> None:
    """Of each user an alert, of which one is over by NOW and the others open."""
    man = Watchman([CAP], store, POLICY.prices, {}, watch)
    for number, name in enumerate(NAMES):
        if number == 1:
            watch.now = NOW
        extra = row(2000 + number, user_id=name, cost_nanos=2_000_000_000, started_at=watch.now)
        store.settle(held(store, msgspec.structs.replace(extra, status="open"), ask()), extra).result()
        if number == 0:
            man.look()
    man.look()


def trip(store: MemoryStore, watch: Watch) -> str:
    """Of each session a breaker that is open, but for the first, closed again by hand; the id of an open one."""
    driver = Breakers(store, (LOOPS, CEILING), watch)
    for number, name in enumerate(NAMES):
        labels = {"session_id": name, "user_id": name, "started_at": watch.now}
        failed = row(3000 + number, status="failed", http_status=503, cost_nanos=0, **labels)
        store.settle(held(store, msgspec.structs.replace(failed, status="open"), ask()), failed).result()
        driver.watch(failed)
    ids = {document.key for document in store.states.list("breaker", limit=500).items if trips(document.body)}
    first, *others = sorted(ids)
    assert reset(store, "default", first, f"{EVIL} (key_1)")
    return others[0]


def trips(body: bytes) -> bool:
    """Whether a breaker's document is of one that is open."""
    return b'"status":"open"' in body


class Page(HTMLParser):
    """A page as a browser would read it: links, tags with their attributes, text; and that every tag is closed."""

    VOID = frozenset(("meta", "link", "input", "img", "br"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        return [href for tag, told in self.tags if tag == "a" and (href := told.get("href"))]


class Visitor:
    """Asks the pages over a socket, as a browser of one site."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, verify=TLS, timeout=DEADLINE)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        told: Any = {name: value.encode() for name, value in headers.items()}
        return self.http.get(path, headers=told)

    def page(self, path: str) -> Page:
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.text)
        return Page(answer.text)

    def post(self, path: str, form: Mapping[str, str], **headers: str) -> httpx2.Response:
        told = {"content-type": "application/x-www-form-urlencoded", **headers}
        return self.http.post(path, content=urlencode(form).encode(), headers=told)


@contextmanager
def visiting(store: Store, watch: Watch | None = None) -> Iterator[Visitor]:
    """The pages of a store, on a loopback port."""
    keyed = bool(store.list_keys())
    doorkeeper = Doorkeeper(store, HASH_KEY, lambda: 0.0, keyed=keyed)
    with serving(dashboard.create(store, POLICY, doorkeeper, HASH_KEY, watch or Watch(NOW))) as (_, port):
        visitor = Visitor(f"http://127.0.0.1:{port}")
        with visitor.http:
            yield visitor


def asked(page: str = "overview", **query: str) -> asking.Asked:
    return read(page, query, NOW)
