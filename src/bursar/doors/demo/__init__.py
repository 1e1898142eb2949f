"""`bursar demo`: three agents on the simulated provider, before and after. No key, no server, no network.

Exit codes: 0; 1 where a ledger and the provider's bill differ by as much as a nano-dollar; 2 where the SDKs that the
agents are written with are not installed, or the number of runs is none.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from bursar.doors.cli.tables import console
from bursar.doors.demo import acts, play, show
from bursar.doors.demo.serve import leave_open
from bursar.sandbox import SandboxServer

RUNS = 8
"""Reports, contracts and tutoring sessions, where nobody says how many."""

Watch: TypeAlias = Callable[[str, Sequence[str], int], AbstractContextManager[play.Heard]]
"""Shows how far an act is: its name, its agents, and how many runs each has."""

_NEEDED = ("openai", "anthropic", "httpx2")


def main(runs: int = RUNS, as_json: bool = False, serve: bool = False) -> int:
    """Play, print, and leave the gateway open on the result where that is wanted. The result is on stdout."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        return _refuse(f"the demo's agents need {', '.join(missing)}: pip install 'bursar[demo]'")
    if runs < 1:
        return _refuse(f"--runs {runs}: give at least 1")
    with _folder(keep=serve) as folder, play.sandbox(runs) as server:
        with both(folder, server, runs, show.progress) as (before, after):
            show.as_json(before, after) if as_json else show.as_text(before, after, console())
        if serve:
            leave_open(folder)
    return 0 if before.played.exact and after.played.exact else 1


@contextmanager
def both(folder: Path, server: SandboxServer, runs: int, heard: Watch) -> Iterator[tuple[show.Act, show.Act]]:
    """Both acts, played one after the other; their books are open until the end."""
    acts.write(folder, server.url)
    with ExitStack() as stack:
        played = []
        for act, file in (("before", acts.BEFORE), ("after", acts.AFTER)):
            told = acts.books(folder, file)
            guard = stack.enter_context(acts.guard(told))
            with heard(act, play.AGENTS, runs) as hear:
                played.append(show.Act(play.play(guard, told, server, runs, hear), told))
        yield played[0], played[1]


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
