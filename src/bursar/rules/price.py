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
_BUCKETS: tuple[Bucket, ...] = get_args(Bucket)
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
    possible = _BUCKETS if only is None else only
    rates = [card.rates]
    if card.long_rates is not None and card.long_over is not None and input_tokens > card.long_over:
        rates.append(card.long_rates)
    costs = [_dearest(table, possible, input_tokens, output_tokens) for table in rates]
    known = [cost for cost in costs if cost is not None]
    return divide_up(max(known), _MTOK) if known else None


def _dearest(
    rates: Mapping[Bucket, int], possible: Collection[Bucket], input_tokens: int, output_tokens: int
) -> int | None:
    fresh = made = -1
    for bucket in possible:
        rate = rates.get(bucket, -1)
        if bucket in _OUTPUTS:
            made = max(made, rate)
        else:
            fresh = max(fresh, rate)
    if (input_tokens and fresh < 0) or (output_tokens and made < 0):
        return None
    return input_tokens * max(fresh, 0) + output_tokens * max(made, 0)


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
