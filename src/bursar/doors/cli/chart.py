"""A report's table as a picture: bars by label, columns over time. SVG is drawn here; PNG is made of it by vl-convert.

Nothing is loaded from anywhere and no font is named but the reader's own. A sum with unknown parts is said to be a
lower bound, as everywhere. What cannot be drawn or written is a Misuse.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

import msgspec

from bursar.doors.cli.shared import Misuse
from bursar.doors.cli.tables import cost, percent, plain, when
from bursar.doors.dashboard.pages.parts import moment_name
from bursar.doors.dashboard.view import FULL, HEIGHT, Series, ceiling, columns
from bursar.insights.report import Report, share
from bursar.money import format_usd
from bursar.stores.base import Counters, Line

_WIDTH, _MARGIN, _TOP = 960, 32, 96
_ROW, _BAR = 30, 16
_LABELS, _AMOUNTS = 250, 170
_MOST = 20
"""Bars; the rest is one."""
_SLOTS = 800
"""Columns that can still be told apart."""
_FIELD = 260
"""Height of the field that columns stand in."""
_LETTER = 7.8
"""Width of a letter of a label, on average."""
_STYLE = """
text { font: 14px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1a211f;
  font-variant-numeric: tabular-nums }
.title { font-size: 20px; font-weight: 600 } .muted, .muted text { fill: #56615d; font-size: 13px }
.paper { fill: #ffffff } .bar { fill: #1f7a63 } .track { fill: #edf1ef } .grid { stroke: #e1e5e3; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6ecea } .muted, .muted text { fill: #a0ada8 } .paper { fill: #1a211e } .bar { fill: #43b396 }
  .track { fill: #232c29 } .grid { stroke: #2c3632 }
}
"""


def write(report: Report, path: Path) -> None:
    """Draw the report's table; the ending of the name says as what."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise Misuse(f"--chart {path}: expected a name that ends in .svg or .png")
    picture = draw(report)
    content = picture.encode("utf-8") if path.suffix.lower() == ".svg" else _png(picture)
    try:
        path.write_bytes(content)
    except OSError as fault:
        raise Misuse(f"--chart {path}: cannot be written ({fault.strerror})") from None


def draw(report: Report) -> str:
    """The picture, as SVG."""
    if report.by in ("day", "hour"):
        body, height = _over_time(report)
    else:
        body, height = _bars(report)
    of = f" of {plain(report.agent)}" if report.agent is not None else ""
    title = escape(f"Spend by {plain(report.by).removeprefix('tag:')}{of}")
    about = escape(_about(report))
    whole = _TOP + height + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{whole}" viewBox="0 0 {_WIDTH} {whole}" '
        f'role="img" aria-labelledby="title about">\n'
        f'<title id="title">{title}</title>\n<desc id="about">{about}</desc>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect class="paper" width="{_WIDTH}" height="{whole}"/>\n'
        f'<text class="title" x="{_MARGIN}" y="44">{title}</text>\n'
        f'<text class="muted" x="{_MARGIN}" y="68">{about}</text>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _about(report: Report) -> str:
    lines = _sum(report.lines)
    since = "from the beginning" if report.since is None else f"from {when(report.since)}"
    until = "until now" if report.until is None else f"until {when(report.until)}"
    return f"{cost(lines)} in {lines.calls:,} calls, {since} {until}"


def _sum(lines: Sequence[Line]) -> Counters:
    return Counters(*map(sum, zip(*(msgspec.structs.astuple(line.counts) for line in lines), strict=True)))


# --- by label


def _bars(report: Report) -> tuple[list[str], int]:
    lines = _first(report.lines)
    whole = sum(max(line.counts.cost_nanos, 0) for line in lines)
    most = max((line.counts.cost_nanos for line in lines), default=0)
    left, field = _MARGIN + _LABELS, _WIDTH - 2 * _MARGIN - _LABELS - _AMOUNTS
    body: list[str] = []
    for at, line in enumerate(lines):
        y, nanos = _TOP + at * _ROW, max(line.counts.cost_nanos, 0)
        middle = y + _BAR / 2 + 5
        width = round(field * nanos / most, 1) if most > 0 else 0
        part = percent(share(nanos, whole)) if nanos else ""
        body += [
            f'<text x="{left - 12}" y="{middle}" text-anchor="end">{_label(line.key)}</text>',
            f'<rect class="track" x="{left}" y="{y}" width="{field}" height="{_BAR}" rx="3"/>',
            f'<rect class="bar" x="{left}" y="{y}" width="{width}" height="{_BAR}" rx="3"/>',
            f'<text x="{_WIDTH - _MARGIN - 52}" y="{middle}" text-anchor="end">{escape(cost(line.counts))}</text>',
            f'<text class="muted" x="{_WIDTH - _MARGIN}" y="{middle}" text-anchor="end">{part}</text>',
        ]
    return body or [_nothing()], max(len(lines), 1) * _ROW


def _first(lines: Sequence[Line]) -> list[Line]:
    """The dearest, and all others as one."""
    found = sorted(lines, key=lambda line: (-line.counts.cost_nanos, line.key or ""))
    if len(found) <= _MOST:
        return found
    rest = found[_MOST - 1 :]
    return [*found[: _MOST - 1], Line(f"{len(rest):,} others", _sum(rest))]


def _label(key: str | None) -> str:
    text, most = plain(key), int((_LABELS - 12) / _LETTER)
    return escape(text if len(text) <= most else text[: most - 1] + "…")


# --- over time


def _over_time(report: Report) -> tuple[list[str], int]:
    known = {line.key: line.counts for line in report.lines if line.key is not None}
    slots = list(_slots(sorted(known), timedelta(days=1) if report.by == "day" else timedelta(hours=1)))
    if len(slots) > _SLOTS:
        raise Misuse(f"--chart: {len(slots):,} {report.by}s cannot be told apart: choose a later --since, or --by day")
    if not slots:
        return [_nothing()], _ROW
    amounts = tuple(known.get(slot, Counters()).cost_nanos for slot in slots)
    hints = [f"{moment_name(slot)}: {cost(known.get(slot, Counters()))}" for slot in slots]
    left, field = _MARGIN + 84, _WIDTH - 2 * _MARGIN - 84
    across, up = field / FULL, _FIELD / HEIGHT
    body = list(_grid(ceiling(max(*amounts, 0, 0)), left))
    for rect in columns([Series("spend", amounts)], [hints], slots):
        place = f'x="{left + rect.x * across:.2f}" y="{_TOP + rect.y * up:.2f}"'
        size = f'width="{rect.width * across:.2f}" height="{rect.height * up:.2f}"'
        body.append(f'<rect class="bar" {place} {size}><title>{escape(rect.hint)}</title></rect>')
    return [*body, *_ticks(slots, left, field)], _FIELD + 28


def _grid(top: int, left: float) -> Iterator[str]:
    for part in (0, 1, 2):
        y, nanos = _TOP + _FIELD * part / 2, top * (2 - part) // 2
        yield f'<line class="grid" x1="{left}" y1="{y}" x2="{_WIDTH - _MARGIN}" y2="{y}"/>'
        yield f'<text class="muted" x="{left - 10}" y="{y + 4}" text-anchor="end">${format_usd(nanos)}</text>'


def _ticks(slots: Sequence[str], left: float, field: float) -> Iterator[str]:
    pitch, wanted = field / len(slots), max(1, -(-len(slots) // 8))
    for at in range(0, len(slots), wanted):
        x = left + (at + 0.5) * pitch
        place = f'x="{x:.1f}" y="{_TOP + _FIELD + 22}" text-anchor="middle"'
        yield f'<text class="muted" {place}>{moment_name(slots[at])}</text>'


def _slots(keys: Sequence[str], step: timedelta) -> Iterator[str]:
    """Every day or hour from the first to the last: one without a call is a gap, not a neighbour."""
    if not keys:
        return
    at, end = datetime.fromisoformat(keys[0]), datetime.fromisoformat(keys[-1])
    if (end - at) / step > 10 * _SLOTS:
        raise Misuse("--chart: the period is too long to be drawn: choose a later --since")
    while at <= end:
        yield f"{at:%Y-%m-%d}" if step.days else f"{at:%Y-%m-%dT%H}"
        at += step


def _nothing() -> str:
    return f'<text class="muted" x="{_MARGIN}" y="{_TOP + 14}">No calls in this period.</text>'


# --- as PNG


def _png(picture: str) -> bytes:
    try:
        import vl_convert
    except ImportError:
        raise Misuse("--chart: PNG needs vl-convert: pip install 'bursar[export]', or give a name in .svg") from None
    made: bytes = vl_convert.svg_to_png(picture, scale=2)
    return made
