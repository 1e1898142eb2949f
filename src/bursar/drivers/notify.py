"""Delivery of messages: to each target once, by one worker of however many, retried, and recorded whatever came of it.

Nothing is raised to the caller: a delivery that failed is a record that says so. A target that stays silent for ten
seconds has failed for that time. Redirects are not followed, an answer's body is not read, and of a target's URL only
the host is ever told, for its path may be a secret. An outbox that cannot be asked delivers nothing and is logged.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import aiohttp
import msgspec
import stamina
from yarl import URL

from bursar.rules.alarm import wording
from bursar.rules.alarm.incident import Message
from bursar.rules.alarm.signature import sign
from bursar.types import Instant

log = logging.getLogger("bursar.alerts")

_SECONDS = 10.0
_LONGEST_WAIT_SECONDS = 60.0
ATTEMPTS = 5
CLAIM_SECONDS = 300
"""Longer than all attempts and the waits between them."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What became of some messages at one target."""

    id: str
    """A hash of the target and the messages: a receiver takes each once."""
    target: str
    """Its name."""
    messages: tuple[str, ...]
    at: Instant
    status: Literal["delivered", "failed"]
    attempts: int
    error: str | None = None


class Outbox(Protocol):
    """Where deliveries are claimed and recorded, shared by all workers."""

    def claim(self, target: str, messages: tuple[str, ...], until: Instant) -> tuple[str, ...]:
        """Those of the messages (Message.key) that are this worker's to send to that target (place_of) until then.

        Atomic: the rest are another worker's for now, or delivered.
        """

    def record(self, target: str, delivery: Delivery) -> None:
        """Keep it. The messages of a failed one may be claimed again."""


class Undelivered(Exception):
    """Why one attempt failed, and whether and when another makes sense."""

    def __init__(self, why: str, *, again: bool, after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.again, self.after_seconds = again, after_seconds


class Target(Protocol):
    """Where messages go: a webhook, or services by apprise (drivers/services.py)."""

    @property
    def name(self) -> str:
        """For records and logs: without a secret."""

    @property
    def identity(self) -> str:
        """What tells it from every other target, the same in every worker; only a hash of it is kept."""

    async def post(self, delivery: str, messages: Sequence[Message], at: Instant) -> None:
        """One attempt. Raises Undelivered."""


class Webhook:
    """A signed POST of wording.as_json; see rules/alarm/signature.py for how to verify it."""

    def __init__(self, url: str, key_id: str, key: bytes) -> None:
        """url: http or https, else ValueError."""
        self._url = URL(url)
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise ValueError(f"expected https://host/... or http://host/..., got scheme {self._url.scheme!r:.20}")
        self._key_id, self._key = key_id, key
        self.name = f"webhook {self._url.host}"
        self.identity = url

    async def post(self, delivery: str, messages: Sequence[Message], at: Instant) -> None:
        body = wording.as_json(messages, at)
        headers = sign(self._key_id, self._key, delivery, at // 1_000_000, body) | {"content-type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                _judge(answer.status, answer.headers.get("retry-after"))
        except TimeoutError:
            raise Undelivered(f"no answer within {_SECONDS:.0f} s", again=True) from None
        except (aiohttp.ClientError, OSError) as fault:
            raise Undelivered(type(fault).__name__, again=True) from None


def _judge(status: int, retry_after: str | None) -> None:
    if 200 <= status < 300:
        return
    again = status in (408, 425, 429) or status >= 500
    asked = retry_after if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else None
    after = None if asked is None else min(float(asked[:6]), _LONGEST_WAIT_SECONDS)
    raise Undelivered(f"HTTP {status}", again=again, after_seconds=after)


class Notifier:
    """Sends what `advance` gave to every target. One for a process; safe to use from several tasks."""

    def __init__(
        self, targets: Sequence[Target], outbox: Outbox, clock: Callable[[], Instant], attempts: int = ATTEMPTS
    ) -> None:
        self._targets, self._outbox, self._clock, self._attempts = tuple(targets), outbox, clock, attempts

    async def send(self, messages: Sequence[Message]) -> tuple[Delivery, ...]:
        """One delivery a target for all of them together; those that another worker has claimed are left out."""
        if not messages:
            return ()
        done = await asyncio.gather(*(self._deliver(target, messages) for target in self._targets))
        return tuple(one for one in done if one is not None)

    async def _deliver(self, target: Target, messages: Sequence[Message]) -> Delivery | None:
        place = place_of(target)
        try:
            until = Instant(self._clock() + CLAIM_SECONDS * 1_000_000)
            ours = await asyncio.to_thread(self._outbox.claim, place, tuple(one.key for one in messages), until)
        except Exception as fault:
            log.error("alerts cannot be claimed and are not sent (%s): is the store up?", type(fault).__name__)
            return None
        if not ours:
            return None
        delivery = f"msg_{_hash(place, *ours)}"
        attempts, error = await self._attempt(target, delivery, [one for one in messages if one.key in ours])
        record = Delivery(
            id=delivery, target=target.name, messages=ours, at=self._clock(),
            status="delivered" if error is None else "failed", attempts=attempts, error=error,
        )  # fmt: skip
        if error is not None:
            log.error("%d alert messages did not reach %s: %s", len(ours), target.name, error)
        try:
            await asyncio.to_thread(self._outbox.record, place, record)
        except Exception as fault:
            log.error("a delivery to %s is not recorded (%s)", target.name, type(fault).__name__)
        return record

    async def _attempt(self, target: Target, delivery: str, messages: Sequence[Message]) -> tuple[int, str | None]:
        """(attempts, why the last one failed). Each is signed anew, for a receiver refuses what is old."""
        tried = 0
        try:
            async for attempt in stamina.retry_context(_again, attempts=self._attempts, timeout=CLAIM_SECONDS / 2):
                with attempt:
                    tried = attempt.num
                    await target.post(delivery, messages, self._clock())
        except Undelivered as fault:
            return tried, str(fault)
        except Exception as fault:
            log.exception("a target of alerts raised")
            return tried, type(fault).__name__
        return tried, None


def place_of(target: Target) -> str:
    """What an outbox knows the target by."""
    return _hash(target.identity)


def _again(fault: Exception) -> bool | float:
    """For stamina: not at all, after its own backoff, or after so many seconds."""
    if not isinstance(fault, Undelivered) or not fault.again:
        return False
    return True if fault.after_seconds is None else fault.after_seconds


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
