"""Our own reviewed rows: what the price catalogue lacks. Data only; each row names its source and when it was checked.

A row is a claim about a provider's list price. Patterns are matched against the whole catalogue id (`re.fullmatch`).
A row that is not here is not guessed: what it would have priced is unpriced.
"""

from typing import Literal, TypeAlias

import msgspec

from bursar.types import Bucket, Fee

VERSION = "2026-11-23"
"""Part of every price_id: change it whenever a row changes."""

LITELLM = "litellm 1.109.1, model_prices_and_context_window.json"
OPENAI = "https://developers.openai.com/api/docs/pricing"
ANTHROPIC = "https://platform.claude.com/docs/en/about-claude/pricing"
GOOGLE = "https://ai.google.dev/gemini-api/docs/pricing"

Term: TypeAlias = Literal["batch", "flex", "priority", "ultrafast", "fast", "2h", "8h", "regional"]


class Factor(msgspec.Struct, frozen=True):
    """Under this term every token rate of these models is multiplied by `times`."""

    catalog: str
    term: Term
    times: str
    models: str
    source: str
    checked_on: str = VERSION
    regions: str = ".*"
    """For `regional` only: the regions that it holds for."""


class SameAs(msgspec.Struct, frozen=True):
    """Under this term these models have the rates that the catalogue lists for another one."""

    catalog: str
    term: Term
    like: Term
    models: str
    source: str
    checked_on: str = VERSION


class Rate(msgspec.Struct, frozen=True):
    """One rate, USD per million tokens, for a term (None: standard) and up to a date (None: no end), exclusive."""

    catalog: str
    models: str
    bucket: Bucket
    usd: str
    source: str
    term: Term | None = None
    until: str | None = None
    checked_on: str = VERSION


class WriteRate(msgspec.Struct, frozen=True):
    """A cache write as a multiple of the same card's input rate (it replaces that rate, it is not added to it)."""

    catalog: str
    models: str
    buckets: tuple[Bucket, ...]
    times: str
    source: str
    checked_on: str = VERSION


class FeeRow(msgspec.Struct, frozen=True):
    """A fee in USD a piece, where the catalogue's row has none."""

    catalog: str
    models: str
    fee: Fee
    usd: str
    source: str
    checked_on: str = VERSION


_GEMINI_TIERS = (
    r"gemini-2\.5-(pro|flash|flash-lite|flash-image)|gemini-3-(flash-preview|pro-image-preview)"
    r"|gemini-3\.1-(flash-lite|pro-preview)|gemini-3\.5-flash(-lite)?|gemini-3\.[678]-flash|gemini-4-argon"
)
_UPLIFTED = r"gpt-5\.[4-9](-.*)?|gpt-[6-9](\.\d+)?-.*|gpt-realtime-2(\..*)?"
_BEFORE_UPLIFT = r"(gpt-(3\.5|4|4\.1|4o|5|5\.[1-3])|o[134]|text-embedding|ft:|gpt-audio|codex|chatgpt)(-.*|$)"
_GEO = r"claude-(opus|sonnet)-4-[6-9]|claude-(opus|sonnet|haiku|fable|mythos)-[5-9](-\d+)?"

FACTORS = (
    Factor("openai", "batch", "0.5", ".*", "https://developers.openai.com/api/docs/guides/batch: 50 % on all tokens"),
    Factor("openai", "ultrafast", "6", r"gpt-6-astra|gpt-6\.1-sol", LITELLM),
    Factor("openai", "2h", "0.7", ".*", f"{OPENAI}: background completion window, 30 % off standard"),
    Factor("openai", "8h", "0.6", ".*", f"{OPENAI}: background completion window, 40 % off standard"),
    Factor("openai", "regional", "1.1", _UPLIFTED, f"{OPENAI}: regional processing, models since gpt-5.4; {LITELLM}"),
    Factor("openai", "regional", "1", _BEFORE_UPLIFT, f"{LITELLM}: no uplift on models before gpt-5.4"),
    Factor("anthropic", "batch", "0.5", ".*", f"{ANTHROPIC}#batch-processing: 50 %, cache multipliers stack"),
    Factor("anthropic", "regional", "1.1", _GEO, f"{ANTHROPIC}: inference_geo us, models since 4.6", regions="us"),
    Factor("google", "batch", "0.5", r"gemini-3\.[57]-flash|gemini-2\.5-flash-image", LITELLM),
    Factor("google", "flex", "0.5", r"gemini-3\.[57]-flash|gemini-2\.5-flash-image", LITELLM),
    Factor("google", "priority", "1.8", _GEMINI_TIERS, f"{GOOGLE}; {LITELLM}"),
)

SAME_AS = (SameAs("google", "flex", "batch", _GEMINI_TIERS, f"{GOOGLE}: flex is billed at the batch rates; {LITELLM}"),)

RATES = (
    Rate(
        "anthropic", "claude-sonnet-5-5", "cache_read", "0.20", f"{ANTHROPIC}: 0.10 since the date", until="2026-10-07"
    ),
    Rate("google", "gemini-3.5-flash", "cache_read", "0.08", LITELLM, term="flex"),
    Rate("google", "gemini-3.5-flash-lite", "cache_read", "0.05", LITELLM, term="priority"),
)

WRITES = (
    WriteRate(
        "openai",
        r"gpt-5\.6-(sol|terra|luna|cyber)|gpt-6-(astra|sol|luna|rosalind)|gpt-6\.1-(sol|terra)",
        ("cache_write_12h",),
        "2.5",
        LITELLM,
    ),
    WriteRate(
        "openai",
        r"(ft:)?gpt-(3\.5|4|4\.1|4o)(-.*|$)|gpt-5(\.[1-5])?(-.*|$)|o[134](-.*|$)|text-.*|codex-.*|chatgpt-4o.*|gpt-audio.*",
        ("cache_write_30m", "cache_write_12h"),
        "1",
        "https://developers.openai.com/api/docs/guides/prompt-caching: writes are free of charge before gpt-5.6",
    ),
    WriteRate("anthropic", "claude-.*", ("cache_write_1h",), "2", f"{ANTHROPIC}#prompt-caching: 2x input"),
)
"""Used only where the catalogue has no rate of its own for the bucket."""

FEES = (
    FeeRow("openai", ".*", "web_search", "0.01", f"{OPENAI}: $10 per 1,000 searches"),
    FeeRow("openai", ".*", "file_search", "0.0025", f"{OPENAI}: $2.50 per 1,000 calls"),
    FeeRow("anthropic", "claude-.*", "web_search", "0.01", f"{ANTHROPIC}: $10 per 1,000 searches, never discounted"),
    FeeRow("google", r"gemini-2\.5-flash-image", "grounded_prompt", "0.035", LITELLM),
)

PER_PROMPT = r"gemini-(1|2)\..*|gemini-(pro|flash)-1\.5.*"
"""Gemini models whose search grounding is billed by the grounded prompt; later ones by the search query (GOOGLE)."""

MEDIA_OUTPUT: tuple[tuple[str, str, Bucket], ...] = (
    ("openai", r"gpt-image-.*", "output_image"),
    ("google", r".*-tts(-.*)?", "output_audio"),
)
"""Models that put out one medium only: the catalogue's output rate is that medium's (its row names no other)."""

HOSTS = ((r"https://[a-z]{2,3}\.api\.openai\.com", "openai"),)
"""Base URLs that the catalogue's own patterns miss: OpenAI's regional endpoints."""

MAX_OUTPUT: tuple[tuple[str, str, int], ...] = (
    ("openai", r"gpt-5(\.\d)?-chat(-latest)?|gpt-audio.*|gpt-4o-(mini|audio|search|2024-08|2024-11).*|gpt-4o", 16_384),
    ("openai", r"gpt-5-pro(-.*)?", 272_000),
    ("openai", r"gpt-(5|6)(\.\d)?(-.*)?", 128_000),
    ("openai", r"gpt-4\.1(-.*)?", 32_768),
    ("openai", r"o(1|3|4-mini)(-20.*|-pro.*|-mini.*|-deep-research.*)?", 100_000),
    ("openai", r"gpt-4o-2024-05-13|gpt-4-turbo.*|gpt-3\.5-turbo.*", 4_096),
    ("openai", r"text-embedding-.*", 0),
    ("anthropic", rf"({_GEO})([-@].*)?", 128_000),
    ("anthropic", r"claude-(opus|sonnet|haiku)-4-5.*|claude-sonnet-4(-0|-2025.*)?", 64_000),
    ("anthropic", r"claude-opus-4(-[01]|-2025.*)?(-2025.*)?", 32_000),
    ("google", r"gemini-4-argon.*", 1_048_576),
    ("google", r"gemini-2\.5-flash-image.*|gemini-3-pro-image.*", 32_768),
    ("google", r"gemini-(2\.5|3|3\.\d)-(pro|flash)(-lite)?(-preview.*)?", 65_536),
    ("google", r"gemini-2\.0-flash.*", 8_192),
)
"""Longest answer, tokens, by the name asked for; first match wins (LITELLM, checked on VERSION)."""
