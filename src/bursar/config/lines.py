"""On which line of a TOML document each key stands. Only for documents that tomllib has read without a complaint.

A path is the way to a value in what tomllib gives: names of keys, and the indices of arrays, arrays of tables included.
"""

import re
import tomllib
from bisect import bisect_right
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*'""")
_SCALAR = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""(?:"{0,2})'
    r"|'''(?:[^']|'(?!''))*'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|[^,\]}\n#]+",
    re.S,
)


def line_of(source: str, path: Path) -> int | None:
    """The line of the key, or of the nearest table around it that the document has; None: not even that is there."""
    places = lines(source)
    return next((places[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in places), None)


def lines(source: str) -> dict[Path, int]:
    """Every path of the document, with the line, counted from 1, on which it is first spoken of."""
    reader = _Reader(source)
    reader.document()
    return reader.found


class _Reader:
    """Goes through the source once, and notes where what begins."""

    def __init__(self, source: str) -> None:
        self.found: dict[Path, int] = {}
        self._source, self._at = source, 0
        self._breaks = [match.start() for match in re.finditer("\n", source)]
        self._last: dict[Path, int] = {}
        """The index of the latest table of each array of tables."""

    def document(self) -> None:
        table: Path = ()
        while not self._ends():
            here = self._at
            if self._next("[["):
                table = self._note(self._opened(self._keys()), here)
                self._next("]]")
            elif self._next("["):
                table = self._note(self._within(self._keys()), here)
                self._next("]")
            else:
                self._pair(table)

    def _ends(self) -> bool:
        self._pass(_BLANK)
        return self._at >= len(self._source)

    def _pass(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._source, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _next(self, mark: str) -> bool:
        """Step over the mark, if it comes next."""
        self._pass(_BLANK)
        found = self._source.startswith(mark, self._at)
        self._at += len(mark) * found
        return found

    def _note(self, path: Path, at: int) -> Path:
        """Every table on the way to a path is there from its first mention on."""
        line = bisect_right(self._breaks, at - 1) + 1
        for depth in range(1, len(path) + 1):
            self.found.setdefault(path[:depth], line)
        return path

    def _keys(self) -> tuple[str, ...]:
        self._pass(_BLANK)
        keys = [self._key()]
        while self._pass(_DOT):
            keys.append(self._key())
        return tuple(keys)

    def _key(self) -> str:
        raw = self._pass(_KEY)
        return str(tomllib.loads(f"key = {raw}")["key"]) if raw[:1] in ("'", '"') else raw

    def _within(self, keys: tuple[str, ...]) -> Path:
        """A header's keys as a path: below an array of tables, its latest table is meant."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self._last:
                path = (*path, self._last[path])
        return path

    def _opened(self, keys: tuple[str, ...]) -> Path:
        array = (*self._within(keys[:-1]), keys[-1])
        self._last[array] = self._last.get(array, -1) + 1
        return (*array, self._last[array])

    def _pair(self, table: Path) -> None:
        here = self._at
        path = self._note((*table, *self._keys()), here)
        self._pass(_EQUALS)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._next("["):
            index = 0
            while not self._next("]"):
                self._value(self._note((*path, index), self._at))
                self._next(",")
                index += 1
        elif self._next("{"):
            while not self._next("}"):
                self._pair(path)
                self._next(",")
        else:
            self._pass(_SCALAR)
