"""Delivery against a real HTTP server on the loopback: signed, retried, sent by one worker, recorded whatever came."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import stamina
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from bursar.drivers.notify import ATTEMPTS, CLAIM_SECONDS, Delivery, Notifier, Target, Undelivered, Webhook
from bursar.drivers.services import Service
from bursar.rules.alarm import Message, Reading, Terms, advance
from bursar.rules.alarm.signature import ID, KEY_ID, SIGNATURE, TIMESTAMP, BadSignature, sign, verify
from bursar.types import Instant

NOW = Instant(1_764_000_000_250_000)
SECONDS = NOW // 1_000_000
KEY, OLD = b"k" * 32, b"o" * 32
KEYS = {"2": KEY, "1": OLD}


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """As many attempts as ever, and no time between them."""
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


class Server:
    """Answers with the statuses that it is given, the last one for good, and keeps what it was sent."""

    def __init__(self, *answers: int | web.Response) -> None:
        self._answers = list(answers)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.got.append((dict(request.headers), await request.read()))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer if isinstance(answer, web.Response) else web.Response(status=answer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/hooks/s3cret"
        try:
            yield self
        finally:
            await runner.cleanup()


class Shelf:
    """An outbox in memory, as a store has to be one: claims are atomic, what is delivered is never given out again."""

    def __init__(self, clock: Callable[[], Instant]) -> None:
        self._clock = clock
        self._until: dict[tuple[str, str], int] = {}
        self.records: list[Delivery] = []

    def claim(self, target: str, messages: tuple[str, ...], until: Instant) -> tuple[str, ...]:
        ours = tuple(one for one in messages if self._until.get((target, one), 0) <= self._clock())
        self._until.update({(target, one): until for one in ours})
        return ours

    def record(self, target: str, delivery: Delivery) -> None:
        self.records.append(delivery)
        for one in delivery.messages:
            self._until[target, one] = 1 << 62 if delivery.status == "delivered" else 0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> Instant:
        return self.now


def message(subject: str = "u1") -> Message:
    reading = Reading(rule="users", subject=subject, state="over", value=2_000_000_000, limit=1, why="spent $2")
    _, (found,) = advance(None, reading, NOW, Terms())
    return found


def worker(*targets: Target, clock: Clock | None = None, shelf: Shelf | None = None) -> tuple[Notifier, Shelf]:
    clock = clock or Clock()
    shelf = shelf or Shelf(clock)
    return Notifier(targets, shelf, clock), shelf


@pytest.mark.anyio
async def test_a_delivery_is_signed_and_says_what_happened() -> None:
    async with Server(204).running() as server:
        notifier, shelf = worker(Webhook(server.url, "2", KEY))
        (done,) = await notifier.send([message()])
    ((headers, body),) = server.got
    assert verify(headers, body, KEYS, SECONDS + 1) == done.id
    assert msgspec.json.decode(body)["alerts"][0]["value"] == "2"
    assert headers["Content-Type"] == "application/json"
    assert (done.status, done.attempts, done.error, done.messages) == ("delivered", 1, None, (message().key,))
    assert shelf.records == [done]
    assert "s3cret" not in repr(done) and done.target == "webhook 127.0.0.1"


@pytest.mark.anyio
async def test_what_may_pass_is_tried_again_under_the_same_id() -> None:
    async with Server(500, 429, 408, 200).running() as server:
        notifier, _ = worker(Webhook(server.url, "2", KEY))
        (done,) = await notifier.send([message()])
    assert (done.status, done.attempts, len(server.got)) == ("delivered", 4, 4)
    assert {headers[ID] for headers, _ in server.got} == {done.id}
    assert len({body for _, body in server.got}) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 400, 401, 404, 410])
async def test_what_cannot_pass_is_not(status: int) -> None:
    async with Server(web.Response(status=status, headers={"location": "/elsewhere"}), 200).running() as server:
        notifier, shelf = worker(Webhook(server.url, "2", KEY))
        (done,) = await notifier.send([message()])
    assert (done.status, done.attempts, done.error, len(server.got)) == ("failed", 1, f"HTTP {status}", 1)
    assert shelf.records == [done]


@pytest.mark.anyio
async def test_it_gives_up_and_a_later_worker_may_try_again(caplog: pytest.LogCaptureFixture) -> None:
    async with Server(503).running() as server:
        hook = Webhook(server.url, "2", KEY)
        notifier, shelf = worker(hook)
        with caplog.at_level(logging.ERROR):
            (done,) = await notifier.send([message()])
    assert (done.status, done.attempts, done.error) == ("failed", ATTEMPTS, "HTTP 503")
    assert "did not reach webhook 127.0.0.1: HTTP 503" in caplog.text and "s3cret" not in caplog.text
    (again,) = await notifier.send([message()])  # nobody listens any more
    assert (again.status, again.attempts, again.error) == ("failed", ATTEMPTS, "ClientConnectorError")
    assert [one.id for one in shelf.records] == [done.id, again.id]


@pytest.mark.anyio
async def test_a_receiver_may_say_when_to_come_again() -> None:
    async with Server(web.Response(status=429, headers={"retry-after": "7"})).running() as server:
        with pytest.raises(Undelivered) as raised:
            await Webhook(server.url, "2", KEY).post("msg_1", [message()], NOW)
        assert (raised.value.again, raised.value.after_seconds) == (True, 7.0)
    async with Server(web.Response(status=503, headers={"retry-after": "86400"})).running() as server:
        with pytest.raises(Undelivered) as raised:
            await Webhook(server.url, "2", KEY).post("msg_1", [message()], NOW)
        assert raised.value.after_seconds == 60.0


@pytest.mark.anyio
async def test_of_many_workers_one_sends() -> None:
    clock = Clock()
    shelf = Shelf(clock)
    async with Server(200).running() as server:
        workers = [worker(Webhook(server.url, "2", KEY), clock=clock, shelf=shelf)[0] for _ in range(8)]
        done = await asyncio.gather(*(one.send([message("a"), message("b")]) for one in workers))
        assert sorted(len(one) for one in done) == [0] * 7 + [1]
        (later,) = await workers[0].send([message("a"), message("c")])
    assert len(server.got) == 2
    assert later.messages == (message("c").key,)
    subjects = [[one["subject"] for one in msgspec.json.decode(body)["alerts"]] for _, body in server.got]
    assert subjects == [["a", "b"], ["c"]]


@pytest.mark.anyio
async def test_what_a_dead_worker_had_claimed_is_sent_by_another() -> None:
    clock = Clock()
    async with Server(200).running() as server:
        hook = Webhook(server.url, "2", KEY)
        notifier, shelf = worker(hook, clock=clock)
        (probe,) = await worker(hook)[0].send([message()])
        place = ""

        class Dies(Shelf):
            def claim(self, target: str, messages: tuple[str, ...], until: Instant) -> tuple[str, ...]:
                nonlocal place
                place = target
                return ()

        await Notifier([hook], Dies(clock), clock).send([message()])
        assert shelf.claim(place, probe.messages, Instant(NOW + CLAIM_SECONDS * 1_000_000)) == probe.messages
        assert await notifier.send([message()]) == ()
        clock.now = Instant(NOW + CLAIM_SECONDS * 1_000_000)
        (done,) = await notifier.send([message()])
    assert done.status == "delivered" and len(server.got) == 2


@pytest.mark.anyio
async def test_one_target_that_fails_holds_up_no_other() -> None:
    async with Server(404).running() as broken, Server(200).running() as well:
        notifier, shelf = worker(Webhook(broken.url, "2", KEY), Webhook(well.url, "2", KEY))
        done = await notifier.send([message()])
    assert [one.status for one in done] == ["failed", "delivered"]
    assert done[0].id != done[1].id and len(shelf.records) == 2


@pytest.mark.anyio
async def test_an_outbox_that_is_down_sends_nothing_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Down(Shelf):
        def claim(self, target: str, messages: tuple[str, ...], until: Instant) -> tuple[str, ...]:
            raise OSError("no store")

    class Forgets(Shelf):
        def record(self, target: str, delivery: Delivery) -> None:
            raise OSError("no store")

    clock = Clock()
    async with Server(200).running() as server:
        hook = Webhook(server.url, "2", KEY)
        assert await Notifier([hook], Down(clock), clock).send([message()]) == ()
        assert server.got == []
        (done,) = await Notifier([hook], Forgets(clock), clock).send([message()])
    assert done.status == "delivered"
    assert "alerts cannot be claimed" in caplog.text and "is not recorded" in caplog.text


@pytest.mark.anyio
async def test_a_target_that_raises_is_a_failed_delivery(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        name, identity = "broken", "broken"

        async def post(self, delivery: str, messages: object, at: Instant) -> None:
            raise LookupError("a fault of its own")

    notifier, _ = worker(Broken())
    (done,) = await notifier.send([message()])
    assert (done.status, done.attempts, done.error) == ("failed", 1, "LookupError")
    assert "a target of alerts raised" in caplog.text


@pytest.mark.anyio
async def test_nothing_to_say_is_nothing_sent() -> None:
    notifier, shelf = worker(Webhook("https://hooks.example.com/x", "2", KEY))
    assert await notifier.send([]) == () and shelf.records == []


@pytest.mark.parametrize("url", ["ftp://host/x", "hooks.example.com", "https://", "file:///etc/passwd"])
def test_a_webhook_is_http(url: str) -> None:
    with pytest.raises(ValueError, match="expected https://host"):
        Webhook(url, "1", KEY)


@pytest.mark.anyio
async def test_services_by_apprise() -> None:
    """apprise's own plain JSON service, against the same server."""
    async with Server(200).running() as server:
        service = Service(server.url.replace("http://", "json://"))
        notifier, _ = worker(service)
        (done,) = await notifier.send([message()])
    assert (done.status, done.error) == ("delivered", None)
    ((_, body),) = server.got
    said = msgspec.json.decode(body)
    assert (said["title"], said["type"]) == ("Alert: users (u1)", "warning")
    assert "spent $2" in said["message"]
    assert "s3cret" not in done.target and done.target.startswith("apprise ")


@pytest.mark.anyio
async def test_a_service_that_does_not_take_it_is_tried_again() -> None:
    async with Server(500, 500, 200).running() as server:
        notifier, _ = worker(Service(server.url.replace("http://", "json://")))
        (done,) = await notifier.send([message()])
    assert (done.status, done.attempts) == ("delivered", 3)


def test_an_unknown_service_is_refused_without_showing_its_url() -> None:
    with pytest.raises(ValueError, match="does not know this URL") as raised:
        Service("nosuch://token-s3cret@host")
    assert "s3cret" not in str(raised.value)


# --- the signature

BODY = b'{"version":1}'
SIGNED = sign("2", KEY, "msg_1", SECONDS, BODY)


def test_a_golden_signature() -> None:
    """The worked example's form of Standard Webhooks: HMAC over "msg_1.1764000000.{body}"."""
    import base64
    import hashlib
    import hmac

    mac = hmac.new(KEY, b'msg_1.1764000000.{"version":1}', hashlib.sha256).digest()
    assert {
        "webhook-id": "msg_1", "webhook-timestamp": "1764000000", "x-bursar-key-id": "2",
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    } == SIGNED  # fmt: skip


def test_what_is_old_or_early_or_of_an_unknown_key_is_refused() -> None:
    assert verify({name.upper(): value for name, value in SIGNED.items()}, BODY, KEYS, SECONDS + 300) == "msg_1"
    for now in (SECONDS + 301, SECONDS - 301):
        with pytest.raises(BadSignature, match="more than 300 s"):
            verify(SIGNED, BODY, KEYS, now)
    with pytest.raises(BadSignature, match="is not known"):
        verify(SIGNED, BODY, {"1": OLD}, SECONDS)
    with pytest.raises(BadSignature, match="does not fit"):
        verify(SIGNED | {KEY_ID: "1"}, BODY, KEYS, SECONDS)
    for name in SIGNED:
        with pytest.raises(BadSignature, match=f"no {name}"):
            verify({key: value for key, value in SIGNED.items() if key != name}, BODY, KEYS, SECONDS)
    for stamp in ("-1", "1e9", "١٢", "9" * 40):
        with pytest.raises(BadSignature, match="no number"):
            verify(SIGNED | {TIMESTAMP: stamp}, BODY, KEYS, SECONDS)


def test_while_keys_change_one_of_several_signatures_is_enough() -> None:
    other = sign("1", OLD, "msg_1", SECONDS, BODY)
    both = f"{other[SIGNATURE]} {SIGNED[SIGNATURE]}"
    assert verify(SIGNED | {SIGNATURE: both}, BODY, KEYS, SECONDS) == "msg_1"


@given(st.binary(max_size=40), st.text("abc_1", min_size=1, max_size=8), st.integers(0, 10**11), st.data())
def test_only_what_was_signed_passes(body: bytes, delivery: str, seconds: int, data: st.DataObject) -> None:
    headers = sign("2", KEY, delivery, seconds, body)
    assert verify(headers, body, KEYS, seconds) == delivery
    what = data.draw(st.sampled_from(["body", ID, TIMESTAMP, SIGNATURE]))
    if what == "body":
        other = data.draw(st.binary(max_size=40).filter(lambda one: one != body))
        with pytest.raises(BadSignature):
            verify(headers, other, KEYS, seconds)
        return
    spoiled = data.draw(st.text(max_size=60).filter(lambda one: headers[what] not in (one, *one.split())))
    with pytest.raises(BadSignature):
        verify(headers | {what: spoiled}, body, KEYS, seconds)
