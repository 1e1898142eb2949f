"""Messages for people and for machines. Pure. Amounts are decimal strings in USD, times ISO 8601 UTC, None is null."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bursar.money import format_usd
from bursar.rules.alarm.incident import Incident, Message
from bursar.rules.alarm.reading import Unit, show
from bursar.types import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LINES = 20
_KINDS = {"open": "Alert", "update": "Still open", "resolve": "Resolved", "test": "Test"}


def title(messages: Sequence[Message]) -> str:
    """One line: "Alert: spend of the day", or how many there are."""
    if len(messages) == 1:
        (one,) = messages
        return f"{_KINDS[one.kind]}: {one.rule}{f' ({one.subject})' if one.subject else ''}"
    opened = sum(one.kind == "open" for one in messages)
    return f"{len(messages)} messages, {opened} new alert{'s' if opened != 1 else ''}"


def text(messages: Sequence[Message]) -> str:
    """A line for each message, the sentence first that says why; of very many the first, and how many more."""
    more = len(messages) - _LINES
    told = [_line(one) for one in messages[:_LINES]] + ([f"and {more} more"] if more > 0 else [])
    return "\n".join(told)


def _line(message: Message) -> str:
    peak = f"; peak {show(message.peak, message.unit)}" if message.kind in ("update", "resolve") else ""
    until = f" until {iso(message.resolved_at)}" if message.resolved_at is not None else ""
    return f"{title((message,))}: {message.why} (since {iso(message.since)}{until}{peak})"


def as_json(messages: Sequence[Message], at: Instant) -> bytes:
    """A webhook's body: {"version": 1, "sent_at", "title", "text", "alerts": [{"id", "kind", "incident", "alert",
    "subject", "severity", "since", "resolved_at", "value", "limit", "peak", "unit", "why"}]}.

    unit: "usd" (decimal strings), "share" (decimal strings, 1 is all) or "rows" (integers).
    """
    alerts = [_alert(one) for one in messages]
    body = {"version": 1, "sent_at": iso(at), "title": title(messages), "text": text(messages), "alerts": alerts}
    return msgspec.json.encode(body)


def _alert(one: Message) -> dict[str, Any]:
    return {
        "id": one.key,
        "kind": one.kind,
        "incident": one.incident,
        "alert": one.rule,
        "subject": one.subject,
        "severity": one.severity,
        "since": iso(one.since),
        "resolved_at": None if one.resolved_at is None else iso(one.resolved_at),
        **measures(one),
        "why": one.why,
    }


def measures(one: Message | Incident) -> dict[str, Any]:
    """{"value", "limit", "peak", "unit"}: see as_json."""
    told = {name: _number(getattr(one, name), one.unit) for name in ("value", "limit", "peak")}
    return told | {"unit": {"nanos": "usd", "ppm": "share", "rows": "rows"}[one.unit]}


def _number(value: int | None, unit: Unit) -> str | int | None:
    if value is None or unit == "rows":
        return value
    return format_usd(value if unit == "nanos" else value * 1000)


def iso(at: Instant) -> str:
    """Whole seconds, UTC."""
    return (_EPOCH + timedelta(microseconds=at // 1_000_000 * 1_000_000)).isoformat().replace("+00:00", "Z")
