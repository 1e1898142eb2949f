"""The words and measures that all other data is made of: wire formats, billed tokens, prices, windows."""

from typing import Literal, NewType, TypeAlias

import msgspec

Instant = NewType("Instant", int)
"""Microseconds since the Unix epoch, UTC. Always an argument: nothing below the drivers reads a clock."""

Api: TypeAlias = Literal["chat", "responses", "embeddings", "messages", "gemini", "converse", "other"]
"""The wire format of a call. `converse` is priced but not served; `other` is a paid path passed through unread."""

Family: TypeAlias = Literal["openai", "anthropic", "gemini"]
"""Whose wire formats a provider speaks."""

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Header names in lower case, in order, duplicates kept."""

Bucket: TypeAlias = Literal[
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "output",
    "input_audio",
    "cache_read_audio",
    "output_audio",
    "input_image",
    "cache_read_image",
    "output_image",
    "input_video",
    "cache_read_video",
    "output_video",
]
"""Disjoint billed dimensions: a token is in exactly one of them. `output` includes reasoning."""

Fee: TypeAlias = Literal["web_search", "grounded_prompt", "file_search"]
"""What is billed by the piece, at list price and never multiplied by a tier or region."""

CostStatus: TypeAlias = Literal["final", "estimated", "unpriced"]
Status: TypeAlias = Literal["open", "completed", "failed", "abandoned", "expired", "refused", "hit"]
CacheState: TypeAlias = Literal["hit", "semantic_hit", "coalesced", "miss", "bypass"]
CacheWish: TypeAlias = Literal["on", "off", "refresh", "only"]
"""What a caller says of Bursar's caches; it can only narrow what the step's rule allows."""
Purpose: TypeAlias = Literal["call", "embed", "judge", "audit", "refresh"]

Scope: TypeAlias = Literal["run", "session", "user", "agent", "step", "tenant", "global"]
"""Whose spending a budget counts together."""
Window: TypeAlias = Literal["hour", "day", "week", "month", "lifetime"]
"""Calendar windows of the budget's time zone; weeks begin on Monday; a lifetime has no end."""
OnExhausted: TypeAlias = Literal["finish", "downgrade", "refuse"]
BudgetState: TypeAlias = Literal["ok", "wrap_up", "exhausted", "suspended"]

PPM = 1_000_000
"""Shares are whole millionths."""


class Part(msgspec.Struct, frozen=True):
    """What one model did inside a call: disjoint buckets of tokens, all at that model's rates."""

    buckets: dict[Bucket, int]
    model: str | None = None
    """The model whose rates apply; None: the model that the answer names."""
    billed: bool = True
    """False where the provider's own rules make the tokens free (a refusal before any output)."""


class Usage(msgspec.Struct, frozen=True):
    """A usage object, normalised. Totals are inclusive: input holds cached and written tokens, output reasoning."""

    parts: tuple[Part, ...]
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    fees: tuple[tuple[Fee, int], ...] = ()
    estimated: bool = False
    """True where a count had to be guessed (no usage reported, a search count inferred from items)."""


class Terms(msgspec.Struct, frozen=True):
    """The billing facts beside the tokens: what was served wins over what was asked; unknown words stay."""

    service_tier: str | None = None
    """standard | flex | priority | ultrafast | scale ... as normalised from the answer; None: standard."""
    batch: bool = False
    region: str | None = None
    """Inference geography or regional endpoint, e.g. "us"; None: global."""
    window: str | None = None
    """OpenAI background completion window, "2h" | "8h"; from the request, for no answer tells it."""
    fast: bool = False
    """Anthropic speed = fast."""


class Price(msgspec.Struct, frozen=True):
    """What a call costs. nanos is None exactly when status is "unpriced"; price_id names the card that said so."""

    nanos: int | None
    status: CostStatus
    price_id: str | None = None
    why: str | None = None
    """For unpriced: what was missing and the setting that cures it."""
