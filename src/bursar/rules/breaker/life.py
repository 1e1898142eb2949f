"""Breakers: closed, open, half-open with one probe. Pure; the state is whole in itself and shared by compare-and-swap.

`watch` takes every settled row once, `refused` the refusal of a ceiling's claim, `admits` stands before every call.
Both give the state to be kept. Whatever is asked late or twice leaves a breaker as shut as it was.
"""

from typing import Literal, TypeAlias

import msgspec

from bursar.policy.breakers import Breaker, Ceiling, Errors
from bursar.rules import window
from bursar.rules.breaker import watch as watching
from bursar.rules.breaker.evidence import NONE, By, Evidence
from bursar.types import PPM, Claim, Entry, Instant

Status: TypeAlias = Literal["closed", "open", "half_open"]

PREFIX = "breaker:"
"""What the claims of ceilings are named by, before the breaker's name."""
_LONGEST = 5
"""Doublings of the suspension."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit: what became of a breaker, when, by whom and why."""

    at: Instant
    before: Status
    after: Status
    by: By
    who: str | None = None
    why: str


class Pardon(msgspec.Struct, frozen=True, array_like=True):
    """What a reset has forgiven: so many nano-dollars of a ceiling, in the window that began then."""

    nanos: int
    start: Instant


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One breaker of one session, user, agent ... The empty State is a closed one that has seen nothing."""

    status: Status = "closed"
    why: str = ""
    """What it tripped at; probes that fail since then do not change it."""
    opened_at: Instant | None = None
    """The last time."""
    since: Instant | None = None
    """When it opened for the first time since it was last closed."""
    until: Instant | None = None
    """From then on a probe is let through; None: not before a reset."""
    failed_probes: int = 0
    probe: str | None = None
    """The request that is let through to see."""
    probe_until: Instant | None = None
    pardon: Pardon | None = None
    evidence: Evidence = NONE
    changed: Change | None = None
    """The last change; whoever keeps the state writes it to the audit when it is another one."""


CLOSED = State()


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """May this call go? `state` is to be kept before it does: of two that ask at once only one gets to be the probe."""

    kind: Literal["pass", "probe", "refuse"]
    state: State
    retry_after_ms: int | None = None
    """refuse: until a probe may be let through; None: not known, or not before a reset."""


def watch(state: State, row: Entry, now: Instant, rule: Breaker) -> State:
    """The state after one more settled row.

    Rows that end while it is open were under way before: they add to a ceiling's sum and to nothing else. The probe
    decides by its first attempt, a retry of it comes too late.
    """
    probes = state.status == "half_open" and row.request_id == state.probe
    if not watching.counts(row):
        return _gone(state) if probes else state
    if state.status != "closed" and not probes and not isinstance(rule.trigger, Ceiling):
        return state
    known = _resumed(state, now) if probes else state.evidence
    evidence = watching.gather(known, row, now, rule.trigger)
    if probes:
        return _probed(msgspec.structs.replace(state, evidence=evidence), row, now, rule)
    seen = msgspec.structs.replace(state, evidence=evidence)
    if state.status != "closed":
        return seen
    why = watching.trips(evidence, now, rule.trigger)
    return seen if why is None else _open(seen, now, rule, "rule", why)


def refused(state: State, now: Instant, rule: Breaker) -> State:
    """The state after Reserve has refused the claim of a ceiling. Any other trigger has no claim: ValueError."""
    if not isinstance(rule.trigger, Ceiling):
        raise ValueError(f"the breaker {rule.name} has no ceiling whose claim could be refused")
    if state.status == "open":
        return state
    return _open(state, now, rule, "rule", watching.ceiling(rule.trigger))


def admits(state: State, now: Instant, rule: Breaker, request_id: str) -> Admission:
    """May this request go? A probe asks again with the same id (its next attempt) and goes on."""
    if state.status == "closed":
        return Admission(kind="pass", state=state)
    if state.status == "half_open" and state.probe is not None:
        if state.probe == request_id:
            return Admission(kind="probe", state=state)
        if now < (state.probe_until or 0):
            return Admission(kind="refuse", state=state, retry_after_ms=_left(state.probe_until, now))
    elif state.status == "open" and (state.until is None or now < state.until):
        return Admission(kind="refuse", state=state, retry_after_ms=_left(state.until, now))
    probing = msgspec.structs.replace(
        state, status="half_open", probe=request_id, probe_until=Instant(now + rule.probe_ms * 1000)
    )
    if state.status == "open":
        probing = _marked(state, probing, now, "probe", f"request {request_id} is let through to see")
    return Admission(kind="probe", state=probing)


def reset(state: State, now: Instant, who: str, pardon: Pardon | None = None) -> State:
    """Closed by hand, with all that spoke against it forgotten. pardon: what a ceiling has counted so far."""
    closed = State(pardon=pardon)
    return _marked(state, closed, now, "hand", f"reset; it was {state.why or 'not open'}", who)


def claim(state: State, rule: Breaker, key: str, tenant: str, now: Instant) -> Claim | None:
    """What a ceiling claims of every call, beside what a reset has forgiven; None: it has no ceiling.

    A call is cut only where it would pass the ceiling: no share of the rest is kept for others.
    """
    trigger = rule.trigger
    if not isinstance(trigger, Ceiling):
        return None
    start, _ = window.bounds(trigger.window, trigger.zone, now)
    forgiven = state.pardon.nanos if state.pardon is not None and state.pardon.start == start else 0
    return Claim(
        budget=PREFIX + rule.name, scope=rule.scope, key=key, tenant=tenant, window=trigger.window, zone=trigger.zone,
        limit_nanos=trigger.over_nanos + forgiven, max_share=PPM, on_exhausted=rule.answer,
    )  # fmt: skip


# --- changes


def _open(state: State, now: Instant, rule: Breaker, by: By, why: str) -> State:
    failed = state.failed_probes + (state.status == "half_open")
    until = None if rule.suspend_ms is None else Instant(now + (rule.suspend_ms << min(failed, _LONGEST)) * 1000)
    if until is not None and isinstance(rule.trigger, Ceiling):  # in a new window there is room again
        _, end = window.bounds(rule.trigger.window, rule.trigger.zone, now)
        until = until if end is None else Instant(min(until, end))
    opened = State(
        status="open", why=state.why or why, opened_at=now, since=state.since if state.since is not None else now,
        until=until, failed_probes=failed, pardon=state.pardon, evidence=state.evidence,
    )  # fmt: skip
    return _marked(state, opened, now, by, why)


def _probed(state: State, row: Entry, now: Instant, rule: Breaker) -> State:
    """What made the breaker trip must not be seen in the probe again. The evidence has the probe's row in it."""
    if row.status in ("abandoned", "expired"):
        return _gone(state)
    if row.status == "failed":
        return _open(state, now, rule, "probe", "the probe failed")
    # A probe that has not failed is all that errors wait for; earlier ones may still be remembered.
    again = not isinstance(rule.trigger, Errors) and watching.trips(state.evidence, now, rule.trigger) is not None
    if again:
        return _open(state, now, rule, "probe", "the probe did it again")
    closed = State(pardon=state.pardon, evidence=state.evidence if isinstance(rule.trigger, Ceiling) else NONE)
    return _marked(state, closed, now, "probe", "the probe went well")


def _resumed(state: State, now: Instant) -> Evidence:
    """The suspension was no silence of the conversations: they go on where they were stopped."""
    gap = now - (state.opened_at if state.opened_at is not None else now)
    threads = tuple(
        [msgspec.structs.replace(one, at=Instant(min(now, one.at + gap))) for one in state.evidence.threads]
    )
    return msgspec.structs.replace(state.evidence, threads=threads)


def _gone(state: State) -> State:
    """A probe that came to nothing says nothing: the next call is one."""
    return msgspec.structs.replace(state, probe=None, probe_until=None)


def _marked(before: State, after: State, now: Instant, by: By, why: str, who: str | None = None) -> State:
    change = Change(at=now, before=before.status, after=after.status, by=by, who=who, why=why)
    return msgspec.structs.replace(after, changed=change)


def _left(until: Instant | None, now: Instant) -> int | None:
    return None if until is None else max(0, -((now - until) // 1000))
