"""Which score is good enough to serve: learned per namespace, with an upper bound on wrong hits PER HIT. Pure.

Rule: nothing is served until, over the last labels, the Wilson upper bound of the weighted wrong-hit rate above some
score is at most `max_error`; the lowest such score is the threshold, and where there is none the cache stands down.
Labels are the caller's: a miss with a candidate gives one (was the stored answer equal to the fresh one?), a hit only
where it is audited, and then it stands for the hits that were not. A judge's known error is taken out of the rate
(Rogan and Gladen 1978). Audits that fail too often (CUSUM, Page 1954) tighten at once.

The score is a logistic over `score.NAMES` with a Gaussian prior at the shipped weights, updated label by label
(Spiegelhalter and Lauritzen 1990). All is a function of labels and request ids: who is audited is a hash. A label
costs some 70 us, a certificate (every 60 labels) some 15 ms at a full window.
"""

from itertools import accumulate
from math import exp, log, sqrt
from operator import mul
from typing import Literal, TypeAlias

import msgspec

from bursar.rules.retry import draw
from bursar.rules.semantic.score import PRIOR, Candidate, unpack

Decision: TypeAlias = Literal["serve", "audit", "ask", "pass"]
"""serve the stored answer | it would be served, but call and label | call and label | call."""
Row: TypeAlias = tuple[float, ...]

AUDIT_SHARE = 0.1
"""Of the would-be hits."""
CERTIFY_EVERY = 60
WINDOW = 4_000
ASK_FROM = 0.4
"""Candidates below this score are not worth a label."""
WEIGHED = 3
"""So many candidates are scored, the best-supported first."""
Z = 1.64
"""One-sided 95 %."""
_WORST = 4
"""An answer whose own chance of being wrong exceeds this many times `max_error` is never served: sure hits must not
pay for bad ones."""
_ALIKE = 40
"""Labels next to each other in score that share their mean weight."""
_ALARM = 2.5
_CALM = 600
"""Labels without an alarm after which one tightening is taken back."""


class Label(msgspec.Struct, frozen=True, array_like=True):
    """What one call to the model told of a candidate."""

    features: bytes
    right: bool
    audited: bool


class Calibration(msgspec.Struct, frozen=True):
    """All that a namespace has learned; msgspec serialises it, at most some 100 KB."""

    max_error: float
    seed: str
    floor: float = 0.0
    """Cosine below which nothing is served, whatever is learned."""
    judge_error: tuple[float, float] = (0.0, 0.0)
    """Measured shares of the judge: equal answers called different, different ones called equal."""
    weights: Row = PRIOR
    spread: tuple[Row, ...] = tuple(tuple(float(a == b) for b in range(len(PRIOR))) for a in range(len(PRIOR)))
    """Covariance of the weights, by rows; 1 before the first label."""
    labels: tuple[Label, ...] = ()
    threshold: float | None = None
    """Score from which answers are served; None: nothing is."""
    since: int = 0
    """Labels since the last certificate."""
    audits: int = 0
    failures: int = 0
    cusum: float = 0.0
    tightened: int = 0
    """How many times the target stands halved because audits failed."""
    alarms: int = 0
    """So far: one more than before is an alert."""
    calm: int = 0
    """Labels since the last alarm or easing."""


class Estimate(msgspec.Struct, frozen=True):
    """Wrong hits per hit at the threshold: the rate with its two one-sided 95 % bounds."""

    rate: float
    low: float
    high: float
    labels: float
    """Effective number of labels that it stands on."""


def begin(
    max_error: float, seed: str, *, floor: float = 0.0, judge_error: tuple[float, float] = (0.0, 0.0)
) -> Calibration:
    """A namespace that has seen nothing; ValueError on a target outside (0, 1) or a judge no better than a coin."""
    if not 0 < max_error < 1:
        raise ValueError(f"max_error is {max_error}: expected a share of hits between 0 and 1, such as 0.05")
    if min(judge_error) < 0 or sum(judge_error) >= 1:
        raise ValueError(f"judge_error is {judge_error}: expected two shares that add up to less than 1")
    return Calibration(max_error, seed, floor, judge_error)


def score(state: Calibration, features: bytes) -> float:
    """The learned probability that the candidate's answer is right."""
    return _sigmoid(sum(map(mul, state.weights, unpack(features))))


def best(state: Calibration, candidates: list[Candidate]) -> tuple[Candidate, float] | None:
    """The candidate to decide on, with its score."""
    scored = [(candidate, score(state, candidate.features)) for candidate in candidates[:WEIGHED]]
    return max(scored, key=lambda pair: pair[1], default=None)


def decide(state: Calibration, scored: float, cosine: float, request_id: str) -> Decision:
    """What to do with a candidate of this score."""
    if state.threshold is not None and scored >= state.threshold and cosine >= state.floor:
        return "audit" if draw(state.seed, request_id, "audit") < AUDIT_SHARE else "serve"
    return "ask" if scored >= ASK_FROM else "pass"


def observe(state: Calibration, features: bytes, right: bool, *, audited: bool) -> Calibration:
    """The state after a label. audited: it would have been a hit (decision "audit"), not a miss ("ask")."""
    weights, spread = _learn(state, unpack(features), right)
    state = msgspec.structs.replace(
        state,
        weights=weights,
        spread=spread,
        labels=(*state.labels[-WINDOW + 1 :], Label(features, right, audited)),
        since=state.since + 1,
        calm=state.calm + 1,
        audits=state.audits + audited,
        failures=state.failures + (audited and not right),
    )
    state = _watch(state, right) if audited else state
    return certify(state) if state.since >= CERTIFY_EVERY else state


def certify(state: Calibration) -> Calibration:
    """The threshold anew, from the labels that are kept under today's weights."""
    if state.tightened and state.calm >= _CALM:
        state = msgspec.structs.replace(state, tightened=state.tightened - 1, calm=0)
    target = state.max_error / 2**state.tightened
    threshold = None
    least = max(ASK_FROM, 1 - _WORST * state.max_error)
    ranked = [row for row in _ranked(state) if row[0] >= least]
    for at, (scored, rate, size) in enumerate(ranked, start=1):
        whole = at == len(ranked) or ranked[at][0] < scored
        if whole and _corrected(_wilson(rate, size, 1), state) <= target:
            threshold = scored
    return msgspec.structs.replace(state, threshold=threshold, since=0)


def estimate(state: Calibration) -> Estimate | None:
    """The measured wrong-hit rate at the threshold; None where nothing is served."""
    above = [] if state.threshold is None else [row for row in _ranked(state) if row[0] >= state.threshold]
    if not above:
        return None
    _, rate, size = above[-1]
    low, middle, high = (_corrected(value, state) for value in (_wilson(rate, size, -1), rate, _wilson(rate, size, 1)))
    return Estimate(middle, low, high, size)


def _ranked(state: Calibration) -> list[tuple[float, float, float]]:
    """(score, weighted wrong rate of all labels down to it, effective number of them), highest score first.

    An audited label weighs 1 / AUDIT_SHARE. Labels of like score are equally telling, whether audits or not, so they
    share their mean weight: weight smoothing (Beaumont 2008), without which a few audits would decide alone.
    """
    rows = sorted(((score(state, label.features), label.right, label.audited) for label in state.labels), reverse=True)
    weights: list[float] = []
    for start in range(0, len(rows), _ALIKE):
        part = rows[start : start + _ALIKE]
        mean = sum(1 / AUDIT_SHARE if audited else 1.0 for _, _, audited in part) / len(part)
        weights += [mean] * len(part)
    wrong = accumulate(0.0 if right else weight for (_, right, _), weight in zip(rows, weights, strict=True))
    totals = zip(rows, wrong, accumulate(weights), accumulate(weight**2 for weight in weights), strict=True)
    return [(scored, bad / total, total**2 / squares) for (scored, _, _), bad, total, squares in totals]


def _learn(state: Calibration, features: Row, right: bool) -> tuple[Row, tuple[Row, ...]]:
    """One step of the Gaussian posterior: the covariance by Sherman and Morrison, the mean along it."""
    expected = _sigmoid(sum(map(mul, state.weights, features)))
    moved = [sum(map(mul, row, features)) for row in state.spread]
    variance = max(expected * (1 - expected), 1e-6)
    damping = 1 + variance * sum(map(mul, moved, features))
    spread = tuple(
        tuple(value - variance / damping * a * b for value, b in zip(row, moved, strict=True))
        for row, a in zip(state.spread, moved, strict=True)
    )
    gain = (right - expected) / damping
    return tuple(weight + gain * a for weight, a in zip(state.weights, moved, strict=True)), spread


def _watch(state: Calibration, right: bool) -> Calibration:
    """CUSUM of audits between the promised rate and twice it; an alarm halves the target at once."""
    good, bad = state.max_error, min(2 * state.max_error, (1 + state.max_error) / 2)
    cusum = max(0.0, state.cusum + (log((1 - bad) / (1 - good)) if right else log(bad / good)))
    if cusum < _ALARM:
        return msgspec.structs.replace(state, cusum=cusum)
    tightened = min(state.tightened + 1, 3)
    return certify(msgspec.structs.replace(state, cusum=0.0, calm=0, tightened=tightened, alarms=state.alarms + 1))


def _corrected(rate: float, state: Calibration) -> float:
    """The true rate behind the one that an erring judge shows."""
    called_different, called_equal = state.judge_error
    return min(1.0, max(0.0, (rate - called_different) / (1 - called_different - called_equal)))


def _wilson(rate: float, size: float, side: int) -> float:
    """Wilson's bound (1927): above for side 1, below for -1."""
    middle = rate + Z**2 / (2 * size)
    reach = Z * sqrt(max(0.0, rate * (1 - rate)) / size + Z**2 / (4 * size**2))
    return max(0.0, min(1.0, (middle + side * reach) / (1 + Z**2 / size)))


def _sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value)) if value >= 0 else exp(value) / (1 + exp(value))
