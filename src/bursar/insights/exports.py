"""The ledger out of the house: JSON lines, CSV or Parquet, oldest row first, whatever its size in constant memory.

JSON lines carry every column, so that importing them elsewhere gives the same ledger and the same bytes again; CSV and
Parquet leave out digests and bodies. Open rows are left out: they have no outcome yet. A file appears whole or not at
all (OSError); a store that cannot be read raises StoreFailure.
"""

import base64
import csv
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, get_args

import msgspec

from bursar.insights import rows
from bursar.insights.rows import usd
from bursar.stores.base import Filters, Store
from bursar.types import Entry, Instant

if TYPE_CHECKING:
    from polars import DataType

Format: TypeAlias = Literal["jsonl", "csv", "parquet"]
Progress: TypeAlias = Callable[[int], None]
"""Told now and then how many rows are done."""

BYTES = ("blocks", "request", "response")
"""Columns of bytes: base64 in the JSON lines."""
_ALL = Filters()
_PAGE = 1000
_IN_MEMORY = 32 << 20


class MissingExtra(Exception):
    """A format needs a package that is not installed: which one, and how it is had."""


def write(
    store: Store,
    format: Format,
    out: BinaryIO | Path,
    filters: Filters = _ALL,
    progress: Progress = lambda done: None,
) -> int:
    """Write the closed rows that pass the filters, by start and then by id; how many they were.

    Raises MissingExtra for parquet without Polars, StoreFailure, OSError.
    """
    head, encode = _ENCODERS[format]()
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool, _opened(out) as sink:
        blocks: list[tuple[int, int]] = []
        done = 0
        for block in _newest_first(store, filters):
            start = spool.tell()
            spool.write(encode(block))
            blocks.append((start, spool.tell() - start))
            done += len(block)
            progress(done)
        if format == "parquet":
            _write_parquet(spool, blocks, sink)
        else:
            sink.write(head)
            _unwind(spool, blocks, sink)
    return done


def whole(entry: Entry) -> dict[str, Any]:
    """One row with all its columns, in JSON's own types. What `imports.own.entry` reads back."""
    told = rows.call(entry)
    told["terms"] = msgspec.to_builtins(entry.terms)
    told["hold_usd"] = usd(entry.hold_nanos)
    told["input_estimate"], told["output_estimate"] = entry.input_estimate, entry.output_estimate
    told |= {name: getattr(entry, name) for name in rows.TOLD}
    for name in BYTES:
        value = getattr(entry, name)
        told[name] = None if value is None else base64.b64encode(value).decode()
    return told


def _newest_first(store: Store, filters: Filters) -> Iterator[list[Entry]]:
    """Blocks of rows, each in order, the blocks from the newest back. Rows that start together stay together, for
    only their ids put them in an order that every ledger agrees on."""
    held: list[Entry] = []
    cursor: str | None = None
    while True:
        page = store.calls(filters, _PAGE, cursor)
        held += page.items
        cursor = page.next_cursor
        oldest = held[-1].started_at if held and cursor is not None else None
        yield sorted((e for e in held if e.started_at != oldest and e.status != "open"), key=_order)
        if cursor is None:
            return
        held = [entry for entry in held if entry.started_at == oldest]


def _order(entry: Entry) -> tuple[Instant, str, int]:
    return entry.started_at, entry.request_id, entry.attempt


def _unwind(spool: IO[bytes], blocks: list[tuple[int, int]], sink: IO[bytes]) -> None:
    for start, length in reversed(blocks):
        spool.seek(start)
        sink.write(spool.read(length))


@contextmanager
def _opened(out: BinaryIO | Path) -> Iterator[IO[bytes]]:
    if not isinstance(out, Path):
        yield out
        return
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as sink:
            yield sink
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


# One encoder a format: what stands at the head of the file, and a block of rows as bytes.

Encoder: TypeAlias = tuple[bytes, Callable[[list[Entry]], bytes]]


def _jsonl() -> Encoder:
    return b"", lambda block: b"".join(msgspec.json.encode(whole(entry)) + b"\n" for entry in block)


def _csv() -> Encoder:
    return _csv_rows([_COLUMNS]), lambda block: _csv_rows([_cell(v) for v in _flat(e).values()] for e in block)


def _csv_rows(table: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _parquet() -> Encoder:
    _schema()  # says at once that Polars is missing, before the ledger is read
    return b"", lambda block: b"".join(msgspec.json.encode(_flat(e, Instant)) + b"\n" for e in block)


_ENCODERS: dict[Format, Callable[[], Encoder]] = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}


def _flat(entry: Entry, time: Callable[[Instant], Any] = rows.iso) -> dict[str, Any]:
    """The contract's columns, each a single value: what is JSON as its text."""
    told = rows.call(entry)
    told["tags"] = msgspec.json.encode(told["tags"]).decode()
    told["started_at"] = time(entry.started_at)
    told |= {name: getattr(entry, name) for name in rows.TOLD}
    return told


_COLUMNS = list(
    rows.call(
        Entry(
            request_id="", attempt=1, run_id=None, parent_run_id=None, session_id=None, user_id=None, user_tier=None,
            agent_id=None, step=None, tenant="", tags=(), key_id=None, started_at=Instant(0), api="other", provider="",
            requested_model=None, model=None, tier=None, route_reason="", stream=False,
        )
    )
)  # fmt: skip


def _schema() -> "dict[str, DataType | type[DataType]]":
    try:
        import polars as pl  # noqa: PLC0415 - heavy, and an extra
    except ModuleNotFoundError:
        raise MissingExtra(
            "parquet is written by Polars, which is not installed: pip install 'bursar[export]', or export csv or jsonl"
        ) from None
    kinds = {int: pl.Int64, bool: pl.Boolean}
    types = {field.name: _single(field.type) for field in msgspec.structs.fields(Entry)}
    return {name: kinds.get(types.get(name, str), pl.String) for name in _COLUMNS}


def _single(annotation: Any) -> Any:
    """`int | None` -> int; a NewType -> what it is made of."""
    members = [kind for kind in get_args(annotation) if kind is not NoneType]
    single = members[0] if members and len(members) == 1 else annotation
    return getattr(single, "__supertype__", single)


def _write_parquet(spool: IO[bytes], blocks: list[tuple[int, int]], sink: IO[bytes]) -> None:
    """Through two files beside each other, for Polars streams from one to the other. Money is Decimal(38, 9)."""
    import polars as pl  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        lines, table = Path(folder, "rows.jsonl"), Path(folder, "rows.parquet")
        with lines.open("wb") as copy:
            _unwind(spool, blocks, copy)
        money = pl.col([name for name in _COLUMNS if name.endswith("_usd")]).cast(pl.Decimal(38, 9))
        time = pl.col("started_at").cast(pl.Datetime("us", "UTC"))
        pl.scan_ndjson(lines, schema=_schema()).with_columns(money, time).sink_parquet(table)
        with table.open("rb") as source:
            shutil.copyfileobj(source, sink)
