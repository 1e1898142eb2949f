"""Alerts put together for a door: what is watched, and the targets that each alert is told to.

Raises ConfigError where a URL is none, apprise is missing, or no rollup answers what an alert asks.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

from bursar.config import ConfigError, Fault
from bursar.doors.semantic import learned
from bursar.drivers.facts import check
from bursar.drivers.notify import Delivery, Notifier, Target, Webhook
from bursar.drivers.outbox import Probe
from bursar.drivers.watchman import Watchman
from bursar.drivers.world import wall_clock
from bursar.policy import Alert, Policy
from bursar.rules.alarm import Message
from bursar.stores.base import Store

T = TypeVar("T")

PURPOSE = "webhooks"
"""What the signing key is derived for."""


def watchman(policy: Policy, store: Store, key: bytes) -> Watchman | None:
    """None where no alert is configured. key: signs webhooks."""
    for alert in policy.alerts:
        _meant(alert, partial(check, alert))
    told = targets(policy.alerts, key)
    if not policy.alerts:
        return None
    return Watchman(policy.alerts, store, policy.prices, told, wall_clock, partial(learned, store))


def targets(alerts: Sequence[Alert], key: bytes) -> dict[str, tuple[Target, ...]]:
    """By the alert's name: its webhooks and services, each once."""
    return {alert.rule.name: _targets(alert, key) for alert in alerts}


def key_id(key: bytes) -> str:
    """Tells keys apart while they are changed; says nothing of the key."""
    return hashlib.blake2b(key, digest_size=4, person=b"bursar-key").hexdigest()


async def test(store: Store, told: Mapping[str, tuple[Target, ...]], mark: str) -> tuple[Delivery, ...]:
    """Send each target one message, once, and record it. mark: tells this test from every other."""
    every = {target.identity: target for found in told.values() for target in found}
    now = wall_clock()
    message = Message(
        kind="test", incident=f"test-{mark}", number=1, rule="test", subject="", severity="info", at=now, since=now,
        resolved_at=None, value=None, limit=None, peak=0, unit="rows",
        why="this is a test, sent by hand: nothing is wrong",
    )  # fmt: skip
    return await Notifier(list(every.values()), Probe(store.states), wall_clock, attempts=1).send([message])


def _targets(alert: Alert, key: bytes) -> tuple[Target, ...]:
    webhooks = [_meant(alert, partial(Webhook, url, key_id(key), key)) for url in dict.fromkeys(alert.webhooks)]
    services = [_service(alert, url) for url in dict.fromkeys(alert.services)]
    return (*webhooks, *services)


def _service(alert: Alert, url: str) -> Target:
    if find_spec("apprise") is None:
        raise _unusable(alert, "notify_env needs apprise: pip install 'bursar[alerts]'")
    from bursar.drivers.services import Service

    return _meant(alert, partial(Service, url))


def _meant(alert: Alert, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as fault:
        raise _unusable(alert, str(fault)) from None


def _unusable(alert: Alert, message: str) -> ConfigError:
    return ConfigError([Fault("alerts", None, alert.rule.name, message)])
