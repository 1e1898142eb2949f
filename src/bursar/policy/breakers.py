"""What makes a breaker trip, whom it suspends and for how long.

Every trigger reads settled rows, so it may lag by the calls in flight; the ceiling alone is a claim of Reserve as well.
A row of unknown cost counts as what was held for it, as in a budget.
"""

from typing import Literal, TypeAlias

import msgspec

from bursar.policy.budgets import Match
from bursar.types import Scope, Window

_MINUTE = 60_000


class Ceiling(msgspec.Struct, frozen=True, kw_only=True, tag="ceiling"):
    """So much in a window, hard: claimed by every call like a budget, and the claim's refusal trips the breaker."""

    over_nanos: int
    window: Window = "lifetime"
    zone: str = "UTC"


class Velocity(msgspec.Struct, frozen=True, kw_only=True, tag="velocity"):
    """More per minute over some minutes than an amount, and than a multiple of what it was in the hour before."""

    over_nanos: int
    """Nano-dollars a minute."""
    minutes: int = 5
    times: int | None = None
    """Millionths of the mean minute of the hour before. None, or nothing spent then: the amount alone decides."""


class Loop(msgspec.Struct, frozen=True, kw_only=True, tag="loop"):
    """The same turn again and again in one conversation."""

    repeats: int = 8
    """Of the very same turn, others between them or not."""
    alike: int | None = 16
    """Of turns that have the same shape and may differ in ids alone, or in little more. None: that is not looked at."""
    within_ms: int = 30 * _MINUTE
    """A conversation that is silent for longer is forgotten."""


class Growth(msgspec.Struct, frozen=True, kw_only=True, tag="growth"):
    """A context that every turn makes longer, without end: so many turns, so many times its first, so many tokens."""

    turns: int = 30
    times: int = 10
    tokens: int = 100_000
    within_ms: int = 30 * _MINUTE


class FanOut(msgspec.Struct, frozen=True, kw_only=True, tag="fan_out"):
    """More sub-agent runs than this were at work within so many minutes."""

    over_runs: int = 50
    within_ms: int = 10 * _MINUTE


class Errors(msgspec.Struct, frozen=True, kw_only=True, tag="errors"):
    """So many failures of so many late attempts."""

    failures: int = 10
    of: int = 20
    within_ms: int = 10 * _MINUTE


Trigger: TypeAlias = Ceiling | Velocity | Loop | Growth | FanOut | Errors


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """Who is suspended, why, and for how long. The scope `run` stands for a workflow's run."""

    name: str
    scope: Scope
    trigger: Trigger
    match: Match = Match()
    suspend_ms: int | None = None
    """None: it stays shut until somebody resets it. After a probe that failed it is twice as long, up to 32 times."""
    probe_ms: int = 5 * _MINUTE
    """A probe of which nothing was heard for so long is given up, and the next call is one."""
    answer: Literal["finish", "refuse"] = "finish"
    """What the suspended caller gets: a valid answer in his own dialect that says why, or HTTP 402, never retried."""
    text: str | None = None
    """Template of the graceful answer; see bursar.rules.breaker.telling.SUSPEND_TEXT for what it may name."""
