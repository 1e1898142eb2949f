"""May a request ask the semantic cache at all? Time-sensitive and personal ones, and empty or long ones, may not. Pure.

The texts say it, not the topic: now-words, the state of something that is the asker's, references to what was said
before, contact data and long numbers. A refusal means a call to the model, never an error.
"""

import re
from typing import Literal, TypeAlias

Ineligible: TypeAlias = Literal["empty", "long", "time", "personal", "context"]

LONGEST = 2_000
"""Characters; beyond it one vector says too little."""

_TIME = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|right now|at the moment|these days|up[- ]to[- ]date|as of now|so far|"
    r"just now|nowadays|currently|latest|newest|most recent|breaking|live (?:score|feed|price|stream)s?|"
    r"(?:this|last|next|past|current|coming) (?:morning|afternoon|evening|night|week|weekend|month|quarter|year|"
    r"season)|"
    r"(?:current|present)(?:ly)? (?:\w+ )?(?:time|date|price|rate|status|version|value|level|score|weather|balance)|"
    r"what (?:time|day|date) is it|exchange rates? (?:now|at)|(?:stock|share|bitcoin|gold|oil) prices?|"
    r"(?:minutes?|hours?|days?|weeks?|months?) (?:ago|from now)|"
    r"(?:the |is |was )weather (?:like|in|now|going|for)|weather forecast)\b|\bnow\W*$",
    re.IGNORECASE,
)
_STATE = re.compile(
    r"^\W*(?:(?:hi|hello|hey|please|so|ok)\W+)*"
    r"(?:(?:can|could|would) you (?:please )?)?(?:(?:tell|show|give|list|check|find|get|see)(?: me)?|(?:tell me )?"
    r"(?:what|when|where|who|which|how (?:much|many|long|far|old))|is|are|was|were|did|does|do|has|have)"
    r"(?:'s| is| are| was| were| did| does| do| has| have)?"
    r"\W*(?:the (?:status|balance|state|total|amount|progress|location|date) of )?"
    r"my (?:\w+ )?(?:balance|order|package|parcel|delivery|shipment|appointment|booking|reservation|account number|"
    r"email|e-mail|address|phone|name|age|salary|schedule|calendar|meetings?|invoices?|tickets?|transactions?|statement|"
    r"score|grades?|results?|test results|diagnosis|prescription|passport|password|location|birthday|history|usage|"
    r"bill|payslip|points|messages?|inbox|files?|tasks?|notes?|profile|subscription|policy number)\b"
    r"(?! (?:work|mean|policy|settings?)\b)(?!.*\b(?:change|reset|cancel|update|delete|remove|return|reschedule)\b)",
    re.IGNORECASE,
)
_DATA = re.compile(
    r"[\w.+-]+@\w[\w-]*\.\w+|(?<![\w.])\+?\d(?:[ ().-]?\d){8,}\b|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,}\b"
    r"|\bmy name is\b|\bi(?:'m| am) called\b|\bi live (?:at|in)\b|\bmy (?:ssn|social security|date of birth)\b"
    r"|\bremind me\b|\bremember (?:that|my)\b",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"\b(?:you (?:just )?(?:said|told|mentioned|wrote|suggested|gave)|(?:your|the) (?:previous|last|earlier) (?:answer|"
    r"reply|message|response|question)|as i (?:said|mentioned)|i (?:just )?(?:told|asked) you|(?:the|see) above|"
    r"(?:do|say|explain) (?:it|that|this) again|what about (?:it|that|this|them))\b"
    r"|^\W*(?:continue|go on|tell me more|more|again|and then|why|how so|really)\W*$",
    re.IGNORECASE,
)


def ineligible(text: str, *, fresh_for_s: int | None = None) -> Ineligible | None:
    """Why the text of a user's turn must not be answered from another's; None where it may.

    fresh_for_s: the entry's time to live; at most 60 seconds make a time-sensitive question eligible.
    """
    if not any(char.isalnum() for char in text):
        return "empty"
    if len(text) > LONGEST:
        return "long"
    if _DATA.search(text) or _STATE.search(text):
        return "personal"
    if _CONTEXT.search(text):
        return "context"
    if _TIME.search(text) and (fresh_for_s is None or fresh_for_s > 60):
        return "time"
    return None
