"""From the configuration to what listens to a door's rows. Raises ConfigError where an extra is missing."""

from typing import TYPE_CHECKING

from bursar.config import ConfigError, Fault, Settings
from bursar.policy import Policy

if TYPE_CHECKING:
    from bursar.doors.telemetry.otel import Lost, Telemetry


def open_telemetry(
    settings: Settings, policy: Policy, hash_key: bytes, lost: "Lost | None" = None
) -> "Telemetry | None":
    """OpenTelemetry as [telemetry] asks for it; None: it does not. lost: hears of what could not be delivered."""
    told = settings.telemetry
    if not told.enabled:
        return None
    try:
        from bursar.doors.telemetry import otel
    except ImportError as fault:
        missing = f"needs OpenTelemetry ({fault.name} is not installed): pip install 'bursar[otel]'"
        raise ConfigError([Fault("telemetry", None, "telemetry.enabled", missing)]) from None
    options = otel.Options(
        spans=told.spans, metrics=told.metrics, events=told.events, user_ids=told.user_ids, propagate=told.propagate,
        hash_key=hash_key,
    )  # fmt: skip
    return otel.Telemetry(options, policy.providers, otel.sinks(options, lost=lost))
