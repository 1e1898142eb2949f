"""The sections of bursar.toml and all of it together: names, types, defaults. A key that is not here is a fault."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bursar.config import lines
from bursar.config.alerts import AlertingSection, AlertSection
from bursar.config.base import MatchSection, Section
from bursar.config.breakers import BreakerSection
from bursar.config.faults import Fault
from bursar.config.origin import Origin
from bursar.config.steps import CapabilitySection, RoutingSection, StepSection
from bursar.config.telemetry import LoggingSection, TelemetrySection
from bursar.config.values import (
    BudgetName,
    Bytes,
    Candidate,
    EnvName,
    Milliseconds,
    Name,
    Number,
    Opaque,
    Part,
    Portion,
    Rate,
    StoreUrl,
    Text,
    TierName,
    Tokens,
    Url,
    Usd,
    Whole,
    Zone,
)
from bursar.policy import FINISH_TEXT
from bursar.types import OnExhausted, Scope, Window


class StoreSection(Section):
    """Where the books are: sqlite:///path (memory:// forgets at exit)."""

    url: StoreUrl = "sqlite:///bursar.db"


class ProviderSection(Section):
    """An upstream: its wire family, base URL, and the environment variable that holds its key."""

    api: Literal["openai", "anthropic", "gemini"]
    base_url: Url
    api_key_env: EnvName | None = None
    catalog: str | None = None
    models: tuple[str, ...] = ()
    stream_usage: bool = True


class PriceSection(Section):
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
    context_tokens: Number | None = None
    max_output_tokens: Number | None = None


class GatewaySection(Section):
    """The gateway's address, the largest body it takes, and path prefixes that Bursar keys may use unpriced."""

    host: str = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 4600
    max_body_bytes: Number = 32 << 20
    passthrough: tuple[Annotated[str, Field(pattern=r"^/")], ...] = ()


class RetrySection(Section):
    """The engine's own retries. attempts holds for the gateway; the library leaves retrying to the SDK unless told."""

    attempts: Annotated[Whole, Field(ge=1, le=10)] = 3
    library_attempts: Annotated[Whole, Field(ge=1, le=10)] = 1
    base: Milliseconds = 500
    cap: Milliseconds = 8_000
    longest_wait: Milliseconds = 60_000


class DrainSection(Section):
    """Bounds of reading on after a hang-up."""

    streams: Annotated[Whole, Field(ge=0)] = 64
    time: Milliseconds = 120_000
    max_usd: Rate = "1"


class SecretsSection(Section):
    """Which environment variable holds the root secret; where it is unset: a 0600 file beside a SQLite store."""

    root_env: EnvName = "BURSAR_SECRET"


class BudgetSection(Section):
    """A limit on what the calls of one scope cost together in one window: dollars, tokens (input + output), or both."""

    name: BudgetName
    scope: Scope
    match: MatchSection = MatchSection()
    window: Window = "lifetime"
    timezone: Zone = "UTC"
    limit_usd: Usd | None = None
    limit_tokens: Tokens | None = None
    on_exhausted: OnExhausted = "finish"
    finish_text: Text | None = None
    finish_reserve: Part = 0
    max_share: Portion = 100_000
    wrap_up: Portion = 800_000
    patience: Milliseconds = 2_000
    hard: bool = True
    input_hold: Literal["ceiling", "p99.9"] | None = None
    tell_model: bool = False

    @field_validator("window")
    @classmethod
    def _a_run_has_one_life(cls, window: Window, info: ValidationInfo) -> Window:
        if window != "lifetime" and info.data.get("scope") == "run":
            raise ValueError('expected "lifetime": a run is not counted anew by the clock')
        return window

    @field_validator("finish_reserve")
    @classmethod
    def _only_what_ends_has_a_last_answer(cls, share: int, info: ValidationInfo) -> int:
        scope = info.data.get("scope", "run")
        if share and scope not in ("run", "session"):
            raise ValueError(f"is for the scopes run and session only, which end with an answer, not for {scope}")
        return share

    @model_validator(mode="after")
    def _limits_something(self) -> "BudgetSection":
        if self.limit_usd is None and self.limit_tokens is None:
            raise ValueError("limits nothing: expected limit_usd, limit_tokens or both")
        return self


class CacheSection(Section):
    """Where kept answers are and how much room they may take; path absent: a file beside the ledger."""

    max_bytes: Bytes = 256_000_000
    path: Text | None = None


class Settings(BaseSettings):
    """The whole of bursar.toml, checked."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="BURSAR_", env_nested_delimiter="__", case_sensitive=False
    )
    store: StoreSection = StoreSection()
    providers: dict[Name, ProviderSection] = {}
    tiers: dict[TierName, Annotated[tuple[Candidate, ...], Field(min_length=1)]] = {}
    prices: dict[Candidate, PriceSection] = {}
    capabilities: dict[Candidate, CapabilitySection] = {}
    budgets: tuple[BudgetSection, ...] = ()
    steps: tuple[StepSection, ...] = ()
    routing: RoutingSection = RoutingSection()
    alerts: tuple[AlertSection, ...] = ()
    alerting: AlertingSection = AlertingSection()
    breakers: tuple[BreakerSection, ...] = ()
    cache: CacheSection = CacheSection()
    gateway: GatewaySection = GatewaySection()
    retry: RetrySection = RetrySection()
    drain: DrainSection = DrainSection()
    secrets: SecretsSection = SecretsSection()
    telemetry: TelemetrySection = TelemetrySection()
    logging: LoggingSection = LoggingSection()
    unknown_price: Literal["refuse", "ceiling", "allow"] | None = None
    opaque_input_tokens: Opaque | None = None
    finish_text: Text = FINISH_TEXT
    refuse_status: Annotated[Whole, Field(ge=400, le=499)] = 402
    on_disconnect: Literal["auto", "drain", "cancel"] = "auto"
    capture: bool = False
    _origin: Origin = PrivateAttr(default=Origin(Path("bursar.toml")))

    def read_from(self, origin: Origin) -> None:
        """Remember where it all came from, for the faults that show later."""
        self._origin = origin

    def fault(self, path: lines.Path, message: str) -> Fault:
        """What is wrong with the value at a path of keys and indices, found by whoever has put it to use."""
        return self._origin.fault(path, message)

    @property
    def folder(self) -> Path:
        """Where the names of files in it begin: the configuration's own folder."""
        return self._origin.place.parent

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
