"""Alerts at the doors: the command line, the admin API, a gateway's life, a guard's thread, what cannot be watched."""

import asyncio
import base64
import json
import signal
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

import books
import bursar
import test_cli
from alerts_kit import KEY, USD, Receiver, book
from books import MINUTE, NOON, Watch, in_child
from bursar.config import ConfigError
from bursar.doors import alerting
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.proxy import Settings
from bursar.doors.library.rounds import Rounds
from bursar.drivers.notify import Target
from bursar.drivers.watchman import Watchman
from bursar.insights import incidents
from bursar.policy import Alert, Match, Policy
from bursar.policy.alerts import Cap, Spike, Terms
from bursar.rules.alarm import Message
from bursar.rules.alarm.signature import verify
from bursar.rules.cards import compile_book
from bursar.stores.base import Store
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Instant
from gateways import HASH_KEY, create_key, serving, until
from test_cli import Cli

cli = test_cli.cli
path, template = books.path, books.template

PRICES = compile_book({}, {})
CAP = Cap(name="user cap", limit_nanos=2 * USD)
CAPS = Alert(rule=CAP, by="user", terms=Terms(calm_ms=0))


class Pager:
    name, identity = "pager", "pager"

    def __init__(self) -> None:
        self.rang = threading.Event()

    async def post(self, delivery: str, messages: Sequence[Message], at: Instant) -> None:
        self.rang.set()


def watchman(store: Store, watch: Watch, *targets: Target) -> Watchman:
    return Watchman([CAPS], store, PRICES, {"user cap": targets}, watch)


def two_incidents(store: Any, watch: Watch) -> None:
    """One that is over and one that is open."""
    man = watchman(store, watch)
    book(store, "a", watch.now, 3 * USD)
    man.look()
    watch.forward(60 * MINUTE)
    book(store, "b", watch.now, 4 * USD, user_id="u2")
    man.look()


class TestCommands:
    def config(self, tmp_path: Path, told: str) -> None:
        (tmp_path / "bursar.toml").write_text(f'[store]\nurl = "sqlite:///ledger.db"\n{told}', "utf-8")

    def test_open_and_past(self, cli: Cli, tmp_path: Path) -> None:
        self.config(tmp_path, "")
        watch = Watch()
        with closing(SqliteStore(tmp_path / "ledger.db", clock=watch)) as store:
            two_incidents(store, watch)
        (running,) = cli("alerts", "--json").json["items"]
        assert (running["alert"], running["subject"], running["status"]) == ("user cap", "u2", "open")
        items = cli("alerts", "--all", "--json").json["items"]
        assert [(one["subject"], one["status"]) for one in items] == [("u2", "open"), ("u1", "resolved")]
        assert set(items[0]) == set(items[1])
        told = cli("alerts", "--all")
        assert told.code == 0 and "user cap" in told.out and "over at 2025-11-24 17:00" in told.out
        assert cli("alerts", "--cursor", "nonsense").code == cli("alerts", "--limit", "0").code == 2
        assert cli("alerts", "deliveries").out == "Nothing has been sent.\n"

    def test_a_ledger_without_incidents_says_what_is_watched(self, cli: Cli, tmp_path: Path) -> None:
        self.config(tmp_path, "")
        SqliteStore(tmp_path / "ledger.db").close()
        told = cli("alerts")
        assert told.out.startswith("No incident is open.\n") and "11 alerts are watched" in told.out

    def test_a_test_goes_to_every_target_and_is_recorded(self, cli: Cli, tmp_path: Path) -> None:
        one, other = Receiver(), Receiver()
        self.config(
            tmp_path,
            "[[alerts]]\nname = 'a'\nrule = { metric = 'spend', over_usd = 1 }\n"
            f"notify = ['{one.url}', '{other.url}']\n"
            "[[alerts]]\nname = 'b'\nrule = { metric = 'spend', over_usd = 2 }\n"
            f"notify = ['{one.url}']\n",
        )
        with one.up(), other.up():
            told = cli("alerts", "test")
            assert told.code == 0 and told.out.count("delivered") == 2
            assert one.alerts == other.alerts == [("test", "test", "")]
            assert len(cli("alerts", "test", "b", "--json").json["items"]) == 1
            other.status = 500
            failed = cli("alerts", "test", "--json")
        assert failed.code == 1
        assert sorted((one["status"], one["error"]) for one in failed.json["items"]) == [
            ("delivered", None), ("failed", "HTTP 500")
        ]  # fmt: skip
        key = cli("alerts", "key", "--json").json
        headers, body = one.got[0]
        stamp = int(headers["webhook-timestamp"])
        assert verify(headers, body, {key["key_id"]: base64.b64decode(key["key"])}, stamp).startswith("msg_")
        items = cli("alerts", "deliveries", "--json").json["items"]
        assert [one["status"] for one in items].count("delivered") == 4
        assert "s3cret" not in json.dumps(items)

    def test_what_cannot_be_tested_is_said(self, cli: Cli, tmp_path: Path) -> None:
        self.config(tmp_path, "")
        assert "no alert tells anybody" in cli("alerts", "test").err
        told = cli("alerts", "test", "nonsense")
        assert told.code == 2 and "no alert 'nonsense' is configured: there is spend of the hour" in told.err


class TestGateway:
    def test_it_watches_and_stops_cleanly(self) -> None:
        watch, pager = Watch(), Pager()
        store = MemoryStore(clock=watch)
        book(store, "a", NOON, 3 * USD)
        app = Gateway(Policy(prices=PRICES), store, HASH_KEY, {}, Settings(), watchman=watchman(store, watch, pager))
        with serving(app):
            assert pager.rang.wait(15)
        assert app._watching is not None and app._watching.done() and app._watching.exception() is None

    def test_a_message_that_hangs_holds_no_shutdown_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bursar.doors.gateway.app.WATCH_SECONDS", 0.05)
        watch, rang = Watch(), threading.Event()

        class Hangs(Pager):
            async def post(self, delivery: str, messages: Sequence[Message], at: Instant) -> None:
                rang.set()
                await asyncio.Event().wait()

        store = MemoryStore(clock=watch)
        book(store, "a", NOON, 3 * USD)
        app = Gateway(Policy(prices=PRICES), store, HASH_KEY, {}, Settings(), watchman=watchman(store, watch, Hangs()))
        with serving(app):
            assert rang.wait(15)
        assert app._watching is not None and app._watching.cancelled()

    def test_the_admin_api(self) -> None:
        watch = Watch()
        store = MemoryStore(clock=watch)
        secret = create_key(store, "admin")
        two_incidents(store, watch)
        app = Gateway(Policy(prices=PRICES), store, HASH_KEY, {}, Settings())
        with serving(app) as (_, port), httpx2.Client(base_url=f"http://127.0.0.1:{port}/bursar/v1") as client:
            assert client.get("/alerts").status_code == 401
            client.headers["authorization"] = f"Bearer {secret}"
            told = client.get("/alerts").json()
            assert [one["subject"] for one in told["items"]] == ["u2"] and told["next_cursor"] is None
            past = client.get("/alerts", params={"status": "past"}).json()
            assert [(one["subject"], one["peak"]) for one in past["items"]] == [("u1", "3")]
            assert client.get("/alerts", params={"status": "deliveries"}).json()["items"] == []
            assert client.get("/alerts", params={"status": "new"}).status_code == 400
            assert client.get("/alerts", params={"status": "past", "cursor": "x"}).status_code == 400
            assert "/bursar/v1/alerts" in client.get("/openapi.json").json()["paths"]

    @pytest.mark.parametrize("workers", [1, 2])
    def test_served_by_so_many_workers_one_message_comes(self, cli: Cli, tmp_path: Path, workers: int) -> None:
        """And the process ends in order, on a ledger that audits clean."""
        receiver = Receiver()
        (tmp_path / "bursar.toml").write_text(
            "[[alerts]]\nname = 'cap'\nby = 'user'\nrule = { metric = 'spend', window = 'day', over_usd = 0.5 }\n"
            f"notify = ['{receiver.url}']\n",
            "utf-8",
        )
        with closing(SqliteStore("bursar.db")) as store:
            book(store, "a", store._clock(), 3 * USD)
        with receiver.up(), test_cli.serving("serve", "--workers", str(workers)) as (gateway, at):
            until(lambda: bool(receiver.got), "the message")
            assert [one["alert"] for one in test_cli.ask(f"{at['gateway']}/bursar/v1/alerts")["items"]] == ["cap"]
            gateway.send_signal(signal.SIGTERM)
            assert gateway.wait(30) == 0
        assert receiver.alerts == [("open", "cap", "u1")]
        assert cli("verify").code == 0
        assert [one["status"] for one in cli("alerts", "deliveries", "--json").json["items"]] == ["delivered"]


class TestGuard:
    def test_a_thread_of_its_own_until_it_is_closed(self) -> None:
        watch, pager = Watch(), Pager()
        store = MemoryStore(clock=watch)
        book(store, "a", NOON, 3 * USD)
        before = set(threading.enumerate())
        guard = bursar.Guard(Policy(prices=PRICES), store, watchman=watchman(store, watch, pager))
        (thread,) = [one for one in set(threading.enumerate()) - before if one.name == "bursar-alerts"]
        assert thread.daemon and pager.rang.wait(15)
        guard.close()
        assert not thread.is_alive()

    def test_a_guard_that_is_dropped_takes_it_along(self) -> None:
        watch = Watch()
        rounds = Rounds(watchman(MemoryStore(clock=watch), watch))
        thread = rounds._thread
        del rounds
        thread.join(15)
        assert not thread.is_alive()

    def test_a_forked_child_watches_too(self, path: Path) -> None:
        """With a thread of its own, on the store as it goes on in the child."""
        watch = Watch()
        with closing(SqliteStore(path, clock=watch)) as store:
            man = watchman(store, watch)
            rounds = Rounds(man, seconds=0.001)
            until(lambda: bool(store.states.get("watch", "", ["turn"])), "the first round")

            def child() -> None:
                watch.forward(2 * MINUTE)
                book(store, "a", watch.now, 3 * USD)
                until(lambda: bool(incidents.running(store)), "a round in the child")

            assert in_child(child) == 0
            rounds.close()
            assert [one["subject"] for one in incidents.running(store)] == ["u1"]

    def test_opened_from_a_configuration(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where an alert tells somebody; the defaults alone tell nobody, and start nothing."""
        monkeypatch.chdir(tmp_path)
        receiver = Receiver()
        Path("bursar.toml").write_text(
            "[[alerts]]\nname = 'cap'\nby = 'user'\nrule = { metric = 'spend', over_usd = 0.5 }\n"
            f"notify = ['{receiver.url}']\n",
            "utf-8",
        )
        with closing(SqliteStore("bursar.db")) as store:
            book(store, "a", store._clock(), 3 * USD)
        with receiver.up(), bursar.open() as guard:
            assert guard._rounds is not None
            until(lambda: bool(receiver.got), "the message")
        assert receiver.alerts == [("open", "cap", "u1")]
        Path("bursar.toml").write_text("", "utf-8")
        with bursar.open() as guard:
            assert guard._rounds is None


class TestComposition:
    @pytest.mark.parametrize(
        ("alert", "why"),
        [
            (Alert(rule=CAP, webhooks=("ftp://host/s3cret",)), "expected https"),
            (Alert(rule=CAP, services=("nosuch://s3cret",)), "does not know this URL"),
            (Alert(rule=Spike(name="s"), by="user", match=Match(agent="a")), "no rollup"),
        ],
    )
    def test_what_cannot_be_watched_does_not_start(self, alert: Alert, why: str) -> None:
        with pytest.raises(ConfigError, match=why) as raised:
            alerting.watchman(Policy(prices=PRICES, alerts=(alert,)), MemoryStore(), KEY)
        assert "s3cret" not in str(raised.value)

    def test_a_target_is_told_once_however_often_it_is_named(self) -> None:
        alert = Alert(rule=CAP, webhooks=("http://a/1", "http://a/1", "http://a/2"), services=("json://b", "json://b"))
        assert [one.name for one in alerting.targets([alert], KEY)["user cap"]] == [
            "webhook a", "webhook a", "apprise JSON"
        ]  # fmt: skip

    def test_without_alerts_nothing_is_watched(self) -> None:
        assert alerting.watchman(Policy(prices=PRICES), MemoryStore(), KEY) is None
