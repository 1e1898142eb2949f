"""bursar.toml and the environment over it -> Settings, or every fault at once, each where it stands."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from bursar.config import lines
from bursar.config.faults import ConfigError, Fault
from bursar.config.sections import Settings

_EACH = "*"
_LATER: dict[lines.Path, str] = {
    ("steps", _EACH, "tier"): "a step's tier is",
    ("steps", _EACH, "cascade"): "a step's cascade is",
    ("steps", _EACH, "validate"): "a step's validators are",
    ("alerts",): "alerts are",
    ("breakers",): "circuit breakers are",
    ("trials",): "trials are",
    ("store", "redis"): "a shared Redis is",
}
_DEFAULTS: dict[str, dict[str, str]] = {
    "openai": {"api": "openai", "base_url": "https://api.openai.com/v1", "api_key_env": "OPENAI_API_KEY"},
    "anthropic": {"api": "anthropic", "base_url": "https://api.anthropic.com", "api_key_env": "ANTHROPIC_API_KEY"},
    "gemini": {
        "api": "gemini", "base_url": "https://generativelanguage.googleapis.com", "api_key_env": "GEMINI_API_KEY",
        "catalog": "google",
    },
}  # fmt: skip
"""The providers that are there where none is configured or a tier names them, and what their sections may leave out."""


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check a configuration; without a path ./bursar.toml where there is one, else the defaults.

    Raises ConfigError with every fault: file, line, key, what was expected. A path that was named must exist.
    """
    named = path or (Path(environ["BURSAR_CONFIG"]) if environ.get("BURSAR_CONFIG") else None)
    place = named or Path("bursar.toml")
    source = _read(place) if named is not None or place.exists() else ""
    environment, faults = _environment(environ)
    data = _over(_parsed(place, source), environment)
    origin = _Origin(place, source, environment)
    for path_, what in _LATER.items():
        faults += [origin.fault(found, _untrue(what)) for found in _taken(data, path_)]
    faults += [*_unknown_candidates(origin, data), *_wrong_together(origin, data)]
    _complete(data)
    try:
        settings = Settings(**data)
    except ValidationError as wrong:
        faults += [_fault(origin, error) for error in wrong.errors()]
        raise ConfigError(_in_order(faults)) from None
    if faults:
        raise ConfigError(_in_order(faults))
    return settings


def schema() -> dict[str, Any]:
    """The JSON Schema of bursar.toml, for editors."""
    return Settings.model_json_schema()


class _Origin(NamedTuple):
    """Where a value came from, for whoever has to mend it."""

    place: Path
    source: str
    environment: dict[str, Any]

    def fault(self, path: lines.Path, message: str) -> Fault:
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


def _in_order(faults: list[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: fault.line or 0)


def _read(place: Path) -> str:
    try:
        return place.read_text("utf-8")
    except OSError as fault:
        raise ConfigError([Fault(str(place), None, "file", f"cannot be read: {fault.strerror}")]) from None
    except UnicodeDecodeError as fault:
        raise ConfigError([Fault(str(place), None, "file", f"is not UTF-8 at byte {fault.start}")]) from None


def _parsed(place: Path, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(source, parse_float=Decimal)
    except tomllib.TOMLDecodeError as fault:
        line = re.search(r"at line (\d+)", str(fault))
        raise ConfigError([Fault(str(place), int(line.group(1)) if line else None, "TOML", str(fault))]) from None


class _Environment(EnvSettingsSource):
    """The variables of a mapping in place of the process's own; numbers in JSON stay decimal."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name.lower(): value for name, value in environ.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environ

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return json.loads(value, parse_float=Decimal)


def _environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Fault]]:
    """What BURSAR_SECTION__KEY variables say. One that names no section is a fault: it was meant to do something."""
    faults = [
        Fault(
            "environment",
            None,
            name,
            f"names no section of the configuration: there are {', '.join(Settings.model_fields)}",
        )
        for name in environ
        if (match := re.match(r"BURSAR_([A-Z0-9_]+?)__", name, re.I)) and match[1].lower() not in Settings.model_fields
    ]
    try:
        return _Environment(environ)(), faults
    except SettingsError as fault:
        named = re.search(r'field "(\w+)"', str(fault))
        key = f"BURSAR_{named[1].upper()}" if named else "BURSAR_*"
        return {}, [*faults, Fault("environment", None, key, "is not JSON, as a whole section has to be")]


def _over(below: Any, above: Any) -> Any:
    """One tree laid over another."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{k: _over(below[k], v) if k in below else v for k, v in above.items()}}


def _taken(data: Any, path: lines.Path) -> Iterator[lines.Path]:
    """Take a key out wherever it is there; where it was. A star stands for each table of an array."""
    part, rest = path[0], path[1:]
    if part == _EACH:
        for at, item in enumerate(data if isinstance(data, list) else ()):
            yield from ((at, *found) for found in _taken(item, rest))
    elif isinstance(data, dict) and part in data:
        if rest:
            yield from ((part, *found) for found in _taken(data[part], rest))
        else:
            del data[part]
            yield (part,)


def _untrue(what: str) -> str:
    return f"{what} not enforced by this version of Bursar: remove it, or what it says would be untrue"


def _complete(data: dict[str, Any]) -> None:
    """The default providers: all where none is configured, else those that tiers name; known sections are filled up."""
    told = data.get("providers") or {}
    if not isinstance(told, dict):
        return
    tiers = data.get("tiers")
    listed = (
        [c for names in tiers.values() if isinstance(names, list) for c in names] if isinstance(tiers, dict) else []
    )
    wanted = {c.partition("/")[0] for c in listed if isinstance(c, str)} if told else set(_DEFAULTS)
    told = {name: _over(_DEFAULTS.get(name, {}), section) for name, section in told.items()}
    data["providers"] = told | {n: dict(_DEFAULTS[n]) for n in _DEFAULTS if n in wanted and n not in told}


def _unknown_candidates(origin: _Origin, data: dict[str, Any]) -> Iterator[Fault]:
    told, tiers = data.get("providers"), data.get("tiers")
    names = {*_DEFAULTS, *(told if isinstance(told, dict) else ())}
    for tier, candidates in tiers.items() if isinstance(tiers, dict) else ():
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, str) and "/" in candidate and candidate.partition("/")[0] not in names:
                yield origin.fault(
                    ("tiers", tier),
                    f"{candidate!r:.80} names no configured provider: expected one of {', '.join(sorted(names))}",
                )


def _wrong_together(origin: _Origin, data: dict[str, Any]) -> Iterator[Fault]:
    """What no budget has wrong for itself: a name that another one has, a way down where there are no tiers."""
    budgets = data.get("budgets")
    seen: dict[str, int] = {}
    for at, budget in enumerate(budgets if isinstance(budgets, list) else ()):
        told = budget if isinstance(budget, dict) else {}
        name = told.get("name")
        if isinstance(name, str) and seen.setdefault(name, at) != at:
            yield origin.fault(("budgets", at, "name"), f"another budget has this name (budgets[{seen[name]}])")
        if told.get("on_exhausted") == "downgrade" and not data.get("tiers"):
            yield origin.fault(
                ("budgets", at, "on_exhausted"), '"downgrade" goes down the tiers, and there are none: add [tiers]'
            )


def _fault(origin: _Origin, error: Any) -> Fault:
    path = tuple(part for part in error["loc"] if part != "[key]")
    message = str(error["msg"]).removeprefix("Value error, ")
    said = error["input"]
    if error["type"] == "extra_forbidden":
        message = f"is no key of Bursar's configuration{_near(path)}: see `bursar init` for all of them"
    elif error["type"] == "missing":
        message = "is required"
    elif "got " not in message and (
        not isinstance(said, str | dict | list | BaseModel) or error["type"] == "literal_error"
    ):
        # A string may be a secret in the wrong place: only words that were to be chosen from are shown.
        message = f"{message}, got {said if isinstance(said, Decimal) else repr(said)!s:.40}"
    return origin.fault(path, message)


def _near(path: lines.Path) -> str:
    """A key that may have been meant."""
    section: type[BaseModel] = Settings
    for part in path[:-1]:
        field = section.model_fields.get(str(part))
        section = (_section_in(field.annotation) if field else None) or section
    close = difflib.get_close_matches(str(path[-1]), section.model_fields, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, however many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
