"""Runs and the trees that they grow in, kept to the nano-dollar as rows settle. Pure: a shelf lends the runs.

A run belongs to the root that its parents lead to. A parent may be heard of before it makes a call of its own, and a
root may turn out to have a parent later: then its whole tree moves. A circle of parents is refused: the first word
stands.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

import msgspec

from bursar.stores.counters import DAYS, bucket, cost_bin
from bursar.types import Entry, Instant

RunKey: TypeAlias = tuple[str, str]
"""tenant, run_id"""

Bin: TypeAlias = tuple[int, int, str, str, int]
"""The histogram's place of a root run: grain, bucket_start of its first call, tenant, agent, bin of its cost."""

Weight: TypeAlias = tuple[int, int, int]
"""What stands there: runs, their nano-dollars, how many of them hold a row of unknown cost."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run's own totals, and for a root those of its whole tree. Open rows count nowhere but in `open`."""

    tenant: str
    run_id: str
    parent_run_id: str | None = None
    root_run_id: str
    agent_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    user_tier: str | None = None
    first_at: Instant
    last_at: Instant
    calls: int = 0
    rows: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanos: int = 0
    unpriced: int = 0
    tree_rows: int = 0
    tree_cost_nanos: int = 0
    tree_unpriced: int = 0
    final_request: str | None = None
    """The request that has had, or is having, the run's one answer out of the finish reserve."""
    open: int = 0
    """Rows under way; counted when asked."""

    @property
    def is_root(self) -> bool:
        return self.run_id == self.root_run_id


class Shelf(Protocol):
    """Where the runs stand between two transactions."""

    def get(self, key: RunKey) -> Run | None: ...
    def tree(self, root: RunKey) -> Iterable[Run]: ...


def places(run: Run | None) -> list[tuple[Bin, Weight]]:
    """Where a run stands in the histogram, once a grain; nowhere if it is no root, or nothing has settled yet."""
    if run is None or not run.is_root or not run.tree_rows:
        return []
    start, at = bucket(run.first_at), (run.tenant, run.agent_id or "", cost_bin(run.tree_cost_nanos))
    weight = (1, run.tree_cost_nanos, int(run.tree_unpriced > 0))
    return [((grain, start - start % grain, *at), weight) for grain in DAYS]


class Forest:
    """The runs as one transaction sees and changes them."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._before: dict[RunKey, Run | None] = {}
        self.changed: dict[RunKey, Run] = {}

    def _get(self, key: RunKey) -> Run | None:
        return self.changed.get(key) or self._was(key)

    def _was(self, key: RunKey) -> Run | None:
        """The run as the transaction found it; asked of the shelf once."""
        if key not in self._before:
            self._before[key] = self._shelf.get(key)
        return self._before[key]

    def _put(self, run: Run) -> Run:
        self.changed[run.tenant, run.run_id] = run
        return run

    def enrol(self, entry: Entry) -> Run | None:
        """The run of a row, made known with all that the row says of it; None where the row names none."""
        if entry.run_id is None:
            return None
        key = (entry.tenant, entry.run_id)
        run = self._get(key)
        if run is None:
            run = self._put(self._sown(entry, entry.run_id))
        elif (
            (run.agent_id is None and entry.agent_id is not None)
            or (run.session_id is None and entry.session_id is not None)
            or (run.user_id is None and entry.user_id is not None)
            or entry.started_at < run.first_at
        ):
            run = self._put(self._labelled(run, entry))
        if run.parent_run_id is None and entry.parent_run_id and entry.parent_run_id != entry.run_id:
            run = self._graft(run, entry)
        return run

    def add(self, entry: Entry, sign: int = 1) -> None:
        """Book a closed row on its run and that run's root; sign -1 takes it back."""
        run = self.enrol(entry)
        if run is None:
            return
        cost, unknown = sign * (entry.cost_nanos or 0), sign * int(entry.cost_nanos is None)
        ended = Instant(entry.started_at + 1000 * (entry.duration_ms or 0))
        own = int(run.run_id == run.root_run_id)
        self._put(
            msgspec.structs.replace(
                run,
                last_at=max(run.last_at, ended),
                calls=run.calls + sign * int(entry.attempt == 1 and entry.purpose == "call"),
                rows=run.rows + sign,
                input_tokens=run.input_tokens + sign * (entry.input_tokens or 0),
                output_tokens=run.output_tokens + sign * (entry.output_tokens or 0),
                cost_nanos=run.cost_nanos + cost,
                unpriced=run.unpriced + unknown,
                tree_rows=run.tree_rows + own * sign,
                tree_cost_nanos=run.tree_cost_nanos + own * cost,
                tree_unpriced=run.tree_unpriced + own * unknown,
            )
        )
        if not own:
            self._grow(self._root(run), sign, cost, unknown)

    def line(self, tenant: str, run_id: str) -> Iterator[str]:
        """A run and all above it, each once."""
        seen: set[str] = set()
        at: str | None = run_id
        while at is not None and at not in seen:
            seen.add(at)
            yield at
            run = self._get((tenant, at))
            at = None if run is None else run.parent_run_id

    def final_open(self, entry: Entry) -> bool:
        """The run of a row has not had its final answer, or this very request is having it."""
        if entry.run_id is None:
            return False
        run = self._get((entry.tenant, entry.run_id))
        return run is None or run.final_request in (None, entry.request_id)

    def take_final(self, entry: Entry) -> None:
        """This request is the run's final answer from now on."""
        self._finalise(entry, entry.request_id)

    def free_final(self, entry: Entry) -> None:
        """An attempt that failed and cost nothing was no answer."""
        if entry.status == "failed" and entry.cost_nanos == 0 and entry.run_id is not None:
            run = self._get((entry.tenant, entry.run_id))
            if run is not None and run.final_request == entry.request_id:
                self._finalise(entry, None)

    def _finalise(self, entry: Entry, request_id: str | None) -> None:
        run = self.enrol(entry)
        if run is not None:
            self._put(msgspec.structs.replace(run, final_request=request_id))

    def moves(self) -> dict[Bin, Weight]:
        """What the histogram gains and loses by all the changes."""
        sums: dict[Bin, Weight] = {}
        for key, run in self.changed.items():
            before, after = places(self._was(key)), places(run)
            if before == after:
                continue
            for sign, standings in ((-1, before), (1, after)):
                for at, (runs, cost, unpriced) in standings:
                    had = sums.get(at, (0, 0, 0))
                    sums[at] = (had[0] + sign * runs, had[1] + sign * cost, had[2] + sign * unpriced)
        return {at: weight for at, weight in sums.items() if any(weight)}

    def _root(self, run: Run) -> Run:
        root = run if run.is_root else self._get((run.tenant, run.root_run_id))
        if root is None:
            raise LookupError(f"run {run.run_id!r} names a root {run.root_run_id!r} that is not there: run verify")
        return root

    def _grow(self, root: Run, rows: int, cost: int, unpriced: int) -> None:
        self._put(
            msgspec.structs.replace(
                root,
                tree_rows=root.tree_rows + rows,
                tree_cost_nanos=root.tree_cost_nanos + cost,
                tree_unpriced=root.tree_unpriced + unpriced,
            )
        )

    def _sown(self, entry: Entry, run_id: str) -> Run:
        at = entry.started_at
        return Run(
            tenant=entry.tenant, run_id=run_id, root_run_id=run_id, agent_id=entry.agent_id,
            session_id=entry.session_id, user_id=entry.user_id, user_tier=entry.user_tier, first_at=at, last_at=at,
        )  # fmt: skip

    def _labelled(self, run: Run, entry: Entry) -> Run:
        return msgspec.structs.replace(
            run,
            agent_id=run.agent_id if run.agent_id is not None else entry.agent_id,
            session_id=run.session_id if run.session_id is not None else entry.session_id,
            user_id=run.user_id if run.user_id is not None else entry.user_id,
            user_tier=run.user_tier if run.user_tier is not None else entry.user_tier,
            first_at=min(run.first_at, entry.started_at),
        )

    def _graft(self, run: Run, entry: Entry) -> Run:
        """A root that turns out to have a parent: it and all that grew on it move to the parent's root."""
        parent_id = entry.parent_run_id or ""
        parent = self._get((entry.tenant, parent_id)) or self._put(
            Run(tenant=entry.tenant, run_id=parent_id, root_run_id=parent_id, session_id=entry.session_id,
                user_id=entry.user_id, user_tier=entry.user_tier, first_at=entry.started_at, last_at=entry.started_at)
        )  # fmt: skip
        root = self._root(parent)
        if root.run_id == run.run_id:
            return run
        for member in self._tree((run.tenant, run.run_id)):
            self._put(msgspec.structs.replace(member, root_run_id=root.run_id))
        self._grow(root, run.tree_rows, run.tree_cost_nanos, run.tree_unpriced)
        return self._put(
            msgspec.structs.replace(
                run, parent_run_id=parent_id, root_run_id=root.run_id, tree_rows=0, tree_cost_nanos=0, tree_unpriced=0
            )
        )

    def _tree(self, root: RunKey) -> list[Run]:
        """The members of a tree as of now, its root left out."""
        members = {(run.tenant, run.run_id): run for run in self._shelf.tree(root)}
        members.update(self.changed)
        return [
            run for run in members.values()
            if run.tenant == root[0] and run.root_run_id == root[1] and run.run_id != root[1]
        ]  # fmt: skip
