"""What is added to a request for its provider's prompt cache, as data: decided in place.py, spliced in by the wire."""

from typing import NamedTuple

from bursar.types import Marks, Ttl

LIFETIMES_S: dict[Ttl, int] = {"5m": 300, "30m": 1800, "1h": 3600}

NOTHING = Marks()


class Spot(NamedTuple):
    """A block of View.blocks as the provider counts it."""

    parts: int
    """Content blocks, as a marker's look-back counts them."""
    takes: bool
    """A marker may stand at its end."""
