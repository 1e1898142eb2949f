"""Laws of the simulated provider: its tokens, its prices, its values."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bursar.sandbox.bill import price, tokens
from bursar.sandbox.models import MODELS, known
from bursar.sandbox.schema import instance
from bursar.sandbox.tokens import split

LONG = "The archive holds one more line about the harbour and its ships. " * 400


@given(st.text(max_size=300))
def test_tokens_are_lossless_and_never_more_than_bytes(text: str) -> None:
    """Tokens joined are the text; there are at most as many as UTF-8 bytes."""
    pieces = split(text)
    assert "".join(pieces) == text and len(pieces) <= len(text.encode())


def test_english_is_about_four_characters_a_token() -> None:
    """The tokenizer's grain is that of the real ones on English prose."""
    assert 3.5 < len(LONG) / len(split(LONG)) < 5.5


def test_the_bill_has_known_prices() -> None:
    """Hand-reckoned bills to the nano-dollar: cached reads, the cliff at 272,000, US premium, service tiers."""
    sol, gpt = MODELS["gpt-6.1-sol"], MODELS["gpt-5.4"]
    assert price(sol, {"input": 2000, "cache_read": 12_000, "cache_write_30m": 6000, "output": 1000}) == 30_200_000
    assert price(gpt, {"input": 272_000, "output": 2}) == 680_030_000
    assert price(gpt, {"input": 72_001, "cache_read": 200_000, "output": 2000}) == 505_005_000
    assert price(sol, {"input": 6000, "cache_read": 4000, "output": 1000}, "flex") == 11_200_000
    assert (
        price(MODELS["claude-sonnet-5-5"], {"input": 10_000, "cache_read": 30_000, "output": 1000}, geo="us")
        == 36_300_000
    )
    assert price(MODELS["text-embedding-3-small"], {"input": 123_456}) == 2_469_120
    assert known("models/gemini-2.5-pro") is MODELS["gemini-2.5-pro"]
    assert known("gpt-4o-2024-08-06") is MODELS["gpt-4o"] and known("gpt-4o-audio") is None


LEAVES = st.sampled_from(
    [
        {"type": "string", "maxLength": 3},
        {"type": "INTEGER", "minimum": 5},
        {"enum": ["a", 1]},
        {"type": "boolean"},
    ]
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pair = st.tuples(inner, inner)
    return pair.map(lambda s: {"type": "object", "properties": {"a": s[0], "b": {"type": "array", "items": s[1]}}})


@given(st.recursive(LEAVES, _nested, max_leaves=6), st.integers())
def test_made_values_fit_their_schema(schema: dict[str, Any], seed: int) -> None:
    """A made value has the types, ranges and fields of its schema, and is the same for the same seed."""
    value = instance(schema, seed)
    assert value == instance(schema, seed) and _fits(value, schema)


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "object":
        return set(value) == {"a", "b"} and all(_fits(value[k], s) for k, s in schema["properties"].items())
    if schema["type"] == "array":
        return all(_fits(item, schema["items"]) for item in value)
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= 3
    return isinstance(value, bool) if schema["type"] == "boolean" else value >= 5


def test_the_bill_is_the_sum_of_its_buckets() -> None:
    """Buckets of a prompt are disjoint and sum to the prompt and output tokens."""
    from bursar.sandbox.asks import Prompted

    counts = tokens(Prompted(10, 20, (("cache_write_5m", 30),)), 40)
    assert sum(counts.values()) == 100 and counts["cache_write_5m"] == 30
