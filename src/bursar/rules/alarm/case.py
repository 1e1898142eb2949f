"""What is kept of one cause: its incident, and the messages that are still to be delivered. Pure.

A reading moves both in one step, so that of all workers one gets the messages, and what it has got outlives it. A
document that another version wrote and this one cannot read is begun anew.
"""

import msgspec

from bursar.policy.alerts import Severity, Terms
from bursar.rules.alarm.incident import Incident, Message, advance
from bursar.rules.alarm.reading import Reading
from bursar.types import Instant

KIND, DELIVERIES = "alert", "delivery"
"""Kinds of the store's states and of their log: cases and their messages by cause, claims and deliveries by target."""
GIVEN_UP_US = 86_400_000_000
"""A message that has not reached its target within so long is old news."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One document of the store's states. Without an incident and without messages there is none."""

    incident: Incident | None = None
    severity: Severity = "warning"
    pending: tuple[Message, ...] = ()
    """Given, and not known to be delivered to every target."""


def key_of(rule: str, subject: str) -> str:
    """The document's key: an alert's name and whose incident it is."""
    return f"{rule}\x1f{subject}"


def read(body: bytes | None) -> Case:
    """An empty case where there is none, or none that can be read."""
    if body is None:
        return Case()
    try:
        return msgspec.json.decode(body, type=Case)
    except msgspec.MsgspecError:
        return Case()


def write(case: Case) -> bytes | None:
    """None: there is nothing to keep."""
    return None if case.incident is None and not case.pending else msgspec.json.encode(case)


def moved(
    case: Case, reading: Reading, now: Instant, terms: Terms, *, explained: bool = False, sent: bool = True
) -> tuple[Case, tuple[Message, ...]]:
    """The case after a reading, and what is to be told of it. sent: it has targets, so the messages are kept for them.

    explained: see incident.advance.
    """
    incident, messages = advance(case.incident, reading, now, terms, explained)
    kept = tuple(one for one in case.pending if not late(one, now))
    return Case(incident=incident, severity=terms.severity, pending=kept + messages if sent else kept), messages


def settled(case: Case, done: frozenset[str], now: Instant) -> Case:
    """Without the messages that are delivered everywhere (by Message.key), or too old to be."""
    left = tuple(one for one in case.pending if one.key not in done and not late(one, now))
    return msgspec.structs.replace(case, pending=left)


def late(message: Message, now: Instant) -> bool:
    """Too old to be delivered."""
    return now - message.at >= GIVEN_UP_US
