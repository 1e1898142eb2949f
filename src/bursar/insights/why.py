"""Why an attempt was made as it was, in words: cache, budget, route, check and the provider's prompt cache. Pure.

All of it is read from the row. What the row does not say, or says in a form that cannot be read, is left out.
"""

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from bursar.money import format_usd
from bursar.rules.chain.decide import Decision, Weighed
from bursar.types import PPM, Charge, Entry, Judgement, Marks

T = TypeVar("T")

_CACHE = {
    "hit": "an equal call had been answered before, and its answer was given",
    "semantic_hit": "a call that asks the same in other words had been answered before, and its answer was given",
    "coalesced": "an equal call was under way, and its answer was shared",
    "miss": "looked, and no equal call was kept",
    "bypass": "not asked: its step keeps no answers, its caller wanted none, or it cannot be told from its body",
}
_ROUTE = {
    "caller": "the caller's model was kept",
    "explicit": "the caller named provider and model",
    "unroutable": "no configured provider could take it",
    "sample": "the same request once more, to see whether the answers agree",
    "judge": "a call of a validator, to judge an answer",
    "embed": "a call of the semantic cache, to find like questions",
}
_FIRST = ("route", "check", "cache", "prompt_cache", "budget")
_WORDS = {True: "passed", False: "rejected it", None: "nobody judged it"}


class Reason(msgspec.Struct, frozen=True):
    """One decision. brief: "" where nothing was to be decided."""

    topic: str
    """cache, budget, route, check or prompt_cache."""
    brief: str
    full: str


def reasons(entry: Entry) -> tuple[Reason, ...]:
    """Of each decision of an attempt, in the order in which they were taken."""
    return (_cache(entry), _budget(entry), _route(entry), _prompt_cache(entry), _check(entry))


def brief(entry: Entry) -> str:
    """What was decided, in one line, what people ask for first at its beginning; "" where nothing was."""
    told = sorted(reasons(entry), key=lambda reason: _FIRST.index(reason.topic))
    return "; ".join(reason.brief for reason in told if reason.brief)


def _cache(entry: Entry) -> Reason:
    told = {"bypass": "", "miss": "not in the cache"}.get(entry.cache, _CACHE.get(entry.cache, entry.cache))
    return Reason("cache", told, _CACHE.get(entry.cache, entry.cache))


def _budget(entry: Entry) -> Reason:
    if entry.status == "refused":
        return Reason("budget", entry.error or "refused", entry.error or "refused")
    limit = "" if entry.output_limit is None else f"the answer limited to {entry.output_limit:,} tokens"
    if not entry.charges:
        return Reason("budget", limit, limit or "none stands over it")
    tightest = min(entry.charges, key=lambda charge: PPM if charge.left is None else charge.left)
    told = _held(tightest)
    others = len(entry.charges) - 1
    among = f", the tightest of {others + 1}" if others and tightest.left is not None else ""
    rest = "".join(f"; {_held(charge)}" for charge in entry.charges if charge is not tightest)
    end = f"; {limit}" if limit else ""
    return Reason("budget", f"{told}{among}{end}", f"{told}{among}{rest}{end}")


def _held(charge: Charge) -> str:
    """What an attempt may cost at most is held before it is sent; left is what remains of the limit then."""
    whose = "" if charge.scope in ("global", "tenant") else f" {charge.key}"
    amounts = [f"${format_usd(charge.nanos)}"] if charge.nanos else []
    amounts += [f"{charge.tokens:,} tokens"] if charge.tokens else []
    left = "" if charge.left is None else f" with {charge.left / PPM:.0%} left"
    return f"budget {charge.budget} ({charge.scope}{whose}) held {' and '.join(amounts) or 'nothing'}{left}"


def _route(entry: Entry) -> Reason:
    told = _read(entry.decision, Decision)
    if told is None:
        return Reason("route", "", _ROUTE.get(entry.route_reason, entry.route_reason))
    return Reason("route", told.reason, "; ".join(_decided(told)))


def _decided(told: Decision) -> Iterator[str]:
    yield told.reason
    if told.failed:
        yield f"after {', '.join(told.failed)} failed its check"
    yield from map(_weighed, told.candidates)
    if told.expected_nanos is not None:
        yield f"expected ${format_usd(told.expected_nanos)} to an accepted answer"
    if told.last_nanos is not None:
        yield f"${format_usd(told.last_nanos)} by the last tier at once"
    if told.probe:
        yield "tried to learn, though it is not expected to pay"
    if told.left_out:
        yield f"left out: {', '.join(told.left_out)}"


def _weighed(one: Weighed) -> str:
    needed = "" if one.needed is None else f", pays from {max(0.0, one.needed):.0%}"
    cost = "" if one.nanos is None else f", ${format_usd(one.nanos)} an attempt"
    seen = f"{one.tier}: {one.seen:.0f} answers seen, {one.mean:.0%} expected to pass and {one.upper:.0%} at the most"
    return f"{seen}{needed}{cost}{': skipped' if one.skipped else ''}"


def _check(entry: Entry) -> Reason:
    told = _read(entry.verdict, Judgement)
    if told is None:
        word = _WORDS[entry.validated]
        return Reason("check", "" if entry.validated is None else f"check {word}", word)
    score = "" if told.score is None else f" (score {told.score:.2f})"
    word = ("does not know" if told.ok is None else _WORDS[told.ok]) + score
    why = f": {told.reason}" if told.reason else ""
    more = ["the same model may mend it"] if told.repairable else []
    more += [f"told: {told.retry_hint}"] if told.retry_hint else []
    if told.cost_nanos is None:
        more.append("what judging cost is unknown")
    elif told.cost_nanos:
        more.append(f"judging cost ${format_usd(told.cost_nanos)}")
    brief = f"check {word}" + ("" if told.ok is True else why)
    return Reason("check", brief, "; ".join([f"{word}{why}", *more]))


def _prompt_cache(entry: Entry) -> Reason:
    marks, used = _read(entry.marks, Marks), ", ".join(_used(entry))
    if marks is None:
        told = "its step asks for no marks"
        return Reason("prompt_cache", "", f"{told}; {used}" if used else told)
    told = "; ".join(filter(None, (_marked(marks), used)))
    return Reason("prompt_cache", f"prompt cache: {told}", told)


def _marked(marks: Marks) -> str:
    if not marks:
        return "no mark pays"
    told = []
    if marks.marks:
        kept = ", ".join(dict.fromkeys(mark.ttl for mark in marks.marks))
        told.append(f"{len(marks.marks)} mark{'s' if len(marks.marks) > 1 else ''} kept {kept}")
    if marks.explicit:
        told.append("the provider's own mark turned off")
    if marks.key is not None:
        told.append(f"prompt_cache_key {marks.key}")
    return ", ".join(told) + (f", the first {marks.covered:,} tokens" if marks.covered else "")


def _used(entry: Entry) -> Iterator[str]:
    if entry.cached_tokens:
        whole = "" if entry.input_tokens is None else f" of {entry.input_tokens:,}"
        yield f"{entry.cached_tokens:,}{whole} input tokens read from it"
    if entry.cache_write_tokens:
        yield f"{entry.cache_write_tokens:,} written to it"


def _read(text: str | None, of: type[T]) -> T | None:
    try:
        return None if text is None else msgspec.json.decode(text, type=of)
    except (msgspec.MsgspecError, UnicodeError):
        return None
