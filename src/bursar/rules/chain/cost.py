"""A chain before anything is learned: its length by the prices, what a call's shape suggests, what a switch loses.

Pure. A rate that is not known gives None: nothing is assumed to be free.
"""

from typing import Literal, TypeAlias

from msgspec import structs

from bursar.money import divide_up
from bursar.policy import Card
from bursar.rules.chain.decide import Tier
from bursar.types import Bucket

CLOSE = 4
"""Prices nearer than 1:4: a middle tier must then pass a quarter of what the one below failed, and seldom does."""

Shape: TypeAlias = Literal["closed", "structured", "open"]
FOR, AGAINST = (3.0, 0.0), (0.0, 3.0)
"""Pseudo-counts of a shape."""

_WRITES: tuple[Bucket, ...] = ("cache_write_5m", "cache_write_30m", "cache_write_1h", "cache_write_12h")
_MILLION = 1_000_000


def default_chain(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
    """The chain for a step that names none: first and last tier, and the middle ones that stand well apart.

    A middle tier stays if it costs at least 4 times the tier kept below it and at most a quarter of the last one. One
    whose cost is not known stays: its place cannot be judged.
    """
    if len(tiers) < 3:
        return tiers
    kept, last = [tiers[0]], tiers[-1].cost_nanos
    for tier in tiers[1:-1]:
        below, cost = kept[-1].cost_nanos, tier.cost_nanos
        if below is None or cost is None or last is None or CLOSE * below <= cost <= last // CLOSE:
            kept.append(tier)
    return (*kept, tiers[-1])


def shape(*, labels: bool, fields: int | None, nested: bool, tools: bool, input_tokens: int) -> Shape:
    """What kind of call it is, by its form alone: no word of the prompt is read.

    labels: the answer is one of a closed set; fields: scalar fields of the output schema, None without one; nested:
    the schema holds objects or arrays.
    """
    if tools or nested:
        return "structured"
    simple = labels or (fields is not None and fields <= 3)
    return "closed" if simple and input_tokens < 4_000 else "open"


def lean(tiers: tuple[Tier, ...], form: Shape) -> tuple[Tier, ...]:
    """The tiers with the pseudo-counts that a shape suggests, for a step that has a validator and no name.

    A closed answer speaks for the first tier; a structured one against it and for the next; an open one for none. A
    few real answers outweigh them.
    """
    if form == "open" or len(tiers) < 2:
        return tiers
    first = structs.replace(tiers[0], prior=FOR if form == "closed" else AGAINST)
    if form == "closed" or len(tiers) < 3:
        return (first, *tiers[1:])
    return (first, structs.replace(tiers[1], prior=FOR), *tiers[2:])


def toll_nanos(prefix_tokens: int, here: Card, there: Card, *, there_warm: bool = False) -> int | None:
    """What a call pays for its cached prefix on another model over what it pays where the prefix is warm.

    A warm prefix is read at the cache rate, a cold one written at the dearest rate that the card has for a write (the
    input rate where it lists none). Negative where even the write is cheaper. Tier.extra_nanos of the other tier,
    beside costs that leave the prefix out.
    """
    stays, goes = _read(here), _read(there) if there_warm else _write(there)
    if stays is None or goes is None:
        return None
    return divide_up(prefix_tokens * (goes - stays), _MILLION)


def switch_pays(
    prefix_tokens: int, fresh_tokens: int, output_tokens: int, here: Card, there: Card, *, there_warm: bool = False
) -> bool | None:
    """Whether one call is cheaper on `there`, cold, than on `here`, where its prefix is warm; None: a rate is unknown.

    With reads at 0.1, writes at 1.25 and output at 5 times the input rate, and prices in the ratio R, it pays where
    prefix x (1.25/R - 0.1) < (fresh + 5 output)(1 - 1/R): at R = 5 under 5.3 times, at R >= 12.5 always.
    """
    toll = toll_nanos(prefix_tokens, here, there, there_warm=there_warm)
    stays, goes = _fresh(fresh_tokens, output_tokens, here), _fresh(fresh_tokens, output_tokens, there)
    if toll is None or stays is None or goes is None:
        return None
    return toll * _MILLION < stays - goes


def _fresh(fresh_tokens: int, output_tokens: int, card: Card) -> int | None:
    """Nano-dollars, in millionths, of the part of a call that no cache holds."""
    read, wrote = card.rates.get("input"), card.rates.get("output")
    return None if read is None or wrote is None else fresh_tokens * read + output_tokens * wrote


def _read(card: Card) -> int | None:
    return card.rates.get("cache_read", card.rates.get("input"))


def _write(card: Card) -> int | None:
    rates = [card.rates[bucket] for bucket in _WRITES if bucket in card.rates]
    return max(rates) if rates else card.rates.get("input")
