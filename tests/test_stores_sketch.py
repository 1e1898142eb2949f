"""Sketches: a high quantile of many numbers from a few counts, never below the true one and little above it."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from bursar.stores.counters import cost_bin
from bursar.stores.sketch import INPUT_SCALE, Sketch, input_bin

numbers = st.lists(st.integers(0, 10_000_000), min_size=100, max_size=400)


def sketched(found: list[int]) -> Sketch:
    bins: dict[int, int] = {}
    for number in found:
        bins[cost_bin(number)] = bins.get(cost_bin(number), 0) + 1
    return Sketch(bins)


@given(numbers, st.integers(1, 30))
def test_the_high_quantile(found: list[int], times: int) -> None:
    """The answer is the largest number of the bin that holds the p99.9: at it or at most an eighth above."""
    many = sorted(found * times)
    exact = many[ceil(len(many) * 999 / 1000) - 1]
    high = sketched(many).high()
    assert high is not None and exact <= high <= max(exact + 1, exact * 1.13)


@given(numbers, numbers)
def test_adding_up(one: list[int], other: list[int]) -> None:
    """Counts of two processes come to the counts of both."""
    assert sketched(one).plus(sketched(other).bins).bins == sketched(one + other).bins


def test_too_few() -> None:
    """Fewer than a hundred numbers tell nothing about the thousandth."""
    assert (sketched([7] * 99).high(), sketched([7] * 100).high()) == (None, 7)
    assert Sketch({}).high() is None


@given(st.integers(1, 100_000), st.integers(0, 1_000_000))
def test_input(estimated: int, reported: int) -> None:
    """The bin of a ratio is that of its thousandths, rounded up."""
    assert input_bin(float(estimated), float(reported)) == cost_bin(-(-reported * INPUT_SCALE // estimated))
