"""Which tier of a chain to try next: optimistic-cheap, from what the step has shown. Pure; a draw is an argument.

The plain cascade, from the cheapest tier up, until the upper bound of a tier's pass rate says that the attempt does
not pay; with nothing known, the plain cascade itself. A cost that is unknown is never taken as nothing: where one is
needed the tier is tried as the plain cascade would. Probabilities are floats, amounts integer nano-dollars; what is
expected is never booked. Rule and constants: the routing evidence of this project; Wilson 1927 for the bound.
"""

import functools
from math import sqrt

import msgspec

from bursar.rules.chain.state import JOINT, UNIT, Spent, Step, cell, learn


class Tier(msgspec.Struct, frozen=True):
    """A tier as one request finds it: open to it, healthy, allowed. Amounts are nano-dollars; None is unknown."""

    name: str
    """Without ">", which joins the names of a cell."""
    cost_nanos: int | None = None
    """What a call would come to by the rate card; what the step was really billed soon outweighs it."""
    check_nanos: int = 0
    """What judging the answer costs."""
    extra_nanos: int = 0
    """What this call pays on top here and not on the average: a cold prompt cache (chain_cost.cold_nanos)."""
    prior: tuple[float, float] | None = None
    """Pseudo-counts (passed, failed) that a shape suggests: evidence to be outweighed, never a lock."""

    def __post_init__(self) -> None:
        if JOINT in self.name:
            raise ValueError(f"{self.name!r} cannot be a tier's name: {JOINT!r} joins the names of a cell")


class Params(msgspec.Struct, frozen=True):
    """The constants of the rule. The defaults are the measured ones."""

    z: float = 1.28
    prior: tuple[float, float] = (0.75, 0.25)
    """Beta prior of a tier's mean pass rate."""
    memory: int = 100
    probe: float = 0.05
    """Share of requests that try a skipped first tier all the same; a dearer tier in proportion to its cost less."""
    hysteresis: float = 0.02
    """Expected gain, as a share, that takes a skipped tier back into the plan."""
    own: int = 5
    """Judged answers of its own from which a cell speaks for itself."""
    borrowed: float = 2.0
    """Weight, in answers, of what the other steps have shown of a middle tier, which one step reaches rarely."""
    elsewhere: int = 10
    """Answers that the other steps must have before any are borrowed."""
    second_nanos: int = 0
    """What a second of waiting is worth."""
    failure_nanos: int = 0
    """What a request that the last tier fails costs its user."""


class Weighed(msgspec.Struct, frozen=True):
    """One tier in a decision: tried where `upper` is over `needed`. None: not known, or nothing to compare with."""

    tier: str
    seen: float
    """Judged answers in its cell, faded."""
    mean: float
    upper: float
    """Upper confidence bound of its pass rate."""
    needed: float | None
    """The pass rate from which the attempt pays."""
    nanos: int | None
    """Expected cost of the attempt: answer, check, cold cache, waiting."""
    skipped: bool = False


class Decision(msgspec.Struct, frozen=True):
    """Which tier serves next and why: stored with the attempt, and what its outcome is learned by."""

    tier: str
    reason: str
    failed: tuple[str, ...] = ()
    candidates: tuple[Weighed, ...] = ()
    expected_nanos: int | None = None
    """Expected cost from here to an accepted answer."""
    last_nanos: int | None = None
    """Expected cost of going to the last tier at once."""
    probe: bool = False
    left_out: tuple[str, ...] = ()
    """Candidates that could not take the request, and why."""

    @property
    def dearer(self) -> bool:
        """The attempt is expected to cost more than going to the last tier at once: it is made to learn."""
        if self.expected_nanos is None or self.last_nanos is None:
            return False
        return self.expected_nanos > self.last_nanos


class Forecast(msgspec.Struct, frozen=True):
    """Expected nano-dollars of a request by the plain cascade, by the learned plan, and by the last tier alone."""

    plain_nanos: int | None
    learned_nanos: int | None
    last_nanos: int | None
    warning: str | None = None


def decide(
    step: Step,
    tiers: tuple[Tier, ...],
    failed: tuple[str, ...] = (),
    draw: float = 1.0,
    *,
    pool: Step | None = None,
    params: Params | None = None,
) -> Decision:
    """The tier to try next: of those after the last that failed, cheapest first.

    tiers: the chain as this request may walk it, cheapest first; the last is accepted as it answers. failed: tiers
    whose answer to this request failed its check (not those that broke in transport: leave them out of `tiers`).
    draw: in [0, 1), drawn for this request and attempt; it picks the probes, 1.0 probes nothing. pool: the counts of
    all steps together, this one among them. Raises ValueError where no tier is left.
    """
    walk = _Walk(step, tiers, pool, params or _DEFAULT)
    start = 1 + max((i for i, tier in enumerate(tiers) if tier.name in failed), default=-1)
    if start >= len(tiers):
        raise ValueError(f"no tier is left after {', '.join(failed) or 'an empty chain'}")
    weighed: list[Weighed] = []
    chosen = len(tiers) - 1
    for at in range(start, chosen):
        weighed.append(walk.weigh(at, failed))
        if not weighed[-1].skipped:
            chosen = at
            break
    probed = walk.probed(start, weighed, draw)
    at = chosen if probed is None else probed
    return Decision(
        tier=tiers[at].name,
        reason=_reason(weighed, tiers[at].name, probed is not None, start < len(tiers) - 1),
        failed=failed,
        candidates=tuple(weighed),
        expected_nanos=_whole(walk.attempt(at, failed)),
        last_nanos=_whole(walk.attempt(len(tiers) - 1, failed)),
        probe=probed is not None,
    )


def observe(
    step: Step,
    decision: Decision,
    ok: bool | None,
    *,
    cost_nanos: int | None = None,
    ms: int | None = None,
    output_tokens: int | None = None,
    params: Params | None = None,
) -> Step:
    """The step after the outcome of a decision. ok None: nobody judged the answer (or the validator broke).

    cost_nanos: what the answer was billed, its check left out. An answer that was cut by a limit of ours, and an
    attempt that brought no answer, are not observed at all.
    """
    plan = {cell(one.tier, decision.failed): one.skipped for one in decision.candidates}
    return learn(
        step,
        decision.tier,
        decision.failed,
        ok,
        cost_nanos=cost_nanos,
        ms=ms,
        output_tokens=output_tokens,
        plan=plan,
        memory=(params or _DEFAULT).memory,
    )


def forecast(
    step: Step, tiers: tuple[Tier, ...], *, pool: Step | None = None, params: Params | None = None
) -> Forecast:
    """What a request of this step is expected to cost, and a warning where the chain costs more than its last tier."""
    walk = _Walk(step, tiers, pool, params or _DEFAULT)
    last = _whole(walk.attempt(len(tiers) - 1, ()))
    plain = _whole(walk.onward(0, (), plain=True))
    warning = None
    if plain is not None and last is not None and plain > last:
        warning = (
            f"trying {', '.join(t.name for t in tiers)} in turn is expected to cost {plain / last:.2f} times "
            f'{tiers[-1].name} alone: shorten the chain or set tier = "auto"'
        )
    return Forecast(plain, _whole(walk.onward(0, ())), last, warning)


def wilson_upper(passed: float, seen: float, z: float) -> float:
    """Upper end of Wilson's score interval for a share of `passed` in `seen`; 1 where nothing was seen.

    Nothing passed in n leaves z^2 / (n + z^2): 7 failures put it under 20 %, 15 under 10 %, 32 under 5 %, 81 under 2 %
    at z = 1.28.
    """
    if seen <= 0:
        return 1.0
    share, square = passed / seen, z * z / seen
    spread = z * sqrt(max(0.0, share * (1 - share)) / seen + square / (4 * seen))
    return min(1.0, (share + square / 2 + spread) / (1 + square))


_DEFAULT = Params()


class _Walk:
    """One decision's view of a chain: pass rates and costs by position, with the tiers that failed before."""

    __slots__ = ("deeper", "last", "means", "onwards", "params", "pool", "spends", "step", "tiers")

    def __init__(self, step: Step, tiers: tuple[Tier, ...], pool: Step | None, params: Params) -> None:
        self.step = step
        self.tiers = tiers
        self.pool = pool
        self.params = params
        self.deeper = _deeper(step)
        self.spends = [self._ends(tier) for tier in tiers]
        self.means: dict[tuple[int, tuple[str, ...]], float] = {}
        self.onwards: dict[tuple[int, tuple[str, ...]], float | None] = {}
        spent = step.spent.get(tiers[-1].name) if tiers else None
        self.last = self.spend(len(tiers) - 1, 1.0 if spent is None else spent.accepted_share()) if tiers else None

    def evidence(self, at: int, failed: tuple[str, ...]) -> tuple[float, float]:
        """(passed, seen) of a cell: its own answers, a shape's pseudo-counts, a middle tier's share of other steps."""
        key = cell(self.tiers[at].name, failed)
        own = self.step.count(key)
        passed, seen = own.passed / UNIT, own.seen / UNIT
        if (prior := self.tiers[at].prior) is not None:
            passed, seen = passed + prior[0], seen + prior[0] + prior[1]
        if self.pool is not None and 0 < at < len(self.tiers) - 1:
            whole = self.pool.count(key)
            others = whole.seen - own.seen
            if others >= self.params.elsewhere * UNIT:
                # A pool may be a little older than the step: its share is then held between 0 and 1.
                share = min(1.0, max(0.0, (whole.passed - own.passed) / others))
                passed += share * self.params.borrowed
                seen += self.params.borrowed
        return passed, seen

    def mean(self, at: int, failed: tuple[str, ...]) -> float:
        """Posterior mean of a pass rate; too few answers of its own are eked out by those after more had failed.

        Failures go together, so these are pessimistic about the tier, and err towards the plain cascade. A few answers
        of its own do not count for less than all that is known: a tier that is skipped for its sake would never again
        be asked, and nothing would mend the mistake.
        """
        known = self.means.get((at, failed))
        if known is not None:
            return known
        name = self.tiers[at].name
        yes, no = self.params.prior
        passed, seen = self.evidence(at, failed)
        mean = (passed + yes) / (seen + yes + no)
        least, more, of = len(failed), 0, 0
        for others, these, among in self.deeper.get(name, ()):
            if len(others) > least and others.issuperset(failed):
                more, of = more + these, of + among
        passed, seen = passed + more / UNIT, seen + of / UNIT
        whole = (passed + yes) / (seen + yes + no)
        few = self.step.count(cell(name, failed)).seen < self.params.own * UNIT
        mean = self.means[at, failed] = whole if few else max(mean, whole)
        return mean

    def weigh(self, at: int, failed: tuple[str, ...]) -> Weighed:
        """A tier that is not the last: what it needs to pass to pay, and whether it may."""
        tier = self.tiers[at]
        upper = wilson_upper(*self.evidence(at, failed), self.params.z)
        mean = self.mean(at, failed)
        spend = self.spend(at, mean)
        skip = self.onward(at + 1, failed)
        fail = self.onward(at + 1, (*failed, tier.name))
        key = cell(tier.name, failed)
        needed = None
        if spend is not None and skip is not None and fail is not None:
            if key in self.step.skipped:
                skip *= 1 - self.params.hysteresis
            needed = 1 - (skip - spend) / fail if fail > 0 else float(spend >= skip)
        return Weighed(
            tier=tier.name,
            seen=self.step.count(key).seen / UNIT,
            mean=mean,
            upper=upper,
            needed=needed,
            nanos=_whole(spend),
            skipped=needed is not None and upper <= needed,
        )

    def spend(self, at: int, mean: float) -> float | None:
        """Expected nano-dollars of an attempt, by the means of passing and failing ones; None: nothing is known."""
        ends = self.spends[at]
        if ends is None:
            return None
        cost = mean * ends[0] + (1 - mean) * ends[1]
        return cost + self.tiers[at].check_nanos if at < len(self.tiers) - 1 else cost

    def _ends(self, tier: Tier) -> tuple[float, float] | None:
        """An attempt that passes, and one that fails, without its check; None: nothing is known."""
        spent = self.step.spent.get(tier.name)
        passing = _learned(spent, True, tier.cost_nanos)
        failing = _learned(spent, False, tier.cost_nanos)
        if passing is None or failing is None:
            return None
        more: float = tier.extra_nanos
        if self.params.second_nanos and spent is not None:
            more += self.params.second_nanos * spent.mean_ms() / 1000
        return passing + more, failing + more

    def attempt(self, at: int, failed: tuple[str, ...], plain: bool = False) -> float | None:
        """Expected nano-dollars from trying this tier to an accepted answer."""
        if at == len(self.tiers) - 1:
            fails = 1 - self.mean(at, failed) if self.params.failure_nanos else 0.0
            return None if self.last is None else self.last + self.params.failure_nanos * fails
        mean = self.mean(at, failed)
        spend = self.spend(at, mean)
        fail = self.onward(at + 1, (*failed, self.tiers[at].name), plain)
        return None if spend is None or fail is None else spend + (1 - mean) * fail

    def onward(self, at: int, failed: tuple[str, ...], plain: bool = False) -> float | None:
        """Expected nano-dollars from this position on: the cheaper of trying the tier and passing it over."""
        if plain or at == len(self.tiers) - 1:
            return self.attempt(at, failed, plain)
        if (at, failed) not in self.onwards:
            attempt, skip = self.attempt(at, failed), self.onward(at + 1, failed)
            self.onwards[at, failed] = skip if attempt is None or skip is None else min(attempt, skip)
        return self.onwards[at, failed]

    def probed(self, start: int, weighed: list[Weighed], draw: float) -> int | None:
        """The skipped tier that this draw tries all the same; a dear one is probed in proportion less."""
        share = 0.0
        first = self.spend(0, self.mean(0, ()))
        for at, one in enumerate(weighed, start):
            if one.skipped and one.nanos is not None and first is not None:
                share += self.params.probe * (min(1.0, max(0.0, first) / one.nanos) if one.nanos > 0 else 1.0)
                if draw < share:
                    return at
        return None


def _deeper(step: Step) -> dict[str, list[tuple[frozenset[str], int, int]]]:
    """By tier its cells after others had failed: (those others, passed, seen), in millionths."""
    found: dict[str, list[tuple[frozenset[str], int, int]]] = {}
    for key, count in step.cells.items():
        last, others = _parsed(key)
        if others:
            found.setdefault(last, []).append((others, count.passed, count.passed + count.failed))
    return found


@functools.lru_cache(4096)
def _parsed(key: str) -> tuple[str, frozenset[str]]:
    """A cell's tier, and the tiers that had failed before it."""
    *others, last = key.split(JOINT)
    return last, frozenset(others)


def _learned(spent: Spent | None, ok: bool, listed: int | None) -> float | None:
    """What the step was billed, with the listed cost as one attempt among them."""
    mean = None if spent is None else spent.mean_nanos(ok)
    if mean is None or listed is None or spent is None:
        return listed if mean is None else mean
    weight = (spent.accepted + spent.rejected) / UNIT
    return (listed + mean * weight) / (1 + weight)


def _whole(nanos: float | None) -> int | None:
    return None if nanos is None else round(nanos)


def _reason(weighed: list[Weighed], tier: str, probe: bool, choice: bool) -> str:
    """One line a person can check by the candidates."""
    if not choice:
        return f"{tier}: the last tier"
    passed_over = ", ".join(
        f"{one.tier} skipped ({one.upper:.2f} can pass, {one.needed:.2f} needed)" for one in weighed if one.skipped
    )
    if probe:
        return f"{tier}: probe; {passed_over}"
    taken = weighed[-1]
    if taken.skipped:
        return f"{tier}: the last tier; {passed_over}"
    why = (
        "a cost is unknown, plain cascade"
        if taken.needed is None
        else f"{taken.upper:.2f} can pass, {max(0.0, taken.needed):.2f} needed"
    )
    return f"{tier}: {why}" + (f"; {passed_over}" if passed_over else "")
