"""The call map of `bursar run`: a line for each attempt, and under it what was decided and why.

Names come from anywhere, so what a terminal would obey is shown as a replacement character.
"""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bursar.doors.cli.tables import cost, dollars, fit, grid, plain, plural, tokens, tokens_told, when
from bursar.insights import why
from bursar.insights.callmap import Head, Node
from bursar.stores.base import Counters, Run
from bursar.types import Entry, Instant

_DEEPEST = 12
_TOPICS = {"prompt_cache": "prompt cache"}


def print_run(run_id: str, total: Run | None, nodes: Sequence[Node], out: Console, *, full: bool = False) -> None:
    """Every attempt in order, under the run that made it. full: each decision on a line of its own, with all that it
    went by."""
    entries = [node.item for node in nodes if isinstance(node.item, Entry)]
    whole = next(node.item.counts for node in nodes if isinstance(node.item, Head))
    began = min(entry.started_at for entry in entries)
    labels = (
        [("agent", total.agent_id), ("user", total.user_id), ("session", total.session_id)] if total is not None else []
    )
    told = "".join(f", {name} {plain(label)}" for name, label in labels if label is not None)
    out.print(Text(f"Run {plain(run_id)}{told}", "bold"))
    out.print(f"{when(began)}: {plural(len(entries), 'attempt')}, {tokens_told(whole)}, {cost(whole)}")
    table = grid("", "call", "model", "route", "seconds", "took", "input", "cached", "output", "cost", "", left=3)
    shown = [node for node in nodes if isinstance(node.item, Entry) or node.depth]
    for node in shown:
        indent = _indent(node)
        if isinstance(node.item, Entry):
            table.add_row(indent + plain(node.item.step), *_attempt(node.item, began))
        else:
            name = f"{indent}└ {plain(node.item.agent_id)} ({plain(node.item.run_id)})"
            sums = (*_own_cached(node.item.counts), cost(node.item.counts), "in all")
            table.add_row(name, "", "", "", "", *sums, style="dim")
    with out.capture() as caught:
        fit(out, table, "took", "route", "seconds")
    lines = caught.get().splitlines()
    head = len(lines) - len(shown)
    for line in lines[:head]:
        out.print(Text.from_ansi(line), no_wrap=True, crop=False)
    for node, line in zip(shown, lines[head:], strict=True):
        out.print(Text.from_ansi(line), no_wrap=True, crop=False)
        for told in _why(node, full):
            out.print(Padding(Text(told, "dim"), (0, 0, 0, len(_indent(node)) + 4), expand=False))


def _indent(node: Node) -> str:
    return "  " * min(node.depth - 1, _DEEPEST)


def _why(node: Node, full: bool) -> Iterator[str]:
    if not isinstance(node.item, Entry):
        return
    if full:
        for reason in why.reasons(node.item):
            yield f"{_TOPICS.get(reason.topic, reason.topic)}: {plain(reason.full)}"
    elif told := why.brief(node.item):
        yield f"why: {plain(told)}"


def _own_cached(counts: Counters) -> tuple[str, ...]:
    return tuple(tokens(counts, n) for n in (counts.input_tokens, counts.cached_tokens, counts.output_tokens))


def _attempt(entry: Entry, began: Instant) -> tuple[str, ...]:
    took = "" if entry.duration_ms is None else f"{entry.duration_ms / 1000:.2f}"
    return (
        plain(entry.model) + (f" ({plain(entry.tier)})" if entry.tier else ""),
        plain(entry.route_reason),
        f"+{(entry.started_at - began) / 1e6:.2f}",
        took,
        *(_count(n) for n in (entry.input_tokens, entry.cached_tokens, entry.output_tokens)),
        dollars(entry.cost_nanos),
        _remark(entry),
    )


def _remark(entry: Entry) -> str:
    """What is not as usual about an attempt."""
    told = []
    if entry.status != "completed":
        told.append(entry.status + (f" {entry.http_status}" if entry.http_status and entry.status == "failed" else ""))
    if entry.cache not in ("bypass", "miss", entry.status):
        told.append(entry.cache)
    if entry.attempt > 1:
        told.append(f"attempt {entry.attempt}")
    if entry.sdk_retry:
        told.append(f"retry {entry.sdk_retry} of the SDK")
    if entry.cost_status == "estimated":
        told.append("estimated")
    if entry.reasoning_tokens:
        told.append(f"{entry.reasoning_tokens:,} reasoning")
    return ", ".join(told)


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
