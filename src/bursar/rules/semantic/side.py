"""The paid side call of a semantic look-up: a question's vector from a provider's embeddings endpoint. Pure.

It has its own row with purpose "embed", claimed on the call's own budgets. Only the endpoint's own provider is told
the caller's credential. Failure: what cannot be asked, and an answer that is no vector, is None, and so a miss.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from bursar.policy import Endpoint
from bursar.rules.route.ladder import FAMILY
from bursar.rules.semantic.question import Question
from bursar.types import Block, Call, Completed, Outcome, Plan, Refused, View

_SUFFIXES = ("/chat/completions", "/responses")
_DROPPED = frozenset(("content-length", "idempotency-key", "transfer-encoding", "accept"))


class _Item(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Item]


_ANSWER = msgspec.json.Decoder(_Vectors)


def embedding(call: Call, own: Plan, question: Question, allowed: tuple[str, ...] = ()) -> tuple[Call, Plan] | None:
    """The side call and its plan; None: the rule names no endpoint, or this door cannot reach it.

    allowed: the step's data policy; nobody else is told the question. (): everybody is.
    """
    endpoint = question.rule.embedder
    if not isinstance(endpoint, Endpoint) or (allowed and endpoint.provider not in allowed):
        return None
    home = call.home if call.provider is None else call.provider
    here = endpoint.provider == (own.provider if home is None else home) and FAMILY.get(call.api) == "openai"
    path = _path(call) if here else "/embeddings"
    if path is None or (call.provider is not None and not here):
        return None
    asked: dict[str, Any] = {"model": endpoint.model, "input": [question.text], "encoding_format": "float"}
    if endpoint.dimensions is not None:
        asked["dimensions"] = endpoint.dimensions
    headers = tuple(pair for pair in call.headers if pair[0] not in _DROPPED) if here else ()
    text = msgspec.json.encode(question.text)
    side = Call(
        request_id=f"{call.request_id}-embed",
        api="embeddings",
        view=View(model=endpoint.model, prose=False, blocks=(Block("message", text),)),
        body=msgspec.json.encode(asked),
        headers=headers if here else (("content-type", "application/json"),),
        path=path,
        tags=call.tags,
        received=call.received,
        provider=endpoint.provider if call.provider is not None else None,
        home=call.home,
        purpose="embed",
    )
    plan = Plan(endpoint.provider, endpoint.model, requested_model=endpoint.model, reason="embed")
    return side, plan


def vector(outcome: Outcome | Refused) -> Sequence[float] | None:
    """The vector in an embeddings answer."""
    if not isinstance(outcome, Completed) or outcome.body is None:
        return None
    try:
        (item,) = _ANSWER.decode(outcome.body).data
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None
    return item.embedding


def _path(call: Call) -> str | None:
    """The endpoint beside the one that was called."""
    path = call.path.partition("?")[0]
    found = next((suffix for suffix in _SUFFIXES if path.endswith(suffix)), None)
    return None if found is None else path.removesuffix(found) + "/embeddings"
