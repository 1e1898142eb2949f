"""What the whole suite shares: where public data lies, and that CI fails on a skip."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import bursar
import library_kit
from bursar.sandbox.server import SandboxServer

ROOT = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("bursar", deadline=None)  # speed is a benchmark's business
hypothesis.settings.load_profile("bursar")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data beside the project; a test that needs it skips where it is missing."""
    place = Path(os.environ.get("BURSAR_SHARED", ROOT.parent / "shared"))
    if not (place / "data").is_dir():
        pytest.skip(f"no public data at {place}: set BURSAR_SHARED to the folder that holds data/")
    return place


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and os.environ.get("BURSAR_STRICT"):
        terminalreporter.write_line("BURSAR_STRICT: a skipped test is a failed one", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and os.environ.get("BURSAR_STRICT") and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def sandbox(server: SandboxServer) -> SandboxServer:
    """The module's own provider, as new."""
    server.app.reset()
    return server


@pytest.fixture
def guard() -> Iterator[bursar.Guard]:
    """On books in memory, with the kit's prices."""
    with library_kit.guarded() as guard:
        yield guard
