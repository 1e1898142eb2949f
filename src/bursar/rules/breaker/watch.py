"""One more row -> the evidence after it, and whether it makes the breaker trip. Pure; the cost does not grow with time.

Only attempts that a provider was asked for count: hits and refusals are neither spending nor turns. A retry spends and
may fail, but is the same turn.
"""

import hashlib
from typing import assert_never

import msgspec

from bursar.policy.breakers import Ceiling, Errors, FanOut, Growth, Loop, Trigger, Velocity
from bursar.rules import window
from bursar.rules.alarm.reading import usd
from bursar.rules.book import owed
from bursar.rules.breaker import loop
from bursar.rules.breaker.evidence import HOUR_MINUTES, Evidence
from bursar.types import PPM, Entry, Instant

_MINUTE_US = 60_000_000


def counts(row: Entry) -> bool:
    """A closed row of an attempt that went to a provider."""
    return row.status not in ("open", "refused", "hit")


def gather(evidence: Evidence, row: Entry, now: Instant, trigger: Trigger) -> Evidence:
    """What is known after one more row that counts."""
    match trigger:
        case Ceiling():
            start, _ = window.bounds(trigger.window, trigger.zone, now)
            spent = evidence.spent if start == evidence.start else 0
            return Evidence(start=start, spent=spent + owed(row))
        case Velocity():
            return Evidence(minutes=_minutes(evidence.minutes, owed(row), now, trigger.minutes))
        case Loop():
            memory = max(3 * trigger.repeats, 3 * (trigger.alike or 0) // 2)
            return _turned(evidence, row, now, memory, trigger.within_ms)
        case Growth():
            return _turned(evidence, row, now, 1, trigger.within_ms)
        case FanOut():
            return Evidence(runs=_runs(evidence.runs, row, now, trigger))
        case Errors():
            one = (now, row.status == "failed")
            late = [old for old in evidence.attempts if now - old[0] <= trigger.within_ms * 1000]
            return Evidence(attempts=(*late, one)[-trigger.of :])
        case _:
            assert_never(trigger)


def trips(evidence: Evidence, now: Instant, trigger: Trigger) -> str | None:
    """Why, in a sentence; None: it does not."""
    match trigger:
        case Ceiling():
            return ceiling(trigger) if evidence.spent >= trigger.over_nanos else None
        case Velocity():
            return _fast(evidence.minutes, now, trigger)
        case Loop():
            return _circling(evidence.circle, trigger)
        case Growth():
            return _endless(evidence.circle, trigger)
        case FanOut():
            number = len(evidence.runs)
            within = f"within {trigger.within_ms // 60_000} minutes"
            return f"{number} sub-agent runs {within}" if number > trigger.over_runs else None
        case Errors():
            failed = sum(one for _, one in evidence.attempts)
            told = f"{failed} of the last {len(evidence.attempts)} attempts failed"
            return told if failed >= trigger.failures else None
        case _:
            assert_never(trigger)


def ceiling(trigger: Ceiling) -> str:
    """Why a ceiling trips, by its rows or by the refusal of its claim."""
    per = "" if trigger.window == "lifetime" else f" of the {trigger.window}"
    return f"the ceiling{per} of ${usd(trigger.over_nanos)} is reached"


# --- speed


def _minutes(minutes: tuple[tuple[int, int], ...], nanos: int, now: Instant, span: int) -> tuple[tuple[int, int], ...]:
    minute = now // _MINUTE_US
    late = dict(one for one in minutes if one[0] > minute - span - HOUR_MINUTES)
    late[minute] = late.get(minute, 0) + nanos
    return tuple(sorted(late.items()))


def _fast(minutes: tuple[tuple[int, int], ...], now: Instant, trigger: Velocity) -> str | None:
    first = now // _MINUTE_US - trigger.minutes + 1
    late = sum(nanos for minute, nanos in minutes if minute >= first)
    if late <= trigger.over_nanos * trigger.minutes:
        return None
    told = f"${usd(late // trigger.minutes)} a minute over {trigger.minutes} minutes"
    if trigger.times is None:
        return told
    before = sum(nanos for minute, nanos in minutes if first - HOUR_MINUTES <= minute < first)
    # Compared as whole sums: late / minutes > times x before / 60.
    if late * HOUR_MINUTES * PPM <= before * trigger.minutes * trigger.times:
        return None
    return f"{told}, ${usd(before // HOUR_MINUTES)} in the hour before"


# --- loops


def _turned(evidence: Evidence, row: Entry, now: Instant, memory: int, within_ms: int) -> Evidence:
    if row.attempt > 1 or row.sdk_retry or row.purpose != "call":
        return msgspec.structs.replace(evidence, circle=loop.NOTHING)
    threads, circle = loop.follow(evidence.threads, row, now, memory, within_ms)
    return Evidence(threads=threads, circle=circle)


def _circling(circle: loop.Circle, trigger: Loop) -> str | None:
    if circle.same >= trigger.repeats:
        return f"the same turn {circle.same} times"
    if trigger.alike is not None and circle.alike >= trigger.alike:
        return f"{circle.alike} turns that are alike"
    return None


def _endless(circle: loop.Circle, trigger: Growth) -> str | None:
    grows = circle.grown >= trigger.turns and circle.tokens >= trigger.tokens
    if not grows or circle.tokens < trigger.times * circle.first_tokens:
        return None
    return f"the context has grown {circle.grown} turns in a row, to about {circle.tokens} tokens"


def _runs(
    runs: tuple[tuple[bytes, Instant], ...], row: Entry, now: Instant, trigger: FanOut
) -> tuple[tuple[bytes, Instant], ...]:
    late = {run: at for run, at in runs if now - at <= trigger.within_ms * 1000}
    if row.parent_run_id is not None and row.run_id is not None:
        run = hashlib.blake2b(row.run_id.encode(), digest_size=8).digest()
        late[run] = now
    return tuple(sorted(late.items(), key=lambda one: one[1])[-trigger.over_runs - 1 :])
