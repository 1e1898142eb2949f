"""Configurations for tests: written to a file, read back, and turned into a policy."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.config import ConfigError, Fault, load
from bursar.doors.open import make_policy
from bursar.policy import Policy


def faults(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[Fault]:
    """All that load() finds wrong with a file of this text."""
    path = tmp_path / "bursar.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return caught.value.faults


def outside(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[Fault]:
    """All that is wrong with what a sound file names outside itself."""
    path = tmp_path / "bursar.toml"
    path.write_text(text)
    settings = load(path, {})
    with pytest.raises(ConfigError) as caught:
        make_policy(settings, environ=environ or {})
    return caught.value.faults


def policy_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Policy:
    """What a file comes to."""
    path = tmp_path / "bursar.toml"
    path.write_text(text)
    return make_policy(load(path, environ or {}), environ=environ or {})


def toml(value: Any) -> str:
    """A value as TOML has it, tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(below)}" for key, below in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def tables(section: str, told: list[dict[str, Any]]) -> str:
    """An array of tables, key by key."""
    return "".join(
        f"[[{section}]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in one.items()) for one in told
    )


def as_json(value: Any) -> str:
    """The same for an environment variable; decimals stay what they are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {as_json(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_json, value)) + "]"
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value)


def shares(millionths: int) -> Decimal:
    """Millionths as people write them."""
    return Decimal(millionths).scaleb(-6)


def dollars(nanos: int) -> str:
    """Nano-dollars as people write them."""
    return f"{Decimal(nanos).scaleb(-9):f}"
