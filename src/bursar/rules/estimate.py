"""How many tokens a text has, where nobody has said: a weight for each class of bytes. Pure; total.

Fitted on o200k: mean error 3 %, p95 20 % (characters / 4 under-counts CJK by half, bytes / 4 minified JSON by half).
It is a guess, to be multiplied by the ratio learned for a model; only `input_ceiling` is a bound.
"""

import zlib

from bursar.types import Api

_UNIT = 30
"""Milli-tokens that one step of a weight stands for: weights then fit a byte."""

_CLASSES: tuple[tuple[bytes, int], ...] = (
    (bytes(range(0x80)), 15),  # 0.45: punctuation, and whatever is not named below
    (b"abcdefghijklmnopqrstuvwxyz", 6),  # 0.18
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 20),  # 0.60
    (b"0123456789", 29),  # 0.87
    (b" ", 3),  # 0.09
    (b"\n\r\t", 11),  # 0.33
    (bytes(range(0x80, 0xC0)), 0),  # later bytes of a character: the first has its whole weight
    (bytes(range(0xC0, 0xE0)), 9),  # 0.27, a character of two bytes
    (bytes(range(0xE0, 0xF0)), 23),  # 0.69, of three
    (bytes(range(0xF0, 0x100)), 77),  # 2.31, of four: emoji, rare ideographs
)
"""(bytes of the class, tokens each in steps of _UNIT); a later class overrules an earlier one."""

_WEIGHTS = bytes({byte: weight for members, weight in _CLASSES for byte in members}[byte] for byte in range(256))

_EXACT = 65520 // max(_WEIGHTS)
"""So many weights add up to less than Adler-32's modulus, 65521."""
_EXACT_ASCII = 65520 // max(_WEIGHTS[:0x80])

_OVERHEAD: dict[Api, int] = {"messages": 2_048, "embeddings": 0}
_OVERHEAD_OTHERWISE = 256


def weigh(text: bytes) -> int:
    """Estimated milli-tokens of UTF-8 text. Additive: weigh(a + b) == weigh(a) + weigh(b), wherever it is cut.

    Adler-32's low half is the sum of the bytes: the quickest exact sum that the standard library has.
    """
    steps = text.translate(_WEIGHTS)
    exact = _EXACT_ASCII if text.isascii() else _EXACT
    if len(steps) <= exact:
        return _UNIT * (zlib.adler32(steps, 0) & 0xFFFF)
    return _UNIT * sum([zlib.adler32(steps[at : at + exact], 0) & 0xFFFF for at in range(0, len(steps), exact)])


def tokens(milli: int) -> int:
    """Milli-tokens -> whole tokens, rounded up: text that is there is never 0 tokens."""
    return -(-milli // 1000)


def input_ceiling(body: bytes, api: Api) -> int:
    """The most input tokens that a body can come to where it carries its whole input.

    A byte-level tokenizer makes at most one token a byte; the frame that a provider puts around the messages is paid
    for by the JSON around them, but for a fixed overhead (Anthropic adds a system prompt of its own for tools).
    """
    return len(body) + _OVERHEAD.get(api, _OVERHEAD_OTHERWISE)
