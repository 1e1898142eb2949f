"""Ids that sort by time: 48 bits of milliseconds, then 80 random bits, as hex digits behind a prefix.

The bits come from the process's own generator, seeded by the system and anew in a forked child: asking the system on
every call gives the interpreter lock away each time.
"""

import random

from bursar.types import Instant


def request_id(now: Instant) -> str:
    """A new id for one request."""
    return f"req_{now // 1000:012x}{random.getrandbits(80):020x}"


def run_id(now: Instant) -> str:
    """A new id for one run of an agent."""
    return f"run_{now // 1000:012x}{random.getrandbits(80):020x}"
