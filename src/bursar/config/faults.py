"""What is wrong with a configuration: each fault with its place, all of them in one exception."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One thing wrong with the configuration. line is None for the environment."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{place}: {self.key}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `faults` has all of them."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults
