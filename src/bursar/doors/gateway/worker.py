"""One gateway process: from a configuration to the ASGI application. With `--workers` each makes its own.

Raises what opening raises: ConfigError, StoreFailure.
"""

from bursar.config import Settings, load
from bursar.doors import alerting
from bursar.doors.gateway import proxy
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.meters import Meters
from bursar.doors.open import open_books
from bursar.doors.telemetry import logs
from bursar.doors.telemetry.opening import open_telemetry

FACTORY = "bursar.doors.gateway.worker:create"
"""What uvicorn imports in every worker."""


def gateway(settings: Settings) -> Gateway:
    """The application of these settings, its store opened."""
    books = open_books(settings)
    told = settings.gateway
    limits = proxy.Settings(
        max_body_bytes=told.max_body_bytes, passthrough=told.passthrough, attempts=settings.retry.attempts
    )
    meters = Meters(books.store)
    telemetry = open_telemetry(settings, books.policy, books.secret("user hashes"), meters.lost)
    watchman = alerting.watchman(books.policy, books.store, books.secret(alerting.PURPOSE))
    return Gateway(
        books.policy, books.store, books.secret("keys"), books.credentials, limits, meters=meters, telemetry=telemetry,
        watchman=watchman,
    )  # fmt: skip


def create() -> Gateway:
    """The application of the configuration that BURSAR_CONFIG names (else ./bursar.toml, else defaults)."""
    settings = load()
    logs.configure(settings.logging.format, settings.logging.level)
    return gateway(settings)
