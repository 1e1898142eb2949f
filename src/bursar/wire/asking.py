"""A judge's question in a provider's own format: what was asked, what was answered, and a score wanted from 0 to 1.

Total: of a request that cannot be read the judge is shown its text as it is.
"""

import re
from typing import Any

import msgspec

from bursar.policy import JudgePrompt
from bursar.types import Answer, Api, Block, Call, Headers, View
from bursar.wire import dialect

_LONGEST = 24_000
"""Characters that a judge is shown: the end of the request, the beginning of the answer."""
_MAX_TOKENS = 2_000
"""Room for a model that thinks first: what it does not use costs nothing."""
_FORM = 'Answer with JSON alone: {"score": <0.0 to 1.0>, "reason": "<one sentence>"}'
_DROPPED = frozenset(("content-length", "idempotency-key", "transfer-encoding", "accept", "x-stainless-retry-count"))
_SUFFIX: dict[Api, str] = {"chat": "/chat/completions", "responses": "/responses", "messages": "/messages"}


def judge(call: Call, api: Api, provider: str, model: str, ask: JudgePrompt, answer: Answer, request_id: str) -> Call:
    """The judge's call, as a call of its own with purpose "judge"; it is never relayed.

    api: the judge's wire format; provider and model: who judges. The caller's own path and headers are used where the
    judge is at the provider that the caller has addressed; where he has addressed none, at any that speaks the same.
    """
    home = call.home if call.provider is None else call.provider
    here = provider == home or (home is None and dialect.of(api).family == dialect.of(call.api).family)
    body = msgspec.json.encode(_body(api, model, _prompt(ask, call, answer)))
    headers = _kept(call.headers) if here else _needed(api)
    path = _path(call, api, model, here)
    view = dialect.of(api).view(body, path, headers)
    if not view.blocks:
        view = View(model=model, max_output_tokens=_MAX_TOKENS, blocks=(Block("message", body),))
    return msgspec.structs.replace(
        call, request_id=request_id, api=api, view=view, body=body, headers=headers, path=path, purpose="judge",
        attempts=1, provider=provider if call.provider is not None else None, tier=None, cache=None, no_store=True,
    )  # fmt: skip


def _prompt(ask: JudgePrompt, call: Call, answer: Answer) -> str:
    told = [part for part in (answer.text, *(f"{one.name}({one.arguments})" for one in answer.tool_calls)) if part]
    asked, said = last(call)[-_LONGEST:], "\n".join(told)[:_LONGEST]
    text = ask.prompt
    if "{answer}" in text or "{request}" in text:
        # In one pass: what was asked or answered may hold such a word itself.
        shown = {"{request}": asked, "{answer}": said}
        text = re.sub(r"\{(?:request|answer)\}", lambda found: shown[found[0]], text)
    else:
        text = f"{text}\n\n# Request\n{asked}\n\n# Answer\n{said}"
    return f"{text}\n\n{_FORM}"


def last(call: Call) -> str:
    """The text of the last message of the request."""
    raw = next((block.raw for block in reversed(call.view.blocks) if block.kind == "message"), b"")
    try:
        told = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return raw.decode("utf-8", "replace")
    return "\n".join(_texts(told, 12))


def _texts(value: Any, rounds: int) -> list[str]:
    if not rounds:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, rounds - 1)]
    if isinstance(value, dict):
        return [text for name in ("text", "content", "parts", "input") if name in value
                for text in _texts(value[name], rounds - 1)]  # fmt: skip
    return []


def _body(api: Api, model: str, prompt: str) -> dict[str, Any]:
    match api:
        case "gemini":
            turn = {"role": "user", "parts": [{"text": prompt}]}
            return {"contents": [turn], "generationConfig": {"maxOutputTokens": _MAX_TOKENS}}
        case "responses":
            return {"model": model, "input": prompt, "max_output_tokens": _MAX_TOKENS}
        case "messages":
            return {"model": model, "max_tokens": _MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}
        case _:
            turn = {"role": "user", "content": prompt}
            return {"model": model, "messages": [turn], "max_completion_tokens": _MAX_TOKENS}


def _path(call: Call, api: Api, model: str, here: bool) -> str:
    if api == "gemini":
        base = call.path.partition("/models/")[0] if here else "/v1beta"
        return f"{base}/models/{model}:generateContent"
    own, mark, query = call.path.partition("?")
    before = next((own.removesuffix(end) for end in _SUFFIX.values() if own.endswith(end)), None) if here else None
    if before is None:
        before = "/v1" if api == "messages" else ""
    return before + _SUFFIX[api] + (mark + query if here else "")


def _kept(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if pair[0] not in _DROPPED)


def _needed(api: Api) -> Headers:
    version: Headers = (("anthropic-version", "2023-06-01"),) if api == "messages" else ()
    return (("content-type", "application/json"), *version)
