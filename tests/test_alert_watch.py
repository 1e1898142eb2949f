"""The watch on either store: an incident's whole life, one sender of many, what outlives whom, what harms nothing."""

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import books
from alerts_kit import KEY, USD, Receiver, book, log, past
from books import MINUTE, NOON, AnyStore, Opener, Watch
from bursar.drivers.notify import CLAIM_SECONDS, Delivery, Target, Webhook, place_of
from bursar.drivers.outbox import StateOutbox
from bursar.drivers.services import Service
from bursar.drivers.watchman import Watchman
from bursar.insights import incidents
from bursar.policy import Alert, Match
from bursar.policy.alerts import Cap, Quiet, Spike, Stranger, Terms, Threshold
from bursar.rules.alarm import Message
from bursar.rules.alarm import case as cases
from bursar.rules.alarm.signature import verify
from bursar.rules.cards import compile_book
from bursar.stores import StoreFailure
from bursar.stores.sqlite import SqliteStore
from bursar.stores.states import Changed
from bursar.types import Claim, Instant

opened, path, store, template, watch = books.opened, books.path, books.store, books.template, books.watch

PRICES = compile_book({}, {})
CAP = Cap(name="user cap", limit_nanos=2 * USD)
CAPS = Alert(rule=CAP, by="user", terms=Terms(calm_ms=0))


class Pager:
    """A target that takes everything but what it is told to refuse."""

    name = "pager"

    def __init__(self, identity: str = "pager") -> None:
        self.identity, self.got, self.fails = identity, list[Message](), False

    async def post(self, delivery: str, messages: Sequence[Message], at: Instant) -> None:
        if self.fails:
            raise LookupError("no")
        self.got += messages

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(one.kind, one.subject) for one in self.got]


def watchman(store: AnyStore, watch: Watch, *alerts: Alert, targets: tuple[Target, ...] = ()) -> Watchman:
    return Watchman(alerts, store, PRICES, {one.rule.name: targets for one in alerts}, watch)


def minute(man: Watchman, watch: Watch, minutes: int = 1) -> tuple[Delivery, ...]:
    """So much later: a round, and what it sends."""
    watch.forward(minutes * MINUTE)
    man.look()
    return asyncio.run(man.deliver())


class TestLife:
    def test_opens_once_updates_and_resolves(self, store: AnyStore, watch: Watch) -> None:
        pager = Pager()
        man = watchman(store, watch, CAPS, targets=(pager,))
        minute(man, watch)
        assert pager.told == [] and log(store) == []
        book(store, "a", watch.now, 3 * USD)
        for _ in range(5):
            minute(man, watch)
        assert pager.told == [("open", "u1")]
        (running,) = incidents.running(store)
        assert (running["alert"], running["subject"], running["value"], running["limit"]) == (
            "user cap",
            "u1",
            "3",
            "2",
        )
        book(store, "b", watch.now, 30 * USD)
        minute(man, watch, 53)  # in the same hour, but an update may not come before an hour is over
        assert pager.told == [("open", "u1")]
        minute(man, watch, 2)  # the next hour: it has spent nothing
        assert pager.told == [("open", "u1"), ("resolve", "u1")]
        assert incidents.running(store) == []
        (over,) = incidents.past(store).items
        assert (over["status"], over["incident"], over["peak"]) == ("resolved", running["incident"], "33")
        assert [one["kind"] for one in log(store)] == ["open", "resolve"]
        assert [one["status"] for one in log(store, "delivery")] == ["delivered"] * 2

    def test_without_targets_incidents_are_kept_and_nothing_is_pending(self, store: AnyStore, watch: Watch) -> None:
        man = watchman(store, watch, CAPS)
        book(store, "a", NOON, 3 * USD)
        assert minute(man, watch) == ()
        assert [one["subject"] for one in incidents.running(store)] == ["u1"]
        (state,) = store.states.list("alert").items
        assert cases.read(state.body).pending == ()
        pager = Pager()  # one that comes later is not told of what was before it
        minute(watchman(store, watch, CAPS, targets=(pager,)), watch)
        assert pager.got == []

    def test_quiet_hours_hold_the_message_and_not_the_incident(self, store: AnyStore, watch: Watch) -> None:
        """16:00 UTC lies within them; they end at 16:30."""
        pager = Pager()
        terms = Terms(quiet=Quiet(start=15 * 60, end=16 * 60 + 30))
        man = watchman(store, watch, Alert(rule=CAP, by="user", terms=terms), targets=(pager,))
        book(store, "a", NOON, 3 * USD)
        minute(man, watch)
        assert len(incidents.running(store)) == 1 and pager.got == [] and log(store) == []
        minute(man, watch, 30)
        assert pager.told == [("open", "u1")]

    def test_many_subjects_of_one_rule_come_together(self, store: AnyStore, watch: Watch) -> None:
        pager = Pager()
        man = watchman(store, watch, CAPS, targets=(pager,))
        for at in range(30):
            book(store, f"a{at}", NOON, 3 * USD, user_id=f"u{at:02}")
        (sent,) = minute(man, watch)
        assert len(sent.messages) == 30 and len(pager.got) == 30

    def test_a_budget_is_one_cause_whoever_uses_it_up(self, store: AnyStore, watch: Watch) -> None:
        pager = Pager()
        man = watchman(store, watch, Alert(rule=Threshold(name="budgets")), targets=(pager,))
        for user, cost in (("u1", 850), ("u2", 950), ("u3", 100)):
            own = Claim(budget="free users", scope="user", key=user, tenant="default", window="day", limit_nanos=1_000)
            opening = books.row(user)
            hold = books.held(store, opening, books.ask(own))
            closed = books.done(opening, cost_nanos=cost, charges=hold.charges)
            store.settle(hold, closed).result(10)
        minute(man, watch)
        (message,) = pager.got
        assert message.subject == "free users"
        assert message.why.startswith("user u2: $0.00000095 of $0.000001 used") and message.why.endswith("worst of 2")

    def test_what_an_open_incident_explains_is_not_told(self, store: AnyStore, watch: Watch) -> None:
        """Whatever the order in which they are configured."""
        pager = Pager()
        day = Alert(rule=Cap(name="day", limit_nanos=USD, window="day"), terms=Terms(explained_by=("hour",)))
        hour = Alert(rule=Cap(name="hour", limit_nanos=USD))
        man = watchman(store, watch, day, hour, targets=(pager,))
        book(store, "a", NOON, 3 * USD)
        minute(man, watch)
        assert [one.rule for one in pager.got] == ["hour"]

    def test_slow_rules_are_asked_every_quarter_of_an_hour(self, store: AnyStore, watch: Watch) -> None:
        pager = Pager()
        man = watchman(store, watch, Alert(rule=Stranger(name="models")), targets=(pager,))
        minute(man, watch)
        book(store, "a", NOON, None, model="gpt-99", requested_model="gpt-99")
        minute(man, watch)
        assert pager.got == []
        minute(man, watch, 13)
        assert pager.told == [("open", "openai/gpt-99")]

    def test_an_alert_that_is_gone_from_the_configuration_ends(self, store: AnyStore, watch: Watch) -> None:
        book(store, "a", NOON, 3 * USD)
        minute(watchman(store, watch, CAPS), watch)
        other = watchman(store, watch, Alert(rule=Cap(name="other", limit_nanos=9 * USD)))
        minute(other, watch, 15)
        assert len(incidents.running(store)) == 1
        minute(other, watch, 25 * 60)
        assert incidents.running(store) == [] and len(incidents.past(store).items) == 1
        minute(other, watch, 25 * 60)
        assert store.states.list("alert").items == ()

    def test_an_hour_far_above_its_like(self, store: AnyStore, watch: Watch) -> None:
        pager = Pager()
        past(store, days=29)
        man = watchman(store, watch, Alert(rule=Spike(name="hour", window="hour", over=2_000_000)), targets=(pager,))
        book(store, "a", NOON, 2 * USD)
        minute(man, watch)
        assert pager.got == []
        book(store, "b", NOON, USD // 10)
        minute(man, watch)
        assert pager.told == [("open", "")]
        assert pager.got[0].why == "usual for this hour of the week is $1; this hour so far $2.1, limit $2"


class TestOneOfMany:
    def test_of_many_workers_one_tells(self, opened: Opener, watch: Watch) -> None:
        """Eight workers with stores of their own, at once, ten minutes long: one open, in one delivery."""
        pager = Pager()
        stores = [opened() for _ in range(8)]
        men = [watchman(store, watch, CAPS, targets=(pager,)) for store in stores]
        book(stores[0], "a", NOON, 3 * USD)
        for _ in range(10):
            watch.forward(MINUTE)
            threads = [threading.Thread(target=man.once) for man in men]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert pager.told == [("open", "u1")]
        assert [one["kind"] for one in log(stores[0])] == ["open"]
        assert len(log(stores[0], "delivery")) == 1

    def test_one_round_a_minute(self, opened: Opener, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds: list[int] = []
        monkeypatch.setattr(Watchman, "_round", lambda self, turn: rounds.append(self._clock()))
        men = [watchman(opened(), watch, CAPS) for _ in range(4)]
        for second in range(0, 180, 10):
            watch.now = Instant(NOON + second * 1_000_000)
            for man in men:
                man.look()
        assert [(at - NOON) // 1_000_000 for at in rounds] == [0, 60, 120]

    def test_a_worker_that_dies_before_it_sends(self, opened: Opener, watch: Watch) -> None:
        """The incident is open, the message with it: another sends it at once."""
        pager = Pager()
        first, second = (watchman(opened(), watch, CAPS, targets=(pager,)) for _ in range(2))
        book(opened.stores[0], "a", NOON, 3 * USD)
        first.look()
        asyncio.run(second.deliver())
        assert pager.told == [("open", "u1")]
        asyncio.run(first.deliver())
        minute(second, watch)
        assert pager.told == [("open", "u1")]

    def test_a_worker_that_dies_while_it_sends(self, store: AnyStore, watch: Watch) -> None:
        """Its claim is respected until it has run out."""
        pager = Pager()
        man = watchman(store, watch, CAPS, targets=(pager,))
        book(store, "a", NOON, 3 * USD)
        man.look()
        (state,) = store.states.list("alert").items
        (message,) = cases.read(state.body).pending
        until = Instant(watch.now + CLAIM_SECONDS * 1_000_000)
        assert StateOutbox(store.states).claim(place_of(pager), (message.key,), until) == (message.key,)
        for _ in range(4):
            assert minute(man, watch) == ()
        (sent,) = minute(man, watch)
        assert sent.messages == (message.key,) and pager.told == [("open", "u1")]


class TestDelivery:
    def test_a_receiver_that_is_down_gets_everything_in_order_once_it_is_up(
        self, store: AnyStore, watch: Watch, caplog: pytest.LogCaptureFixture
    ) -> None:
        pager = Pager()
        pager.fails = True
        man = watchman(store, watch, CAPS, targets=(pager,))
        book(store, "a", NOON, 3 * USD)
        for _ in range(70):
            minute(man, watch)
        tried = [one["status"] for one in log(store, "delivery")]
        assert tried == ["failed"] * 7, "after 1, 2, 4, 8, 16, 32 minutes"
        pager.fails = False
        for _ in range(64):
            minute(man, watch)
        assert pager.told == [("open", "u1"), ("resolve", "u1")]
        assert "did not reach pager" in caplog.text

    def test_one_target_that_fails_holds_up_no_other(self, store: AnyStore, watch: Watch) -> None:
        well, broken = Pager("well"), Pager("broken")
        broken.fails = True
        man = watchman(store, watch, CAPS, targets=(well, broken))
        book(store, "a", NOON, 3 * USD)
        for _ in range(3):
            minute(man, watch)
        assert well.told == [("open", "u1")]
        broken.fails = False
        for _ in range(3):
            minute(man, watch)
        assert well.told == broken.told == [("open", "u1")]
        (state,) = store.states.list("alert").items
        assert cases.read(state.body).pending == ()

    def test_after_a_day_it_is_given_up_and_said(
        self, store: AnyStore, watch: Watch, caplog: pytest.LogCaptureFixture
    ) -> None:
        pager = Pager()
        pager.fails = True
        man = watchman(store, watch, CAPS, targets=(pager,))
        book(store, "a", NOON, 3 * USD)
        minute(man, watch)
        minute(man, watch, 60)
        minute(man, watch, 22 * 60)
        with caplog.at_level(logging.ERROR):
            watch.forward(61 * MINUTE)
            asyncio.run(man.deliver())
        assert "1 messages of the alert 'user cap' were never delivered" in caplog.text
        (state,) = store.states.list("alert").items
        assert [one.kind for one in cases.read(state.body).pending] == ["resolve"]

    def test_a_target_of_several_alerts_gets_one_delivery(self, store: AnyStore, watch: Watch) -> None:
        pager = Pager()
        total = Alert(rule=Cap(name="total", limit_nanos=USD))
        man = Watchman([CAPS, total], store, PRICES, {"user cap": (pager,), "total": (Pager("pager"), pager)}, watch)
        book(store, "a", NOON, 3 * USD)
        assert len(minute(man, watch)) == 1 == len(log(store, "delivery"))

    def test_signed_and_by_apprise_over_sockets(self, store: AnyStore, watch: Watch) -> None:
        receiver = Receiver()
        services = receiver.url.replace("http://", "json://")
        with receiver.up():
            man = watchman(store, watch, CAPS, targets=(Webhook(receiver.url, "1", KEY), Service(services)))
            book(store, "a", NOON, 3 * USD)
            assert {one.status for one in minute(man, watch)} == {"delivered"}
        assert len(receiver.got) == 2
        signed = next((headers, body) for headers, body in receiver.got if "webhook-id" in headers)
        assert verify(signed[0], signed[1], {"1": KEY}, watch.now // 1_000_000).startswith("msg_")
        said = json.loads(next(body for headers, body in receiver.got if "webhook-id" not in headers))
        assert said["title"] == "Alert: user cap (u1)" and said["message"].startswith("Alert: user cap (u1): spent $3")


class TestHarm:
    def test_a_store_that_fails_is_said_once_and_survived(
        self, path: Any, watch: Watch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = SqliteStore(path, clock=watch)
        pager = Pager()
        man = watchman(store, watch, CAPS, targets=(pager,))
        book(store, "a", NOON, 3 * USD)

        def down(*told: Any, **more: Any) -> Any:
            raise StoreFailure("the disk is gone")

        with monkeypatch.context() as broken:
            broken.setattr(SqliteStore, "spend", down)
            for _ in range(3):
                minute(man, watch)
        assert caplog.text.count("alerts are not watched for now (StoreFailure: the disk is gone)") == 1
        minute(man, watch)
        assert "alerts are watched again" in caplog.text and pager.told == [("open", "u1")]
        store.close()
        minute(man, watch)
        assert "has been closed" in caplog.text

    def test_an_alert_that_cannot_be_judged_keeps_no_other_from_it(
        self, store: AnyStore, watch: Watch, caplog: pytest.LogCaptureFixture
    ) -> None:
        impossible = Alert(rule=Cap(name="odd", limit_nanos=1), by="user", match=Match(step="plan"))
        man = watchman(store, watch, impossible, CAPS)
        book(store, "a", NOON, 3 * USD, step="plan")
        minute(man, watch)
        assert "the alert 'odd' cannot be judged: no rollup" in caplog.text
        assert [one["alert"] for one in incidents.running(store)] == ["user cap"]

    @pytest.mark.parametrize("kind", ["alert", "delivery", "watch"])
    def test_documents_of_another_version_are_begun_anew(self, store: AnyStore, watch: Watch, kind: str) -> None:
        pager = Pager()
        key = {"alert": cases.key_of("user cap", "u1"), "delivery": place_of(pager), "watch": "turn"}[kind]
        store.states.update(
            kind, "", key, lambda body, now: Changed(b'{"v": 9, "incident": 4, "done": 1}', None)
        ).result()
        book(store, "a", NOON, 3 * USD)
        minute(watchman(store, watch, CAPS, targets=(pager,)), watch)
        assert pager.told == [("open", "u1")]

    @pytest.mark.anyio
    async def test_live_stops_when_it_is_told(self, store: AnyStore, watch: Watch) -> None:
        pager = Pager()
        book(store, "a", NOON, 3 * USD)
        stop = asyncio.Event()
        task = asyncio.create_task(watchman(store, watch, CAPS, targets=(pager,)).live(stop))
        while not pager.got:
            await asyncio.sleep(0.005)
        stop.set()
        await asyncio.wait_for(task, 10)
        assert pager.told == [("open", "u1")]
