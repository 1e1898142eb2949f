"""`bursar cache`: which answers are kept; `bursar cache purge` forgets some, for running gateways too, at once.

What the semantic cache has learned, and one bad hit of it put right: see meaning.py.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter

from bursar.doors import purging
from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Misuse, Tenant, ledger, say, say_json
from bursar.doors.semantic import forget
from bursar.stores.cache import Shelf
from bursar.types import Instant

app = App(name="cache", help="The answers that are kept to be given again.", help_epilogue="Example: bursar cache")


@app.default
def cache(*, as_json: Json = False, config: Config = None) -> None:
    """What is kept, by tenant, step and model."""
    with ledger(config) as (settings, store):
        shelves = store.cache.shelves(Instant(time.time_ns() // 1000))
        answers, size = store.cache.size()
    if as_json:
        say_json(purging.as_json(shelves, answers, size) | {"max_bytes": settings.cache.max_bytes})
    elif not answers:
        say("No answer is kept: a step's answers are where [[steps]] cache says so.")
    else:
        _print(shelves, answers, size, settings.cache.max_bytes)


@app.command(help_epilogue="Example: bursar cache purge --step extract --tag doc=42")
def purge(
    *,
    everything: Annotated[bool, Parameter(name="--all", help="Everything that is kept.")] = False,
    step: Annotated[str | None, Parameter(help="Answers of this step.")] = None,
    model: Annotated[str | None, Parameter(help="Answers that this model gave.")] = None,
    tag: Annotated[str | None, Parameter(help="K=V: answers whose calls carried this tag.")] = None,
    prefix: Annotated[str | None, Parameter(help="Answers whose key begins with these hexadecimal digits.")] = None,
    tenant: Tenant = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Forget the answers for which all that is said holds."""
    said: dict[str, Any] = {"step": step, "model": model, "tag": tag, "prefix": prefix, "tenant": tenant}
    try:
        what = purging.read({**said, "all": everything})
    except purging.BadPurge as bad:
        raise Misuse(f"--{bad}") from None
    with ledger(config) as (_, store):
        gone = forget(store, what)
    if as_json:
        say_json({"purged": gone})
    else:
        say(f"{gone:,} answer{'' if gone == 1 else 's'} forgotten.")


for _name, _what, _example in (
    ("learned", "What the semantic cache has learned: counts, threshold, share of wrong hits.", "learned --json"),
    ("explain", "Why a request was answered from the semantic cache.", "explain req_0123"),
    ("report", "That hit was wrong: forget its answer and learn from it.", "report req_0123"),
    ("ban", "As report, and never answer that question from the semantic cache again.", "ban req_0123"),
):
    app.command(
        f"bursar.doors.cli.meaning:{_name}", name=_name, help=_what, help_epilogue=f"Example: bursar cache {_example}"
    )


def _print(shelves: Sequence[Shelf], answers: int, size: int, most: int) -> None:
    out = tables.console()
    table = tables.grid("", "tenant", "step", "model", "answers", "bytes", left=3)
    for shelf in shelves:
        labels = (tables.plain(label) for label in (shelf.tenant, shelf.step, shelf.model))
        table.add_row(*labels, f"{shelf.answers:,}", f"{shelf.bytes:,}")
    tables.fit(out, table)
    live = sum(shelf.answers for shelf in shelves)
    expired = f"; {answers - live:,} expired, until the next trim" if answers > live else ""
    out.print(f"{answers:,} kept in {size:,} of {most:,} bytes{expired}")
