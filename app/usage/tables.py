"""The ledger: every request to a provider, with the usage mode that was active when it started. Append-only.

`usage_event` is partitioned by the month of `started_at`, so that retention can drop whole partitions. PostgreSQL has no
unique constraint across partitions without the partition key, so `usage_event_key` makes event ids unique across
all months. Both are written in the same transaction.

`usage_object` keeps the usage objects as they were sent. It is partitioned by the same months, and dropped with them.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.database.columns import UUID, instant, metadata, one_of, organization
from app.usage_events.records import Outcome, UsageSource
from app.usage_mode.modes import UsageMode


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


usage_event_key = sa.Table(
    "usage_event_key",
    metadata,
    organization(),
    # Collation C sorts by bytes, the same on every server. Batches are sorted in this order.
    sa.Column("event_id", sa.Text(collation="C"), primary_key=True),
    sa.Column("payload_hash", sa.LargeBinary, nullable=False),
    instant("started_at"),
    sa.Index("ix_usage_event_key_started_at", "started_at", postgresql_using="brin"),
)

# The first event that named each provider request. Later ones are flagged.
usage_request_key = sa.Table(
    "usage_request_key",
    metadata,
    organization(),
    sa.Column("provider_request_id", sa.Text(collation="C"), primary_key=True),
    instant("started_at"),
    sa.Index("ix_usage_request_key_started_at", "started_at", postgresql_using="brin"),
)

usage_event = sa.Table(
    "usage_event",
    metadata,
    organization(),
    instant("started_at", primary_key=True),
    sa.Column("event_id", sa.Text(collation="C"), primary_key=True),
    # 0: the model that served the request, whose row counts the request; n: the n-th other model.
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False, server_default=sa.text("0")),
    # 0: the part itself; n: its n-th price correction, which has only the missing cost. -1 - n: cancels the row n, because
    # another event corrects this one. The primary key makes sure that each row is cancelled at most once.
    sa.Column("correction", sa.Integer, primary_key=True, autoincrement=False),
    instant("completed_at", nullable=True),
    instant("ingested_at"),
    # The rollup compares it with the oldest running transaction, to skip rows that some snapshot cannot see yet.
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
    # In pico-USD. Null: no price is known.
    sa.Column("cost", sa.BigInteger),
    sa.Column("billed", sa.BigInteger, nullable=False),
    sa.Column("price_version", sa.Text),
    sa.Column("flags", sa.Integer, nullable=False),
    sa.Column("provider_request_id", sa.Text),
    sa.Column("reservation_id", UUID),
    # Of a correcting event: the event that it replaces.
    sa.Column("corrects", sa.Text),
    # Of a row that cancels another one: the correcting event.
    sa.Column("corrected_by", sa.Text),
    one_of("mode", *UsageMode),
    one_of("outcome", *Outcome),
    one_of("usage_source", *UsageSource),
    # Usage that the organization pays its provider for is never billed.
    sa.CheckConstraint("mode = 'managed' OR billed = 0", name="byo_is_never_billed"),
    sa.CheckConstraint("billed = 0 OR billed = cost", name="billed_is_cost"),
    sa.Index("ix_usage_event_ingest_xid", "organization_id", "ingest_xid"),
    # For the price backfill. An event stays in this index after its correction.
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
    sa.Index(
        "ix_usage_event_provider_request",
        "organization_id",
        "provider_request_id",
        postgresql_where=sa.text("provider_request_id IS NOT NULL"),
    ),
    postgresql_partition_by="RANGE (started_at)",
)

# One row per ingested batch and month: a compressed list of `app.usage_events.kept_usage.KeptUsage`. Found by the month of
# the event's start and the time of its ingestion, which all rows of a batch share.
usage_object = sa.Table(
    "usage_object",
    metadata,
    organization(),
    # The start of the month of the events.
    instant("month", primary_key=True),
    instant("ingested_at", primary_key=True),
    # Two batches may have the same ingestion time.
    sa.Column("ingest_xid", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("objects", sa.LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (month)",
)
