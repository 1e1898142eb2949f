"""A cap holds at any concurrency, over any number of processes, and it can be spent: by the provider's own bill."""

import json
import subprocess
import sys
from typing import Any

import pytest

from conftest import ROOT


def bench(*argv: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "budgets.py"), "--json", "--rivals", "none", *argv]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)["bursar"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "4"])
def test_a_thousand_calls_at_once_never_pass_the_cap(workers: str) -> None:
    """Mixed sizes, streams among them: no state of the counter and not the bill is above it, nothing is left held, each
    call is answered or refused, and who waits long enough is refused for spent money alone."""
    told = bench("--workers", workers, "--share", "0.3", "--patience", "120s")
    assert told["overshoot"] == 0 and told["trace_peak"] <= 1
    assert told["ended"].keys() == {"answered", "refused"} and sum(told["ended"].values()) == 1_000
    assert told["paid_but_refused"] == 0
    assert told["used"] >= 0.95
    assert told["one_by_one"]["overshoot"] == 0 and told["one_by_one"]["used"] >= 0.95
