"""The metrics that go out by OpenTelemetry, recorded from closed rows. Attributes are bounded; users are none of them.

Token counters add what is billed; a failed call adds nothing where nothing is owed. A cost that is not known adds
nothing and is counted as a call whose cost status is `unpriced`.
"""

from typing import Any

from bursar.doors.telemetry import facts, names
from bursar.doors.telemetry.facts import Attributes, Place
from bursar.doors.telemetry.labels import Bounded
from bursar.types import Entry

_COUNTERS = (
    (names.USAGE_INPUT, "input_tokens"),
    (names.USAGE_OUTPUT, "output_tokens"),
    (names.USAGE_CACHE_READ, "cached_tokens"),
    (names.USAGE_CACHE_WRITE, "cache_write_tokens"),
    (names.USAGE_REASONING, "reasoning_tokens"),
)


class Instruments:
    """Of one meter."""

    def __init__(self, meter: Any, wishes: names.Wishes) -> None:
        self._wishes = wishes
        self._models, self._ours = Bounded(), Bounded()

        def histogram(name: str, unit: str, told: str, bounds: tuple[float, ...]) -> Any:
            return meter.create_histogram(name, unit, told, explicit_bucket_boundaries_advisory=bounds)

        seconds, tokens = names.SECONDS, names.TOKENS
        self._duration = histogram(names.DURATION, "s", "From the request to the end of the answer.", seconds)
        self._first = histogram(names.TIME_TO_FIRST_CHUNK, "s", "From the request to the first chunk.", seconds)
        self._counters = [(meter.create_counter(name, "{token}", f"Billed {what}."), what) for name, what in _COUNTERS]
        self._input = histogram(names.CALL_INPUT, "{token}", "Input tokens of a call.", tokens)
        self._output = histogram(names.CALL_OUTPUT, "{token}", "Output tokens of a call.", tokens)
        self._vectors = histogram(names.EMBEDDINGS_DURATION, "s", "Duration of embeddings.", seconds)
        self._vectored = histogram(names.EMBEDDINGS_INPUT, "{token}", "Input tokens of embeddings.", tokens)
        self._calls = meter.create_counter(names.CALLS, "{call}", "Attempts, hits and refusals.")
        self._cost = meter.create_counter(names.COST, "USD", "Known cost.")
        self._saved = meter.create_counter(names.SAVED, "USD", "What hits would have cost.")
        if wishes.older:
            self._old_tokens = histogram(names.OLD_TOKENS, "{token}", "Tokens of a call.", tokens)
            self._old_duration = histogram(names.OLD_DURATION, "s", "Duration of a call.", seconds)
        if wishes.proposed:
            self._proposed = histogram(names.PROPOSED_COST, "USD", "Cost of a call.", names.DOLLARS)

    def record(self, entry: Entry, where: Place) -> None:
        """Count a closed row."""
        ours = self._bursar(entry)
        self._calls.add(1, ours)
        if entry.cost_nanos is not None and entry.cost_nanos > 0:
            self._cost.add(entry.cost_nanos / facts.NANOS, ours)
        if entry.saved_nanos is not None and entry.saved_nanos > 0:
            self._saved.add(entry.saved_nanos / facts.NANOS, ours)
        if entry.status not in ("hit", "refused"):
            self._convention(entry, self._asked(entry, where))

    def _convention(self, entry: Entry, told: Attributes) -> None:
        seconds = None if entry.duration_ms is None else entry.duration_ms / 1000
        vectors = entry.api == "embeddings"
        if seconds is not None:
            (self._vectors if vectors else self._duration).record(seconds, told)
        if vectors:
            if entry.input_tokens is not None:
                self._vectored.record(entry.input_tokens, told)
        else:
            self._tokens(entry, told)
        if self._wishes.older:
            self._older(entry, seconds, told)
        if self._wishes.proposed and entry.cost_nanos is not None:
            self._proposed.record(entry.cost_nanos / facts.NANOS, told)

    def _tokens(self, entry: Entry, told: Attributes) -> None:
        if entry.stream and entry.first_byte_ms is not None:
            self._first.record(entry.first_byte_ms / 1000, told)
        for counter, field in self._counters:
            if count := getattr(entry, field):
                counter.add(count, told)
        for histogram, count in ((self._input, entry.input_tokens), (self._output, entry.output_tokens)):
            if count is not None:
                histogram.record(count, told)

    def _older(self, entry: Entry, seconds: float | None, told: Attributes) -> None:
        if seconds is not None:
            self._old_duration.record(seconds, told)
        for kind, count in (("input", entry.input_tokens), ("output", entry.output_tokens)):
            if count is not None:
                self._old_tokens.record(count, {**told, names.OLD_TOKEN_TYPE: kind})

    def _asked(self, entry: Entry, where: Place) -> Attributes:
        """The conventions' attributes of a metric, models and errors bounded."""
        told = facts.asked(entry, where)
        words = (names.REQUEST_MODEL, names.RESPONSE_MODEL, names.ERROR, names.SERVER)
        bounded = self._models(tuple(str(told[word]) if word in told else None for word in words))
        return {**told, **{word: bounded[at] for at, word in enumerate(words) if word in told}}

    def _bursar(self, entry: Entry) -> Attributes:
        words = (names.AGENT, names.STEP, names.PROVIDER_NAME, names.REQUEST_MODEL, names.TIER)
        labels = (entry.agent_id, entry.step, entry.provider or None, entry.model, entry.tier)
        found: Attributes = dict(zip(words, self._ours(labels), strict=True))
        return {**found, names.CACHE: entry.cache, names.STATUS: entry.status, names.COST_STATUS: entry.cost_status}
