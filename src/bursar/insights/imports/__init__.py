"""Other tools' logs, and Bursar's own export, into the ledger: each row an Entry settled through the store.

A recorded cost is kept as it was recorded. A row that cannot be read costs that row alone: it is counted and reported
with its line. Importing again adds nothing: a row is known by its source's own id. Raises StoreFailure where the
ledger cannot be written and OSError where the file cannot be read; what was imported by then stays, and the next import
goes on from there.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from bursar.insights.imports import booking, helicone, langfuse, litellm, own, records
from bursar.insights.imports.fields import Malformed, Row
from bursar.insights.imports.records import Fault, Record
from bursar.stores.base import Receipt, Store, StoreFailure
from bursar.stores.rows import CHANGING
from bursar.types import Entry, Hold, Instant, Refused

__all__ = ["Fault", "Kind", "Summary", "read"]

Kind: TypeAlias = Literal["bursar", "litellm", "langfuse", "helicone"]
Progress: TypeAlias = Callable[[int], None]

_CHUNK = 1000
_SHOWN = 100
_DAY = 86_400_000_000


class Summary(msgspec.Struct, frozen=True):
    """What became of a file's rows."""

    imported: int = 0
    already: int = 0
    """In the ledger before; left as they were."""
    passed_over: int = 0
    """No calls of a model: a trace, a span, an event."""
    malformed: int = 0
    free: int = 0
    """Of the imported: completed calls with tokens and a recorded cost of 0. The source may not have known a price."""
    faults: tuple[Fault, ...] = ()
    """The first hundred of the malformed, with their lines."""


class _Tally:
    def __init__(self) -> None:
        self.imported = self.already = self.passed_over = self.malformed = self.free = 0
        self.faults: list[Fault] = []

    def refuse(self, fault: Fault) -> None:
        self.malformed += 1
        if len(self.faults) < _SHOWN:
            self.faults.append(fault)

    def summary(self) -> Summary:
        counts = (self.imported, self.already, self.passed_over, self.malformed, self.free)
        return Summary(*counts, tuple(self.faults))


def read(
    path: Path,
    kind: Kind,
    store: Store,
    now: Instant,
    tenant: str = "default",
    progress: Progress = lambda rows: None,
) -> Summary:
    """Import a file. Rows of other tools are booked to `tenant`; one that starts a day after `now` is malformed."""
    tally = _Tally()
    entries = _entries(path, kind, now, tenant, tally)
    done = 0
    while chunk := list(islice(entries, _CHUNK)):
        _book(store, chunk, tally)
        done += len(chunk)
        progress(done)
    return tally.summary()


def _entries(path: Path, kind: Kind, now: Instant, tenant: str, tally: _Tally) -> Iterator[Entry]:
    convert = _converter(path, kind, tenant)
    for record in _records(path, kind):
        if isinstance(record, Fault):
            tally.refuse(record)
            continue
        try:
            entry = convert(record)
            if entry is not None and entry.started_at > now + _DAY:
                raise Malformed("started_at: the row starts in the future")
        except Malformed as fault:
            tally.refuse(Fault(record.line, _named(record, str(fault))))
            continue
        if entry is None:
            tally.passed_over += 1
        else:
            yield entry


def _records(path: Path, kind: Kind) -> Iterator[Record | Fault]:
    for record in records.read(path):
        if isinstance(record, Record) and kind == "langfuse":
            yield from (Record(record.line, part) for part in langfuse.parts(record.values))
        else:
            yield record


def _named(record: Record, reason: str) -> str:
    """The reason, with the row's id, by which it is found where one line holds many rows."""
    name = next((record.values[key] for key in ("request_id", "response_id", "id") if record.values.get(key)), None)
    return reason if name is None else f"{reason} (row {str(name)[:80]})"


def _converter(path: Path, kind: Kind, tenant: str) -> Callable[[Record], Entry | None]:
    match kind:
        case "bursar":
            return lambda record: own.entry(record.values)
        case "litellm":
            return lambda record: booking.entry(litellm.recorded(Row(record.values), tenant))
        case "helicone":
            return lambda record: booking.entry(helicone.recorded(Row(record.values), tenant))
        case "langfuse":
            traces = _traces(path)
            return lambda record: _observation(Row(record.values), traces, tenant)


def _observation(row: Row, traces: dict[str, Row], tenant: str) -> Entry | None:
    told = None if langfuse.is_trace(row) else langfuse.recorded(row, traces, tenant)
    return None if told is None else booking.entry(told)


def _traces(path: Path) -> dict[str, Row]:
    """The traces that the file holds, by id: a first pass, for a trace may stand below its observations."""
    found = (Row(record.values) for record in _records(path, "langfuse") if isinstance(record, Record))
    return {row.text("id") or "": row for row in found if langfuse.is_trace(row)}


def _book(store: Store, chunk: list[Entry], tally: _Tally) -> None:
    """Open all, then close all: two transactions. A row that is there already is left as it is, but one whose end was
    not known (a cut-off import among them) takes it now."""
    opened: list[tuple[Hold, Entry]] = []
    for entry, reserved in [(entry, store.reserve(_opening(entry))) for entry in chunk]:
        hold = _held(store, entry, reserved)
        if hold is None:
            tally.already += 1
        else:
            opened.append((hold, entry))
    for settled in [store.settle(hold, entry) for hold, entry in opened]:
        settled.result()
    tally.imported += len(opened)
    tally.free += sum(_is_free(entry) for _, entry in opened)


def _held(store: Store, entry: Entry, receipt: Receipt[Hold | Refused]) -> Hold | None:
    try:
        hold = receipt.result()
    except StoreFailure:
        there = next((row for row in store.call(entry.request_id) if row.attempt == entry.attempt), None)
        if there is None:
            raise
        ends = there.status == "expired" and entry.status != "expired"
        return Hold(entry.request_id, entry.attempt) if ends else None
    if isinstance(hold, Refused):
        raise StoreFailure(f"request {entry.request_id} was refused: {hold.reason}")
    return hold


def _opening(entry: Entry) -> Entry:
    """The row as it stood before anything came of it."""
    return msgspec.structs.replace(entry, **_BLANK)


_BLANK = {
    field.name: field.default
    for field in msgspec.structs.fields(Entry)
    if field.name in CHANGING and field.name not in ("model", "cache", "terms")
}


def _is_free(entry: Entry) -> bool:
    told = (entry.price_id or "").startswith("import:") and entry.status == "completed" and entry.cost_nanos == 0
    return told and bool(entry.input_tokens or entry.output_tokens)
