"""guard.cascade: one prompt up the tiers until its answer passes, by a client that is wrapped, and how it came out.

It is a step like any other; only the request is made here, and what the door says of the answer is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeAlias

from bursar.doors.library.context import Step
from bursar.doors.library.steps import Said, Steps
from bursar.doors.library.wrap import module_of
from bursar.policy import AUTO

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
Tiers: TypeAlias = Sequence[str] | Literal["auto"] | None

_ANTHROPIC_MAX_TOKENS = 4096
"""What is asked of a format that wants an output limit, where the caller sets none."""


@dataclass(frozen=True, slots=True)
class Cascaded:
    """What a cascade came to."""

    text: str
    """Of the answer that passed, else of the best one obtained."""
    validated: bool
    """False: no answer passed its check, or a budget ended it: this one is flagged."""
    tier: str | None
    """Whose answer it is; None where no provider gave it."""
    model: str | None
    """As "provider/model"."""
    reason: str
    """Why that tier: the row's route_reason; "" where no provider gave it."""
    attempts: int
    """Sent to providers, judges not counted."""
    cost: Decimal | None
    """USD of all attempts and judges; None: not known."""
    answer: Any
    """The client's own object."""


class Last:
    """The clients that were wrapped last, blocking and asyncio, of those that a cascade can ask by."""

    def __init__(self) -> None:
        self._clients: dict[bool, Any] = {}

    def wrapped(self, client: Any) -> None:
        asynchronous = _asynchronous(client)
        if asynchronous is not None and _speaks(client) is not None:
            self._clients[asynchronous] = client

    def of(self, client: Any, *, asynchronous: bool) -> Any:
        """This client, or the last one; ValueError where there is none, TypeError where it is of another kind."""
        call, kinds = ("acascade", "AsyncOpenAI, AsyncAnthropic") if asynchronous else ("cascade", "OpenAI, Anthropic")
        found = client if client is not None else self._clients.get(asynchronous)
        if found is None:
            raise ValueError(f"{call} has no client to ask by: guard.wrap() one first, or give client= ({kinds})")
        if _speaks(found) is None or _asynchronous(found) is not asynchronous:
            raise TypeError(f"{call} cannot ask by a {type(found).__qualname__}: expected {kinds}")
        return found


class Asked(NamedTuple):
    """A cascade about to begin."""

    step: Step
    create: Callable[[], Any]
    """Sends it; gives the SDK's raw response, or an awaitable of it."""
    read: Callable[[Any], Cascaded]


def asked(
    steps: Steps, client: Any, prompt: Prompt, validate: object, tiers: Tiers, step: str, options: Mapping[str, Any]
) -> Asked:
    """The step, the request and how its answer is read."""
    names = list(steps.tiers if tiers is None or tiers == AUTO else tiers)
    if not names:
        raise ValueError("a cascade climbs tiers, and there are none: add [tiers], or name those to climb")
    said: Said = {"validate": validate}
    if tiers == AUTO:
        said["tier"] = AUTO
    elif len(names) == 1:
        said["tier"] = names[0]
    else:
        said["cascade"] = names
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    request = {"model": said.get("tier") or names[0], "messages": messages, **options}
    own = steps.own(**said)
    if _speaks(client) == "messages":
        request.setdefault("max_tokens", _ANTHROPIC_MAX_TOKENS)
        create = client.messages.with_raw_response.create
        return Asked(Step(step, own=own), lambda: create(**request), lambda raw: _read(raw, _message))
    create = client.chat.completions.with_raw_response.create
    return Asked(Step(step, own=own), lambda: create(**request), lambda raw: _read(raw, _completion))


def _read(raw: Any, text: Callable[[Any], str]) -> Cascaded:
    answer, told = raw.parse(), raw.headers
    cost = told.get("x-bursar-cost-usd")
    return Cascaded(
        text=text(answer),
        validated=told.get("x-bursar-validated") == "true",
        tier=told.get("x-bursar-tier"),
        model=told.get("x-bursar-model"),
        reason=told.get("x-bursar-route-reason", ""),
        attempts=int(told.get("x-bursar-attempts", "0")),
        cost=None if cost is None else Decimal(cost),
        answer=answer,
    )


def _completion(answer: Any) -> str:
    return answer.choices[0].message.content or "" if answer.choices else ""


def _message(answer: Any) -> str:
    return "".join(block.text for block in answer.content if block.type == "text")


def _speaks(client: Any) -> Literal["chat", "messages"] | None:
    """By shape, so that no SDK is imported here."""
    if hasattr(getattr(client, "chat", None), "completions"):
        return "chat"
    return "messages" if hasattr(getattr(client, "messages", None), "create") else None


def _asynchronous(client: Any) -> bool | None:
    """None: it is no client of an SDK over httpx2 or httpx."""
    http = getattr(client, "_client", None)
    module = module_of(http)
    return None if module is None else isinstance(http, module.AsyncClient)
