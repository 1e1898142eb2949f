"""The composition root: settings -> policy, store and secrets, for every door. The one place that joins the rooms."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bursar.config import BudgetSection, CacheSection, ConfigError, Fault, Settings
from bursar.doors import credentials
from bursar.doors.composing import Composer
from bursar.money import parse_usd
from bursar.policy import Budget, Candidate, Drain, Override, Policy, Provider, Retry
from bursar.rules.capability import Table
from bursar.rules.cards import compile_book
from bursar.rules.listing import catalog_of
from bursar.stores.base import Store
from bursar.stores.cache import AnswerCache
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.stores.tables import Books as MemoryBooks

_SHORTEST = 32
"""Characters of a root secret."""


class Books(msgspec.Struct, frozen=True):
    """What a configuration comes to, opened."""

    settings: Settings
    policy: Policy
    store: Store
    credentials: Mapping[str, str]
    """The providers' own keys that the environment holds, by provider name."""
    root: bytes

    def secret(self, purpose: str) -> bytes:
        """A key for one purpose, derived from the root secret."""
        return derive(self.root, purpose)


def open_books(settings: Settings, environ: Mapping[str, str] = os.environ) -> Books:
    """Open the store, compile the policy, derive the secrets. Raises ConfigError or StoreFailure."""
    root = _root_secret(settings, environ)
    policy = make_policy(settings, derive(root, "digests"), environ)
    held = credentials.held(policy.providers.values(), environ)
    return Books(settings, policy, open_store(settings.store.url, settings.cache), held, root)


def open_store(url: str, cache: CacheSection | None = None) -> Store:
    """The store at a URL: sqlite:///relative or sqlite:////absolute, or memory://; kept answers are where `cache` says.

    Unless it names a file they are in one beside the ledger, or in memory as the ledger is.
    """
    told = cache or CacheSection()
    kept = None if told.path is None else Path(told.path)
    if url.startswith("memory:"):
        books = MemoryBooks()
        books.cache = AnswerCache(kept, told.max_bytes)
        return MemoryStore(books)
    path = sqlite_path(url)
    return SqliteStore(path, cache=AnswerCache(kept or path.with_name(path.name + ".cache"), told.max_bytes))


def sqlite_path(url: str) -> Path:
    """sqlite:///bursar.db -> bursar.db; sqlite:////var/bursar.db -> /var/bursar.db."""
    return Path(url.removeprefix("sqlite:///"))


def make_policy(settings: Settings, digest_key: bytes = b"", environ: Mapping[str, str] | None = None) -> Policy:
    """The frozen policy of a configuration; imports and reads what steps name, and the price data when it is asked.

    environ: where the URLs of alerts' services are; None leaves these out, for whoever only reads the ledger. Raises
    ConfigError with every fault of what is named outside the file.
    """
    composer = Composer(settings)
    providers = {name: _provider(name, section) for name, section in settings.providers.items()}
    catalogs = {p.name: found for p in providers.values() if (found := p.catalog or catalog_of(p.base_url))}
    overrides = {
        name: Override(**{k: v for k, v in section.model_dump().items() if v is not None})
        for name, section in settings.prices.items()
    }
    capabilities = {name: section.policy() for name, section in settings.capabilities.items()}
    steps, alerts = composer.steps(), composer.alerts(environ)
    composer.done()
    retry, drain = settings.retry, settings.drain
    return Policy(
        prices=compile_book(overrides, catalogs),
        providers=providers,
        tiers={name: tuple(map(_candidate, listed)) for name, listed in settings.tiers.items()},
        retry=Retry(retry.attempts, retry.base, retry.cap, retry.longest_wait),
        drain=Drain(drain.streams, -(-drain.time // 1000), parse_usd(drain.max_usd)),
        budgets=tuple(map(_budget, settings.budgets)),
        steps=steps,
        alerts=alerts,
        breakers=tuple(section.policy() for section in settings.breakers),
        routing=settings.routing.policy(),
        capabilities=Table(capabilities, catalogs),
        unknown_price=settings.unknown_price,
        opaque_input_tokens=settings.opaque_input_tokens,
        finish_text=settings.finish_text,
        refuse_status=settings.refuse_status,
        on_disconnect=settings.on_disconnect,
        capture=settings.capture,
        cache_key=derive(digest_key, "answers"),
        digest_key=digest_key,
    )


def _provider(name: str, section: object) -> Provider:
    told = section.model_dump()  # type: ignore[attr-defined]
    return Provider(name=name, **told)


def _candidate(text: str) -> Candidate:
    provider, _, model = text.partition("/")
    return Candidate(provider, model)


def _budget(section: BudgetSection) -> Budget:
    """A soft budget holds the input that is likely, unless it is told otherwise."""
    held = section.input_hold or ("ceiling" if section.hard else "p99.9")
    return Budget(
        name=section.name,
        scope=section.scope,
        match=section.match.policy(),
        window=section.window,
        zone=section.timezone,
        limit_nanos=section.limit_usd,
        limit_tokens=section.limit_tokens,
        on_exhausted=section.on_exhausted,
        finish_reserve=section.finish_reserve,
        finish_text=section.finish_text,
        max_share=section.max_share,
        wrap_up=section.wrap_up,
        patience_ms=section.patience,
        learned_input=held == "p99.9",
        tell_model=section.tell_model,
    )


def derive(root: bytes, purpose: str) -> bytes:
    """HMAC-SHA256(root, "bursar:" + purpose): one root secret, a key of its own for each purpose."""
    return hmac.new(root, f"bursar:{purpose}".encode(), hashlib.sha256).digest()


def _root_secret(settings: Settings, environ: Mapping[str, str]) -> bytes:
    named = settings.secrets.root_env
    if told := environ.get(named, ""):
        if len(told) < _SHORTEST:
            raise _unusable(
                f"the variable {named} holds {len(told)} characters: give it {_SHORTEST} random ones or more"
            )
        return told.encode()
    if settings.store.url.startswith("memory:"):
        return secrets.token_bytes(32)
    path = sqlite_path(settings.store.url)
    return _secret_file(path.with_name(path.name + ".secret"))


def _unusable(message: str) -> ConfigError:
    return ConfigError([Fault("secrets", None, "secrets.root_env", message)])


def _secret_file(path: Path) -> bytes:
    """The 0600 file's secret; made where it is missing, by one process of however many start at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fresh = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        if not path.exists():
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        root, mode = path.read_bytes().strip(), path.stat().st_mode
    except OSError as fault:
        raise _unusable(f"the secret file {path} cannot be used ({fault.strerror}): or name a variable here") from None
    if mode & 0o077:
        raise _unusable(f"others may read the secret file {path} (mode {mode & 0o777:o}): chmod 600 {path}")
    if len(root) < _SHORTEST:
        raise _unusable(f"the secret file {path} holds {len(root)} bytes, not the 64 that were written: restore it")
    return root
