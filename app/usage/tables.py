"""The ledger: every request to a provider, with the mode that was in force when it started. Append-only.

`usage_event` is partitioned by month of `started_at`, so that retention drops whole partitions. A key that
is exact over all months cannot stand on it; it stands in `usage_event_key`, written in the same transaction.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.database.columns import UUID, instant, metadata, one_of, organization
from app.usage.records import Outcome, UsageSource
from app.usage_mode.modes import UsageMode


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


usage_event_key = sa.Table(
    "usage_event_key",
    metadata,
    organization(),
    # Byte by byte, in the same order on every server: batches are sorted by it.
    sa.Column("event_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("payload_hash", sa.LargeBinary, nullable=False),
    instant("started_at"),
    sa.Index("ix_usage_event_key_started_at", "started_at", postgresql_using="brin"),
)

usage_event = sa.Table(
    "usage_event",
    metadata,
    organization(),
    instant("started_at", primary_key=True),
    sa.Column("event_id", sa.Text(collation="C"), primary_key=True),
    # 0: the event itself; n: its n-th correction, which holds only what the cost lacked.
    sa.Column("correction", sa.Integer, primary_key=True, autoincrement=False),
    instant("completed_at", nullable=True),
    instant("ingested_at"),
    # Tells the fold into the rollups which rows every snapshot has seen.
    sa.Column("ingest_xid", postgresql.BIGINT, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("credential_id", UUID),
    sa.Column("key_version", sa.Integer),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("endpoint_id", sa.Text),
    sa.Column("feature", sa.Text),
    sa.Column("session_id", sa.Text),
    sa.Column("prompt_id", sa.Text),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("usage_source", sa.Text, nullable=False),
    sa.Column("service_tier", sa.Text),
    sa.Column("speed", sa.Text),
    sa.Column("inference_geo", sa.Text),
    _counter("uncached_input_tokens"),
    _counter("cache_write_5m_tokens"),
    _counter("cache_write_1h_tokens"),
    _counter("cache_read_tokens"),
    _counter("output_tokens"),
    _counter("web_search_requests"),
    # Pico-USD. Null: no price is known.
    sa.Column("cost", sa.BigInteger),
    sa.Column("billed", sa.BigInteger, nullable=False),
    sa.Column("price_version", sa.Text),
    sa.Column("flags", sa.Integer, nullable=False),
    sa.Column("provider_request_id", sa.Text),
    sa.Column("reservation_id", UUID),
    one_of("mode", *UsageMode),
    one_of("outcome", *Outcome),
    one_of("usage_source", *UsageSource),
    # What the organization pays its provider for is never billed by us.
    sa.CheckConstraint("mode = 'managed' OR billed = 0", name="byo_is_never_billed"),
    sa.CheckConstraint("billed = 0 OR billed = cost", name="billed_is_cost"),
    sa.Index("ix_usage_event_ingest_xid", "organization_id", "ingest_xid"),
    # What a back-fill of prices reads; a corrected event stays in it.
    sa.Index(
        "ix_usage_event_unpriced",
        "organization_id",
        "started_at",
        "event_id",
        postgresql_where=sa.text("cost IS NULL"),
    ),
    sa.Index(
        "ix_usage_event_session",
        "organization_id",
        "session_id",
        "started_at",
        postgresql_where=sa.text("session_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_usage_event_prompt",
        "organization_id",
        "prompt_id",
        "started_at",
        postgresql_where=sa.text("prompt_id IS NOT NULL"),
    ),
    postgresql_partition_by="RANGE (started_at)",
)
