"""Gemini generateContent in either shape. Source: the types of google-genai 3.6, wire.md section 1.6.

Each chunk is a whole response. Between two chunks a text goes on where it is of the same kind (thought or not) and says
nothing else; any other part stands by itself, and so do two texts within one chunk: that is how a stream shows where a
part ends. A text with a signature is not joined to one without, as Google's guide asks.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from bursar.types import View
from bursar.wire.replay.shape import (
    Json,
    Misfit,
    event,
    first_flaw,
    in_order,
    obj,
    objs,
    pieces,
    place,
    read,
    update,
    without,
)

_PLAIN = frozenset({"text", "thought"})
_RUNNING = frozenset({"index", "finishReason", "finishMessage", "safetyRatings", "tokenCount", "avgLogprobs"})
"""Members of a candidate of which the last value counts; any other is told once."""
_OPEN = (None, "FINISH_REASON_UNSPECIFIED")
_CALLED = frozenset({"functionCall", "executableCode", "codeExecutionResult", "toolCall", "toolResponse"})
_REFUSED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR"}
    | {"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"}
)


def streamed(answer: Json, view: View) -> Iterator[bytes]:
    """The chunks of an answer, the usage on each as Google has it."""
    del view
    _check_end(answer)
    candidates = objs(answer.get("candidates"))
    if [candidate.get("index", number) for number, candidate in enumerate(candidates)] != list(range(len(candidates))):
        raise Misfit("candidates out of order")
    head = without(answer, "candidates")
    if not candidates:
        yield event(answer, end=b"\r\n")
    for candidate in candidates:
        for step in _steps(candidate):
            yield event({"candidates": [step], **head}, end=b"\r\n")


def _check_end(answer: Json) -> None:
    """Ended means: every candidate has its reason, or the prompt was blocked."""
    candidates = objs(answer.get("candidates"))
    blocked = obj(answer.get("promptFeedback") or {}).get("blockReason")
    if answer.get("error") or (not candidates and not blocked):
        raise Misfit("no answer")
    if any(candidate.get("finishReason") in _OPEN for candidate in candidates):
        raise Misfit("not ended")


def _steps(candidate: Json) -> Iterator[Json]:
    """The candidate as its chunks have it, whatever is not text in the last one."""
    content = candidate.get("content")
    if content is None or obj(content).get("parts") is None:
        yield candidate
        return
    *earlier, last = _cut(objs(content["parts"]))
    where = {"index": candidate["index"]} if "index" in candidate else {}
    role = without(content, "parts")
    for parts in earlier:
        yield {"content": {"parts": parts, **role}, **where}
    yield {**candidate, "content": {"parts": last, **role}}


def _cut(parts: list[Json]) -> list[list[Json]]:
    """The parts chunk by chunk: cut within a long text, and never between two that would be taken for one."""
    chunks: list[list[Json]] = [[]]
    for part in parts:
        cuts = [{**part, "text": piece} for piece in pieces(part["text"])] if _plain(part) and part["text"] else [part]
        if chunks[-1] and not _goes_on(chunks[-1][-1], part):
            chunks.append([])
        chunks[-1].append(cuts[0])
        chunks += ([cut] for cut in cuts[1:])
    return chunks


def _plain(part: Json) -> bool:
    return isinstance(part.get("text"), str) and part.keys() <= _PLAIN


def _goes_on(before: Json, part: Json) -> bool:
    return _plain(before) and _plain(part) and before.get("thought") == part.get("thought")


def gathered(datas: list[bytes]) -> Json:
    """The answer that the chunks amount to, in which every candidate must have ended."""
    answer: Json = {}
    told: defaultdict[int, list[Json]] = defaultdict(list)
    for data in datas:
        chunk = read(data)
        if chunk.get("error"):
            raise Misfit("an error")
        for candidate in objs(chunk.get("candidates")):
            told[place(candidate.get("index", 0))].append(candidate)
        update(answer, without(chunk, "candidates"))
    if told:
        answer["candidates"] = [_candidate(chunks) for chunks in in_order(told)]
    _check_end(answer)
    return answer


def _candidate(chunks: list[Json]) -> Json:
    candidate: Json = {}
    contents = [obj(chunk["content"]) for chunk in chunks if chunk.get("content") is not None]
    for chunk in chunks:
        for key, value in without(chunk, "content").items():
            if key not in _RUNNING and candidate.get(key, value) not in (None, value) and value is not None:
                raise Misfit("told in parts that have no known sum")
        update(candidate, without(chunk, "content"))
    if contents:
        content: Json = {}
        for said in contents:
            update(content, without(said, "parts"))
        if any(said.get("parts") is not None for said in contents):
            content["parts"] = _parts(objs(said.get("parts")) for said in contents)
        candidate["content"] = content
    return candidate


def _parts(chunks: Iterator[list[Json]] | Any) -> list[Json]:
    found: list[Json] = []
    texts: list[list[str]] = []
    for parts in chunks:
        for number, part in enumerate(parts):
            call = part.get("functionCall")
            if call is not None and (obj(call).get("partialArgs") or call.get("willContinue")):
                raise Misfit("a call in pieces")
            if number == 0 and found and _goes_on(found[-1], part):
                texts[-1].append(part["text"])
            else:
                found.append(part)
                texts.append([part["text"]] if _plain(part) else [])
    return [{**part, "text": "".join(said)} if said else part for part, said in zip(found, texts, strict=True)]


def calls(answer: Json) -> Iterator[tuple[Json, str]]:
    """Where the ids of calls stand, which not all have: (object, key)."""
    for candidate in objs(answer.get("candidates")):
        for part in objs(obj(candidate.get("content") or {}).get("parts")):
            if isinstance(call := part.get("functionCall"), dict) and call.get("id") is not None:
                yield call, "id"


def flaw(answer: Json, *, tools_ok: bool) -> str | None:
    """Why this answer must not be stored."""
    candidates = objs(answer.get("candidates"))
    if obj(answer.get("promptFeedback") or {}).get("blockReason"):
        return "refusal"
    if not candidates or not isinstance(answer.get("usageMetadata"), dict):
        return "no usage" if candidates else "empty"
    return first_flaw(_candidate_flaw(candidate, tools_ok=tools_ok) for candidate in candidates)


def _candidate_flaw(candidate: Json, *, tools_ok: bool) -> str | None:
    finish = candidate.get("finishReason")
    if finish != "STOP":
        return "refusal" if str(finish) in _REFUSED else f"cut: {finish}"
    parts = objs(obj(candidate.get("content") or {}).get("parts"))
    if any(not _CALLED.isdisjoint(part) for part in parts):
        return None if tools_ok else "tool calls"
    said = any(part.get("text") or "inlineData" in part for part in parts if not part.get("thought"))
    return None if said else "empty"
