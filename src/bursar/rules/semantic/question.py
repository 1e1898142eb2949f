"""What a call asks of the semantic cache: its question and the walls around it. Pure; what is not plain asks nothing.

Walls: two questions meet only where all else that the exact key holds is equal: tenant, scope, requested model or
tier, system prompt, tools, parameters and the whole conversation before. Labels are pooled a little wider, over the
users and conversations of one tenant's step: a label carries numbers about two texts, never an answer.
"""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from bursar.policy import Endpoint, Policy, ResponseCache, SemanticCache
from bursar.rules import budget, reuse
from bursar.rules.semantic.eligible import ineligible
from bursar.types import Api, Call, Plan

Json: TypeAlias = dict[str, Any]

_BULK: dict[Api, str] = {"chat": "messages", "responses": "input", "messages": "messages", "gemini": "contents"}
_PROSE = frozenset((None, "text", "input_text"))
_TOOL_ROLES = frozenset(("tool", "function"))
_TOOL_KEYS = frozenset(("tool_calls", "tool_call_id", "function_call", "functionCall", "functionResponse", "call_id"))
_TOOL_TYPES = ("tool", "function", "mcp", "computer", "shell", "code_interpreter")


class Question(msgspec.Struct, frozen=True):
    """One question, and where its answers may be looked for."""

    api: Api
    tenant: str
    step: str
    text: str
    """The user's last turn alone."""
    partition: str
    """Whose entries may be found: 64 hex digits."""
    pool: str
    """Whose labels count together: 64 hex digits."""
    key: bytes
    """Under which this call's own answer is kept."""
    rule: SemanticCache
    seed: str
    reads: bool
    writes: bool


def question(call: Call, plan: Plan, policy: Policy) -> Question | None:
    """None: the step has no semantic cache, the call names no scope, or its answer may depend on more than its text."""
    rule = budget.rule_of(call, policy)
    cache = None if rule is None else rule.semantic_cache
    view = call.view
    if cache is None or call.cache == "off" or view.opaque_input or view.background or view.choices > 1:
        return None
    if call.cache == "only" and isinstance(cache.embedder, Endpoint):
        return None  # which spends nothing
    if cache.scope in ("user", "session") and budget.identity(cache.scope, call.tags) == budget.NONE:
        return None
    found = _cut(call)
    if found is None or ineligible(found[0], fresh_for_s=cache.ttl_ms // 1_000) is not None:
        return None
    text, around, frame = found
    if rule is not None and rule.response_cache is not None and rule.response_cache.tools and around.get("tools"):
        return None  # an answer that calls tools is kept for equal calls, never for like ones
    came = reuse.checked(rule)
    scope = reuse.scope(call.tags, ResponseCache(ttl_ms=cache.ttl_ms, scope=cache.scope)) + came
    place = Plan(provider=plan.provider, model=None)
    partition = reuse.key(_with(call, around), place, scope, policy.cache_key)
    pool = reuse.key(_with(call, frame), place, f"pool:{cache.scope}{came}", policy.cache_key)
    if partition is None or pool is None:
        return None
    own = hmac.new(policy.cache_key, partition + call.request_id.encode() + b"\0" + text.encode(), hashlib.sha256)
    return Question(
        api=call.api,
        tenant=call.tags.tenant,
        step=call.tags.step or "",
        text=text,
        partition=partition.hex(),
        pool=pool.hex(),
        key=own.digest(),
        rule=cache,
        seed=policy.seed,
        reads=call.cache != "refresh",
        writes=call.cache != "only" and not call.no_store,
    )


def _with(call: Call, body: Json) -> Call:
    return msgspec.structs.replace(call, body=msgspec.json.encode(body))


def _cut(call: Call) -> tuple[str, Json, Json] | None:
    """(the last user text, the body without it, the body without any message); None: no plain question."""
    bulk = _BULK.get(call.api)
    try:
        body = msgspec.json.decode(call.body)
        if bulk is None or not isinstance(body, dict):
            return None
        turns = _turns(call.api, body.get(bulk))
        last = turns[-1] if turns else None
        text = None if last is None else _text(call.api, last)
        if last is None or text is None or any(_uses_tools(turn) for turn in turns[:-1]):
            return None
        text.encode()
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    rest = {name: value for name, value in last.items() if name not in ("content", "parts", "type")}
    return text, {**body, bulk: [*turns[:-1], {**rest, "role": "user"}]}, {**body, bulk: []}


def _turns(api: Api, bulk: Any) -> list[Json]:
    """The conversation as a list of objects; empty where it is anything else."""
    if api == "responses" and isinstance(bulk, str):
        return [{"role": "user", "content": bulk}]
    listed = [bulk] if api == "gemini" and isinstance(bulk, dict) else bulk
    if not isinstance(listed, list) or not all(isinstance(turn, dict) for turn in listed):
        return []
    return listed


def _text(api: Api, turn: Json) -> str | None:
    """A user turn's text where it is nothing else: no image, no file, no tool's result."""
    if turn.get("role", "user" if api == "gemini" else None) != "user" or turn.get("type") not in (None, "message"):
        return None
    content = turn.get("parts" if api == "gemini" else "content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(map(_is_prose, content)):
        return None
    return "\n".join(part["text"] for part in content)


def _is_prose(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str) or part.get("type") not in _PROSE:
        return False
    return part.keys() <= {"type", "text", "cache_control", "prompt_cache_breakpoint"}


def _uses_tools(turn: Json) -> bool:
    """A turn that calls a tool or brings its result: what follows is about the world, not about the text."""
    if turn.get("role") in _TOOL_ROLES:
        return True
    return any(_is_tool_part(part) for part in (turn, *_parts(turn)))


def _parts(turn: Json) -> Iterator[Json]:
    for name in ("content", "parts"):
        value = turn.get(name)
        if isinstance(value, list):
            yield from (part for part in value if isinstance(part, dict))


def _is_tool_part(part: Json) -> bool:
    kind = part.get("type")
    named = isinstance(kind, str) and any(word in kind for word in _TOOL_TYPES)
    return named or any(part.get(key) not in (None, []) for key in _TOOL_KEYS)
