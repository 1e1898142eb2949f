"""Laws of pricing: what holds for every usage, every model and every instant."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any, get_args

import genai_prices
import pytest
from genai_prices.data import providers as catalogue
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.doors.price_cli import price_lines
from bursar.policy import Card, Override, Unpriced
from bursar.rules import price_table
from bursar.rules.cards import compile_book
from bursar.rules.listing import catalog_of, region_of
from bursar.rules.price import ceiling, quote
from bursar.types import Api, Bucket, Instant, Part, Price, Terms, Usage
from bursar.wire.usage import Unreadable, UsageFacts, examine, read_terms, read_usage

NOW = Instant(1_795_392_000_000_000)  # 2026-11-23
BOOK = compile_book({}, {})
NO_FACTS = UsageFacts()
STANDARD = Terms()
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)
OUTPUTS = {"output", "output_audio", "output_image", "output_video"}
MODELS = [
    ("openai", "gpt-6.1-sol"),
    ("openai", "gpt-5.4"),
    ("openai", "gpt-4o"),
    ("anthropic", "claude-haiku-5-5"),
    ("anthropic", "claude-opus-4-8"),
    ("google", "gemini-2.5-flash"),
    ("google", "gemini-3.1-pro-preview"),
    ("aws", "global.anthropic.claude-haiku-5-5"),
]
TERMS = [
    Terms(),
    Terms(service_tier="flex"),
    Terms(service_tier="priority"),
    Terms(service_tier="ultrafast"),
    Terms(batch=True),
    Terms(fast=True),
    Terms(region="us"),
    Terms(region="eu"),
    Terms(window="8h"),
    Terms(fast=True, region="us"),
]
models = st.sampled_from(MODELS)
tokens = st.integers(0, 400_000)
text_buckets = st.dictionaries(st.sampled_from(["input", "cache_read", "output"]), tokens)


def cost(parts: list[dict[Bucket, int]], model: tuple[str, str], terms: Terms = STANDARD) -> Price:
    usage = Usage(tuple(Part(p) for p in parts), cache_write_tokens=0)
    return quote(usage, model[0], model[1], terms, BOOK, NOW)


def nanos(price: Price) -> int:
    assert price.nanos is not None, price
    return price.nanos


@given(models, text_buckets, st.sampled_from(["input", "cache_read", "output"]), st.integers(1, 300_000))
def test_more_tokens_never_cost_less(
    model: tuple[str, str], buckets: dict[Bucket, int], bucket: Bucket, more: int
) -> None:
    """Monotone in every bucket, across the cliffs too; and never negative."""
    before = nanos(cost([buckets], model))
    after = nanos(cost([buckets | {bucket: buckets.get(bucket, 0) + more}], model))
    assert 0 <= before <= after


@given(models, st.lists(text_buckets, min_size=1, max_size=5))
def test_a_call_costs_the_sum_of_its_parts(model: tuple[str, str], parts: list[dict[Bucket, int]]) -> None:
    """Each part at its own cliff; the only difference is that the call is rounded once, its parts each."""
    whole = nanos(cost(parts, model))
    assert abs(whole - sum(nanos(cost([part], model)) for part in parts)) <= len(parts) / 2


@pytest.mark.parametrize(("tokens", "nanos_"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_rounding_is_half_even_and_once_a_call(tokens: int, nanos_: int) -> None:
    """At half a nano-dollar a token, 1, 3, 5, 7 tokens are ties; two parts of a half are one nano-dollar, not zero."""
    book = compile_book({"p/m": Override(input="0.0005")}, {})
    one = Usage((Part({"input": tokens}),))
    assert quote(one, "p", "m", Terms(), book, NOW).nanos == nanos_
    assert quote(Usage((Part({"input": 1}),) * 2), "p", "m", Terms(), book, NOW).nanos == 1


@pytest.mark.parametrize(
    ("model", "cliff"),
    [
        (("openai", "gpt-6.1-sol"), 272_000),
        (("anthropic", "claude-haiku-5-5"), 100_000),
        (("google", "gemini-2.5-pro"), 200_000),
    ],
)
@given(data=st.data())
def test_the_cliff_is_exact_and_by_the_whole_prompt(model: tuple[str, str], cliff: int, data: st.DataObject) -> None:
    """However the prompt is split into buckets, the last token before the cliff is at the base rates, the next not."""
    card = BOOK.card(*model, Terms(), NOW)
    assert isinstance(card, Card) and card.long_over == cliff and card.long_rates is not None
    read = data.draw(st.integers(0, cliff))
    for prompt, rates in ((cliff, card.rates), (cliff + 1, card.long_rates)):
        buckets: dict[Bucket, int] = {"input": prompt - read, "cache_read": read, "output": 1_000}
        exact = sum(n * rates[bucket] for bucket, n in buckets.items())
        assert abs(nanos(cost([buckets], model)) * 1_000_000 - exact) <= 500_000


@given(models, st.sampled_from(TERMS), st.dictionaries(st.sampled_from(BUCKETS), tokens))
def test_no_split_of_the_tokens_costs_more_than_the_ceiling(
    model: tuple[str, str], terms: Terms, buckets: dict[Bucket, int]
) -> None:
    """The ceiling covers whatever the same number of input and output tokens turns out to be."""
    made = sum(n for bucket, n in buckets.items() if bucket in OUTPUTS)
    price = cost([buckets], model, terms)
    most = ceiling(sum(buckets.values()) - made, made, *model, terms, BOOK, NOW)
    assert price.nanos is None or (most is not None and price.nanos <= most)
    exact = ceiling(1000, 0, *model, terms, BOOK, NOW, only={"input"})
    assert exact is None or exact == cost([{"input": 1000}], model, terms).nanos


@given(st.sampled_from(["openai", "anthropic", "google", "azure", "aws", "nobody"]), st.text(min_size=1), text_buckets)
def test_an_unknown_model_is_never_free(provider: str, name: str, buckets: dict[Bucket, int]) -> None:
    """Unpriced, with the setting that cures it; not even zero tokens of it cost 0."""
    price = cost([buckets], (provider, f"{name}-of-tomorrow"))
    assert price.nanos is None and price.status == "unpriced"
    assert "[prices." in (price.why or "")


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google", "azure"])
def test_a_listed_model_does_not_lend_its_price_to_longer_names(provider: str) -> None:
    """claude-opus-4-1 is not claude-opus-4-10, gemini-3.8-flash is not gemini-3.8-flash-lite: no loose matches."""
    listed = next(p for p in catalogue if p.id == provider)
    for model in listed.models:
        if model.id.startswith(("ft:", "gemma", "gpt-4o-mini-2024-07-18.ft-")):
            continue  # an organisation's own suffix, or sizes: meant to be open
        for suffix in ("0", "-2", "-ultra", "-fast", "-cyber", ".5", "x"):
            card = BOOK.card(provider, model.id + suffix, Terms(), NOW)
            assert isinstance(card, Unpriced) or f"/{model.id}@" not in card.price_id, (model.id, suffix)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
def test_plain_usage_is_priced_as_the_catalogue_does(provider: str) -> None:
    """Input, cached and output tokens of every model billed by tokens: ours == genai_prices', short and long."""
    moment = dt.datetime.fromtimestamp(NOW / 1_000_000, dt.UTC)
    listed = next(p for p in catalogue if p.id == provider)
    checked = 0
    for model in listed.models:
        for prompt, read, made in ((50_000, 20_000, 3_000), (400_000, 150_000, 2_000)):
            card = BOOK.card(provider, model.id, Terms(), NOW)
            if isinstance(card, Unpriced) or "output" not in card.rates:
                assert model.id in ("ft:gpt-4o", "ft:gpt-4o-mini") or getattr(
                    model.get_prices(moment), "output_mtok", None
                ) is None, model.id  # fmt: skip
                continue
            theirs = model.calc_price(
                genai_prices.Usage(input_tokens=prompt, cache_read_tokens=read, output_tokens=made),
                listed,
                genai_request_timestamp=moment,
            ).total_price
            ours = cost([{"input": prompt - read, "cache_read": read, "output": made}], (provider, model.id))
            assert Decimal(nanos(ours)) == (theirs * 10**9).quantize(Decimal(1)), model.id
            checked += 1
    assert checked > 50


def test_a_price_id_always_means_the_same_rates() -> None:
    """Over many models, terms and dates: one id, one card."""
    seen: dict[str, tuple[Any, ...]] = {}
    days = [NOW + 86_400_000_000 * n for n in (-400, -120, -60, -45, -40, 0, 8, 39, 400)]
    names = [(p.id, m.id) for p in catalogue if p.id in ("openai", "anthropic", "google", "deepseek") for m in p.models]
    for provider, model in names:
        for terms in TERMS:
            for day in days:
                card = BOOK.card(provider, model, terms, Instant(day + 7_200_000_000))
                if isinstance(card, Card):
                    rates = (card.rates, card.fees, card.long_over, card.long_rates)
                    assert seen.setdefault(card.price_id, rates) == rates
    assert len(seen) > 500


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
def test_listed_variants_are_priced_as_the_catalogue_does(provider: str) -> None:
    """Every batch, flex, priority and fast row in force: ours == genai_prices' with the same price context."""
    moment = dt.datetime.fromtimestamp(NOW / 1_000_000, dt.UTC)
    listed = next(p for p in catalogue if p.id == provider)
    as_terms = {"batch": Terms(batch=True), "fast": Terms(fast=True)}
    checked = 0
    for model in listed.models:
        for variant in model.price_variants or ():
            ((key, word),) = variant.when.items()
            if word == "default" or (key, word) == ("service_tier", "fast") or model.id.startswith("ft:"):
                continue
            terms = as_terms.get(word, Terms(service_tier=word))
            theirs = model.get_prices(moment, {key: word})
            card = BOOK.card(provider, model.id, terms, NOW)
            assert isinstance(card, Card), (model.id, card)
            for field, bucket in (
                ("input_mtok", "input"),
                ("output_mtok", "output"),
                ("cache_read_mtok", "cache_read"),
            ):
                rate = getattr(theirs, field)
                own = any(r.term == word and r.models == model.id and r.bucket == bucket for r in price_table.RATES)
                if rate is not None and not own:
                    assert card.rates[bucket] == getattr(rate, "base", rate) * 10**9, (model.id, word)  # type: ignore[index]
                    checked += 1
    assert checked > 30


def test_an_override_wins_and_its_terms_are_its_own() -> None:
    """[prices] beats every table; a tier that it does not name is unpriced; an exact key beats a glob."""
    own = Override(input="1", output="2", cache_write_5m="3", web_search="0.5", multiply={"batch": "0.5", "us": "1.1"})
    book = compile_book({"anthropic/claude-opus-4-8": own, "ollama/*": Override(input="0", output="0")}, {})
    usage = Usage(
        (Part({"input": 100, "cache_read": 100, "cache_write_5m": 100, "output": 100}),), fees=(("web_search", 1),)
    )
    for terms, expected in ((Terms(), 700_000), (Terms(batch=True), 350_000), (Terms(region="us"), 770_000)):
        price = quote(usage, "anthropic", "claude-opus-4-8", terms, book, NOW)
        assert (price.nanos, price.status) == (expected + 500_000_000, "final")
        assert (price.price_id or "").startswith("policy/")
    assert quote(usage, "anthropic", "claude-opus-4-8", Terms(fast=True), book, NOW).status == "unpriced"
    unset = quote(Usage((Part({"cache_write_1h": 1}),)), "anthropic", "claude-opus-4-8", Terms(), book, NOW)
    assert unset.nanos is None and "cache_write_1h" in (unset.why or "")
    free = quote(Usage((Part({"input": 5}),)), "ollama", "qwen", Terms(), book, NOW)
    assert (free.nanos, free.status) == (0, "final")
    with pytest.raises(ValueError, match=r'\[prices."a/b"\] input'):
        compile_book({"a/b": Override(input="cheap")}, {})


def test_a_failed_call_with_no_parts_costs_nothing_whatever_the_model() -> None:
    """Nothing was produced, nothing is owed: that is known even where the model's price is not."""
    assert quote(Usage(()), "nobody", None, Terms(), BOOK, NOW) == Price(0, "final")


COUNTS = st.one_of(st.integers(-5, 10**6), st.none(), st.booleans(), st.floats(), st.text(max_size=3), st.just(10**30))
_KEYS = """
    prompt_tokens completion_tokens total_tokens prompt_tokens_details completion_tokens_details cached_tokens
    cache_write_tokens audio_tokens image_tokens reasoning_tokens input_tokens output_tokens input_tokens_details
    output_tokens_details cache_write_tokens_details ttl_30m_tokens ttl_12h_tokens cache_read_input_tokens
    cache_creation_input_tokens cache_creation ephemeral_5m_input_tokens ephemeral_1h_input_tokens iterations type
    server_tool_use web_search_requests model promptTokenCount candidatesTokenCount thoughtsTokenCount
    toolUsePromptTokenCount cachedContentTokenCount totalTokenCount promptTokensDetails cacheTokensDetails
    modality tokenCount inputTokens outputTokens cacheReadInputTokens cacheWriteInputTokens cacheDetails ttl
"""
KEYS = st.sampled_from(_KEYS.split())
WORDS = st.sampled_from(["AUDIO", "message", "fallback_message", "compaction", "1h"])
JSON = st.recursive(
    COUNTS | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=9), max_leaves=25
)
APIS: tuple[Api, ...] = get_args(Api)


@settings(max_examples=150)
@given(st.sampled_from(APIS), st.dictionaries(KEYS, JSON, max_size=12) | JSON, st.sampled_from(["refusal", None]))
def test_no_usage_object_raises_or_gives_a_negative_bucket(api: Api, usage: Any, stop: str | None) -> None:
    """Whatever a provider sends: whole, non-negative, disjoint buckets, or the reason why there is no usage."""
    found = examine(api, usage, UsageFacts(stop_reason=stop, tool_usage=usage))
    read_terms(api, usage, NO_FACTS, Terms())
    if isinstance(found, Unreadable):
        assert found.why
        return
    buckets = [item for part in found.parts[:1] if api != "messages" for item in part.buckets.items()]
    assert all(type(n) is int and n > 0 for part in found.parts for n in part.buckets.values())
    if buckets:
        assert sum(n for bucket, n in buckets if bucket not in OUTPUTS) == found.input_tokens
        assert sum(n for bucket, n in buckets if bucket in OUTPUTS) == found.output_tokens


USAGES: list[tuple[Api, dict[str, Any]]] = [
    ("chat", {"prompt_tokens": 90, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 30}}),
    ("responses", {"input_tokens": 90, "output_tokens": 9, "input_tokens_details": {"cache_write_tokens": 2}}),
    ("embeddings", {"prompt_tokens": 90, "total_tokens": 90}),
    ("messages", {"input_tokens": 90, "output_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 4}}),
    ("gemini", {"promptTokenCount": 90, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}]}),
    ("converse", {"inputTokens": 90, "outputTokens": 9, "cacheDetails": [{"ttl": "1h", "inputTokens": 0}]}),
]  # fmt: skip


@pytest.mark.parametrize(("api", "usage"), USAGES, ids=[api for api, _ in USAGES])
@settings(max_examples=25)
@given(key=st.text(min_size=1).map(lambda s: f"new_{s}"), value=JSON)
def test_an_unknown_key_changes_nothing(api: Api, usage: dict[str, Any], key: str, value: Any) -> None:
    """Providers add fields every month, on every level."""
    deep = {k: {**v, key: value} if isinstance(v, dict) else v for k, v in usage.items()}
    assert read_usage(api, {**deep, key: value}, NO_FACTS) == read_usage(api, usage, NO_FACTS) is not None


MESSAGE = {
    "input_tokens": 9,
    "cache_read_input_tokens": 4,
    "output_tokens": 70,
    "server_tool_use": {"web_search_requests": 2},
}


@given(st.lists(st.dictionaries(st.sampled_from(list(MESSAGE)), st.just(None) | st.integers(0, 5)), max_size=4))
def test_a_merged_stream_is_priced_as_its_final_usage(earlier: list[dict[str, Any]]) -> None:
    """What came before a field's last value does not count: replaced, never added."""
    final = read_usage("messages", MESSAGE, NO_FACTS)
    assert read_usage("messages", [*earlier, MESSAGE], NO_FACTS) == final
    split = [{"input_tokens": 9, "output_tokens": 1}, {k: v for k, v in MESSAGE.items() if k != "input_tokens"}]
    assert read_usage("messages", [*earlier, *split], NO_FACTS) == final


@pytest.mark.parametrize(
    ("api", "usage", "why"),
    [
        ("chat", {"prompt_tokens": -1, "completion_tokens": 0}, "prompt_tokens is -1"),
        ("chat", {"prompt_tokens": "9", "completion_tokens": 0}, "not a count"),
        ("chat", {"prompt_tokens": 9}, "completion_tokens is missing"),
        ("responses", {"input_tokens": 9, "output_tokens": 0, "input_tokens_details": {"cached_tokens": 10}}, "prompt"),
        ("messages", {"input_tokens": 1, "output_tokens": 1, "iterations": [7]}, "iterations"),
        ("gemini", {}, "promptTokenCount"),
        ("chat", None, "no usage object"),
        ("other", {"prompt_tokens": 9}, "not read"),
    ],
)  # fmt: skip
def test_a_usage_that_cannot_be_says_why(api: Api, usage: Any, why: str) -> None:
    """No usage at all, and the reason: never a repaired number."""
    found = examine(api, usage, NO_FACTS)
    assert isinstance(found, Unreadable) and why in found.why
    assert read_usage(api, usage, NO_FACTS) is None


def test_terms_are_read_as_served() -> None:
    """The answer's tier wins over the request's; what no answer tells stays as asked."""
    asked = Terms(service_tier="priority", window="2h", region="eu", batch=True)
    served = read_terms("responses", {}, UsageFacts(service_tier="default"), asked)
    assert served == Terms(service_tier="standard", window="2h", region="eu", batch=True)
    told = {"service_tier": "batch", "inference_geo": "us", "speed": "fast"}
    assert read_terms("messages", told, NO_FACTS, Terms()) == Terms(batch=True, region="us", fast=True)
    assert read_terms("messages", {"speed": "standard"}, NO_FACTS, Terms(fast=True)) == Terms()
    assert read_terms("gemini", {"trafficType": "ON_DEMAND_FLEX"}, NO_FACTS, Terms()).service_tier == "flex"
    assert read_terms("chat", {}, UsageFacts(service_tier="Novel"), Terms()).service_tier == "novel"


def test_base_urls_name_their_catalogue() -> None:
    """By the host as a whole: a look-alike domain names nobody."""
    assert catalog_of("https://api.openai.com/v1") == "openai"
    assert catalog_of("https://eu.api.openai.com/v1") == "openai"
    assert catalog_of("https://api.anthropic.com") == "anthropic"
    assert catalog_of("https://generativelanguage.googleapis.com/v1beta") == "google"
    assert catalog_of("https://mine.openai.azure.com/openai/v1") == "azure"
    assert catalog_of("https://bedrock-runtime.us-east-1.amazonaws.com") == "aws"
    assert catalog_of("https://api.moonshot.ai/v1") == "moonshotai"
    assert catalog_of("https://api.openai.com.example.org/v1") is None
    assert catalog_of("http://127.0.0.1:8000/v1") is None
    assert (region_of("https://eu.api.openai.com/v1"), region_of("https://api.openai.com/v1")) == ("eu", None)


def test_lines_that_cannot_be_read_are_answered() -> None:
    """One answer a line, with the line's id where it has one; never an exception."""
    bad = ["{", "[]", '{"id": 7}', '{"id": 8, "api": "chat", "ctx": 3}', '{"id": 9, "api": "chat", "usage": {}}',
           '{"id": 1, "api": "chat", "usage": {}, "ctx": {"at": "soon"}}',
           '{"id": 2, "api": "chat", "ctx": {"at": 1e300}}', "[" * 100_000]  # fmt: skip
    answers = list(price_lines([*bad, "", " \n"], BOOK, NOW))
    assert [a["id"] for a in answers] == [None, None, 7, 8, 9, 1, 2, None]
    assert all(a["usd"] is None and a["status"] == "unpriced" and a["error"] for a in answers)
    assert all(json.dumps(a) for a in answers)
