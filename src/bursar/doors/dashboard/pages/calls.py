"""The rows behind every number: the ledger's calls, newest first, by any labels; and one request with all it says."""

from bursar.doors.cli.tables import when
from bursar.doors.dashboard.asked import LABELS, Asked
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.pages.runs import Missing, ending, number, tokens_of, unusual
from bursar.doors.dashboard.view import Cell, Table, Tile, View, rows_of
from bursar.insights import rows
from bursar.policy import Policy
from bursar.stores.base import Counters, Store
from bursar.types import Entry

FIELDS = tuple(LABELS)
_SUMMED = frozenset(("run", "status"))
"""Labels that no rollup is kept of."""


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """The list, and its sum where a rollup knows it."""
    del policy
    page = store.calls(asked.filters, parts.MOST, asked.query.get("cursor"))
    empty = None if page.items or asked.labels else parts.nothing_yet(store, asked)
    if empty is not None:
        return View(title="Calls", parts=(empty,), fields=FIELDS)
    table = Table(
        title="Ledger rows, newest first",
        columns=("Started, UTC", "Agent", "Step", "User", "Model", "Status", "Cache", "#Input", "#Cached", "#Output",
                 "#Seconds", "#Cost", ""),
        rows=rows_of(_row(asked, entry) for entry in page.items),
        empty="No row in this period has these labels.",
        note="One row an attempt, hit or refusal. A rare label is looked for row by row: a shorter period is quicker.",
        more=None if page.next_cursor is None else ("Older ones", asked.here(cursor=page.next_cursor)),
    )  # fmt: skip
    return View(title="Calls", tiles=_tiles(store, asked), parts=(table,), fields=FIELDS)


def _tiles(store: Store, asked: Asked) -> tuple[Tile, ...]:
    labels = asked.labels
    if _SUMMED & set(labels):
        return ()
    try:
        told = parts.total(store, asked, **labels)
    except ValueError:  # two labels: no rollup is kept of every pair
        return ()
    return _sums(told)


def _sums(told: Counters) -> tuple[Tile, ...]:
    return (
        Tile("Spend", parts.cost(told), "all rows of this list"),
        Tile("Calls", f"{told.calls:,}", f"{told.attempts:,} attempts, {told.hits:,} hits, {told.refused:,} refused"),
        parts.token_tile(told),
        parts.trouble(told),
    )


def _row(asked: Asked, entry: Entry) -> list[Cell]:
    href = asked.link("call", request=entry.request_id)
    labels = (("agent", entry.agent_id), ("step", entry.step), ("user", entry.user_id), ("model", entry.model))
    bad = entry.status in ("failed", "refused")
    return [
        Cell(when(entry.started_at)[:-1], href),
        *(parts.named(asked, name, key) if key else Cell("") for name, key in labels),
        Cell(ending(entry), look="bad" if bad else ""),
        Cell(entry.cache.replace("_", " ")),
        *(Cell(number(n)) for n in tokens_of(entry)),
        Cell("" if entry.duration_ms is None else f"{entry.duration_ms / 1000:.2f}"),
        Cell(parts.dollars(entry.cost_nanos), href),
        Cell(unusual(entry), look="muted"),
    ]


def one(store: Store, policy: Policy, asked: Asked) -> View:
    """`request=`: every attempt, every column. Raises Missing."""
    del policy
    request = asked.query.get("request", "")
    entries = store.call(request) if request else []
    if not entries:
        raise Missing(f"no call {request!r:.220} is in the ledger: see the list of calls")
    shown = [rows.call(entry) for entry in entries]
    table = Table(
        title="As the ledger has it",
        columns=("", *(f"Attempt {entry.attempt}" for entry in entries)),
        rows=rows_of([_column(asked, name, None), *(_column(asked, name, one) for one in shown)] for name in shown[0]),
    )
    return View(title=f"Call {parts.plain(request)}", parts=(table,), timed=False)


def _column(asked: Asked, name: str, row: dict[str, object] | None) -> Cell:
    if row is None:
        return Cell(name, look="muted")
    value = row[name]
    text = "" if value is None else parts.plain(str(value).lower() if isinstance(value, bool) else str(value))
    if name == "cost_usd" and value is None:
        text = "unknown"
    by = {"run_id": "run", "agent_id": "agent", "user_id": "user", "session_id": "session"}.get(name)
    if by is None or value is None:
        return Cell(text, look="code")
    href = (
        asked.link("run", run=str(value), of=str(row["tenant"]))
        if by == "run"
        else asked.link("runs", **{by: str(value)})
    )
    return Cell(text, href, look="code")
