"""Server-sent events out of bytes that come in any pieces. Never fails: what is no event is no data.

Follows the WHATWG event-stream grammar as far as a meter needs it: LF, CRLF and CR end a line, a blank line ends an
event, lines of data are joined, comments and other fields are passed over. The events of `feed` are exact slices:
all of them and the tail, joined, are the stream, so that one of them can be left out of a relay.
"""

import re
from typing import Protocol

BOM = b"\xef\xbb\xbf"
LONGEST_EVENT = 64 << 20
"""Bytes. A longer event is forgotten by the meter, never by the relay: an upstream cannot fill our memory."""

_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_IN_JSON = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)
_CR, _BACKSLASH = b"\r\\"


class Cutter(Protocol):
    """Cuts a stream into events."""

    @property
    def tail(self) -> bytearray: ...
    def read(self, chunk: bytes) -> list[bytes]: ...
    def rest(self) -> bytes: ...
    def data(self, event: bytes) -> bytes | None: ...


class Events:
    """The cutter of an SSE stream."""

    __slots__ = ("_from", "tail")

    def __init__(self) -> None:
        self.tail = bytearray()
        self._from = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes, each with the blank line that ends it."""
        if not self.tail and chunk.endswith(b"\n\n") and _CR not in chunk:
            if chunk.find(b"\n\n") == len(chunk) - 2:
                return [chunk]
            return [event + b"\n\n" for event in chunk[:-2].split(b"\n\n")]
        self.trim()
        tail = self.tail
        tail += chunk
        ends = [match.end() for match in _EVENT_END.finditer(tail, self._from)]
        events = [bytes(tail[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        if ends:
            del tail[: ends[-1]]
        self._from = max(0, len(tail) - 2)
        return events

    def read(self, chunk: bytes) -> list[bytes]:
        """The data of the events that this chunk completes, of those that have any."""
        if not self.tail and chunk.startswith(b"data:") and chunk.endswith(b"\n\n") and _CR not in chunk:
            found = chunk[5:-2].split(b"\n\ndata:")
            if chunk.count(b"\n") == 2 * len(found):  # no line end but those between events of one line
                return found
        return [data for event in self.feed(chunk) if (data := self.data(event)) is not None]

    def trim(self) -> int:
        """Forget an event that has grown too long; the number of bytes forgotten."""
        excess = len(self.tail) - 2 if len(self.tail) > LONGEST_EVENT else 0
        if excess:
            del self.tail[:excess]
            self._from = 0
        return excess

    def rest(self) -> bytes:
        """What is left when the stream has ended: an event that lacks its blank line, or nothing."""
        rest = bytes(self.tail)
        self.tail.clear()
        self._from = 0
        return rest

    def data(self, event: bytes) -> bytes | None:
        """An event's data, its lines joined; None where it has none (comments, blank lines, other fields)."""
        if (line := only_event(event)) is not None:
            return line
        if event.startswith(BOM):
            event = event[3:]
        lines = _LINE_END.split(event) if _CR in event else event.split(b"\n")
        data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
        return b"\n".join(data) if data else None


def only_event(chunk: bytes) -> bytes | None:
    """The data of a chunk that is one event of one line, as most are; None: it is something else."""
    if chunk.startswith(b"data:") and chunk.find(b"\n") == len(chunk) - 2 and chunk.endswith(b"\n\n"):
        return chunk[5:] if _CR not in chunk else None
    return None


class Elements:
    """The cutter of a JSON array that comes element by element (Gemini without alt=sse)."""

    __slots__ = ("_depth", "_from", "_quoted", "_start", "tail")

    def __init__(self) -> None:
        self.tail = bytearray()
        self._from = 0
        self._start = 0
        self._depth = 0
        self._quoted = False

    def read(self, chunk: bytes) -> list[bytes]:
        """The elements of the outer array that this chunk completes; scalars in it are passed over."""
        tail = self.tail
        tail += chunk
        elements: list[bytes] = []
        end = self._from
        for match in _IN_JSON.finditer(tail, end):
            mark, end = match[0], match.end()
            if mark == b'"':
                self._quoted = not self._quoted
            elif self._quoted or mark[0] == _BACKSLASH:
                continue
            elif mark in b"[{":
                self._depth += 1
                if self._depth == 2:
                    self._start = match.start()
            else:
                self._depth -= 1
                if self._depth == 1:
                    elements.append(bytes(tail[self._start : end]))
        self._forget(end)
        return elements

    def _forget(self, scanned: int) -> None:
        """Drop what belongs to no open element; a backslash that ends the chunk is looked at again with its fellow."""
        tail = self.tail
        self._from = len(tail) - (scanned < len(tail) and tail[-1] == _BACKSLASH)
        done = self._from if self._depth < 2 or len(tail) > LONGEST_EVENT else self._start
        del tail[:done]
        self._from -= done
        self._start = 0

    def rest(self) -> bytes:
        """What is left when the stream has ended: half an element, or nothing."""
        rest = bytes(self.tail)
        self.tail.clear()
        return rest

    def data(self, event: bytes) -> bytes | None:
        """An element is its own data."""
        return event
