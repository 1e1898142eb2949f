"""bursar.toml -> Settings: every fault at once, with file, line, key and what was expected. Only doors import it.

Environment variables win over the file (`BURSAR_STORE__URL=...`); secrets come by `*_env` names alone. A section whose
limits this version would not enforce is refused: an ignored limit is a lie.
"""

from bursar.config.faults import ConfigError, Fault
from bursar.config.reading import load, schema
from bursar.config.sections import (
    BudgetSection,
    CacheSection,
    DrainSection,
    EmbedderSection,
    GatewaySection,
    MatchSection,
    PriceSection,
    ProviderSection,
    RetrySection,
    SecretsSection,
    SemanticSection,
    Settings,
    StepCacheSection,
    StepSection,
    StoreSection,
)

__all__ = [
    "BudgetSection",
    "CacheSection",
    "ConfigError",
    "DrainSection",
    "EmbedderSection",
    "Fault",
    "GatewaySection",
    "MatchSection",
    "PriceSection",
    "ProviderSection",
    "RetrySection",
    "SecretsSection",
    "SemanticSection",
    "Settings",
    "StepCacheSection",
    "StepSection",
    "StoreSection",
    "load",
    "schema",
]
