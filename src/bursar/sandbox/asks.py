"""What a request came to, whatever its dialect, and the answer that a dialect renders.

A body that no provider would take raises Bad, with the status and the words of the refusal.
"""

from typing import Any, Literal, TypeAlias

import msgspec

from bursar.sandbox.models import Model
from bursar.sandbox.tokens import MEDIA_TOKENS, split
from bursar.types import Bucket

Dialect: TypeAlias = Literal["chat", "responses", "embeddings", "messages", "gemini"]
Json: TypeAlias = dict[str, Any]


class Bad(Exception):
    """A refusal: HTTP status, message, and the code and parameter where the dialect names them."""

    retry_after_s: float | None = None

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str
    schema: Json


class Block(msgspec.Struct, frozen=True):
    """One block of the prompt, in its order: tokens, and the cache breakpoint at its end."""

    kind: Literal["tools", "system", "message"]
    pieces: list[str]
    mark: Bucket | None = None


class Ask(msgspec.Struct, kw_only=True):
    """One generating request."""

    dialect: Dialect
    model: str
    blocks: list[Block]
    prompt: str = ""
    """The last text that the user said."""
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    choice: Literal["auto", "none", "any"] = "auto"
    choice_tool: str | None = None
    called: tuple[str, ...] = ()
    """The tools called since the user last spoke, in order."""
    schema: Json | None = None
    wants_json: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    thinks: bool | None = None
    """Thinking switched on or off by the request; None: the model's own habit."""
    effort: str | None = None
    thinking_budget: int | None = None
    show_thoughts: bool = False
    include_usage: bool = True
    service_tier: str | None = None
    geo: str | None = None
    window: str | None = None
    background: bool = False
    cache_key: str = ""
    """What else must be equal for a cached prefix to be found: at the root, and from the first message on."""
    message_key: str = ""
    explicit_cache: bool = False
    lead: int = 0
    """Tokens of the frame in which the answer begins: billed as input, behind the end of the prompt."""
    write_bucket: Bucket = "cache_write_5m"
    previous: str | None = None
    raw: Json = {}

    @property
    def prompt_tokens(self) -> int:
        return sum(len(block.pieces) for block in self.blocks) + self.lead


class ToolCall(msgspec.Struct):
    """A call of a function: its arguments are JSON text, in tokens."""

    id: str
    name: str
    pieces: list[str]

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class Choice(msgspec.Struct):
    """One answer: text or calls in tokens, and what is billed for it."""

    pieces: list[str]
    calls: list[ToolCall]
    finish: Literal["stop", "length", "tools", "stop_sequence"]
    visible: int
    """Tokens billed for text and calls."""
    thoughts: int = 0
    """Tokens billed for reasoning."""
    stop: str | None = None
    right: bool | None = None
    """Whether the answer is the right one; None: nobody knows."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Prompted(msgspec.Struct, frozen=True):
    """The prompt's tokens by how they are billed."""

    fresh: int
    read: int = 0
    writes: tuple[tuple[Bucket, int], ...] = ()

    @property
    def written(self) -> int:
        return sum(tokens for _, tokens in self.writes)

    @property
    def total(self) -> int:
        return self.fresh + self.read + self.written


class Reply(msgspec.Struct):
    """All that a dialect needs to answer."""

    id: str
    created: int
    ask: Ask
    model: Model
    choices: list[Choice]
    prompted: Prompted
    tier: str
    """The service tier served: default | flex | priority."""
    usage: bool = True
    """False: the answer leaves its usage out (a fault)."""
    chunk: int = 3
    """Tokens a streamed delta."""

    @property
    def thoughts(self) -> int:
        return sum(choice.thoughts for choice in self.choices)

    @property
    def output(self) -> int:
        """All output tokens, reasoning included."""
        return sum(choice.thoughts + choice.visible for choice in self.choices)


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or its text parts, a line each."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if isinstance(part.get("text"), str))


def dump(value: Any) -> str:
    """Compact JSON, keys in their own order."""
    return msgspec.json.encode(value).decode()


def message_block(role: str, text: str, *, media: int = 0, mark: Bucket | None = None, kind: str = "message") -> Block:
    """A message as the tokenizer sees it: three tokens of frame, its text, its media."""
    pieces = ["<|start|>", role, "<|sep|>", *split(text)]
    if media:
        pieces += ["<|media|>"] * (MEDIA_TOKENS * media)
    return Block(kind, pieces, mark)  # type: ignore[arg-type]


def whole_number(body: Json, name: str, *, least: int = 1) -> int | None:
    """An optional integer parameter of at least `least`, or a 400."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Bad(400, f"{name} must be an integer of at least {least}, but it is {value!r}", param=name)
    return value


def chunks(pieces: list[str], size: int) -> list[tuple[str, int]]:
    """Deltas of `size` tokens, each with the number of tokens up to its end."""
    return [
        ("".join(pieces[start : start + size]), min(start + size, len(pieces))) for start in range(0, len(pieces), size)
    ]
