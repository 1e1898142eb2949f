"""Reading one row of somebody else's log: every column may be missing, empty, a text or JSON in a text.

Pure. An absent or empty value is None, never 0; a value that cannot be what its column says raises Malformed with the
column, what was expected and what was found.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from bursar.money import parse_usd
from bursar.types import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 1 << 53
"""More tokens or milliseconds than this are a mistake; JSON's own readers lose count there too."""
_WRITER = msgspec.json.Encoder(decimal_format="number")
_YES, _NO = frozenset(("true", "1", "yes")), frozenset(("false", "0", "no", "none"))


class Malformed(ValueError):
    """A row that cannot be booked: why."""


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text:.40} is beyond all numbers") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


DECODER = json.JSONDecoder(parse_float=_decimal, parse_constant=_no_constant)
"""Numbers with a point stay decimal: an amount never passes through a float. ValueError or RecursionError."""


class Row:
    """One row, by any of the names that a column has had. The first one that says something counts."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def found(self, *names: str) -> tuple[str, Any] | None:
        """The first of these columns with a value, and the value."""
        for name in names:
            value = self._values.get(name)
            if value is not None and value != "":
                return name, value
        return None

    def text(self, *names: str) -> str | None:
        name, value = self.found(*names) or ("", None)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | Decimal):
            return str(value)
        raise _unlike(name, "a text", value)

    def count(self, *names: str) -> int | None:
        """Tokens: a whole number of 0 or more."""
        number = self.number(*names)
        if number is None:
            return None
        if number != int(number) or not 0 <= number < _LARGEST:
            raise Malformed(f"{names[0]}: expected a whole number from 0 to 2^53, got {number}")
        return int(number)

    def milliseconds(self, *names: str, unit: int = 1) -> int | None:
        """A duration of 0 or more in units of so many milliseconds -> whole milliseconds."""
        number = self.number(*names)
        if number is None:
            return None
        if not 0 <= number * unit < _LARGEST:
            raise Malformed(f"{names[0]}: expected a duration of 0 or more, got {number}")
        return round(number * unit)

    def number(self, *names: str) -> Decimal | None:
        name, value = self.found(*names) or ("", None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
            raise _unlike(name, "a number", value)
        try:
            number = Decimal(value)
        except InvalidOperation:
            raise _unlike(name, "a number", value) from None
        if not number.is_finite() or number.adjusted() > 30:
            raise _unlike(name, "a finite number", value)
        return number

    def usd(self, *names: str) -> int | None:
        """Dollars -> nano-dollars, half-even below one."""
        number = self.number(*names)
        try:
            return None if number is None else parse_usd(number)
        except ValueError as fault:
            raise Malformed(f"{names[0]}: {fault}") from None

    def instant(self, *names: str) -> Instant | None:
        """ISO 8601, a space for the T allowed; UTC where it names no zone."""
        name, value = self.found(*names) or ("", None)
        if value is None:
            return None
        try:
            at = datetime.fromisoformat(value.strip())
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return Instant((at - _EPOCH) // timedelta(microseconds=1))
        except (ValueError, OverflowError, AttributeError):
            raise _unlike(name, "a time in ISO 8601", value) from None

    def flag(self, *names: str) -> bool:
        """True where the column says so; what is not said is False."""
        name, value = self.found(*names) or ("", False)
        word = str(value).lower()
        if word not in _YES | _NO:
            raise _unlike(name, "true or false", value)
        return word in _YES

    def row(self, *names: str) -> "Row":
        """An object, or one written as JSON text; empty where there is none."""
        name, value = self.found(*names) or ("", {})
        decoded = _decoded(value)
        if not isinstance(decoded, Mapping):
            raise _unlike(name, "an object", value)
        return Row(decoded)

    def aside(self, *names: str) -> "Row":
        """The same of a column in which anything may stand: what is no object says nothing."""
        decoded = _decoded((self.found(*names) or ("", {}))[1])
        return Row(decoded if isinstance(decoded, Mapping) else {})

    def items(self) -> list[tuple[str, Any]]:
        return list(self._values.items())

    def json(self) -> str | None:
        """The row as JSON text; None where it says nothing."""
        return _WRITER.encode(self._values).decode() if self._values else None

    def tags(self, *names: str) -> list[tuple[str, str]]:
        """A list of labels as tags: "team:search" and "team=search" are team -> search, a bare word is word -> true."""
        name, value = self.found(*names) or ("", [])
        labels = _decoded(value)
        if not isinstance(labels, list):
            raise _unlike(name, "a list of labels", value)
        return [_tag(str(label)) for label in labels if label not in (None, "")]


def _tag(label: str) -> tuple[str, str]:
    at = min((found for mark in ":=" if (found := label.find(mark)) > 0), default=None)
    if at is None:
        return label, "true"
    return label[:at].strip(), label[at + 1 :].strip()


def _decoded(value: Any) -> Any:
    """JSON text decoded; quotes that were doubled once too often by a CSV writer are taken back."""
    if not isinstance(value, str):
        return value
    for text in (value, value.replace('""', '"')):
        try:
            return DECODER.decode(text)
        except (ValueError, RecursionError):
            continue
    return value


def _unlike(name: str, expected: str, value: object) -> Malformed:
    return Malformed(f"{name}: expected {expected}, got {value!r:.60}")
