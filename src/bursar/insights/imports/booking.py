"""From what another tool has recorded to a row of the ledger. Pure.

The recorded cost is kept as it is and never computed again; what was not recorded stays None. A row whose end was not
recorded is booked as `expired`, which a later import that knows the end corrects, once.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import msgspec

from bursar.insights.imports.fields import Malformed
from bursar.stores.rows import NULL
from bursar.types import Api, CacheState, Entry, Instant, Status

_FAR = 253_402_300_799_000_000
"""9999-12-31, in microseconds since the epoch."""
_WIDE = 1 << 53
_DEAREST = 10**18
"""A thousand million dollars for one call is a mistake."""
_ENDED = ("completed", "failed", "abandoned")


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One call as another tool has recorded it. None: it did not say."""

    source: str
    id: str
    started_at: Instant
    tenant: str
    status: Status
    api: Api = "other"
    provider: str | None = None
    model: str | None = None
    requested_model: str | None = None
    run_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    step: str | None = None
    tags: Mapping[str, str] = {}
    duration_ms: int | None = None
    first_byte_ms: int | None = None
    http_status: int | None = None
    error: str | None = None
    cache: CacheState = "bypass"
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage: str | None = None
    cost_nanos: int | None = None


def entry(told: Recorded) -> Entry:
    """The row of the ledger; its id is made of the source's own, so that a second import finds it there."""
    mark = f"import:{told.source}"
    endless = told.duration_ms is None and told.status in _ENDED
    copied = {name: getattr(told, name) for name in told.__struct_fields__ if name in _COPIED}
    return checked(
        Entry(
            **copied,
            request_id=f"{told.source}:{told.id}",
            attempt=1,
            parent_run_id=None,
            user_tier=None,
            tags=tuple(told.tags.items()),
            key_id=None,
            provider=told.provider or "unknown",
            requested_model=told.requested_model or told.model,
            tier=None,
            route_reason=mark,
            stream=told.first_byte_ms is not None,
            status="expired" if endless else told.status,
            error=told.error or (f"{told.source} has recorded no end" if endless else None),
            cost_status="unpriced" if told.cost_nanos is None else "final",
            price_id=None if told.cost_nanos is None else mark,
        )
    )


_COPIED = set(Entry.__struct_fields__) - {"tags", "provider", "requested_model", "status", "error"}


def checked(row: Entry) -> Entry:
    """The row, if the ledger can hold it and its audit would pass it; Malformed says why not."""
    for name, value in zip(_NAMES, _values(row), strict=True):
        if value is not None:
            _hold(name, value)
    for key, value in row.tags:
        _hold("tags", key)
        _hold("tags", value)
    if not 0 <= row.started_at <= _FAR:
        raise Malformed("started_at: expected a time from 1970 to 9999")
    if (row.cost_nanos is None) != (row.cost_status == "unpriced"):
        raise Malformed("cost_usd: expected none exactly where cost_status is unpriced")
    if row.status in _ENDED and row.duration_ms is None:
        raise Malformed(f"duration_ms: expected one, for the call is {row.status}")
    if row.status == "open":
        raise Malformed("status: the call is still open; export it again once it has ended")
    return row


_NAMES = Entry.__struct_fields__
_values = attrgetter(*_NAMES)


def _hold(name: str, value: Any) -> None:
    if isinstance(value, str):
        # What no UTF-8 can hold, and the one code point that the store keeps to itself.
        if not value.isascii() and (NULL in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise Malformed(f"{name}: {ascii(value)[:60]} is no Unicode text")
    elif isinstance(value, int) and name != "started_at":
        most = _DEAREST if name.endswith("_nanos") else _WIDE
        if abs(value) > most:
            raise Malformed(f"{name}: {value} is beyond {most}")
