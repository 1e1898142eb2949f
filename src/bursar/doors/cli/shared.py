"""What every command has in common: options, the ledger opened for reading, output, and faults said in one line.

Results go to stdout, faults and progress to stderr. A user's fault is a Misuse (or a ConfigError, a StoreFailure, a
CannotServe): `main` writes it without a traceback and exits with 2.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

from bursar.config import Settings, load
from bursar.doors.open import open_store, sqlite_path
from bursar.doors.period import instant
from bursar.stores.base import Store
from bursar.types import Instant

Config: TypeAlias = Annotated[
    Path | None,
    Parameter(name="--config", help="The configuration; default BURSAR_CONFIG, else ./bursar.toml, else defaults."),
]
Json: TypeAlias = Annotated[bool, Parameter(name="--json", help="One JSON document on stdout, for machines.")]
Since: TypeAlias = Annotated[str | None, Parameter(help="From then on: 7d, 12h, or an ISO 8601 date or time.")]
Until: TypeAlias = Annotated[str | None, Parameter(help="Before then.")]
Tenant: TypeAlias = Annotated[str | None, Parameter(help="Of this tenant alone.")]

_PATIENCE = 1.0


class Misuse(Exception):
    """What was asked for cannot be done: why, and what would do."""


@contextmanager
def ledger(config: Path | None) -> Iterator[tuple[Settings, Store]]:
    """The settings and their ledger, for questions. One that is not there is not made: raises Misuse."""
    settings = load(config)
    url = settings.store.url
    if url.startswith("memory:"):
        raise Misuse(
            f"store.url is {url}: such books are gone when their process ends; set sqlite:///PATH to keep them"
        )
    path = sqlite_path(url)
    if not path.is_file():
        raise Misuse(
            f"there is no ledger at {path.absolute()}: put Bursar on an agent first, or tell where it is ([store] url, "
            "BURSAR_STORE__URL)"
        )
    with closing(open_store(url, settings.cache)) as store:
        yield settings, store


def moment(text: str | None) -> Instant | None:
    """A point in time as people write it; raises Misuse."""
    return None if text is None else instant(text, datetime.now(UTC), Misuse)


def say(line: str) -> None:
    """One line of the result."""
    sys.stdout.write(line + "\n")


def say_json(told: Any) -> None:
    """The result, for machines."""
    say(json.dumps(told, indent=2))


def note(line: str) -> None:
    """One line beside the result."""
    sys.stderr.write(f"bursar: {line}\n")
    sys.stderr.flush()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says on stderr what is under way, once it has taken a second."""
    timer = threading.Timer(_PATIENCE, note, (f"{what} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
