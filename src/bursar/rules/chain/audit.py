"""Where nobody judges the answers: what audits on the frontier model prove, and what they may cost. Pure.

A cheaper tier may answer unchecked only once audits have proved its agreement; until then, and wherever nothing is
known, the caller's own model is kept. Clopper and Pearson 1934, one-sided.
"""

from collections.abc import Iterable, Mapping
from math import exp, lgamma, log

import msgspec

PAGE = 200
"""Audits after which the older half is dropped: between 200 and 400 count, so that a tier that got worse is seen."""


class Audits(msgspec.Struct, frozen=True, array_like=True):
    """Accepted answers of one tier in one step that were asked of the frontier again, and how many agreed."""

    agreed: int = 0
    audited: int = 0
    old_agreed: int = 0
    old_audited: int = 0

    @property
    def total(self) -> tuple[int, int]:
        """(agreed, audited) that count."""
        return self.agreed + self.old_agreed, self.audited + self.old_audited

    def after(self, agrees: bool) -> "Audits":
        """The audits with one more."""
        if self.audited >= PAGE:
            return Audits(int(agrees), 1, self.agreed, self.audited)
        return Audits(self.agreed + agrees, self.audited + 1, self.old_agreed, self.old_audited)


def merge(one: Audits, other: Audits) -> Audits:
    """Two bodies of audits as one, in whatever order."""
    return Audits(*(getattr(one, field) + getattr(other, field) for field in one.__struct_fields__))


def proves(audits: Audits, target: float, confidence: float = 0.95) -> bool:
    """Whether the agreement is at least `target` at this confidence: 59 of 59 for 95 %, 29 of 29 for 90 %."""
    agreed, audited = audits.total
    return audited > 0 and _tail(agreed, audited, target) <= 1 - confidence


def agreement_lower(agreed: int, audited: int, confidence: float = 0.95) -> float:
    """One-sided lower bound of a share, Clopper-Pearson: the least share that makes so many agreements believable."""
    if agreed <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(agreed, audited, middle) <= 1 - confidence else (low, middle)
    return low


def allowed(tiers: Iterable[str], audits: Mapping[str, Audits], target: float, confidence: float = 0.95) -> str | None:
    """The first tier, cheapest first, whose agreement is proved; None: keep the caller's model."""
    return next((tier for tier in tiers if tier in audits and proves(audits[tier], target, confidence)), None)


def audit_share(mean_nanos: int | None, frontier_nanos: int | None, budget: float = 0.03) -> float:
    """The share of accepted answers to audit so that audits take at most `budget` of the spend; 0 where unknown."""
    if mean_nanos is None or not frontier_nanos:
        return 0.0
    return min(1.0, budget * mean_nanos / frontier_nanos)


def audit_due(
    draw: float, share: float, spent_nanos: int, audits_nanos: int, frontier_nanos: int, budget: float = 0.03
) -> bool:
    """Whether this answer is audited: its draw says so, and the audits so far with this one are within the budget."""
    return draw < share and audits_nanos + frontier_nanos <= budget * spent_nanos


def false_pass_rate(accepted: int, rejected: int, audits: Audits) -> float | None:
    """The share of wrong answers that a validator passes, taking what it rejected as wrong; None: no audit yet.

    Above 0.15 a validator saves little and costs quality: worth a warning.
    """
    agreed, audited = audits.total
    if not audited:
        return None
    slipped = accepted * (audited - agreed) / audited
    return slipped / (slipped + rejected) if slipped + rejected else 0.0


class Labelled(msgspec.Struct, frozen=True):
    """Answers of two tiers to the same requests of one step, all of them known to be right or wrong."""

    seen: int
    small_right: int
    large_right: int


def gaps(table: Mapping[str, Labelled], mass: float = 5.0) -> dict[str, float]:
    """What the large tier gains in right answers, by step; a thin step leans on all steps together by `mass` rows."""
    seen = sum(row.seen for row in table.values())
    overall = sum(row.large_right - row.small_right for row in table.values()) / seen if seen else 0.0
    return {
        step: (row.large_right - row.small_right + mass * overall) / (row.seen + mass) for step, row in table.items()
    }


def frozen(table: Mapping[str, Labelled], target: float = 0.99) -> frozenset[str]:
    """The steps that may go to the small tier while right answers stay at `target` of the large tier's.

    The steps with the least to lose go first. What is kept is measured on the table: leave rows out to test it.
    """
    by_gap = gaps(table)
    large = sum(row.large_right for row in table.values())
    lost, chosen = 0.0, set()
    for step in sorted(table, key=lambda step: (by_gap[step], step)):
        lost += by_gap[step] * table[step].seen
        if large - lost < target * large:
            break
        chosen.add(step)
    return frozenset(chosen)


def _tail(agreed: int, audited: int, share: float) -> float:
    """P(at least `agreed` of `audited` agree) where each does with probability `share`: summed from the top."""
    if share <= 0:
        return float(agreed <= 0)
    if share >= 1:
        return 1.0
    whole = lgamma(audited + 1)
    return min(
        1.0,
        sum(
            exp(whole - lgamma(k + 1) - lgamma(audited - k + 1) + k * log(share) + (audited - k) * log(1 - share))
            for k in range(agreed, audited + 1)
        ),
    )
