"""Reading one row of somebody else's log: every column may be missing, empty, a text or JSON in a text.

Pure. An absent or empty value is None, never 0; a value that cannot be what its column says raises Malformed with the
column, what was expected and what was found.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from bursar.money import parse_usd
from bursar.types import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 1 << 53
"""More tokens or milliseconds than this are a mistake; JSON's own readers lose count there too."""
_YES, _NO = frozenset(("true", "1", "yes")), frozenset(("false", "0", "no", "none"))


class Malformed(ValueError):
    """A row that cannot be booked: why."""


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
        match self.found(*names):
            case None:
                return None
            case _, str(value):
                return value
            case _, bool(value):
                return str(value).lower()
            case _, int() | Decimal() as value:
                return str(value)
            case name, value:
                raise _unlike(name, "a text", value)
        return None

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
        match self.found(*names):
            case None:
                return None
            case name, bool() as value:
                raise _unlike(name, "a number", value)
            case name, int() | str() | Decimal() as value:
                try:
                    number = Decimal(value)
                except InvalidOperation:
                    raise _unlike(name, "a number", value) from None
                if number.is_finite() and number.adjusted() < 30:
                    return number
                raise _unlike(name, "a finite number", value)
            case name, value:
                raise _unlike(name, "a number", value)
        return None

    def usd(self, *names: str) -> int | None:
        """Dollars -> nano-dollars, half-even below one."""
        number = self.number(*names)
        try:
            return None if number is None else parse_usd(number)
        except ValueError as fault:
            raise Malformed(f"{names[0]}: {fault}") from None

    def instant(self, *names: str) -> Instant | None:
        """ISO 8601, a space for the T allowed; UTC where it names no zone."""
        match self.found(*names):
            case None:
                return None
            case name, str(value):
                try:
                    at = datetime.fromisoformat(value.strip())
                    at = at if at.tzinfo else at.replace(tzinfo=UTC)
                    return Instant((at - _EPOCH) // timedelta(microseconds=1))
                except (ValueError, OverflowError):
                    raise _unlike(name, "a time in ISO 8601", value) from None
            case name, value:
                raise _unlike(name, "a time in ISO 8601", value)
        return None

    def flag(self, *names: str) -> bool:
        """True where the column says so; anything that is not said is False."""
        match self.found(*names):
            case None:
                return False
            case _, bool(value):
                return value
            case name, value:
                word = str(value).lower()
                if word not in _YES | _NO:
                    raise _unlike(name, "true or false", value)
                return word in _YES

    def row(self, *names: str) -> "Row":
        """An object, or one written as JSON text; empty where there is none."""
        match self.found(*names):
            case None:
                return Row({})
            case name, value:
                decoded = _decoded(value)
                if isinstance(decoded, Mapping):
                    return Row(decoded)
                raise _unlike(name, "an object", value)

    def items(self) -> list[tuple[str, Any]]:
        return list(self._values.items())

    def json(self) -> str | None:
        """The row as JSON text; None where it says nothing."""
        return json.dumps(self._values, default=_number, separators=(",", ":")) if self._values else None

    def tags(self, *names: str) -> list[tuple[str, str]]:
        """A list of labels as tags: "team:search" and "team=search" are team -> search, a bare word is word -> true."""
        match self.found(*names):
            case None:
                return []
            case name, value:
                decoded = _decoded(value)
                if not isinstance(decoded, Sequence) or isinstance(decoded, str):
                    raise _unlike(name, "a list of labels", value)
                return [_tag(str(label)) for label in decoded if label not in (None, "")]


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
            return json.loads(text, parse_float=Decimal)
        except (ValueError, RecursionError):
            continue
    return value


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise Malformed(f"{type(value).__name__} is no JSON")


def _unlike(name: str, expected: str, value: object) -> Malformed:
    return Malformed(f"{name}: expected {expected}, got {value!r:.60}")
