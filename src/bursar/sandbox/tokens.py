"""The sandbox's tokenizer: a lossless split of text into word pieces, about four characters a token on English.

It never fails, and no text has more tokens than UTF-8 bytes.
"""

import re
from functools import lru_cache

_PIECE = re.compile(r" ?[A-Za-z]{1,7}| ?[0-9]{1,3}|[^\W\d_A-Za-z]{1,2}|[^\w\s]|\s+|.", re.DOTALL)

MEDIA_TOKENS = 258
"""What one image, file or sound counts, whatever its size."""


_REMEMBERED = 64_000
"""The longest text, in characters, whose tokens are remembered: an agent sends the same messages turn after turn."""


def split(text: str) -> list[str]:
    """Text -> its tokens; joined they are the text again."""
    return list(_remembered(text)) if len(text) <= _REMEMBERED else _PIECE.findall(text)


def count(text: str) -> int:
    """Tokens of a text."""
    return len(split(text))


@lru_cache(maxsize=128)
def _remembered(text: str) -> tuple[str, ...]:
    return tuple(_PIECE.findall(text))
