"""The models that the sandbox serves: real names, tiers, limits and list prices (checked 2026-11-23).

Rates are nano-dollars per million tokens, from the providers' price pages as the genai-prices data has them.
A name that is not here is `None`, and a 404 to the caller.
"""

import re
from typing import Literal, TypeAlias

import msgspec

from bursar.money import nanos_per_million
from bursar.types import Bucket, Family

Tier: TypeAlias = Literal["small", "mid", "frontier", "embedding"]
Caching: TypeAlias = Literal["none", "steps", "marks", "breakpoints"]
"""steps: implicit, free writes; marks: Anthropic's cache_control; breakpoints: OpenAI from gpt-5.6."""
Rates: TypeAlias = dict[Bucket, int]

_WRITES: dict[Family, tuple[Bucket, Bucket]] = {
    "anthropic": ("cache_write_5m", "cache_write_1h"),
    "openai": ("cache_write_30m", "cache_write_12h"),
    "gemini": ("cache_write_5m", "cache_write_1h"),
}
_DATED = re.compile(r"^(.+?)[-@](\d{4}-?\d{2}-?\d{2}|latest)$")


class Model(msgspec.Struct, frozen=True):
    """One model: what it can, what it costs, how its provider caches prompts. Limits are tokens."""

    name: str
    family: Family
    tier: Tier
    rates: Rates | None
    """None: served, but without a list price (a recorded or made-up model)."""
    context: int = 1_000_000
    max_output: int = 128_000
    caching: Caching = "none"
    cache_min: int = 1024
    thinks: bool = False
    long_over: int | None = None
    """Above this many prompt tokens all rates are long_rates."""
    long_rates: Rates | None = None
    tiers: dict[str, Rates] = {}
    """Rates of OpenAI service tiers other than default."""
    long_tiers: dict[str, Rates] = {}
    us_premium: bool = False
    """inference_geo = us costs a tenth more (Anthropic, models from 4.6 on)."""


def _rates(family: Family, line: str) -> Rates:
    """ "input output [read [write [long write]]]" in USD per million tokens."""
    names: tuple[Bucket, ...] = ("input", "output", "cache_read", *_WRITES[family])
    return {name: nanos_per_million(usd) for name, usd in zip(names, line.split(), strict=False)}


def _model(family: Family, name: str, tier: Tier, line: str, **more: object) -> Model:
    rates: dict[str, Rates] = {
        key: _rates(family, more.pop(key))  # type: ignore[arg-type]
        for key in ("flex", "priority", "long", "flex_long", "priority_long")
        if key in more
    }
    return Model(
        name,
        family,
        tier,
        _rates(family, line),
        long_rates=rates.get("long"),
        tiers={key: rates[key] for key in ("flex", "priority") if key in rates},
        long_tiers={key: rates[f"{key}_long"] for key in ("flex", "priority") if f"{key}_long" in rates},
        **more,  # type: ignore[arg-type]
    )


def _openai(name: str, tier: Tier, line: str, **more: object) -> Model:
    more.setdefault("caching", "steps")
    return _model("openai", name, tier, line, **more)


def _claude(name: str, tier: Tier, line: str, cache_min: int, **more: object) -> Model:
    return _model("anthropic", name, tier, line, caching="marks", cache_min=cache_min, **more)


def _gemini(name: str, tier: Tier, line: str, cache_min: int, **more: object) -> Model:
    more.setdefault("max_output", 65_536)
    return _model("gemini", name, tier, line, caching="steps", cache_min=cache_min, thinks=True, **more)


_ALL = (
    _openai("gpt-4o-mini", "small", ".15 .6 .075", priority=".25 1 .125", context=128_000, max_output=16_384),
    _openai("gpt-4.1-mini", "small", ".4 1.6 .1", context=1_000_000, max_output=32_768),
    _openai(
        "gpt-5-mini", "small", ".25 2 .025", flex=".125 1 .0125", priority=".45 3.6 .045", context=400_000, thinks=True
    ),
    _openai("gpt-4o", "mid", "2.5 10 1.25", priority="4.25 17 2.125", context=128_000, max_output=16_384),
    _openai("gpt-4.1", "mid", "2 8 .5", context=1_000_000, max_output=32_768),
    _openai(
        "o3",
        "frontier",
        "2 8 .5",
        flex="1 4 .25",
        priority="3.5 14 .875",
        context=200_000,
        max_output=100_000,
        thinks=True,
    ),
    _openai(
        "gpt-5.4",
        "frontier",
        "2.5 15 .25",
        long_over=272_000,
        long="5 22.5 .5",
        flex="1.25 7.5 .13",
        flex_long="2.5 11.25 .25",
        context=1_050_000,
        thinks=True,
    ),
    _openai(
        "gpt-5.6-sol",
        "frontier",
        "4 20 .4 5 10",
        long_over=272_000,
        long="8 30 .8 10 20",
        flex="2 10 .2 2.5",
        flex_long="4 15 .4 5",
        priority="8 40 .8 10",
        priority_long="16 60 1.6 20",
        context=1_050_000,
        caching="breakpoints",
        thinks=True,
    ),
    _openai(
        "gpt-6.1-sol",
        "frontier",
        "2 10 .1 2.5 5",
        long_over=272_000,
        long="4 15 .2 5 10",
        flex="1 5 .05 1.25",
        flex_long="2 7.5 .1 2.5",
        priority="4 20 .2 5",
        priority_long="8 30 .4 10",
        context=1_050_000,
        caching="breakpoints",
        thinks=True,
    ),
    _openai("text-embedding-3-small", "embedding", ".02", context=8_192, caching="none"),
    _openai("text-embedding-3-large", "embedding", ".13", context=8_192, caching="none"),
    _claude("claude-haiku-4-5", "small", "1 5 .1 1.25 2", 4096, context=200_000, max_output=64_000),
    _claude(
        "claude-haiku-5-5",
        "small",
        ".1 .5 .01 .125 .2",
        512,
        long_over=100_000,
        long=".5 2.5 .05 .625 1",
        us_premium=True,
    ),
    _claude("claude-sonnet-4-5", "mid", "3 15 .3 3.75 6", 1024, context=200_000, max_output=64_000),
    _claude("claude-sonnet-5-5", "mid", "2 10 .1 2.5 4", 512, us_premium=True),
    _claude("claude-opus-4-8", "frontier", "5 25 .5 6.25 10", 1024, us_premium=True),
    _claude("claude-opus-5-5", "frontier", "4 20 .2 5 8", 512, us_premium=True),
    _gemini("gemini-2.5-flash-lite", "small", ".1 .4 .01", 1024),
    _gemini("gemini-2.5-flash", "small", ".3 2.5 .03", 1024),
    _gemini("gemini-2.5-pro", "mid", "1.25 10 .125", 4096, long_over=200_000, long="2.5 15 .25"),
)
MODELS: dict[str, Model] = {model.name: model for model in _ALL}


def known(name: str) -> Model | None:
    """The table's model of that name, of its dated snapshot or its -latest alias."""
    name = name.removeprefix("models/")
    if (model := MODELS.get(name)) is not None:
        return model
    dated = _DATED.match(name)
    return MODELS.get(dated[1]) if dated else None


def stand_in(name: str, family: Family) -> Model:
    """A model without a price, for any_model and for recorded names: middling, caching nothing."""
    return Model(name.removeprefix("models/"), family, "mid", None)
