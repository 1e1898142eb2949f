"""The semantic cache's state as one thing: what is near a question, what a call has taught, one bad hit put right.

Order of writing: the answer, then the question that stands for it, then its vector; of taking out: the question first.
Whatever a crash leaves half done is an entry that is never found. Failure: what SQLite or a judge raises reaches the
caller, who takes it for a miss, or for no label.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from bursar.rules.semantic import calibrate, choose, equal, guard
from bursar.rules.semantic.choose import Around, Choice, Told
from bursar.rules.semantic.question import Question
from bursar.rules.semantic.reading import read
from bursar.rules.semantic.score import NAMES, NEIGHBOURS, unpack
from bursar.stores.cache import AnswerCache
from bursar.stores.semantic import Entry, Hit, Notes, Pool
from bursar.types import Instant, Kept

log = logging.getLogger("bursar.semantic")

_SWEEP_EVERY = 64


class Found(Protocol):
    """A stored question near the one that was asked."""

    @property
    def entry(self) -> str: ...
    @property
    def cosine(self) -> float: ...


class Index(Protocol):
    """Where vectors are: stores/vectors.py, or a double."""

    def add(self, namespace: str, entry: str, vector: Sequence[float]) -> None: ...
    def search(self, namespace: str, vector: Sequence[float], count: int = ...) -> Sequence[Found]: ...
    def delete(self, namespace: str, entry: str) -> bool: ...
    def close(self) -> None: ...


class Space(msgspec.Struct, frozen=True):
    """A question's partition and pool under one embedder: two embedders' vectors never meet."""

    entries: str
    labels: str

    @classmethod
    def of(cls, question: Question, embedder: str) -> "Space":
        return cls(f"{question.partition}:{embedder}", f"{question.pool}:{embedder}")


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why one hit was given."""

    hit: Hit
    features: dict[str, float]
    """What spoke for it and against it, by the names of score.NAMES; empty under a fixed threshold."""
    doubts: tuple[str, ...]
    """What the strict mode would have refused."""
    answer: str | None
    """The text that was given; None where the answer is gone."""
    stored: bool
    """Whether the entry still stands."""


class Meaning:
    """Safe between threads. What a step's questions mean, where their answers are, and which score is good enough."""

    def __init__(self, notes: Notes, index: Index, answers: AnswerCache) -> None:
        self.notes, self._index, self._answers = notes, index, answers
        self._added = 0

    def around(self, question: Question, space: Space, vector: Sequence[float], now: Instant) -> Around:
        """What is near a question that has been embedded."""
        near = [(found.entry, found.cosine) for found in self._index.search(space.entries, vector, NEIGHBOURS)]
        return Around(
            reading=read(question.text),
            vector=vector,
            neighbours=self.notes.neighbours(near, now),
            state=None if question.rule.max_error is None else self.notes.state(space.labels),
            banned=self.notes.banned(space.entries, question.text),
        )

    def learn(self, told: Told, space: Space, now: Instant) -> None:
        """What a call has taught: who was served, whether the candidate was right, and a new question."""
        choice = told.choice
        if choice is not None and choice.decision == "serve" and told.found is None:
            self._drop(answer=choice.answer)  # its answer was evicted, or purged
        right = self._label(told, now)
        with self.notes.together():
            self._count(told, right, space)
            if told.found is not None and choice is not None:
                self._note_hit(told, choice, space, now)
            if right is not None and choice is not None:
                self._observe(told, choice, right, space)
        if told.fresh is not None and not told.around.banned:
            self._keep(told, told.fresh, right, space, now)

    def explain(self, request_id: str) -> Explanation | None:
        """Why that request was answered from the cache; None: it was not, or that is past its time."""
        hit = self.notes.hit(request_id)
        if hit is None:
            return None
        kept = self._answers.get(bytes.fromhex(hit.answer), hit.at)
        return Explanation(
            hit=hit,
            features=dict(zip(NAMES, unpack(hit.features), strict=True)) if hit.features else {},
            doubts=tuple(sorted(guard.doubts(read(hit.text), read(hit.stored_text)))),
            answer=None if kept is None else equal.told(hit.api, kept.body),
            stored=self.notes.stored(hit.entry) is not None,
        )

    def report(self, request_id: str) -> bool:
        """That hit was wrong: its answer is taken out with every question that stands for it, and the pool learns it.

        False: no such hit is known, or it has been reported before.
        """
        hit = self.notes.hit(request_id)
        if hit is None or hit.verdict in ("wrong", "banned"):
            return False
        with self.notes.together():
            self.notes.rule(request_id, "wrong")
            self.notes.count(hit.pool, "", "", reported=1)
            state = self.notes.state(hit.pool)
            if state is not None and hit.features:
                self.notes.save(hit.pool, calibrate.observe(state, hit.features, False, audited=False))
        self._drop(answer=hit.answer)
        return True

    def ban(self, request_id: str) -> bool:
        """As report; besides, that very question is never answered from the cache again. False: no such hit."""
        hit = self.notes.hit(request_id)
        if hit is None:
            return False
        self.report(request_id)
        self.notes.ban(hit.space, hit.text)
        self.notes.rule(request_id, "banned")
        self._drop(space=hit.space, text=hit.text)
        return True

    def confirm(self, request_id: str) -> bool:
        """That hit was right: the answer counts as confirmed. False: no such hit, or it was judged before."""
        hit = self.notes.hit(request_id)
        if hit is None or hit.verdict is not None:
            return False
        with self.notes.together():
            self.notes.rule(request_id, "right")
            self.notes.label(hit.answer, confirmed=1)
        return True

    def sweep(self, now: Instant) -> int:
        """Take out the questions whose answers are gone: after a purge of answers. What was learned from them stays."""
        gone = self._drop(gone_by=now)
        for answer in self.notes.answers():
            if self._answers.get(bytes.fromhex(answer), now) is None:
                gone += self._drop(answer=answer)
        self.notes.forget_hits()
        return gone

    def pools(self) -> list[Pool]:
        """Counts and calibration of each pool: what a report shows."""
        return self.notes.pools()

    def close(self) -> None:
        self._index.close()
        self.notes.close()

    def _label(self, told: Told, now: Instant) -> bool | None:
        """Was the candidate's answer equal to the fresh one? None: not to be known."""
        choice, fresh = told.choice, told.fresh
        if choice is None or fresh is None or choice.decision not in ("ask", "audit"):
            return None
        old = self._answers.get(bytes.fromhex(choice.answer), now)
        if old is None:
            self._drop(answer=choice.answer)
            return None
        question = told.question
        return equal.equal(question.api, question.text, old.body, fresh.body, question.rule.judge)

    def _count(self, told: Told, right: bool | None, space: Space) -> None:
        choice, question = told.choice, told.question
        judged = right is not None and choice is not None and choice.decision == "audit"
        self.notes.count(
            space.labels, question.tenant, question.step, asked=1, served=told.found is not None,
            shadow=choice is not None and choice.shadow, judged=judged, wrong=judged and not right,
        )  # fmt: skip

    def _observe(self, told: Told, choice: Choice, right: bool, space: Space) -> None:
        audited = choice.decision == "audit"
        self.notes.label(choice.answer, confirmed=right, refuted=audited and not right)
        if told.question.rule.max_error is None:
            return
        before = choose.state(told.question, self.notes.state(space.labels))
        after = calibrate.observe(before, choice.features, right, audited=audited)
        self.notes.save(space.labels, after)
        if after.alarms > before.alarms:
            log.warning("audits of the semantic cache fail too often in pool %.12s: it is tightened", space.labels)

    def _note_hit(self, told: Told, choice: Choice, space: Space, now: Instant) -> None:
        stored = self.notes.stored(choice.entry)
        if stored is None:
            return
        text, source, gone_at = stored
        hit = Hit(
            request_id=told.request_id,
            api=told.question.api,
            at=now,
            gone_at=gone_at,
            space=space.entries,
            pool=space.labels,
            text=told.question.text,
            entry=choice.entry,
            answer=choice.answer,
            stored_text=text,
            source=source,
            cosine=choice.cosine,
            score=choice.score,
            features=choice.features,
        )
        self.notes.write_hit(hit)

    def _keep(self, told: Told, fresh: Kept, right: bool | None, space: Space, now: Instant) -> None:
        """A verified paraphrase becomes an alias of the old answer; any other question gets its own."""
        question, choice = told.question, told.choice
        if not question.reads:
            self._drop(space=space.entries, text=question.text)
        answer, gone_at = question.key.hex(), fresh.gone_at
        if right and choice is not None:
            known = self.notes.gone_at(choice.answer)
            if known is None or self.notes.knows(space.entries, question.text, choice.answer):
                return
            answer, gone_at = choice.answer, known
        elif right is None and self.notes.knows(space.entries, question.text):
            return
        else:
            self._answers.put(question.key, fresh)
        entry = Entry(
            space=space.entries,
            pool=space.labels,
            tenant=question.tenant,
            step=question.step,
            answer=answer,
            text=question.text,
            reading=told.around.reading,
            request_id=told.request_id,
            stored_at=now,
            gone_at=gone_at,
        )
        self._index.add(space.entries, self.notes.add(entry), told.around.vector)
        self._added += 1
        if self._added % _SWEEP_EVERY == 0:
            self._drop(gone_by=now)

    def _drop(
        self,
        *,
        answer: str | None = None,
        space: str | None = None,
        text: str | None = None,
        gone_by: Instant | None = None,
    ) -> int:
        gone = self.notes.drop(answer=answer, space=space, text=text, gone_by=gone_by)
        for namespace, entry in gone:
            self._index.delete(namespace, entry)
        return len(gone)
