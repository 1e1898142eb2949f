"""The capability table: reviewed rows, the user's words above them, and no call sent where it cannot be taken."""

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.policy.steps import Capability, Feature, Modality
from bursar.rules import capability
from bursar.rules.capability import Needs, Table, lacks
from bursar.sandbox.models import MODELS

TABLE = Table()
modalities: st.SearchStrategy[frozenset[Modality]] = st.frozensets(
    st.sampled_from(["text", "image", "file", "audio", "video"])
)
features: st.SearchStrategy[frozenset[Feature]] = st.frozensets(
    st.sampled_from(["tools", "forced_tool", "structured", "sampling"])
)
capabilities = st.builds(
    Capability,
    context_tokens=st.none() | st.integers(0, 2_000_000),
    max_output_tokens=st.none() | st.integers(0, 128_000),
    inputs=st.none() | modalities,
    features=st.none() | features,
)
needs = st.builds(
    Needs,
    input_tokens=st.integers(0, 2_000_000),
    output_tokens=st.integers(0, 128_000),
    inputs=modalities,
    features=features,
)


@pytest.mark.parametrize(
    ("provider", "model", "can", "cannot"),
    [
        ("openai", "gpt-4o-mini-2024-07-18", "tools structured sampling", ""),
        ("openai", "gpt-3.5-turbo-0125", "tools sampling", "structured"),
        ("openai", "gpt-6.1-sol", "tools structured forced_tool", "sampling"),
        ("openai", "o3", "structured", "sampling"),
        ("anthropic", "claude-3-haiku-20240307", "tools sampling", "structured"),
        ("anthropic", "claude-haiku-4-5-20251001", "structured sampling", ""),
        ("anthropic", "claude-opus-4-8", "structured forced_tool", "sampling"),
        ("anthropic", "claude-sonnet-5-5", "structured tools", "sampling forced_tool"),
        ("gemini", "models/gemini-2.5-flash", "tools structured sampling", ""),
        ("google", "gemini-2.5-flash-image", "sampling", "tools structured"),
    ],
)
def test_rows(provider: str, model: str, can: str, cannot: str) -> None:
    """Known models, dated snapshots and other spellings, as their providers' pages have them."""
    known = TABLE.of(provider, model).features or frozenset()
    assert {*can.split()} <= known
    assert not {*cannot.split()} & known


def test_windows_and_inputs() -> None:
    """Windows come with the price catalogue, longest answers with our rows; Gemini alone takes sound and film."""
    assert TABLE.of("openai", "gpt-4o").context_tokens == 128_000
    assert TABLE.of("openai", "gpt-4o").max_output_tokens == 16_384
    assert TABLE.of("anthropic", "claude-haiku-4-5").context_tokens == 200_000
    assert TABLE.of("gemini", "gemini-2.5-pro").context_tokens == 1_048_576
    assert TABLE.of("gemini", "gemini-2.5-pro").inputs == frozenset({"text", "image", "file", "audio", "video"})
    assert TABLE.of("openai", "gpt-3.5-turbo").inputs == frozenset({"text"})


def test_every_row_is_reviewed() -> None:
    """Each row compiles, has words that exist, names its source and a day; every model of the sandbox has one."""
    for row in capability.ROWS:
        re.compile(row.models)
        assert row.source.startswith(("http", "models.dev"))
        assert date.fromisoformat(row.checked_on) <= date.fromisoformat(capability.VERSION)
    for name, model in MODELS.items():
        if model.tier != "embedding":
            known = TABLE.of(model.family, name)
            assert None not in (known.features, known.inputs, known.context_tokens, known.max_output_tokens), name
            assert known.context_tokens is not None
            assert abs(known.context_tokens - model.context) <= model.context // 20, name


def test_unknown_is_not_everything() -> None:
    """A model that nobody described refuses what is not known of it, each time with the setting that cures it."""
    unknown = TABLE.of("local", "llama-9")
    assert unknown == Capability()
    text = lacks(unknown, Needs(input_tokens=10), "local/llama-9")
    assert text == 'local/llama-9: its context window is not known; set [capabilities."local/llama-9"] context_tokens'
    some = Table({"local/*": Capability(context_tokens=8_000)}).of("local", "llama-9")
    assert lacks(some, Needs(input_tokens=10), "local/llama-9") is None
    tools = lacks(some, Needs(input_tokens=10, features=frozenset({"tools"})), "local/llama-9")
    assert tools is not None
    assert "not known to support tools" in tools
    image = lacks(some, Needs(input_tokens=10, inputs=frozenset({"text", "image"})), "local/llama-9")
    assert image is not None
    assert "not known to take image" in image
    assert "inputs" in image


def test_the_users_words_win() -> None:
    """An override replaces the fields it sets and keeps the others; an exact name wins over a glob."""
    table = Table(
        {
            "openai/*": Capability(context_tokens=1),
            "openai/gpt-4o": Capability(features=frozenset({"tools"})),
            "mine/x": Capability(context_tokens=5, inputs=frozenset({"text", "image"})),
        },
        {"azure-eu": "openai"},
    )
    own = table.of("openai", "gpt-4o")
    assert (own.features, own.context_tokens) == (frozenset({"tools"}), 128_000)
    assert table.of("openai", "gpt-4o-mini").context_tokens == 1
    assert table.of("azure-eu", "gpt-4o-mini").context_tokens == 128_000
    assert table.of("mine", "x").inputs == frozenset({"text", "image"})


@given(capabilities, needs)
def test_nothing_passes_that_the_model_cannot_take(known: Capability, asked: Needs) -> None:
    """Fuzz: taken only where the window holds it all and every need is known to be met; a refusal names the model."""
    reason = lacks(known, asked, "p/m")
    fits = known.context_tokens is not None and asked.input_tokens + asked.output_tokens <= known.context_tokens
    answers = known.max_output_tokens is None or asked.output_tokens <= known.max_output_tokens
    reads = asked.inputs <= (known.inputs or {"text"})
    does = asked.features <= (known.features or frozenset())
    assert (reason is None) == (fits and answers and reads and does)
    assert reason is None or reason.startswith("p/m: ")


@given(provider=st.sampled_from(["openai", "anthropic", "gemini", "mine"]), model=st.text(max_size=30))
def test_any_name_has_an_answer(provider: str, model: str) -> None:
    """Fuzz: whatever a caller names, the table answers, and the same again."""
    table = Table()
    assert table.of(provider, model) == table.of(provider, model) == Table().of(provider, model)
