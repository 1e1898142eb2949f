"""Draws what the demo reports: `python -m bursar.doors.demo.picture docs/demo.svg`.

The picture names no font or host outside itself. A place that cannot be written is an OSError.
"""

import io
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from bursar.doors import demo
from bursar.doors.demo import play, show

WIDTH = 96
"""Characters of a line: the report's widest table fits."""


def draw(path: Path, runs: int = demo.RUNS) -> None:
    """Plays the demo and writes its report, without the call maps, as an SVG."""
    from rich.console import Console

    out = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    with (
        tempfile.TemporaryDirectory(prefix="bursar-demo-") as folder,
        play.sandbox(runs) as server,
        demo.both(Path(folder), server, runs, _silent) as played,
    ):
        show.summary(*played, out)
        show.proof(*played, out)
    path.write_text(_alone(out.export_svg(title="bursar demo", unique_id="demo")) + "\n", encoding="utf-8")


def _silent(act: str, agents: Sequence[str], runs: int) -> AbstractContextManager[play.Heard]:
    return nullcontext(lambda agent, done: None)


def _alone(svg: str) -> str:
    """Rich's picture without what it loads from the web: any monospaced font does, for every text has its length."""
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
