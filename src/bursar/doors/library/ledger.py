"""The ledger's answers, for Python. Reads see all that this process has sent before; each blocks for as long as it takes.

Unknown is None. An unknown filter raises TypeError and names those there are.
"""

from datetime import UTC, datetime
from typing import Any

from bursar.stores.base import By, Filters, Line, Page, Run, Store
from bursar.types import Entry, Instant


class Ledger:
    """What `bursar runs` and `bursar run` ask, and every row behind it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def calls(self, *, limit: int = 100, cursor: str | None = None, **filters: Any) -> Page[Entry]:
        """Rows, newest first: one for each physical attempt.

        filters: run_id, session_id, user_id, agent_id, step, model, tier, provider, status, since, until (aware
        datetimes; since is inclusive, until exclusive).
        """
        return self._store.calls(_filters(filters), limit, cursor)

    def call(self, request_id: str) -> list[Entry]:
        """Every attempt of one request, in order."""
        return self._store.call(request_id)

    def runs(self, *, limit: int = 100, cursor: str | None = None, **filters: Any) -> Page[Run]:
        """Runs, newest first. filters: agent_id, user_id, session_id, since, until."""
        return self._store.runs(_filters(filters), limit, cursor)

    def run(self, run_id: str) -> list[Entry]:
        """The rows of a run and of all runs nested in it, in order of their start."""
        return self._store.run(run_id)

    def spend(self, by: By, *, since: datetime | None = None, until: datetime | None = None) -> list[Line]:
        """Sums by agent, step, user, session, model, tier, provider, api, tag:K, day, hour or total (days in UTC)."""
        return self._store.spend(by, _instant(since), _instant(until))


def _filters(said: dict[str, Any]) -> Filters:
    unknown = said.keys() - set(Filters.__struct_fields__)
    if unknown:
        raise TypeError(f"no such filter: {', '.join(sorted(unknown))}; there are {', '.join(Filters.__struct_fields__)}")
    return Filters(**{k: _instant(v) if isinstance(v, datetime) else v for k, v in said.items()})


def _instant(at: datetime | None) -> Instant | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone: give datetime(..., tzinfo=UTC)")
    return Instant(int((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000))
