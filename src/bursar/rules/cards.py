"""Price cards: (provider, model, terms, instant) -> integer rates, compiled once and remembered. Pure.

Three sources, the first that speaks wins: the user's `[prices."provider/model"]`, our reviewed rows (price_table.py)
for what the catalogue lacks, the genai-prices catalogue. What none of them lists is Unpriced, with the setting that
cures it: an unknown model is never free, an unknown tier never standard.
"""

import fnmatch
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

import msgspec

from bursar.money import nanos_per_million, parse_usd
from bursar.policy import Card, Override, PriceBook, Unpriced
from bursar.rules.listing import find, plain_name
from bursar.rules.tariff import DAY, MEDIA, NO_REGION, TIERS, Listed, Rates, nanos
from bursar.types import Bucket, Fee, Instant, Terms

_REMEMBERED = 4096
_CATALOGS = {"gemini": "google", "vertex": "google", "bedrock": "aws", "grok": "x-ai", "xai": "x-ai"}


def compile_book(overrides: Mapping[str, Override], catalogs: Mapping[str, str]) -> PriceBook:
    """The price book of a configuration. ValueError names the override and the field that is not an amount.

    overrides: by "provider/model" (globs allowed, an exact name wins); catalogs: genai-prices' provider id by the
    policy's provider name, where it is not the same name (gemini, bedrock and vertex are known).
    """
    return Book({key: _own_card(key, override) for key, override in overrides.items()}, {**_CATALOGS, **catalogs})


@dataclass(frozen=True, slots=True)
class _Own:
    """An override, read: its standard card, and what each billing term multiplies it by."""

    card: Card
    factors: dict[str, Decimal]


@dataclass(frozen=True, slots=True)
class _Dated:
    """One model under one set of terms: a card for every stretch between two changes, dealt when first asked."""

    deal: Callable[[int], Card | Unpriced]
    days: tuple[int, ...] = ()
    hours: tuple[int, ...] = ()
    dealt: dict[tuple[int, int], Card | Unpriced] = field(default_factory=dict)

    def at(self, at: int) -> Card | Unpriced:
        cell = (bisect_right(self.days, at), bisect_right(self.hours, at % DAY))
        card = self.dealt.get(cell)
        if card is None:
            card = self.dealt[cell] = self.deal(at)
        return card


class Book:
    """A PriceBook: it only remembers what it has computed, so the same question has the same answer for its life."""

    __slots__ = ("_catalogs", "_dated", "_dearest", "_own")

    def __init__(self, own: Mapping[str, _Own], catalogs: Mapping[str, str]) -> None:
        self._own = own
        self._catalogs = catalogs
        self._dated: dict[tuple[str, str, Terms], _Dated] = {}
        self._dearest: dict[tuple[str, int], Card | Unpriced] = {}

    def card(self, provider: str, model: str, terms: Terms, at: Instant) -> Card | Unpriced:
        """The rates of one model, as served, at an instant; Unpriced says what is missing and how to cure it."""
        key = (provider, model, terms)
        dated = self._dated.get(key)
        if dated is None:
            if len(self._dated) >= _REMEMBERED:  # names come from callers: never more than this many
                self._dated.clear()
            dated = self._dated[key] = self._date(provider, model, terms)
        return dated.at(at)

    def dearest(self, provider: str, at: Instant) -> Card | Unpriced:
        """The highest rate of each bucket among the models of the provider's catalogue, long prompts included."""
        today = (provider, at // DAY)
        if today not in self._dearest:
            self._dearest[today] = self._highest(provider, at)
        return self._dearest[today]

    def _highest(self, provider: str, at: Instant) -> Card | Unpriced:
        from genai_prices import __version__  # noqa: PLC0415
        from genai_prices.data import providers  # noqa: PLC0415

        catalog = self._catalogs.get(provider, provider)
        models = next((listed.models for listed in providers if listed.id == catalog), [])
        rates: dict[Bucket, int] = {}
        fees: dict[Fee, int] = {}
        for card in (self.card(provider, model.id, Terms(), at) for model in models):
            if isinstance(card, Card):
                for bucket, rate in (*card.rates.items(), *(card.long_rates or {}).items()):
                    rates[bucket] = max(rate, rates.get(bucket, 0))
                for fee, price in card.fees.items():
                    fees[fee] = max(price, fees.get(fee, 0))
        if not rates:
            return Unpriced(f"no model of {provider} has a known price: there is no ceiling to go by")
        return Card(price_id=f"ceiling:genai-prices-{__version__}:{catalog}", rates=rates, fees=fees)

    def _date(self, provider: str, model: str, terms: Terms) -> _Dated:
        full = f"{provider}/{model}"
        glob = next((k for k in sorted(self._own, key=len, reverse=True) if fnmatch.fnmatchcase(full, k)), None)
        key = full if full in self._own else glob
        if key is not None:
            own = _multiplied(key, self._own[key], terms)
            return _Dated(lambda at: own)
        from genai_prices import __version__  # noqa: PLC0415
        from genai_prices.data import providers  # noqa: PLC0415

        catalog = self._catalogs.get(provider, provider)
        name = plain_name(model, catalog)
        row = find(providers, catalog, name)
        cure = f'give it a price: [prices."{full}"] input = "...", output = "..." (USD per million tokens)'
        if row is None:
            missing = Unpriced(f"no price is known for {full} (genai-prices {__version__}, {catalog}): {cure}")
            return _Dated(lambda at: missing)
        listed = Listed(catalog, row[0], row[1], name, __version__, full, cure)
        return _Dated(lambda at: listed.deal(terms, at), *listed.changes())


def _own_card(key: str, override: Override) -> _Own:
    """An override -> its card under standard terms. Cached tokens without a rate of their own get no discount."""
    values = {f: v for f in override.__struct_fields__ if isinstance(v := getattr(override, f), str)}
    usd = {name: _amount(f'[prices."{key}"] {name}', text) for name, text in values.items()}
    names: dict[str, Bucket] = {
        name: name.replace("cached", "cache_read")  # type: ignore[misc]  # the fields are named after the buckets
        for name in usd
        if name not in ("web_search", "grounded_prompt", "file_search")
    }
    rates: Rates = {bucket: usd[name] for name, bucket in names.items()}
    rates.setdefault("cache_read", rates["input"])
    for fresh, cached in MEDIA:
        rates.setdefault(fresh, rates["input"])
        rates.setdefault(cached, rates["cache_read"] if fresh not in usd else rates[fresh])
    fees: tuple[Fee, ...] = ("web_search", "grounded_prompt", "file_search")
    digest = hashlib.sha256(msgspec.json.encode(override, order="sorted")).hexdigest()[:12]
    card = Card(
        price_id=f"policy/{digest}:{key}",
        rates=nanos(rates),
        fees={fee: parse_usd(usd[fee]) for fee in fees if fee in usd},
        context_tokens=override.context_tokens,
        max_output_tokens=override.max_output_tokens,
    )
    return _Own(card, {w: _amount(f'[prices."{key}"] multiply.{w}', f) for w, f in override.multiply.items()})


def _multiplied(key: str, own: _Own, terms: Terms) -> Card | Unpriced:
    """An override under other terms than standard: only by the factors that it gives itself."""
    card = own.card
    tier = (terms.service_tier or "").lower()
    words = ["batch"] if terms.batch else [tier] if TIERS.get(tier, tier) is not None else []
    words += ["fast"] if terms.fast else []
    words += [w for w in (terms.window, terms.region) if w is not None and w not in ("soonest", *NO_REGION)]
    for word in words:
        factor = own.factors.get(word)
        if factor is None:
            return Unpriced(f'[prices."{key}"] has no rate for {word!r}: add multiply = {{ "{word}" = "..." }}')
        rates = {b: nanos_per_million(Decimal(r) * factor / 10**9) for b, r in card.rates.items()}
        card = msgspec.structs.replace(card, price_id=f"{card.price_id};{word}", rates=rates)
    return card


def _amount(name: str, text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f'{name} = {text!r} is not a decimal number: write for example "0.30"') from None
    if not amount.is_finite() or not 0 <= amount < 10**9:
        raise ValueError(f"{name} = {text!r} must be 0 or more and below 1e9")
    return amount
