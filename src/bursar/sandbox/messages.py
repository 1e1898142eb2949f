"""Anthropic Messages, `POST /v1/messages` and `/v1/messages/count_tokens`: the shapes of anthropic-python's types.

Validated as the provider does it: max_tokens is required, at most four breakpoints, the 1-hour ones first.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.sandbox.answers import filler
from bursar.sandbox.asks import Ask, Bad, Block, Choice, Json, Reply, Tool, chunks, dump, message_block, whole_number
from bursar.sandbox.models import known
from bursar.sandbox.tokens import split
from bursar.types import Bucket

ID_PREFIX = "msg_"
STREAM_TYPE = "text/event-stream; charset=utf-8"
BILLS_HANGUP_WHOLE = False
"""Billed on a hang-up: the input and the output generated so far."""

_FINISH = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "tools": "tool_use"}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TTL: dict[str, Bucket] = {"5m": "cache_write_5m", "1h": "cache_write_1h"}


def read(body: Json) -> Ask:
    """A request body -> Ask, or Bad."""
    if body.get("max_tokens") is None:
        raise Bad(400, "max_tokens: Field required")
    limit = whole_number(body, "max_tokens", least=0)
    card = known(body["model"])
    if card and limit and limit > card.max_output:
        raise Bad(400, f"max_tokens: {limit} > {card.max_output}, the maximum of output tokens for {card.name}")
    ask = _prompt(body)
    thinking = body.get("thinking") or {}
    budget = thinking.get("budget_tokens") if thinking.get("type") == "enabled" else None
    if budget is not None and not 1024 <= budget < (limit or 0):
        raise Bad(400, "thinking.budget_tokens must be at least 1024 and less than max_tokens")
    config = body.get("output_config") or {}
    form = config.get("format") or {}
    choice: Json = body.get("tool_choice") or {}
    ask.stream = bool(body.get("stream"))
    kind = choice.get("type")
    ask.choice = "any" if kind in ("any", "tool") else "none" if kind == "none" else "auto"
    ask.choice_tool = choice.get("name")
    ask.schema = form.get("schema")
    ask.max_tokens = limit
    ask.stop = tuple(body.get("stop_sequences") or ())
    ask.thinks = thinking.get("type") in ("enabled", "adaptive", "between_tools")
    ask.thinking_budget = budget
    ask.effort = config.get("effort")
    ask.show_thoughts = thinking.get("display") != "omitted"
    ask.geo = body.get("inference_geo")
    ask.cache_key = dump(form)
    ask.message_key = dump([choice, thinking])
    return ask


def _prompt(body: Json) -> Ask:
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        raise Bad(400, "messages: at least one message is required")
    blocks: list[Block] = []
    for tool in body.get("tools") or ():
        plain = {key: value for key, value in tool.items() if key != "cache_control"}
        blocks.append(Block("tools", split(dump(plain)), _mark(tool)))
    system = body.get("system") or ()
    for part in [{"text": system}] if isinstance(system, str) else system:
        blocks.append(Block("system", split(part["text"]), _mark(part)))
    for message in messages:
        blocks += _message(message)
    if (top := _mark(body)) is not None and blocks and blocks[-1].mark is None:
        blocks[-1] = Block(blocks[-1].kind, blocks[-1].pieces, top)
    _check([block.mark for block in blocks if block.mark is not None])
    tools = tuple(
        Tool(tool["name"], tool.get("description") or "", tool["input_schema"])
        for tool in body.get("tools") or ()
        if "input_schema" in tool
    )
    prompt, called = _tail(messages)
    return Ask(dialect="messages", model=body["model"], blocks=blocks, prompt=prompt, tools=tools, called=called)


def _mark(part: Json) -> Bucket | None:
    control = part.get("cache_control")
    if not control:
        return None
    ttl = control.get("ttl", "5m")
    if control.get("type") != "ephemeral" or ttl not in _TTL:
        raise Bad(400, f"cache_control: type must be ephemeral and ttl 5m or 1h, but it is {dump(control)}")
    return _TTL[ttl]


def _check(marks: list[Bucket]) -> None:
    if len(marks) > 4:
        raise Bad(400, f"A maximum of 4 blocks with cache_control may be provided. Found {len(marks)}.")
    if marks != sorted(marks, key=lambda mark: mark != "cache_write_1h"):
        raise Bad(400, "cache_control: a ttl='1h' block must not come after a ttl='5m' block (tools, system, messages)")


def _message(message: Json) -> list[Block]:
    role, content = message["role"], message["content"]
    if role not in ("user", "assistant", "system"):
        raise Bad(400, f"messages: unexpected role {role!r}")
    blocks = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        kind = part.get("type")
        if kind in ("image", "document"):
            blocks.append(message_block(role, "", media=1, mark=_mark(part)))
            continue
        shown = part["text"] if kind == "text" else dump({k: v for k, v in part.items() if k != "cache_control"})
        blocks.append(message_block(role, shown, mark=_mark(part)))
    return blocks


def _tail(messages: list[Json]) -> tuple[str, tuple[str, ...]]:
    """The last user text, and the tools called since."""
    called: list[str] = []
    for message in reversed(messages):
        content: Any = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = [part["text"] for part in parts if part.get("type") == "text"]
        if message["role"] == "user" and texts:
            return "\n".join(texts), tuple(reversed(called))
        called += [part["name"] for part in reversed(parts) if part.get("type") == "tool_use"]
    return "", tuple(reversed(called))


def usage(reply: Reply, output: int | None = None) -> Json:
    """The usage object: input_tokens excludes what was cached; thinking is inside output_tokens."""
    prompted, writes = reply.prompted, dict(reply.prompted.writes)
    counts: Json = {
        "input_tokens": prompted.fresh,
        "cache_creation_input_tokens": prompted.written,
        "cache_read_input_tokens": prompted.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": writes.get("cache_write_5m", 0),
            "ephemeral_1h_input_tokens": writes.get("cache_write_1h", 0),
        },
        "output_tokens": reply.output if output is None else output,
        "service_tier": "standard",
    }
    if output is None and reply.thoughts:
        counts["output_tokens_details"] = {"thinking_tokens": reply.thoughts}
    if reply.ask.geo:
        counts["inference_geo"] = reply.ask.geo
    return counts


def _thinking(reply: Reply, choice: Choice) -> list[str]:
    """The summary of the thinking that is shown: prose, shorter than what is billed."""
    if not choice.thoughts or not reply.ask.show_thoughts:
        return []
    return split(filler(min(choice.thoughts, 40), reply.ask.prompt, "thinking"))


def _content(reply: Reply, choice: Choice) -> list[Json]:
    content: list[Json] = []
    if choice.thoughts:
        thinking = "".join(_thinking(reply, choice))
        content.append({"type": "thinking", "thinking": thinking, "signature": _signature(reply)})
    if choice.pieces:
        content.append({"type": "text", "text": choice.text, "citations": None})
    for call in choice.calls:
        content.append(
            {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": _input(call.arguments)}
        )
    return content


def _input(arguments: str) -> Any:
    """Arguments as an object; a call cut by max_tokens has an empty one."""
    return msgspec.json.decode(arguments) if arguments.endswith("}") else {}


def _signature(reply: Reply) -> str:
    return f"c2FuZGJveA{reply.id[-12:]}"


def whole(reply: Reply) -> Json:
    """The answer that is not streamed."""
    choice = reply.choices[0]
    message = _head(reply)
    message.update(content=_content(reply, choice), stop_reason=_FINISH[choice.finish], stop_sequence=choice.stop)
    if reply.usage:
        message["usage"] = usage(reply)
    return message


def _head(reply: Reply) -> Json:
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {dump({'type': kind, **data})}\n\n".encode()


def frames(reply: Reply) -> Iterator[tuple[bytes, int]]:
    """The stream's events, each with the output tokens generated by its end; usage is cumulative."""
    choice, index = reply.choices[0], 0
    start = {**_head(reply), **({"usage": usage(reply, 1)} if reply.usage else {})}
    yield _event("message_start", message=start), 0
    yield _event("ping"), 0
    if choice.thoughts:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield _event("content_block_start", index=index, content_block=block), 0
        shown = _thinking(reply, choice)
        for text, upto in chunks(shown, reply.chunk):
            delta = {"type": "thinking_delta", "thinking": text}
            yield _event("content_block_delta", index=index, delta=delta), choice.thoughts * upto // len(shown)
        sealed = {"type": "signature_delta", "signature": _signature(reply)}
        yield _event("content_block_delta", index=index, delta=sealed), choice.thoughts
        yield _event("content_block_stop", index=index), choice.thoughts
        index += 1
    if choice.pieces:
        block = {"type": "text", "text": ""}
        yield from _block(choice, index, block, choice.pieces, "text_delta", "text", reply.chunk)
        index += 1
    for call in choice.calls:
        block = {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": {}}  # type: ignore[dict-item]
        yield from _block(choice, index, block, call.pieces, "input_json_delta", "partial_json", reply.chunk)
        index += 1
    ended = {"stop_reason": _FINISH[choice.finish], "stop_sequence": choice.stop}
    final = {"usage": usage(reply)} if reply.usage else {}
    yield _event("message_delta", delta=ended, **final), reply.output
    yield _event("message_stop"), reply.output


def _block(
    choice: Choice, index: int, block: Json, pieces: list[str], kind: str, field: str, size: int
) -> Iterator[tuple[bytes, int]]:
    yield _event("content_block_start", index=index, content_block=block), choice.thoughts
    done = choice.thoughts
    for text, upto in chunks(pieces, size):
        done = choice.thoughts + choice.visible * upto // len(pieces)
        yield _event("content_block_delta", index=index, delta={"type": kind, field: text}), done
    yield _event("content_block_stop", index=index), done


def error(bad: Bad, request_id: str) -> Json:
    """Anthropic's error body."""
    kind = _KINDS.get(bad.status) or ("api_error" if bad.status >= 500 else "invalid_request_error")
    body: Json = {"type": kind, "message": bad.message}
    if bad.code:
        body["details"] = {"error_code": bad.code}
    return {"type": "error", "error": body, "request_id": request_id}


def error_frame(bad: Bad, request_id: str, number: int) -> bytes:
    """`event: error` in the middle of a stream."""
    return f"event: error\ndata: {dump(error(bad, request_id))}\n\n".encode()


def torn_frame(reply: Reply) -> bytes:
    """An event whose JSON breaks off."""
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"ty\n\n'


def count(body: Json) -> int:
    """Input tokens of a body, which needs no max_tokens here."""
    return _prompt(body).prompt_tokens
