"""When an answer may be used again, and under which key. Pure; what cannot be read is not reused.

The key is a keyed hash of everything that the request says, but for a reviewed list of members that cannot shape the
answer: what is not on the list shapes it. Canonical as in RFC 8785: the order of keys and the spelling of numbers do
not matter, any other byte does.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.policy import Check, Policy, ResponseCache, StepRule
from bursar.rules import budget, retry
from bursar.types import (
    Abandoned,
    Api,
    CacheState,
    Call,
    Completed,
    Entry,
    Headers,
    Instant,
    Kept,
    Outcome,
    Plan,
    Reading,
    Refused,
    Tags,
    Timing,
    Verdict,
)

VERSION = b"bursar-key-1"
"""Answers stored under another version of these rules are not found."""

_NEVER_SHAPING: frozenset[str] = frozenset(
    (
        "model",  # the plan says it: a tier's name may come to another model tomorrow
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "metadata",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "store",
    )
)
"""At the top of a body: how it is sent and billed, who asks, hints to the provider's cache. Reviewed 2026-11-28."""

_GEMINI_NEVER: frozenset[str] = frozenset(("labels",))
_MARKERS: frozenset[str] = frozenset(("cache_control", "prompt_cache_breakpoint"))
"""Anywhere in a body: marks for the provider's cache, which change no answer."""

_SHAPING_HEADERS: frozenset[str] = frozenset(("anthropic-beta", "anthropic-version", "openai-beta"))
_NOW_WORDS = frozenset(("today", "tonight", "now", "currently", "yesterday", "tomorrow", "latest", "this week"))


class Reuse(msgspec.Struct, frozen=True):
    """How a call takes part in the response cache."""

    key: bytes
    rule: ResponseCache
    reads: bool
    writes: bool

    @property
    def leads(self) -> bool:
        """Identical calls wait for this one: only where the answer may be both found and kept."""
        return self.reads and self.writes


MISS = Refused("x-bursar-cache: only, and no cached answer is known", kind="miss")
_SOON_MS = 3_600_000
"""An answer about the present is kept for this long at most."""


def wanted(call: Call, plan: Plan, policy: Policy) -> Reuse | None:
    """None: this step keeps no answers, the caller wants none, or the body does not say all that shapes the answer."""
    rule = budget.rule_of(call, policy)
    cache = None if rule is None else rule.response_cache
    view = call.view
    if cache is None or call.cache == "off" or view.opaque_input or view.background or call.api == "other":
        return None
    last = next((block.raw for block in reversed(view.blocks) if block.kind == "message"), b"")
    if cache.ttl_ms > _SOON_MS and is_timely(last.decode("utf-8", "replace")):
        return None
    digest = key(call, plan, scope(call.tags, cache) + checked(rule), policy.cache_key)
    if digest is None:
        return None
    return Reuse(digest, cache, reads=call.cache != "refresh", writes=call.cache != "only" and not call.no_store)


def scope(tags: Tags, cache: ResponseCache) -> str:
    """Who may find the answer: an id that the key may not state is replaced by the key's own."""
    match cache.scope:
        case "global":
            return "global"
        case "tenant":
            return f"tenant:{tags.tenant}"
        case kind:
            return f"{kind}:{tags.tenant}:{budget.identity(kind, tags)}"


def checked(rule: StepRule | None) -> str:
    """A step that chooses its models, or judges their answers, finds only answers that came about in the same way."""
    if rule is None or not (rule.tier or rule.cascade or rule.validators):
        return ""
    judges = [(c.name, c.identity, c.minimum) if isinstance(c, Check) else repr(c) for c in rule.validators]
    return f"|{rule.tier}|{rule.cascade}|{rule.min_tier}|{rule.max_tier}|{judges}"


def keeping(plans: tuple[Plan, ...], reuse: Reuse | None) -> tuple[Plan, ...]:
    """The plans after a look-up in vain, told to gather what may be kept."""
    if reuse is None:
        return plans
    more: dict[str, Any] = {"keep": reuse.key, "keep_tools": reuse.rule.tools} if reuse.writes else {}
    return tuple(msgspec.structs.replace(plan, looked=plan.looked or reuse.reads, **more) for plan in plans)


def kept(reuse: Reuse, verdict: Verdict) -> Kept | None:
    """What is to be kept of a call's end: a whole answer whose length Bursar did not cut."""
    outcome, entry = verdict.outcome, verdict.entry
    if not isinstance(outcome, Completed | Abandoned) or entry is None or outcome.keepable is None:
        return None
    if verdict.lowered or verdict.flagged:
        return None
    at = outcome.timing.ended
    fresh = expiry(reuse.key, reuse.rule.ttl_ms, at)
    return Kept(
        body=outcome.keepable,
        request_id=entry.request_id,
        provider=entry.provider,
        model=entry.model,
        tier=entry.tier,
        step=entry.step,
        tenant=entry.tenant,
        tags=entry.tags,
        cost_nanos=entry.cost_nanos,
        usage=entry.usage,
        price_id=entry.price_id,
        tools=reuse.rule.tools,
        stored_at=at,
        fresh_until=fresh,
        gone_at=Instant(fresh + reuse.rule.stale_ms * 1_000),
    )


def again(outcome: Outcome | Refused) -> bool:
    """Another identical call may fare better: the failure may pass, or its caller gave it up."""
    return not isinstance(outcome, Refused) and (isinstance(outcome, Abandoned) or retry.retryable(outcome))


def hit(entry: Entry, found: Kept, state: CacheState, at: Instant) -> Entry:
    """The row of an answer that was given again: it cost nothing and saved what the first one cost."""
    return msgspec.structs.replace(
        entry,
        status="hit",
        http_status=200,
        cache=state,
        duration_ms=max(0, at - entry.started_at) // 1000,
        model=found.model,
        tier=found.tier,
        provider=found.provider,
        input_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        cost_nanos=0,
        cost_status="final",
        saved_nanos=found.cost_nanos,
        price_id=found.price_id,
    )


def served(found: Kept, at: Instant) -> Completed:
    """The outcome of an answer that is given again."""
    age = ("age", str(max(0, at - found.stored_at) // 1_000_000))
    headers = (("content-type", found.content_type), age)
    return Completed(200, headers, found.body, Reading(model=found.model, terminal=True), Timing(at, at, at))


def key(call: Call, plan: Plan, scope: str, secret: bytes) -> bytes | None:
    """The 32 bytes under which this call's answer is kept for one scope; None: the body is no JSON object.

    scope: who may find it, from the authenticated identity, never from the body alone.
    """
    try:
        body = msgspec.json.decode(call.body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    apart = _NEVER_SHAPING | _GEMINI_NEVER if call.api == "gemini" else _NEVER_SHAPING
    shaping = {name: _plain(value) for name, value in body.items() if name not in apart}
    surface = _surface(call.api, call.path)
    place = [plan.provider, call.origin, call.api, surface, plan.model, call.view.model, call.tier]
    told = [call.tags.tenant, scope, place, _headers(call.headers), shaping]
    try:
        text = msgspec.json.encode(told, order="deterministic")
    except (msgspec.EncodeError, ValueError, TypeError, RecursionError):
        return None
    return hmac.new(secret, VERSION + text, hashlib.sha256).digest()


def _plain(value: Any) -> Any:
    """The value without cache marks, each number in one spelling."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if name not in _MARKERS}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _surface(api: Api, path: str) -> str:
    """The path, which for some carries an API version or a deployment; Gemini's holds the model and the stream flag."""
    if api != "gemini":
        return path
    return path.partition("/models/")[0]


def _headers(headers: Headers) -> Mapping[str, str]:
    return {name: value for name, value in headers if name in _SHAPING_HEADERS}


def is_timely(text: str) -> bool:
    """The text asks about the present, whose answer does not keep."""
    words = text.lower().split()
    return any(word.strip(".,;:!?\"'()") in _NOW_WORDS for word in words) or "this week" in text.lower()


def expiry(digest: bytes, ttl_ms: int, written: Instant) -> Instant:
    """When an answer written at that instant goes stale, microseconds: its time to live, 10 % more or less by its key.

    The jitter keeps what was written together from expiring together; it is a hash, so it is the same in every replay.
    """
    draw = int.from_bytes(digest[:4]) / (1 << 32)
    return Instant(written + int(ttl_ms * 1_000 * (0.9 + 0.2 * draw)))
