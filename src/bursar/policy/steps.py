"""What holds for a step: which model does it, who judges the answer, and what of it is kept."""

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import msgspec

from bursar.policy.budgets import Match
from bursar.policy.caches import ResponseCache, SemanticCache
from bursar.types import Answer, Call

AUTO = "auto"
"""The tier that is learned."""

Modality: TypeAlias = Literal["text", "image", "file", "audio", "video"]
Feature: TypeAlias = Literal["tools", "forced_tool", "structured", "sampling"]
"""tools: function calls. forced_tool: a tool_choice that forces one. structured: a JSON Schema that the provider
enforces. sampling: temperature, top_p and top_k other than the default."""


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one model; None is unknown. Also what a user writes under [capabilities."provider/model"]."""

    context_tokens: int | None = None
    """Input and output together."""
    max_output_tokens: int | None = None
    inputs: frozenset[Modality] | None = None
    features: frozenset[Feature] | None = None


class Capabilities(Protocol):
    """Where capabilities come from. Pure."""

    def of(self, provider: str, model: str) -> Capability: ...


class Check(msgspec.Struct, frozen=True):
    """A validator that is a function: it says a Judgement, a bool, a score or None. It may raise."""

    name: str
    run: Callable[[Answer], object]
    minimum: float = 0.5
    """What a score has to reach."""
    identity: str = ""
    """What tells it from another of the same name: answers that another check has passed are not given for it."""


class JudgePrompt(msgspec.Struct, frozen=True):
    """A model that scores the answer from 0 to 1: a paid call of its own, on the call's own budgets."""

    prompt: str
    """May hold {request} and {answer}; without them both are put below it."""
    minimum: float = 0.7
    tier: str | None = None
    """None: the cheapest."""


class Consistency(msgspec.Struct, frozen=True):
    """Further samples of the same model have to say the same: short answers only, each sample is paid."""

    samples: int = 2
    minimum: float = 0.5


class Margin(msgspec.Struct, frozen=True):
    """The two likeliest first tokens have to stand so far apart (probabilities), where the format tells them."""

    minimum: float = 0.5


Validator: TypeAlias = Check | JudgePrompt | Consistency | Margin


class Routed(msgspec.Struct, frozen=True):
    """What a router may go by beside the call: the tiers open to it, cheapest first, and its step's name or key."""

    step: str
    tiers: tuple[str, ...]


class Router(Protocol):
    """A user's own choice of the first tier. Must be pure; None leaves the choice to Bursar. An exception is None."""

    def __call__(self, call: Call, routed: Routed, /) -> str | None: ...


class StepRule(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the steps that match; the first rule that matches a call is the one."""

    match: Match = Match()
    tier: str | None = None
    """A tier's name, "auto" (learned), or None: the caller's model is kept."""
    cascade: tuple[str, ...] = ()
    """Tiers to climb when an answer fails its check, cheapest first."""
    validators: tuple[Validator, ...] = ()
    """All must pass; the free ones are asked first."""
    min_tier: str | None = None
    max_tier: str | None = None
    providers: tuple[str, ...] = ()
    """Data policy: nobody else is sent this step's calls. (): everybody that is configured."""
    max_output_tokens: int | None = None
    response_cache: ResponseCache | None = None
    prompt_cache: Literal["off", "auto"] = "off"
    """auto: place markers for the provider's prompt cache where they pay."""
    semantic_cache: SemanticCache | None = None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """The constants of tiers that are learned. Shares are plain floats: none of them touches an amount."""

    agreement: float = 0.95
    """Where nobody judges: the audited agreement with the dearest tier that a cheaper one has to prove."""
    audit_share: float = 0.03
    """Audits may take so much of a step's spend; 0: none are made."""
    second_nanos: int = 0
    """What a second of waiting is worth."""
    failure_nanos: int = 0
    """What a request that the last tier fails costs its user."""
    warm_ms: int = 300_000
    """So long a provider keeps a prompt's cache warm after its last use."""
