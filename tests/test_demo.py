"""The demo: three agents on the sandbox, through the library door, and what it says of them."""

import importlib.util
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.doors import demo
from bursar.doors.demo import contracts, lessons, web, workload
from bursar.sandbox import Task

RUNS = 2


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What `bursar demo --json --runs 2` prints."""
    yield _play(request.getfixturevalue("capfd_of_module"))


@pytest.fixture(scope="module")
def capfd_of_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch
