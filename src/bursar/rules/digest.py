"""Keyed digests of a request's content, one a block in prompt order, without scope. Pure.

What later replays (were two requests equal?) and prompt-cache diagnoses (which block moved?) stand on. A digest tells
nothing of the text without the deployment's key. Layout of the packed form: 13 bytes a block, big-endian:
kind (1 byte, index into KINDS), blake2b-64 of the block's bytes (8), estimated tokens (4).
"""

import hashlib
import struct
from collections.abc import Iterator

from bursar.rules import estimate
from bursar.types import Block, BlockKind

KINDS: tuple[BlockKind, ...] = ("tools", "system", "message", "format", "params")
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
_RECORD = struct.Struct(">B8sI")
_WITHOUT_DIGITS = b"0123456789"


def pack(blocks: tuple[Block, ...], key: bytes) -> tuple[bytes, int]:
    """(packed digests, estimated tokens of all blocks)."""
    records = []
    total = 0
    keyed = hashlib.blake2b(digest_size=8, key=key)
    for block in blocks:
        tokens = 0 if block.kind == "params" else estimate.tokens(estimate.weigh(block.raw))
        total += tokens
        digest = keyed.copy()
        digest.update(block.raw)
        records.append(_RECORD.pack(_NUMBERS[block.kind], digest.digest(), min(tokens, 0xFFFFFFFF)))
    return b"".join(records), total


def unpack(packed: bytes) -> Iterator[tuple[BlockKind, str, int]]:
    """(kind, digest as 16 hex digits, estimated tokens) for each block, in prompt order."""
    for kind, digest, tokens in _RECORD.iter_unpack(packed):
        yield KINDS[kind], digest.hex(), tokens


def step_key(blocks: tuple[Block, ...]) -> str | None:
    """A stable name for a step that has none, from tools, system prompt and output schema: "auto:1f0c2a9b".

    Digits are left out, so that a date or a counter in the system prompt does not make a new step of every day.
    None where the request has none of the three.
    """
    shape = hashlib.blake2b(digest_size=4)
    found = False
    for block in blocks:
        if block.kind in ("tools", "system", "format"):
            found = True
            shape.update(_NUMBERS[block.kind].to_bytes())
            shape.update(block.raw.translate(None, _WITHOUT_DIGITS))
    return f"auto:{shape.hexdigest()}" if found else None
