"""`bursar demo`, as a command."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bursar.config import load
from bursar.doors import demo as demonstration
from bursar.doors.cli.shared import Json


def demo(
    *,
    runs: Annotated[int, Parameter(help="Runs of each of the three agents.")] = demonstration.RUNS,
    serve: Annotated[bool, Parameter(help="Leave gateway and dashboard open on the result.")] = False,
    as_json: Json = False,
    config: Annotated[
        Path | None, Parameter(name="--config", help="Taken as everywhere; the demo has its own.")
    ] = None,
) -> int:
    """Three agents on the simulated provider, through the real pipeline: what they cost, before and after."""
    if config is not None:
        load(config)
    return demonstration.main(runs, as_json, serve)
