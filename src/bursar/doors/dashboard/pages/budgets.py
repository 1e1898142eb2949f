"""Budgets: where every counter of the windows that are running stands: settled, held, left, when it resets, at this
pace when it ends; and who was charged to one of them."""

from collections.abc import Iterable
from datetime import UTC, datetime

from bursar.doors.cli.tables import when
from bursar.doors.dashboard.asked import Asked
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.pages.runs import Missing
from bursar.doors.dashboard.view import Cell, Segment, Steps, Table, Tile, View, rows_of, stacked
from bursar.insights import rows
from bursar.policy import Policy
from bursar.rules import grant
from bursar.stores.base import BudgetLine, Page, Store, Toucher
from bursar.types import Instant

NEAR = 0.8
"""From this share of its limit on a budget is shown on the overview."""
_LOOKED = 200
"""Counters that the overview looks at: those touched last."""
_EARLY = 0.02
"""Before this share of a window has passed its pace tells nothing."""
_COLUMNS = ("Budget", "Whose", "State", "Settled and held", "#Used", "#Limit", "#Settled", "#Held", "#Left",
            "Resets, UTC", "At this pace used up")  # fmt: skip


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """The list, those touched last first; `name=`: of one budget."""
    page = store.budgets(asked.tenant, asked.query.get("name"), parts.MOST, asked.query.get("cursor"))
    seen = {line.counter.claim.budget for line in page.items}
    whole = page.next_cursor is None and not {"cursor", "name"} & set(asked.query)
    untouched = [one.name for one in policy.budgets if whole and one.name not in seen]
    if not page.items and not untouched:
        return View(title="Budgets", parts=(_no_budget(),), timed=False)
    table = _table(asked, "Windows that are running, last touched first", page.items)
    more = None if page.next_cursor is None else ("Those touched before", asked.here(cursor=page.next_cursor))
    told = parts.notes(
        "Not charged to yet",
        *(f"{parts.plain(name)}: no call in a window that is running." for name in untouched),
    )
    return View(title="Budgets", parts=(_with(table, more), *told), timed=False, live=True)


def near(store: Store, asked: Asked) -> Table | None:
    """Budgets at NEAR of their limit or beyond, the fullest first; None: there are none."""
    page = store.budgets(asked.tenant, None, _LOOKED)
    full = [(used, line) for line in page.items if (used := _used(line)) is not None and used >= NEAR]
    if not full:
        return None
    full.sort(key=lambda pair: -pair[0])
    table = _table(asked, "Budgets near their limit", (line for _, line in full[:8]))
    note = f"Of the {_LOOKED} counters that were touched last." if page.next_cursor is not None else ""
    return _with(table, ("All budgets", asked.link("budgets")), note)


def _with(table: Table, more: tuple[str, str] | None, note: str = "") -> Table:
    return Table(title=table.title, columns=table.columns, rows=table.rows, more=more, note=note)


def _table(asked: Asked, title: str, lines: Iterable[BudgetLine]) -> Table:
    """A row for each side that is limited: a budget of dollars and tokens has two."""
    found = [_row(asked, line, side) for line in lines for side in ("usd", "tokens") if _limit(line, side) is not None]
    return Table(title=title, columns=_COLUMNS, rows=rows_of(found))


def _row(asked: Asked, line: BudgetLine, side: str) -> list[Cell]:
    claim, stands = line.counter.claim, line.counter.balance
    limit = _limit(line, side) or 0
    settled = stands.settled_nanos if side == "usd" else stands.settled_tokens
    held = stands.held_nanos if side == "usd" else stands.held_tokens
    href = asked.link("budget", name=claim.budget, scope=claim.scope, key=claim.key, of=claim.tenant,
                      window=claim.window)  # fmt: skip
    state = grant.state(line.counter)
    look = {"ok": "good", "wrap_up": "warn"}.get(state, "bad")
    used = (settled + held) / limit if limit else None
    whose = "everybody" if claim.scope == "global" else f"{claim.scope} {parts.plain(claim.key)}"
    return [
        Cell(parts.plain(claim.budget), asked.link("budgets", name=claim.budget)),
        Cell(whose, href, hint=whose, look="short"),
        Cell(state.replace("_", " "), look=look),
        Cell("", bars=_bars(settled, held, limit, look), look="wide"),
        Cell("unknown" if used is None else f"{used:.0%}", href),
        Cell(amount(limit, side) + (" tokens" if side == "tokens" else ""), href),
        *(Cell(amount(n, side), href) for n in (settled, held, limit - settled - held)),
        Cell("never" if line.counter.end is None else _minute(line.counter.end)),
        Cell(_pace(line, settled, limit, asked.now), look="muted"),
    ]


def _bars(settled: int, held: int, limit: int, look: str) -> tuple[Segment, ...]:
    return stacked((settled, look), (held, "soft"), whole=limit)


def _pace(line: BudgetLine, settled: int, limit: int, now: Instant) -> str:
    """When the limit is reached if the rest of the window spends as its beginning did."""
    start, end = line.counter.start, line.counter.end
    if end is None or not settled or not limit:
        return ""
    if settled >= limit:
        return "used up"
    if (now - start) / (end - start) < _EARLY:
        return "too early to say"
    at = start + (now - start) * limit // settled
    return _minute(at) if at < end else "not in this window"


def _minute(at: int) -> str:
    """29 Nov 00:00, UTC."""
    return f"{datetime.fromtimestamp(at // 1_000_000, UTC):%d %b %H:%M}".lstrip("0")


def amount(number: int, side: str) -> str:
    """Dollars, or a number of tokens."""
    if side == "tokens":
        return f"{number:,}"
    return f"-{parts.dollars(-number)}" if number < 0 else parts.dollars(number)


def _limit(line: BudgetLine, side: str) -> int | None:
    claim = line.counter.claim
    return claim.limit_nanos if side == "usd" else claim.limit_tokens


def _used(line: BudgetLine) -> float | None:
    told = rows.budget(line)["used"]
    return None if told is None else float(told)


def _no_budget() -> Steps:
    return Steps(
        "No budget has been charged to",
        (
            ("Give one to a run in your code:", 'guard.run(agent="researcher", budget=bursar.Budget(usd="0.50"))'),
            ("Or to every user, in bursar.toml:",
             '[[budgets]]\nname = "users, daily"\nscope = "user"\nwindow = "day"\nlimit_usd = 0.50'),
            ("See what limit the recorded runs suggest:", "bursar budgets suggest --agent researcher"),
        ),
    )  # fmt: skip


# --- one counter


def one(store: Store, policy: Policy, asked: Asked) -> View:
    """One counter and who was charged to it, read from its rows. Raises Missing."""
    del policy
    line = _find(store, asked)
    claim = line.counter.claim
    who = store.touchers(line, parts.MOST)
    whole = Tile("Charged", f"{line.rows:,} rows", f"last {when(line.touched_at)}")
    table = Table(
        title="Who was charged, dearest first",
        columns=("Agent", "Step", "User", "#Spend", "#Tokens", "#Rows"),
        rows=rows_of(_toucher(asked, found) for found in who),
        empty="No row is charged to it.",
        note="Read from the window's own rows: slow for a wide window of a large ledger.",
    )
    whose = "everybody" if claim.scope == "global" else f"{claim.scope} {parts.plain(claim.key)}"
    return View(
        title=f"Budget {parts.plain(claim.budget)}", lead=f"Of {whose}, a {claim.window} in {claim.zone}; when used up:"
        f" {claim.on_exhausted}.", tiles=(whole,), parts=(_table(asked, "Where it stands", [line]), table), timed=False,
    )  # fmt: skip


def _find(store: Store, asked: Asked) -> BudgetLine:
    query = asked.query
    wanted = tuple(query.get(name, "") for name in ("name", "scope", "key", "of", "window"))
    page: Page[BudgetLine] | None = None
    while page is None or page.next_cursor is not None:
        cursor = None if page is None else page.next_cursor
        page = store.budgets(asked.tenant, query.get("name"), 1000, cursor)
        for line in page.items:
            claim = line.counter.claim
            if (claim.budget, claim.scope, claim.key, claim.tenant, claim.window) == wanted:
                return line
    raise Missing(f"no counter of the budget {wanted[0]!r:.220} is running for {wanted[2]!r:.220}: see the list")


def _toucher(asked: Asked, found: Toucher) -> list[Cell]:
    labels = (("agent", found.agent_id), ("step", found.step), ("user", found.user_id))
    told = {name: key for name, key in labels if key is not None}
    rows_ = asked.link("calls", **told, since="all")
    return [
        *(parts.named(asked, name, key) for name, key in labels),
        Cell(parts.dollars(found.nanos), rows_),
        Cell(f"{found.tokens:,}", rows_),
        Cell(f"{found.rows:,}", rows_),
    ]
