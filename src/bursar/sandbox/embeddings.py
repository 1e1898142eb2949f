"""OpenAI Embeddings, `POST /v1/embeddings`: vectors from digests, so that equal texts are equal and nothing else is.

The vectors know no meaning on purpose: a semantic cache that shines here would shine by the sandbox's grace.
"""

import math
from array import array
from base64 import b64encode
from hashlib import shake_128
from typing import Any

from bursar.sandbox.asks import Ask, Bad, Block, Json, Prompted, Reply, whole_number
from bursar.sandbox.chat import error as error
from bursar.sandbox.tokens import split

ID_PREFIX = "emb_"
DEFAULT_DIMENSIONS = {"text-embedding-3-large": 3072}


def read(body: Json) -> Ask:
    """A request body -> Ask (one block a text), or Bad."""
    given = body.get("input")
    if given is None or given in ("", []):
        raise Bad(400, "'$.input' is invalid: it must be a string, or an array of strings or tokens.", param="input")
    texts: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    if len(texts) > 2048:
        raise Bad(400, f"'$.input' is too long: {len(texts)} items, at most 2048.", param="input")
    pieces = [split(text) if isinstance(text, str) else [str(token) for token in text] for text in texts]
    blocks = [Block("message", one) for one in pieces]
    return Ask(dialect="embeddings", model=body["model"], blocks=blocks, raw=body)


def whole(reply: Reply) -> Json:
    """The answer: floats, or base64 of little-endian float32 as the SDK asks by default."""
    body = reply.ask.raw
    dimensions = whole_number(body, "dimensions") or DEFAULT_DIMENSIONS.get(reply.ask.model, 1536)
    coded = body.get("encoding_format") == "base64"
    data = []
    for index, block in enumerate(reply.ask.blocks):
        values = vector("".join(block.pieces), dimensions)
        shown = b64encode(values.tobytes()).decode() if coded else values.tolist()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    answer: Json = {"object": "list", "data": data, "model": reply.ask.model}
    if reply.usage:
        answer["usage"] = {"prompt_tokens": reply.prompted.total, "total_tokens": reply.prompted.total}
    return answer


def vector(text: str, dimensions: int) -> "array[float]":
    """A unit vector from the text's digest."""
    raw = shake_128(text.encode("utf-8", "surrogatepass")).digest(dimensions)
    norm = math.sqrt(sum((byte - 127.5) ** 2 for byte in raw))
    return array("f", [(byte - 127.5) / norm for byte in raw])


def prompted(ask: Ask) -> Prompted:
    return Prompted(ask.prompt_tokens)
