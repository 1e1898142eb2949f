"""What the providers' own prompt caches saved, net of what writing cost, and why they missed: per step, in dollars.

Read from the rows themselves, no more than the newest 50,000. A row of unknown usage or price is counted and is in no
sum. What was missed is an estimate: the tokens are Bursar's own count of the blocks, in proportion to the provider's,
and a cause is looked for only where the same blocks had been sent before. Pure but for its reading.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from bursar.insights import rows
from bursar.policy import Card, PriceBook
from bursar.rules import digest, price
from bursar.rules.prompt import known, marking
from bursar.rules.prompt.habits import Link, chain
from bursar.stores.base import Filters, Store
from bursar.types import Bucket, Entry, Instant, Part, Usage
from bursar.wire.usage import UsageFacts, read_usage

Why: TypeAlias = Literal[
    "unmarked", "not_found", "below_floor", "tools_changed", "system_changed", "history_changed", "settings_changed",
    "model_changed", "expired",
]  # fmt: skip

MOST_ROWS = 50_000
_PAGE = 1000
_LIFE_S = {"marks": 300, "breakpoints": 1800, "key": 600}
"""How long an entry is there at least, by the provider's style, seconds."""
_FRESH: Mapping[Bucket, Bucket] = {
    "cache_read": "input", "cache_write_5m": "input", "cache_write_30m": "input", "cache_write_1h": "input",
    "cache_write_12h": "input", "cache_read_audio": "input_audio", "cache_read_image": "input_image",
    "cache_read_video": "input_video",
}  # fmt: skip
_SLACK = 0.9
"""So much of what could have been read is as good as all of it: our counts are estimates."""

TEXTS: Mapping[Why, str] = {
    "unmarked": 'it came back in time and was never marked to be kept: set prompt_cache = "auto" for the step',
    "not_found": "it came back in time, but no entry ended where it ends: a marker behind what stays the same, or a "
    "steady prompt_cache_key, would find it",
    "below_floor": "what comes back is shorter than what the model's provider caches",
    "tools_changed": "the tools before it changed: keep their set and their order",
    "system_changed": "the system prompt before it changed: put what varies (dates, ids, users) behind what stays",
    "history_changed": "an earlier message changed: append to a conversation, and do not rewrite it",
    "settings_changed": "the output format, the thinking or the tool choice changed: each has entries of its own",
    "model_changed": "it had gone to another model: each has a cache of its own",
    "expired": "it came back when its entry was gone: calls closer together, or the longer lifetime, would find it",
}


class Cause(msgspec.Struct, frozen=True):
    """Input that was paid for in full and might have been read from the cache."""

    why: Why
    calls: int
    tokens: int
    nanos: int


class StepCache(msgspec.Struct, frozen=True, kw_only=True):
    """One step's part. Tokens as the providers report them, nano-dollars."""

    agent: str | None
    step: str | None
    calls: int = 0
    unknown: int = 0
    """Calls of unknown usage or price: in no sum."""
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    saved_nanos: int = 0
    """What the input would have cost without any cache, less what it cost: below 0 where writing was paid in vain."""
    premium_nanos: int = 0
    """What writing cost beyond plain input; it is in saved_nanos already."""
    causes: tuple[Cause, ...] = ()
    """The dearest first."""

    @property
    def missed_nanos(self) -> int:
        return sum(cause.nanos for cause in self.causes)


class Findings(msgspec.Struct, frozen=True):
    """The steps, the one that missed most first."""

    steps: tuple[StepCache, ...]
    rows: int
    whole: bool
    """False: the period has more rows than were read."""


def build(
    store: Store,
    prices: PriceBook,
    *,
    since: Instant | None = None,
    until: Instant | None = None,
    tenant: str | None = None,
    agent: str | None = None,
) -> Findings:
    """Ask the ledger."""
    filters = Filters(tenant=tenant, agent_id=agent, since=since, until=until)
    found: list[Entry] = []
    cursor, more = None, True
    while more and len(found) < MOST_ROWS:
        page = store.calls(filters, _PAGE, cursor)
        found += page.items
        cursor, more = page.next_cursor, page.next_cursor is not None
    return Findings(tuple(examined(reversed(found), prices)), len(found), not more)


def saved(entry: Entry, prices: PriceBook) -> tuple[int, int] | None:
    """What the provider's cache saved of a row, net, and the premiums for writing in it; None: not known."""
    facts = UsageFacts(model=entry.model, at=entry.started_at)
    try:
        usage = read_usage(entry.api, json.loads(entry.usage or "null"), facts)
    except ValueError:
        return None
    if usage is None:
        return None
    costs = [_cost(entry, usage, prices), _cost(entry, _moved(usage, ("cache_",)), prices)]
    without_writes = _cost(entry, _moved(usage, ("cache_write",)), prices)
    if costs[0] is None or costs[1] is None or without_writes is None:
        return None
    return costs[1] - costs[0], costs[0] - without_writes


def _cost(entry: Entry, usage: Usage, prices: PriceBook) -> int | None:
    return price.quote(usage, entry.provider, entry.model, entry.terms, prices, entry.started_at).nanos


def _moved(usage: Usage, prefixes: tuple[str, ...]) -> Usage:
    """The same tokens, those of the named buckets as plain input."""
    parts = []
    for part in usage.parts:
        buckets: defaultdict[Bucket, int] = defaultdict(int)
        for bucket, count in part.buckets.items():
            buckets[_FRESH[bucket] if bucket in _FRESH and bucket.startswith(prefixes) else bucket] += count
        parts.append(Part(dict(buckets), part.model, part.billed))
    return msgspec.structs.replace(usage, parts=tuple(parts))


# --- why it missed


class _Loss(NamedTuple):
    why: Why
    tokens: int
    """Estimated."""


class _Sight(NamedTuple):
    at: int
    written: bool
    """The provider wrote or read something of that call."""


def examined(entries: Iterable[Entry], prices: PriceBook) -> list[StepCache]:
    """Rows, the oldest first, by step."""
    steps: dict[tuple[str | None, str | None], StepCache] = {}
    losses: defaultdict[tuple[str | None, str | None], dict[Why, Cause]] = defaultdict(dict)
    watch = _Watch()
    for entry in entries:
        if not marking.teaches(entry) or entry.purpose != "call":
            continue
        site = (entry.agent_id, entry.step)
        step = steps.get(site) or StepCache(agent=site[0], step=site[1])
        told, loss = saved(entry, prices), watch.loss(entry)
        steps[site] = _added(step, entry, told)
        if told is not None and loss is not None and (cause := _cause(entry, loss, prices)) is not None:
            was = losses[site].get(loss.why, Cause(loss.why, 0, 0, 0))
            losses[site][loss.why] = Cause(
                loss.why, was.calls + 1, was.tokens + cause.tokens, was.nanos + cause.nanos
            )  # fmt: skip
    found = [
        msgspec.structs.replace(step, causes=tuple(sorted(losses[site].values(), key=lambda cause: -cause.nanos)))
        for site, step in steps.items()
    ]
    return sorted(found, key=lambda step: (-step.missed_nanos, -step.input_tokens))


def _added(step: StepCache, entry: Entry, told: tuple[int, int] | None) -> StepCache:
    if told is None:
        return msgspec.structs.replace(step, calls=step.calls + 1, unknown=step.unknown + 1)
    return msgspec.structs.replace(
        step,
        calls=step.calls + 1,
        input_tokens=step.input_tokens + (entry.input_tokens or 0),
        cached_tokens=step.cached_tokens + (entry.cached_tokens or 0),
        cache_write_tokens=step.cache_write_tokens + (entry.cache_write_tokens or 0),
        saved_nanos=step.saved_nanos + told[0],
        premium_nanos=step.premium_nanos + told[1],
    )


def _cause(entry: Entry, loss: _Loss, prices: PriceBook) -> Cause | None:
    """The loss in the provider's tokens and in dollars."""
    card = prices.card(entry.provider, entry.model or "", entry.terms, entry.started_at)
    if not isinstance(card, Card) or not {"input", "cache_read"} <= card.rates.keys() or not entry.input_estimate:
        return None
    tokens = loss.tokens * (entry.input_tokens or 0) // entry.input_estimate
    return Cause(loss.why, 1, tokens, tokens * (card.rates["input"] - card.rates["cache_read"]) // 1_000_000)


class _Watch:
    """Every prefix that was sent, and every step's last call."""

    def __init__(self) -> None:
        self._seen: dict[bytes, _Sight] = {}
        self._last: dict[tuple[str, str | None, str | None], Entry] = {}

    def loss(self, entry: Entry) -> _Loss | None:
        """What this row might have read and has not; None: nothing, or nothing is known of its provider."""
        rules, links = known.rules_of(entry.api, entry.model), chain(marking.row(entry))
        if rules.style == "none" or not links or not entry.input_tokens:
            return None
        found = self._loss(entry, rules, links)
        sight = _Sight(entry.started_at, bool(entry.cached_tokens or entry.cache_write_tokens))
        for link in links:
            self._seen[link.key] = sight
        self._last[entry.tenant, entry.agent_id, entry.step] = entry
        return found

    def _loss(self, entry: Entry, rules: known.Rules, links: list[Link]) -> _Loss | None:
        life = _LIFE_S[rules.style] * 1_000_000
        read = (entry.cached_tokens or 0) * (entry.input_estimate or 0) // (entry.input_tokens or 1)
        deepest = next((link for link in reversed(links) if link.key in self._seen), None)
        since = entry.started_at - life
        fresh = next((link for link in reversed(links) if self._sent_since(link, since)), None)
        if fresh is not None and read < fresh.end * _SLACK:
            if fresh.end < rules.floor:
                return _Loss("below_floor", fresh.end)
            marked = rules.style != "marks" or self._seen[fresh.key].written
            return _Loss("not_found" if marked else "unmarked", fresh.end - read)
        reach = max(read, fresh.end if fresh is not None else 0)
        moved = self._moved(entry, life)
        if moved is not None and moved.tokens - reach >= rules.floor:
            return _Loss(moved.why, moved.tokens - reach)
        if deepest is not None and deepest.end - reach >= rules.floor:
            return _Loss("expired", deepest.end - reach)
        return None

    def _sent_since(self, link: Link, since: int) -> bool:
        sight = self._seen.get(link.key)
        return sight is not None and sight.at > since

    def _moved(self, entry: Entry, life: int) -> _Loss | None:
        """What stands in this call as it did in the step's last one, behind the first thing that differs."""
        last = self._last.get((entry.tenant, entry.agent_id, entry.step))
        if last is None or entry.started_at - last.started_at >= life:
            return None
        now, was = list(_content(entry)), list(_content(last))
        at = next((n for n, (one, other) in enumerate(zip(now, was, strict=False)) if one[:2] != other[:2]), None)
        common = sum(tokens for _, _, tokens in now[: len(was) if at is None else at])
        if (last.provider, known.plain(last.model or "")) != (entry.provider, known.plain(entry.model or "")):
            return _Loss("model_changed", common)
        if at is None:
            return _Loss("settings_changed", common)
        before = {block[:2] for block in was[at + 1 :]}
        behind = sum(tokens for kind, value, tokens in now[at + 1 :] if (kind, value) in before)
        behind += _alike(now[at], was[at])
        whys: dict[str, Why] = {"tools": "tools_changed", "system": "system_changed"}
        return _Loss(whys.get(now[at][0], "history_changed"), common + behind) if behind else None


def _alike(one: tuple[str, str, int], other: tuple[str, str, int]) -> int:
    """The tokens of a system prompt that is another one but as long to a hundredth: a date in it, not a new text."""
    kind, size = one[0], one[2]
    return size if kind == other[0] == "system" and abs(size - other[2]) * 100 <= size else 0


def _content(entry: Entry) -> Iterator[tuple[str, str, int]]:
    return (block for block in digest.unpack(entry.blocks) if block[0] in ("tools", "system", "message"))


def as_json(found: Findings) -> dict[str, Any]:
    """{"rows", "whole", "steps": [{"agent", "step", "calls", "unknown", "input_tokens", "cached_tokens",
    "cache_write_tokens", "read_share", "saved_usd", "premium_usd", "missed_usd", "causes": [{"why", "calls", "tokens",
    "usd", "text"}]}]}: saved_usd is net of premium_usd; missed_usd is an estimate.
    """
    return {"rows": found.rows, "whole": found.whole, "steps": [_step(step) for step in found.steps]}


def _step(step: StepCache) -> dict[str, Any]:
    return {
        "agent": step.agent,
        "step": step.step,
        "calls": step.calls,
        "unknown": step.unknown,
        "input_tokens": step.input_tokens,
        "cached_tokens": step.cached_tokens,
        "cache_write_tokens": step.cache_write_tokens,
        "read_share": step.cached_tokens / step.input_tokens if step.input_tokens else None,
        "saved_usd": rows.usd(step.saved_nanos),
        "premium_usd": rows.usd(step.premium_nanos),
        "missed_usd": rows.usd(step.missed_nanos),
        "causes": [
            {"why": cause.why, "calls": cause.calls, "tokens": cause.tokens, "usd": rows.usd(cause.nanos),
             "text": TEXTS[cause.why]}
            for cause in step.causes
        ],
    }  # fmt: skip
