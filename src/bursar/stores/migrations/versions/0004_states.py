"""Shared documents and their log; what validators said of an answer and why its tier was chosen."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("verdict", sa.Text, nullable=True))
    op.add_column("calls", sa.Column("decision", sa.Text, nullable=True))
    _states()
    _events()


def _place() -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in ("kind", "tenant", "key")]


def _number() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)


def _states() -> None:
    op.create_table(
        "states",
        _number(), *_place(),
        sa.Column("body", sa.LargeBinary, nullable=False), sa.Column("changed_at", sa.BigInteger, nullable=False),
    )  # fmt: skip
    op.create_index("states_key", "states", ["kind", "tenant", "key"], unique=True)
    op.create_index("states_changed", "states", ["kind", "changed_at"])


def _events() -> None:
    """In the order of their ids: clocks may be set back."""
    op.create_table(
        "events",
        _number(), *_place(),
        sa.Column("at", sa.BigInteger, nullable=False), sa.Column("body", sa.LargeBinary, nullable=False),
    )  # fmt: skip
    op.create_index("events_kind", "events", ["kind"])
    op.create_index("events_tenant", "events", ["kind", "tenant"])
    op.create_index("events_key", "events", ["kind", "tenant", "key"])
