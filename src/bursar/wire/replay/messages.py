"""Anthropic Messages in either shape. Source: the types of anthropic 2.13 (beta included) and its accumulator.

Text, thinking and a tool's input come in deltas that are joined; a signature and a compaction come once; every other
block stands whole in its start. Of usage and whatever else message_delta says, the later value counts.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.types import View
from bursar.wire.replay.shape import (
    Json,
    Misfit,
    event,
    obj,
    objs,
    pieces,
    place,
    read,
    text,
    update,
    without,
)

_LAST = ("stop_reason", "stop_sequence", "stop_details", "container")
"""Told by the delta of message_delta; null until then."""
_BESIDE = ("context_management",)
"""Told by message_delta itself."""
_CUMULATIVE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
    "iterations",
    "fallback_credit",
)
"""What message_delta says of the usage; the rest is said by message_start alone."""
_PLAIN = frozenset({"text", "thinking", "redacted_thinking", "compaction"})


def streamed(answer: Json, view: View) -> Iterator[bytes]:
    """The events of a message."""
    del view
    if answer.get("type") != "message":
        raise Misfit("no message")
    usage, ended = obj(answer.get("usage")), {key: answer[key] for key in _LAST if key in answer}
    text(ended.get("stop_reason"))
    beside = {key: answer[key] for key in _BESIDE if key in answer}
    start = {**answer, "content": [], **dict.fromkeys([*ended, *beside])}
    begun = min(1, place(usage.get("output_tokens")))
    start["usage"] = {**without(usage, "output_tokens_details"), "output_tokens": begun}
    yield _event("message_start", message=start)
    for index, block in enumerate(objs(answer.get("content"))):
        opened, deltas = _opened(block)
        yield _event("content_block_start", index=index, content_block=opened)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    final = {key: usage[key] for key in _CUMULATIVE if key in usage}
    yield _event("message_delta", delta=ended, usage=final, **beside)
    yield _event("message_stop")


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, kind)


def _opened(block: Json) -> tuple[Json, list[Json]]:
    """A block as it starts, and its deltas."""
    kind = text(block.get("type"))
    if kind == "text":
        deltas = _deltas("text_delta", "text", block)
        if cited := objs(block.get("citations")):
            deltas += [{"type": "citations_delta", "citation": citation} for citation in cited]
            return {**block, "text": "", "citations": []}, deltas
        return {**block, "text": ""}, deltas
    if kind == "thinking":
        deltas = _deltas("thinking_delta", "thinking", block)
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", **({"signature": ""} if "signature" in block else {})}, deltas
    if kind.endswith("tool_use"):
        written = msgspec.json.encode(obj(block.get("input"))).decode()
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(written)]
        return {**block, "input": {}}, deltas
    if kind == "compaction":
        told: Json = {key: block[key] for key in ("content", "encrypted_content") if key in block}
        return {**block, **dict.fromkeys(told)}, [{"type": "compaction_delta", **told}]
    return block, []


def _deltas(kind: str, key: str, block: Json) -> list[Json]:
    return [{"type": kind, key: piece} for piece in pieces(text(block.get(key)))]


def gathered(datas: list[bytes]) -> Json:
    """The message that the events amount to, which must have come to message_stop with every block closed."""
    message: Json | None = None
    blocks: list[_Block] = []
    stopped = False
    for data in datas:
        told = read(data)
        kind = told.get("type")
        if kind == "ping":
            continue
        if kind == "message_start" and message is None:
            message = dict(obj(told.get("message")))
        elif message is None or stopped:
            raise Misfit("out of order")
        elif kind == "message_stop":
            stopped = True
        elif kind == "message_delta":
            _end(message, told)
        elif kind == "content_block_start" and told.get("index") == len(blocks):
            blocks.append(_Block(obj(told.get("content_block"))))
        else:
            _take(kind, told, blocks)
    if message is None or not stopped or not all(block.closed for block in blocks):
        raise Misfit("not complete")
    text(message.get("stop_reason"))
    return _whole(message, blocks)


def _whole(message: Json, blocks: "list[_Block]") -> Json:
    for block in blocks:
        if block.start.get("type") == "fallback":  # names the model that served after it
            message["model"] = obj(block.start.get("to")).get("model", message.get("model"))
    return {**message, "content": [block.whole() for block in blocks]}


def _end(message: Json, told: Json) -> None:
    update(message, obj(told.get("delta")))
    update(message, without(told, "type", "delta", "usage"))
    usage = dict(obj(message.get("usage") or {}))
    update(usage, obj(told.get("usage") or {}))
    message["usage"] = usage


def _take(kind: Any, told: Json, blocks: "list[_Block]") -> None:
    """A delta, or the end, of the block that is open."""
    index = place(told.get("index"))
    if not 0 <= index < len(blocks) or blocks[index].closed:
        raise Misfit("no such block")
    if kind == "content_block_stop":
        blocks[index].closed = True
    elif kind == "content_block_delta":
        blocks[index].hear(obj(told.get("delta")))
    else:
        raise Misfit("an error, or an event that is not known")


class _Block:
    """A block that is being told."""

    def __init__(self, start: Json) -> None:
        self.start = start
        self.closed = False
        self._said: defaultdict[str, list[Any]] = defaultdict(list)

    def hear(self, delta: Json) -> None:
        """One delta; each says one thing, but for a compaction."""
        kind, said = text(delta.get("type")), without(delta, "type")
        if kind not in _SAID or (_SAID[kind] is not None and set(said) != {_SAID[kind]}):
            raise Misfit("a delta that is not known")
        for key, value in said.items():
            self._said[key].append(value)

    def whole(self) -> Json:
        """The block in full."""
        block = dict(self.start)
        for key, told in self._said.items():
            if key in ("text", "thinking"):
                block[key] = "".join([text(block.get(key)), *map(text, told)])
            elif key == "partial_json":
                written = "".join(map(text, told))
                block["input"] = read(written.encode()) if written else block.get("input")
            elif key == "citation":
                block["citations"] = [*(block.get("citations") or []), *told]
            else:
                block[key] = told[-1]
        return block


_SAID: dict[str, str | None] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "citations_delta": "citation",
    "signature_delta": "signature",
    "compaction_delta": None,
}


def calls(answer: Json) -> Iterator[tuple[Json, str]]:
    """Where the ids of the caller's tools stand: (object, key). Those of the provider's own are left to it."""
    for block in objs(answer.get("content")):
        if block.get("type") == "tool_use":
            yield block, "id"


def flaw(answer: Json, *, tools_ok: bool) -> str | None:
    """Why this answer must not be stored."""
    blocks, reason = objs(answer.get("content")), answer.get("stop_reason")
    if answer.get("type") != "message":
        return "error"
    if reason == "refusal":
        return "refusal"
    if reason not in ("end_turn", "stop_sequence", "tool_use"):
        return f"cut: {reason}"
    if not isinstance(answer.get("usage"), dict):
        return "no usage"
    called = reason == "tool_use" or any(text(block.get("type")) not in _PLAIN for block in blocks)
    if called and not tools_ok:
        return "tool calls"
    return None if called or any(block.get("text") for block in blocks) else "empty"
