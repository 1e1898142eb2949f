"""Do two answers say the same? The labels that the calibration learns from. Pure; None is "cannot tell".

A label must not depend on its own outcome: whether one is given is decided by the stored answer's form alone, or the
equal ones would be counted and the different ones left out. Structured answers (JSON, or a single word) are compared
in a normal form; anything else needs a judge.
"""

from typing import Any

import msgspec

from bursar.policy import Judge
from bursar.types import Api

_LONGEST_WORD = 64


def equal(api: Api, question: str, stored: bytes, fresh: bytes, judge: Judge | None) -> bool | None:
    """Whether the answer in one whole body serves as well as that in the other."""
    old, new = told(api, stored), told(api, fresh)
    if old is None or new is None:
        return None
    form = _normal(old)
    if form is not None:
        return bool(form == _normal(new))
    return None if judge is None else judge(question, old, new)


def told(api: Api, body: bytes) -> str | None:
    """What an answer says, its text alone; None where it says something else (tool calls, an unknown format)."""
    try:
        answer = msgspec.json.decode(body)
        match api:
            case "chat":
                (choice,) = answer["choices"]
                said = [choice["message"]["content"]]
            case "responses":
                said = [part["text"] for item in answer["output"] for part in item.get("content") or ()
                        if item.get("type") == "message"]  # fmt: skip
            case "messages":
                said = [part["text"] for part in answer["content"] if part.get("type") == "text"]
            case "gemini":
                (candidate,) = answer["candidates"]
                said = [part["text"] for part in candidate["content"]["parts"] if not part.get("thought")]
            case _:
                return None
        return "".join(said) if said else None
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _normal(text: str) -> Any:
    """The normal form of a structured answer; None: it is prose."""
    bare = text.strip()
    if bare.startswith("```") and bare.endswith("```"):
        bare = bare.removeprefix("```json").strip("`").strip()
    if bare[:1] in ("{", "["):
        try:
            return ("json", _plain(msgspec.json.decode(bare)))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
    word = bare.strip(" .!\"'*`").casefold()
    return ("word", word) if word and len(word) <= _LONGEST_WORD and len(word.split()) == 1 else None


def _plain(value: Any) -> Any:
    """Numbers in one spelling, texts without the spaces around them and without case, objects without nulls."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, bool) or value is None:
        return str(value)  # or 1 would equal True
    return float(value) if abs(value) < 2**53 else value
