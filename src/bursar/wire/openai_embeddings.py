"""OpenAI Embeddings: never streamed, no output tokens. Source: the types of openai 3.57, wire.md section 1.3."""

from typing import Any

import msgspec

from bursar.types import Api, Headers, Reading, View
from bursar.wire import openai_base, peek
from bursar.wire.meter import NoMeter, Tally, fault, read_whole

_peek = peek.Peek("input")
_APART = openai_base.APART | {"input"}
_NULL = msgspec.Raw(b"null")


class _Answer(msgspec.Struct):
    model: Any = None
    usage: msgspec.Raw = _NULL
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


class EmbeddingsTally(Tally):
    """What an answer said beside its vectors, which are not read."""

    api: Api = "embeddings"

    def whole(self, body: bytes) -> None:
        answer = peek.read(_ANSWER, body)
        if answer is None:
            self.malformed += 1
            return
        self.terminal = True
        self.note(answer.model, None)
        if answer.error is not None:
            self.error = fault(answer.error)
        if answer.usage != _NULL:
            self.usage = answer.usage.copy()


class Embeddings(openai_base.OpenAIDialect):
    """POST .../embeddings"""

    api: Api = "embeddings"

    def view(self, body: bytes, path: str, headers: Headers) -> View:
        del headers
        seen = _peek(body)
        if seen is None:
            return View(model=openai_base.deployment(path), readable=False, prose=False)
        found = seen.members
        return View(
            model=openai_base.deployment(path) or peek.text(found.get("model")),
            terms=openai_base.asked(found),
            blocks=(*seen.messages(), *peek.params(found, _APART)),
            claims=tuple(peek.claims(found)),
            prose=False,
        )

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> NoMeter:
        del view, headers, hide_usage
        return NoMeter()

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        return read_whole(EmbeddingsTally(view, headers), body)
