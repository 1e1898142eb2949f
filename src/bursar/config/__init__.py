"""bursar.toml -> Settings: every fault at once, with file, line, key and what was expected. Only doors import it.

Environment variables win over the file (`BURSAR_STORE__URL=...`); secrets come by `*_env` names alone. A section whose
limits this version would not enforce is refused: an ignored limit is a lie.
"""

from bursar.config.alerts import AlertingSection, AlertSection
from bursar.config.base import MatchSection
from bursar.config.breakers import BreakerSection
from bursar.config.faults import ConfigError, Fault
from bursar.config.reading import load, schema
from bursar.config.sections import (
    BudgetSection,
    CacheSection,
    DrainSection,
    GatewaySection,
    PriceSection,
    ProviderSection,
    RetrySection,
    SecretsSection,
    Settings,
    StoreSection,
)
from bursar.config.steps import (
    CapabilitySection,
    EmbedderSection,
    RoutingSection,
    SemanticSection,
    StepCacheSection,
    StepSection,
    ValidateSection,
)

__all__ = [
    "AlertSection",
    "AlertingSection",
    "BreakerSection",
    "BudgetSection",
    "CacheSection",
    "CapabilitySection",
    "ConfigError",
    "DrainSection",
    "EmbedderSection",
    "Fault",
    "GatewaySection",
    "MatchSection",
    "PriceSection",
    "ProviderSection",
    "RetrySection",
    "RoutingSection",
    "SecretsSection",
    "SemanticSection",
    "Settings",
    "StepCacheSection",
    "StepSection",
    "StoreSection",
    "ValidateSection",
    "load",
    "schema",
]
