"""OpenAI Chat Completions, and whoever speaks it. Source: the types of openai 3.57, wire.md section 1.1.

Streams say their usage only if asked; then in one event with no choices, before [DONE]. Where Bursar asked and the
caller did not, that event is cut out of the relay and nothing else is.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from bursar.types import Api, Block, Headers, Instant, Reading, View
from bursar.wire import openai_base, peek, splice
from bursar.wire.finish import JSON, SSE, Finish, event
from bursar.wire.meter import HidingMeter, PlainMeter, Tally, fault, read_whole
from bursar.wire.patch import inside, lowered
from bursar.wire.splice import Edits

_SHAPING = frozenset({"response_format", "tool_choice", "function_call", "modalities"})
_WORDS = msgspec.json.Decoder(list[str])

_peek = peek.Peek("messages")
_APART = openai_base.APART | {"messages", "tools", "functions", "response_format"}
_INLINE = frozenset({"text", "refusal"})

_NO_USAGE = len(b"null")
_LIKELIEST = 2
"""Candidates that a margin needs."""

_FREE = {
    "usage": {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
}

_VISIBLE = re.compile(rb'"choices"\s*+:\s*+\[\s*+[^\s\]]|\A(?:data: ?+[^ {]|[^a-z])')
"""An event that begins so has choices, or is [DONE], or is no event but plain JSON."""


class _Function(msgspec.Struct, gc=False):
    arguments: Any = None
    input: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None
    custom: _Function | None = None


class _Said(msgspec.Struct, gc=False):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    function_call: _Function | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: Any = None


class _Frame(msgspec.Struct, gc=False):
    """An answer without its choices, for one whose choices are not of the known shape."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    moderation: Any = None
    usage: msgspec.Raw = msgspec.Raw()
    error: Any = None


class _Answer(_Frame, gc=False):
    choices: list[_Choice] | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_FRAME = msgspec.json.Decoder(_Frame)


class ChatTally(Tally):
    """What the chunks of one answer said, or the whole of it."""

    api: Api = "chat"

    def __init__(self, view: View, headers: Headers) -> None:
        super().__init__(view, headers)
        self._last_word = False
        """The usage at hand came without choices or after a finish reason: no running count of a provider's."""

    def add(self, data: bytes) -> None:
        self.hidden = False
        answer = peek.read(_ANSWER, data)
        if answer is not None:
            self._take(answer, answer.choices)
        elif data.lstrip().startswith(b"[DONE]"):
            self.terminal = True
        elif (frame := peek.read(_FRAME, data)) is not None:
            self._take(frame, None)
        else:
            self.malformed += 1

    def whole(self, body: bytes) -> None:
        self.add(body)
        self.terminal = self._last_word = True

    def _take(self, answer: _Frame, choices: list[_Choice] | None) -> None:
        tier = answer.service_tier
        if answer.model != self.model or (tier is not None and tier != self.service_tier):
            self.note(answer.model, answer.id, tier)
        if answer.error is not None:
            self.error = fault(answer.error)
        for choice in choices or ():
            if choice.finish_reason is not None:
                self.finish = str(choice.finish_reason)
            if (said := choice.delta or choice.message) is not None:
                self._hear(said)
        if len(answer.usage) > _NO_USAGE:
            self.usage = answer.usage.copy()
            self._last_word = not choices or self.finish is not None
            self.hidden = choices == [] and answer.moderation is None and answer.error is None

    def _hear(self, said: _Said) -> None:
        content = said.content
        if content is not None:
            self.say(content)
            if isinstance(content, list):  # parts, as some providers send them
                self.say(msgspec.json.encode(content).decode())
        if said.refusal is not None:
            self.say(said.refusal)
        if said.reasoning_content is not None or said.reasoning is not None:
            self.say(said.reasoning_content or said.reasoning)
        if said.tool_calls is not None:
            functions = [function for call in said.tool_calls for function in (call.function, call.custom)]
            self._hear_calls(functions)
        if said.function_call is not None:
            self._hear_calls([said.function_call])

    def _hear_calls(self, functions: list[_Function | None]) -> None:
        for function in functions:
            if function is not None:
                self.say(function.arguments)
                self.say(function.input)

    def final(self) -> bool:
        return self.terminal or self._last_word


class Chat(openai_base.OpenAIDialect):
    """POST .../chat/completions"""

    api: Api = "chat"

    def view(self, body: bytes, path: str, headers: Headers) -> View:
        del headers
        seen = _peek(body)
        if seen is None:
            return View(model=openai_base.deployment(path), readable=False)
        found = seen.members
        limit, older = peek.count(found.get("max_completion_tokens")), peek.count(found.get("max_tokens"))
        if older is not None:  # whichever of the two the provider goes by, no more can come
            limit = max(limit or 0, older)
        options = peek.members(found.get("stream_options")) or {}
        return View(
            model=openai_base.deployment(path) or peek.text(found.get("model")),
            stream=peek.flag(found.get("stream")),
            max_output_tokens=limit,
            choices=peek.count(found.get("n")) or 1,
            wants_usage=peek.flag(options.get("include_usage")),
            terms=openai_base.asked(found),
            blocks=tuple(_blocks(seen)),
            claims=tuple(peek.claims(found)),
            opaque_input=_opaque(seen),
            cache_ttl=openai_base.cache_ttl(found),
            prose=_SHAPING.isdisjoint(found) or _prose(found),
        )

    def _asking(self, found: peek.Members) -> Edits:
        return inside(found, "stream_options", {"include_usage": b"true"})

    def _limited(self, found: peek.Members, limit: int) -> Edits:
        """By the name that the caller used: reasoning models refuse max_tokens, and OpenAI takes not both."""
        return lowered(found, limit, "max_completion_tokens", "max_tokens")

    def _tools_off(self, found: peek.Members) -> Edits:
        older: Edits = {"function_call": b'"none"'} if peek.listed(found.get("functions")) else {}
        return openai_base.tools_off(found) | older

    def _noted(self, found: peek.Members, note: str) -> Edits:
        """One more message. A system message is nothing that an implicit cache breakpoint is put on."""
        messages = peek.listed(found.get("messages"))
        if not messages:
            return {}
        return {"messages": splice.append(bytes(found["messages"]), openai_base.note_item(messages, note))}

    def _hinted(self, found: peek.Members, hint: str) -> Edits:
        """One more message."""
        if not peek.listed(found.get("messages")):
            return {}
        return {"messages": splice.append(bytes(found["messages"]), openai_base.hint_item(hint))}

    def _scored(self, found: peek.Members) -> Edits:
        edits: Edits = {} if peek.flag(found.get("logprobs")) else {"logprobs": b"true"}
        few = (peek.count(found.get("top_logprobs")) or 0) < _LIKELIEST
        return {**edits, "top_logprobs": b"%d" % _LIKELIEST} if few else edits

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> PlainMeter | HidingMeter:
        tally = ChatTally(view, headers)
        return HidingMeter(tally, _VISIBLE) if hide_usage else PlainMeter(tally)

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        return read_whole(ChatTally(view, headers), body)

    def finish(self, text: str, view: View, *, model: str, request_id: str, at: Instant) -> Finish:
        frame = {"id": f"chatcmpl-{request_id}", "created": at // 1_000_000, "model": model}
        if view.stream:
            return Finish(SSE, b"".join(_chunks(frame, text, view)))
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        choices = [
            {"index": n, "message": message, "logprobs": None, "finish_reason": "length"} for n in range(view.choices)
        ]
        return Finish(JSON, msgspec.json.encode({**frame, "object": "chat.completion", "choices": choices} | _FREE))


def _chunks(frame: dict[str, Any], text: str, view: View) -> Iterator[bytes]:
    """The stream of an answer: role, text and end of every choice, the usage where it was asked for, [DONE]."""
    frame = frame | {"object": "chat.completion.chunk"}
    silent = {"usage": None} if view.wants_usage else {}
    said: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": "", "refusal": None}, None), ({"content": text}, None), ({}, "length"),
    ]  # fmt: skip
    for delta, reason in said:
        for n in range(view.choices):
            choice = {"index": n, "delta": delta, "logprobs": None, "finish_reason": reason}
            yield event({**frame, "choices": [choice], **silent})
    if view.wants_usage:
        yield event({**frame, "choices": [], **_FREE})
    yield b"data: [DONE]\n\n"


def _prose(found: peek.Members) -> bool:
    spoken = peek.read(_WORDS, found.get("modalities"))
    return not (
        openai_base.structured(found.get("response_format"))
        or openai_base.forces_a_tool(found.get("tool_choice"))
        or openai_base.forces_a_tool(found.get("function_call"))
        or (spoken is not None and "text" not in spoken)
    )


def _blocks(seen: peek.Seen) -> Iterator[Block]:
    found = seen.members
    yield from (seen.block("tools", found[key]) for key in ("tools", "functions") if key in found)
    yield from seen.messages()
    if "response_format" in found:
        yield seen.block("format", found["response_format"])
    yield from peek.params(found, _APART)


def _opaque(seen: peek.Seen) -> bool:
    found = seen.members
    if peek.first(found, "web_search_options") is not None:
        return True
    return seen.any_nested(_elsewhere)


def _elsewhere(message: peek.Part) -> bool:
    """Media; or the audio of an earlier answer, which the provider keeps and an assistant message names."""
    return message.audio is not None or peek.elsewhere(message, _INLINE)
