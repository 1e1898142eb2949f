"""Policy: everything that a decision may depend on beside the call itself."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from bursar.policy.alerts import Alert
from bursar.policy.breakers import Breaker
from bursar.policy.budgets import Budget
from bursar.policy.prices import PriceBook
from bursar.policy.providers import Candidate, Drain, Provider, Retry
from bursar.policy.steps import Capabilities, Router, Routing, StepRule

UnknownPrice: TypeAlias = Literal["refuse", "ceiling", "allow"]
OnDisconnect: TypeAlias = Literal["auto", "drain", "cancel"]

FINISH_TEXT = (
    "I have to stop here: the budget for this work ({budget}: {limit}) is used up ({spent} spent). "
    "What was found so far stands above; it is not complete."
)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a decision may depend on beside the call itself."""

    prices: PriceBook
    providers: Mapping[str, Provider] = {}
    tiers: Mapping[str, tuple[Candidate, ...]] = {}
    retry: Retry = Retry()
    drain: Drain = Drain()
    budgets: tuple[Budget, ...] = ()
    steps: tuple[StepRule, ...] = ()
    alerts: tuple[Alert, ...] = ()
    breakers: tuple[Breaker, ...] = ()
    routing: Routing = Routing()
    capabilities: Capabilities | None = None
    """None: nothing is known of any model, and no candidate is left out for what it cannot do."""
    router: Router | None = None
    """The user's own, for the steps whose tier is "auto"."""
    unknown_price: UnknownPrice | None = None
    """None: "ceiling" under a limit in dollars, else "allow"."""
    opaque_input_tokens: int | None = None
    """What input that the body does not carry is held at; None: the model's context window; 0: such calls are refused
    under a budget."""
    finish_text: str = FINISH_TEXT
    refuse_status: int = 402
    """The HTTP status of a refusal: no SDK retries a 402."""
    on_disconnect: OnDisconnect = "auto"
    capture: bool = False
    seed: str = "bursar"
    """Draws (jitter, probes) are hashes of it and the request's id: the same in production and in replay."""
    cache_key: bytes = b""
    """Keys the cache's keys; derived from the root secret."""
    digest_key: bytes = b""
    """Keys the content digests; derived from the root secret."""
