"""bursar.toml -> Settings: every fault at once, with file, line, key and what was expected. Only doors import it.

Environment variables win over the file (`BURSAR_STORE__URL=...`); secrets come by `*_env` names alone. A section whose
limits this version would not enforce is refused: an ignored limit is a lie.
"""

from bursar.config.faults import ConfigError, Fault
from bursar.config.reading import load, schema
from bursar.config.sections import (
    BudgetSection,
    DrainSection,
    GatewaySection,
    MatchSection,
    PriceSection,
    ProviderSection,
    RetrySection,
    SecretsSection,
    Settings,
    StepSection,
    StoreSection,
)

__all__ = [
    "BudgetSection",
    "ConfigError",
    "DrainSection",
    "Fault",
    "GatewaySection",
    "MatchSection",
    "PriceSection",
    "ProviderSection",
    "RetrySection",
    "SecretsSection",
    "Settings",
    "StepSection",
    "StoreSection",
    "load",
    "schema",
]
