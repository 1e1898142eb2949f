"""Alerts decided: rules over facts give readings, readings move incidents, incidents give messages. Pure throughout.

A driver gathers the facts, calls `judge` and then `advance`, keeps the incident and delivers the messages.
"""

from bursar.policy.alerts import (
    DEFAULTS,
    Cap,
    Drift,
    Falling,
    Forecast,
    Quiet,
    Rule,
    Share,
    Spike,
    Stranger,
    Terms,
    Threshold,
    Wrong,
)
from bursar.rules.alarm.facts import Budgeted, Costs, Facts, Pair, Series, Spent, Strangers, Tightened
from bursar.rules.alarm.incident import Incident, Message, advance, explains
from bursar.rules.alarm.judge import judge, together
from bursar.rules.alarm.reading import Reading

__all__ = [
    "DEFAULTS", "Budgeted", "Cap", "Costs", "Drift", "Facts", "Falling", "Forecast", "Incident", "Message", "Pair",
    "Quiet", "Reading", "Rule", "Series", "Share", "Spent", "Spike", "Stranger", "Strangers", "Terms", "Threshold",
    "Tightened", "Wrong", "advance", "explains", "judge", "together",
]  # fmt: skip
