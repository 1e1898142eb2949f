"""`bursar keys`: who may use the gateway. A secret is shown once, when it is made; only its hash is kept."""

import secrets
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from bursar.config import load
from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Misuse, ledger, note, say, say_json
from bursar.doors.gateway.access import CLAIMS, key_hash, new_secret
from bursar.doors.open import Books, open_books
from bursar.insights import rows
from bursar.stores.base import Key
from bursar.types import Instant


def create(
    *,
    name: Annotated[str, Parameter(help="What people call it.")],
    tenant: Annotated[str, Parameter(help="Whose calls it makes.")] = "default",
    role: Annotated[
        Literal["data", "admin"], Parameter(help="data makes calls; admin reads the ledger (API, /metrics, pages).")
    ] = "data",
    trust: Annotated[
        str, Parameter(help=f"Ids that it may claim, with commas: {', '.join(sorted(CLAIMS))}; default none.")
    ] = "",
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Make a key and show its secret, once."""
    claims = frozenset(claim.strip() for claim in trust.split(",") if claim.strip())
    if unknown := claims - CLAIMS:
        raise Misuse(f"--trust {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(CLAIMS))}")
    if not name.strip() or not tenant.strip():
        raise Misuse("--name and --tenant: expected a word, got an empty one")
    with closing((books := _books(config)).store) as store:
        first = not any(key.revoked_at is None for key in store.list_keys())
        secret = new_secret()
        key = Key(
            key_id=f"key_{secrets.token_hex(8)}",
            name=name,
            tenant=tenant,
            role=role,
            hash=key_hash(secret, books.secret("keys")),
            created_at=Instant(time.time_ns() // 1000),
            trusted_claims=claims,
        )
        store.create_key(key)
    if as_json:
        say_json({**rows.key(key), "secret": secret})
    else:
        say(secret)
        note(f"{role} key {key.key_id} of tenant {tables.plain(tenant)}: the line above is its secret, not shown again")
    if first:
        note("this is the first key: restart a gateway that is running, for it asks for none until then")


def list_(*, as_json: Json = False, config: Config = None) -> None:
    """The keys, without their secrets."""
    with ledger(config) as (_, store):
        found = store.list_keys()
    if as_json:
        say_json({"items": [rows.key(key) for key in found], "next_cursor": None})
    elif found:
        tables.print_keys(found, tables.console())
    else:
        say("No keys: the gateway serves this machine alone. `bursar keys create --name NAME` makes one.")


def revoke(key_id: str, /, *, as_json: Json = False, config: Config = None) -> None:
    """End a key. Gateways that are running stop taking it within seconds.

    Parameters
    ----------
    key_id
        As `bursar keys list` shows it.
    """
    with ledger(config) as (_, store):
        at = Instant(time.time_ns() // 1000)
        if not store.revoke_key(key_id, at):
            raise Misuse(f"no live key has the id {key_id!r:.80}: see `bursar keys list`")
    if as_json:
        say_json({"key_id": key_id, "revoked_at": rows.iso(at)})
    else:
        say(f"{key_id} is revoked.")


def _books(config: Path | None) -> Books:
    settings = load(config)
    if settings.store.url.startswith("memory:"):
        raise Misuse(f"store.url is {settings.store.url}: a key would be gone at once; set sqlite:///PATH to keep it")
    return open_books(settings)
