"""The ledger's answers, for Python: the same rows, spelled the same way, as the command line and the admin API give.

Amounts are decimal strings in USD, times ISO 8601 UTC, unknown is None. Reads see all that this process has sent
before; each blocks for as long as it takes. An unknown filter raises TypeError and names those there are.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from bursar.doors.period import instant
from bursar.insights import report, rows
from bursar.policy import StepRule
from bursar.stores.base import Filters, Page, Store
from bursar.stores.semantic import Pool
from bursar.types import Instant

Row: TypeAlias = dict[str, Any]
When: TypeAlias = str | datetime | None
"""A point in time: an aware datetime, or text such as "7d", "12h" or "2026-11-24T08:00" (UTC without a zone)."""


class Ledger:
    """What `bursar runs`, `bursar run` and `bursar report` ask, and every row behind it."""

    def __init__(
        self,
        store: Store,
        tiers: Sequence[str] = (),
        steps: Sequence[StepRule] = (),
        pools: Callable[[], Sequence[Pool]] = tuple,
    ) -> None:
        """pools: what the semantic cache has learned by now."""
        self._store, self._tiers, self._steps, self._pools = store, tiers, steps, pools

    def calls(self, *, limit: int = 100, cursor: str | None = None, **filters: Any) -> Page[Row]:
        """Rows, newest first: one for each physical attempt.

        filters: run_id, session_id, user_id, agent_id, step, model, tier, provider, status, cache, tenant; since
        (inclusive) and until (exclusive).
        """
        found = self._store.calls(_filters(filters), limit, cursor)
        return Page(tuple(map(rows.call, found.items)), found.next_cursor)

    def call(self, request_id: str) -> list[Row]:
        """Every attempt of one request, in order."""
        return [rows.call(entry) for entry in self._store.call(request_id)]

    def runs(self, *, limit: int = 100, cursor: str | None = None, **filters: Any) -> Page[Row]:
        """Runs, newest first. filters: agent_id, user_id, session_id, tenant, since, until."""
        found = self._store.runs(_filters(filters), limit, cursor)
        return Page(tuple(map(rows.run, found.items)), found.next_cursor)

    def run(self, run_id: str) -> list[Row]:
        """The rows of a run and of all runs nested in it, in order of their start."""
        return [rows.call(entry) for entry in self._store.run(run_id)]

    def spend(self, by: str = "step", *, since: When = None, until: When = None, zone: str = "UTC") -> list[Row]:
        """Sums by a label (see `bursar report --by`), by tag:K, total, or day and hour of a zone."""
        found = self._store.spend(by, _instant(since), _instant(until), Filters(), zone)
        return [rows.line(by, line) for line in found]

    def report(
        self, by: str = "agent", *, since: When = None, until: When = None, agent: str | None = None, zone: str = "UTC"
    ) -> Row:
        """The four metrics, a table and remarks, as `bursar report --json` prints them."""
        start, end = _instant(since), _instant(until)
        found = report.build(
            self._store, by=by, since=start, until=end, agent=agent, zone=zone, tiers=self._tiers, steps=self._steps,
            pools=self._pools(),
        )  # fmt: skip
        return report.as_json(found)


def _filters(said: dict[str, Any]) -> Filters:
    unknown = said.keys() - set(Filters.__struct_fields__)
    if unknown:
        known = ", ".join(Filters.__struct_fields__)
        raise TypeError(f"no such filter: {', '.join(sorted(unknown))}; there are {known}")
    times: dict[str, Any] = {key: _instant(said[key]) for key in ("since", "until") if key in said}
    return Filters(**{**said, **times})


def _instant(at: When) -> Instant | None:
    if isinstance(at, str):
        return instant(at, datetime.now(UTC))
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone: give datetime(..., tzinfo=UTC)")
    return Instant(int(at.timestamp() * 1_000_000))
