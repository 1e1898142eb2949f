"""A scripted world: it answers the engine's questions from a list and writes down the whole life as text."""

from collections.abc import Callable, Iterable
from typing import Any

from bursar.drivers import lore
from bursar.drivers.life import Life
from bursar.effects import (
    Admit,
    Audit,
    Crossing,
    Draft,
    Join,
    Keep,
    Learned,
    Lore,
    Now,
    Observe,
    Pause,
    Recall,
    Reserve,
    Send,
    Settle,
    Validate,
)
from bursar.policy import Card, Policy, Provider, Retry, Unpriced
from bursar.rules import book
from bursar.rules.grant import Counter, Grant, decide
from bursar.rules.route.known import Known, Lesson
from bursar.types import (
    Abandoned,
    Admitted,
    Api,
    Balance,
    Call,
    Completed,
    Failed,
    Headers,
    Instant,
    Joined,
    Kept,
    Outcome,
    Part,
    Ratios,
    Reading,
    Refused,
    Tags,
    Terms,
    Timing,
    Usage,
    Verdict,
    View,
)
from bursar.wire import asking

T0 = Instant(1_760_000_000_000_000)


class Prices:
    """One card for every model but "mystery": a dollar in, four dollars out, per million tokens."""

    def card(self, provider: str, model: str, terms: Terms, at: Instant) -> Card | Unpriced:
        if "mystery" in model:
            return Unpriced('no price for mystery: give one under [prices."openai/mystery"]')
        rates: dict[Any, int] = {"input": 10**9, "output": 4 * 10**9, "cache_read": 10**8}
        return Card(price_id=f"test:{model}", rates=rates, fees={}, max_output_tokens=1000)

    def dearest(self, provider: str, at: Instant) -> Card | Unpriced:
        return Card(price_id="ceiling:test", rates={"input": 10**10, "output": 10**10}, fees={})


def policy(**changes: Any) -> Policy:
    providers = {
        "openai": Provider("openai", "openai", "http://openai.test/v1"),
        "spare": Provider("spare", "openai", "http://spare.test/v1"),
        "anthropic": Provider("anthropic", "anthropic", "http://anthropic.test"),
    }
    return Policy(prices=Prices(), providers=providers, retry=Retry(), **changes)


def call(api: Api = "chat", attempts: int = 3, **view: Any) -> Call:
    seen = View(**{"model": "gpt-4o", "max_output_tokens": 100, **view})
    return Call("req_1", api, seen, b'{"model":"gpt-4o"}', (), "/chat/completions", Tags(), T0, attempts=attempts)


TIMING = Timing(T0, Instant(T0 + 2_000), Instant(T0 + 5_000))


def completed(input_tokens: int = 10, output_tokens: int = 5, model: str = "gpt-4o") -> Completed:
    part = Part(buckets={"input": input_tokens, "output": output_tokens})
    usage = Usage((part,), input_tokens=input_tokens, output_tokens=output_tokens)
    return Completed(200, (), b"{}", Reading(usage=usage, model=model, terminal=True), TIMING)


def failed(status: int | None = 503, headers: Headers = (), **more: Any) -> Failed:
    return Failed(
        status, headers, b"" if status else None, f"HTTP {status}", more.pop("reading", Reading()), TIMING, **more
    )


def abandoned(**reading: Any) -> Abandoned:
    return Abandoned(200, (), Reading(**reading), TIMING)


class Scripted:
    """Plays outcomes in order; `trace` is the life as it was lived. An outcome that nobody asked for is an error.

    Counters of budgets are kept as the plainest store would: `spent` is what each begins with, in nano-dollars and
    tokens; `held` what strangers hold of it.
    """

    def __init__(
        self,
        outcomes: Iterable[Outcome],
        refuse: Callable[[int], bool] = lambda attempt: False,
        spent: dict[str, tuple[int, int]] | None = None,
        held: dict[str, tuple[int, int]] | None = None,
    ) -> None:
        self.outcomes = list(outcomes)
        self.trace: list[str] = []
        self.settled: list[Any] = []
        self._refuse = refuse
        self._spent, self._held = dict(spent or {}), dict(held or {})
        self.spare = False
        """Outcomes may be left for the next call."""
        self.kept: dict[bytes, Kept] = {}
        self.known, self.admitted = Known(), Admitted()
        self.crossings: dict[str, str] = {}
        self.lessons: list[Lesson] = []
        self.joins: list[Joined] = []
        """What identical calls under way come to, in order; then this call leads."""

    def live(self, call: Call, policy: Policy) -> Verdict:
        life = Life(call, policy)
        asked = life.step(None)
        while not isinstance(asked, Verdict):
            asked = life.step(self._answer(asked))
        assert self.spare or not self.outcomes, f"never asked for: {self.outcomes}"
        return asked

    def _answer(self, asked: Any) -> Any:
        match asked:
            case Now():
                return T0
            case Reserve(entry, ask):
                if self._refuse(entry.attempt):
                    granted: Grant | Refused = Refused("the budget is used up")
                else:
                    counters = [Counter(c, self._balance(c.budget), T0, None) for c in ask.claims]
                    granted = decide(ask, counters, None, True, T0)
                what = f"{entry.provider}/{entry.model} #{entry.attempt}"
                if isinstance(granted, Refused):
                    self.trace.append(f"refused {what} {granted.kind}")
                    return granted
                hold = entry.hold_nanos if granted.nanos is None or not ask.claims else granted.nanos
                self.trace.append(f"reserve {what} hold {'unknown' if hold is None else hold}")
                return granted.hold(entry.request_id, entry.attempt)
            case Send(plan):
                edits = [" +usage"] if plan.add_usage else []
                edits += [f" limit {plan.output_limit}"] if plan.output_limit is not None else []
                edits += [" tools off"] if plan.tools_off else []
                self.trace.append(f"send {plan.provider}/{plan.model}{''.join(edits)}")
                return self.outcomes.pop(0)
            case Recall() | Join() | Keep():
                return self._reuse(asked)
            case Lore() | Crossing() | Validate() | Draft() | Observe() | Audit() | Admit():
                return self._about_tiers(asked)
            case Learned():
                self.trace.append("learned?")
                return Ratios(input=1.0, output=2.0)
            case Pause(ms):
                self.trace.append(f"pause {ms}")
                return None
            case Settle(hold, entry):
                assert (hold.request_id, hold.attempt) == (entry.request_id, entry.attempt)
                self.settled.append(entry)
                for charge in entry.charges:
                    was, more = self._spent.get(charge.budget, (0, 0)), book.charged(entry, charge)
                    self._spent[charge.budget] = (was[0] + more[0], was[1] + more[1])
                told = "unpriced" if entry.cost_nanos is None else entry.cost_nanos
                self.trace.append(f"settle #{entry.attempt} {entry.status} {entry.cost_status} {told}")
                return None
        raise AssertionError(f"an effect that no world knows: {asked!r}")

    def _about_tiers(self, asked: Any) -> Any:
        match asked:
            case Lore():
                self.trace.append("lore")
                return self.known
            case Crossing(_, plan):
                return self.crossings.get(f"{plan.provider}/{plan.model}")
            case Validate():
                return lore.validated(asked)
            case Draft(call, plan, api, judge, answer, name):
                name = f"{call.request_id}-{name}"
                return asking.judge(call, api, plan.provider, plan.model or "", judge, answer, name)
            case Observe(lesson):
                self.lessons.append(lesson)
                word = {True: "passed", False: "failed", None: "unknown"}[lesson.judgement.ok]
                self.trace.append(f"observe {lesson.entry.tier} {word}")
                return None
            case Audit():
                self.trace.append("audit?")
                return None
            case Admit():
                self.trace.append("admit")
                return self.admitted

    def _balance(self, budget: str) -> Balance:
        return Balance(*self._spent.get(budget, (0, 0)), *self._held.get(budget, (0, 0)))

    def _reuse(self, asked: Recall | Join | Keep) -> Any:
        match asked:
            case Recall(key):
                self.trace.append("recall")
                return self.kept.get(key)
            case Join(_, _, waits):
                joined: Joined = self.joins.pop(0) if self.joins else "leads"
                told = joined if isinstance(joined, str) else "kept"
                self.trace.append(f"join{'' if waits else ' at once'} -> {told}")
                return joined
            case Keep(key, _, kept, again):
                self.trace.append("keep" if kept is not None else "land again" if again else "land")
                if kept is not None:
                    self.kept[key] = kept
                return None
