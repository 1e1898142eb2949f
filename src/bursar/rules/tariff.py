"""What one row of the catalogue costs under some terms at an instant, with our reviewed rows laid over it. Pure.

Two prices that no list combines (batch with priority), a tier that no list has, a bill in anything but tokens: none of
them is guessed, each is Unpriced with the setting that cures it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from bursar.money import nanos_per_million, parse_usd
from bursar.policy import Card, Unpriced
from bursar.rules import price_table
from bursar.rules.price_table import Term
from bursar.types import Bucket, Fee, Terms

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

Rates: TypeAlias = dict[Bucket, Decimal]
"""USD per million tokens."""

DAY = 86_400_000_000
_KEYS: dict[str, tuple[Bucket, ...]] = {
    "input_mtok": ("input",),
    "output_mtok": ("output",),
    "cache_read_mtok": ("cache_read",),
    "cache_write_mtok": ("cache_write_5m", "cache_write_30m"),
    "cache_write_1h_mtok": ("cache_write_1h",),
    "input_audio_mtok": ("input_audio",),
    "cache_audio_read_mtok": ("cache_read_audio",),
    "output_audio_mtok": ("output_audio",),
    "input_image_mtok": ("input_image",),
    "cache_image_read_mtok": ("cache_read_image",),
    "output_image_mtok": ("output_image",),
    "input_video_mtok": ("input_video",),
    "output_video_mtok": ("output_video",),
}
_FEE_KEYS: dict[str, Fee] = {"web_searches_kcount": "web_search", "storage_searches_kcount": "file_search"}
MEDIA: tuple[tuple[Bucket, Bucket], ...] = (
    ("input_audio", "cache_read_audio"),
    ("input_image", "cache_read_image"),
    ("input_video", "cache_read_video"),
)
TIERS: dict[str, Term | None] = {
    "": None,
    "standard": None,
    "default": None,
    "auto": None,
    "on_demand": None,
    "batch": "batch",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
    "ultrafast": "ultrafast",
}
_CONTEXT: dict[Term, tuple[str, str]] = {
    "batch": ("processing", "batch"),
    "flex": ("service_tier", "flex"),
    "priority": ("service_tier", "priority"),
    "ultrafast": ("service_tier", "ultrafast"),
    "fast": ("speed", "fast"),
}
NO_REGION = ("", "global", "default", "not_available")


@dataclass(frozen=True, slots=True)
class _Row:
    """Rates on the way to a card. `long` is None where the price has no cliff."""

    rates: Rates
    long: Rates | None = None
    over: int | None = None

    def times(self, factor: Decimal) -> "_Row":
        return self.each(lambda rates: {bucket: rate * factor for bucket, rate in rates.items()})

    def each(self, change: Callable[[Rates], Rates]) -> "_Row":
        return replace(self, rates=change(self.rates), long=change(self.long) if self.long is not None else None)


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the catalogue, as the provider `catalog` is billed by it."""

    catalog: str
    source: str
    """The catalogue that the row stands in: not `catalog` where that one resells another provider's models."""
    model: "ModelInfo"
    name: str
    version: str
    full: str
    cure: str

    def deal(self, terms: Terms, at: int) -> Card | Unpriced:
        """The card under these terms at an instant."""
        term = self._term(terms)
        if isinstance(term, Unpriced):
            return term
        row = self._row(term, at)
        if isinstance(row, Unpriced):
            return row
        words: list[str] = [term] if term is not None else []
        region = (terms.region or "").lower()
        if region not in NO_REGION and self.catalog != "aws":  # Bedrock's region is in the model's name
            factor = _factor(self.catalog, "regional", self.model.id, region)
            if factor is None or self.resold:
                return Unpriced(f"no rate of {self.full} is listed for region {region!r}: {self.cure}")
            row, words = row.times(factor), [*words, f"region={region}"]
        row = row.each(self._completed)
        days, hours = self.changes()
        where = self.source if not self.resold else f"{self.catalog}>{self.source}"
        return Card(
            price_id=f"genai-prices/{self.version}+bursar/{price_table.VERSION}:{where}/{self.model.id}"
            f"@{_label(days, hours, at)}{''.join(f';{word}' for word in words)}",
            rates=nanos(row.rates),
            fees={fee: parse_usd(usd) for fee, usd in self._fees(at).items()},
            long_over=row.over,
            long_rates=nanos(row.long) if row.long is not None else None,
            context_tokens=self.model.context_window,
            max_output_tokens=next(
                (n for c, names, n in price_table.MAX_OUTPUT if c == self.source and re.fullmatch(names, self.name)),
                None,
            ),
        )

    @property
    def resold(self) -> bool:
        return self.source != self.catalog

    def changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """When the price changes: instants, and times of day in microseconds since midnight UTC."""
        days = {_midnight(r.until) for r in self._own_rates() if r.until is not None}
        hours: set[int] = set()
        rows = self.model.prices if isinstance(self.model.prices, list) else []
        for constraint in [r.constraint for r in rows] + [v.constraint for v in self.model.price_variants or ()]:
            if constraint is None:
                continue
            if hasattr(constraint, "start_date"):
                days.add(_midnight(constraint.start_date))
            else:
                hours |= {_of_day(constraint.start_time), _of_day(constraint.end_time)}
        return tuple(sorted(days)), tuple(sorted(hours))

    def _term(self, terms: Terms) -> Term | Unpriced | None:
        """The one billing term that sets the rates; two that no list combines are unpriced."""
        tier = (terms.service_tier or "").lower()
        window = terms.window if terms.window not in (None, "", "soonest") else None
        if tier not in TIERS or window not in (None, "2h", "8h"):
            word = f"service tier {tier!r}" if tier not in TIERS else f"completion window {window!r}"
            return Unpriced(f"no rate of {self.full} is listed for {word} (prepaid or unknown): {self.cure}")
        asked: list[Term] = [t for t in (TIERS[tier], window, "fast" if terms.fast else None) if t is not None]  # type: ignore[misc]
        if terms.batch and asked in ([], ["batch"], ["flex"]):  # both are half price, never a quarter
            return "batch"
        if terms.batch or len(asked) > 1:
            both = " with ".join([*["batch"] * terms.batch, *asked])
            return Unpriced(f"no rate of {self.full} is listed for {both}: {self.cure}")
        return asked[0] if asked else None

    def _row(self, term: Term | None, at: int) -> _Row | Unpriced:
        """The rates under a term: the catalogue's own, else another term's that it equals, else a listed factor."""
        standard = self._standard(at)
        if term is None:
            return self._read(standard)
        row: _Row | Unpriced = Unpriced(
            f'no rate of {self.full} is listed for {term}: {self.cure}, multiply = {{ {term} = "..." }}'
        )
        if self.resold:
            return row
        like = next((s.like for s in price_table.SAME_AS if self._is(s.catalog, s.models) and s.term == term), None)
        variant = self._variant(term, at)
        if variant is None and like is not None:
            variant = self._variant(like, at)
        if variant is not None:
            row = self._read({**standard, **variant})
        elif (factor := _factor(self.catalog, term, self.model.id)) is not None:
            plain = self._read(standard)
            row = plain if isinstance(plain, Unpriced) else plain.times(factor)
        if isinstance(row, Unpriced):
            return row
        own = {r.bucket: Decimal(r.usd) for r in self._own_rates() if r.term == term and _holds(r.until, at)}
        return replace(row, rates={**row.rates, **own})

    def _standard(self, at: int) -> dict[str, Any]:
        """The catalogue's standard prices in force, corrected by our dated rows."""
        prices = self.model.prices
        if isinstance(prices, list):
            active = [p.prices for p in prices if _active(p.constraint, at)]
            chosen = active[-1] if active else prices[0].prices
        else:
            chosen = prices
        own = {
            key: Decimal(r.usd)
            for r in self._own_rates()
            if r.term is None and _holds(r.until, at)
            for key, buckets in _KEYS.items()
            if r.bucket in buckets
        }
        return {**_given(chosen), **own}

    def _variant(self, term: Term, at: int) -> dict[str, Any] | None:
        """What the catalogue changes under a term. Its start dates say when a rate was checked, not when it began:
        before the first of them it holds as long as the standard prices were the same."""
        if term not in _CONTEXT:
            return None
        key, word = _CONTEXT[term]
        rows = [v for v in self.model.price_variants or () if v.when == {key: word}]
        active = [v for v in rows if _active(v.constraint, at)]
        if rows and not active:
            first = min(rows, key=lambda v: _start(v.constraint))
            if self._standard(_start(first.constraint)) == self._standard(at):
                active = [first]
        if not active:
            return None
        merged: dict[str, Any] = {}
        for variant in reversed(active):  # the first one that names a key decides
            merged |= _given(variant.prices)
        return merged

    def _read(self, prices: Mapping[str, Any]) -> _Row | Unpriced:
        """Price keys of the catalogue -> rates by bucket. A model billed by anything else is not priced by half."""
        odd = sorted(set(prices) - _KEYS.keys() - _FEE_KEYS.keys())
        if odd or "input_mtok" not in prices:
            unit = ", ".join(odd) or "something else"
            return Unpriced(f"{self.full} is billed by {unit}, not by tokens alone: {self.cure}")
        rates: Rates = {}
        long: Rates = {}
        over: int | None = None
        for key, buckets in _KEYS.items():
            price = prices.get(key)
            if price is None:
                continue
            tiers = getattr(price, "tiers", ())
            if len(tiers) > 1 or (tiers and over not in (None, tiers[0].start)):
                return Unpriced(f"{self.full} has more than one price step by prompt length: {self.cure}")
            over = tiers[0].start if tiers else over
            for bucket in buckets:
                rates[bucket] = price.base if tiers else price
                long[bucket] = tiers[0].price if tiers else price
        return _Row(rates, long if over is not None else None, over)

    def _completed(self, rates: Rates) -> Rates:
        """Every documented fallback, written out: what is still missing after this has no known price.

        The catalogue's rule: a medium without a rate of its own is billed at the text rate. Not for output, whose
        media cost many times the text; and not for cached media whose fresh tokens have their own rate.
        """
        full = dict(rates)
        for write in price_table.WRITES:
            if self._is(write.catalog, write.models):
                for bucket in write.buckets:
                    full.setdefault(bucket, rates["input"] * Decimal(write.times))
        full.setdefault("cache_read", rates["input"])  # no cached rate in the list: no discount
        for fresh, cached in MEDIA:
            if fresh not in rates:
                full[fresh] = rates["input"]
                full.setdefault(cached, full["cache_read"])
            elif "cache_read" not in rates:
                full.setdefault(cached, rates[fresh])
        for catalog, names, bucket in price_table.MEDIA_OUTPUT:
            if self._is(catalog, names) and "output" in rates:
                full.setdefault(bucket, rates["output"])
        return full

    def _fees(self, at: int) -> dict[Fee, Decimal]:
        """USD a piece. A reseller's fees are its own, and not known here."""
        if self.resold:
            return {}
        fees = {fee: p / 1000 for key, fee in _FEE_KEYS.items() if (p := self._standard(at).get(key)) is not None}
        for row in price_table.FEES:
            if self._is(row.catalog, row.models):
                fees.setdefault(row.fee, Decimal(row.usd))
        if self.catalog == "google" and fees:  # grounding is billed in one unit; the other one is then free
            price = fees.get("web_search", fees.get("grounded_prompt", Decimal(0)))
            per_prompt = re.fullmatch(price_table.PER_PROMPT, self.model.id) is not None
            fees["grounded_prompt"] = price if per_prompt else Decimal(0)
            fees["web_search"] = Decimal(0) if per_prompt else price
        return fees

    def _is(self, catalog: str, names: str) -> bool:
        return catalog == self.catalog and re.fullmatch(names, self.model.id) is not None

    def _own_rates(self) -> list[price_table.Rate]:
        return [r for r in price_table.RATES if self._is(r.catalog, r.models)]


def _factor(catalog: str, term: Term, model: str, region: str = "") -> Decimal | None:
    for row in price_table.FACTORS:
        if (row.catalog, row.term) == (catalog, term) and re.fullmatch(row.models, model):
            return Decimal(row.times) if re.fullmatch(row.regions, region) else None
    return None


def nanos(rates: Rates) -> dict[Bucket, int]:
    return {bucket: nanos_per_million(rate) for bucket, rate in rates.items()}


def _given(prices: Any) -> dict[str, Any]:
    return {key: price for key, price in vars(prices).items() if price is not None}


def _active(constraint: Any, at: int) -> bool:
    """As the catalogue's own constraints: UTC dates from their start on, daily windows open at their end."""
    if constraint is None:
        return True
    if hasattr(constraint, "start_date"):
        return at >= _midnight(constraint.start_date)
    start, end, now = _of_day(constraint.start_time), _of_day(constraint.end_time), at % DAY
    return start <= now < end if start <= end else now >= start or now < end


def _start(constraint: Any) -> int:
    return _midnight(constraint.start_date) if hasattr(constraint, "start_date") else 0


def _holds(until: str | None, at: int) -> bool:
    return until is None or at < _midnight(until)


def _midnight(day: date | str) -> int:
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return (day.toordinal() - date(1970, 1, 1).toordinal()) * DAY


def _of_day(value: time) -> int:
    offset = value.utcoffset()
    micros = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000
    return (micros - (int(offset.total_seconds()) * 1_000_000 if offset else 0)) % DAY


def _label(days: Iterable[int], hours: Iterable[int], at: int) -> str:
    """Names the stretch of time that a card holds for: the last change before it."""
    day = max((d for d in days if d <= at), default=None)
    hour = max((h for h in hours if h <= at % DAY), default=0)
    text = "start" if day is None else datetime.fromtimestamp(day // 1_000_000, UTC).date().isoformat()
    return f"{text}T{hour // 60_000_000:04d}m" if hours else text
