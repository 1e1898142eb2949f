"""Budgets: counters, what a row holds of them, a run's final answer, sketches of what calls really use."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("output_limit", sa.BigInteger, nullable=True))
    op.add_column("calls", sa.Column("charges", sa.Text, nullable=True))
    op.add_column("runs", sa.Column("final_request", sa.Text, nullable=True))
    _counters()
    _sketches()


def _counters() -> None:
    """terms: the claim that last touched it, JSON. window_start: 0 for a lifetime; window_end: NULL for one."""
    op.create_table(
        "counters",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("tenant", "scope", "key", "budget")],
        sa.Column("window_start", sa.BigInteger, nullable=False),
        sa.Column("window_end", sa.BigInteger, nullable=True),
        sa.Column("terms", sa.Text, nullable=False),
        *[sa.Column(name, sa.BigInteger, nullable=False) for name in
          ("settled_nanos", "settled_tokens", "held_nanos", "held_tokens", "rows", "touched_at")],
    )  # fmt: skip
    # In this order it finds all the counters of one run too.
    op.create_index("counters_cell", "counters", ["tenant", "scope", "key", "budget", "window_start"], unique=True)
    # Ended windows are many and never asked for in order of time: the running ones and lifetimes are ranges of it.
    op.create_index("counters_running", "counters", ["window_end", "touched_at"])


def _sketches() -> None:
    """Counts by bin, twenty a decade: of output tokens by step, of reported per estimated input by model."""
    op.create_table(
        "sketches",
        *[sa.Column(name, sa.Text, nullable=False) for name in ("kind", "first_key", "second_key", "tenant")],
        sa.Column("bin", sa.BigInteger, nullable=False), sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("kind", "first_key", "second_key", "tenant", "bin"),
        sqlite_with_rowid=False,
    )  # fmt: skip
