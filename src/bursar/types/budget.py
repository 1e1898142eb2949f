"""What an attempt asks of its budgets, and what it is told: held, or refused with the reason."""

from typing import Literal, TypeAlias

import msgspec

from bursar.types.words import BudgetState, OnExhausted, Scope, Window


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One counter that an attempt is to be charged to, with its budget's terms. The store finds the window."""

    budget: str
    scope: Scope
    key: str
    """Whose counter: the scope's id, "(none)" where it is missing, the key's own id where it is not trusted."""
    tenant: str
    """"" for the scope global: it counts all tenants together."""
    window: Window = "lifetime"
    zone: str = "UTC"
    limit_nanos: int | None = None
    limit_tokens: int | None = None
    finish_reserve: int = 0
    """Share of the limit that is open to final calls only, in millionths."""
    max_share: int = 100_000
    """A hold that takes more of what is available is made smaller by a lower output limit, in millionths."""
    wrap_up: int = 800_000
    """From this share of what is open to everybody on, the run should come to its end, in millionths."""
    patience_ms: int = 2_000
    on_exhausted: OnExhausted = "finish"
    learned_input: bool = False
    """Hold the input at its learned p99.9 and not at its ceiling (input_hold = "p99.9"): may overrun, never hidden."""
    least: bool = False
    """The lowest limit that was ever claimed with holds."""


class Charge(msgspec.Struct, frozen=True, array_like=True):
    """What a row holds of one counter while it is open; kept on the row for good, so that counters can be audited."""

    budget: str
    scope: Scope
    key: str
    tenant: str
    start: int
    """The window's first instant, microseconds; 0 for a lifetime."""
    nanos: int
    tokens: int
    left: int | None = None
    """Of the limit, with this held: what the counter had left, in millionths; below 0 after an overrun. None: not known
    of rows of old."""


class Balance(msgspec.Struct, frozen=True):
    """Where a counter stands: what closed rows were charged, and what open ones hold. Nano-dollars and tokens."""

    settled_nanos: int = 0
    settled_tokens: int = 0
    held_nanos: int = 0
    held_tokens: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt may take at most, as a function of its output limit, and of which counters.

    Costs are in millionths of a nano-dollar, so that one rounding up, at the end, is enough.
    """

    claims: tuple[Claim, ...] = ()
    input_tokens: int = 0
    """The ceiling."""
    input_cost: int | None = None
    """Of the ceiling, at the dearest rate that the request allows; None: no price is known and none is asked for."""
    likely_tokens: int = 0
    """The learned p99.9 of the input."""
    likely_cost: int | None = None
    output_rate: int | None = None
    """Nano-dollars per million tokens."""
    choices: int = 1
    stated: int | None = None
    """The output limit that holds where none is sent: the body's own, else the model's; None: not known."""
    wanted: int | None = None
    """The limit wanted: the caller's, the step's or the model's own; None: not known."""
    floor: int = 1
    """The smallest limit that makes sense to the provider."""
    clamp: bool = True
    """The limit may go below what this step usually needs: the last rung before the end."""
    final: bool = False
    max_nanos: int | None = None
    """What this attempt may cost at most by the caller's own word."""
    climb: tuple[str, ...] = ()
    """Trusted runs whose counters, and those of every run above them, are claimed too, on the terms they last had."""

    @property
    def free(self) -> bool:
        """No limit of any kind stands over it."""
        return not self.claims and self.max_nanos is None and not self.climb and self.wanted == self.stated


class Standing(msgspec.Struct, frozen=True):
    """The tightest budget of a call as the caller is told of it. Remaining: limit - settled - held."""

    budget: str
    scope: Scope
    state: BudgetState = "ok"
    remaining_nanos: int | None = None
    remaining_tokens: int | None = None
    wrap_nanos: int | None = None
    """What may still be spent before the run should come to its end; None: no such limit."""
    wrap_tokens: int | None = None


class Hold(msgspec.Struct, frozen=True):
    """The receipt of a Reserve: the row is durably open, every charge is held. Settle takes it back, once."""

    request_id: str
    attempt: int
    charges: tuple[Charge, ...] = ()
    nanos: int | None = None
    """What the attempt can cost at most, at the output limit granted; None: unknown, or nothing was claimed."""
    output_limit: int | None = None
    """The limit to send where it is not the one that the body states; None: leave the body as it is."""
    lowered: bool = False
    """The limit is below the one wanted: an answer that it cuts is nobody's fault."""
    from_reserve: bool = False
    """Granted out of the finish reserve."""
    learned_input: int | None = None
    """The input held by a claim that goes by the learned p99.9, in tokens; None: all hold the ceiling."""
    input_rate: int = 0
    """What a token of input is held at: millionths of a nano-dollar."""
    standing: Standing | None = None


class Admitted(msgspec.Struct, frozen=True):
    """No breaker stands in the way of a call; what the ceilings among them claim of it."""

    ceilings: tuple[Claim, ...] = ()


RefusalKind: TypeAlias = Literal["policy", "exhausted", "held", "call", "miss", "suspended"]
"""policy: may not be sent at all. exhausted: spent money stands in the way. held: only others' holds do. call: the
caller's own guard of this call. miss: only a cached answer was wanted, and there is none. suspended: by a breaker."""


class Refused(msgspec.Struct, frozen=True):
    """No hold: which budget stood in the way, by how much, and which setting cures it."""

    reason: str
    unroutable: bool = False
    """No configured provider can take the call, as it is written."""
    kind: RefusalKind = "policy"
    budget: str | None = None
    on_exhausted: OnExhausted = "refuse"
    retry_after_ms: int | None = None
    """Until the window resets, or until others' holds may have settled; None: not known, or never."""
    patience_ms: int = 0
    """held: how long a store may wait for others' holds before this is its answer."""
    standing: Standing | None = None
    facts: tuple[tuple[str, str], ...] = ()
    """budget, scope, limit, spent, resets as text: what a finish_text may name."""
    answer: str | None = None
    """The text of a graceful partial answer, to be given in the caller's dialect in place of an error."""
