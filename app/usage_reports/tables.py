"""Rollups of the ledger by UTC hour and day, and the watermark of each organization.

There are three rollups per width: a narrow one by mode and model, which most reports need, a detailed one by what else
identifies the client's request, and a wide one that adds how the provider served it. None has single sessions and prompts.
"""

import sqlalchemy as sa

from app.database.columns import UUID, instant, metadata, organization


def _measure_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("requests", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Numeric, nullable=False) for name in NUMERIC_MEASURES),
        sa.Column("unpriced_requests", sa.BigInteger, nullable=False),
    ]


# Numeric, because a sum of bigints may not fit a bigint. `cost` excludes rows without a known price.
NUMERIC_MEASURES = (
    "uncached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "output_tokens",
    "web_search_requests",
    "cost",
    "billed",
)
MEASURES = ("requests", *NUMERIC_MEASURES, "unpriced_requests")


def _narrow(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        organization(),
        instant("starting_at", primary_key=True),
        sa.Column("mode", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        *_measure_columns(),
    )


def _detailed(name: str, *more: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        organization(),
        instant("starting_at", primary_key=True),
        # A digest of the dimensions, because a primary key cannot contain nulls.
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("endpoint_id", sa.Text),
        sa.Column("feature", sa.Text),
        sa.Column("credential_id", UUID),
        sa.Column("key_version", sa.Integer),
        sa.Column("outcome", sa.Text, nullable=False),
        *more,
        *_measure_columns(),
    )


def _wide(name: str, *indexes: sa.Index) -> sa.Table:
    return _detailed(
        name,
        sa.Column("usage_source", sa.Text, nullable=False),
        sa.Column("service_tier", sa.Text),
        sa.Column("speed", sa.Text),
        sa.Column("inference_geo", sa.Text),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.Column("has_session", sa.Boolean, nullable=False),
        sa.Column("has_prompt", sa.Boolean, nullable=False),
        *indexes,
    )


usage_hour = _narrow("usage_hour")
usage_day = _narrow("usage_day")
usage_hour_detail = _detailed("usage_hour_detail")
usage_day_detail = _detailed("usage_day_detail")
usage_hour_wide = _wide("usage_hour_wide")
usage_day_wide = _wide(
    "usage_day_wide",
    *(
        sa.Index(f"ix_usage_day_wide_{name}", "organization_id", name, "starting_at")
        for name in ("endpoint_id", "feature")
    ),
)

# The watermarks: ledger rows with a smaller `ingest_xid` are in the rollups, all others are not. The wide rollups have
# their own, because they were added later and start with what the ledger still has.
usage_fold = sa.Table(
    "usage_fold",
    metadata,
    organization(),
    sa.Column("folded_before", sa.BigInteger, nullable=False),
    instant("folded_at"),
    sa.Column("wide_folded_before", sa.BigInteger, nullable=False, server_default=sa.text("0")),
)
