"""What the outside is told: OpenTelemetry and the log. Where it goes is said by the usual OTEL_* variables."""

from typing import Literal

from bursar.config.base import Section


class TelemetrySection(Section):
    """Spans, metrics and events by OpenTelemetry (extra `otel`).

    spans: "auto" makes none where the caller's own SDK has one for the same call, and writes on that. user_ids: "hash"
    sends a keyed hash instead. propagate: requests to providers carry `traceparent`.
    """

    enabled: bool = False
    spans: Literal["auto", "always", "none"] = "auto"
    metrics: bool = True
    events: bool = True
    user_ids: Literal["plain", "hash", "none"] = "plain"
    propagate: bool = True


class LoggingSection(Section):
    """How `bursar serve` writes its log to stderr, and from which level on. A line for every row is at info."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "warning"
