"""The ledger: calls, rollups, runs, their cost histogram, learned factors, keys. Amounts are nano-dollars."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _calls()
    _rollups()
    _runs()
    _small_tables()


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


def _number(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


def _calls() -> None:
    op.create_table(
        "calls",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _text("request_id"), _number("attempt"),
        *[_text(name, null=True) for name in
          ("run_id", "parent_run_id", "session_id", "user_id", "user_tier", "agent_id", "step")],
        _text("tenant"), _text("tags"), _text("key_id", null=True),
        _number("started_at"), _number("duration_ms", null=True), _number("first_byte_ms", null=True),
        _text("api"), _text("provider"), _text("requested_model", null=True), _text("model", null=True),
        _text("tier", null=True), _text("route_reason"), _number("stream"),
        _text("status"), _number("http_status", null=True), _text("error", null=True), _text("cache"),
        *[_number(name, null=True) for name in
          ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")],
        _text("usage", null=True), _text("service_tier", null=True), _text("terms"),
        _number("cost_nanos", null=True), _text("cost_status"), _number("saved_nanos", null=True),
        _text("price_id", null=True), _number("hold_nanos", null=True),
        _number("input_estimate", null=True), _number("output_estimate", null=True),
        _text("purpose"), _number("sdk_retry"), _number("validated", null=True), _text("response_id", null=True),
        sa.Column("blocks", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=True), sa.Column("response", sa.LargeBinary, nullable=True),
        _text("owner"),
    )  # fmt: skip
    op.create_index("calls_request", "calls", ["request_id", "attempt"], unique=True)
    op.create_index("calls_time", "calls", ["started_at"])
    for label in ("run", "session", "user"):
        # By session and user only what has closed: a reserve is waited for, and each index that it touches is a page.
        closed = "" if label == "run" else " AND status <> 'open'"
        named = sa.text(f"{label}_id IS NOT NULL{closed}")
        op.create_index(
            f"calls_{label}", "calls", [f"{label}_id", "started_at"], sqlite_where=named, postgresql_where=named
        )
    under_way = sa.text("status = 'open'")
    op.create_index("calls_open", "calls", ["owner"], sqlite_where=under_way, postgresql_where=under_way)


COUNTERS = (
    "calls", "attempts", "completed", "failed", "abandoned", "expired", "hits", "refused", "input_tokens",
    "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_nanos", "saved_nanos",
    "unpriced", "estimated", "unknown_usage",
)  # fmt: skip


def _rollups() -> None:
    """bucket_start: minutes since the epoch, every quarter of an hour. keys: the labels, "" where none was given."""
    op.create_table(
        "rollups",
        _number("bucket_start"), _text("dim"), _text("first_key"), _text("second_key"), _text("tenant"),
        *[sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTERS],
    )  # fmt: skip
    # With a rowid: adding to a row then leaves the index alone, a fifth faster than a clustered key.
    op.create_index(
        "rollups_cell", "rollups", ["dim", "bucket_start", "first_key", "second_key", "tenant"], unique=True
    )
    op.create_table(
        "run_histogram",
        _number("bucket_start"), _text("tenant"), _text("agent"), _number("bin"),
        _number("runs"), _number("cost_nanos"), _number("unpriced"),
        sa.PrimaryKeyConstraint("bucket_start", "tenant", "agent", "bin"),
        sqlite_with_rowid=False,
    )  # fmt: skip


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _text("tenant"), _text("run_id"), _text("parent_run_id", null=True), _text("root_run_id"),
        *[_text(name, null=True) for name in ("agent_id", "session_id", "user_id", "user_tier")],
        *[_number(name) for name in
          ("first_at", "last_at", "calls", "rows", "input_tokens", "output_tokens", "cost_nanos", "unpriced",
           "tree_rows", "tree_cost_nanos", "tree_unpriced")],
    )  # fmt: skip
    op.create_index("runs_run", "runs", ["run_id", "tenant"], unique=True)
    op.create_index("runs_time", "runs", ["first_at"])
    child = sa.text("parent_run_id IS NOT NULL")
    op.create_index("runs_parent", "runs", ["parent_run_id"], sqlite_where=child, postgresql_where=child)
    op.create_index("runs_root", "runs", ["root_run_id"], sqlite_where=child, postgresql_where=child)


def _small_tables() -> None:
    op.create_table(
        "factors",
        _text("provider"), _text("model"),
        *[sa.Column(name, sa.Double, nullable=False) for name in
          ("input_estimated", "input_reported", "output_estimated", "output_reported", "decay")],
        sa.PrimaryKeyConstraint("provider", "model"),
    )  # fmt: skip
    op.create_table(
        "keys",
        _text("key_id"), _text("name"), _text("tenant"), _text("role"),
        sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
        _number("created_at"), _text("trusted_claims"), _number("revoked_at", null=True),
        sa.PrimaryKeyConstraint("key_id"),
    )  # fmt: skip
    meta = op.create_table("meta", _text("name"), _number("value"), sa.PrimaryKeyConstraint("name"))
    op.bulk_insert(meta, [{"name": "ignored_settlements", "value": 0}])
