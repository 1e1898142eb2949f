"""What a call cost, and what it can cost at most. Pure, integers only; a cost that is not known is unpriced, never 0.

Rates are nano-dollars per million tokens, so a part costs tokens x rate in units of a millionth of a nano-dollar, and
the call is rounded once, half-even, on its total. A part is priced at its own model's card and its own prompt length
(a cliff re-prices the whole part); fees are added at list price and multiplied by nothing.
"""

from collections.abc import Collection, Mapping
from typing import get_args

from bursar.money import divide_half_even, divide_up
from bursar.policy import Card, PriceBook, Unpriced
from bursar.types import Bucket, Fee, Instant, Part, Price, Terms, Usage

_MTOK = 1_000_000
_OUTPUTS: frozenset[Bucket] = frozenset({"output", "output_audio", "output_image", "output_video"})
_INPUTS: frozenset[Bucket] = frozenset(get_args(Bucket)) - _OUTPUTS
_CACHEABLE = 1024
"""Shorter prompts are never written to a provider's cache (tokens; OpenAI prompt caching guide)."""


def quote(usage: Usage, provider: str, model: str | None, terms: Terms, prices: PriceBook, at: Instant) -> Price:
    """The price of a call by its normalised usage.

    model: the served one, for every part that does not name its own. Status is "estimated" where a count was guessed
    or cache writes that this model bills for were not reported; "unpriced" where any billed part has no known rate.
    """
    total = 0
    ids: dict[str, None] = {}
    unreported = False
    for part in usage.parts:
        if not part.billed:
            continue
        card = _card(provider, part.model or model, terms, prices, at)
        cost = _part(card, part) if isinstance(card, Card) else card
        if isinstance(card, Unpriced) or isinstance(cost, Unpriced):
            return Price(None, "unpriced", why=_why(card, cost))
        total += cost
        ids[card.price_id] = None
        unreported = unreported or (usage.cache_write_tokens is None and _may_have_written(card, part))
    incurred = {fee: count for fee, count in usage.fees if count}
    if incurred:
        card = _card(provider, model, terms, prices, at)
        owed = _fees(card, incurred) if isinstance(card, Card) else card
        if isinstance(card, Unpriced) or isinstance(owed, Unpriced):
            return Price(None, "unpriced", why=_why(card, owed))
        total += owed * _MTOK
        ids[card.price_id] = None
    return Price(
        divide_half_even(total, _MTOK),
        "estimated" if usage.estimated or unreported else "final",
        " + ".join(ids) or None,
        "cache writes were not reported: their surcharge is not in the price" if unreported else None,
    )


def ceiling(
    input_tokens: int,
    output_tokens: int,
    provider: str,
    model: str | None,
    terms: Terms,
    prices: PriceBook,
    at: Instant,
    *,
    only: Collection[Bucket] | None = None,
) -> int | None:
    """The most that so many tokens can cost, nano-dollars, rounded up; None: no price is known.

    Every input token at the dearest input-side rate (a cache write, a medium), every output token at the dearest
    output-side rate, past the cliff if the input may cross it. `only` leaves out the buckets that the request cannot
    touch. Fees of hosted tools are not in it: the request does not bound them.
    """
    card = _card(provider, model, terms, prices, at)
    if isinstance(card, Unpriced):
        return None
    fresh = input_cost(card, input_tokens, only)
    made = output_rate(card, input_tokens, only)
    if fresh is None or (made is None and output_tokens):
        return None
    return divide_up(fresh + output_tokens * (made or 0), _MTOK)


def input_cost(card: Card, tokens: int, only: Collection[Bucket] | None = None) -> int | None:
    """The most that so much input can cost, in millionths of a nano-dollar; None: a card without input rates."""
    rate = _dearest(card, tokens, _INPUTS if only is None else _INPUTS.intersection(only))
    return 0 if not tokens else None if rate is None else tokens * rate


def output_rate(card: Card, input_tokens: int, only: Collection[Bucket] | None = None) -> int | None:
    """The dearest rate of output beside so much input, nano-dollars per million tokens; None: no such rate."""
    return _dearest(card, input_tokens, _OUTPUTS if only is None else _OUTPUTS.intersection(only))


def _dearest(card: Card, input_tokens: int, possible: frozenset[Bucket]) -> int | None:
    tables = [card.rates]
    if card.long_rates is not None and card.long_over is not None and input_tokens > card.long_over:
        tables.append(card.long_rates)
    return max((rates[bucket] for rates in tables for bucket in possible if bucket in rates), default=None)


def _card(provider: str, model: str | None, terms: Terms, prices: PriceBook, at: Instant) -> Card | Unpriced:
    if model is None:
        return Unpriced(f"the model that {provider} served is not known: no price can be chosen")
    return prices.card(provider, model, terms, at)


def _why(*found: object) -> str:
    return next(f.why for f in found if isinstance(f, Unpriced))


def _part(card: Card, part: Part) -> int | Unpriced:
    """Tokens at the rates of their bucket, in millionths of a nano-dollar."""
    rates = card.rates
    if card.long_over is not None and card.long_rates is not None:
        prompt = sum(tokens for bucket, tokens in part.buckets.items() if bucket not in _OUTPUTS)
        if prompt > card.long_over:
            rates = card.long_rates
    total = 0
    for bucket, tokens in part.buckets.items():
        if not tokens:
            continue
        rate = rates.get(bucket)
        if rate is None:
            field = bucket.replace("cache_read", "cached")
            return Unpriced(f"{card.price_id} has no rate for {tokens} {bucket} tokens: set {field} under [prices]")
        total += tokens * rate
    return total


def _fees(card: Card, incurred: Mapping[Fee, int]) -> int | Unpriced:
    """Nano-dollars."""
    missing = [fee for fee in incurred if fee not in card.fees]
    if missing:
        return Unpriced(f"{card.price_id} has no price for a {missing[0]}: set {missing[0]} under [prices]")
    return sum(count * card.fees[fee] for fee, count in incurred.items())


def _may_have_written(card: Card, part: Part) -> bool:
    """Whether this model bills for writing a prompt this long to its cache (gpt-5.6 and later: 1.25x)."""
    write, fresh = card.rates.get("cache_write_30m"), card.rates.get("input")
    if write is None or fresh is None or write <= fresh:
        return False
    return part.buckets.get("input", 0) >= _CACHEABLE
