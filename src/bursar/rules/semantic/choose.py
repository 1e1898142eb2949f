"""What to do with what the index found near a question: give a kept answer, ask and learn, or just ask. Pure.

Fixed threshold: the nearest question that the guard lets pass is served. max_error: the learned score decides, and
nothing is served before it is certified. In shadow mode what would be served is asked and compared instead.
"""

from collections.abc import Sequence

import msgspec

from bursar.policy import ResponseCache, SemanticCache
from bursar.rules import reuse
from bursar.rules.semantic import calibrate, guard, score
from bursar.rules.semantic.calibrate import Calibration, Decision
from bursar.rules.semantic.question import Question
from bursar.rules.semantic.reading import Reading
from bursar.types import Kept, Plan, Verdict

THRESHOLD = 0.92
"""The fixed cosine where none is configured. On public streams 2 to 3 % of such hits are wrong, behind the guard less;
on look-alike wordings many more: it promises nothing."""


class Around(msgspec.Struct, frozen=True):
    """What a namespace holds near a question."""

    reading: Reading
    vector: Sequence[float]
    """The question's own: it is put in with the answer."""
    neighbours: tuple[score.Neighbour, ...]
    state: Calibration | None
    """What the pool has learned; None: nothing yet."""
    banned: bool = False
    """Somebody has forbidden to answer this very text from the cache."""


class Choice(msgspec.Struct, frozen=True):
    """The candidate, and what is done about it."""

    decision: Decision
    entry: str
    answer: str
    """Hex of the key under which its answer is kept."""
    cosine: float
    score: float | None = None
    """The learned chance that it is right; None under a fixed threshold."""
    features: bytes = b""
    shadow: bool = False
    """It would have been served."""


class Told(msgspec.Struct, frozen=True):
    """How a call asked, and its end: what the store learns from it."""

    question: Question
    around: Around
    choice: Choice | None
    request_id: str
    found: Kept | None = None
    """The chosen answer, which was given."""
    fresh: Kept | None = None
    """The call's own answer, where it may be kept."""


def choose(question: Question, around: Around, request_id: str) -> Choice | None:
    """The candidate with its decision; None: nothing near is worth a thought."""
    rule = question.rule
    if around.banned or not around.neighbours:
        return None
    picked = _fixed(rule, around) if rule.max_error is None else _learned(question, around, request_id)
    if picked is None:
        return None
    if not question.reads:
        return msgspec.structs.replace(picked, decision="pass")
    if rule.mode == "shadow" and picked.decision in ("serve", "audit"):
        return msgspec.structs.replace(picked, decision="audit", shadow=True)
    return picked


def state(question: Question, known: Calibration | None) -> Calibration:
    """The pool's calibration under the rule as it is configured today; ValueError on a target that is none."""
    rule = question.rule
    fresh = calibrate.begin(
        rule.max_error or 0.0, question.seed, floor=rule.threshold or 0.0, judge_error=rule.judge_error
    )
    if known is None:
        return fresh
    settings = {name: getattr(fresh, name) for name in ("max_error", "seed", "floor", "judge_error")}
    if all(getattr(known, name) == value for name, value in settings.items()):
        return known
    return calibrate.certify(msgspec.structs.replace(known, **settings))


def keeping(plans: tuple[Plan, ...], told: Told | None) -> tuple[Plan, ...]:
    """The plans after a look-up in vain, told to gather what may be kept."""
    if told is None:
        return plans
    key = told.question.key if told.question.writes else None
    return tuple(msgspec.structs.replace(plan, looked=told.question.reads, keep=key) for plan in plans)


def ended(told: Told, verdict: Verdict) -> Told:
    """With the answer that the call came to."""
    question = told.question
    if not question.writes:
        return told
    rule = ResponseCache(ttl_ms=question.rule.ttl_ms, scope=question.rule.scope)
    fresh = reuse.kept(reuse.Reuse(question.key, rule, question.reads, question.writes), verdict)
    return msgspec.structs.replace(told, fresh=fresh)


def _fixed(rule: SemanticCache, around: Around) -> Choice | None:
    threshold = THRESHOLD if rule.threshold is None else rule.threshold
    near = score.nearest(around.reading, around.neighbours, threshold, strict=rule.strict)
    return None if near is None else Choice("serve", near.entry, near.answer, near.cosine)


def _learned(question: Question, around: Around, request_id: str) -> Choice | None:
    known = state(question, around.state)
    open_ = [
        candidate
        for candidate in score.candidates(around.reading, around.neighbours)
        if not question.rule.strict or guard.refusal(around.reading, candidate.neighbour.reading, strict=True) is None
    ]
    picked = calibrate.best(known, open_)
    if picked is None:
        return None
    candidate, scored = picked
    near = candidate.neighbour
    decision = calibrate.decide(known, scored, near.cosine, request_id)
    return Choice(decision, near.entry, near.answer, near.cosine, scored, candidate.features)
