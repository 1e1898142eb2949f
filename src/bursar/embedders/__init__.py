"""Text to vectors. One file each; what an embedder needs beside the core is imported in its own file only.

Failure: an embedder raises, and the caller takes it for a miss. Vectors of two embedders never meet in one index:
`name` is part of the namespace.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

Vector: TypeAlias = Sequence[float]
"""One text's embedding; `array("f")` where speed counts."""


class Embedder(Protocol):
    """Anything with `embed(texts) -> vectors`."""

    @property
    def name(self) -> str:
        """Which model in which version: entries embedded under another name are never compared."""
        ...

    def embed(self, texts: Sequence[str], /) -> Sequence[Vector]:
        """One vector a text, in order, all of one length. Blocks: run it off the event loop."""
        ...
