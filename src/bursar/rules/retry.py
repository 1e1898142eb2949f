"""When to try again, and after how long. Pure: a jitter is a hash of (policy seed, request id, attempt).

Which statuses may be retried follows the providers' own SDKs (openai 3.x, anthropic 2.x `_base_client`):
`x-should-retry` is obeyed first, then 408, 409, 429 and every 5xx; a transport failure counts as retryable.
"""

import hashlib

from bursar.policy import Policy, Retry
from bursar.types import Call, Failed, Headers, Outcome


def retryable(outcome: Outcome) -> bool:
    """True where another attempt may succeed and the caller has not had a byte of this one."""
    if not isinstance(outcome, Failed) or outcome.relayed:
        return False
    told = header(outcome.headers, "x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    return outcome.status is None or outcome.status < 300 or outcome.status in (408, 409, 429) or outcome.status >= 500


def wait_ms(call: Call, outcome: Outcome, attempt: int, policy: Policy) -> int | None:
    """Milliseconds before attempt + 1, or None where the provider asks for a longer wait than the policy allows."""
    rule = policy.retry
    asked = outcome.retry_after_ms if isinstance(outcome, Failed) else None
    if asked is not None:
        return asked if asked <= rule.longest_wait_ms else None
    return int(_backoff_ms(rule, attempt) * (1 - draw(policy.seed, call.request_id, f"jitter:{attempt}") / 4))


def _backoff_ms(rule: Retry, attempt: int) -> int:
    return min(rule.cap_ms, rule.base_ms << min(attempt - 1, 20))


def draw(seed: str, request_id: str, purpose: str) -> float:
    """A number in [0, 1): the same for the same (seed, request, purpose), in production and in replay."""
    digest = hashlib.blake2b(f"{seed}\0{request_id}\0{purpose}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / (1 << 56)


def header(headers: Headers, name: str) -> str | None:
    """The first value of a header, by its lower-case name."""
    return next((value for key, value in headers if key == name), None)
