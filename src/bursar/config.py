"""bursar.toml -> Settings: every fault at once, with file, line, key and what was expected. Only doors import it.

Environment variables win over the file (`BURSAR_STORE__URL=...`); secrets come by `*_env` names alone. A section whose
limits this version would not enforce is refused: an ignored limit is a lie.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

_LATER = {
    "steps": "per-step rules",
    "budgets": "budgets",
    "alerts": "alerts",
    "breakers": "circuit breakers",
    "trials": "trials",
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
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


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\S*", value):
        raise ValueError("expected an http:// or https:// URL, as an SDK of that family would be given")
    return value.rstrip("/")


Milliseconds = Annotated[int, BeforeValidator(_milliseconds)]
Rate = Annotated[str, BeforeValidator(_rate)]
Url = Annotated[str, AfterValidator(_url)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
Candidate = Annotated[str, Field(pattern=r"^[^/\s]+/\S+$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSection(_Section):
    """Where the books are: sqlite:///path (memory:// forgets at exit)."""

    url: Annotated[str, Field(pattern=r"^(sqlite:///.+|memory://)$")] = "sqlite:///bursar.db"


class ProviderSection(_Section):
    """An upstream: its wire family, base URL, and the environment variable that holds its key."""

    api: Literal["openai", "anthropic", "gemini"]
    base_url: Url
    api_key_env: str | None = None
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
    context_tokens: Annotated[int, Field(gt=0)] | None = None
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None


class GatewaySection(_Section):
    """The gateway's address, the largest body it takes, and path prefixes that Bursar keys may use unpriced."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 4600
    max_body_bytes: Annotated[int, Field(gt=0)] = 32 << 20
    passthrough: tuple[Annotated[str, Field(pattern=r"^/")], ...] = ()


class RetrySection(_Section):
    """The engine's own retries. attempts holds for the gateway; the library leaves retrying to the SDK unless told."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    library_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    base: Milliseconds = 500
    cap: Milliseconds = 8_000
    longest_wait: Milliseconds = 60_000


class DrainSection(_Section):
    """Bounds of reading on after a hang-up."""

    streams: Annotated[int, Field(ge=0)] = 64
    time: Milliseconds = 120_000
    max_usd: Rate = "1"


class SecretsSection(_Section):
    """Which environment variable holds the root secret; unset: a 0600 file beside a SQLite store."""

    root_env: str | None = None


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
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


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
    later = [_later(place, source, key) for key in told_keys if key in _LATER]
    known = {key: value for key, value in told_keys.items() if key not in _LATER}
    try:
        settings = Settings(**known)
    except ValidationError as fault:
        faults = [_fault(place, source, error) for error in fault.errors()]
        raise ConfigError(sorted([*later, *faults], key=lambda f: f.line or 0)) from None
    faults = later + _unknown_candidates(place, source, settings)
    if faults:
        raise ConfigError(faults)
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


def _later(place: Path, source: str, key: str) -> Fault:
    what = _LATER[key]
    message = f"{what} are not enforced by this version of Bursar: remove the section, or what it says would be untrue"
    return Fault(str(place), _line(source, (key,)), key, message)


def _unknown_candidates(place: Path, source: str, settings: Settings) -> list[Fault]:
    names = set(settings.providers) or {"openai", "anthropic", "gemini"}
    return [
        Fault(
            str(place), _line(source, ("tiers", tier)), f"tiers.{tier}",
            f"{candidate!r} names no configured provider: expected one of {', '.join(sorted(names))}",
        )
        for tier, candidates in settings.tiers.items()
        for candidate in candidates
        if candidate.partition("/")[0] not in names
    ]  # fmt: skip


def _fault(place: Path, source: str, error: Any) -> Fault:
    path = tuple(str(part) for part in error["loc"] if part != "[key]")
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "is no key of Bursar's configuration: see `bursar init` for all of them"
    elif error["type"] != "missing":
        message = f"{message}, got {error['input']!r:.80}" if "got " not in message else message
    line = _line(source, path)
    if line is None and path and f"BURSAR_{'__'.join(path)}".upper() in {k.upper() for k in os.environ}:
        return Fault("environment", None, f"BURSAR_{'__'.join(path)}".upper(), message)
    return Fault(str(place), line, ".".join(path), message)


def _line(source: str, path: tuple[str, ...]) -> int | None:
    """The line where a key, or the nearest table around it, stands in the TOML source."""
    table: tuple[str, ...] = ()
    best: tuple[int, int] | None = None
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
