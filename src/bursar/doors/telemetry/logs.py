"""The log: one line a closed row, as text or as JSON, with ids, counts and cost and nothing of what was said.

In the library the lines go to the logger `bursar.calls`, and what becomes of them is the application's to say; only
`bursar serve` sets handlers up. A fault is told by its kind and the places in the code, without its message: an
exception may quote what it failed on.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from bursar.doors.telemetry import facts
from bursar.money import format_usd
from bursar.types import Entry

CALLS = logging.getLogger("bursar.calls")
_FIELDS = (
    "request_id", "attempt", "run_id", "parent_run_id", "session_id", "user_id", "user_tier", "agent_id", "step",
    "tenant", "key_id", "api", "provider", "requested_model", "model", "tier", "route_reason", "status",
    "http_status", "cache", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "cost_status", "price_id", "purpose", "duration_ms", "first_byte_ms",
)  # fmt: skip
"""What a line has of a row, where it is known, in this order."""
_ATTRIBUTE = "bursar"


def listen(entry: Entry) -> None:
    """A row has been closed: a line at INFO."""
    if CALLS.isEnabledFor(logging.INFO):
        told = fields(entry)
        CALLS.info("%s", "call " + _pairs(told), extra={_ATTRIBUTE: told})


def fields(entry: Entry) -> dict[str, Any]:
    """What is said of a row: amounts as decimal strings, and of an error its kind alone."""
    told = {name: value for name in _FIELDS if (value := getattr(entry, name)) is not None}
    if entry.cost_nanos is not None:
        told["cost_usd"] = format_usd(entry.cost_nanos)
    if entry.saved_nanos is not None:
        told["saved_usd"] = format_usd(entry.saved_nanos)
    if (error := facts.error_type(entry)) is not None:
        told["error"] = error
    return told


def configure(style: Literal["text", "json"], level: str, out: TextIO | None = None) -> logging.Handler:
    """Set the process's log up, for a program of our own: everything to stderr; Bursar's own from `level` on."""
    handler = logging.StreamHandler(out or sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, JsonLines | TextLines):
            root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("bursar").setLevel(level.upper())
    return handler


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        known = getattr(record, _ATTRIBUTE, None)
        told |= {"message": record.getMessage()} if known is None else {"message": "call", **known}
        if (fault := _fault(record)) is not None:
            told["exception"], told["at"] = fault
        return json.dumps(told, default=str)


class TextLines(logging.Formatter):
    """One line of text; a label that could break out of it is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname.lower()} {record.name}: {message}"
        if (fault := _fault(record)) is not None:
            line += f" exception={fault[0]} at={' < '.join(fault[1])}"
        return line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fault(record: logging.LogRecord) -> tuple[str, list[str]] | None:
    """An exception's kind, and where it came through, innermost first."""
    if not record.exc_info or record.exc_info[1] is None:
        return None
    fault = record.exc_info[1]
    frames = traceback.extract_tb(fault.__traceback__)
    return type(fault).__qualname__, [f"{frame.filename}:{frame.lineno}" for frame in reversed(frames)]


def _pairs(told: dict[str, Any]) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in told.items())


def _plain(value: object) -> str:
    text = str(value)
    bare = text.isascii() and text.isprintable() and not set(text) & {" ", '"', "="}
    return text if bare and text else json.dumps(text)
