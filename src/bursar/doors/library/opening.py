"""bursar.open: from a configuration to a guard. Refuses to start on a wrong one, with every fault and its line."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from pydantic import ValidationError

from bursar.config import ConfigError, Fault, Settings, load
from bursar.doors import credentials
from bursar.doors.library.budget import Finish
from bursar.doors.library.guard import Guard
from bursar.doors.library.peers import Connect
from bursar.doors.open import Books, make_policy, open_books
from bursar.doors.telemetry.opening import open_telemetry
from bursar.policy import Policy, Router
from bursar.stores.base import Store

if TYPE_CHECKING:
    from bursar.drivers.watchman import Watchman


def open(
    config: str | Path | None = None,
    *,
    store: str | Store | None = None,
    finish: Finish | None = None,
    router: Router | None = None,
    connect: Connect | None = None,
) -> Guard:
    """Open a guard.

    config: a bursar.toml; None: BURSAR_CONFIG, else ./bursar.toml where there is one, else the defaults, which only
    measure. store: where the ledger is, instead of [store] url ("sqlite:///bursar.db" by default; "memory://" keeps
    nothing), or a store itself, such as `bursar.testing.ledger()`. finish: makes the text of a partial answer from a
    bursar.Finishing where a budget is used up and no run around the call has its own way. router: chooses the first
    tier of the steps whose tier is "auto", in place of what was learned. connect: makes the HTTP clients,
    `connect("httpx2", asynchronous=False)`, by which the guard itself asks providers other than a client's own, where
    they need a proxy or certificates; it closes them. Raises ConfigError or StoreFailure.
    """
    settings = load(Path(config) if config is not None else None)
    attempts = settings.retry.library_attempts
    if store is not None and not isinstance(store, str):
        policy = _with(make_policy(settings, secrets.token_bytes(32)), router)
        telemetry = open_telemetry(settings, policy, secrets.token_bytes(32))
        held = credentials.held(policy.providers.values(), os.environ)
        return Guard(
            policy, store, attempts=attempts, finish=finish, telemetry=telemetry, credentials=held, connect=connect
        )
    if store is not None:
        settings = _elsewhere(settings, store)
    books = open_books(settings)
    telemetry = open_telemetry(settings, books.policy, books.secret("user hashes"))
    return Guard(
        _with(books.policy, router), books.store, attempts=attempts, finish=finish, telemetry=telemetry,
        watchman=_watchman(books), credentials=books.credentials, connect=connect,
    )  # fmt: skip


def _with(policy: Policy, router: Router | None) -> Policy:
    return policy if router is None else msgspec.structs.replace(policy, router=router)


def _watchman(books: Books) -> "Watchman | None":
    """None where no alert tells anybody: a library watches for nobody."""
    if not any(alert.webhooks or alert.services for alert in books.policy.alerts):
        return None
    from bursar.doors import alerting  # what it needs takes time to import

    return alerting.watchman(books.policy, books.store, books.secret(alerting.PURPOSE))


def _elsewhere(settings: Settings, url: str) -> Settings:
    try:
        section = type(settings.store).model_validate({**settings.store.model_dump(), "url": url})
    except ValidationError:
        expected = f"expected 'sqlite:///path' or 'memory://', got {url!r:.80}"
        raise ConfigError([Fault("bursar.open", None, "store", expected)]) from None
    return settings.model_copy(update={"store": section})
