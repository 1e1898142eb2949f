"""The schema of a SQLite ledger, by Alembic migrations that ship with the package.

A database that is up to date costs one query: Alembic and SQLAlchemy are imported only where a migration is due. Two
processes that open a new file take turns. A database newer than this package is refused.
"""

import sqlite3
from pathlib import Path
from typing import Any

from bursar.stores.base import StoreFailure
from bursar.stores.owners import Turn

HEAD = "0006"
"""The newest revision in migrations/versions; a test holds it against Alembic's own word."""


def revision(connection: sqlite3.Connection) -> str | None:
    """The revision that the database is at; None: none yet."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
    return None if found is None else str(found[0])


def prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Bring the database up to HEAD, in write-ahead mode. Returns at once where it is there already."""
    at = revision(connection)
    if at == HEAD:
        return
    if at is not None and at > HEAD:
        raise StoreFailure(f"the ledger {path} is at revision {at}, this Bursar knows {HEAD}: upgrade bursar")
    turn = Turn(path)
    try:
        with turn.taken():
            if revision(connection) != HEAD:
                connection.execute("PRAGMA journal_mode = WAL")
                _upgrade(connection)
    finally:
        turn.close()


def _upgrade(connection: sqlite3.Connection) -> None:
    from alembic import command  # noqa: PLC0415
    from sqlalchemy import create_engine, pool  # noqa: PLC0415

    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=pool.StaticPool)
    with engine.connect() as bound:
        # SQLAlchemy leaves BEGIN to the driver, and ours is in autocommit: all of the upgrade or none.
        connection.execute("BEGIN IMMEDIATE")
        command.upgrade(config(bound), "head")


def config(bound: Any = None) -> Any:
    """Alembic's configuration of our migrations, on a SQLAlchemy connection."""
    from alembic.config import Config  # noqa: PLC0415

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    settings.attributes["connection"] = bound
    return settings
