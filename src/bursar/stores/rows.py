"""Rows: what may change when one closes, how one expires, and how it lies in a table. Pure.

Who a row is booked to is fixed when it opens: a settlement that says otherwise does not move it.
"""

import functools
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec

from bursar.stores.base import Filters, StoreFailure
from bursar.types import Charge, Entry, Terms

RowKey: TypeAlias = tuple[str, int]
"""request_id, attempt"""

COLUMNS: tuple[str, ...] = Entry.__struct_fields__
FIXED: tuple[str, ...] = (
    "request_id", "attempt", "run_id", "parent_run_id", "session_id", "user_id", "user_tier", "agent_id", "step",
    "tenant", "tags", "key_id", "started_at", "api", "provider", "requested_model", "tier", "route_reason", "stream",
    "hold_nanos", "output_limit", "charges", "input_estimate", "purpose", "sdk_retry", "blocks", "request",
)  # fmt: skip
"""Who, what, where and what for: as it was when the row was opened."""
CHANGING: tuple[str, ...] = tuple(name for name in COLUMNS if name not in FIXED)
"""What came of it."""
OPENING: tuple[str, ...] = (*FIXED, "model", "status", "cache", "terms", "cost_status")
"""What an open row says; the rest is unknown yet."""

RECENT = 20_000
"""Rows that Store.recent looks at."""

MARKS = ("validated", "verdict")
"""What validators say of a row that has closed."""

NULL = "\ufdd0"
"""Stands for None on its way into a nullable column: a code point that Unicode keeps out of texts."""

_fixed = attrgetter(*FIXED)
_TAGS, _TERMS, _CHARGES = (COLUMNS.index(name) for name in ("tags", "terms", "charges"))
_FLAGS = (COLUMNS.index("stream"), COLUMNS.index("validated"))


def canonical(entry: Entry) -> Entry:
    """The row with each tag once: the last word counts."""
    if len(entry.tags) < 2:
        return entry
    single = tuple(dict(entry.tags).items())
    return entry if len(single) == len(entry.tags) else msgspec.structs.replace(entry, tags=single)


def labelled(opening: Entry, entry: Entry) -> Entry:
    """The closing row under the labels and in the window of its opening."""
    fixed = _fixed(opening)
    if _fixed(entry) == fixed:
        return entry
    return msgspec.structs.replace(entry, **dict(zip(FIXED, fixed, strict=True)))


def was_sent(entry: Entry, tenant: str, step: tuple[str | None, str | None] | None) -> bool:
    """A closed call of that tenant, or of that (agent, step) of it, which a provider has seen."""
    mine = entry.tenant == tenant and step in (None, (entry.agent_id, entry.step))
    return mine and entry.purpose == "call" and entry.status in ("completed", "abandoned", "failed")


def expired(opening: Entry) -> Entry:
    """A row whose process is gone: booked at its hold; without one its cost is unknown."""
    return msgspec.structs.replace(
        opening,
        status="expired",
        error="the process that made this call ended before it did",
        cost_nanos=opening.hold_nanos,
        cost_status="unpriced" if opening.hold_nanos is None else "estimated",
    )


def dressed(values: Iterable[Any]) -> list[Any]:
    """The values as they are bound: see NULL."""
    return [NULL if value is None else value for value in values]


class Writer:
    """Takes some columns of an entry as SQLite takes them, dressed."""

    __slots__ = ("_converted", "_take")

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._take = attrgetter(*columns)
        self._converted = [(columns.index(name), convert) for name, convert in _CONVERT.items() if name in columns]

    def __call__(self, entry: Entry) -> list[Any]:
        values = [NULL if value is None else value for value in self._take(entry)]
        for at, convert in self._converted:
            if values[at] is not NULL:
                values[at] = convert(values[at])
        return values


def from_row(row: tuple[Any, ...]) -> Entry:
    """The row that these values of COLUMNS are."""
    values = list(row)
    values[_TAGS] = _tags(values[_TAGS])
    values[_TERMS] = _terms(values[_TERMS])
    values[_CHARGES] = () if values[_CHARGES] is None else _charges(values[_CHARGES])
    for flag in _FLAGS:
        values[flag] = None if values[flag] is None else bool(values[flag])
    return Entry(**dict(zip(COLUMNS, values, strict=True)))


@functools.lru_cache(512)
def _tags_text(tags: tuple[tuple[str, str], ...]) -> str:
    return msgspec.json.encode(dict(tags)).decode()


@functools.lru_cache(512)
def _tags(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(msgspec.json.decode(text, type=dict[str, str]).items())


@functools.lru_cache(512)
def _terms_text(terms: Terms) -> str:
    return msgspec.json.encode(terms).decode()


@functools.lru_cache(512)
def _terms(text: str) -> Terms:
    return msgspec.json.decode(text, type=Terms)


def charges_text(charges: tuple[Charge, ...]) -> str:
    """As a row keeps them."""
    return msgspec.json.encode(charges).decode() if charges else NULL


def _charges(text: str) -> tuple[Charge, ...]:
    return msgspec.json.decode(text, type=tuple[Charge, ...])


def charge_mark(key: tuple[str, str, str, str, int]) -> str:
    """What stands in the text of charges where one is of this counter (see balances.CounterKey), and nowhere else: a
    quote inside a name is never a bare one."""
    tenant, scope, name, budget, start = key
    return msgspec.json.encode((budget, scope, name, tenant, start)).decode()[:-1] + ","


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "tags": _tags_text, "terms": _terms_text, "charges": charges_text, "stream": int, "validated": int,
    "blocks": bytearray, "request": bytearray, "response": bytearray,
}  # fmt: skip

whole = Writer(COLUMNS)
opening = Writer(OPENING)
outcome = Writer(CHANGING)
mark = Writer(MARKS)


LABEL_FILTERS: tuple[str, ...] = tuple(name for name in Filters.__struct_fields__ if name not in ("since", "until"))
RUN_FILTERS: tuple[str, ...] = ("tenant", "run_id", "session_id", "user_id", "agent_id")


def check_filter(name: str, labels: tuple[str, ...]) -> None:
    """ValueError where rows of this kind do not carry the label."""
    if name not in labels:
        raise ValueError(f"runs cannot be filtered by {name}: ask by {', '.join(labels)}, since and until")


def taken_twice(entry: Entry) -> StoreFailure:
    """An id must not pay for two calls."""
    return StoreFailure(
        f"request {entry.request_id} attempt {entry.attempt} is in the ledger already: give each call its own id"
    )
