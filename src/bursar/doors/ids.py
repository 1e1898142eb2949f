"""Ids that sort by time: 48 bits of milliseconds, then 80 random bits, as 32 hex digits behind a prefix."""

import os

from bursar.types import Instant


def request_id(now: Instant) -> str:
    """A new id for one request."""
    return f"req_{now // 1000:012x}{os.urandom(10).hex()}"


def run_id(now: Instant) -> str:
    """A new id for one run of an agent."""
    return f"run_{now // 1000:012x}{os.urandom(10).hex()}"
