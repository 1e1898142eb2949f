"""Faults on demand: from a header, from a marker in the prompt, or drawn by seeded odds.

A text that names no fault raises ValueError.

Kinds: an HTTP status (429, 500, 503, 529 ...), quota (a 429 that no retry cures), overloaded, timeout, cut[:N],
malformed[:N], error-event[:N], no-usage, slow, gzip. N: after how many pieces of output (default 2).
A marker is [[fault:KIND]], [[fault:KIND once]] or [[fault:KIND x3]]; anything after that keeps markers apart.
"""

import re
from hashlib import blake2b

import msgspec

from bursar.sandbox.schema import unit

_NAMED = ("quota", "overloaded", "timeout", "cut", "malformed", "error-event", "no-usage", "slow", "gzip")
_MARKER = re.compile(rb"\[\[fault:([a-z0-9-]+(?::\d+)?)(?: (once|x\d+))?[^\]]*\]\]")


class Fault(msgspec.Struct, frozen=True):
    """A fault to be done. `status` for those that are an HTTP status, `after` pieces of output for the others."""

    kind: str
    status: int | None = None
    after: int = 2


NONE = Fault("")


def parse(text: str) -> Fault:
    """`kind[:N]` -> Fault."""
    kind, _, after = text.strip().partition(":")
    if kind.isdigit() and 400 <= int(kind) <= 599:
        return Fault(kind, int(kind))
    if kind not in _NAMED or (after and not after.isdigit()):
        raise ValueError(f"{text!r} is not a fault: give an HTTP status from 400 or one of {', '.join(_NAMED)}")
    return Fault(kind, 429 if kind == "quota" else None, int(after) if after else 2)


def parse_odds(text: str) -> tuple[tuple[Fault, float], ...]:
    """`429:0.05,cut:0.01` -> faults with their odds; `cut:3:0.01` gives N as well. Odds must sum to at most 1."""
    odds = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        spec, _, rate = part.rpartition(":")
        try:
            odds.append((parse(spec), float(rate)))
        except ValueError as error:
            raise ValueError(f"faults: {part!r} is not KIND:ODDS, as in 429:0.05 ({error})") from None
    if any(rate < 0 for _, rate in odds) or sum(rate for _, rate in odds) > 1:
        raise ValueError(f"faults: the odds in {text!r} must not be negative nor sum to more than 1")
    return tuple(odds)


class Faults:
    """Which fault a request meets."""

    def __init__(self, odds: str, seed: int) -> None:
        self._seed = seed
        self.set(odds)

    def set(self, odds: str) -> None:
        """New odds; what was seen is forgotten."""
        self._odds = parse_odds(odds)
        self._seen: dict[bytes, int] = {}

    def of(self, header: str | None, body: bytes) -> Fault:
        """Header before marker before odds. The nth time that a body comes has its own draw, so retries can succeed."""
        if header:
            return parse(header)
        if b"[[fault:" in body:
            for marker in _MARKER.finditer(body):
                times = marker[2].decode() if marker[2] else ""
                limit = 1 if times == "once" else int(times[1:]) if times else None
                if limit is None or self._count(marker[0]) <= limit:
                    return parse(marker[1].decode())
        return self._drawn(body) if self._odds else NONE

    def _count(self, key: bytes) -> int:
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key]

    def _drawn(self, body: bytes) -> Fault:
        digest = blake2b(body, digest_size=16).digest()
        lot = unit(self._seed, "fault", digest.hex(), self._count(digest))
        for fault, rate in self._odds:
            if lot < rate:
                return fault
            lot -= rate
        return NONE
