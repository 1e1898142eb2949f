"""Where a value of the configuration came from: a line of the file, or a variable, for whoever has to mend it."""

from pathlib import Path
from typing import Any, NamedTuple

from bursar.config import lines
from bursar.config.faults import Fault


class Origin(NamedTuple):
    """A file with its text, and what the environment said over it."""

    place: Path
    source: str = ""
    environment: dict[str, Any] = {}

    def fault(self, path: lines.Path, message: str) -> Fault:
        """A fault of the value at a path: names of keys, and indices."""
        said: Any = self.environment
        names: list[str] = []
        for part in path:
            if isinstance(said, list):  # a list comes whole, as the JSON of one variable
                message = f"{_dotted(path)}: {message}"
                break
            if not (isinstance(said, dict) and part in said):
                return Fault(str(self.place), lines.line_of(self.source, path), _dotted(path), message)
            names.append(str(part))
            said = said[part]
        return Fault("environment", None, f"BURSAR_{'__'.join(names)}".upper(), message)


def _dotted(path: lines.Path) -> str:
    """ "budgets[1].limit_usd"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
