"""Policy: what the configuration came to. Frozen, complete, already validated; every default stands here once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from bursar.types import Bucket, Family, Fee, Instant, OnExhausted, Scope, Terms, Window

CacheScope: TypeAlias = Literal["user", "session", "tenant", "global"]
UnknownPrice: TypeAlias = Literal["refuse", "ceiling", "allow"]
OnDisconnect: TypeAlias = Literal["auto", "drain", "cancel"]


class Card(msgspec.Struct, frozen=True):
    """The compiled rates of one model under one set of terms: nano-dollars per million tokens, nano-dollars a fee."""

    price_id: str
    """Names source, version, model, dates and terms, so that a row can be priced again by it."""
    rates: dict[Bucket, int]
    fees: dict[Fee, int]
    long_over: int | None = None
    """Above this many prompt tokens every rate is that of long_rates (a cliff, not a bracket)."""
    long_rates: dict[Bucket, int] | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None


class Unpriced(msgspec.Struct, frozen=True):
    """No card: what is missing and the setting that cures it."""

    why: str


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """The user's own prices of one model, `[prices."provider/model"]`: they win over every table.

    Rates are decimal strings in USD per million tokens, fees in USD each. Without `cached`, cached tokens cost the
    input rate; a cache write without its own rate is unpriced. They hold for every date and prompt length.
    """

    input: str
    output: str | None = None
    cached: str | None = None
    cache_write_5m: str | None = None
    cache_write_30m: str | None = None
    cache_write_1h: str | None = None
    cache_write_12h: str | None = None
    input_audio: str | None = None
    cached_audio: str | None = None
    output_audio: str | None = None
    input_image: str | None = None
    cached_image: str | None = None
    output_image: str | None = None
    input_video: str | None = None
    output_video: str | None = None
    web_search: str | None = None
    grounded_prompt: str | None = None
    file_search: str | None = None
    multiply: Mapping[str, str] = {}
    """What a billing term multiplies the rates by: {"batch": "0.5", "priority": "2", "fast": "2", "us": "1.1"}."""
    context_tokens: int | None = None
    max_output_tokens: int | None = None


class PriceBook(Protocol):
    """Where cards come from. Pure: the same arguments give the same card for the life of the process."""

    def card(self, provider: str, model: str, terms: Terms, at: Instant) -> Card | Unpriced: ...

    def dearest(self, provider: str, at: Instant) -> Card | Unpriced:
        """The highest known rate of each bucket at that provider: what unknown_price = "ceiling" goes by."""
        ...


class Provider(msgspec.Struct, frozen=True):
    """An upstream. base_url is what an SDK of that family would be given."""

    name: str
    api: Family
    base_url: str
    api_key_env: str | None = None
    catalog: str | None = None
    """The price catalogue's own name for it, where that is not `name` (derived from base_url or configured)."""
    stream_usage: bool = True
    """Whether it accepts stream_options.include_usage; False leaves such streams to be estimated."""
    models: tuple[str, ...] = ()
    """Models it is known to serve, beside those that the price book lists under its name."""


class Candidate(msgspec.Struct, frozen=True):
    """provider/model as a tier lists it."""

    provider: str
    model: str


class Retry(msgspec.Struct, frozen=True):
    """Backoff of the engine's own retries: exponential from base to cap, with a drawn jitter; Retry-After obeyed."""

    attempts: int = 3
    base_ms: int = 500
    cap_ms: int = 8_000
    longest_wait_ms: int = 60_000
    """A provider that asks for a longer wait is not waited for: the next plan is tried."""


class Drain(msgspec.Struct, frozen=True):
    """Bounds of the background reading after a hang-up: past any of them the upstream is cancelled."""

    streams: int = 64
    seconds: int = 120
    max_cost_nanos: int = 1_000_000_000


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


class ResponseCache(msgspec.Struct, frozen=True, kw_only=True):
    """A step whose same input wants the same output: its answers are kept and given again."""

    ttl_ms: int
    """Absolute, from the writing on; each entry's own is 10 % more or less."""
    stale_ms: int = 0
    """So long after that it may still be given, while one call in the background fetches a fresh one."""
    scope: CacheScope = "user"
    """Who may be given an answer beside the one who paid for it."""
    tools: bool = False
    """Answers that call tools are kept too."""


Judge: TypeAlias = Callable[[str, str, str], bool | None]
"""(question, stored answer, fresh answer) -> do the two answers say the same? None: it cannot tell."""


class Embeds(Protocol):
    """What turns texts into vectors; see bursar.embedders."""

    @property
    def name(self) -> str: ...
    def embed(self, texts: Sequence[str], /) -> Sequence[Sequence[float]]: ...


class Endpoint(msgspec.Struct, frozen=True):
    """A provider's embeddings endpoint (OpenAI's format): each look-up is a paid call with a row of its own.

    In the library it is reached through the caller's client, and so has to be the same provider's.
    """

    provider: str
    model: str
    dimensions: int | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}/{self.dimensions or 'full'}"


class SemanticCache(msgspec.Struct, frozen=True, kw_only=True):
    """A step whose answers are given again to questions that mean the same.

    Without max_error a fixed cosine and the guard decide, and nothing is promised. With it nothing is served before
    labels have certified that at most this share of the hits is wrong; then the learned score decides.
    """

    ttl_ms: int
    """Absolute, from the writing on; each answer's own is 10 % more or less."""
    threshold: float | None = None
    """Cosine from which an answer is served, by default 0.92; beside max_error only the floor, by default none."""
    max_error: float | None = None
    """Wrong hits per hit, such as 0.05."""
    scope: CacheScope = "user"
    """Who may be given an answer beside the one who paid for it; a call without that id has no semantic cache."""
    strict: bool = False
    """Only where both questions hold the same words in the same roles: for tools, SQL, money, health."""
    mode: Literal["serve", "shadow"] = "serve"
    """shadow: nothing is served; the hits that would have been are counted and judged."""
    embedder: Embeds | Endpoint | None = None
    """None: the local MiniLM."""
    judge: Judge | None = None
    """Whether two answers are equal where they are no structured ones. None: such answers give no labels."""
    judge_error: tuple[float, float] = (0.0, 0.0)
    """Measured shares of the judge: equal answers called different, different ones called equal."""


class StepRule(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the steps that match; the first rule that matches a call is the one."""

    match: Match = Match()
    max_output_tokens: int | None = None
    response_cache: ResponseCache | None = None
    prompt_cache: Literal["off", "auto"] = "off"
    """auto: place markers for the provider's prompt cache where they pay."""
    semantic_cache: SemanticCache | None = None


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
