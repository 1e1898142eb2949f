"""What a page was asked: period, time zone and filters, all of them in its URL, so that a page can be sent to others.

Periods are whole quarters of an hour, as the rollups are: what a page sums up is what the rows behind its links add up
to. A parameter that cannot be meant raises BadQuery with its name and what was expected.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from bursar.doors.period import instant
from bursar.stores.base import Filters
from bursar.stores.counters import BUCKET_US
from bursar.types import Instant

LABELS: Mapping[str, str] = {
    "agent": "agent_id", "step": "step", "user": "user_id", "user_tier": "user_tier", "session": "session_id",
    "run": "run_id", "model": "model", "tier": "tier", "provider": "provider", "cache": "cache", "status": "status",
}  # fmt: skip
"""As the URL says it -> the row's column."""
PERIODS = (
    ("today", "Today"), ("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"), ("90d", "90 days"), ("all", "All"),
)  # fmt: skip
USUAL = "7d"
PATHS: Mapping[str, str] = {
    "overview": "/", "agents": "/bursar/agents", "runs": "/bursar/runs", "users": "/bursar/users",
    "models": "/bursar/models", "caches": "/bursar/caches", "budgets": "/bursar/budgets", "run": "/bursar/run",
    "calls": "/bursar/calls", "call": "/bursar/call", "budget": "/bursar/budget", "alerts": "/bursar/alerts",
    "breaker": "/bursar/breaker",
}  # fmt: skip
"""A page's name -> where it is."""

_KEPT = ("since", "until", "zone", "tenant")
_DAY_US = 86_400_000_000
_HOURLY_US = 2 * _DAY_US
MOST_SLOTS = 370


class BadQuery(ValueError):
    """A query parameter that cannot be meant: its name and what was expected."""


class Slot(msgspec.Struct, frozen=True):
    """One bar's time on an axis: the key that Store.spend gives it, and from when until when it is."""

    key: str
    since: Instant
    until: Instant


class Asked(msgspec.Struct, frozen=True):
    """A page's question. `query` holds the parameters as they came, `filters` what they mean."""

    page: str
    query: Mapping[str, str]
    filters: Filters
    zone: str
    now: Instant

    @property
    def tenant(self) -> str | None:
        return self.filters.tenant

    @property
    def labels(self) -> dict[str, str]:
        """The label filters, by the URL's names."""
        return {name: self.query[name] for name in LABELS if name in self.query}

    def link(self, page: str, **told: str | None) -> str:
        """A page of the same period and tenant; what is told is added, None takes away."""
        kept = {name: self.query[name] for name in _KEPT if name in self.query} | told
        text = urlencode({name: value for name, value in kept.items() if value is not None}, errors="replace")
        return PATHS[page] + (f"?{text}" if text else "")

    def here(self, **told: str | None) -> str:
        """This page, its filters kept too; a page of a list begins anew."""
        mine = {name: value for name, value in self.query.items() if name not in ("cursor", *_KEPT)}
        return self.link(self.page, **(mine | told))

    def before(self) -> tuple[Instant, Instant] | None:
        """The period of the same length before this one; None: this one has no beginning."""
        since, until = self.filters.since, self.filters.until
        if since is None:
            return None
        return Instant(2 * since - (self.now if until is None else until)), since

    def today(self) -> Instant:
        """When the day began that it is now, in the zone."""
        return _start(datetime.fromtimestamp(self.now / 1e6, ZoneInfo(self.zone)).date(), self.zone)

    def unit(self) -> str:
        """day or hour: what a bar of this period is."""
        since, until = self.filters.since, self.filters.until
        long = since is None or (self.now if until is None else until) - since > _HOURLY_US
        return "day" if long else "hour"

    def slots(self, unit: str, first: str | None) -> list[Slot]:
        """The period's days or hours in order, gaps included, the last MOST_SLOTS of them. first: the earliest key,
        where the period has no beginning."""
        since, end = self.filters.since, self.filters.until or Instant(self.now + 1)
        if since is None:
            since = Instant(self.now) if first is None else _start(date.fromisoformat(first[:10]), self.zone)
        since = max(since, Instant(end - (MOST_SLOTS + 1) * _DAY_US))
        return list((_days if unit == "day" else _hours)(since, end, self.zone))[-MOST_SLOTS:]


def read(page: str, query: Mapping[str, str], now: Instant) -> Asked:
    """The question of a URL. Raises BadQuery."""
    zone = query.get("zone", "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadQuery(f"zone: expected an IANA time zone such as Europe/Berlin, got {zone!r:.80}") from None
    told = {name: value for name, value in query.items() if value}
    labels = {column: told[name] for name, column in LABELS.items() if name in told}
    since, until = _since(told.get("since", USUAL), now, zone), _instant("until", told.get("until"), now)
    if since is not None and until is not None and until <= since:
        raise BadQuery("until: expected a time after since")
    filters = Filters(tenant=told.get("tenant"), since=since, until=until, **labels)
    return Asked(page, told, filters, zone, now)


def _since(text: str, now: Instant, zone: str) -> Instant | None:
    if text == "all":
        return None
    if text == "today":
        return _start(datetime.fromtimestamp(now / 1e6, ZoneInfo(zone)).date(), zone)
    at = _instant("since", text, now)
    return None if at is None else Instant(at - at % BUCKET_US)


def _instant(name: str, text: str | None, now: Instant) -> Instant | None:
    if text is None:
        return None
    try:
        at = instant(text, datetime.fromtimestamp(now / 1e6, UTC))
    except ValueError as fault:
        raise BadQuery(f"{name}: {fault}") from None
    if not 0 <= at < 2**53:
        raise BadQuery(f"{name}: expected a time between 1970 and 2255, got {text!r:.80}")
    return Instant(at + -at % BUCKET_US) if name == "until" else at


def _start(day: date, zone: str) -> Instant:
    return Instant(int(datetime.combine(day, time(), ZoneInfo(zone)).timestamp()) * 1_000_000)


def _days(since: Instant, end: Instant, zone: str) -> Iterator[Slot]:
    day = datetime.fromtimestamp(since / 1e6, ZoneInfo(zone)).date()
    while (start := _start(day, zone)) < end:
        day += timedelta(days=1)
        yield Slot((day - timedelta(days=1)).isoformat(), max(start, since), min(_start(day, zone), _whole(end)))


def _hours(since: Instant, end: Instant, zone: str) -> Iterator[Slot]:
    """By local hour: where clocks are put back, two hours have one name and are one."""
    found: dict[str, tuple[Instant, Instant]] = {}
    local = ZoneInfo(zone)
    for at in range(since, end, BUCKET_US):
        key = datetime.fromtimestamp(at / 1e6, local).strftime("%Y-%m-%dT%H")
        found[key] = (found.get(key, (Instant(at), Instant(at)))[0], Instant(at + BUCKET_US))
    return (Slot(key, start, until) for key, (start, until) in found.items())


def _whole(at: Instant) -> Instant:
    return Instant(at + -at % BUCKET_US)
