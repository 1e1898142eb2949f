"""The providers' prompt caches, by their own rules; time is an injected clock.

Anthropic (marks): explicit breakpoints, 20 blocks of look-back, a floor a model, 5 m or 1 h, a read refreshes.
OpenAI from gpt-5.6 (breakpoints): one implicit and explicit ones, written at 1.25x, found at written breakpoints only.
OpenAI before, Gemini (steps): implicit, from the floor on in steps of 128 tokens, free writes, five idle minutes.
Below the floor, or without a mark, nothing is cached and nothing is said.
"""

from collections.abc import Callable
from hashlib import blake2b

import msgspec

from bursar.sandbox.asks import Ask, Prompted
from bursar.sandbox.models import Model
from bursar.types import Bucket

TTL_S: dict[Bucket, int] = {
    "cache_write_5m": 300,
    "cache_write_30m": 1800,
    "cache_write_1h": 3600,
    "cache_write_12h": 43_200,
}
STEP = 128
LOOK_BACK = 20
LATEST_BREAKPOINTS = 80
MAX_ENTRIES = 200_000


class Found(msgspec.Struct, frozen=True):
    """How a prompt's tokens are billed, and what the cache is to remember once the answer begins."""

    prompted: Prompted
    keep: tuple[tuple[bytes, int], ...] = ()
    """(prefix digest, lifetime in seconds)"""


class PromptCache:
    """Every prefix that is cached now."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[bytes, tuple[float, int]] = {}

    def look(self, model: Model, ask: Ask, scope: str) -> Found:
        """What is read and written for this prompt. Nothing is remembered before `commit`."""
        if model.caching == "steps":
            return self._steps(model, ask, scope)
        if model.caching == "none":
            return Found(Prompted(ask.prompt_tokens))
        return self._marks(model, ask, scope)

    def commit(self, found: Found) -> None:
        """The answer begins: from now on its prefixes can be read."""
        now = self._clock()
        for digest, ttl in found.keep:
            self._entries[digest] = (now + ttl, ttl)
        if len(self._entries) > MAX_ENTRIES:
            self._entries = {digest: entry for digest, entry in self._entries.items() if entry[0] > now}

    def clear(self) -> None:
        self._entries.clear()

    def _ttl(self, digest: bytes, now: float) -> int | None:
        entry = self._entries.get(digest)
        return entry[1] if entry and entry[0] > now else None

    def _steps(self, model: Model, ask: Ask, scope: str) -> Found:
        total = ask.prompt_tokens
        if total < model.cache_min:
            return Found(Prompted(total))
        now, read, at = self._clock(), 0, 0
        keep: list[tuple[bytes, int]] = []
        pieces = [piece for block in ask.blocks for piece in block.pieces]
        digest = _digest(b"", [model.name, scope])
        while at + STEP <= len(pieces):
            digest = _digest(digest, pieces[at : at + STEP])
            at += STEP
            if at >= model.cache_min:
                keep.append((digest, 300))
                if self._ttl(digest, now) is not None:
                    read = at
        return Found(Prompted(total - read, read), tuple(keep))

    def _marks(self, model: Model, ask: Ask, scope: str) -> Found:
        total, points = ask.prompt_tokens, _points(model, ask)
        if not points:
            return Found(Prompted(total))
        digests, ends = _chain(model, ask, scope)
        points = [(index, bucket) for index, bucket in points if ends[index] >= model.cache_min]
        now = self._clock()
        look_back = LOOK_BACK if model.caching == "marks" else LATEST_BREAKPOINTS
        read_at = -1
        for index, _ in reversed(points):
            window = range(index, max(index - look_back, -1), -1)
            read_at = next((at for at in window if self._ttl(digests[at], now) is not None), -1)
            if read_at >= 0:
                break
        covered = ends[read_at] if read_at >= 0 else 0
        read = covered
        writes: dict[Bucket, int] = {}
        keep: list[tuple[bytes, int]] = []
        if read_at >= 0:
            keep.append((digests[read_at], self._ttl(digests[read_at], now) or 0))
        for index, bucket in points:
            if index > read_at:
                writes[bucket] = writes.get(bucket, 0) + ends[index] - covered
                covered = ends[index]
                keep.append((digests[index], TTL_S[bucket]))
            elif (ttl := self._ttl(digests[index], now)) is not None:
                keep.append((digests[index], ttl))
        return Found(Prompted(total - covered, read, tuple(writes.items())), tuple(keep))


def _points(model: Model, ask: Ask) -> list[tuple[int, Bucket]]:
    explicit = [(index, block.mark) for index, block in enumerate(ask.blocks) if block.mark is not None]
    if model.caching == "marks":
        return explicit
    if ask.explicit_cache:
        return explicit[-4:]
    last = (len(ask.blocks) - 1, ask.write_bucket)
    return [*(point for point in explicit[-3:] if point[0] != last[0]), last] if ask.blocks else []


def _chain(model: Model, ask: Ask, scope: str) -> tuple[list[bytes], list[int]]:
    """For every block: the digest of the prompt up to its end, and its tokens."""
    digest, end, in_messages = _digest(b"", [model.name, scope, ask.cache_key]), 0, False
    digests, ends = [], []
    for block in ask.blocks:
        if block.kind == "message" and not in_messages:
            digest, in_messages = _digest(digest, [ask.message_key]), True
        digest = _digest(digest, block.pieces)
        end += len(block.pieces)
        digests.append(digest)
        ends.append(end)
    return digests, ends


def _digest(before: bytes, pieces: list[str]) -> bytes:
    return blake2b(before + "\x1f".join(pieces).encode("utf-8", "surrogatepass"), digest_size=16).digest()
