"""Whose answers are kept and given again: equal calls, and calls that mean the same."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

CacheScope: TypeAlias = Literal["user", "session", "tenant", "global"]


class ResponseCache(msgspec.Struct, frozen=True, kw_only=True):
    """A step whose same input wants the same output: its answers are kept and given again."""

    ttl_ms: int
    """Absolute, from the writing on; each entry's own is 10 % more or less."""
    stale_ms: int = 0
    """So long after that it may still be given, while one call in the background fetches a fresh one."""
    scope: CacheScope = "user"
    """Who may be given an answer beside the one who paid for it."""
    tools: bool = False
    """Answers that call tools are kept too."""


Judge: TypeAlias = Callable[[str, str, str], bool | None]
"""(question, stored answer, fresh answer) -> do the two answers say the same? None: it cannot tell."""


class Embeds(Protocol):
    """What turns texts into vectors; see bursar.embedders."""

    @property
    def name(self) -> str: ...
    def embed(self, texts: Sequence[str], /) -> Sequence[Sequence[float]]: ...


class Endpoint(msgspec.Struct, frozen=True):
    """A provider's embeddings endpoint (OpenAI's format): each look-up is a paid call with a row of its own.

    In the library it is reached through the caller's client, and so has to be the same provider's.
    """

    provider: str
    model: str
    dimensions: int | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}/{self.dimensions or 'full'}"


class SemanticCache(msgspec.Struct, frozen=True, kw_only=True):
    """A step whose answers are given again to questions that mean the same.

    Without max_error a fixed cosine and the guard decide, and nothing is promised. With it nothing is served before
    labels have certified that at most this share of the hits is wrong; then the learned score decides.
    """

    ttl_ms: int
    """Absolute, from the writing on; each answer's own is 10 % more or less."""
    threshold: float | None = None
    """Cosine from which an answer is served, by default 0.92; beside max_error only the floor, by default none."""
    max_error: float | None = None
    """Wrong hits per hit, such as 0.05."""
    scope: CacheScope = "user"
    """Who may be given an answer beside the one who paid for it; a call without that id has no semantic cache."""
    strict: bool = False
    """Only where both questions hold the same words in the same roles: for tools, SQL, money, health."""
    mode: Literal["serve", "shadow"] = "serve"
    """shadow: nothing is served; the hits that would have been are counted and judged."""
    embedder: Embeds | Endpoint | None = None
    """None: the local MiniLM."""
    judge: Judge | None = None
    """Whether two answers are equal where they are no structured ones. None: such answers give no labels."""
    judge_error: tuple[float, float] = (0.0, 0.0)
    """Measured shares of the judge: equal answers called different, different ones called equal."""
