"""What came from which cache, by step: the sums of every row so far."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

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
    told = ", ".join(
        f"SUM({what})" if what.startswith("COALESCE") else f"SUM(CASE WHEN {what} THEN 1 ELSE 0 END)"
        for what in _SUMS.values()
    )
    op.execute(
        f"INSERT INTO rollups (bucket_start, dim, first_key, second_key, tenant, {', '.join(_SUMS)}) "
        f"SELECT started_at / 900000000 * 15, 'cache|step', cache, COALESCE(step, ''), tenant, {told} "
        "FROM calls WHERE status <> 'open' GROUP BY 1, 3, 4, 5"
    )
