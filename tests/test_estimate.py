"""The token estimate: additive wherever a text is cut, by the fitted weights, under the hard ceiling."""

from hypothesis import given
from hypothesis import strategies as st

from bursar.rules import estimate


@given(a=st.binary(max_size=3000), b=st.binary(max_size=50), at=st.integers(0, 3000))
def test_weight_is_additive_and_bounded(a: bytes, b: bytes, at: int) -> None:
    """Weights add up wherever a text is cut; a token estimate never exceeds the bytes of real text by much."""
    assert estimate.weigh(a + b) == estimate.weigh(a) + estimate.weigh(b)
    assert estimate.weigh(a[:at]) + estimate.weigh(a[at:]) == estimate.weigh(a)
    assert estimate.tokens(estimate.weigh(b)) <= 3 * len(b)
    assert estimate.input_ceiling(a, "chat") >= len(a)


def test_weights_by_class() -> None:
    """The fitted weights, in milli-tokens; a character's later bytes weigh nothing; a long text is summed exactly."""
    weights = {"a": 180, "A": 600, "7": 870, " ": 90, "\n": 330, ".": 450, "é": 270, "数": 690, "😀": 2310}
    for char, milli in weights.items():
        assert estimate.weigh(char.encode() * 10_000) == milli * 10_000
    assert [estimate.tokens(milli) for milli in (0, 1, 1000, 1001)] == [0, 1, 1, 2]
