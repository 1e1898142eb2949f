"""How often may a stored answer serve, and how often is it wrong? Streams and pairs with known answers.

    python benchmarks/semantic.py --data FILE ... [--mode guard@0.92 ...] [--seeds 1 2 3 4 5] [--json]

A stream (`{"id", "query", "answer_id"}`, in order of arrival) is played through the cache's own modules: embedder,
index, guard, calibration. A miss is put in; two queries share an answer if and only if their answer_id is equal. A pair
(`{"a", "b", "same"}`) is looked at alone. `--data lookalikes` makes a stream of templates in which equal wording with
another number, comparator or role needs another answer. Only the audits of `calibrated@E` depend on the seed.
Modes: cosine@T, guard@T, strict@T (cosine threshold T), calibrated@E (target of wrong hits per hit E), and
gptcache@T, by that package's own evaluation at its own threshold, where it is installed. `--gate` refuses
time-sensitive and personal requests first, as the product does.
"""

import argparse
import gzip
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from bursar.embedders import Vector
from bursar.embedders.minilm import MiniLM
from bursar.rules.semantic import calibrate, guard, score
from bursar.rules.semantic.eligible import ineligible
from bursar.rules.semantic.reading import Reading, read
from bursar.stores.vectors import Vectors

Json: TypeAlias = dict[str, Any]
Line: TypeAlias = dict[str, float | int | str]
MODES = ("cosine@0.92", "guard@0.92", "strict@0.80", "calibrated@0.05")
SEEDS = (1, 2, 3, 4, 5)
_NAMESPACE = "bench"

_TEMPLATES = (
    "Which {thing} have {compare} {n} {part}?",
    "How much does {a} owe {b} for {n} {thing}?",
    "Did {a} report to {b} in quarter {n}?",
    "Move {n} {thing} from {a} to {b}",
    "What is the average {part} of {thing} {when} the {a} migration?",
    "Show {thing} owned by {a} but not by {b}",
    "Is {a} {than} than {b} at {n} {part}?",
    "Rank {thing} by {part} in {order} order and keep {n}",
    "Which {a} {thing} were {verb} by the {b} team?",
)
_TEAMS = ["alpha", "beta", "gamma", "delta", "omega", "sigma"]
_FILLS = {
    "thing": ["invoices", "servers", "tickets", "parcels", "contracts", "claims"],
    "part": ["errors", "items", "hours", "users", "rows", "days"],
    "compare": ["more than", "less than", "at least", "at most", "exactly"],
    "when": ["before", "after", "during"],
    "than": ["faster", "slower", "cheaper", "larger"],
    "order": ["ascending", "descending"],
    "verb": ["approved", "rejected", "reviewed", "archived"],
}


class Request(NamedTuple):
    text: str
    answer: str
    vector: Vector
    reading: Reading


class Asked(NamedTuple):
    """One request of a stream: was it a hit, was the hit wrong."""

    hit: bool
    wrong: bool


Play: TypeAlias = Callable[[list[Request], float, int], Iterator[Asked]]


def main() -> None:
    options = _options()
    embedder = MiniLM()
    for name in options.data:
        rows = lookalikes(3_000) if name == "lookalikes" else load(Path(name))
        pairs = "a" in rows[0]
        texts = list(dict.fromkeys(row[key] for row in rows for key in (("a", "b") if pairs else ("query",))))
        if not options.json:
            print(f"{name}: {len(rows)} {'pairs' if pairs else 'requests'}")
        vectors = dict(zip(texts, _embed(embedder, texts), strict=True))
        for line in pair_lines(rows, vectors, options) if pairs else stream_lines(rows, vectors, options):
            show({"file": Path(name).name, **line}, options.json)
    if not options.json:
        look_up(embedder)


def stream_lines(rows: list[Json], vectors: dict[str, Vector], options: argparse.Namespace) -> Iterator[Line]:
    """One line a mode and seed."""
    stream = [Request(row["query"], str(row["answer_id"]), vectors[row["query"]], read(row["query"])) for row in rows]
    for mode in options.mode:
        kind, _, value = mode.partition("@")
        asked: list[Asked] = []
        for seed in options.seeds:
            if kind == "calibrated" or not asked:
                play: Play = calibrated if kind == "calibrated" else fixed(passes(kind))
                asked = list(
                    _gated(stream, play, float(value), seed) if options.gate else play(stream, float(value), seed)
                )
            half = rates(asked[len(asked) // 2 :])
            yield {"mode": mode, "seed": seed, "requests": len(asked), **rates(asked),
                   **{f"second_half_{name}": share for name, share in half.items()}}  # fmt: skip


def pair_lines(rows: list[Json], vectors: dict[str, Vector], options: argparse.Namespace) -> Iterator[Line]:
    """should_hit and must_miss: which share of the pairs of each kind hits. Without a stream nothing is calibrated."""
    readings = {text: read(text) for row in rows for text in (row["a"], row["b"])}
    rows = [row for row in rows if row.get("same", row.get("verdict")) in (0, 1, "same", "different")]
    for mode in options.mode:
        kind, _, value = mode.partition("@")
        if kind == "calibrated":
            continue
        hits: dict[bool, list[bool]] = {True: [], False: []}
        for row in rows:
            a, b = row["a"], row["b"]
            near = score.Neighbour(b, b, sum(map(float.__mul__, vectors[a], vectors[b])), readings[b])
            same = row.get("same", row.get("verdict")) in (1, "same")
            hits[same].append(passes(kind)(readings[a], [near], float(value)) is not None)
        for seed in options.seeds:
            yield {"mode": mode, "seed": seed, "pairs": len(rows), "should_hit": share(hits[True]),
                   "must_miss": share(hits[False])}  # fmt: skip


def passes(kind: str) -> Callable[[Reading, list[score.Neighbour], float], score.Neighbour | None]:
    """The fixed rule of a mode: which neighbour it serves."""
    if kind == "gptcache":
        return _gptcache
    if kind == "cosine":
        return lambda _, near, at: max((n for n in near if n.cosine >= at), key=lambda n: n.cosine, default=None)
    if kind in ("guard", "strict"):
        return lambda reading, near, at: score.nearest(reading, near, at, strict=kind == "strict")
    raise SystemExit(
        f"unknown mode {kind!r}: expected cosine, guard, strict, calibrated or gptcache, then @ and a number"
    )


def fixed(serves: Callable[[Reading, list[score.Neighbour], float], score.Neighbour | None]) -> Play:
    def play(stream: list[Request], value: float, _: int) -> Iterator[Asked]:
        store = Store()
        for request in stream:
            near = serves(request.reading, store.neighbours(request), value)
            yield Asked(near is not None, near is not None and near.answer != request.answer)
            if near is None:
                store.add(request, request.answer)

    return play


def calibrated(stream: list[Request], max_error: float, seed: int) -> Iterator[Asked]:
    """As the engine will: candidate, decision, label by comparing the fresh answer with the candidate's only."""
    store, state = Store(), calibrate.begin(max_error, str(seed))
    for number, request in enumerate(stream):
        answer, decision, right = f"answer-{number}", "pass", False
        picked = calibrate.best(state, score.candidates(request.reading, store.neighbours(request)))
        if picked is not None:
            near = picked[0].neighbour
            right = store.truth[near.answer] == request.answer
            decision = calibrate.decide(state, picked[1], near.cosine, str(number))
            if decision in ("ask", "audit"):
                state = calibrate.observe(state, picked[0].features, right, audited=decision == "audit")
                store.label(near.answer, right, audited=decision == "audit")
                answer = near.answer if right else answer
        if decision != "serve":
            store.add(request, answer)
        yield Asked(decision == "serve", decision == "serve" and not right)


class Store:
    """Entries with the answer that each stands for, and what labels said of the answers."""

    def __init__(self) -> None:
        self.index = Vectors()
        self.truth: dict[str, str] = {}
        self._entries: dict[str, tuple[str, Reading]] = {}
        self._labels: dict[str, list[int]] = {}

    def add(self, request: Request, answer: str) -> None:
        entry = f"{len(self._entries):08}"
        self._entries[entry] = (answer, request.reading)
        self.truth.setdefault(answer, request.answer)
        self.index.add(_NAMESPACE, entry, request.vector)

    def label(self, answer: str, right: bool, *, audited: bool) -> None:
        counts = self._labels.setdefault(answer, [0, 0])
        counts[0] += right
        counts[1] += audited and not right

    def neighbours(self, request: Request) -> list[score.Neighbour]:
        found = []
        for near in self.index.search(_NAMESPACE, request.vector, score.NEIGHBOURS):
            answer, reading = self._entries[near.entry]
            confirmed, refuted = self._labels.get(answer, (0, 0))
            found.append(score.Neighbour(near.entry, answer, near.cosine, reading, confirmed, refuted))
        return found


def _gated(stream: list[Request], play: Play, value: float, seed: int) -> Iterator[Asked]:
    """The eligible requests played, the others as misses."""
    open_ = [ineligible(request.text) is None for request in stream]
    asked = play([request for request, may in zip(stream, open_, strict=True) if may], value, seed)
    return (next(asked) if may else Asked(False, False) for may in open_)


def _gptcache(_: Reading, near: list[score.Neighbour], threshold: float) -> score.Neighbour | None:
    """GPTCache's own evaluation of the nearest neighbour by squared distance, as its adapter applies it."""
    from gptcache.similarity_evaluation import SearchDistanceEvaluation  # type: ignore[import-not-found]

    evaluation = SearchDistanceEvaluation()
    low, high = evaluation.range()
    first = max(near, key=lambda n: n.cosine, default=None)
    if first is None:
        return None
    rank = evaluation.evaluation({}, {"search_result": (2 - 2 * first.cosine, first.entry)})
    return first if rank >= low + (high - low) * threshold else None


def lookalikes(count: int, seed: int = 0) -> list[Json]:
    """Requests from templates; every wording has its own answer, one in ten comes again under a greeting."""
    chance = random.Random(seed)
    answers: dict[str, str] = {}
    rows: list[Json] = []
    while len(rows) < count:
        fills = {key: chance.choice(words) for key, words in _FILLS.items()}
        a, b = chance.sample(_TEAMS, 2)
        text = chance.choice(_TEMPLATES).format(**fills, a=a, b=b, n=chance.randint(2, 60))
        if answers and chance.random() < 0.1:
            text = chance.choice(list(answers))
        answer = answers.setdefault(text, f"look-alike-{len(answers)}")
        rows.append({"id": len(rows), "query": chance.choice(("{}", "Hi, {}", "Please tell me: {}")).format(text),
                     "answer_id": answer})  # fmt: skip
    return rows


def rates(asked: list[Asked]) -> dict[str, float]:
    hits, wrong = sum(one.hit for one in asked), sum(one.wrong for one in asked)
    return {
        "hit": hits / len(asked),
        "wrong_of_hits": wrong / hits if hits else 0.0,
        "wrong_of_requests": wrong / len(asked),
    }


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0


def look_up(embedder: MiniLM, entries: int = 10_000) -> None:
    """p50 of a look-up, embedding included, among so many entries; the guard's part too."""
    texts = [row["query"] for row in lookalikes(400, 7)]
    vectors, chance = embedder.embed(texts), random.Random(1)
    index, reading = Vectors(), read(texts[0])
    for number in range(entries):
        base = vectors[number % len(vectors)]
        index.add(_NAMESPACE, str(number), [value + chance.gauss(0, 0.02) for value in base])
    whole, search = [], []
    for text in texts[:100]:
        began = time.perf_counter()
        vector = embedder.embed([text])[0]
        embedded = time.perf_counter()
        index.search(_NAMESPACE, vector, score.NEIGHBOURS)
        search.append(time.perf_counter() - embedded)
        guard.refusal(reading, read(text), strict=True)
        whole.append(time.perf_counter() - began)
    p50, least = [[f"{found(times) * 1e3:.2f}" for times in (whole, search)] for found in (statistics.median, min)]
    print(f"look-up among {entries}, embedding and guard included: p50 {p50[0]} ms, least {least[0]}")
    print(f"  the search alone: p50 {p50[1]} ms, least {least[1]}")


def load(path: Path) -> list[Json]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def show(line: Line, as_json: bool) -> None:
    if as_json:
        print(json.dumps(line), flush=True)
        return
    told = (f"{key} {value:.2%}" if isinstance(value, float) else f"{value}" for key, value in line.items())
    print("  " + "  ".join(told), flush=True)


def _embed(embedder: MiniLM, texts: list[str]) -> Iterable[Vector]:
    for start in range(0, len(texts), 2_048):
        yield from embedder.embed(texts[start : start + 2_048])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="JSON lines, gzipped or not; or lookalikes")
    parser.add_argument("--mode", nargs="+", default=[*MODES, *_installed()])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--gate", action="store_true", help="refuse time-sensitive and personal requests first")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _installed() -> list[str]:
    return ["gptcache@0.8"] if importlib.util.find_spec("gptcache") is not None else []


if __name__ == "__main__":
    main()
