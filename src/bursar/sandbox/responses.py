"""OpenAI Responses, `POST /v1/responses` and kin: the shapes of openai-python's types; named events, no [DONE]."""

from collections.abc import Iterator
from typing import Any

from bursar.sandbox.asks import (
    Ask,
    Bad,
    Block,
    Choice,
    Json,
    Reply,
    Tool,
    chunks,
    content_text,
    dump,
    message_block,
    whole_number,
)
from bursar.sandbox.chat import error as error
from bursar.sandbox.chat import media_and_mark
from bursar.sandbox.tokens import split
from bursar.types import Bucket

ID_PREFIX = "resp_"
STREAM_TYPE = "text/event-stream; charset=utf-8"
BILLS_HANGUP_WHOLE = True


def read(body: Json, before: list[Block] | None = None) -> Ask:
    """A request body, and the turns of its previous_response_id -> Ask, or Bad."""
    items = _items(body)
    options = body.get("prompt_cache_options") or {}
    bucket: Bucket = "cache_write_12h" if options.get("ttl") == "12h" else "cache_write_30m"
    form = (body.get("text") or {}).get("format") or {}
    reasoning = body.get("reasoning") or {}
    background = bool(body.get("background"))
    window = (body.get("background_options") or {}).get("completion_window")
    choice = body.get("tool_choice")
    declared = body.get("tools") or ()
    prompt, called = _tail(items)
    return Ask(
        dialect="responses",
        model=body["model"],
        blocks=_blocks(body, items, before or [], bucket),
        prompt=prompt,
        stream=bool(body.get("stream")),
        tools=tuple(_tool(tool) for tool in declared if tool.get("type") == "function"),
        choice="any" if isinstance(choice, dict) or choice == "required" else "none" if choice == "none" else "auto",
        choice_tool=choice.get("name") if isinstance(choice, dict) else None,
        called=called,
        schema=form.get("schema"),
        wants_json=form.get("type") == "json_object",
        max_tokens=whole_number(body, "max_output_tokens"),
        effort=reasoning.get("effort"),
        service_tier=body.get("service_tier"),
        window=window if background else None,
        background=background,
        cache_key=dump([body.get("prompt_cache_key"), form, reasoning.get("effort")]),
        explicit_cache=options.get("mode") == "explicit",
        write_bucket=bucket,
        previous=body.get("previous_response_id"),
        raw=body,
    )


def _items(body: Json) -> list[Json]:
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise Bad(400, "Missing required parameter: 'input'.", code="missing_required_parameter", param="input")
    return given


def _tool(tool: Json) -> Tool:
    return Tool(tool["name"], tool.get("description") or "", tool.get("parameters") or {})


def _tail(items: list[Json]) -> tuple[str, tuple[str, ...]]:
    """The last user text, and the functions called since (an output without its call counts as one)."""
    called: list[str] = []
    outputs = 0
    for item in reversed(items):
        if item.get("role") == "user":
            break
        if item.get("type") == "function_call":
            called.append(item["name"])
        outputs += item.get("type") == "function_call_output"
    called += ["(earlier)"] * (outputs - len(called))
    said = [content_text(item.get("content")) for item in items if item.get("role") == "user"]
    return said[-1] if said else "", tuple(reversed(called))


def _blocks(body: Json, items: list[Json], before: list[Block], bucket: Bucket) -> list[Block]:
    blocks = [Block("tools", split(dump(tool))) for tool in body.get("tools") or ()]
    if instructions := body.get("instructions"):
        blocks.append(message_block("system", content_text(instructions), kind="system"))
    if form := (body.get("text") or {}).get("format"):
        blocks.append(Block("system", split(dump(form))))
    blocks += before
    for item in items:
        if (role := item.get("role")) is not None:
            content = item.get("content")
            media, mark = media_and_mark(content, bucket)
            kind = "system" if role in ("system", "developer") else "message"
            blocks.append(message_block(role, content_text(content), media=media, mark=mark, kind=kind))
        else:
            blocks.append(message_block(item.get("type", "item"), dump(item)))
    return blocks


def turn(reply: Reply) -> list[Block]:
    """The turns that a later previous_response_id bills again: all messages so far and this answer."""
    told = [block for block in reply.ask.blocks if block.kind == "message"]
    choice = reply.choices[0]
    text = choice.text + "".join(call.arguments for call in choice.calls)
    return [*told, message_block("assistant", text)]


def usage(reply: Reply) -> Json:
    """The usage object; cached and written tokens are inside input_tokens, reasoning inside output_tokens."""
    writes = dict(reply.prompted.writes)
    details: Json = {"cached_tokens": reply.prompted.read, "cache_write_tokens": reply.prompted.written}
    if writes:
        details["cache_write_tokens_details"] = {
            "ttl_30m_tokens": writes.get("cache_write_30m", 0),
            "ttl_12h_tokens": writes.get("cache_write_12h", 0),
        }
    return {
        "input_tokens": reply.prompted.total,
        "input_tokens_details": details,
        "output_tokens": reply.output,
        "output_tokens_details": {"reasoning_tokens": reply.thoughts},
        "total_tokens": reply.prompted.total + reply.output,
    }


def _status(choice: Choice) -> str:
    return "incomplete" if choice.finish == "length" else "completed"


def _output(reply: Reply) -> list[Json]:
    choice, tail = reply.choices[0], reply.id[-12:]
    items: list[Json] = []
    if choice.thoughts:
        items.append({"id": f"rs_{tail}", "type": "reasoning", "summary": []})
    if choice.pieces:
        part = {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}
        head = {"id": f"msg_{tail}", "type": "message", "role": "assistant"}
        items.append({**head, "status": _status(choice), "content": [part]})
    for call in choice.calls:
        items.append(
            {
                "id": f"fc_{call.id}",
                "type": "function_call",
                "call_id": f"call_{call.id}",
                "name": call.name,
                "arguments": call.arguments,
                "status": _status(choice),
            }
        )
    return items


def shell(reply: Reply, status: str) -> Json:
    """A response that has no output yet: queued, in_progress, cancelled."""
    body = reply.ask.raw
    return {
        "id": reply.id,
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "background": reply.ask.background,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": reply.ask.model,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "service_tier": reply.tier,
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "user": None,
    }


def whole(reply: Reply) -> Json:
    """The answer that is not streamed, and the one inside the terminal event."""
    status = _status(reply.choices[0])
    answer = shell(reply, status)
    answer["output"] = _output(reply)
    if status == "incomplete":
        answer["incomplete_details"] = {"reason": "max_output_tokens"}
    if reply.usage:
        answer["usage"] = usage(reply)
    return answer


class _Events:
    """Numbers the events of a stream."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, kind: str, **data: Any) -> bytes:
        number, self._next = self._next, self._next + 1
        return f"event: {kind}\ndata: {dump({'type': kind, 'sequence_number': number, **data})}\n\n".encode()


def frames(reply: Reply) -> Iterator[tuple[bytes, int]]:
    """The stream's events, each with the output tokens generated by its end."""
    choice, event = reply.choices[0], _Events()
    started = shell(reply, "in_progress")
    yield event("response.created", response=started), 0
    yield event("response.in_progress", response=started), 0
    for index, item in enumerate(_output(reply)):
        where: Json = {"output_index": index}
        empty = {**item, "status": "in_progress"}
        if item["type"] == "reasoning":
            yield event("response.output_item.added", **where, item=item), 0
            done = choice.thoughts
        elif item["type"] == "message":
            yield event("response.output_item.added", **where, item={**empty, "content": []}), choice.thoughts
            yield from _text(event, choice, {**where, "item_id": item["id"]}, item["content"][0], reply.chunk)
            done = reply.output
        else:
            yield event("response.output_item.added", **where, item={**empty, "arguments": ""}), choice.thoughts
            yield from _arguments(event, choice, {**where, "item_id": item["id"]}, reply.chunk)
            done = reply.output
        yield event("response.output_item.done", **where, item=item), done
    end = whole(reply)
    yield event(f"response.{end['status']}", response=end), reply.output


def _text(event: _Events, choice: Choice, where: Json, part: Json, size: int) -> Iterator[tuple[bytes, int]]:
    where = {**where, "content_index": 0}
    yield event("response.content_part.added", **where, part={**part, "text": ""}), choice.thoughts
    for text, upto in chunks(choice.pieces, size):
        so_far = choice.thoughts + choice.visible * upto // len(choice.pieces)
        yield event("response.output_text.delta", **where, delta=text, logprobs=[]), so_far
    total = choice.thoughts + choice.visible
    yield event("response.output_text.done", **where, text=choice.text, logprobs=[]), total
    yield event("response.content_part.done", **where, part=part), total


def _arguments(event: _Events, choice: Choice, where: Json, size: int) -> Iterator[tuple[bytes, int]]:
    call = choice.calls[0]
    for text, upto in chunks(call.pieces, size):
        so_far = choice.thoughts + choice.visible * upto // len(call.pieces)
        yield event("response.function_call_arguments.delta", **where, delta=text), so_far
    finished = {**where, "name": call.name, "arguments": call.arguments}
    yield event("response.function_call_arguments.done", **finished), choice.thoughts + choice.visible


def error_frame(bad: Bad, request_id: str, number: int) -> bytes:
    """The `error` event in the middle of a stream."""
    code = error(bad, request_id)["error"]["code"] or "server_error"
    data = {"type": "error", "code": code, "message": bad.message, "param": bad.param, "sequence_number": number}
    return f"event: error\ndata: {dump(data)}\n\n".encode()


def torn_frame(reply: Reply) -> bytes:
    """An event whose JSON breaks off."""
    return b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","del\n\n'


def count(body: Json) -> int:
    """Input tokens of a body, for POST /v1/responses/input_tokens."""
    return read(body).prompt_tokens
