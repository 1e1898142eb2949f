"""What the configuration came to. Frozen, complete, already validated; every default stands here once."""

from bursar.policy.alerts import Alert
from bursar.policy.breakers import Breaker
from bursar.policy.budgets import Budget, Match
from bursar.policy.caches import CacheScope, Embeds, Endpoint, Judge, ResponseCache, SemanticCache
from bursar.policy.policy import FINISH_TEXT, OnDisconnect, Policy, UnknownPrice
from bursar.policy.prices import Card, Override, PriceBook, Unpriced
from bursar.policy.providers import Candidate, Drain, Provider, Retry
from bursar.policy.steps import (
    AUTO,
    Capabilities,
    Capability,
    Check,
    Consistency,
    JudgePrompt,
    Margin,
    Routed,
    Router,
    Routing,
    StepRule,
    Validator,
)

__all__ = [
    "AUTO", "FINISH_TEXT", "Alert", "Breaker", "Budget", "CacheScope", "Candidate", "Capabilities", "Capability",
    "Card", "Check", "Consistency", "Drain", "Embeds", "Endpoint", "Judge", "JudgePrompt", "Margin", "Match",
    "OnDisconnect", "Override", "Policy", "PriceBook", "Provider", "ResponseCache", "Retry", "Routed", "Router",
    "Routing", "SemanticCache", "StepRule", "UnknownPrice", "Unpriced", "Validator",
]  # fmt: skip
