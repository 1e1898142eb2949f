"""What a sample can promise, without assuming how its values are distributed. Pure; shares and odds, never amounts.

Runs are taken as drawn alike and apart from each other; where they drift, no promise holds, which is what `shift` is
for. Arguments that make no sense raise ValueError.
"""

from collections.abc import Sequence
from math import ceil, erfc, exp, lgamma, log, log1p, sqrt

_STEPS = 60
_FEWEST = 8
"""Values a side, from which on the normal approximation of the rank sum is good enough to act upon."""


def at_most(over: int, runs: int, confidence: float) -> float:
    """Upper bound on the share of all runs that are over a limit which `over` of the `runs` seen were over.

    The one-sided bound of Clopper and Pearson (Biometrika 26, 1934), which is the beta quantile of an order statistic:
    it holds for a limit that was chosen as one order statistic of the same runs too, and for one derived from that
    statistic alone. 1.0 where nothing can be said.
    """
    if not 0 <= over <= runs or not 0 < confidence < 1:
        raise ValueError(f"{over} of {runs} runs at confidence {confidence} makes no sense")
    if over == runs:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _up_to(over, runs, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def allowed(runs: int, share: float, confidence: float) -> int | None:
    """How many of so many runs may be over a limit that is to be passed by at most this share; None: too few runs.

    The limit at the (runs - allowed)-th smallest value then keeps the promise (Wilks, Ann. Math. Stat. 12, 1941).
    """
    if runs < needed(share, confidence):
        return None
    low, high = 0, runs
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(middle, runs, confidence) <= share:
            low = middle
        else:
            high = middle
    return low


def needed(share: float, confidence: float) -> int:
    """Runs that it takes, none of them over the limit, to promise that at most this share is: 2 % at 95 % takes 149."""
    if not 0 < share < 1 or not 0 < confidence < 1:
        raise ValueError(f"a share of {share} at confidence {confidence} makes no sense: both lie between 0 and 1")
    return ceil(log1p(-confidence) / log1p(-share) - 1e-12)


def shift(earlier: Sequence[int], later: Sequence[int]) -> float | None:
    """How odd it would be (p, two-sided) that these two differ so much if both were drawn alike; None: too few.

    The rank sum of Wilcoxon, Mann and Whitney by its normal approximation, corrected for ties and continuity.
    """
    first, second = len(earlier), len(later)
    if min(first, second) < _FEWEST:
        return None
    total = first + second
    ranks, ties = _ranks(sorted([*earlier, *later]))
    centred = sum(ranks[value] for value in later) - second * (total + 1)  # twice the rank sum, less its mean
    spread = first * second / 3 * ((total + 1) - ties / (total * (total - 1)))  # its variance
    if spread <= 0:
        return 1.0
    return erfc(max(0, abs(centred) - 1) / sqrt(2 * spread))


def _ranks(ordered: Sequence[int]) -> tuple[dict[int, int], int]:
    """Twice the mean rank of each value, and the sum of t^3 - t over the sizes t of the ties."""
    ranks, ties, start = {}, 0, 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or ordered[end] != ordered[start]:
            size = end - start
            ranks[ordered[start]] = start + 1 + end
            ties += size**3 - size
            start = end
    return ranks, ties


def _up_to(most: int, runs: int, share: float) -> float:
    """The odds of at most so many of so many, each with odds `share`, 0 < share < 1."""
    return sum(
        exp(lgamma(runs + 1) - lgamma(n + 1) - lgamma(runs - n + 1) + n * log(share) + (runs - n) * log1p(-share))
        for n in range(most + 1)
    )
