"""A file of rows, whatever its shape: JSON lines, a JSON array or document, CSV; gzip taken off.

Yields each row with the line that it begins on, and what cannot be read as a Fault in its place: one bad line costs
one line. Lines and CSV are streamed; a JSON array or document is held in memory whole. OSError where the file cannot
be read.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from bursar.insights.imports.fields import DECODER

_FIELD_LIMIT = 1 << 28
"""A CSV cell may hold a whole prompt."""


class Record(NamedTuple):
    """One row and the line, from 1, that it begins on."""

    line: int
    values: Mapping[str, Any]


class Fault(NamedTuple):
    """What is wrong with a row."""

    line: int
    reason: str


def read(path: Path) -> Iterator[Record | Fault]:
    """Every row of the file."""
    with _opened(path) as file:
        head = _head(file)
    if head in (b"[", b"{"):
        yield from _lines(path) if head == b"{" and _is_jsonl(path) else _document(path)
    elif head:
        yield from _csv(path)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with gzip.open(raw) if packed else raw as file:
            yield cast(BinaryIO, file)


def _head(file: BinaryIO) -> bytes:
    for line in file:
        if text := line.removeprefix(b"\xef\xbb\xbf").strip():
            return text[:1]
    return b""


def _is_jsonl(path: Path) -> bool:
    """False where the first line is only the beginning of a value that goes on below."""
    with _opened(path) as file:
        first = next(line for line in file if line.strip())
    try:
        DECODER.decode(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        with _opened(path) as file:
            text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape").read()
        try:
            DECODER.raw_decode(text, len(text) - len(text.lstrip()))
        except (ValueError, RecursionError):
            return True
        return False
    return True


def _lines(path: Path) -> Iterator[Record | Fault]:
    with _opened(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield from _unwrapped(number, DECODER.decode(text))
            except (ValueError, RecursionError) as fault:
                yield Fault(number, f"not JSON: {fault}"[:200])


def _document(path: Path) -> Iterator[Record | Fault]:
    """The elements of an array, or values one after the other. What follows a fault in the syntax is lost."""
    with _opened(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="").read()
    at, line = 0, 1
    while True:
        start = at
        while at < len(text) and text[at] in " \t\r\n[],":
            at += 1
        line += text.count("\n", start, at)
        if at == len(text):
            return
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as fault:
            yield Fault(line, f"not JSON, and the rest of the file cannot be read: {fault}"[:200])
            return
        yield from _unwrapped(line, value)
        line += text.count("\n", at, end)
        at = end


def _unwrapped(line: int, value: Any) -> Iterator[Record | Fault]:
    """A row, or what an API's answer holds in `data`."""
    if not isinstance(value, Mapping):
        yield Fault(line, f"expected an object, got {type(value).__name__}")
    elif isinstance(inner := value.get("data"), list):
        for one in inner:
            yield from _unwrapped(line, one)
    else:
        yield Record(line, value)


def _csv(path: Path) -> Iterator[Record | Fault]:
    with _opened(path) as file:
        # Bytes that are no UTF-8 stay in their row as lone surrogates, and that row alone is refused later.
        text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        before = csv.field_size_limit(_FIELD_LIMIT)
        try:
            yield from _cells(csv.reader(text))
        finally:
            csv.field_size_limit(before)


def _cells(reader: Any) -> Iterator[Record | Fault]:
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as fault:
            yield Fault(line, f"not CSV: {fault}")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = cells
        elif len(cells) != len(header):
            yield Fault(line, f"{len(cells)} cells under a header of {len(header)}")
        else:
            yield Record(line, dict(zip(header, cells, strict=True)))
