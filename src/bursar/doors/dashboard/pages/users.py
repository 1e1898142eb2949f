"""Users: what each costs, who costs most, on which plan, and when."""

from bursar.doors.dashboard.asked import Asked
from bursar.doors.dashboard.pages import parts
from bursar.doors.dashboard.view import Part, Tile, View
from bursar.insights.report import share
from bursar.money import divide_half_even
from bursar.policy import Policy
from bursar.stores.base import Store


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """All users, or one (`user=`)."""
    del policy
    whole = parts.total(store, asked)
    empty = parts.nothing_yet(store, asked, whole)
    if empty is not None:
        return View(title="Users", parts=(empty,), fields=("user",))
    if "user" in asked.labels:
        return _one(store, asked, asked.labels["user"])
    lines = parts.spend(store, asked, "user")
    known = [line.counts for line in lines if line.key is not None]
    cost = sum(one.cost_nanos for one in known)
    unpriced = sum(one.unpriced for one in known)
    mean = parts.bound(divide_half_even(cost, len(known)) if known else None, unpriced)
    none = next((line.counts for line in lines if line.key is None), None)
    tiles = (
        Tile("Users", f"{len(known):,}", "named by their calls"),
        Tile("Cost per user", mean, "mean of those that are named"),
        Tile("Top ten", parts.percent(share(sum(one.cost_nanos for one in known[:10]), cost)), "of what users cost"),
        Tile("Without a user", "$0" if none is None else parts.cost(none), "calls that name none"),
    )
    plans = parts.spend(store, asked, "user_tier")
    named = any(line.key is not None for line in plans)
    note = _note(none is not None, not named)
    shown: list[Part] = [parts.lines_table(asked, "Top spenders", "user", lines, whole, note=note)]
    if named:
        shown.append(parts.lines_table(asked, "Plans", "user_tier", plans, whole))
    unit = _unit(asked)
    title = "Spend by model, hour by hour" if unit == "hour" else "Spend by model, day by day"
    shown.append(parts.over_time(store, asked, title, unit))
    return View(title="Users", tiles=tiles, fields=("user",), parts=tuple(shown))


def _note(nameless: bool, planless: bool) -> str:
    """How calls are to be told apart that are not."""
    user = "Say who a call is for by guard.run(user=...) or the header x-bursar-user-id." if nameless else ""
    plan = "Say on which plan he is by guard.run(user_tier=...) or the header x-bursar-user-tier." if planless else ""
    return " ".join(filter(None, (user, plan)))


def _unit(asked: Asked) -> str:
    """By hour as long as bars can be told apart: seven days."""
    return asked.unit() if asked.before() is None else "hour" if _length(asked) <= _WEEK_US else "day"


_WEEK_US = 7 * 86_400_000_000 + 900_000_000


def _length(asked: Asked) -> int:
    since, until = asked.filters.since, asked.filters.until
    return 0 if since is None else (asked.now if until is None else until) - since


def _one(store: Store, asked: Asked, user: str) -> View:
    counts = parts.total(store, asked, user=user)
    rows = asked.link("calls", user=user)
    tiles = (
        Tile("Spend", parts.cost(counts), "", rows),
        Tile("Calls", f"{counts.calls:,}", f"{counts.failed:,} failed, {counts.refused:,} refused", rows),
        parts.token_tile(counts, rows),
        Tile("Runs", "list", "newest first", asked.link("runs", user=user)),
    )  # fmt: skip
    within = {"user": user}
    return View(
        title=f"User {parts.plain(user)}", tiles=tiles, fields=("user",),
        parts=(
            parts.over_time(store, asked, "Spend of the user", _unit(asked), within=within),
            parts.lines_table(asked, "Agents", "agent", parts.spend(store, asked, "agent", **within), counts, within),
            parts.lines_table(asked, "Sessions", "session", parts.spend(store, asked, "session", **within), counts,
                              within),
        ),
    )  # fmt: skip
