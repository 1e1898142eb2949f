"""What a single value of the configuration may be: text as a person writes it -> the integers that the policy holds.

Each raises ValueError with what was expected. Amounts come as strings, integers or Decimals, never through a float.
Shares and multiples become whole millionths; a score, which no amount is made of, a float.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

from bursar.money import NANOS_PER_USD, parse_usd
from bursar.policy import AUTO
from bursar.rules.validate import json_schema
from bursar.types import PPM

_KEY_NAME = "expected the name of an environment variable, such as OPENAI_API_KEY, never the secret itself"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_MS = 10 * 365 * 86_400_000
"""What is kept for ten years is kept for good, which is not what anybody means."""
_SIZE = re.compile(r"(\d{1,12})\s*(kB|KB|KiB|MB|MiB|GB|GiB)?", re.ASCII)
_BYTES = {"": 1, "kB": 10**3, "KB": 10**3, "KiB": 1 << 10, "MB": 10**6, "MiB": 1 << 20, "GB": 10**9, "GiB": 1 << 30}
_DEAREST = 10**9
"""Dollars that no rate and no limit reaches: past them a sum of nano-dollars would leave 64 bits."""
_LONGEST_NAME = 100
_MOST_TIMES = 1_000_000


def _milliseconds(value: object) -> object:
    told = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if told is None:
        raise ValueError('expected a duration such as "500ms", "2s" or "5m"')
    return round(Decimal(told.group(1)) * _UNITS[told.group(2)])


def _lasting(value: object) -> object:
    """A duration that something is kept for: above nothing."""
    told = _milliseconds(value)
    if not isinstance(told, int) or not 0 < told <= _LONGEST_MS:
        raise ValueError('expected a duration above 0 and of ten years at most, such as "24h" or "7d"')
    return told


def _bytes(value: object) -> object:
    """ "256MB" -> bytes; a bare number is bytes."""
    told = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    if told is None or not isinstance(value, int | str):
        raise ValueError('expected a size such as "256MB" or "1GiB"')
    return int(told.group(1)) * _BYTES[told.group(2) or ""]


def _rate(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError('expected USD per million tokens as a string, such as "0.30"')
    text = str(value)
    try:
        amount = Decimal(text)
    except ArithmeticError:
        raise ValueError(f'expected USD per million tokens as a string, such as "0.30", got {text!r:.40}') from None
    if not amount.is_finite() or not 0 <= amount < _DEAREST:
        raise ValueError(f"expected 0 or more and below 1e9, got {text:.40}")
    return text


def _usd(value: object) -> object:
    """Dollars -> nano-dollars, exactly."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError('expected dollars, such as "0.50"')
    try:
        nanos = parse_usd(value)
    except ValueError:
        raise ValueError(f'expected dollars, such as "0.50", got {str(value)!r:.40}') from None
    if not 0 <= nanos < _DEAREST * NANOS_PER_USD:
        raise ValueError(f"expected 0 or more and below 1e9 dollars, got {value!s:.40}")
    if Decimal(value) != Decimal(nanos).scaleb(-9):
        raise ValueError(f"expected dollars in nine decimals at most, got {value!s:.40}")
    return nanos


def _share(value: object) -> int:
    """A part of one -> millionths, exactly."""
    expected = "expected a share of one in six decimals at most, such as 0.15"
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(expected)
    parts = Decimal(value) * PPM
    if not parts.is_finite() or parts != int(parts):
        raise ValueError(f"{expected}, got {value!s:.40}")
    return int(parts)


def _part(value: object) -> object:
    parts = _share(value)
    if not 0 <= parts < PPM:
        raise ValueError(f"expected 0 or more and below 1, got {value!s:.40}")
    return parts


def _portion(value: object) -> object:
    parts = _share(value)
    if not 0 < parts <= PPM:
        raise ValueError(f"expected above 0 and at most 1, got {value!s:.40}")
    return parts


def _number(value: object, expected: str) -> Decimal:
    """A plain number, or the text of one: an environment variable has no other."""
    try:
        number = None if isinstance(value, bool) or not isinstance(value, int | str | Decimal) else Decimal(value)
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite():
        raise ValueError(expected)
    return number


def _multiple(value: object) -> int:
    """Times what is expected -> millionths, exactly."""
    expected = "expected a multiple above 0 in six decimals at most, such as 1.2"
    number = _number(value, expected)
    if not 0 < number <= _MOST_TIMES or number * PPM != int(number * PPM):
        raise ValueError(f"{expected}, got {value!s:.40}")
    return int(number * PPM)


def _score(value: object) -> float:
    number = _number(value, "expected a number from 0 to 1, such as 0.7")
    if not 0 <= number <= 1:
        raise ValueError(f"expected a number from 0 to 1, got {value!s:.40}")
    return float(number)


def _suspension(value: object) -> object:
    """ "reset" is None: until somebody resets it."""
    if value == "reset":
        return None
    try:
        return _lasting(value)
    except ValueError:
        raise ValueError('expected "reset", or a duration such as "30m"') from None


def _clock(value: object) -> int:
    """ "22:30" -> the minute of the day."""
    told = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", value, re.ASCII) if isinstance(value, str) else None
    if told is None:
        raise ValueError('expected a time of the day such as "22:00"')
    return int(told[1]) * 60 + int(told[2])


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    return value


def _opaque(value: object) -> object:
    """Tokens; "refuse" is 0."""
    if value == "refuse":
        return 0
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"[1-9]\d{0,11}", str(value)):
        raise ValueError('expected a whole number of tokens above 0, or "refuse"')
    return value


def _env_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(_KEY_NAME)
    return value


def _store_url(value: str) -> str:
    if value != "memory://" and (not re.fullmatch(r"sqlite:///.+", value) or value.endswith(":memory:")):
        raise ValueError("expected sqlite:///PATH, or memory:// for books that are forgotten at exit")
    return value


def _candidate(value: str) -> str:
    if not re.fullmatch(r"[^/\s]+/\S+", value):
        raise ValueError("expected provider/model, such as openai/gpt-4o-mini")
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\S*", value):
        raise ValueError("expected an http:// or https:// URL, as an SDK of that family would be given")
    return value.rstrip("/")


def _webhook(value: str) -> str:
    url = _url(value)
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("expected a URL without a password: one with credentials goes by notify_env")
    return value


def _rule_name(value: str) -> str:
    if not (0 < len(value) <= _LONGEST_NAME and value.isprintable() and value == value.strip()):
        raise ValueError(f"expected 1 to {_LONGEST_NAME} printable characters")
    return value


def _budget_name(value: str) -> str:
    if value.startswith("run:"):
        raise ValueError('expected a name that does not begin with "run:", as the limits do that code gives to a run')
    if value.startswith("breaker:"):
        raise ValueError('expected a name that does not begin with "breaker:", as the counters of breakers do')
    return _rule_name(value)


def _tier_name(value: str) -> str:
    if value == AUTO or not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError(f'expected letters, digits, ".", "_" and "-", and not "{AUTO}", which is the learned tier')
    return value


def _imported(value: str) -> str:
    if not re.fullmatch(r"[\w.]+:[\w.]+", value):
        raise ValueError('expected "package.module:function"')
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as fault:
        raise ValueError(f"expected a regular expression: {fault}") from None
    return value


def _schema(value: object) -> object:
    """The name of a file, or the schema itself; TOML's decimals are JSON's numbers in it."""
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, dict):
        raise ValueError("expected the name of a file with a JSON Schema, or the schema as a table")
    schema = _plain(value)
    if not isinstance(schema.get("$schema", ""), str):
        raise ValueError("not a JSON Schema: its $schema is no string")
    json_schema(schema)
    return schema


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_plain(below) for below in value]
    return float(value) if isinstance(value, Decimal) else value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"expected an IANA time zone, such as Europe/Berlin, got {value!r:.40}") from None
    return value


Milliseconds = Annotated[int, BeforeValidator(_milliseconds, json_schema_input_type=str)]
Lasting = Annotated[int, BeforeValidator(_lasting, json_schema_input_type=str)]
Bytes = Annotated[int, BeforeValidator(_bytes, json_schema_input_type=str | int), Field(ge=0, le=1 << 50)]
Rate = Annotated[str, BeforeValidator(_rate, json_schema_input_type=str | float)]
Usd = Annotated[int, BeforeValidator(_usd, json_schema_input_type=str | float)]
Part = Annotated[int, BeforeValidator(_part, json_schema_input_type=float)]
Portion = Annotated[int, BeforeValidator(_portion, json_schema_input_type=float)]
Multiple = Annotated[int, BeforeValidator(_multiple, json_schema_input_type=float)]
Score = Annotated[float, BeforeValidator(_score, json_schema_input_type=float)]
Suspension = Annotated[int | None, BeforeValidator(_suspension, json_schema_input_type=str)]
Clock = Annotated[int, BeforeValidator(_clock, json_schema_input_type=str)]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[Whole, Field(gt=0)]
Tokens = Annotated[Whole, Field(ge=0, le=10**15)]
Opaque = Annotated[int, BeforeValidator(_opaque, json_schema_input_type=int | str)]
EnvName = Annotated[str, AfterValidator(_env_name)]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
Url = Annotated[str, AfterValidator(_url)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
Candidate = Annotated[str, AfterValidator(_candidate)]
Webhook = Annotated[str, AfterValidator(_webhook)]
RuleName = Annotated[str, AfterValidator(_rule_name)]
BudgetName = Annotated[str, AfterValidator(_budget_name)]
TierName = Annotated[str, AfterValidator(_tier_name)]
Imported = Annotated[str, AfterValidator(_imported)]
Regex = Annotated[str, AfterValidator(_regex)]
JsonSchema = Annotated[str | dict[str, Any], BeforeValidator(_schema, json_schema_input_type=str | dict[str, Any])]
Zone = Annotated[str, AfterValidator(_zone)]
Text = Annotated[str, Field(min_length=1)]
