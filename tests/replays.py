"""Answers of every kind, as the dialects write them, and clients that are given one. Not a test itself."""

import functools
import json
from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import openai
import pydantic
from google import genai
from google.genai import types as google
from hypothesis import strategies as st

from bursar.types import Api, View
from bursar.wire import replay

Json = dict[str, Any]
ASKED = View(wants_usage=True)

TEXT = st.text(max_size=40) | st.builds(lambda word, times: word * times, st.text(min_size=1, max_size=9), st.just(150))
SAID = TEXT.filter(bool)
VALUES: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-9, 2**60) | st.floats(-9, 9) | TEXT
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES | st.lists(VALUES, max_size=2), max_size=2)
UNKNOWN = st.dictionaries(st.sampled_from(["x_new", "x_more"]), VALUES | OBJECTS | st.lists(OBJECTS, max_size=2))
NAMES = st.sampled_from(["look_up", "add"])


def objects(fixed: Json, maybe: Json | None = None) -> st.SearchStrategy[Json]:
    """Objects with these members, values drawn where they are strategies, and perhaps with those."""
    strategies = {key: one if isinstance(one, st.SearchStrategy) else st.just(one) for key, one in fixed.items()}
    return st.fixed_dictionaries(strategies, optional=maybe or {})


def numbered(inner: st.SearchStrategy[Json], least: int = 0) -> st.SearchStrategy[list[Json]]:
    listed = st.lists(inner, min_size=least, max_size=3)
    return listed.map(lambda found: [{**one, "index": number} for number, one in enumerate(found)])


def mixed(*parts: st.SearchStrategy[Json]) -> st.SearchStrategy[list[Json]]:
    return st.lists(st.one_of(*parts), max_size=4)


def with_ids(items: list[Json]) -> list[Json]:
    return [{**item, "id": f"id_{number}", **({"call_id": f"call_{number}"} if "call_id" in item else {})}
            for number, item in enumerate(items)]  # fmt: skip


SCORES = st.lists(objects({"token": TEXT, "logprob": -0.5, "bytes": [1], "top_logprobs": []}), min_size=1, max_size=3)
CALLS = st.lists(
    objects({"id": "call_1", "type": "function", "function": objects({"name": NAMES, "arguments": TEXT})}, {"x": TEXT})
    | objects({"id": "call_2", "type": "custom", "custom": objects({"name": NAMES, "input": TEXT})}),
    min_size=1, max_size=3,
)  # fmt: skip
CITED = st.lists(
    objects({"type": "url_citation", "url_citation": objects({"url": TEXT, "start_index": 1})}), max_size=2
)
SPOKEN = objects(
    {"role": "assistant", "content": st.none() | TEXT, "refusal": st.none() | TEXT},
    {
        "annotations": CITED, "tool_calls": CALLS, "reasoning_content": TEXT, "x_list": st.lists(OBJECTS, max_size=2),
        "function_call": objects({"name": NAMES, "arguments": TEXT}), "audio": st.none(), "x_text": TEXT,
    },
)  # fmt: skip
FINISHED = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
SCORED = objects({"content": st.none() | SCORES, "refusal": st.none() | SCORES})
CHOICES = objects({"message": SPOKEN, "finish_reason": FINISHED, "logprobs": st.none() | SCORED}, {"x_filter": OBJECTS})
COUNTS = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "completion_tokens_details": None}
CHAT_HEAD = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o"}
CHATS = st.builds(
    lambda body, more: {**more, **body},
    objects(
        {**CHAT_HEAD, "choices": numbered(CHOICES, 1), "usage": COUNTS},
        {"service_tier": st.none() | st.just("flex"), "system_fingerprint": st.none() | TEXT,
         "moderation": st.none() | objects({"input": OBJECTS, "output": OBJECTS}).filter(bool)},
    ),
    UNKNOWN,
)  # fmt: skip

TAKEN = objects({"input_tokens": 9, "output_tokens": st.integers(0, 9)}, {
    "cache_read_input_tokens": st.none() | st.just(5), "cache_creation": st.none() | st.just({"x": 1}),
    "service_tier": st.just("standard"), "output_tokens_details": st.none() | st.just({"thinking_tokens": 2}),
    "server_tool_use": st.none() | st.just({"web_search_requests": 1}),
    "iterations": st.just([{"type": "message", "input_tokens": 9}]),
})  # fmt: skip
BLOCKS = mixed(
    objects({"type": "text", "text": TEXT}, {"citations": st.none() | st.lists(OBJECTS, max_size=2)}),
    objects({"type": "thinking", "thinking": TEXT, "signature": TEXT}),
    objects({"type": "redacted_thinking", "data": TEXT}),
    objects({"type": "tool_use", "id": "toolu_1", "name": NAMES, "input": OBJECTS}, {"caller": st.none()}),
    objects({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": OBJECTS}),
    objects({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": st.lists(OBJECTS, max_size=2)}),
    objects({"type": "compaction", "content": st.none() | TEXT, "encrypted_content": TEXT}),
)
STOPPED = st.sampled_from(["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "pause_turn"])
MESSAGES = st.builds(
    lambda body, more: {**more, **body},
    objects(
        {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": BLOCKS,
         "stop_reason": STOPPED, "stop_sequence": st.none() | SAID, "usage": TAKEN},
        {"stop_details": st.none() | st.just({"type": "refusal", "category": "cyber"}),
         "container": st.none() | st.just({"id": "c", "expires_at": "2026-01-01T00:00:00Z"}),
         "context_management": st.none() | OBJECTS},
    ),
    UNKNOWN,
)  # fmt: skip

STATUS = "completed"
PARTS = mixed(
    objects({"type": "output_text", "text": TEXT, "annotations": st.lists(OBJECTS, max_size=2)}, {"logprobs": SCORES}),
    objects({"type": "refusal", "refusal": TEXT}),
)
SUMMED = st.lists(objects({"type": "summary_text", "text": TEXT}), max_size=2)
THOUGHT = st.lists(objects({"type": "reasoning_text", "text": TEXT}), max_size=2)
FAULT = objects({"type": "mcp_protocol_error", "code": 1, "message": TEXT})
ITEMS = mixed(
    objects({"type": "message", "role": "assistant", "status": STATUS, "content": PARTS}),
    objects({"type": "reasoning", "summary": SUMMED}, {"content": THOUGHT, "encrypted_content": TEXT}),
    objects({"type": "function_call", "call_id": 0, "name": NAMES, "arguments": TEXT, "status": STATUS}),
    objects({"type": "custom_tool_call", "call_id": 0, "name": NAMES, "input": TEXT}),
    objects({"type": "web_search_call", "status": STATUS, "action": objects({"type": "search", "query": TEXT})}),
    objects({"type": "code_interpreter_call", "status": STATUS, "code": st.none() | TEXT, "outputs": None}),
    objects({"type": "mcp_call", "name": NAMES, "server_label": "s", "arguments": TEXT, "error": st.none() | FAULT}),
    objects({"type": "compaction", "encrypted_content": TEXT}),
).map(with_ids)
SPENT = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "output_tokens_details": {"reasoning_tokens": 1}}
RESPONSE_HEAD: Json = {
    "id": "resp_1", "object": "response", "created_at": 1.5, "model": "gpt-4o", "error": None, "tools": [],
    "parallel_tool_calls": True, "tool_choice": "auto", "instructions": None, "usage": SPENT,
}  # fmt: skip
ENDED = st.sampled_from(["completed", "incomplete", "failed"])
RESPONSES = st.builds(
    lambda body, more: {**more, **body}, objects({**RESPONSE_HEAD, "status": ENDED, "output": ITEMS}), UNKNOWN
)

GEMINI_PARTS = mixed(
    objects({"text": TEXT}),
    objects({"text": TEXT, "thought": True}),
    objects({"text": TEXT, "thoughtSignature": "c2ln"}),
    objects({"functionCall": objects({"name": NAMES, "args": OBJECTS})}, {"thoughtSignature": st.just("c2ln")}),
    objects({"inlineData": {"mimeType": "image/png", "data": "aGk="}}),
)
CANDIDATES = objects(
    {"finishReason": st.sampled_from(["STOP", "MAX_TOKENS", "SAFETY"])},
    {
        "content": objects({"role": "model"}, {"parts": GEMINI_PARTS}), "avgLogprobs": st.floats(-9, 0),
        "groundingMetadata": objects({"webSearchQueries": st.lists(TEXT, max_size=2)}), "safetyRatings": st.just([]),
    },
)  # fmt: skip
GEMINIS = st.builds(
    lambda candidates, more: {**more, "candidates": candidates, "usageMetadata": {"totalTokenCount": 7}},
    numbered(CANDIDATES, 1),
    objects(
        {"modelVersion": "gemini-2.5-flash", "responseId": "r"}, {"promptFeedback": st.just({"safetyRatings": []})}
    ),
)
ANSWERS: dict[Api, st.SearchStrategy[Json]] = {
    "chat": CHATS, "messages": MESSAGES, "responses": RESPONSES, "gemini": GEMINIS
}  # fmt: skip


def encode(answer: Json) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode()


def stream_of(api: Api, answer: Json, view: View = ASKED) -> bytes:
    stream = replay.streamed(api, encode(answer), view)
    assert stream is not None
    return stream


def whole_of(api: Api, stream: bytes) -> Json:
    body = replay.gathered(api, stream)
    assert body is not None
    found: Json = json.loads(body)
    return found


def gpt(content: bytes) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=serving(content), max_retries=0)


def claude(content: bytes) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1", http_client=serving(content), max_retries=0)


def google_client(content: bytes) -> genai.Client:
    """One client for all, as each loads the certificates of the world."""
    _given[:] = [content]
    return _google()


_given: list[bytes] = []


@functools.cache
def _google() -> genai.Client:
    http: Any = httpx2.Client(transport=httpx2.MockTransport(lambda request: answered(_given[0])))
    return genai.Client(api_key="k", http_options=google.HttpOptions(base_url="http://127.0.0.1", httpx_client=http))


def serving(content: bytes) -> httpx2.Client:
    """A client that gets these bytes, whatever it asks."""
    return httpx2.Client(transport=httpx2.MockTransport(lambda request: answered(content)))


def answered(content: bytes) -> httpx2.Response:
    """A JSON body, or the events of a stream."""
    kind = "application/json" if content[:1] == b"{" else "text/event-stream"
    return httpx2.Response(200, content=content, headers={"content-type": kind})


PARSED = frozenset({"parsed", "parsed_arguments", "parsed_output"})


def plain(value: Any) -> Any:
    """What an SDK's object holds, without what it parsed further and without fields that are not there."""
    if isinstance(value, pydantic.BaseModel):
        value = value.model_dump(warnings=False)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if one is not None and key not in PARSED}
    return [plain(one) for one in value] if isinstance(value, list) else value


HI: Any = [{"role": "user", "content": "Which ships lie in the harbour?"}]


def parsed(api: Api, body: bytes) -> Any:
    """What the SDK makes of a whole answer."""
    if api == "chat":
        return plain(gpt(body).chat.completions.create(model="m", messages=HI))
    if api == "responses":
        return plain(gpt(body).responses.create(model="m", input="hi"))
    if api == "messages":
        return plain(claude(body).messages.create(model="m", max_tokens=9, messages=HI))
    return heard([google_client(body).models.generate_content(model="m", contents="hi")])


def accumulated(api: Api, stream: bytes) -> Any:
    """What the SDK's own helper makes of a stream."""
    if api == "chat":
        with gpt(stream).chat.completions.stream(model="m", messages=HI) as chunks:
            final = plain(chunks.get_final_completion())
        for call in (call for choice in final["choices"] for call in choice["message"].get("tool_calls", ())):
            del call["index"]  # which this SDK leaves there with any stream
        return final
    if api == "responses":
        with gpt(stream).responses.stream(model="m", input="hi") as events:
            return plain(events.get_final_response())
    if api == "messages":
        with claude(stream).messages.stream(model="m", max_tokens=9, messages=HI) as told:
            return plain(told.get_final_message())
    return heard(google_client(stream).models.generate_content_stream(model="m", contents="hi"))


def heard(answers: Iterable[google.GenerateContentResponse]) -> Json:
    """What chunks tell, as google-genai has no helper for it: the last value of everything, the parts in order and
    texts of one kind that follow each other as one."""
    told: Json = {}
    candidates: Json = {}
    for answer in answers:
        said = plain(answer.model_copy(update={"sdk_http_response": None, "automatic_function_calling_history": None}))
        for candidate in said.pop("candidates", ()):
            known = candidates.setdefault(candidate.get("index", 0), {"parts": []})
            for part in candidate.pop("content", {}).get("parts", ()):
                _hear(known["parts"], part)
            known.update(candidate)
        told.update(said)
    return {**told, "candidates": candidates}


def _hear(parts: list[Json], part: Json) -> None:
    last = parts[-1] if parts else {}
    if last.keys() == part.keys() and "text" in part and part.keys() <= {"text", "thought"}:
        last["text"] += part["text"]
    else:
        parts.append(part)


TRIP = '{"city": "Oslo", "days": 2}'
LINES = "line ends to Unicode only:\u2028\u2029\x85"
STORED: dict[Api, Json] = {
    "chat": {
        **CHAT_HEAD, "usage": COUNTS,
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                     "message": {"role": "assistant", "content": TRIP, "refusal": None, "annotations": []}}],
    },
    "responses": {
        **RESPONSE_HEAD, "status": "completed",
        "output": [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": TRIP, "annotations": [], "logprobs": []}]}],
    },
    "messages": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": TRIP, "citations": None}],
        "usage": {"input_tokens": 3, "output_tokens": 4},
    },
    "gemini": {
        "candidates": [{"content": {"parts": [{"text": LINES}], "role": "model"}, "finishReason": "STOP"}],
        "usageMetadata": {"totalTokenCount": 7}, "modelVersion": "m", "responseId": "r",
    },
}  # fmt: skip
