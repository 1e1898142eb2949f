"""`bursar cache learned | explain | report | ban`: what the semantic cache has learned, and one bad hit put right.

What is said here holds for running gateways at once. An unknown request is a Misuse: a hit is known as long as its
answer was to live.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Misuse, ledger, say, say_json
from bursar.doors.semantic import known
from bursar.insights import hits
from bursar.stores.meaning import Explanation, Meaning
from bursar.stores.semantic import COUNTS

RequestId = Annotated[str, Parameter(help="The request_id of the hit's row.")]


def learned(*, as_json: Json = False, config: Config = None) -> None:
    """Each pool's counts, its threshold, and the measured share of wrong hits with its 95 % bounds."""
    with _meaning(config) as meaning:
        items = [hits.learned(pool) for pool in meaning.pools()]
    if as_json:
        say_json({"items": items})
        return
    out = tables.console()
    table = tables.grid("", "tenant", "step", *COUNTS, "labels", "threshold", "wrong of hits", left=3)
    for item in items:
        rate = item["wrong_of_hits"]
        shown = "" if rate is None else f"{rate:.1%} ({item['low']:.1%} to {item['high']:.1%})"
        score = "" if item["threshold"] is None else f"{item['threshold']:.2f}"
        counts = (f"{item[name]:,}" for name in COUNTS)
        labels = tables.plain(item["tenant"]), tables.plain(item["step"])
        table.add_row(*labels, *counts, f"{item['labels']:,}", score, shown)
    tables.fit(out, table)


def explain(request_id: RequestId, *, as_json: Json = False, config: Config = None) -> None:
    """Why that request was answered from the semantic cache."""
    with _meaning(config) as meaning:
        told = meaning.explain(request_id)
    if told is None:
        raise _unknown(request_id)
    if as_json:
        say_json(_explained(told))
    else:
        _tell(told)


def report(request_id: RequestId, *, as_json: Json = False, config: Config = None) -> None:
    """That hit was wrong: its answer goes, with every question that it stands for, and the pool learns from it."""
    with _meaning(config) as meaning:
        done = meaning.report(request_id)
        if not done and meaning.explain(request_id) is None:
            raise _unknown(request_id)
    _done("reported", done, as_json)


def ban(request_id: RequestId, *, as_json: Json = False, config: Config = None) -> None:
    """As report; besides, that very question is never answered from the semantic cache again."""
    with _meaning(config) as meaning:
        if not meaning.ban(request_id):
            raise _unknown(request_id)
    _done("banned", True, as_json)


@contextmanager
def _meaning(config: Path | None) -> Iterator[Meaning]:
    with ledger(config) as (_, store), known(store) as meaning:
        if meaning is None:
            raise Misuse("no semantic cache has been used here: [[steps]] cache.semantic asks for one")
        yield meaning


def _unknown(request_id: str) -> Misuse:
    return Misuse(f"no semantic hit {request_id!r:.80} is known: `bursar export` shows them as cache = semantic_hit")


def _done(what: str, done: bool, as_json: bool) -> None:
    if as_json:
        say_json({what: done})
    else:
        say(f"{what.capitalize()}." if done else f"It was {what} before.")


def _explained(told: Explanation) -> dict[str, Any]:
    hit = told.hit
    return {
        "request_id": hit.request_id, "at": datetime.fromtimestamp(hit.at / 1e6, UTC).isoformat(), "asked": hit.text,
        "stored_question": hit.stored_text, "source_request_id": hit.source, "cosine": hit.cosine, "score": hit.score,
        "features": told.features, "doubts": list(told.doubts), "answer": told.answer, "stored": told.stored,
        "verdict": hit.verdict,
    }  # fmt: skip


def _tell(told: Explanation) -> None:
    hit = told.hit
    say(f"asked:     {hit.text}")
    say(f"stored:    {hit.stored_text}   (answered by request {hit.source})")
    score = "" if hit.score is None else f", learned chance of being right {hit.score:.1%}"
    say(f"because:   cosine {hit.cosine:.3f}{score}")
    if told.features:
        say("           " + ", ".join(f"{name} {value:+.2f}" for name, value in told.features.items() if value))
    if told.doubts:
        say(f"doubts:    {', '.join(told.doubts)}: strict = true would have refused it")
    say(f"answer:    {told.answer or 'gone'}")
    if hit.verdict is not None or not told.stored:
        say(f"now:       {hit.verdict or 'expired or purged'}")
