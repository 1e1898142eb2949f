"""What tests of the semantic cache share: a tiny embedder, guards that use it, what they know. Not a test."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import bursar
from bursar.policy import Match, Policy, SemanticCache, StepRule
from bursar.rules.cards import compile_book
from bursar.stores.base import Store
from bursar.stores.meaning import Meaning

PRICES = compile_book({}, {})
FILLERS = frozenset(("please", "hi", "me", "the", "a", "do", "you", "could", "tell"))


class Words:
    """Texts of the same words, fillers aside, are one vector; each other word turns it."""

    name = "words/1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str], /) -> list[list[float]]:
        self.asked += texts
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * 64
        for word in set(re.findall(r"\w+", text.lower())) - FILLERS or {"nothing"}:
            digest = hashlib.blake2b(word.encode(), digest_size=2).digest()
            vector[int.from_bytes(digest) % 64] += 1.0
        return vector


class Broken:
    """An embedder that fails."""

    name = "broken/1"

    def embed(self, texts: Sequence[str], /) -> list[list[float]]:
        raise OSError("no weights today")


def rule(**changes: Any) -> SemanticCache:
    return SemanticCache(**{"ttl_ms": 86_400_000, "embedder": Words(), **changes})


def policy(cache: SemanticCache, **changes: Any) -> Policy:
    told = {"prices": PRICES, "cache_key": b"k" * 32, **changes}
    return Policy(**told, steps=(StepRule(match=Match(step="ask"), semantic_cache=cache),))


def guarded(store: Store, **changes: Any) -> bursar.Guard:
    return bursar.Guard(policy(rule(**changes)), store)


def meaning(guard: bursar.Guard) -> Meaning:
    """What the guard's semantic cache knows, once it has learned all."""
    semantics = guard._desk.world.semantics
    assert semantics is not None
    semantics.flush()
    return semantics.meaning
