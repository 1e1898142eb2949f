"""`bursar demo`: three agents on the simulated provider, measured. No key, no server, no network.

Exit codes: 0; 1 where the ledger and the provider's bill differ by as much as a nano-dollar; 2 where the SDKs that the
agents are written with are not installed, or the number of runs is none.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

from bursar.doors.cli.tables import console
from bursar.doors.demo import play, show
from bursar.doors.demo.serve import leave_open
from bursar.stores.sqlite import SqliteStore

RUNS = 8
"""Reports, contracts and tutoring sessions, where nobody says how many."""

_NEEDED = ("openai", "anthropic", "httpx2")


def main(runs: int = RUNS, as_json: bool = False, serve: bool = False) -> int:
    """Play, print, and leave the gateway open on the result where that is wanted. The result is on stdout."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        return _refuse(f"the demo's agents need {', '.join(missing)}: pip install 'bursar[demo]'")
    if runs < 1:
        return _refuse(f"--runs {runs}: give at least 1")
    with _folder(keep=serve) as folder, play.sandbox(runs) as server:
        with closing(SqliteStore(folder / "bursar.db")) as store:
            with show.progress(play.AGENTS, runs) as heard:
                played = play.play(store, server, runs, heard)
            show.as_json(played, store) if as_json else show.as_text(played, store, console())
        if serve:
            leave_open(folder, play.policy(server.url))
    return 0 if played.exact else 1


def _refuse(why: str) -> int:
    sys.stderr.write(f"bursar demo: {why}\n")
    return 2


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    """A place for the ledger; kept only where somebody is to look at it."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix="bursar-demo-"))
    else:
        with tempfile.TemporaryDirectory(prefix="bursar-demo-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
