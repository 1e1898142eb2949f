"""The wire formats behind one interface, and which of them a path speaks. Decisions only: no I/O, nothing is logged."""

import functools
import re
from typing import Protocol

from bursar.types import Api, Family, Headers, Instant, Reading, View
from bursar.wire import gemini
from bursar.wire.anthropic import Messages
from bursar.wire.finish import Finish as Finish
from bursar.wire.openai_chat import Chat
from bursar.wire.openai_embeddings import Embeddings
from bursar.wire.openai_responses import Responses
from bursar.wire.other import Other


class Meter(Protocol):
    """Reads a streamed answer while it passes. Always fed decoded bytes; in any pieces the reading is the same."""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to relay: the very same object, unless the hidden usage chunk is cut out or may be beginning."""
        ...

    def close(self) -> bytes:
        """The stream came to its end: the bytes that were held back. Not for a broken one: what was held is dropped."""
        ...

    def reading(self) -> Reading:
        """What is known by now; may be asked at any time."""
        ...

    @property
    def terminal(self) -> bool:
        """The dialect's own last event was seen."""
        ...

    @property
    def midway(self) -> bool:
        """What was relayed ends inside an event: two line ends must precede an event of ours."""
        ...


class Dialect(Protocol):
    """One wire format. Total: no body, answer or stream makes any of these raise."""

    @property
    def api(self) -> Api: ...
    @property
    def family(self) -> Family: ...

    def view(self, body: bytes, path: str, headers: Headers) -> View:
        """What a request says, its bulk unread; a body that is no JSON object gives readable=False."""
        ...

    def patch(
        self,
        body: bytes,
        *,
        model: str | None = None,
        add_usage: bool = False,
        output_limit: int | None = None,
        tools_off: bool = False,
        note: str | None = None,
        hint: str | None = None,
        logprobs: bool = False,
    ) -> bytes:
        """The body with these edits spliced in and every other byte as it was; the same object where none is needed.

        output_limit: tokens per choice; only ever lowers what the caller stated. tools_off: no tool may be called, the
        tools stay. note: a system note for the end of the prompt, left out where it would move a cached prefix.
        hint: said by the user behind all of that, wherever there is a prompt. logprobs: chat only, the two likeliest.
        """
        ...

    def path(self, path: str, *, model: str | None) -> str:
        """The path with that model, where the dialect carries it in the path."""
        ...

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> Meter:
        """For a streamed answer with these headers. hide_usage: the usage chunk was only asked for by us (chat)."""
        ...

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        """A whole answer (2xx) with these headers."""
        ...

    def finish(self, text: str, view: View, *, model: str, request_id: str, at: Instant) -> Finish:
        """A partial answer of ours in place of a provider's: cut by the output limit, usage 0, streamed if asked.

        Only where View.prose; ValueError from a dialect in which no text is an answer (embeddings, other).
        """
        ...

    def error(self, status: int, kind: str, message: str, code: str | None = None) -> bytes:
        """The dialect's error body for that HTTP status."""
        ...

    def error_event(self, message: str, kind: str) -> bytes:
        """The dialect's own error event for the middle of a stream, as SSE bytes."""
        ...


OTHER: Dialect = Other()

_BY_PATH: tuple[tuple[re.Pattern[str], Dialect], ...] = (
    (re.compile(r"/chat/completions/?\Z"), Chat()),
    (re.compile(r"/responses/?\Z"), Responses()),
    (re.compile(r"/embeddings/?\Z"), Embeddings()),
    (re.compile(r"(?:\A|/v1)/messages/?\Z"), Messages()),
    (gemini.PATH, gemini.Gemini()),
)


@functools.lru_cache(128)
def dialect_of(method: str, path: str) -> Dialect | None:
    """The dialect of a request by its path, whatever base path and query surround it (wire.md section 1.0).

    Any other POST is a paid path passed through unread; None for methods that create no charge.
    """
    if method.upper() != "POST":
        return None
    bare = path.partition("?")[0]
    return next((dialect for pattern, dialect in _BY_PATH if pattern.search(bare)), OTHER)


_FREE = re.compile(r"(?:/count_tokens|/input_tokens|:countTokens|/files|/uploads(?:/.*)?|/cancel|/moderations)/?\Z")
_BY_API: dict[Api, Dialect] = {dialect.api: dialect for _, dialect in _BY_PATH} | {"other": OTHER}


def of(api: Api) -> Dialect:
    """The dialect of an api that is served; KeyError for one that is only priced (converse)."""
    return _BY_API[api]


@functools.lru_cache(128)
def is_free(path: str) -> bool:
    """True for a POST that creates no charge: counting tokens, cancelling, moderating, uploading."""
    return _FREE.search(path.partition("?")[0]) is not None
