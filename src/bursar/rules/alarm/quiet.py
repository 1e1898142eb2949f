"""Quiet hours: whether nobody is to be woken now. Pure; by the wall clock of a time zone, summer time and all."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from bursar.policy.alerts import Quiet
from bursar.types import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def silent(quiet: Quiet | None, now: Instant) -> bool:
    """True from `start` on, until `end` is reached. Where both are the same it is quiet all day."""
    if quiet is None:
        return False
    local = (_EPOCH + timedelta(microseconds=now)).astimezone(ZoneInfo(quiet.zone))
    minute, day = local.hour * 60 + local.minute, local.weekday()
    if quiet.start < quiet.end:
        return quiet.start <= minute < quiet.end and day in quiet.days
    began = day in quiet.days and minute >= quiet.start
    return began or ((day - 1) % 7 in quiet.days and minute < quiet.end)
