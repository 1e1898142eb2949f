"""Upstreams and how they are tried."""

import msgspec

from bursar.types import Family


class Provider(msgspec.Struct, frozen=True):
    """An upstream. base_url is what an SDK of that family would be given."""

    name: str
    api: Family
    base_url: str
    api_key_env: str | None = None
    catalog: str | None = None
    """The price catalogue's own name for it, where that is not `name` (derived from base_url or configured)."""
    stream_usage: bool = True
    """Whether it accepts stream_options.include_usage; False leaves such streams to be estimated."""
    models: tuple[str, ...] = ()
    """Models it is known to serve, beside those that the price book lists under its name."""


class Candidate(msgspec.Struct, frozen=True):
    """provider/model as a tier lists it."""

    provider: str
    model: str


class Retry(msgspec.Struct, frozen=True):
    """Backoff of the engine's own retries: exponential from base to cap, with a drawn jitter; Retry-After obeyed."""

    attempts: int = 3
    base_ms: int = 500
    cap_ms: int = 8_000
    longest_wait_ms: int = 60_000
    """A provider that asks for a longer wait is not waited for: the next plan is tried."""


class Drain(msgspec.Struct, frozen=True):
    """Bounds of the background reading after a hang-up: past any of them the upstream is cancelled."""

    streams: int = 64
    seconds: int = 120
    max_cost_nanos: int = 1_000_000_000
