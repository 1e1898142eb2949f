"""Which stored answer might serve a request, and what speaks for it: features of the index's neighbours. Pure.

Those neighbours that share an answer (an entry and its aliases) speak for it together. Every feature is a number near
[-1, 1], so that one prior fits all namespaces, and is kept as one byte: some thousand labels are part of the state.
Nothing raises; without neighbours there is no candidate.
"""

from collections.abc import Iterable, Sequence
from math import exp, log1p

import msgspec

from bursar.rules.semantic.guard import Doubt, doubts, refusal, veto
from bursar.rules.semantic.reading import Reading

NEIGHBOURS = 10
"""How many neighbours to ask the index for."""
_DOUBTS: tuple[tuple[Doubt, ...], ...] = (
    ("content",), ("extra",), ("order",), ("relation",), ("question",), ("tense", "modality", "person"),
    ("units", "names"),
)  # fmt: skip
NAMES = ("bias", "cosine", "lead", "votes", "overlap", "confirmed", "refuted", "same",
         *("+".join(group) for group in _DOUBTS))  # fmt: skip
PRIOR = (0.5, 2.0, 1.0, 1.0, 1.0, 0.5, -1.5, 1.5, -0.5, -0.3, -1.0, -0.5, -0.5, -0.5, -0.7)
"""The shipped weights: signs and rough sizes only; each namespace learns its own."""
_WIDTH = 0.05
"""Cosine over which a neighbour's vote falls by e."""
_STEPS = 64
"""A byte shows features in [-2, 2) in steps of 1/64."""


class Neighbour(msgspec.Struct, frozen=True):
    """One stored query near the request."""

    entry: str
    answer: str
    """What its entry and aliases share."""
    cosine: float
    reading: Reading
    confirmed: int = 0
    """Fresh answers that equalled this answer."""
    refuted: int = 0
    """Hits of this answer that an audit or a user refuted."""


class Candidate(msgspec.Struct, frozen=True):
    """The nearest unvetoed query of one answer, with what its neighbourhood says."""

    neighbour: Neighbour
    features: bytes
    """One byte a name of NAMES; `unpack` gives the numbers."""


def nearest(
    request: Reading, neighbours: Sequence[Neighbour], threshold: float, *, strict: bool = False
) -> Neighbour | None:
    """The fixed rule: the nearest query at or above the cosine threshold that the guard lets pass."""
    for near in sorted(neighbours, key=lambda near: (-near.cosine, near.entry)):
        if near.cosine >= threshold and refusal(request, near.reading, strict=strict) is None:
            return near
    return None


def candidates(request: Reading, neighbours: Sequence[Neighbour]) -> list[Candidate]:
    """One candidate an answer, the best-supported first; vetoed queries support nothing and oppose all the same."""
    best: dict[str, Neighbour] = {}
    votes: dict[str, float] = {}
    for near in sorted(neighbours, key=lambda near: (-near.cosine, near.entry)):
        votes[near.answer] = votes.get(near.answer, 0.0) + exp((near.cosine - 1) / _WIDTH)
        if near.answer not in best and veto(request, near.reading) is None:
            best[near.answer] = near
    total = sum(votes.values())
    ranked = sorted(best, key=lambda answer: (-votes[answer], answer))
    return [
        Candidate(best[answer], _features(request, best[answer], votes[answer] / total, _rival(answer, neighbours)))
        for answer in ranked
    ]


def _rival(answer: str, neighbours: Iterable[Neighbour]) -> float:
    """Cosine of the nearest query with another answer; 0 where there is none."""
    return max((near.cosine for near in neighbours if near.answer != answer), default=0.0)


def pack(values: Iterable[float]) -> bytes:
    return bytes(max(0, min(255, round(value * _STEPS) + 128)) for value in values)


def unpack(features: bytes) -> tuple[float, ...]:
    return tuple((byte - 128) / _STEPS for byte in features)


def _features(request: Reading, near: Neighbour, share: float, rival: float) -> bytes:
    found = doubts(request, near.reading)
    union = len(request.words | near.reading.words)
    overlap = len(request.words & near.reading.words) / union if union else 0.0
    return pack(
        (
            1.0,
            max(-1.5, (near.cosine - 0.85) * 10),
            max(-1.0, min(1.5, (near.cosine - rival) * 10)),
            2 * share - 1,
            2 * overlap - 1,
            min(1.0, log1p(near.confirmed) / 3),
            min(1.0, near.refuted / 2),
            float(not found),
            *(float(any(doubt in found for doubt in group)) for group in _DOUBTS),
        )
    )
