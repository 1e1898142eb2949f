"""Rollups of what validators said, and by step and tier; those of sessions by the quarter of an hour alone. What was
added to a request for the provider's prompt cache."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DAY = 1_440
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
    "passed": "validated = 1",
    "rejected": "validated = 0",
}  # fmt: skip
_PAIRS = {
    "provider|model": ("provider", "model"), "agent|model": ("agent_id", "model"), "agent|step": ("agent_id", "step"),
    "user_tier|user": ("user_tier", "user_id"), "agent|user": ("agent_id", "user_id"),
    "user|session": ("user_id", "session_id"), "tier|api": ("tier", "api"), "cache|step": ("cache", "step"),
}  # fmt: skip
_CELL = "grain, bucket_start, dim, first_key, second_key, tenant"


def upgrade() -> None:
    for name in ("passed", "rejected"):
        op.add_column("rollups", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("calls", sa.Column("marks", sa.Text, nullable=True))
    op.execute("DELETE FROM rollups WHERE dim = 'user|session' AND grain <> 15")
    for dim, (first, second) in _PAIRS.items():
        _mark(f"'{dim}'", f"COALESCE({first}, '')", f"COALESCE({second}, '')", "calls")
    _mark("'tag:' || tag.key", "tag.value", "''", "calls, json_each(calls.tags) AS tag")
    _steps_and_tiers()


def _sums(names: tuple[str, ...]) -> str:
    told = (_SUMS[name] for name in names)
    return ", ".join(
        f"SUM({what})" if what.startswith("COALESCE") else f"SUM(CASE WHEN {what} THEN 1 ELSE 0 END)" for what in told
    )


def _mark(dim: str, first: str, second: str, rows: str) -> None:
    """What was judged already, into the sums that there are."""
    for grain in _grains(dim):
        op.execute(
            f"INSERT INTO rollups ({_CELL}, passed, rejected) "
            f"SELECT {grain}, started_at / 900000000 * 15 / {grain} * {grain}, {dim}, {first}, {second}, tenant, "
            f"{_sums(('passed', 'rejected'))} "
            f"FROM {rows} WHERE status <> 'open' AND validated IS NOT NULL GROUP BY 2, 3, 4, 5, 6 "
            f"ON CONFLICT ({_CELL}) DO UPDATE SET passed = excluded.passed, rejected = excluded.rejected"
        )


def _grains(dim: str) -> tuple[int, ...]:
    if dim == "'user|session'":
        return (15,)
    return (15, _DAY, 40_320) if dim in ("'user_tier|user'", "'agent|user'") else (15, _DAY)


def _steps_and_tiers() -> None:
    names = tuple(_SUMS)
    op.execute(
        f"INSERT INTO rollups ({_CELL}, {', '.join(names)}) "
        "SELECT 15, started_at / 900000000 * 15, 'step|tier', COALESCE(step, ''), COALESCE(tier, ''), tenant, "
        f"{_sums(names)} FROM calls WHERE status <> 'open' GROUP BY 2, 4, 5, 6"
    )
    op.execute(
        f"INSERT INTO rollups ({_CELL}, {', '.join(names)}) "
        f"SELECT {_DAY}, bucket_start / {_DAY} * {_DAY}, dim, first_key, second_key, tenant, "
        f"{', '.join(f'SUM({name})' for name in names)} "
        "FROM rollups WHERE grain = 15 AND dim = 'step|tier' GROUP BY 2, 4, 5, 6"
    )
