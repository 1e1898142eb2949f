"""bursar.toml and the environment over it -> Settings, or every fault at once, each where it stands."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from bursar.config import lines, together
from bursar.config.faults import ConfigError, Fault
from bursar.config.origin import Origin
from bursar.config.sections import Settings

_LATER: dict[lines.Path, str] = {
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
    origin = Origin(place, source, environment)
    for path_, what in _LATER.items():
        faults += [origin.fault(found, _untrue(what)) for found in _taken(data, path_)]
    faults += together.faults(origin, data, tuple(_DEFAULTS))
    _complete(data)
    try:
        settings = Settings(**data)
    except ValidationError as wrong:
        faults += [_fault(origin, data, error) for error in _telling(wrong.errors())]
        raise ConfigError(_in_order(faults)) from None
    if faults:
        raise ConfigError(_in_order(faults))
    settings.read_from(origin)
    return settings


def schema() -> dict[str, Any]:
    """The JSON Schema of bursar.toml, for editors."""
    return Settings.model_json_schema()


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
    """Take a key out if it is there; where it was."""
    part, rest = path[0], path[1:]
    if isinstance(data, dict) and part in data:
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


def _telling(errors: Sequence[Any]) -> list[Any]:
    """Without those that say of a list that it is too short because of what is wrong with its members."""
    places = [error["loc"] for error in errors]
    return [
        error for error in errors
        if error["type"] != "too_short" or not any(error["loc"] == place[:-1] for place in places)
    ]  # fmt: skip


def _fault(origin: Origin, data: Any, error: Any) -> Fault:
    path, message, said = _path(data, error), str(error["msg"]).removeprefix("Value error, "), error["input"]
    match error["type"]:
        case "extra_forbidden":
            message = f"is no key of Bursar's configuration{_near(error['loc'])}: see `bursar init` for all of them"
        case "missing" | "union_tag_not_found":
            message = "is required"
        case "union_tag_invalid":
            message = f"expected one of {error['ctx']['expected_tags']}, got {error['ctx']['tag']!r:.40}"
        case kind if "got " not in message and (
            not isinstance(said, str | dict | list | BaseModel) or kind == "literal_error"
        ):
            # A string may be a secret in the wrong place: only words that were to be chosen from are shown.
            message = f"{message}, got {said if isinstance(said, Decimal) else repr(said)!s:.40}"
    return origin.fault(path, message)


def _path(data: Any, error: Any) -> lines.Path:
    """The way to the value as the file has it: without the names of a union's members, which pydantic puts in."""
    path: list[str | int] = []
    *way, last = error["loc"]
    for part in way:
        if isinstance(part, str) and not (isinstance(data, dict) and part in data):
            continue
        data = data[part] if isinstance(data, dict | list) else None
        path.append(part)
    is_there = isinstance(data, dict) and (last in data or error["type"] == "missing")
    if last != "[key]" and (is_there or isinstance(last, int)):
        path.append(last)
    if error["type"].startswith("union_tag"):
        path.append(error["ctx"]["discriminator"].strip("'"))
    return tuple(path)


def _near(loc: tuple[Any, ...]) -> str:
    """A key that may have been meant."""
    sections: list[type[BaseModel]] = [Settings]
    for part in loc[:-1]:
        tagged = [one for one in sections if len(sections) > 1 and part in _metrics(one)]
        below = [_keys(one)[part] for one in sections if part in _keys(one)]
        sections = tagged or [found for field in below for found in _sections_in(field.annotation)] or sections
    close = difflib.get_close_matches(str(loc[-1]), [key for one in sections for key in _keys(one)], 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _keys(section: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _metrics(section: type[BaseModel]) -> tuple[Any, ...]:
    """The words that choose this member of a union."""
    return get_args(field.annotation) if (field := section.model_fields.get("metric")) else ()


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field holds, however many of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]
