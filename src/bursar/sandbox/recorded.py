"""A recorded data set as a provider: JSON lines (or .gz) of prompt, optional tools and each model's outcome.

A row is {"prompt", "tools"?: [{"name", "desc"}], "answer"?, "m": {model: {"ok", "ot", "it"?, "usd"?, "err"?}}}.
A line that is no such row stops the start, with its number; a request that fits no row is answered as if unrecorded.
"""

import gzip
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import msgspec

from bursar.money import parse_usd
from bursar.sandbox.asks import Tool
from bursar.sandbox.schema import draw


class Cell(msgspec.Struct, frozen=True):
    """What one model did with one prompt: right or not, tokens in and out, dollars."""

    ok: float
    ot: int
    it: int | None = None
    usd: Decimal | None = None
    err: str | None = None

    @property
    def right(self) -> bool:
        return self.ok >= 0.5

    @property
    def nanos(self) -> int | None:
        return None if self.usd is None else parse_usd(self.usd)


class RecordedTool(msgspec.Struct, frozen=True):
    name: str
    desc: str = ""


class Row(msgspec.Struct, frozen=True):
    """One prompt of the data set."""

    prompt: str
    m: dict[str, Cell]
    tools: tuple[RecordedTool, ...] = ()
    task: str = "recorded"
    answer: str | None = None


def right_answer(prompt: str) -> str:
    """The right answer to a recorded prompt that has none written down: eight hex digits of its digest.

    So a checker that knows the prompt can tell right from wrong, as a unit test can.
    """
    return f"Answer: {draw('right', prompt) >> 32:08x}"


def wrong_answer(prompt: str) -> str:
    """A wrong answer of the same form."""
    return f"Answer: {draw('wrong', prompt) >> 32:08x}"


def _names(tools: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    # Providers take only [A-Za-z0-9_-] in a function's name, data sets also dots.
    return frozenset((re.sub(r"[^A-Za-z0-9_-]", "_", name), description) for name, description in tools)


class Recorded:
    """The rows of a file, found by prompt and tools."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[str, list[tuple[frozenset[tuple[str, str]], Row]]] = {}
        models: set[str] = set()
        for row in rows:
            models.update(row.m)
            names = _names((tool.name, tool.desc) for tool in row.tools)
            self._rows.setdefault(row.prompt, []).append((names, row))
        self.models = frozenset(models)

    def find(self, prompt: str, tools: tuple[Tool, ...]) -> Row | None:
        """The row with that prompt and those tools; without tools, or where no row has any, by prompt if unique."""
        found = self._rows.get(prompt)
        if not found:
            return None
        if tools:
            names = _names((tool.name, tool.description) for tool in tools)
            exact = [row for known, row in found if known == names]
            found = [(frozenset(), row) for row in exact] or [one for one in found if not one[0]]
        first = found[0][1] if found else None
        return first if first and all(row.m == first.m for _, row in found) else None


def load(path: str) -> Recorded:
    """A recorded file from disk; ValueError names the line at fault."""
    raw = Path(path).read_bytes()
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    decoder = msgspec.json.Decoder(Row)
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise ValueError(f"{path}, line {number}: not a recorded row: {error}") from None
    return Recorded(rows)
