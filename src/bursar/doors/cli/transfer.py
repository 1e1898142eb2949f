"""`bursar export` and `bursar import`: the ledger out, and other tools' logs in. Plain functions for the CLI's app.

Return the exit code: 0 done, 1 some rows of an import could not be read, 2 usage, configuration, a file or the store at
fault, said on stderr without a traceback. What other programs read goes to stdout, what is told on the way to stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bursar.config import ConfigError, load
from bursar.doors.open import open_store, sqlite_path
from bursar.doors.period import instant
from bursar.insights import exports, imports
from bursar.stores.base import Filters, Store, StoreFailure
from bursar.types import Instant


class _UsageFault(Exception):
    """What the user asked for cannot be done: why, and what would do."""


def export_(
    *,
    format: exports.Format = "jsonl",
    out: Annotated[Path | None, Parameter(name=("--out", "-o"))] = None,
    since: str | None = None,
    until: str | None = None,
    tenant: str | None = None,
    agent: str | None = None,
    user: str | None = None,
    session: str | None = None,
    run: str | None = None,
    model: str | None = None,
    config: Path | None = None,
    json: bool = False,
) -> int:
    """Write the ledger's rows, oldest first. jsonl holds everything and can be imported again.

    Example: bursar export --format parquet --since 30d --out calls.parquet

    Parameters
    ----------
    format
        jsonl, csv, or parquet (needs the extra `export`).
    out
        The file to write; without it the rows go to standard output.
    since
        Rows that start at or after this: 7d, 12h, or an ISO 8601 time.
    until
        Rows that start before this.
    config
        The configuration; default ./bursar.toml, else defaults.
    json
        Tell the outcome as JSON (with --out).
    """
    with _told() as ended:
        now = datetime.now(UTC)
        filters = Filters(
            tenant=tenant, agent_id=agent, user_id=user, session_id=session, run_id=run, model=model,
            since=None if since is None else instant(since, now, _UsageFault),
            until=None if until is None else instant(until, now, _UsageFault),
        )  # fmt: skip
        with closing(_ledger(config, must_exist=True)) as store, _Progress("exported") as progress:
            rows = exports.write(store, format, out or sys.stdout.buffer, filters, progress)
        if out is not None:
            _say({"rows": rows, "format": format, "out": str(out)}, f"{rows:,} rows written to {out}", json)
    return ended()


def import_(
    file: Path,
    /,
    *,
    from_: Annotated[imports.Kind, Parameter(name="--from")],
    tenant: str = "default",
    config: Path | None = None,
    json: bool = False,
) -> int:
    """Add another tool's log, or a Bursar export, to the ledger. Importing the same file twice adds nothing.

    Example: bursar import spend-logs.json --from litellm

    Parameters
    ----------
    file
        JSON, JSON lines or CSV, as the tool exports it; gzip is understood.
    from_
        bursar, litellm, langfuse or helicone.
    tenant
        Whose the rows are; those of a Bursar export keep their own.
    config
        The configuration; default ./bursar.toml, else defaults.
    json
        Tell the outcome as JSON.
    """
    with _told() as ended:
        if not file.is_file():
            raise _UsageFault(f"{file} is no file: give an export of {from_}")
        now = Instant(time.time_ns() // 1000)
        with closing(_ledger(config)) as store, _Progress("imported") as progress:
            summary = imports.read(file, from_, store, now, tenant, progress)
        _say(_as_json(summary), _as_text(summary), json)
        if summary.malformed:
            ended.code = 1
    return ended()


class _Exit:
    code = 0

    def __call__(self) -> int:
        return self.code


@contextmanager
def _told() -> Iterator[_Exit]:
    """A user's fault becomes one line on stderr and the exit code 2."""
    ended = _Exit()
    try:
        yield ended
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (_UsageFault, ConfigError, StoreFailure, exports.MissingExtra, OSError) as fault:
        sys.stderr.write(f"bursar: {fault}\n")
        ended.code = 2


def _ledger(config: Path | None, *, must_exist: bool = False) -> Store:
    url = load(config).store.url
    if must_exist and not url.startswith("memory:") and not sqlite_path(url).exists():
        raise _UsageFault(f"there is no ledger at {sqlite_path(url)}: run an agent first, or set store.url")
    return open_store(url)


class _Progress:
    """Rows so far, on a terminal's stderr, once a second has passed and then each second."""

    def __init__(self, verb: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._verb, self._clock = verb, clock
        self._next = clock() + 1
        self._shown = False

    def __enter__(self) -> "_Progress":
        return self

    def __call__(self, rows: int) -> None:
        if self._clock() >= self._next and sys.stderr.isatty():
            self._next, self._shown = self._clock() + 1, True
            sys.stderr.write(f"\r{rows:,} rows {self._verb} ...")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")


def _say(data: dict[str, object], text: str, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(data) + "\n")
    else:
        sys.stderr.write(text + "\n")


def _as_json(summary: imports.Summary) -> dict[str, object]:
    told = {name: getattr(summary, name) for name in summary.__struct_fields__}
    return {**told, "faults": [fault._asdict() for fault in summary.faults]}


def _as_text(summary: imports.Summary) -> str:
    counts = [
        (summary.imported, "imported"),
        (summary.already, "in the ledger already"),
        (summary.passed_over, "passed over (no calls of a model)"),
        (summary.malformed, "malformed"),
    ]
    lines = [", ".join(f"{count:,} {what}" for count, what in counts if count or what == "imported")]
    if summary.free:
        lines.append(f"{summary.free:,} calls with tokens carry a recorded cost of 0: was their price known?")
    lines += [f"  line {fault.line}: {fault.reason}" for fault in summary.faults]
    if summary.malformed > len(summary.faults):
        lines.append(f"  and {summary.malformed - len(summary.faults):,} more")
    return "\n".join(lines)
