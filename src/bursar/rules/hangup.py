"""What to do with the provider when the caller hangs up in the middle of a stream. Pure.

Cancelling stops the bill at Anthropic (input and the output so far are owed, and reported as they come). At OpenAI a
cancelled stream never sends its usage, and of Gemini nothing is known: reading on to the end costs the same and tells
the truth (wire.md section 1.8).
"""

from bursar.policy import Policy
from bursar.types import Entry


def drains(entry: Entry, policy: Policy) -> bool:
    """True: read the rest in the background, for its usage; False: cancel, and book what was seen."""
    if policy.on_disconnect != "auto":
        return policy.on_disconnect == "drain"
    if entry.api == "messages":
        return False
    return entry.hold_nanos is None or entry.hold_nanos <= policy.drain.max_cost_nanos
