"""bursar.open: from a configuration to a guard. Refuses to start on a wrong one, with every fault and its line."""

import secrets
from pathlib import Path

from pydantic import ValidationError

from bursar.config import ConfigError, Fault, Settings, load
from bursar.doors.library.budget import Finish
from bursar.doors.library.guard import Guard
from bursar.doors.open import make_policy, open_books
from bursar.stores.base import Store


def open(config: str | Path | None = None, *, store: str | Store | None = None, finish: Finish | None = None) -> Guard:
    """Open a guard.

    config: a bursar.toml; None: BURSAR_CONFIG, else ./bursar.toml where there is one, else the defaults, which only
    measure. store: where the ledger is, instead of [store] url ("sqlite:///bursar.db" by default; "memory://" keeps
    nothing), or a store itself, such as `bursar.testing.ledger()`. finish: makes the text of a partial answer from a
    bursar.Finishing where a budget is used up and no run around the call has its own way. Raises ConfigError or
    StoreFailure.
    """
    settings = load(Path(config) if config is not None else None)
    attempts = settings.retry.library_attempts
    if store is not None and not isinstance(store, str):
        return Guard(make_policy(settings, secrets.token_bytes(32)), store, attempts=attempts, finish=finish)
    if store is not None:
        settings = _elsewhere(settings, store)
    books = open_books(settings)
    return Guard(books.policy, books.store, attempts=attempts, finish=finish)


def _elsewhere(settings: Settings, url: str) -> Settings:
    try:
        section = type(settings.store).model_validate({**settings.store.model_dump(), "url": url})
    except ValidationError:
        expected = f"expected 'sqlite:///path' or 'memory://', got {url!r:.80}"
        raise ConfigError([Fault("bursar.open", None, "store", expected)]) from None
    return settings.model_copy(update={"store": section})
