# ruff: noqa: E501 (a table of bills reads better unwrapped)
"""Worked bills, one for every billing rule: usage as the provider sends it, and the dollars it costs at list prices.

The amounts were worked out by hand from the published rates (USD per million tokens), which stand in the comments.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bursar.doors.price_cli import price_lines
from bursar.money import parse_usd
from bursar.policy import PriceBook
from bursar.rules.cards import compile_book
from bursar.types import Instant

NOW = Instant(1_795_392_000_000_000)  # 2026-11-23


def responses(prompt: int, output: int, cached: int = 0, write: int = 0, **split: int) -> dict[str, Any]:
    inside: dict[str, Any] = {"cached_tokens": cached, "cache_write_tokens": write}
    if split:
        inside["cache_write_tokens_details"] = {f"ttl_{ttl}_tokens": n for ttl, n in split.items()}
    return {
        "input_tokens": prompt,
        "input_tokens_details": inside,
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + output,
    }


def messages(fresh: int, output: int, read: int = 0, write: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": write,
        "output_tokens": output,
        **more,
    }


def turn(kind: str, fresh: int, output: int, model: str | None = None) -> dict[str, Any]:
    return {"type": kind, **messages(fresh, output), **({"model": model} if model else {})}


def gemini(prompt: int, made: int, thoughts: int = 0, **more: Any) -> dict[str, Any]:
    return {"promptTokenCount": prompt, "candidatesTokenCount": made, "thoughtsTokenCount": thoughts, **more}


def media(**tokens: int) -> list[dict[str, Any]]:
    return [{"modality": name, "tokenCount": n} for name, n in tokens.items()]


SOL, SONNET, OPUS, FABLE, FLASH = (
    "gpt-6.1-sol",
    "claude-sonnet-5-5",
    "claude-opus-4-8",
    "claude-fable-5-1",
    "gemini-3.8-flash",
)
DECLINED = [turn("message", 1000, 0, FABLE), turn("fallback_message", 1000, 100, "claude-opus-5-5")]
SEARCHED: dict[str, Any] = {"server_tool_use": {"web_search_requests": 2}}
IMAGE = {"image_gen": {"input_tokens": 1000, "input_tokens_details": {"image_tokens": 400, "text_tokens": 600},
                       "output_tokens": 500, "total_tokens": 1500}}  # fmt: skip
AUDIO = {"prompt_tokens": 1000, "prompt_tokens_details": {"audio_tokens": 400}, "completion_tokens": 500,
         "completion_tokens_details": {"audio_tokens": 300}, "total_tokens": 1500}  # fmt: skip
PREDICTED = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500,
             "completion_tokens_details": {"accepted_prediction_tokens": 100, "rejected_prediction_tokens": 200}}  # fmt: skip
CACHED_AUDIO = gemini(5000, 100, cachedContentTokenCount=2000, promptTokensDetails=media(TEXT=2000, AUDIO=3000),
                      cacheTokensDetails=media(TEXT=1000, AUDIO=1000))  # fmt: skip
CONVERSE = {"inputTokens": 1000, "outputTokens": 500, "totalTokens": 21500, "cacheReadInputTokens": 20000}
TTL_SPLIT: dict[str, Any] = {"cache_creation": {"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 3000}}

VECTORS: list[tuple[str, str, str, Any, dict[str, Any], str | None]] = [
    # OpenAI gpt-6.1-sol: input 2, cached 0.1, write 2.5 (30 min) / 5 (12 h), output 10; past 272k 4 / 0.2 / 5 / 15
    ("writes replace the input rate, each lifetime at its own", "responses", SOL,
     responses(30_000, 500, 10_000, 8_000, **{"30m": 3_000, "12h": 5_000}), {}, "0.0625"),
    ("writes without a split live 30 minutes", "responses", SOL, responses(10_000, 100, 0, 4_000), {}, "0.023"),
    ("or as long as the request asked", "responses", SOL, responses(10_000, 100, 0, 4_000),
     {"prompt_cache_options": {"ttl": "12h"}}, "0.033"),
    ("writes cost the input rate before gpt-5.6", "responses", "gpt-5.4", responses(10_000, 0, 0, 4_000), {}, "0.025"),
    ("272,000 tokens are not past the cliff", "responses", SOL, responses(272_000, 1_000), {}, "0.554"),
    ("one more re-prices all of them", "responses", SOL, responses(272_001, 1_000), {}, "1.103004"),
    ("cached tokens count for the cliff", "responses", SOL, responses(272_001, 0, 272_001), {}, "0.0544002"),
    ("ultrafast is six times standard", "responses", SOL, responses(1_000, 100), {"service_tier": "ultrafast"}, "0.018"),
    ("no model is ultrafast that is not listed", "responses", "gpt-6-luna", responses(9, 9), {"service_tier": "ultrafast"}, None),
    ("fast is OpenAI's word for priority", "responses", SOL, responses(1_000, 100), {"service_tier": "fast"}, "0.006"),
    ("priority is the model's own row, not a constant", "chat", "gpt-4.1",
     {"prompt_tokens": 1000, "completion_tokens": 100}, {"service_tier": "priority"}, "0.0049"),
    ("auto and default are standard", "responses", SOL, responses(1_000, 100), {"service_tier": "auto"}, "0.003"),
    ("an unknown tier has no price", "responses", SOL, responses(1_000, 100), {"service_tier": "turbo"}, None),
    ("prepaid capacity has no price a token", "responses", SOL, responses(1_000, 100), {"service_tier": "scale"}, None),
    ("two hours' patience: 30 % off", "responses", SOL, responses(10_000, 1_000), {"completion_window": "2h"}, "0.021"),
    ("eight hours' patience: 40 % off", "responses", SOL, responses(10_000, 1_000), {"completion_window": "8h"}, "0.018"),
    ("soonest is no window", "responses", SOL, responses(10_000, 1_000), {"completion_window": "soonest"}, "0.03"),
    ("a window is for the standard tier only", "responses", SOL, responses(10_000, 1_000),
     {"completion_window": "2h", "service_tier": "priority"}, None),
    ("a regional endpoint costs a tenth more, its searches do not", "responses", SOL, responses(10_000, 1_000),
     {"region": "eu", "tool_usage": {"web_search": {"num_requests": 1}}}, "0.043"),
    ("models before gpt-5.4 have no regional uplift", "chat", "gpt-4o",
     {"prompt_tokens": 1000, "completion_tokens": 0}, {"region": "eu"}, "0.0025"),
    ("batch halves tokens, not searches", "responses", SOL, responses(10_000, 1_000),
     {"batch": True, "tool_usage": {"web_search": {"num_requests": 2}}}, "0.035"),
    ("batch and flex together are half price, not a quarter", "responses", SOL, responses(10_000, 1_000),
     {"batch": True, "service_tier": "flex"}, "0.015"),
    ("searches are counted by items where the answer does not tell", "responses", SOL, responses(10_000, 1_000),
     {"output": [{"type": "web_search_call", "action": {"type": t}} for t in ("search", "open_page")]}, "0.04"),
    ("file searches are 2.50 a thousand", "responses", SOL, responses(10_000, 1_000), {"file_search_calls": 2}, "0.035"),
    # gpt-image-2: input 5, image input 8, image output 30
    ("the image tool at the image model's rates", "responses", SOL, responses(1_000, 0),
     {"tool_usage": IMAGE, "image_model": "gpt-image-2"}, "0.0232"),
    ("which must be known", "responses", SOL, responses(1_000, 0), {"tool_usage": IMAGE}, None),
    # gpt-audio: text 2.5 / 10, audio 32 / 64
    ("audio at audio rates, the rest as text", "chat", "gpt-audio", AUDIO, {}, "0.0355"),
    ("rejected predictions are inside the completion", "chat", "gpt-4o", PREDICTED, {}, "0.0075"),
    ("a name as routers spell it", "chat", "openai/gpt-4o", PREDICTED, {}, "0.0075"),
    ("reasoning told beside the completion is billed too", "chat", "gpt-4o",
     {"prompt_tokens": 0, "completion_tokens": 100, "total_tokens": 150,
      "completion_tokens_details": {"reasoning_tokens": 50}}, {}, "0.0015"),
    ("gpt-5.6-sol before its price cut", "responses", "gpt-5.6-sol", responses(1_000, 100), {"at": "2026-08-20"}, "0.008"),
    ("and from that day on", "responses", "gpt-5.6-sol", responses(1_000, 100), {"at": "2026-08-21"}, "0.006"),
    ("batch holds before the day the catalogue checked it", "responses", SOL, responses(1_000, 100),
     {"at": "2026-10-01", "batch": True}, "0.0015"),
    ("embeddings", "embeddings", "text-embedding-3-large", {"prompt_tokens": 1000, "total_tokens": 1000}, {}, "0.00013"),
    ("a fine-tune is not its base model", "chat", "ft:gpt-4o-mini:acme", PREDICTED, {}, None),
    ("a newer model is not an older one", "chat", "gpt-6.3-sol", PREDICTED, {}, None),
    # Anthropic claude-opus-4-8: 5 / 25, read 0.5, write 6.25 (5 min) / 10 (1 h); fast 10 / 50 / 1
    ("cache writes by lifetime", "messages", OPUS, messages(1_000, 200, 10_000, 5_000, **TTL_SPLIT), {}, "0.0575"),
    ("without a split, five minutes", "messages", OPUS, messages(100, 0, 0, 1_000), {}, "0.00675"),
    ("or an hour where nothing else was asked", "messages", OPUS, messages(100, 0, 0, 1_000), {"cache_ttl": "1h"}, "0.0105"),
    ("fast has its own row", "messages", OPUS, messages(1_000, 100, 2_000, speed="fast"), {}, "0.017"),
    ("and geography multiplies it", "messages", OPUS, messages(1_000, 100, 2_000, speed="fast", inference_geo="us"), {}, "0.0187"),
    ("global is no geography", "messages", OPUS, messages(1_000, 100, inference_geo="global"), {}, "0.0075"),
    ("a model too old for geography", "messages", "claude-opus-4-5", messages(9, 9, inference_geo="us"), {}, None),
    ("committed capacity has no list price", "messages", OPUS, messages(9, 9, service_tier="priority"), {}, None),
    # claude-sonnet-5-5: 2 / 10, read 0.2 until 2026-10-06, then 0.1
    ("batch halves tokens, not searches", "messages", SONNET, messages(10_000, 1_000, service_tier="batch", **SEARCHED), {}, "0.035"),
    ("cache reads before the cut", "messages", SONNET, messages(0, 0, 10_000), {"at": "2026-10-06T23:59:59Z"}, "0.002"),
    ("and after it", "messages", SONNET, messages(0, 0, 10_000), {"at": "2026-10-07"}, "0.001"),
    ("a batch before the cut", "messages", SONNET, messages(0, 0, 10_000), {"at": "2026-10-01", "batch": True}, "0.001"),
    ("an on-demand compaction has zeros above", "messages", SONNET,
     messages(0, 0, iterations=[turn("compaction", 10_000, 500)]), {}, "0.025"),
    ("an advisor at its own rates", "messages", SONNET,
     messages(1_000, 100, iterations=[turn("message", 1_000, 100), turn("advisor_message", 2_000, 300, "claude-opus-5-5")]),
     {}, "0.017"),
    # claude-fable-5-1: 10 / 50; claude-opus-5-5: 4 / 20
    ("a declined attempt of a billed category", "messages", "claude-opus-5-5", messages(1_000, 100, iterations=DECLINED),
     {"refusal_category": "bio"}, "0.016"),
    ("of a free one", "messages", "claude-opus-5-5", messages(1_000, 100, iterations=DECLINED),
     {"refusal_category": None}, "0.006"),
    ("a refusal in the middle of the answer is billed", "messages", FABLE, messages(100, 50),
     {"stop_reason": "refusal", "refusal_category": "cyber", "content_empty": False}, "0.0035"),
    ("one before it is not", "messages", FABLE, messages(100, 1),
     {"stop_reason": "refusal", "refusal_category": "general_harms", "content_empty": True}, "0"),
    ("unless its category is", "messages", FABLE, messages(100, 1),
     {"stop_reason": "refusal", "stop_details": {"category": "frontier_llm"}, "content": []}, "0.00105"),
    # claude-haiku-5-5: 0.1 / 0.5, past 100k 0.5 / 2.5, read 0.05, write 0.625
    ("100,000 tokens are not past the cliff", "messages", "claude-haiku-5-5", messages(100_000, 0), {}, "0.01"),
    ("reads and writes count for it", "messages", "claude-haiku-5-5", messages(50_000, 0, 30_000, 20_001), {}, "0.039000625"),
    ("a stream's usage is replaced, never added", "messages", SONNET,
     [messages(1_000, 1), {"output_tokens": 40}, {"output_tokens": 100, "input_tokens": None}], {}, "0.003"),
    # Gemini
    ("3.1 pro at its cliff", "gemini", "gemini-3.1-pro-preview", gemini(200_000, 1_000), {}, "0.412"),
    ("and past it", "gemini", "gemini-3.1-pro-preview", gemini(250_000, 1_000), {}, "1.018"),
    # gemini-2.5-flash: text 0.3, audio 1, cached text 0.03, cached audio 0.1, output 2.5
    ("cached audio has its own rate", "gemini", "models/gemini-2.5-flash", CACHED_AUDIO, {}, "0.00268"),
    # gemini-3.8-flash: 0.75 / 3.75; doubles on 2027-01-01
    ("thoughts are output, tool prompts are input", "gemini", FLASH, gemini(1_000, 200, 300, toolUsePromptTokenCount=500), {}, "0.003"),
    ("flex by the header", "gemini", FLASH, gemini(1_000, 200), {"headers": {"X-Gemini-Service-Tier": "flex"}}, "0.00075"),
    ("priority by Vertex's traffic type", "gemini", FLASH, gemini(1_000, 200, trafficType="ON_DEMAND_PRIORITY"), {}, "0.0027"),
    ("provisioned throughput has no price a token", "gemini", FLASH, gemini(1_000, 200, trafficType="PROVISIONED_THROUGHPUT"), {}, None),
    ("the price of the day", "gemini", FLASH, gemini(1_000, 200), {"at": "2027-01-01"}, "0.003"),
    ("flex follows it", "gemini", FLASH, gemini(1_000, 200), {"at": "2027-01-01", "service_tier": "flex"}, "0.0015"),
    ("Gemini 3 is grounded by the query", "gemini", FLASH, gemini(1_000, 200), {"grounding_queries": 2}, "0.0295"),
    ("Gemini 2.5 by the prompt", "gemini", "gemini-2.5-flash", gemini(1_000, 0), {"grounding_queries": 2}, "0.0353"),
    ("flash-lite is not flash", "gemini", "gemini-3.8-flash-lite", gemini(1_000, 0), {}, None),
    # Bedrock: no prefix and us. are regional, a tenth above global.
    ("a regional profile", "converse", "us.anthropic.claude-opus-4-8", CONVERSE, {"region": "us-east-1"}, "0.03025"),
    ("no profile", "converse", "anthropic.claude-opus-4-8-v1:0", CONVERSE, {}, "0.03025"),
    ("Bedrock's write details", "converse", "global.anthropic.claude-opus-4-8",
     {"inputTokens": 100, "outputTokens": 0, "cacheWriteInputTokens": 3_000,
      "cacheDetails": [{"ttl": "1h", "inputTokens": 1_000}, {"ttl": "5m", "inputTokens": 2_000}]}, {}, "0.023"),
    ("an unknown profile", "converse", "moon.anthropic.claude-opus-4-8", CONVERSE, {}, None),
]  # fmt: skip


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return compile_book({}, {})


def price(book: PriceBook, **line: Any) -> dict[str, Any]:
    (answer,) = price_lines([json.dumps(line)], book, NOW)
    return answer


@pytest.mark.parametrize(("rule", "api", "model", "usage", "ctx", "usd"), VECTORS, ids=[v[0] for v in VECTORS])
def test_every_billing_rule_gives_its_dollars(
    book: PriceBook, rule: str, api: str, model: str, usage: Any, ctx: dict[str, Any], usd: str | None
) -> None:
    """The bill that was worked out by hand, to the nano-dollar; None: no known price, and never 0."""
    answer = price(book, id=rule, api=api, model=model, usage=usage, ctx=ctx)
    assert answer["usd"] == usd, answer
    assert (answer["status"] == "unpriced") == (usd is None), answer
    if usd is None:
        assert answer["why"]


@pytest.mark.parametrize(
    ("why", "line"),
    [
        ("search items counted for want of tool_usage", {"api": "responses", "model": SOL, "usage": responses(9, 9), "ctx": {"search_items": 1}}),
        ("grounding at list price", {"api": "gemini", "model": FLASH, "usage": gemini(9, 9), "ctx": {"grounding_queries": 1}}),
        ("cached audio not told apart", {"api": "gemini", "model": "gemini-2.5-flash", "usage": gemini(
            9, 9, cachedContentTokenCount=3, promptTokensDetails=media(AUDIO=3))}),
        ("a declined attempt whose category is not told", {"api": "messages", "model": "claude-opus-5-5", "usage": messages(9, 9, iterations=DECLINED)}),
        ("a refusal category that is new", {"api": "messages", "model": FABLE, "usage": messages(9, 1),
            "ctx": {"stop_reason": "refusal", "refusal_category": "novel", "content_empty": True}}),
        ("cache writes not reported by a model that bills them", {"api": "responses", "model": SOL, "usage": {
            "input_tokens": 2000, "output_tokens": 9, "total_tokens": 2009}}),
    ],
)  # fmt: skip
def test_what_was_guessed_is_called_estimated(book: PriceBook, why: str, line: dict[str, Any]) -> None:
    """A price that rests on a guess says so."""
    answer = price(book, **line)
    assert answer["status"] == "estimated", (why, answer)
    assert answer["usd"] is not None


def test_the_shared_vectors_agree_to_the_nano_dollar(book: PriceBook) -> None:
    """Every vector of the shared data file is priced as that file says."""
    shared = Path(os.environ.get("BURSAR_SHARED", Path(__file__).parents[1].parent / "shared"))
    file = shared / "data" / "price_vectors.jsonl"
    if not file.exists():
        pytest.skip(f"NOT CHECKED: {file} is missing; set BURSAR_SHARED to the shared data to run this test")
    lines = file.read_text().splitlines()
    answers = list(price_lines(lines, book, NOW))
    assert len(answers) == len([line for line in lines if line.strip()]) > 20
    for line, answer in zip(lines, answers, strict=True):
        usd = json.loads(line)["usd"]
        assert (answer["usd"] and parse_usd(answer["usd"])) == (usd and parse_usd(usd)), answer
        assert (answer["status"] == "unpriced") == (usd is None), answer
