"""`bursar report --chart`: a picture that says what the table says, of any label, as SVG and as PNG."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.doors.cli import chart, main
from bursar.doors.cli.shared import Misuse
from bursar.insights import report as reports
from bursar.stores.base import Counters, Line
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Hold
from test_telemetry_logs import entry

SVG = "{http://www.w3.org/2000/svg}"
HOUR = 3_600_000_000
START = 1_795_737_600_000_000
"""2026-11-27T00:00Z."""


def drawn(by: str, *lines: Line) -> ET.Element:
    report = reports.build(MemoryStore(), by=by)
    return ET.fromstring(chart.draw(_with(report, lines)))


def _with(report: reports.Report, lines: tuple[Line, ...]) -> reports.Report:
    return msgspec.structs.replace(report, lines=lines)


def bars(picture: ET.Element) -> list[ET.Element]:
    return [rect for rect in picture.iter(f"{SVG}rect") if rect.get("class") == "bar"]


def texts(picture: ET.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def line(key: str | None, nanos: int, **more: int) -> Line:
    return Line(key, Counters(calls=1, attempts=1, cost_nanos=nanos, **more))


@given(
    st.lists(
        st.tuples(st.text(max_size=60) | st.none(), st.integers(0, 10**12)), max_size=40, unique_by=lambda told: told[0]
    )
)
def test_bars_are_as_long_as_their_amounts(found: list[tuple[str | None, int]]) -> None:
    """Any label, any number of them: well-formed, dearest first, no bar past its field, in proportion."""
    picture = drawn("agent", *(line(key, nanos) for key, nanos in found))
    widths = [float(bar.get("width", "0")) for bar in bars(picture)]
    assert len(widths) == min(len(found), 20)
    most = max((nanos for _, nanos in found), default=0)
    if len(found) <= 20 and most:
        assert widths == sorted(widths, reverse=True)
        for width, nanos in zip(widths, sorted((nanos for _, nanos in found), reverse=True), strict=True):
            assert width == pytest.approx(widths[0] * nanos / most, abs=0.11)
    field = next((float(r.get("width", "0")) for r in picture.iter(f"{SVG}rect") if r.get("class") == "track"), 0)
    assert all(width <= field for width in widths)


def test_what_is_not_known_is_not_zero() -> None:
    """A lower bound says so, an unknown sum is called unknown."""
    told = texts(drawn("model", line("a", 2 * 10**9, unpriced=1), line("b", 0, unpriced=1)))
    assert "≥ $2.0000" in told and "unknown" in told
    assert any(text.startswith("≥ $2.0000 in 2 calls") for text in told)


def test_many_labels_and_long_ones() -> None:
    """The rest is one bar, with its sum; a long label is shortened, and cannot be markup."""
    found = [line(f"agent-{at:03}", at) for at in range(1, 51)]
    told = texts(drawn("agent", *found, line("<script>" + "x" * 300, 10**9)))
    assert "32 others" in told and len([text for text in told if text.startswith("agent-")]) == 18
    (long,) = [text for text in told if text.startswith("<script>")]
    assert len(long) < 40 and long.endswith("…")


def test_days_without_calls_are_gaps() -> None:
    """Time is to scale: the column of the 9th stands as far from the 1st as eight days are."""
    told = drawn("day", line("2026-11-01", 10**9), line("2026-11-02", 5 * 10**8), line("2026-11-09", 10**9))
    first, second, ninth = (float(bar.get("x", "0")) for bar in bars(told))
    assert ninth - first == pytest.approx(8 * (second - first), abs=0.1)
    tall, half, _ = (float(bar.get("height", "0")) for bar in bars(told))
    assert half == pytest.approx(tall / 2, abs=0.1)
    assert [title.text for title in told.iter(f"{SVG}title")][1:] == [
        "1 Nov: $1.0000", "2 Nov: $0.5000", "9 Nov: $1.0000"
    ]  # fmt: skip
    with pytest.raises(Misuse, match="--by day"):
        drawn("hour", line("2026-01-01T00", 1), line("2026-11-01T00", 1))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three days of two agents, in a file."""
    store = SqliteStore(tmp_path / "bursar.db")
    for at in range(24):
        opened = entry(
            request_id=f"req_{at}", agent_id=("tutor", "researcher")[at % 2], started_at=START + at * 3 * HOUR
        )  # fmt: skip
        hold = store.reserve(opened).result()
        assert isinstance(hold, Hold)
        ended = {"status": "completed", "cost_status": "final", "input_tokens": 10, "output_tokens": 5}
        store.settle(hold, msgspec.structs.replace(opened, **ended, cost_nanos=(at % 5 + 1) * 10**7))
    store.close()
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("by", ["agent", "day", "hour"])
def test_the_command_draws(by: str, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the table, which is printed as ever; SVG needs nothing but Bursar."""
    with pytest.raises(SystemExit) as end:
        main(["report", "--by", by, "--chart", "spend.svg", "--csv"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"{by},")
    picture = ET.parse(ledger / "spend.svg").getroot()
    assert len(bars(picture)) == {"agent": 2, "day": 3, "hour": 24}[by]
    assert "http" not in (ledger / "spend.svg").read_text().replace("http://www.w3.org/2000/svg", "")


def test_png(ledger: Path) -> None:
    """Made of the same picture, at twice its size."""
    pytest.importorskip("vl_convert")
    with pytest.raises(SystemExit) as end:
        main(["report", "--chart", "spend.png", "--csv"])
    assert end.value.code == 0
    head = (ledger / "spend.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(head[16:20]) == 2 * 960


@pytest.mark.parametrize("name", ["spend.gif", "nowhere/spend.svg"])
def test_what_cannot_be_drawn_is_said(name: str, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", "--chart", name])
    assert end.value.code == 2 and f"--chart {name}" in capsys.readouterr().err
