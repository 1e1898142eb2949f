"""Gemini generateContent, of the Gemini API and of Vertex. Source: the types of google-genai 3.6, wire.md section 1.6.

The model and whether it streams stand in the path. Every streamed chunk is a whole response object and may carry
running usage: the last that is not null counts, nothing is added up. Requests are read in both spellings that protobuf
JSON allows, camelCase and snake_case. Nothing here raises.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import msgspec

from bursar.types import Api, Block, Family, Headers, Instant, Reading, Terms, View
from bursar.wire import peek, splice
from bursar.wire.finish import JSON, SSE, Finish, event
from bursar.wire.meter import PlainMeter, Tally, fault, read_whole
from bursar.wire.patch import Patching, inside, lowered
from bursar.wire.splice import Edits
from bursar.wire.sse import Elements, Events
from bursar.wire.usage import UsageFacts

PATH = re.compile(r"(/|\A)(?P<model>[^/:?]+):(?P<verb>generateContent|streamGenerateContent)/?(?=\?|\Z)")

_peek = peek.Peek("contents")
_SYSTEM = ("systemInstruction", "system_instruction")
_CONFIG = ("generationConfig", "generation_config")
_LIMIT = ("maxOutputTokens", "max_output_tokens")
_THINKING = ("thinkingConfig", "thinking_config")
_TOOL_CONFIG = ("toolConfig", "tool_config")
_CALLING = ("functionCallingConfig", "function_calling_config")
_FUNCTIONS = ("allowedFunctionNames", "allowed_function_names")
_SCHEMAS = (
    "responseSchema", "response_schema", "responseJsonSchema", "response_json_schema", "responseFormat",
    "response_format",
)  # fmt: skip
_MIME = ("responseMimeType", "response_mime_type")
_SPOKEN = ("responseModalities", "response_modalities")
_FORCING = frozenset(_TOOL_CONFIG)
_SHAPING = frozenset({*_SCHEMAS, *_MIME, *_SPOKEN})
_ASKING = (None, "user", "function")
_ANSWERED = frozenset({"functionResponse", "function_response"})
_WORDS = msgspec.json.Decoder(list[str])
_CACHED = ("cachedContent", "cached_content")
_TIER = ("serviceTier", "service_tier")
_APART = frozenset({"contents", "tools", "model", "labels", "store", *_SYSTEM, *_TIER})
_CLIENT_TOOLS = frozenset({"functionDeclarations", "function_declarations"})
_STANDARD = frozenset({"standard", "unspecified"})
_NULL = msgspec.Raw(b"null")

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class _Part(msgspec.Struct):
    text: Any = None
    functionCall: msgspec.Raw = _NULL
    executableCode: msgspec.Raw = _NULL


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Grounding(msgspec.Struct):
    webSearchQueries: list[Any] | None = None
    groundingChunks: list[msgspec.Raw] | None = None


class _Candidate(msgspec.Struct):
    content: _Content | None = None
    finishReason: Any = None
    index: Any = None
    groundingMetadata: _Grounding | None = None


class _Feedback(msgspec.Struct):
    blockReason: Any = None


class _Frame(msgspec.Struct):
    """A response without its candidates, for one whose candidates are not of the known shape."""

    usageMetadata: msgspec.Raw = _NULL
    modelVersion: Any = None
    responseId: Any = None
    promptFeedback: _Feedback | None = None
    error: Any = None


class _Answer(_Frame):
    candidates: list[_Candidate] | None = None


class _Given(msgspec.Struct):
    inlineData: dict[str, msgspec.Raw] | None = None
    inline_data: dict[str, msgspec.Raw] | None = None
    fileData: dict[str, msgspec.Raw] | None = None
    file_data: dict[str, msgspec.Raw] | None = None
    functionResponse: "_Input | None" = None
    function_response: "_Input | None" = None


class _Input(msgspec.Struct):
    parts: list[_Given] | _Given | None = None


_INPUTS = msgspec.json.Decoder(list[_Input])
_ANSWER = msgspec.json.Decoder(_Answer)
_FRAME = msgspec.json.Decoder(_Frame)


class GeminiTally(Tally):
    """What the chunks of one answer said, or the whole of it."""

    api: Api = "gemini"

    def __init__(self, view: View, headers: Headers) -> None:
        super().__init__(view, headers)
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._queries: set[tuple[int, str]] = set()
        self._grounded = False

    def add(self, data: bytes) -> None:
        answer = peek.read(_ANSWER, data)
        frame = answer or peek.read(_FRAME, data)
        if frame is None:
            self.malformed += 1
            return
        self.note(frame.modelVersion, frame.responseId)
        if frame.usageMetadata != _NULL:
            self.usage = frame.usageMetadata.copy()
        if frame.error is not None:
            self.error = fault(frame.error)
        for candidate in (answer.candidates if answer else None) or ():
            self._take(candidate)
        if frame.promptFeedback is not None and frame.promptFeedback.blockReason is not None:
            self.finish = str(frame.promptFeedback.blockReason)
            self.terminal = not self._seen
        if self._seen:
            self.terminal = self._finished >= self._seen

    def whole(self, body: bytes) -> None:
        self.add(body)
        self.terminal = not self.malformed

    def _take(self, candidate: _Candidate) -> None:
        index = candidate.index if isinstance(candidate.index, int) else 0
        self._seen.add(index)
        if isinstance(candidate.finishReason, str) and candidate.finishReason != "FINISH_REASON_UNSPECIFIED":
            self._finished.add(index)
            self.finish = candidate.finishReason
        for part in (candidate.content.parts if candidate.content else None) or ():
            self.say(part.text)
            for raw in (part.functionCall, part.executableCode):
                if raw != _NULL:
                    self.say(bytes(raw).decode("utf-8", "replace"))
        if (grounding := candidate.groundingMetadata) is not None:
            self._queries.update((index, str(query)) for query in grounding.webSearchQueries or ())
            self._grounded = self._grounded or bool(grounding.webSearchQueries or grounding.groundingChunks)

    def facts(self) -> UsageFacts:
        return msgspec.structs.replace(
            super().facts(),
            header_tier=next((value for name, value in self.headers if name == "x-gemini-service-tier"), None),
            grounding_queries=len(self._queries),
            grounded=self._grounded,
        )


class GeminiCutter:
    """Cuts an SSE stream or a JSON array, whichever its first byte says it is."""

    __slots__ = ("_cutter",)

    def __init__(self) -> None:
        self._cutter: Events | Elements | None = None

    @property
    def tail(self) -> bytearray:
        """The unfinished event."""
        return self._cutter.tail if self._cutter else bytearray()

    def read(self, chunk: bytes) -> list[bytes]:
        """The data of the events or elements that this chunk completes."""
        if self._cutter is None and (start := chunk.lstrip()[:1]):
            self._cutter = Elements() if start == b"[" else Events()
        return self._cutter.read(chunk) if self._cutter else []

    def rest(self) -> bytes:
        return self._cutter.rest() if self._cutter else b""

    def data(self, event: bytes) -> bytes | None:
        return self._cutter.data(event) if self._cutter else None


class Gemini(Patching):
    """POST .../models/{model}:generateContent and :streamGenerateContent"""

    api: Api = "gemini"
    family: Family = "gemini"
    names_model = False

    def view(self, body: bytes, path: str, headers: Headers) -> View:
        del headers
        match = PATH.search(path)
        model = unquote(match["model"]) if match else None
        stream = match is not None and match["verb"] == "streamGenerateContent"
        seen = _peek(body)
        if seen is None:
            return View(model=model, stream=stream, readable=False)
        found = seen.members
        config = peek.members(peek.first(found, *_CONFIG)) or {}
        tier = (peek.text(peek.first(found, *_TIER)) or "standard").lower()
        return View(
            model=model,
            stream=stream,
            max_output_tokens=peek.count(peek.first(config, *_LIMIT)),
            choices=peek.count(peek.first(config, "candidateCount", "candidate_count")) or 1,
            terms=Terms(service_tier=None if tier in _STANDARD else tier),
            blocks=tuple(_blocks(seen)),
            opaque_input=_opaque(seen),
            output_floor=1 + _budget(config),
            prose=(_FORCING.isdisjoint(found) and _SHAPING.isdisjoint(config)) or _prose(found, config),
        )

    def path(self, path: str, *, model: str | None) -> str:
        """The path with that model in it."""
        match = PATH.search(path) if model is not None else None
        if match is None or model is None or unquote(match["model"]) == model:
            return path
        return path[: match.start("model")] + model.removeprefix("models/") + path[match.end("model") :]

    def _limited(self, found: peek.Members, limit: int) -> Edits:
        key = _spelt(found, _CONFIG)
        config = peek.members(found.get(key)) or {}
        names = _LIMIT if key == _CONFIG[0] else _LIMIT[::-1]
        return inside(found, key, lowered(config, limit, *names))

    def _tools_off(self, found: peek.Members) -> Edits:
        """Where functions are declared. Names of allowed functions go: they may not stand beside that mode."""
        if not peek.tool_names(found.get("tools")) & _CLIENT_TOOLS:
            return {}
        key = _spelt(found, _TOOL_CONFIG)
        config = peek.members(found.get(key)) or {}
        name = _spelt(config, _CALLING if key == _TOOL_CONFIG[0] else _CALLING[::-1])
        kept = {k: v for k, v in (peek.members(config.get(name)) or {}).items() if k not in ("mode", *_FUNCTIONS)}
        return inside(found, key, {name: msgspec.json.encode({"mode": "NONE", **kept})})

    def _noted(self, found: peek.Members, note: str) -> Edits:
        """One more part of what the user said last, or a content of its own behind the answers of functions."""
        contents = peek.listed(found.get("contents"))
        content = peek.members(contents[-1] if contents else None) or {}
        if peek.text(content.get("role")) not in _ASKING or not peek.listed(content.get("parts")):
            return {}
        return _one_more_part(found, content, note)

    def _hinted(self, found: peek.Members, hint: str) -> Edits:
        """The same, and a content of its own behind what the model said."""
        contents = peek.listed(found.get("contents"))
        content = peek.members(contents[-1] if contents else None) or {}
        return _one_more_part(found, content, hint) if contents else {}

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> PlainMeter:
        del hide_usage
        return PlainMeter(GeminiTally(view, headers), GeminiCutter())

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        return read_whole(GeminiTally(view, headers), body)

    def finish(self, text: str, view: View, *, model: str, request_id: str, at: Instant) -> Finish:
        del at
        content = {"parts": [{"text": text}], "role": "model"}
        answer = {
            "candidates": [{"content": content, "finishReason": "MAX_TOKENS", "index": n} for n in range(view.choices)],
            "usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0},
            "modelVersion": model,
            "responseId": request_id,
        }
        return Finish(SSE, event(answer)) if view.stream else Finish(JSON, msgspec.json.encode(answer))

    def error(self, status: int, kind: str, message: str, code: str | None = None) -> bytes:
        """google.rpc.Status; what it is beyond the status goes into an ErrorInfo."""
        error: dict[str, Any] = {"code": status, "message": message, "status": STATUSES.get(status, "UNKNOWN")}
        reason = code or kind
        error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "bursar"}]
        return msgspec.json.encode({"error": error})

    def error_event(self, message: str, kind: str) -> bytes:
        """An error object in place of a chunk, which the SDK raises."""
        return b"data: " + self.error(500, kind, message) + b"\n\n"


def _one_more_part(found: peek.Members, content: peek.Members, said: str) -> Edits:
    """The text behind the parts of the last content, where the user speaks in it; else as a content of its own."""
    array, part = bytes(found["contents"]), msgspec.json.encode({"text": said})
    parts = content.get("parts")
    speaks = peek.text(content.get("role")) in _ASKING and peek.listed(parts)
    if not speaks or peek.tool_names(parts) & _ANSWERED:
        return {"contents": splice.append(array, b'{"role":"user","parts":[' + part + b"]}")}
    last = bytes(peek.listed(found["contents"])[-1])
    told = splice.set_members(last, {"parts": splice.append(bytes(content["parts"]), part)}, content)
    return {"contents": splice.set_last(array, last, told)}


def _spelt(found: peek.Members, names: tuple[str, ...]) -> str:
    """The spelling that the caller used, the first one where he used none."""
    return next((name for name in names if peek.first(found, name) is not None), names[0])


def _budget(config: peek.Members) -> int:
    """What thinking may take at the most, in tokens; 0: nothing, or not said (-1: the model decides)."""
    thinking = peek.members(peek.first(config, *_THINKING))
    return 0 if thinking is None else peek.count(peek.first(thinking, "thinkingBudget", "thinking_budget")) or 0


def _prose(found: peek.Members, config: peek.Members) -> bool:
    mime = peek.text(peek.first(config, *_MIME))
    spoken = peek.read(_WORDS, peek.first(config, *_SPOKEN))
    calling = peek.members(peek.first(peek.members(peek.first(found, *_TOOL_CONFIG)) or {}, *_CALLING)) or {}
    return (
        mime in (None, "text/plain")
        and peek.first(config, *_SCHEMAS) is None
        and not (spoken and "TEXT" not in (word.upper() for word in spoken))
        and peek.text(calling.get("mode")) != "ANY"
    )


def _blocks(seen: peek.Seen) -> Iterator[Block]:
    found = seen.members
    if "tools" in found:
        yield seen.block("tools", found["tools"])
    if (system := peek.first(found, *_SYSTEM)) is not None:
        yield seen.block("system", system)
    yield from seen.messages()
    yield from peek.params(found, _APART)


def _opaque(seen: peek.Seen) -> bool:
    found = seen.members
    if peek.first(found, *_CACHED) is not None:
        return True
    if "tools" in found and not peek.tool_names(found["tools"]) <= _CLIENT_TOOLS:
        return True
    contents = peek.read(_INPUTS, seen.array) if seen.array is not None else []
    return contents is None or any(_elsewhere(content.parts) for content in contents)


def _elsewhere(parts: list[_Given] | _Given | None) -> bool:
    """Media, inline or by reference; also among what a function gave back."""
    if parts is None:
        return False
    for part in parts if isinstance(parts, list) else (parts,):
        if part.inlineData or part.inline_data or part.fileData or part.file_data:
            return True
        inside = part.functionResponse or part.function_response
        if inside is not None and _elsewhere(inside.parts):
            return True
    return False
