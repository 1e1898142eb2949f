"""Draws what the demo reports: `python -m bursar.doors.demo.picture docs/demo.svg`.

The picture names no font or host outside itself. A place that cannot be written is an OSError.
"""

import io
import re
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from bursar.doors.demo import RUNS, play, show
from bursar.stores.sqlite import SqliteStore

WIDTH = 96
"""Characters of a line: the report's widest table fits."""


def draw(path: Path, runs: int = RUNS) -> None:
    """Plays the demo and writes its report, without the call map, as an SVG."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    out = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    with (
        tempfile.TemporaryDirectory(prefix="bursar-demo-") as folder,
        play.sandbox(runs) as server,
        closing(SqliteStore(Path(folder, "bursar.db"))) as store,
    ):
        played = play.play(store, server, runs, lambda agent, done: None)
        show.summary(played, store, out)
    show.proof(played, out)
    # Rich's picture loads a font from the web; any monospaced font does, for every text has its length.
    own = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    own = own.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    path.write_text(out.export_svg(title="bursar demo", code_format=own, unique_id="demo") + "\n", encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
