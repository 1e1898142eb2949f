"""bursar.toml -> Settings: every fault at once, with file, line, key and what was expected. Only doors import it.

Environment variables win over the file (`BURSAR_STORE__URL=...`); secrets come by `*_env` names alone. A section whose
limits this version would not enforce is refused: an ignored limit is a lie.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

_LATER = {
    ("steps",): "per-step rules are",
    ("budgets",): "budgets are",
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
_KEY_NAME = "expected the name of an environment variable, such as OPENAI_API_KEY, never the secret itself"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_MULTILINE = re.compile(r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'', re.S)
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


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


def _milliseconds(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('expected a duration such as "500ms", "2s" or "5m"')
    told = _DURATION.fullmatch(value.strip())
    if told is None:
        raise ValueError('expected a duration such as "500ms", "2s" or "5m"')
    return round(float(told.group(1)) * _UNITS[told.group(2)])


def _rate(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError('expected USD per million tokens as a string, such as "0.30"')
    text = str(value)
    try:
        amount = Decimal(text)
    except ArithmeticError:
        raise ValueError(f'expected USD per million tokens as a string, such as "0.30", got {text!r:.40}') from None
    if not amount.is_finite() or not 0 <= amount < 10**9:
        raise ValueError(f"expected 0 or more and below 1e9, got {text:.40}")
    return text


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    return value


def _env_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(_KEY_NAME)
    return value


def _store_url(value: str) -> str:
    if value != "memory://" and (not re.fullmatch(r"sqlite:///.+", value) or value.endswith(":memory:")):
        raise ValueError("expected sqlite:///PATH, or memory:// for books that are forgotten at exit")
    return value


def _candidate(value: str) -> str:
    if not re.fullmatch(r"[^/\s]+/\S+", value):
        raise ValueError("expected provider/model, such as openai/gpt-4o-mini")
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\S*", value):
        raise ValueError("expected an http:// or https:// URL, as an SDK of that family would be given")
    return value.rstrip("/")


Milliseconds = Annotated[int, BeforeValidator(_milliseconds)]
Rate = Annotated[str, BeforeValidator(_rate)]
Url = Annotated[str, AfterValidator(_url)]
Whole = Annotated[int, BeforeValidator(_whole)]
EnvName = Annotated[str, AfterValidator(_env_name)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
Candidate = Annotated[str, AfterValidator(_candidate)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSection(_Section):
    """Where the books are: sqlite:///path (memory:// forgets at exit)."""

    url: Annotated[str, AfterValidator(_store_url)] = "sqlite:///bursar.db"


class ProviderSection(_Section):
    """An upstream: its wire family, base URL, and the environment variable that holds its key."""

    api: Literal["openai", "anthropic", "gemini"]
    base_url: Url
    api_key_env: EnvName | None = None
    catalog: str | None = None
    models: tuple[str, ...] = ()
    stream_usage: bool = True


class PriceSection(_Section):
    """The user's own prices of one model: USD per million tokens; fees in USD each."""

    input: Rate
    output: Rate | None = None
    cached: Rate | None = None
    cache_write_5m: Rate | None = None
    cache_write_30m: Rate | None = None
    cache_write_1h: Rate | None = None
    cache_write_12h: Rate | None = None
    input_audio: Rate | None = None
    cached_audio: Rate | None = None
    output_audio: Rate | None = None
    input_image: Rate | None = None
    cached_image: Rate | None = None
    output_image: Rate | None = None
    input_video: Rate | None = None
    output_video: Rate | None = None
    web_search: Rate | None = None
    grounded_prompt: Rate | None = None
    file_search: Rate | None = None
    multiply: dict[str, Rate] = {}
    context_tokens: Annotated[Whole, Field(gt=0)] | None = None
    max_output_tokens: Annotated[Whole, Field(gt=0)] | None = None


class GatewaySection(_Section):
    """The gateway's address, the largest body it takes, and path prefixes that Bursar keys may use unpriced."""

    host: str = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 4600
    max_body_bytes: Annotated[Whole, Field(gt=0)] = 32 << 20
    passthrough: tuple[Annotated[str, Field(pattern=r"^/")], ...] = ()


class RetrySection(_Section):
    """The engine's own retries. attempts holds for the gateway; the library leaves retrying to the SDK unless told."""

    attempts: Annotated[Whole, Field(ge=1, le=10)] = 3
    library_attempts: Annotated[Whole, Field(ge=1, le=10)] = 1
    base: Milliseconds = 500
    cap: Milliseconds = 8_000
    longest_wait: Milliseconds = 60_000


class DrainSection(_Section):
    """Bounds of reading on after a hang-up."""

    streams: Annotated[Whole, Field(ge=0)] = 64
    time: Milliseconds = 120_000
    max_usd: Rate = "1"


class SecretsSection(_Section):
    """Which environment variable holds the root secret; where it is unset: a 0600 file beside a SQLite store."""

    root_env: EnvName = "BURSAR_SECRET"


class Settings(BaseSettings):
    """The whole of bursar.toml, checked."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="BURSAR_", env_nested_delimiter="__", case_sensitive=False
    )
    store: StoreSection = StoreSection()
    providers: dict[Name, ProviderSection] = {}
    tiers: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], Annotated[tuple[Candidate, ...], Field(min_length=1)]
    ] = {}
    prices: dict[Candidate, PriceSection] = {}
    gateway: GatewaySection = GatewaySection()
    retry: RetrySection = RetrySection()
    drain: DrainSection = DrainSection()
    secrets: SecretsSection = SecretsSection()
    unknown_price: Literal["refuse", "ceiling", "allow"] = "allow"
    on_disconnect: Literal["auto", "drain", "cancel"] = "auto"
    capture: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)  # load() has laid the environment over the file already


class _Environment(EnvSettingsSource):
    """The variables of a mapping in place of the process's own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name.lower(): value for name, value in environ.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environ


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a file (default: BURSAR_CONFIG, else ./bursar.toml if it is there) under the environment.

    Raises ConfigError: a named file that is missing, bad TOML, or any key that is wrong.
    """
    named = path or (Path(told) if (told := environ.get("BURSAR_CONFIG")) else None)
    place = named or Path("bursar.toml")
    source = ""
    if named is not None or place.exists():
        source = _read(place)
    try:
        told_keys = tomllib.loads(source)
    except tomllib.TOMLDecodeError as fault:
        line = re.search(r"at line (\d+)", str(fault))
        raise ConfigError([Fault(str(place), int(line.group(1)) if line else None, "TOML", str(fault))]) from None
    environment, faults = _environment(environ)
    data = _over(told_keys, environment)
    faults += [_later(place, source, path, what) for path, what in _LATER.items() if _take(data, path)]
    faults += _unknown_candidates(place, source, data)
    _complete(data)
    try:
        settings = Settings(**data)
    except ValidationError as fault:
        faults += [_fault(place, source, error, environment) for error in fault.errors()]
        raise ConfigError(sorted(faults, key=lambda f: f.line or 0)) from None
    if faults:
        raise ConfigError(sorted(faults, key=lambda f: f.line or 0))
    return settings


def schema() -> dict[str, Any]:
    """The JSON Schema of bursar.toml, for editors."""
    return Settings.model_json_schema()


def _read(place: Path) -> str:
    try:
        return place.read_text("utf-8")
    except OSError as fault:
        raise ConfigError([Fault(str(place), None, "file", f"cannot be read: {fault.strerror}")]) from None
    except UnicodeDecodeError as fault:
        raise ConfigError([Fault(str(place), None, "file", f"is not UTF-8 at byte {fault.start}")]) from None


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


def _take(data: dict[str, Any], path: tuple[str, ...]) -> bool:
    """Take a key out; True where it was there."""
    *tables, key = path
    for table in tables:
        data = data.get(table, {}) if isinstance(data, dict) else {}
    return isinstance(data, dict) and data.pop(key, None) is not None


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


def _later(place: Path, source: str, path: tuple[str, ...], what: str) -> Fault:
    message = f"{what} not enforced by this version of Bursar: remove it, or what it says would be untrue"
    return Fault(str(place), _line(source, path), ".".join(path), message)


def _unknown_candidates(place: Path, source: str, data: dict[str, Any]) -> list[Fault]:
    told, tiers = data.get("providers"), data.get("tiers")
    names = {*_DEFAULTS, *(told if isinstance(told, dict) else ())}
    return [
        Fault(
            str(place), _line(source, ("tiers", tier)), f"tiers.{tier}",
            f"{candidate!r:.80} names no configured provider: expected one of {', '.join(sorted(names))}",
        )
        for tier, candidates in (tiers.items() if isinstance(tiers, dict) else ())
        for candidate in (candidates if isinstance(candidates, list) else ())
        if isinstance(candidate, str) and "/" in candidate and candidate.partition("/")[0] not in names
    ]  # fmt: skip


def _fault(place: Path, source: str, error: Any, environment: dict[str, Any]) -> Fault:
    path = tuple(str(part) for part in error["loc"] if part != "[key]")
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"is no key of Bursar's configuration{_near(path)}: see `bursar init` for all of them"
    elif error["type"] == "missing":
        message = "is required"
    elif "got " not in message and (
        not isinstance(error["input"], str | dict | list) or error["type"] == "literal_error"
    ):
        # A string may be a secret in the wrong place: only words that were to be chosen from are shown.
        message = f"{message}, got {error['input']!r:.40}"
    said = environment
    for part in path:
        if not isinstance(said, dict) or part not in said:
            return Fault(str(place), _line(source, path), ".".join(path), message)
        said = said[part]
    return Fault("environment", None, f"BURSAR_{'__'.join(path)}".upper(), message)


def _near(path: tuple[str, ...]) -> str:
    """A key that may have been meant."""
    section: Any = {"providers": ProviderSection, "prices": PriceSection}.get(path[0], Settings)
    if section is Settings and len(path) > 1:
        section = Settings.model_fields[path[0]].annotation
    close = difflib.get_close_matches(path[-1], section.model_fields, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _line(source: str, path: tuple[str, ...]) -> int | None:
    """The line where a key, or the nearest table around it, stands in the TOML source."""
    table: tuple[str, ...] = ()
    best: tuple[int, int] | None = None
    source = _MULTILINE.sub(lambda text: "\n" * text[0].count("\n"), source)
    for number, text in enumerate(source.splitlines(), 1):
        stripped = text.strip()
        header = re.match(r"\[\[?(.+?)\]\]?\s*(?:#.*)?$", stripped)
        if header:
            table = _parts(header.group(1))
            here = table
        else:
            key = re.match(r"((?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_.\- ])+?)\s*=", stripped)
            if key is None:
                continue
            here = table + _parts(key.group(1))
        depth = len(here)
        if path[:depth] == here and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _parts(dotted: str) -> tuple[str, ...]:
    found = re.findall(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)", dotted)
    return tuple(a or b or c for a, b, c in found)
