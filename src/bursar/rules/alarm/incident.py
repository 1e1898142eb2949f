"""The life of one incident: it opens once, tells what is new, ends once, and then keeps quiet for a while. Pure.

Readings come every so often; what is not known neither opens nor ends anything until it has lasted long. What quiet
hours hold back is told in one message when they are over. The same readings at the same instants give the same.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from bursar.policy.alerts import Severity, Terms
from bursar.rules.alarm import quiet
from bursar.rules.alarm.reading import Reading, Unit, ratio
from bursar.types import PPM, Instant

Kind: TypeAlias = Literal["open", "update", "resolve", "test"]
Told: TypeAlias = Literal["nothing", "open", "resolve"]

_KEPT = 86_400_000_000
"""So long, at least, an incident is remembered after its end, for what it explains."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one cause between readings, and after its end until the cooldown is over."""

    id: str
    """A hash of the cause and of when it was first over."""
    rule: str
    subject: str
    status: Literal["pending", "open", "resolved"]
    since: Instant
    """When it was first over."""
    opened_at: Instant | None = None
    resolved_at: Instant | None = None
    calm_since: Instant | None = None
    """It has been back below the band since then."""
    known_at: Instant
    """The last reading that was not unknown."""
    value: int | None
    limit: int | None
    unit: Unit
    level: int
    why: str
    peak: int
    told: Told = "nothing"
    told_at: Instant | None = None
    told_ratio: int = 0
    """Value over limit, millionths: the worst that was told."""
    told_level: int = 0
    messages: int = 0
    muted: int = 0
    """Readings that were over in the cooldown, and that nobody was told of."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told, once. `key` names it: whoever delivers it first has delivered it."""

    kind: Kind
    incident: str
    number: int
    """Counted from 1 within the incident."""
    rule: str
    subject: str
    severity: Severity
    at: Instant
    since: Instant
    resolved_at: Instant | None
    value: int | None
    limit: int | None
    peak: int
    unit: Unit
    why: str

    @property
    def key(self) -> str:
        return f"{self.incident}:{self.number}"


def advance(
    incident: Incident | None, reading: Reading, now: Instant, terms: Terms, explained: bool = False
) -> tuple[Incident | None, tuple[Message, ...]]:
    """The incident after a reading of its cause, and what is to be told. ValueError for a reading of another cause.

    explained: what `explains` says of the other incidents; what is over then opens nothing.
    """
    if incident is not None and (incident.rule, incident.subject) != (reading.rule, reading.subject):
        raise ValueError(f"a reading of {reading.cause!r} is not of incident {incident.id}")
    if explained and reading.state == "over" and (incident is None or incident.status != "open"):
        reading = msgspec.structs.replace(reading, state="unknown")
    after = _moved(incident, reading, now, terms)
    if after is None or after.status == "pending":
        return after, ()
    return _tell(after, now, terms)


def explains(incidents: Iterable[Incident], terms: Terms, now: Instant) -> bool:
    """One of them, of an alert that these terms name, is open or ended less than a day ago."""
    return any(
        one.status == "open" or (one.resolved_at is not None and now - one.resolved_at < _KEPT)
        for one in incidents
        if one.rule in terms.explained_by
    )


# --- what is so


def _moved(incident: Incident | None, reading: Reading, now: Instant, terms: Terms) -> Incident | None:
    if incident is None:
        return _over(_pending(reading, now), reading, now, terms) if reading.state == "over" else None
    match incident.status:
        case "pending":
            return _still_pending(incident, reading, now, terms)
        case "open":
            return _still_open(incident, reading, now, terms)
        case "resolved":
            return _after_the_end(incident, reading, now, terms)


def _pending(reading: Reading, now: Instant) -> Incident:
    digest = hashlib.blake2b(f"{reading.cause}\0{now}".encode(), digest_size=8)
    return Incident(
        id=digest.hexdigest(), rule=reading.rule, subject=reading.subject, status="pending", since=now, known_at=now,
        value=reading.value, limit=reading.limit, unit=reading.unit, level=reading.level, why=reading.why,
        peak=reading.value or 0,
    )  # fmt: skip


def _still_pending(incident: Incident, reading: Reading, now: Instant, terms: Terms) -> Incident | None:
    if reading.state == "over":
        return _over(incident, reading, now, terms)
    if reading.state == "under" or now - incident.known_at >= terms.unknown_ms * 1000:
        return None
    return incident


def _over(incident: Incident, reading: Reading, now: Instant, terms: Terms) -> Incident:
    seen = _seen(incident, reading, now)
    if now - incident.since < terms.hold_ms * 1000:
        return seen
    return msgspec.structs.replace(seen, status="open", opened_at=now)


def _still_open(incident: Incident, reading: Reading, now: Instant, terms: Terms) -> Incident:
    if reading.state == "unknown":
        if now - incident.known_at < terms.unknown_ms * 1000:
            return incident
        why = f"nothing has been known for long: {reading.why}"
        return msgspec.structs.replace(incident, status="resolved", resolved_at=now, value=None, why=why)
    seen = _seen(incident, reading, now)
    if not _calm(reading, terms):
        return msgspec.structs.replace(seen, calm_since=None)
    since = now if incident.calm_since is None else incident.calm_since
    seen = msgspec.structs.replace(seen, calm_since=since)
    if now - since < terms.calm_ms * 1000:
        return seen
    return msgspec.structs.replace(seen, status="resolved", resolved_at=now)


def _after_the_end(incident: Incident, reading: Reading, now: Instant, terms: Terms) -> Incident | None:
    """Silence until the cooldown is over; an end that quiet hours hold back is kept until it is told."""
    untold = incident.told != "resolve"
    if untold or now < _cool(incident, terms):
        muted = incident.muted + (reading.state == "over")
        return incident if muted == incident.muted else msgspec.structs.replace(incident, muted=muted)
    if reading.state == "over":
        return _over(_pending(reading, now), reading, now, terms)
    return None if now - (incident.resolved_at or 0) >= _KEPT else incident


def _cool(incident: Incident, terms: Terms) -> int:
    """From when on the cause may open again."""
    return max(incident.opened_at or 0, incident.resolved_at or 0) + terms.cooldown_ms * 1000


def _calm(reading: Reading, terms: Terms) -> bool:
    """Back below the limit by the whole band. Where there is no room for a band, being under is enough."""
    if reading.state != "under" or reading.value is None or reading.limit is None:
        return reading.state == "under"
    return reading.value <= reading.limit - reading.limit * terms.band // PPM


def _seen(incident: Incident, reading: Reading, now: Instant) -> Incident:
    return msgspec.structs.replace(
        incident, known_at=now, value=reading.value, limit=reading.limit, unit=reading.unit, level=reading.level,
        why=reading.why, peak=max(incident.peak, reading.value or 0),
    )  # fmt: skip


# --- what is told


def _tell(incident: Incident, now: Instant, terms: Terms) -> tuple[Incident, tuple[Message, ...]]:
    kind = _due(incident, now, terms)
    if kind is None or (terms.severity != "critical" and quiet.silent(terms.quiet, now)):
        return incident, ()
    number = incident.messages + 1
    message = Message(
        kind=kind, incident=incident.id, number=number, rule=incident.rule, subject=incident.subject,
        severity=terms.severity, at=now, since=incident.since, resolved_at=incident.resolved_at, value=incident.value,
        limit=incident.limit, peak=incident.peak, unit=incident.unit, why=incident.why,
    )  # fmt: skip
    told = msgspec.structs.replace(
        incident, told="resolve" if kind == "resolve" else "open", told_at=now, messages=number,
        told_ratio=max(incident.told_ratio, ratio(incident)), told_level=max(incident.told_level, incident.level),
    )  # fmt: skip
    return told, (message,)


def _due(incident: Incident, now: Instant, terms: Terms) -> Kind | None:
    """An incident that came and went in quiet hours is told by its end alone."""
    if incident.status == "resolved":
        return "resolve" if incident.told != "resolve" else None
    if incident.told == "nothing":
        return "open"
    gap = now - (incident.told_at or 0)
    if gap < terms.update_ms * 1000:
        return None
    # Measured against the worst that was told, so that a value that swings is told of once.
    worse = 0 < incident.told_ratio * terms.worse <= ratio(incident) * PPM
    if worse or incident.level > incident.told_level:
        return "update"
    return "update" if terms.remind_ms is not None and gap >= terms.remind_ms * 1000 else None
