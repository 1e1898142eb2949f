"""A messages request as a chat completions request. What has no place there raises Misfit with the reason.

The normal form: the system prompt is the first message; a content of one text is a string; a tool result is a message
of its own, before what else the user said; metadata.user_id is safety_identifier. Left out, as they shape no answer:
cache_control marks, and eager_input_streaming, which only steers how early a tool's input is streamed.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.wire.replay.shape import Json, Misfit, obj, objs, text
from bursar.wire.translate.common import (
    EFFORTS,
    IMAGES,
    among,
    call_id,
    content,
    enforceable,
    only,
    parts_of,
    said,
    sampling,
    tool_name,
    whole,
    words,
)

_CARRIED = (
    "model", "max_tokens", "messages", "system", "tools", "tool_choice", "output_config", "stop_sequences", "stream",
    "temperature", "top_p", "metadata", "service_tier", "thinking",
)  # fmt: skip
_MARK = "cache_control"
_NEUTRAL = {"speed": ("standard",)}
_SERVICE = {"auto": "auto", "standard_only": "default"}
_CHOICES = {"auto": "auto", "none": "none", "any": "required"}
_MOST_STOPS, _LONGEST_USER = 4, 128
_SCHEMA_NAME = "output"
_DIRECT = ({"type": "direct"},)


def request(body: Json, model: str, most: int | None) -> Json:
    """The chat completions request; most: output tokens that the model can give, None where that is not known."""
    only(body, "request", *_CARRIED, _MARK, neutral=_NEUTRAL)
    limit = whole(body.get("max_tokens"), "max_tokens")
    out: Json = {"model": model, "messages": list(_messages(body))}
    if tools := [_tool(tool) for tool in objs(body.get("tools"))]:
        out["tools"] = tools
    _choice(obj(body.get("tool_choice") or {}), out)
    out["max_completion_tokens"] = limit if most is None else min(limit, most)
    _config(body, out)
    _rest(body, out)
    return out


def _rest(body: Json, out: Json) -> None:
    sampling(body, out)
    if stops := body.get("stop_sequences"):
        if not isinstance(stops, list) or len(stops) > _MOST_STOPS:
            raise Misfit(f"stop_sequences: more than {_MOST_STOPS}")
        out["stop"] = [said(one, "stop_sequences") for one in stops]
    about = obj(body.get("metadata") or {})
    only(about, "metadata", "user_id")
    if (user := about.get("user_id")) is not None:
        if len(text(user)) > _LONGEST_USER:
            raise Misfit(f"metadata: a user_id of more than {_LONGEST_USER} characters")
        out["safety_identifier"] = user
    if (tier := body.get("service_tier")) is not None:
        out["service_tier"] = among(tier, _SERVICE, "service_tier")
    if body.get("stream"):  # usage is told only if asked for, and a messages stream always tells it
        out |= {"stream": True, "stream_options": {"include_usage": True}}


def _config(body: Json, out: Json) -> None:
    config, thinking = obj(body.get("output_config") or {}), obj(body.get("thinking") or {})
    only(config, "output_config", "effort", "format")
    effort = config.get("effort")
    if thinking:
        only(thinking, "thinking", "type")
        if thinking.get("type") != "disabled" or effort is not None:
            raise Misfit("thinking: a chat completion has no thinking blocks")
        effort = "none"
    elif effort is not None:
        effort = among(effort, EFFORTS, "output_config")
    if effort is not None:
        out["reasoning_effort"] = effort
    if form := obj(config.get("format") or {}):
        only(form, "output_config", "type", "schema")
        if form.get("type") != "json_schema":
            raise Misfit(f"output_config: {form.get('type')}")
        schema = enforceable(form.get("schema"), complete=True)
        named = {"name": _SCHEMA_NAME, "schema": schema, "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": named}


# --- tools


def _tool(tool: Json) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise Misfit(f"tools: {tool.get('type')}")
    only(
        tool, "tools", "type", "name", "description", "input_schema", "strict", _MARK, "eager_input_streaming",
        neutral={"allowed_callers": (["direct"],)},
    )  # fmt: skip
    schema = obj(tool.get("input_schema"))
    function: Json = {"name": tool_name(tool.get("name")), "parameters": schema}
    if tool.get("description"):
        function["description"] = text(tool["description"])
    if tool.get("strict") is True:
        function |= {"parameters": enforceable(schema, complete=True), "strict": True}
    return {"type": "function", "function": function}


def _choice(choice: Json, out: Json) -> None:
    if not choice:
        return
    only(choice, "tool_choice", "type", "name", "disable_parallel_tool_use")
    kind = choice.get("type")
    if "tools" not in out:
        if kind not in ("auto", "none"):
            raise Misfit("tool_choice: a call is forced where there are no tools")
        return
    if kind == "tool":
        out["tool_choice"] = {"type": "function", "function": {"name": tool_name(choice.get("name"))}}
    else:
        out["tool_choice"] = among(kind, _CHOICES, "tool_choice")
    if choice.get("disable_parallel_tool_use"):
        out["parallel_tool_calls"] = False


# --- messages


def _messages(body: Json) -> Iterator[Json]:
    if body.get("system"):
        yield {"role": "system", "content": words(_texts(body["system"], "system"))}
    messages = objs(body.get("messages"))
    if not messages or messages[-1].get("role") == "assistant":
        raise Misfit("messages: there is no user's message at the end")
    for message in messages:
        only(message, "messages", "role", "content")
        role, blocks = message.get("role"), parts_of(message.get("content"))
        if not blocks:
            raise Misfit("messages: an empty message")
        if role == "user":
            yield from _user(blocks)
        elif role == "assistant":
            yield _assistant(blocks)
        elif role == "system":
            yield {"role": "system", "content": words(_texts(blocks, "system message"))}
        else:
            raise Misfit(f"messages: a {role} message")


def _texts(value: Any, where: str) -> list[str]:
    return [_text(block, where)["text"] for block in parts_of(value)]


def _text(block: Json, where: str) -> Json:
    if block.get("type") != "text":
        raise Misfit(f"{where}: {block.get('type')}")
    only(block, where, "type", "text", _MARK)
    return {"type": "text", "text": said(block.get("text"), where)}


def _user(blocks: list[Json]) -> Iterator[Json]:
    """The results as messages, then what else was said, which must not stand before them."""
    results = 0
    while results < len(blocks) and blocks[results].get("type") == "tool_result":
        yield _result(blocks[results])
        results += 1
    if parts := [_part(block) for block in blocks[results:]]:
        yield {"role": "user", "content": content(parts)}


def _result(block: Json) -> Json:
    only(block, "tool_result", "type", "tool_use_id", "content", _MARK)
    said_back = words(_texts(block["content"], "tool_result")) if block.get("content") else ""
    return {"role": "tool", "tool_call_id": call_id(block.get("tool_use_id")), "content": said_back}


def _part(block: Json) -> Json:
    if block.get("type") != "image":
        return _text(block, "user message")
    only(block, "image", "type", "source", _MARK)
    source = obj(block.get("source"))
    kind = source.get("type")
    if kind == "url":
        only(source, "image", "type", "url")
        return {"type": "image_url", "image_url": {"url": text(source.get("url"))}}
    only(source, "image", "type", "media_type", "data")
    if kind != "base64" or source.get("media_type") not in IMAGES:
        raise Misfit(f"image: {kind}")
    url = f"data:{source['media_type']};base64,{text(source.get('data'))}"
    return {"type": "image_url", "image_url": {"url": url}}


def _assistant(blocks: list[Json]) -> Json:
    """Texts, then calls: a chat message has no other order."""
    texts = [block for block in blocks if block.get("type") != "tool_use"]
    calls = blocks[len(texts) :]
    if any(block.get("type") != "tool_use" for block in calls):
        raise Misfit("assistant message: a text after a tool call")
    out: Json = {"role": "assistant"}
    if texts:
        out["content"] = words(_texts(texts, "assistant message"))
    if calls:
        out["tool_calls"] = [_call(call) for call in calls]
    return out


def _call(call: Json) -> Json:
    only(call, "tool_use", "type", "id", "name", "input", _MARK, neutral={"caller": _DIRECT})
    given = msgspec.json.encode(obj(call.get("input"))).decode()
    function = {"name": tool_name(call.get("name")), "arguments": given}
    return {"id": call_id(call.get("id")), "type": "function", "function": function}
