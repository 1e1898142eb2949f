"""Gemini, `POST /{v1,v1beta}/models/{model}:generateContent` and kin: the shapes of google-genai's types.

Thoughts are counted outside the candidates; usageMetadata rides on every chunk with running values.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from bursar.sandbox.answers import filler
from bursar.sandbox.asks import Ask, Bad, Block, Choice, Json, Reply, Tool, chunks, dump, message_block, whole_number
from bursar.sandbox.tokens import split

ID_PREFIX = ""
STREAM_TYPE = "text/event-stream"
BILLS_HANGUP_WHOLE = True

_FINISH = {"stop": "STOP", "stop_sequence": "STOP", "length": "MAX_TOKENS", "tools": "STOP"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}


def _field(value: Json, name: str) -> Any:
    """A field by its JSON name; Google also takes the snake_case that its SDK partly sends."""
    found = value.get(name)
    return found if found is not None else value.get(_snake(name))


def _number(value: Json, name: str) -> int | None:
    return whole_number(value, name if name in value else _snake(name))


@lru_cache(maxsize=64)
def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def read(body: Json) -> Ask:
    """A request body, with `model` and `stream` put in from the path -> Ask, or Bad."""
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise Bad(400, "* GenerateContentRequest.contents: contents is not specified")
    config = _field(body, "generationConfig") or {}
    thinking = _field(config, "thinkingConfig") or {}
    budget = _field(thinking, "thinkingBudget")
    calling = _field(_field(body, "toolConfig") or {}, "functionCallingConfig") or {}
    allowed = _field(calling, "allowedFunctionNames") or ()
    schema = _field(config, "responseJsonSchema") or _field(config, "responseSchema")
    declared = [one for tool in body.get("tools") or () for one in _field(tool, "functionDeclarations") or ()]
    prompt, called = _tail(contents)
    return Ask(
        dialect="gemini",
        model=body["model"],
        blocks=_blocks(body, contents, declared),
        prompt=prompt,
        stream=bool(body.get("stream")),
        tools=tuple(_tool(one) for one in declared),
        choice={"ANY": "any", "NONE": "none"}.get(str(calling.get("mode", "AUTO")).upper(), "auto"),  # type: ignore[arg-type]
        choice_tool=allowed[0] if allowed else None,
        called=called,
        schema=schema,
        wants_json=_field(config, "responseMimeType") == "application/json",
        max_tokens=_number(config, "maxOutputTokens"),
        stop=tuple(_field(config, "stopSequences") or ()),
        n=_number(config, "candidateCount") or 1,
        thinks=False if budget == 0 else None,
        effort=str(level).lower() if (level := _field(thinking, "thinkingLevel")) else None,
        thinking_budget=budget if budget is not None and budget > 0 else None,
        show_thoughts=bool(_field(thinking, "includeThoughts")),
        service_tier=_field(body, "serviceTier"),
    )


def _tool(one: Json) -> Tool:
    schema = _field(one, "parametersJsonSchema") or one.get("parameters") or {}
    return Tool(one["name"], one.get("description") or "", schema)


def _tail(contents: list[Json]) -> tuple[str, tuple[str, ...]]:
    """The last user text, and the functions called since."""
    called: list[str] = []
    for content in reversed(contents):
        parts = content.get("parts") or ()
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        if content.get("role", "user") == "user" and texts:
            return "\n".join(texts), tuple(reversed(called))
        called += [call["name"] for part in reversed(parts) if (call := _field(part, "functionCall"))]
    return "", tuple(reversed(called))


def _blocks(body: Json, contents: list[Json], declared: list[Json]) -> list[Block]:
    blocks = [Block("tools", split(dump(one))) for one in declared]
    if system := _field(body, "systemInstruction"):
        blocks.append(Block("system", split("\n".join(part.get("text", "") for part in system.get("parts") or ()))))
    for content in contents:
        texts, media = [], 0
        for part in content.get("parts") or ():
            if isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif _field(part, "inlineData") or _field(part, "fileData"):
                media += 1
            else:
                texts.append(dump(part))
        blocks.append(message_block(content.get("role", "user"), "\n".join(texts), media=media))
    return blocks


def usage(reply: Reply, output: int | None = None) -> Json:
    """usageMetadata; `output` tokens so far, thoughts first."""
    output = reply.output if output is None else output
    thoughts = min(reply.thoughts, output)
    total = reply.prompted.total
    counts: Json = {
        "promptTokenCount": total,
        "candidatesTokenCount": output - thoughts,
        "totalTokenCount": total + output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": total}],
    }
    if reply.prompted.read:
        counts["cachedContentTokenCount"] = reply.prompted.read
        counts["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": reply.prompted.read}]
    if thoughts:
        counts["thoughtsTokenCount"] = thoughts
    return counts


def _parts(reply: Reply, choice: Choice) -> list[Json]:
    parts: list[Json] = _thought(reply, choice)
    if choice.pieces:
        parts.append({"text": choice.text})
    return parts + _calls(choice)


def _thought(reply: Reply, choice: Choice) -> list[Json]:
    if not choice.thoughts or not reply.ask.show_thoughts:
        return []
    return [{"text": filler(min(choice.thoughts, 40), reply.ask.prompt, "thinking"), "thought": True}]


def _calls(choice: Choice) -> list[Json]:
    # A call cut by the output limit is no valid JSON and is left out.
    return [
        {"functionCall": {"name": call.name, "args": msgspec.json.decode(call.arguments)}}
        for call in choice.calls
        if call.arguments.endswith("}")
    ]


def _answer(reply: Reply, index: int, parts: list[Json], finish: str | None, output: int | None) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": index}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        **({"usageMetadata": usage(reply, output)} if reply.usage else {}),
        "modelVersion": reply.ask.model,
        "responseId": reply.id,
    }


def whole(reply: Reply) -> Json:
    """The answer that is not streamed."""
    answer = _answer(reply, 0, [], None, None)
    answer["candidates"] = [
        {
            "content": {"parts": _parts(reply, choice), "role": "model"},
            "finishReason": _FINISH[choice.finish],
            "index": at,
        }
        for at, choice in enumerate(reply.choices)
    ]
    return answer


def frames(reply: Reply) -> Iterator[tuple[bytes, int]]:
    """The stream's events as SSE, each with the output tokens generated by its end; there is no [DONE]."""
    for answer, output in _answers(reply):
        yield f"data: {dump(answer)}\r\n\r\n".encode(), output


def array_frames(reply: Reply) -> Iterator[tuple[bytes, int]]:
    """The stream without alt=sse: one JSON array, an element an answer."""
    opening, output = "[", 0
    for answer, output in _answers(reply):
        yield f"{opening}{dump(answer)}".encode(), output
        opening = "\n,\r\n"
    yield b"]", output


def _answers(reply: Reply) -> Iterator[tuple[Json, int]]:
    done = 0
    for index, choice in enumerate(reply.choices):
        end = done + choice.thoughts + choice.visible
        if thought := _thought(reply, choice):
            yield _answer(reply, index, thought, None, done + choice.thoughts), done + choice.thoughts
        for text, upto in chunks(choice.pieces, reply.chunk):
            so_far = done + choice.thoughts + choice.visible * upto // len(choice.pieces)
            finish = _FINISH[choice.finish] if upto == len(choice.pieces) else None
            yield _answer(reply, index, [{"text": text}], finish, so_far), so_far
        if not choice.pieces:
            yield _answer(reply, index, _calls(choice), _FINISH[choice.finish], end), end
        done = end


def error(bad: Bad, request_id: str) -> Json:
    """Google's error body."""
    status = _STATUS.get(bad.status) or ("INTERNAL" if bad.status >= 500 else "INVALID_ARGUMENT")
    body: Json = {"code": bad.status, "message": bad.message, "status": status}
    if bad.status == 429:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        body["details"] = [{"@type": kind, "retryDelay": f"{bad.retry_after_s or 0:g}s"}]
    return {"error": body}


def error_frame(bad: Bad, request_id: str, number: int) -> bytes:
    """An error in the middle of a stream."""
    return f"data: {dump(error(bad, request_id))}\r\n\r\n".encode()


def torn_frame(reply: Reply) -> bytes:
    """An event whose JSON breaks off."""
    return b'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n'


def count(body: Json) -> int:
    """Input tokens of a countTokens body."""
    inner: Any = _field(body, "generateContentRequest") or body
    return read({**inner, "model": body["model"]}).prompt_tokens
