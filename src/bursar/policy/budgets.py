"""Which calls a rule is for, and what the calls of a scope may cost together."""

import msgspec

from bursar.types import OnExhausted, Scope, Window


class Match(msgspec.Struct, frozen=True):
    """Which calls a rule is for: all that is set must match, each by shell globs. A missing label is "(none)"."""

    agent: str | None = None
    step: str | None = None
    user_tier: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on what the calls of one scope may cost together in one window: dollars, tokens (input + output), both.

    Shares are millionths. finish_reserve is for the scopes run and session only.
    """

    name: str
    scope: Scope
    match: Match = Match()
    window: Window = "lifetime"
    zone: str = "UTC"
    limit_nanos: int | None = None
    limit_tokens: int | None = None
    on_exhausted: OnExhausted = "finish"
    finish_reserve: int = 0
    finish_text: str | None = None
    """Template of the partial answer: {budget}, {scope}, {limit}, {spent}, {resets}; None: Policy.finish_text."""
    max_share: int = 100_000
    wrap_up: int = 800_000
    patience_ms: int = 2_000
    learned_input: bool = False
    """input_hold = "p99.9" in place of "ceiling"."""
    tell_model: bool = False
    """End the prompt with a short note of what is left."""
