"""How people write a point in time: 7d, 12h, 30m, or an ISO 8601 date or time (UTC where it names no zone)."""

import re
from datetime import UTC, datetime, timedelta

from bursar.types import Instant

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def instant(text: str, now: datetime, error: type[Exception] = ValueError) -> Instant:
    """The instant that a text means at `now`; raises `error` with what was expected."""
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            at = now - timedelta(**{_UNITS[ago.group(2)]: int(ago.group(1))})
        else:
            at = datetime.fromisoformat(text.strip())
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return Instant(int(at.timestamp() * 1_000_000))
    except (ValueError, OverflowError):
        raise error(f"expected a time such as 7d, 12h or 2026-11-24T08:00, got {text!r:.80}") from None
