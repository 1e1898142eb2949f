"""From a closed row to what telemetry says of it: one reading for spans, metrics, counters and logs. Pure.

Ids, labels, counts and amounts; never the text of an error, which may quote a prompt. What is not known is left out,
never zero. Amounts leave as integers of nano-dollars and beside them as the floating dollars that backends can sum.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from bursar.doors.telemetry import names
from bursar.policy import Provider
from bursar.types import Entry

Value: TypeAlias = str | bool | int | float | tuple[str, ...]
Attributes: TypeAlias = dict[str, Value]
UserIds: TypeAlias = Literal["plain", "hash", "none"]

_OPERATIONS = {"gemini": "generate_content", "embeddings": "embeddings", "other": "other"}
INFERENCES = frozenset(("chat", "generate_content", "text_completion", "embeddings"))
"""Operations that are one call of a model."""
_WELL_KNOWN = {
    "google": "gcp.gemini", "gemini": "gcp.gemini", "aws": "aws.bedrock", "azure": "azure.ai.openai",
    "mistral": "mistral_ai", "x-ai": "x_ai", "moonshotai": "moonshot_ai",
}  # fmt: skip
"""A catalogue's or a provider's name -> the conventions' word, where they differ."""
_KIND = re.compile(r"([A-Za-z_][A-Za-z0-9_.]{0,80})(?::|\Z)")
_REFUSALS = {200: "budget_exceeded", 404: "unroutable", 429: "budget_held", 504: "cache_miss"}
_SAID = (("the breaker ", "suspended"), ("the budget ", "budget_exceeded"))
"""How a refusal's reason begins: its row has the words alone."""
NANOS = 1_000_000_000


class Place(msgspec.Struct, frozen=True):
    """Where a provider is: the conventions' word for it, and its address."""

    provider: str
    host: str | None = None
    port: int | None = None


def place(name: str, provider: Provider | None, origin: str | None) -> Place:
    """origin: scheme and host that the door knows the call goes to, where no provider of that name is configured."""
    catalog = name if provider is None or provider.catalog is None else provider.catalog
    url = urlsplit(provider.base_url if provider is not None else origin or "")
    port = url.port or {"https": 443, "http": 80}.get(url.scheme)
    return Place(_WELL_KNOWN.get(catalog, catalog), url.hostname, port if url.hostname else None)


def operation(api: str) -> str:
    """The conventions' word for what a wire format asks for."""
    return _OPERATIONS.get(api, "chat")


def model_asked(entry: Entry) -> str | None:
    """The model that the provider was asked for: the caller's own word, or, where Bursar chose, the one that served."""
    asked = entry.requested_model
    if asked is None or not entry.route_reason.startswith("caller"):
        return entry.model or asked
    return asked.removeprefix(f"{entry.provider}/")


def span_name(entry: Entry) -> str:
    """`chat gpt-4o`; of what no provider was asked for, what Bursar did: `bursar.hit`."""
    if entry.status in ("hit", "refused"):
        return f"bursar.{entry.status}"
    model = model_asked(entry)
    return f"{operation(entry.api)} {model}" if model else operation(entry.api)


def error_type(entry: Entry) -> str | None:
    """A word for what went wrong, one of few: a status, an exception's name, or a refusal's kind; None: nothing."""
    match entry.status:
        case "refused":
            told = next((kind for words, kind in _SAID if (entry.error or "").startswith(words)), "refused")
            return told if told == "suspended" else _REFUSALS.get(entry.http_status or 0, told)
        case "failed" if entry.http_status is not None and entry.http_status >= 400:
            return str(entry.http_status)
        case "failed":
            kind = _KIND.match(entry.error or "")
            return kind.group(1) if kind else "_OTHER"
        case "abandoned":
            return "cancelled"
        case "expired":
            return "expired"
        case _:
            return None


def asked(entry: Entry, where: Place) -> Attributes:
    """What was asked of whom: the attributes that a metric may have too."""
    return _known({
        names.OPERATION: operation(entry.api),
        names.PROVIDER: where.provider,
        names.REQUEST_MODEL: model_asked(entry),
        names.RESPONSE_MODEL: entry.model if entry.status == "completed" else None,
        names.SERVER: where.host,
        names.PORT: where.port,
        names.ERROR: error_type(entry),
    })  # fmt: skip


def usage(entry: Entry) -> Attributes:
    """Tokens, inclusive as the conventions want them: input holds cached ones, output reasoning."""
    return _known({
        names.INPUT_TOKENS: entry.input_tokens,
        names.OUTPUT_TOKENS: entry.output_tokens,
        names.CACHE_READ_TOKENS: entry.cached_tokens,
        names.CACHE_WRITE_TOKENS: entry.cache_write_tokens,
        names.REASONING_TOKENS: entry.reasoning_tokens,
    })  # fmt: skip


def ours(entry: Entry) -> Attributes:
    """What Bursar knows of the row and no convention has a name for."""
    refused = entry.status == "refused"
    return _known({
        names.COST_USD: None if entry.cost_nanos is None else entry.cost_nanos / NANOS,
        names.COST_NANO_USD: entry.cost_nanos,
        names.COST_STATUS: entry.cost_status,
        names.PRICE: entry.price_id,
        names.CACHE: entry.cache,
        names.SAVED_USD: None if entry.saved_nanos is None else entry.saved_nanos / NANOS,
        names.AGENT: entry.agent_id,
        names.STEP: entry.step,
        names.RUN: entry.run_id,
        names.PARENT_RUN: entry.parent_run_id,
        names.TENANT: entry.tenant,
        names.USER_TIER: entry.user_tier,
        names.REQUEST: entry.request_id,
        names.ATTEMPT: entry.attempt,
        names.REQUESTED: entry.requested_model,
        names.PURPOSE: None if entry.purpose == "call" else entry.purpose,
        names.STATUS: entry.status,
        names.TIER: entry.tier,
        names.REASON: entry.route_reason,
        names.PROVIDER_NAME: entry.provider or None,
        names.SERVICE_TIER: None if entry.api in ("chat", "responses") else entry.service_tier,
        names.VALIDATED: entry.validated,
        names.BUDGET_ACTION: ("finish" if entry.http_status == 200 else "refuse") if refused else None,
        names.BUDGETS: tuple(sorted({charge.budget for charge in entry.charges})) or None,
    })  # fmt: skip


def inference(entry: Entry, where: Place) -> Attributes:
    """What the conventions say of a call of a model, beyond what was asked."""
    cut = entry.status in ("failed", "abandoned", "expired")
    openai = entry.api in ("chat", "responses")
    first = entry.first_byte_ms if entry.stream else None
    return {**asked(entry, where), **usage(entry), **_known({
        names.REQUEST_STREAM: entry.stream or None,
        names.RESPONSE_ID: entry.response_id,
        names.FINISH_REASONS: ("error",) if cut else None,
        names.FIRST_CHUNK: None if first is None else first / 1000,
        names.HTTP_STATUS: entry.http_status,
        names.OPENAI_TIER: entry.service_tier if openai else None,
    })}  # fmt: skip


def people(entry: Entry, user_ids: UserIds, key: bytes) -> Attributes:
    """Who it was for. user_ids "hash": a keyed hash in place of the user's id; "none": nothing."""
    user = entry.user_id
    hashed = user if user is None else hmac.new(key, user.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]
    return _known({
        names.USER: user if user_ids == "plain" else None,
        names.USER_HASH: hashed if user_ids == "hash" else None,
        names.SESSION: entry.session_id,
        names.AGENT_NAME: entry.agent_id,
    })  # fmt: skip


def on_request(entry: Entry, where: Place, wishes: names.Wishes) -> Attributes:
    """Older names and proposed ones, for whoever has opted in."""
    found: dict[str, Value | None] = {}
    if wishes.older:
        found = {names.OLD_SYSTEM: where.provider, names.OLD_CACHE_WRITE_TOKENS: entry.cache_write_tokens}
    if wishes.proposed and entry.cost_nanos is not None:
        amount = entry.cost_nanos / NANOS
        found |= {names.COST_AMOUNT: amount, names.COST_CURRENCY: "USD", names.COST_SOURCE: "local"}
    return _known(found)


def _known(found: Mapping[str, Value | None]) -> Attributes:
    return {name: value for name, value in found.items() if value is not None}
