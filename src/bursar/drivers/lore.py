"""What a tier is chosen by, fetched, and what came of it, kept: shared by all processes through the store's states.

Whatever cannot be found out is not known, and the plain cascade follows; what cannot be kept is lost knowledge, never
a failed call. Which models have not answered lately, and who answered a run last, is each process's own memory.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec

from bursar.effects import Audit, Lore, Validate
from bursar.policy import Policy, Routed, Router
from bursar.rules import budget, estimate, validate
from bursar.rules.chain import state as chain
from bursar.rules.chain.audit import Audits
from bursar.rules.chain.decide import observe
from bursar.rules.chain.state import Step
from bursar.rules.route import auditing
from bursar.rules.route.auditing import Audit as Auditing
from bursar.rules.route.auditing import Book, agrees, due
from bursar.rules.route.course import Course
from bursar.rules.route.known import Known, Lesson, Served, Site
from bursar.stores.base import Store, StoreFailure
from bursar.stores.receipt import Receipt
from bursar.stores.states import Changed
from bursar.types import Call, Completed, Entry, Instant, Judgement, Plan, Refused, Tags, Verdict
from bursar.wire import asking, needs

_log = logging.getLogger("bursar.routing")

CHAIN, AUDITS, POOL = "chain", "audits", "*"
_RUNS = 4096
"""Runs and steps whose last model is remembered."""
_ILL_AFTER = 3
"""Attempts in a row without an answer after which a model is passed over for a while."""
_ILL_US = 30_000_000
_SAYS = {True: "says the same as", False: "says another thing than", None: "cannot be compared with"}
_STEP, _BOOK = msgspec.json.Decoder(Step), msgspec.json.Decoder(Book)


Thread: TypeAlias = tuple[str, str, str, str]
"""tenant, whose labels they are ("": trusted ones), run or session, step."""
K = TypeVar("K")


class Lorekeeper:
    """One for a process; thread-safe."""

    def __init__(self, store: Store, clock: Callable[[], Instant]) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._last: OrderedDict[Thread, Served] = OrderedDict()
        self._threads: OrderedDict[str, Thread] = OrderedDict()
        """By request: the row does not say whether its labels are trusted."""
        self._silent: dict[tuple[str, str], tuple[int, Instant]] = {}

    def known(self, asked: Lore) -> Known:
        """All that the decision stands on."""
        call, course, site = asked.call, asked.course, asked.site
        body = needs.asked(call.api, call.body)
        models = {(plan.provider, plan.model or "") for leg in course.legs for plan in leg.plans}
        highs = {f"{provider}/{model}": self._store.ratios(provider, model).input_high for provider, model in models}
        step, pool, audits = self._learned(course, site)
        return Known(
            asked=body,
            estimate=estimate.tokens(estimate.weigh(call.body)),
            highs={name: high for name, high in highs.items() if high is not None},
            step=step,
            pool=pool,
            audits=audits,
            last=self._served(call, site),
            broken=self._ill(models),
            routed=None if asked.router is None else _routed(asked.router, call, course, site),
        )

    def _learned(self, course: Course, site: Site) -> tuple[Step, Step, dict[str, Audits]]:
        try:
            if course.mode == "learned":
                found = self._store.states.get(CHAIN, site.tenant, (site.key, POOL))
                return _step(found.get(site.key)), _step(found.get(POOL)), {}
            if course.mode == "audited":
                held = self._store.states.get(AUDITS, site.tenant, (site.key,))
                return Step(), Step(), dict(_book(held.get(site.key)).tiers)
        except StoreFailure as fault:
            _log.warning("nothing is known of the step %s: %s", site.step, fault)
        return Step(), Step(), {}

    def observe(self, lesson: Lesson) -> None:
        """Mark the row and learn, both behind the call."""
        word = lesson.judgement
        self._store.judged(lesson.entry, word.ok, msgspec.json.encode(word).decode())
        if lesson.decision is None:
            return
        seen: list[tuple[Step, Step]] = []
        entry, decision = lesson.entry, lesson.decision

        def learn(body: bytes | None, now: Instant) -> Changed[None]:
            before = _step(body)
            after = observe(
                before, decision, word.ok, cost_nanos=entry.cost_nanos, ms=entry.duration_ms,
                output_tokens=entry.output_tokens,
            )  # fmt: skip
            seen[:] = [(before, after)]
            return Changed(msgspec.json.encode(after), None)

        def pool(body: bytes | None, now: Instant) -> Changed[None]:
            whole = _step(body)
            return Changed(msgspec.json.encode(chain.repool(whole, *seen[0])) if seen else body, None)

        states = self._store.states
        states.update(CHAIN, lesson.site.tenant, lesson.site.key, learn)
        states.update(CHAIN, lesson.site.tenant, POOL, pool)

    def due(self, asked: Audit, policy: Policy) -> Receipt[Auditing | None]:
        """Count the call, and say whether it is audited: what the audit will cost is pledged then."""
        entry, speaks = asked.verdict.entry, auditing.speaks(asked.verdict)

        def change(body: bytes | None, now: Instant) -> Changed[Auditing | None]:
            book = _book(body).spend((entry.cost_nanos or 0) if entry is not None else 0)
            found = due(asked.call, asked.course, asked.known, asked.verdict, book, policy) if speaks else None
            if found is not None:
                book = book.pledge(found)
            return Changed(msgspec.json.encode(book), found)

        return self._store.states.update(AUDITS, asked.site.tenant, asked.site.key, change)

    def audited(self, asked: Audit, found: Auditing, verdict: Verdict) -> None:
        """Learn what an audit came to, and mark its row; one that brought no answer says nothing and is paid all the
        same."""
        given, fresh = asked.verdict.outcome, verdict.outcome
        if isinstance(fresh, Refused):
            self.unmade(asked, found)
            return
        told = None
        if isinstance(given, Completed) and isinstance(fresh, Completed) and given.answer and fresh.answer:
            cut = verdict.lowered and (fresh.answer.finish_reason or "") in validate.CUT
            told = None if cut else agrees(given.answer, fresh.answer)
        spent = verdict.spent_nanos - found.cost_nanos
        self._book(asked, lambda book: book.audited(found.tier, told, spent))
        if verdict.entry is not None:
            word = Judgement(ok=None, reason=f"{_SAYS[told]} {found.tier}'s answer")
            self._store.judged(verdict.entry, None, msgspec.json.encode(word).decode())

    def unmade(self, asked: Audit, found: Auditing) -> None:
        """Nothing was sent after all."""
        self._book(asked, lambda book: book.withdraw(found))

    def _book(self, asked: Audit, edit: Callable[[Book], Book]) -> None:
        def change(body: bytes | None, now: Instant) -> Changed[None]:
            return Changed(msgspec.json.encode(edit(_book(body))), None)

        self._store.states.update(AUDITS, asked.site.tenant, asked.site.key, change)

    def note(self, entry: Entry, plan: Plan) -> None:
        """A settled attempt of a routed call that was sent; by the model that was asked for, whatever answered."""
        model = (plan.provider, plan.model or "")
        with self._lock:
            if entry.status == "failed" and (entry.http_status is None or entry.http_status >= 500):
                count, _ = self._silent.get(model, (0, 0))
                self._silent[model] = (count + 1, self._clock())
            elif entry.http_status is not None:
                self._silent.pop(model, None)
            thread = self._threads.get(entry.request_id)
            if entry.status == "completed" and thread is not None:
                self._last[thread] = Served(
                    provider=plan.provider, model=plan.model or "", tier=plan.tier, at=self._clock(),
                    prefix_tokens=(entry.cached_tokens or 0) + (entry.cache_write_tokens or 0),
                )  # fmt: skip
                _keep(self._last, thread)

    def _ill(self, models: set[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        now = self._clock()
        with self._lock:
            silent = {model: self._silent[model] for model in models if model in self._silent}
        return frozenset(model for model, (count, at) in silent.items() if count >= _ILL_AFTER and now - at < _ILL_US)

    def _served(self, call: Call, site: Site) -> Served | None:
        """Who answered last in this call's run (or session) and step; from now on it is heard of in its answer."""
        thread = _thread(call.tags, site)
        if thread is None:
            return None
        with self._lock:
            self._threads[call.request_id] = thread
            _keep(self._threads, call.request_id)
            return self._last.get(thread)


def _step(body: bytes | None) -> Step:
    """What cannot be read is not known: it is learned anew."""
    try:
        return Step() if body is None else _STEP.decode(body)
    except msgspec.MsgspecError:
        return Step()


def _book(body: bytes | None) -> Book:
    try:
        return Book() if body is None else _BOOK.decode(body)
    except msgspec.MsgspecError:
        return Book()


def _thread(tags: Tags, site: Site) -> Thread | None:
    """An id that the key may not state is its own, and no one else's of the same name."""
    kind, label = ("run", tags.run_id) if tags.run_id is not None else ("session", tags.session_id)
    if label is None:
        return None
    return tags.tenant, "" if budget.trusts(tags, kind) else tags.key_id or "", label, site.step


def _keep(memory: "OrderedDict[K, Any]", key: K) -> None:
    """The latest ones alone."""
    memory.move_to_end(key)
    while len(memory) > _RUNS:
        memory.popitem(last=False)


def _routed(router: Router, call: Call, course: Course, site: Site) -> str | None:
    """What the user's router says; one that breaks says nothing."""
    if course.mode != "learned":
        return None
    try:
        return router(call, Routed(site.step, tuple(leg.tier for leg in course.legs)))
    except Exception as fault:
        _log.warning("the router broke, the chain decides: %r", fault)
        return None


def validated(asked: Validate) -> Judgement:
    """The word of every check that is a function; one that breaks does not know, and so is never a pass."""
    words: list[Judgement] = []
    answer = msgspec.structs.replace(asked.answer, request=asking.last(asked.call))
    for check in asked.checks:
        try:
            returned: Any = check.run(answer)
        except Exception as fault:
            words.append(validate.raised(fault))
        else:
            words.append(validate.said(returned, check.minimum))
    return validate.combine(words)
