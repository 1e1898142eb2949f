"""What several pages show: amounts in words, tables of sums by a label, spend over time. Rollups answer all of it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import msgspec

from bursar.doors.cli.tables import cost, dollars, percent, plain, tokens, when
from bursar.doors.dashboard.asked import LABELS, Asked, Slot
from bursar.doors.dashboard.view import (
    Cell,
    Chart,
    Notes,
    Series,
    Steps,
    Table,
    Tile,
    bar,
    ceiling,
    columns,
    rows_of,
)
from bursar.insights.report import share
from bursar.money import format_usd
from bursar.stores.base import Counters, Filters, Line, Page, Store
from bursar.types import Instant

MOST = 50
"""Lines of a table."""
SERIES = 5
"""Models that have a colour of their own; the rest are one."""
_PAGES = {"agent": "agents", "step": "agents", "user": "users", "model": "models", "session": "runs"}
"""The page that tells more about one key of a label."""
_HEADS = {"user_tier": "Plan"}

T = TypeVar("T")

__all__ = ["cost", "dollars", "percent", "plain", "tokens"]


def bound(nanos: int | None, unpriced: int) -> str:
    """Dollars; a lower bound where some rows have no known cost; unknown where nothing is known."""
    return "unknown" if nanos is None else cost(Counters(cost_nanos=nanos, unpriced=unpriced))


def named(asked: Asked, by: str, key: str | None) -> Cell:
    """A label, and the page about it. One that callers did not give cannot be filtered by."""
    if key is None or by not in LABELS:
        return Cell(plain(key), look="muted" if key is None else "")
    return Cell(plain(key), asked.link(_PAGES.get(by, "calls"), **{by: key}))


def behind(asked: Asked, **labels: str | None) -> str | None:
    """The rows behind a number; None where a label is absent, or is one that no filter can ask for."""
    known = None not in labels.values() and labels.keys() <= LABELS.keys()
    return asked.link("calls", **labels) if known else None


def spend(store: Store, asked: Asked, by: str, **labels: str) -> list[Line]:
    """Sums by one label within another, as the page was asked."""
    filters = msgspec.structs.replace(
        Filters(tenant=asked.tenant), **{LABELS[name]: key for name, key in labels.items()}
    )
    return store.spend(by, asked.filters.since, asked.filters.until, filters, asked.zone)


def total(store: Store, asked: Asked, **labels: str) -> Counters:
    """The sum of the period."""
    return next((line.counts for line in spend(store, asked, "total", **labels)), Counters())


def lines_table(
    asked: Asked, title: str, by: str, lines: Sequence[Line], whole: Counters, within: dict[str, str] | None = None,
    note: str = "", empty: str = "Nothing in this period.",
) -> Table:  # fmt: skip
    """Sums by a label: calls, tokens, cache, dollars and their share of the whole. within: the label it is within."""
    unknown = any(line.counts.unpriced for line in lines)
    head = (_HEADS.get(by, by.capitalize()), "#Share of spend", "#Spend", "#Calls", "#Hits", "#Input", "#Cached",
            "#Output", "#Failed")  # fmt: skip
    rest = len(lines) - MOST
    told = f"and {rest:,} more: the command bursar report --by {by} lists them all." if rest > 0 else ""
    return Table(
        title=title,
        columns=(*head, "#Unpriced") if unknown else head,
        rows=rows_of(_line(asked, by, line, whole, within or {}, unknown) for line in lines[:MOST]),
        note=" ".join(filter(None, (note, told))),
        empty=empty,
    )


def _line(asked: Asked, by: str, line: Line, whole: Counters, within: dict[str, str], unknown: bool) -> list[Cell]:
    told, labels = line.counts, {**within, by: line.key}
    rows, failed = behind(asked, **labels), behind(asked, **labels, status="failed")
    hits = behind(asked, **labels, status="hit")
    part = share(told.cost_nanos, whole.cost_nanos)
    cells = [
        named(asked, by, line.key),
        Cell(percent(part), rows, bar(told.cost_nanos, whole.cost_nanos)),
        Cell(cost(told), rows),
        Cell(f"{told.calls:,}", rows),
        Cell(f"{told.hits:,}", hits if told.hits else None),
        Cell(tokens(told, told.input_tokens), rows),
        Cell(percent(share(told.cached_tokens, told.input_tokens)) if told.input_tokens else "", rows),
        Cell(tokens(told, told.output_tokens), rows),
        Cell(f"{told.failed:,}", failed if told.failed else None, look="bad" if told.failed else "muted"),
    ]
    return [*cells, Cell(f"{told.unpriced:,}", rows, look="bad")] if unknown else cells


# --- over time


def over_time(
    store: Store, asked: Asked, title: str, unit: str | None = None, models: Sequence[Line] | None = None,
    within: Mapping[str, str] | None = None,
) -> Chart:  # fmt: skip
    """Spend by day or hour; by model unless a label is given: no rollup knows models in time within one.

    models: the period's sums by model, where they are known already. within: the label. Asked column by column: a day
    of any time zone is a few coarse sums, all models at once.
    """
    labels, unit = dict(within or {}), unit or asked.unit()
    slots = asked.slots(unit, _began(store, asked, labels))
    told = [_of_slot(store, asked, slot, labels) for slot in slots]
    if asked.filters.since is None:
        idle = next((at for at, lines in enumerate(told) if lines), len(told))
        slots, told = slots[idle:], told[idle:]
    sums = [_added(lines) for lines in told]
    found = [] if labels else spend(store, asked, "model") if models is None else models
    keys = [line.key for line in found if line.key is not None and line.counts.cost_nanos > 0][:SERIES]
    by_model = [{line.key: line.counts.cost_nanos for line in lines} for lines in told]
    series = [
        Series(plain(key), tuple(costs.get(key, 0) for costs in by_model), asked.link("models", model=key))
        for key in keys
    ]
    amounts = [one.cost_nanos for one in sums]
    if len(found) == len(keys) == 1 or not keys:
        series = [Series(series[0].name if keys else "spend", tuple(amounts))]
    else:
        rest = [whole - sum(parts) for whole, *parts in zip(amounts, *(one.amounts for one in series), strict=True)]
        series += [Series("other models", tuple(rest))] if any(rest) else []
    return _chart(asked, title, unit, slots, series, sums, labels)


def _began(store: Store, asked: Asked, labels: Mapping[str, str]) -> str | None:
    """A day before which there is nothing, where the period has no beginning: days of UTC are sums that are kept, and
    no zone's are more than a day earlier."""
    if asked.filters.since is not None:
        return None
    lines = spend(store, msgspec.structs.replace(asked, zone="UTC"), "day", **labels)
    return (date.fromisoformat(lines[0].key or "") - timedelta(days=1)).isoformat() if lines else None


def _of_slot(store: Store, asked: Asked, slot: Slot, labels: Mapping[str, str]) -> list[Line]:
    within = msgspec.structs.replace(asked.filters, since=slot.since, until=slot.until)
    return spend(store, msgspec.structs.replace(asked, filters=within), "total" if labels else "model", **labels)


def _added(lines: Sequence[Line]) -> Counters:
    vectors = [msgspec.structs.astuple(line.counts) for line in lines]
    return Counters(*map(sum, zip(*vectors, strict=True))) if vectors else Counters()


def _chart(
    asked: Asked, title: str, unit: str, slots: Sequence[Slot], series: Sequence[Series],
    sums: Sequence[Counters], labels: dict[str, str],
) -> Chart:  # fmt: skip
    top = ceiling(max((sum(max(one.amounts[at], 0) for one in series) for at in range(len(slots))), default=0))
    hrefs = [asked.link("calls", **labels, since=stamp(slot.since), until=stamp(slot.until)) for slot in slots]
    names = [moment_name(slot.key) for slot in slots]
    hints = [[f"{name}: {dollars(n)} {one.name}" for name, n in zip(names, one.amounts, strict=True)] for one in series]
    told = zip(names, sums, hrefs, strict=True)
    return Chart(
        title=title,
        rects=columns(series, hints, hrefs),
        marks=(f"${format_usd(top)}", f"${format_usd(top // 2)}", "$0"),
        ticks=tuple(names[at] for at in sorted({0, len(names) // 2, len(names) - 1})) if names else (),
        legend=tuple(series) if len(series) > 1 else (),
        table=Table(
            title=f"{title}, as a table",
            columns=(unit.capitalize(), "#Spend", "#Calls", "#Hits"),
            rows=rows_of(
                (Cell(name), Cell(cost(one), href), Cell(f"{one.calls:,}", href), Cell(f"{one.hits:,}", href))
                for name, one, href in reversed(list(told))
                if one != Counters()
            ),
        ),
        note=f"By {unit}, {asked.zone}.",
    )


def stamp(at: int) -> str:
    """An instant as the URL says it, in whole minutes: 2026-11-24T18:00Z."""
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%Y-%m-%dT%H:%MZ}"


def moment_name(key: str) -> str:
    """2026-11-24 -> 24 Nov; 2026-11-24T15 -> 24 Nov 15:00."""
    at = datetime.fromisoformat(key)
    return f"{at.day} {at:%b}" + (f" {at:%H}:00" if "T" in key else "")


def minute(at: Instant) -> str:
    """2026-11-24 18:00, UTC."""
    return when(at)[:16]


# --- lists whose last comes first


def newest(
    asked: Asked, name: str, ask: Callable[[str | None], Page[T]], at: Callable[[T], int]
) -> tuple[tuple[T, ...], tuple[str, str] | None]:
    """What the period holds of a list, a page of it, and the link to the older ones.

    name: the query parameter that has the list's cursor. What is older than the period ends it.
    """
    since, until, cursor = asked.filters.since or 0, asked.filters.until, asked.query.get(name)
    while True:
        page = ask(cursor)
        kept = tuple(one for one in page.items if since <= at(one) and (until is None or at(one) < until))
        cursor = page.next_cursor
        if page.items and at(page.items[-1]) < since:
            cursor = None
        if kept or cursor is None:
            return kept, None if cursor is None else ("Older ones", asked.here(**{name: cursor}))


# --- remarks and empty states


def token_tile(counts: Counters, rows: str | None = None) -> Tile:
    """Tokens in and out."""
    out = tokens(counts, counts.output_tokens)
    return Tile("Input tokens", tokens(counts, counts.input_tokens), f"{out} out", rows)


def trouble(counts: Counters) -> Tile:
    """How much of the sums is not known."""
    parts = [(counts.unpriced, "without a price"), (counts.estimated, "estimated"), (counts.unknown_usage, "no tokens")]
    told = ", ".join(f"{number:,} {what}" for number, what in parts if number)
    rows = counts.unpriced + counts.estimated + counts.unknown_usage
    return Tile(
        "Unknowns",
        f"{counts.unpriced:,}",
        told or ("every row has its price" if counts != Counters() else ""),
        look="bad" if rows else "",
    )


def notes(title: str, *lines: str) -> tuple[Notes, ...]:
    """Sentences, where there are any."""
    said = tuple(line for line in lines if line)
    return (Notes(title, said),) if said else ()


def nothing_yet(store: Store, asked: Asked, known: Counters | None = None) -> Steps | None:
    """What to do next where no call is booked: ever, or in this period. None: there are some.

    known: the period's sum, where it is known already.
    """
    if (total(store, asked) if known is None else known) != Counters():
        return None
    if store.calls(Filters(tenant=asked.tenant), 1).items:
        return Steps("No calls in this period", (("Choose a longer period above, or see the latest calls:", ""),))
    return Steps(
        "No call has been booked yet",
        (
            ("In your code, wrap the client that you have:", "client = bursar.open().wrap(OpenAI())"),
            ("Without touching code, send your agents through the gateway:", 'base_url = "http://127.0.0.1:4600/v1"'),
            ("Say whose calls they are, so that these pages can tell them apart:",
             'with guard.run(agent="researcher", user="u42"): ...'),
            ("Or look around first, on a simulated provider:", "bursar demo --serve"),
        ),
    )  # fmt: skip
