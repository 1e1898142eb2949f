"""A run's call map: every attempt in order, each under the run that made it, nested runs where they began.

Pure. A run whose parents the ledger holds no rows of stands directly under the run that was asked for.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bursar.insights import rows, why
from bursar.stores.base import Counters, Run
from bursar.stores.counters import ZERO, Vector, vector
from bursar.stores.tally import add
from bursar.types import Entry


class Head(msgspec.Struct, frozen=True):
    """Where a run begins: what it and all that is nested in it add up to."""

    run_id: str
    agent_id: str | None
    counts: Counters


class Node(msgspec.Struct, frozen=True):
    """One line of the map: the head of a run, or an attempt that it made."""

    depth: int
    """0: the run that was asked for."""
    item: Head | Entry


def grow(run_id: str, entries: Sequence[Entry]) -> list[Node]:
    """The map of a run from its rows and those of its descendants, which are in order of their start."""
    own: defaultdict[str, list[Entry]] = defaultdict(list)
    parents: dict[str, str] = {}
    for entry in entries:
        name = entry.run_id or run_id
        own[name].append(entry)
        if entry.parent_run_id is not None:
            parents.setdefault(name, entry.parent_run_id)
    children: defaultdict[str, list[str]] = defaultdict(list)
    for name in own:
        if name != run_id:
            children[parents[name] if _leads(name, parents, run_id) else run_id].append(name)
    return list(_walk(run_id, own, children))


def _leads(name: str, parents: Mapping[str, str], root: str) -> bool:
    """True where the parents of a run lead to the root, each of them by rows of its own."""
    seen: set[str] = set()
    while name in parents and name not in seen:
        seen.add(name)
        name = parents[name]
    return name == root


def _walk(root: str, own: Mapping[str, list[Entry]], children: Mapping[str, list[str]]) -> Iterator[Node]:
    """Attempts and nested runs in order of their start, without recursion: runs may nest as deep as they like."""
    first, sums = _sums(root, own, children)
    stack: list[tuple[int, str | Entry]] = [(0, root)]
    while stack:
        depth, item = stack.pop()
        if isinstance(item, Entry):
            yield Node(depth, item)
            continue
        mine = own.get(item, [])
        agent = next((entry.agent_id for entry in mine if entry.agent_id is not None), None)
        yield Node(depth, Head(item, agent, Counters(*sums[item])))
        below: list[tuple[int, str | Entry]] = [(entry.started_at, entry) for entry in mine]
        below += [(first[child], child) for child in children.get(item, [])]
        below.sort(key=lambda placed: placed[0])
        stack += [(depth + 1, thing) for _, thing in reversed(below)]


def _sums(
    root: str, own: Mapping[str, list[Entry]], children: Mapping[str, list[str]]
) -> tuple[dict[str, int], dict[str, Vector]]:
    """Of every run with all that is nested in it: its first start, and its sums. Open rows count nowhere."""
    order = [root]
    for name in order:
        order += children.get(name, [])
    first: dict[str, int] = {}
    sums: dict[str, Vector] = {}
    for name in reversed(order):
        nested = children.get(name, [])
        starts = [entry.started_at for entry in own.get(name, [])] + [first[child] for child in nested]
        first[name] = min(starts, default=0)
        sums[name] = ZERO
        for numbers in [vector(e) for e in own.get(name, []) if e.status != "open"] + [sums[c] for c in nested]:
            sums[name] = add(sums[name], numbers)
    return first, sums


def as_json(run_id: str, total: Run | None, entries: Sequence[Entry]) -> dict[str, Any]:
    """{"run_id", "total", "calls": [a ledger row, its depth, its offset_ms from the first, and why it was made so]}, in
    order of start. why: {"cache", "budget", "route", "prompt_cache", "check"}, each a sentence."""
    depths = {
        (node.item.request_id, node.item.attempt): node.depth - 1
        for node in grow(run_id, entries)
        if isinstance(node.item, Entry)
    }
    return {
        "run_id": run_id,
        "total": None if total is None else rows.run(total),
        "calls": [
            {
                **rows.call(entry),
                "depth": depths[entry.request_id, entry.attempt],
                "offset_ms": (entry.started_at - entries[0].started_at) // 1000,
                "why": {reason.topic: reason.full for reason in why.reasons(entry)},
            }
            for entry in entries
        ],
    }
