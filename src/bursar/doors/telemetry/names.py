"""Every name that goes out by OpenTelemetry, and nothing else: when the conventions move, this file does.

The GenAI names are those of semantic-conventions-genai v0.1.0 (all of them still Development there). By
OTEL_SEMCONV_STABILITY_OPT_IN, a list with commas: `gen_ai/dup` sends the older names beside them,
`gen_ai_latest_experimental` the names that are only proposed (costs: its pull request 443). What is Bursar's own
begins with `bursar.`.
"""

from typing import Final

import msgspec

OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"


class Wishes(msgspec.Struct, frozen=True):
    """What OTEL_SEMCONV_STABILITY_OPT_IN asks for."""

    older: bool = False
    proposed: bool = False


def wishes(opt_in: str) -> Wishes:
    """Read the variable; categories of others are passed over."""
    told = {word.strip() for word in opt_in.split(",")}
    return Wishes(older="gen_ai/dup" in told, proposed="gen_ai_latest_experimental" in told)


# --- attributes of the conventions

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
CONVERSATION: Final = "gen_ai.conversation.id"
AGENT_NAME: Final = "gen_ai.agent.name"
OPENAI_TIER: Final = "openai.response.service_tier"
USER: Final = "user.id"
USER_HASH: Final = "user.hash"
SESSION: Final = "session.id"
ERROR: Final = "error.type"
EXCEPTION: Final = "exception.type"
HTTP_STATUS: Final = "http.response.status_code"
SERVER: Final = "server.address"
PORT: Final = "server.port"

# older, sent beside them on request
OLD_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
OLD_SYSTEM: Final = "gen_ai.system"
OLD_TOKEN_TYPE: Final = "gen_ai.token.type"

# proposed, sent on request
COST_AMOUNT: Final = "gen_ai.usage.cost.amount"
COST_CURRENCY: Final = "gen_ai.usage.cost.currency"
COST_SOURCE: Final = "gen_ai.usage.cost.source"

# --- attributes of our own

COST_USD: Final = "bursar.cost.usd"
COST_NANO_USD: Final = "bursar.cost.nano_usd"
"""The same, exactly: an integer."""
COST_STATUS: Final = "bursar.cost.status"
PRICE: Final = "bursar.cost.price_id"
CACHE: Final = "bursar.cache.status"
SAVED_USD: Final = "bursar.cache.saved_usd"
AGENT: Final = "bursar.agent.id"
STEP: Final = "bursar.step"
RUN: Final = "bursar.run.id"
PARENT_RUN: Final = "bursar.run.parent_id"
TENANT: Final = "bursar.tenant"
USER_TIER: Final = "bursar.user.tier"
REQUEST: Final = "bursar.request.id"
ATTEMPT: Final = "bursar.request.attempt"
REQUESTED: Final = "bursar.request.model"
"""What the caller asked for: a model, or a tier's name."""
PURPOSE: Final = "bursar.request.purpose"
STATUS: Final = "bursar.status"
TIER: Final = "bursar.route.tier"
REASON: Final = "bursar.route.reason"
SERVICE_TIER: Final = "bursar.service_tier"
VALIDATED: Final = "bursar.validated"
BUDGET_ACTION: Final = "bursar.budget.action"
BUDGETS: Final = "bursar.budget.names"
PROVIDER_NAME: Final = "bursar.provider"
"""The provider's name in bursar.toml."""
ATTEMPTS: Final = "bursar.request.attempts"

# --- metrics

INFERENCE: Final = "gen_ai.client.inference"
DURATION: Final = "gen_ai.client.inference.duration"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.inference.time_to_first_chunk"
USAGE_INPUT: Final = "gen_ai.client.inference.usage.input_tokens"
USAGE_OUTPUT: Final = "gen_ai.client.inference.usage.output_tokens"
USAGE_CACHE_READ: Final = "gen_ai.client.inference.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE: Final = "gen_ai.client.inference.usage.cache_write.input_tokens"
USAGE_REASONING: Final = "gen_ai.client.inference.usage.reasoning.output_tokens"
CALL_INPUT: Final = "gen_ai.client.inference.operation.input_tokens"
CALL_OUTPUT: Final = "gen_ai.client.inference.operation.output_tokens"
EMBEDDINGS_DURATION: Final = "gen_ai.client.embeddings.duration"
EMBEDDINGS_INPUT: Final = "gen_ai.client.embeddings.operation.input_tokens"
OLD_TOKENS: Final = "gen_ai.client.token.usage"
OLD_DURATION: Final = "gen_ai.client.operation.duration"
PROPOSED_COST: Final = "gen_ai.client.operation.cost"
CALLS: Final = "bursar.calls"
COST: Final = "bursar.cost"
SAVED: Final = "bursar.cache.saved"

SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""The conventions' own bounds of durations."""
TOKENS: Final = tuple(4**power for power in range(14))
"""The conventions' own bounds of token counts: 1 to 67,108,864."""
DOLLARS: Final = tuple(10.0**power for power in range(-6, 3))

# --- events

FAILED: Final = "gen_ai.client.inference.exception"
REFUSED: Final = "bursar.call.refused"
UNPRICED: Final = "bursar.call.unpriced"
