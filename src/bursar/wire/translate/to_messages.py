"""A chat completions request as a messages request. What has no place there raises Misfit with the reason.

The normal form: leading system and developer messages are one system prompt; a content of one text is a string; tool
results in a row are one user message; a tool without parameters takes an empty object; user is metadata.user_id.
A system message further down refuses, as few models take one there.
Left out, as they shape no answer: cache keys and marks, metadata (a label of the stored completion), prediction (only
ever makes an answer faster), the name of an output schema, stream_options (answers are rendered as these say).
"""

import re
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
    stated,
    tool_name,
    whole,
    words,
)

_CARRIED = (
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "stop", "stream",
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "reasoning_effort", "service_tier", "user",
    "safety_identifier",
)  # fmt: skip
_LEFT_OUT = (
    "metadata", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "stream_options",
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
}
_SERVICE = {"auto": "auto", "default": "standard_only"}
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
_DATA_URL = re.compile(r"data:([a-z]+/[a-z.+-]+);base64,([A-Za-z0-9+/]+={0,2})")
_SYSTEM = ("system", "developer")
_MARK = "prompt_cache_breakpoint"


def request(body: Json, model: str, most: int | None) -> Json:
    """The messages request; most: output tokens that the model can give, None where that is not known."""
    only(body, "request", *_CARRIED, *_LEFT_OUT, neutral=_NEUTRAL)
    system, said_on = _split(objs(body.get("messages")))
    out: Json = {"model": model, "max_tokens": _limit(body, most)}
    if system:
        out["system"] = words(system)
    out["messages"] = _messages(said_on)
    if tools := [_tool(tool) for tool in objs(body.get("tools"))]:
        out["tools"] = tools
    if choice := _choice(body, bool(tools)):
        out["tool_choice"] = choice
    if config := _config(body):
        out["output_config"] = config
    _rest(body, out)
    return out


def _limit(body: Json, most: int | None) -> int:
    """max_tokens, which a messages request must have: the caller's limit, at most what the model can give.

    A caller without one means all that the model can give; where that is not known, nothing can be sent.
    """
    asked = stated(body, "max_completion_tokens", "max_tokens")
    if asked is None:
        if most is None:
            raise Misfit("max_tokens: the caller sets no limit and the model's own is not known")
        return most
    return whole(asked, "max_tokens") if most is None else min(whole(asked, "max_tokens"), most)


def _rest(body: Json, out: Json) -> None:
    sampling(body, out)
    stop = body.get("stop")
    if stops := [stop] if isinstance(stop, str) else stop or []:
        if not isinstance(stops, list):
            raise Misfit("stop: no texts")
        out["stop_sequences"] = [said(one, "stop") for one in stops]
    if (user := stated(body, "safety_identifier", "user")) is not None:
        out["metadata"] = {"user_id": text(user)}
    if (tier := body.get("service_tier")) is not None:
        out["service_tier"] = among(tier, _SERVICE, "service_tier")
    if body.get("reasoning_effort") == "none":
        out["thinking"] = {"type": "disabled"}
    if body.get("stream"):
        out["stream"] = True


def _config(body: Json) -> Json:
    """Effort and output schema. Plain JSON mode has no fellow."""
    config: Json = {}
    effort = body.get("reasoning_effort")
    if effort is not None and effort != "none":
        config["effort"] = among(effort, EFFORTS, "reasoning_effort")
    form = obj(body.get("response_format") or {"type": "text"})
    only(form, "response_format", "type", "json_schema")
    if form.get("type") == "json_schema":
        named = obj(form.get("json_schema"))
        only(named, "json_schema", "name", "schema", "strict", "description")
        schema = enforceable(named.get("schema"), complete=False)
        if (about := named.get("description")) is not None and schema.setdefault("description", about) != about:
            raise Misfit("json_schema: two descriptions")
        config["format"] = {"type": "json_schema", "schema": schema}
    elif form.get("type") != "text":
        raise Misfit(f"response_format: {form.get('type')}")
    return config


# --- tools


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        raise Misfit(f"tools: {tool.get('type')}")
    only(tool, "tools", "type", "function")
    function = obj(tool.get("function"))
    only(function, "tools", "name", "description", "parameters", "strict")
    schema = {"type": "object", **obj(function.get("parameters") or {"properties": {}})}
    if schema["type"] != "object":
        raise Misfit("tools: parameters of another type than object")
    out: Json = {"name": tool_name(function.get("name")), "input_schema": schema}
    if function.get("description"):
        out["description"] = text(function["description"])
    if function.get("strict") is True:
        out |= {"input_schema": enforceable(schema, complete=False), "strict": True}
    return out


def _choice(body: Json, tools: bool) -> Json | None:
    value, one_at_a_time = body.get("tool_choice"), body.get("parallel_tool_calls") is False
    if isinstance(value, dict):
        only(value, "tool_choice", "type", "function")
        if value.get("type") != "function":
            raise Misfit(f"tool_choice: {value.get('type')}")
        choice: Json = {"type": "tool", "name": tool_name(obj(value.get("function")).get("name"))}
    else:
        choice = {"type": among("auto" if value is None else value, _CHOICES, "tool_choice")}
    if not tools:
        if choice["type"] not in ("auto", "none"):
            raise Misfit("tool_choice: a call is forced where there are no tools")
        return None
    if one_at_a_time and choice["type"] != "none":
        return {**choice, "disable_parallel_tool_use": True}
    return None if value is None else choice


# --- messages


def _split(messages: list[Json]) -> tuple[list[str], list[Json]]:
    """The texts of the system prompt, and the messages after it."""
    texts: list[str] = []
    for number, message in enumerate(messages):
        if message.get("role") not in _SYSTEM:
            return texts, messages[number:]
        only(message, "system message", "role", "content")
        if message.get("content") != "":
            texts += _texts(message.get("content"), "system message")
    return texts, []


def _texts(value: Any, where: str) -> list[str]:
    found = parts_of(value)
    for part in found:
        if part.get("type") != "text":
            raise Misfit(f"{where}: {part.get('type')}")
        only(part, where, "type", "text", _MARK)
    return [said(part.get("text"), where) for part in found]


def _messages(messages: list[Json]) -> list[Json]:
    """Anthropic wants the user first; last, an assistant's message would be gone on with, not answered."""
    out: list[Json] = []
    for message in messages:
        role = message.get("role")
        if role == "tool":
            _add_result(out, _result(message))
        elif role == "user":
            only(message, "user message", "role", "content")
            out.append({"role": "user", "content": content([_part(part) for part in parts_of(message.get("content"))])})
        elif role == "assistant":
            out.append({"role": "assistant", "content": content(list(_assistant(message)))})
        else:
            raise Misfit(f"messages: a {role} message inside the conversation")
        if not out[-1]["content"]:
            raise Misfit(f"messages: an empty {role} message")
    if not out or out[0]["role"] != "user" or out[-1]["role"] != "user":
        raise Misfit("messages: the conversation must begin and end with the user")
    return out


def _add_result(out: list[Json], result: Json) -> None:
    """Results in a row are one message, as one message has to answer all calls of the one before."""
    before = out[-1]["content"] if out else ""
    if isinstance(before, list) and before[-1]["type"] == "tool_result":
        before.append(result)
    else:
        out.append({"role": "user", "content": [result]})


def _result(message: Json) -> Json:
    only(message, "tool message", "role", "content", "tool_call_id")
    out: Json = {"type": "tool_result", "tool_use_id": call_id(message.get("tool_call_id"))}
    if message.get("content"):
        out["content"] = words(_texts(message["content"], "tool message"))
    return out


def _part(part: Json) -> Json:
    kind = part.get("type")
    if kind == "text":
        only(part, "user message", "type", "text", _MARK)
        return {"type": "text", "text": said(part.get("text"), "user message")}
    if kind != "image_url":
        raise Misfit(f"user message: {kind}")
    only(part, "image", "type", "image_url", _MARK)
    image = obj(part.get("image_url"))
    only(image, "image", "url", neutral={"detail": ("auto", "high")})
    return {"type": "image", "source": _source(text(image.get("url")))}


def _source(url: str) -> Json:
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    match = _DATA_URL.fullmatch(url)
    if match is None or match[1] not in IMAGES:
        raise Misfit("image: neither a web address nor base64 of a type that is taken")
    return {"type": "base64", "media_type": match[1], "data": match[2]}


def _assistant(message: Json) -> Iterator[Json]:
    """An assistant's turn as blocks: its text, then its calls."""
    only(message, "assistant message", "role", "content", "tool_calls")
    if message.get("content"):
        for one in _texts(message["content"], "assistant message"):
            yield {"type": "text", "text": one}
    for call in objs(message.get("tool_calls")):
        if call.get("type") != "function":
            raise Misfit(f"tool_calls: {call.get('type')}")
        only(call, "tool_calls", "type", "id", "function", neutral={"index": (call.get("index"),)})
        function = obj(call.get("function"))
        only(function, "tool_calls", "name", "arguments")
        try:
            given = obj(msgspec.json.decode(text(function.get("arguments")) or "{}"))
        except (msgspec.MsgspecError, Misfit):
            raise Misfit("tool_calls: arguments are no JSON object") from None
        name = tool_name(function.get("name"))
        yield {"type": "tool_use", "id": call_id(call.get("id")), "name": name, "input": given}
