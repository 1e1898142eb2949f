"""What a step has shown of its tiers: judged answers by tier and by who had failed before, and what they cost.

Pure and exact: counts are whole millionths of an answer and costs whole nano-dollars, so a state is the same however
it was saved, loaded or merged. An answer that nobody judged teaches its cost only; an attempt that broke in transport
is no answer and is never observed.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

UNIT = 1_000_000
"""One judged answer, in the millionths that counts are kept in."""

JOINT = ">"

LATE = 8
"""Answers that the late counts remember; an exponential mean of so many varies like a plain one of 2 x 8 - 1."""
SURPRISE = 3.5
"""Standard deviations. Measured on steady tiers of 2 % to 95 %: at most once in two thousand answers by chance."""


class Count(msgspec.Struct, frozen=True, array_like=True):
    """Answers of one tier that a validator passed and failed, faded, in millionths; the late ones fade sooner."""

    passed: int = 0
    failed: int = 0
    late_passed: int = 0
    late_failed: int = 0

    @property
    def seen(self) -> int:
        return self.passed + self.failed

    def after(self, ok: bool, memory: int) -> "Count":
        """The count with one more answer. Up to `memory` answers nothing fades: the first counts are whole.

        Where the late answers cannot have come from the same tier as the earlier ones (a model changed, for better or
        worse), they alone are kept: fading by itself would need a hundred more answers to see it, and a tier that is
        only probed gives one in twenty.
        """
        passed, failed = _faded(self.passed, self.failed, memory)
        late_passed, late_failed = _faded(self.late_passed, self.late_failed, LATE)
        one = (UNIT, 0) if ok else (0, UNIT)
        grown = Count(passed + one[0], failed + one[1], late_passed + one[0], late_failed + one[1])
        return (
            Count(grown.late_passed, grown.late_failed, grown.late_passed, grown.late_failed) if grown.moved else grown
        )

    @property
    def moved(self) -> bool:
        """The late pass rate is more than SURPRISE standard deviations off the whole one."""
        late = self.late_passed + self.late_failed
        if self.seen <= LATE * UNIT or not late:
            return False
        # One answer each way keeps the spread of a tier that has only passed, or only failed, above nothing.
        share = (self.passed + UNIT) / (self.seen + 2 * UNIT)
        weight = 2 * LATE - 1 if late >= LATE * UNIT else late / UNIT
        return (self.late_passed / late - share) ** 2 * weight > SURPRISE**2 * share * (1 - share)


def _faded(passed: int, failed: int, memory: int) -> tuple[int, int]:
    if passed + failed < memory * UNIT:
        return passed, failed
    return passed - passed // memory, failed - failed // memory


class Spent(msgspec.Struct, frozen=True, array_like=True):
    """What a tier's attempts came to: weights in millionths, sums of nano-dollars, milliseconds and tokens."""

    accepted: int = 0
    accepted_nanos: int = 0
    rejected: int = 0
    rejected_nanos: int = 0
    timed: int = 0
    ms: int = 0
    counted: int = 0
    output_tokens: int = 0

    def mean_nanos(self, ok: bool) -> float | None:
        """Nano-dollars of an attempt that was accepted (or rejected); of any attempt where none such was seen."""
        pairs = ((self.accepted, self.accepted_nanos), (self.rejected, self.rejected_nanos))
        weight, nanos = pairs[0] if ok else pairs[1]
        if not weight:
            weight, nanos = pairs[1] if ok else pairs[0]
        return nanos / weight * UNIT if weight else None

    def accepted_share(self) -> float:
        """The share of attempts that were accepted; 1 where none was seen."""
        whole = self.accepted + self.rejected
        return self.accepted / whole if whole else 1.0

    def mean_ms(self) -> float:
        """Milliseconds of an attempt; 0 where none was timed."""
        return self.ms / self.timed * UNIT if self.timed else 0.0


class Step(msgspec.Struct, frozen=True):
    """All that is known of one step. An empty Step is a step of which nothing is known."""

    cells: Mapping[str, Count] = {}
    """By the tier and the tiers that had failed on the same request before it (see `cell`)."""
    spent: Mapping[str, Spent] = {}
    """By the tier."""
    skipped: tuple[str, ...] = ()
    """The cells that the last decision passed over, in order of name: the plan that hysteresis keeps to."""

    def count(self, key: str) -> Count:
        return self.cells.get(key, _NOTHING)


_NOTHING = Count()


def cell(tier: str, failed: tuple[str, ...] = ()) -> str:
    """The name of a cell: `mid` is mid first, `small>mid` mid after small has failed. Order of `failed` is nothing."""
    if not failed:
        return tier
    return JOINT.join((*sorted(failed), tier))


def learn(
    step: Step,
    tier: str,
    failed: tuple[str, ...],
    ok: bool | None,
    *,
    cost_nanos: int | None = None,
    ms: int | None = None,
    output_tokens: int | None = None,
    plan: Mapping[str, bool] | None = None,
    memory: int = 100,
) -> Step:
    """The step after one more answer. ok None: not judged. plan: which cells its decision skipped, and which not.

    memory: answers a count remembers; from there on each fades the old by 1/memory (0.99 at 100), before it nothing
    fades, so that the first counts are whole.
    """
    key = cell(tier, failed)
    cells, spent, skipped = step.cells, step.spent, step.skipped
    if ok is not None:
        cells = {**cells, key: step.count(key).after(ok, memory)}
    if cost_nanos is not None or ms is not None or output_tokens is not None:
        added = _spend(spent.get(tier, Spent()), ok is not False, cost_nanos, ms, output_tokens, memory)
        spent = {**spent, tier: added}
    if plan:
        kept = {name for name in skipped if name not in plan}
        skipped = tuple(sorted(kept | {name for name, skips in plan.items() if skips}))
    return Step(cells, spent, skipped)


def _spend(old: Spent, accepted: bool, nanos: int | None, ms: int | None, tokens: int | None, memory: int) -> Spent:
    sums = {name: getattr(old, name) for name in old.__struct_fields__}
    kind = "accepted" if accepted else "rejected"
    for weight, total, value in (
        (kind, f"{kind}_nanos", nanos),
        ("timed", "ms", ms),
        ("counted", "output_tokens", tokens),
    ):
        if value is None:
            continue
        if sums[weight] >= memory * UNIT:
            sums[weight] -= sums[weight] // memory
            sums[total] -= sums[total] // memory
        sums[weight] += UNIT
        sums[total] += value
    return Spent(**sums)


def merge(one: Step, other: Step) -> Step:
    """Two bodies of evidence as one: every count and sum is added, exactly, in whatever order they come."""
    cells = dict(one.cells)
    for key, count in other.cells.items():
        cells[key] = _sum(one.count(key), count)
    spent = dict(one.spent)
    for tier, sums in other.spent.items():
        spent[tier] = _sum(spent.get(tier, Spent()), sums)
    return Step(cells, spent, tuple(sorted({*one.skipped, *other.skipped})))


Sums = TypeVar("Sums", Count, Spent)


def _sum(one: Sums, other: Sums) -> Sums:
    return type(one)(*(getattr(one, field) + getattr(other, field) for field in one.__struct_fields__))


def repool(pool: Step, before: Step, after: Step) -> Step:
    """The counts of many steps together, once one of them has gone from `before` to `after`. Costs are not pooled."""
    cells = dict(pool.cells)
    for key, count in after.cells.items():
        old = before.count(key)
        if old is not count:
            whole = pool.count(key)
            cells[key] = Count(whole.passed + count.passed - old.passed, whole.failed + count.failed - old.failed)
    return Step(cells)
