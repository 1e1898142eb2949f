"""Rates: the compiled card of a model, the user's own prices, and where cards come from."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from bursar.types import Bucket, Fee, Instant, Terms


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
