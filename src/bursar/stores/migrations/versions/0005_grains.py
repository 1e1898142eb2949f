"""Rollups and the histogram of run costs by the UTC day too, those of users by four weeks; sums by the users' tiers.

In minutes since the epoch: a quarter of an hour is 15, a day 1,440, four weeks 40,320.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COARSER = ((1_440, ""), (40_320, " AND dim IN ('user_tier|user', 'agent|user')"))
_ASKED = "status IN ('completed', 'failed', 'abandoned', 'expired')"
_SUMS = {
    "calls": "attempt = 1 AND purpose = 'call'",
    "attempts": _ASKED,
    **{status: f"status = '{status}'" for status in ("completed", "failed", "abandoned", "expired", "refused")},
    "hits": "status = 'hit'",
    **{name: f"COALESCE({name}, 0)" for name in
       ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_nanos",
        "saved_nanos")},
    "unpriced": "cost_nanos IS NULL",
    "estimated": "cost_status = 'estimated'",
    "unknown_usage": f"{_ASKED} AND (input_tokens IS NULL OR output_tokens IS NULL)",
}  # fmt: skip


def upgrade() -> None:
    op.drop_index("rollups_cell", "rollups")
    op.add_column("rollups", sa.Column("grain", sa.BigInteger, nullable=False, server_default="15"))
    _user_tiers()
    sums = ", ".join(f"SUM({name})" for name in _SUMS)
    for grain, which in _COARSER:
        op.execute(
            f"INSERT INTO rollups (grain, bucket_start, dim, first_key, second_key, tenant, {', '.join(_SUMS)}) "
            f"SELECT {grain}, bucket_start / {grain} * {grain}, dim, first_key, second_key, tenant, {sums} "
            f"FROM rollups WHERE grain = 15{which} GROUP BY 2, 3, 4, 5, 6"
        )
    cell = ["grain", "dim", "bucket_start", "first_key", "second_key", "tenant"]
    op.create_index("rollups_cell", "rollups", cell, unique=True)
    _histogram()


def _user_tiers() -> None:
    told = ", ".join(
        f"SUM({what})" if what.startswith("COALESCE") else f"SUM(CASE WHEN {what} THEN 1 ELSE 0 END)"
        for what in _SUMS.values()
    )
    op.execute(
        f"INSERT INTO rollups (grain, bucket_start, dim, first_key, second_key, tenant, {', '.join(_SUMS)}) "
        "SELECT 15, started_at / 900000000 * 15, 'user_tier|user', COALESCE(user_tier, ''), COALESCE(user_id, ''), "
        f"tenant, {told} FROM calls WHERE status <> 'open' GROUP BY 2, 4, 5, 6"
    )


def _histogram() -> None:
    """The grain leads the key: the table is its own index, and has to be made anew."""
    op.rename_table("run_histogram", "run_histogram_of_quarters")
    names = ("grain", "bucket_start", "tenant", "agent", "bin", "runs", "cost_nanos", "unpriced")
    op.create_table(
        "run_histogram",
        *[sa.Column(name, sa.Text if name in ("tenant", "agent") else sa.BigInteger, nullable=False) for name in names],
        sa.PrimaryKeyConstraint(*names[:5]),
        sqlite_with_rowid=False,
    )
    op.execute(
        f"INSERT INTO run_histogram ({', '.join(names)}) "
        f"SELECT 15, {', '.join(names[1:])} FROM run_histogram_of_quarters"
    )
    op.drop_table("run_histogram_of_quarters")
    op.execute(
        f"INSERT INTO run_histogram ({', '.join(names)}) "
        "SELECT 1440, bucket_start / 1440 * 1440, tenant, agent, bin, SUM(runs), SUM(cost_nanos), SUM(unpriced) "
        "FROM run_histogram GROUP BY 2, 3, 4, 5"
    )
