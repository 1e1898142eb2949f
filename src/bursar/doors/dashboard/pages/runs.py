"""Runs: the list, newest first, and one run as a waterfall of its attempts. A run that is not there is Missing."""

from collections.abc import Sequence

from bursar.doors.cli.tables import when
from bursar.doors.dashboard.asked import Asked, BadQuery
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.view import FULL, Cell, Segment, Table, Tile, View, rows_of
from bursar.insights import callmap, why
from bursar.policy import Policy
from bursar.stores.base import Run, Store
from bursar.types import Entry

FIELDS = ("agent", "user", "session")
MOST_LINES = 500
"""Attempts and nested runs that one waterfall shows."""
_DEEPEST = 12
_THINNEST = 6
"""How wide a call is drawn at least, in units of FULL."""


class Missing(LookupError):
    """Not in the ledger: what was asked for and where to look."""


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """The list."""
    del policy
    if others := set(asked.labels) - set(FIELDS):
        raise BadQuery(f"{', '.join(sorted(others))}: runs are listed by {', '.join(FIELDS)}")
    page = store.runs(asked.filters, parts.MOST, asked.query.get("cursor"))
    empty = None if page.items or asked.labels else parts.nothing_yet(store, asked)
    if empty is not None:
        return View(title="Runs", parts=(empty,), fields=FIELDS)
    table = Table(
        title="Newest first",
        columns=("Run", "Agent", "User", "Session", "Started, UTC", "#Attempts", "#Input", "#Output", "#Own cost",
                 "#With nested"),
        rows=rows_of(_run(asked, run) for run in page.items),
        empty="No run with these labels began in this period. Calls join a run by guard.run(...) or x-bursar-run-id.",
        more=None if page.next_cursor is None else ("Older ones", asked.here(cursor=page.next_cursor)),
    )  # fmt: skip
    return View(title="Runs", parts=(table,), fields=FIELDS)


def _run(asked: Asked, run: Run) -> list[Cell]:
    href = asked.link("run", run=run.run_id, of=run.tenant)
    labels = (("agent", run.agent_id), ("user", run.user_id), ("session", run.session_id))
    whole = parts.bound(run.tree_cost_nanos, run.tree_unpriced) if run.is_root else ""
    return [
        Cell(parts.plain(run.run_id), href),
        *(parts.named(asked, name, key) if key else Cell("") for name, key in labels),
        Cell(when(run.first_at)[:-1]),
        Cell(f"{run.rows:,}" + (f" +{run.open:,} open" if run.open else ""), href),
        Cell(f"{run.input_tokens:,}", href),
        Cell(f"{run.output_tokens:,}", href),
        Cell(parts.bound(run.cost_nanos, run.unpriced), href),
        Cell(whole, href if whole else None),
    ]


# --- one run


def one(store: Store, policy: Policy, asked: Asked) -> View:
    """`run=` and, where several tenants have such a run, `of=` with the tenant. Raises Missing."""
    del policy
    run_id = asked.query.get("run", "")
    entries = store.run(run_id, asked.query.get("of", asked.tenant)) if run_id else []
    if not entries:
        raise Missing(f"no run {run_id!r:.220} is in the ledger: see the list of runs")
    tenants = sorted({entry.tenant for entry in entries})
    if len(tenants) > 1:
        raise BadQuery(f"of: {', '.join(tenants)} each have a run {run_id!r:.220}; say which")
    total = store.run_total(run_id, tenants[0])
    nodes = callmap.grow(run_id, entries)
    return View(
        title=f"Run {parts.plain(run_id)}", lead=_lead(total, entries), tiles=_tiles(asked, entries, nodes),
        parts=(_waterfall(asked, nodes, entries),), timed=False,
    )  # fmt: skip


def _lead(total: Run | None, entries: Sequence[Entry]) -> str:
    labels = [] if total is None else [("agent", total.agent_id), ("user", total.user_id), ("plan", total.user_tier),
                                       ("session", total.session_id), ("within run", total.parent_run_id)]  # fmt: skip
    told = [f"{name} {parts.plain(key)}" for name, key in labels if key is not None]
    return ", ".join([f"Began {when(entries[0].started_at)}", *told])


def _tiles(asked: Asked, entries: Sequence[Entry], nodes: Sequence[callmap.Node]) -> tuple[Tile, ...]:
    whole = next(node.item.counts for node in nodes if isinstance(node.item, callmap.Head))
    nested = sum(isinstance(node.item, callmap.Head) for node in nodes) - 1
    began, ended = _span(entries)
    retries = sum(entry.attempt > 1 or entry.sdk_retry > 0 for entry in entries)
    rows = asked.link("calls", run=asked.query["run"], tenant=entries[0].tenant, since="all", until=None)
    return (
        Tile("Cost", parts.cost(whole), f"with {nested:,} nested runs" if nested else "", rows),
        Tile("Attempts", f"{len(entries):,}", f"{retries:,} retries, {whole.failed:,} failed", rows),
        parts.token_tile(whole, rows),
        Tile("Took", f"{(ended - began) / 1e6:,.2f} s", "from the first call to the last answer"),
        Tile("Saved by caches", parts.dollars(whole.saved_nanos), f"{whole.hits:,} hits"),
    )


def _span(entries: Sequence[Entry]) -> tuple[int, int]:
    began = min(entry.started_at for entry in entries)
    return began, max(entry.started_at + (entry.duration_ms or 0) * 1000 for entry in entries)


def _waterfall(asked: Asked, nodes: Sequence[callmap.Node], entries: Sequence[Entry]) -> Table:
    began, ended = _span(entries)
    dearest = max((entry.cost_nanos or 0 for entry in entries), default=0)
    shown = [node for node in nodes if node.depth][:MOST_LINES]
    left = len(nodes) - 1 - len(shown)
    return Table(
        title="Call by call",
        columns=("Step", "When", "Model", "Tier", "Why", "Check", "#Seconds", "#Input", "#Cached", "#Output", "#Cost",
                 "Cache", ""),
        rows=rows_of(_node(asked, node, began, max(ended - began, 1), dearest) for node in shown),
        note=f"{left:,} more lines: bursar run lists them all." if left > 0 else "",
    )  # fmt: skip


def _node(asked: Asked, node: callmap.Node, began: int, span: int, dearest: int) -> list[Cell]:
    depth = min(node.depth - 1, _DEEPEST)
    if isinstance(node.item, callmap.Head):
        told = node.item.counts
        href = asked.link("run", run=node.item.run_id, of=asked.query.get("of"))
        name = Cell(f"↳ {parts.plain(node.item.agent_id)}", href, depth=depth, look="nested")
        sums = [parts.tokens(told, n) for n in (told.input_tokens, told.cached_tokens, told.output_tokens)]
        return [name, *([Cell("")] * 6), *(Cell(text) for text in [*sums, parts.cost(told)]),
                Cell(""), Cell("in all", look="muted")]  # fmt: skip
    entry = node.item
    href = asked.link("call", request=entry.request_id)
    took = None if entry.duration_ms is None else entry.duration_ms
    start = FULL * (entry.started_at - began) / span
    width = max(FULL * (took or 0) * 1000 / span, _THINNEST)
    look = {"failed": "bad", "refused": "bad", "hit": "good", "expired": "soft", "abandoned": "soft"}
    segment = Segment(round(min(start, FULL - _THINNEST), 2), round(width, 2), look.get(entry.status, "s0"))
    share = f"{(entry.cost_nanos or 0) / dearest:.0%} of the dearest call" if dearest else ""
    return [
        Cell(parts.plain(entry.step), href, depth=depth),
        Cell("", bars=(segment,), look="wide", hint=f"+{(entry.started_at - began) / 1e6:.2f} s"),
        Cell(parts.plain(entry.model)),
        Cell(parts.plain(entry.tier) if entry.tier else ""),
        _why(entry),
        _CHECKED[entry.validated],
        Cell("" if took is None else f"{took / 1000:.2f}"),
        *(Cell(number(n)) for n in tokens_of(entry)),
        Cell(parts.dollars(entry.cost_nanos), href, hint=share),
        Cell("" if entry.cache in ("bypass", "miss") else entry.cache.replace("_", " "), look="muted"),
        Cell(
            ", ".join(
                filter(
                    None, ("" if entry.status in ("completed", "hit") else ending(entry), unusual(entry, checked=False))
                )
            ),
            look="bad" if entry.status in ("failed", "refused") else "muted",
        ),
    ]


_CHECKED = {True: Cell("passed", look="good"), False: Cell("rejected", look="bad"), None: Cell("")}


def _why(entry: Entry) -> Cell:
    """What was decided, or who chose the model where nothing was; all of it when pointed at."""
    full = "\n".join(f"{reason.topic.replace('_', ' ')}: {parts.plain(reason.full)}" for reason in why.reasons(entry))
    told = why.brief(entry)
    return Cell(parts.plain(told or entry.route_reason), look="muted wrap" if told else "muted", hint=full)


def number(count: int | None) -> str:
    """A count of tokens; unknown is not zero."""
    return "unknown" if count is None else f"{count:,}"


def tokens_of(entry: Entry) -> tuple[int | None, int | None, int | None]:
    """Input, cached and output tokens of a row; of no input nothing can have been cached."""
    return entry.input_tokens, entry.cached_tokens if entry.input_tokens else entry.input_tokens, entry.output_tokens


def ending(entry: Entry) -> str:
    """How an attempt ended."""
    return entry.status + (f" {entry.http_status}" if entry.http_status and entry.status == "failed" else "")


def unusual(entry: Entry, *, checked: bool = True) -> str:
    """What else is not as usual about an attempt; checked: that its answer was rejected too."""
    told = []
    if entry.attempt > 1:
        told.append(f"attempt {entry.attempt}")
    if entry.sdk_retry:
        told.append(f"the SDK's retry {entry.sdk_retry}")
    if entry.cost_status == "estimated":
        told.append("estimated")
    if entry.purpose != "call":
        told.append(entry.purpose)
    if checked and entry.validated is False:
        told.append("not valid")
    return ", ".join(told)
