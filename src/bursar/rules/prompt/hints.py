"""What is added to a request for its provider's prompt cache, as data: decided in place.py, spliced in by the wire."""

from typing import Literal, NamedTuple, TypeAlias

import msgspec

Ttl: TypeAlias = Literal["5m", "30m", "1h"]

LIFETIMES_S: dict[Ttl, int] = {"5m": 300, "30m": 1800, "1h": 3600}


class Spot(NamedTuple):
    """A block of View.blocks as the provider counts it."""

    parts: int
    """Content blocks, as a marker's look-back counts them."""
    takes: bool
    """A marker may stand at its end."""


class Mark(msgspec.Struct, frozen=True):
    """A marker at the end of that block of View.blocks, kept for so long."""

    block: int
    ttl: Ttl


class Marks(msgspec.Struct, frozen=True):
    """The hints to add to one request; false where there is nothing to add."""

    marks: tuple[Mark, ...] = ()
    explicit: bool = False
    """OpenAI from 5.6: no implicit marker at the end of the prompt. Without marks nothing is cached."""
    key: str | None = None
    """prompt_cache_key."""
    covered: int = 0
    """Estimated tokens up to the last marker, an implicit one included: what the cache should read or write."""

    def __bool__(self) -> bool:
        return bool(self.marks or self.explicit or self.key)


NOTHING = Marks()
