"""How a sandbox is set up; every default stands here once."""

import time
from collections.abc import Callable

import msgspec

from bursar.sandbox.answers import Task


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Durations name their unit; a sandbox with equal settings answers equally."""

    latency_ms: float = 0
    """Before the first byte; the header x-sandbox-latency-ms wins."""
    chunk_ms: float = 0
    """Before each streamed event."""
    chunk_tokens: int = 3
    """Tokens a streamed delta."""
    faults: str = ""
    """KIND:ODDS, ... as in "429:0.05,500:0.02,cut:0.01"; see faults.py."""
    seed: int = 0
    recorded: str | None = None
    """A file of recorded outcomes; see recorded.py."""
    tasks: tuple[Task, ...] = ()
    any_model: bool = False
    """Serve unknown models too, without a price; else they are a 404."""
    retry_after_s: float = 1
    timeout_s: float = 600
    """How long the fault `timeout` keeps silent before a 504."""
    slow_ms: float = 1
    """Between the seven-byte pieces of the fault `slow`."""
    background_ms: float = 0
    """How long a background response stays in progress."""
    keep_requests: int = 10_000
    """The newest requests kept with their bytes; 0: none."""
    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
