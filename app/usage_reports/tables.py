"""Sums of the ledger by UTC hour and day, and up to where each organization's rows are in them.

Two of each width: by mode and model, which most questions ask for, and by everything but session and prompt.
"""

import sqlalchemy as sa

from app.database.columns import UUID, instant, metadata, organization


def _sums() -> list[sa.Column[object]]:
    return [
        sa.Column("requests", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Numeric, nullable=False) for name in SUMMED),
        sa.Column("unpriced_requests", sa.BigInteger, nullable=False),
    ]


# Numeric: a sum of bigints need not fit one. `cost` leaves out rows without a known price.
SUMMED = (
    "uncached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "output_tokens",
    "web_search_requests",
    "cost",
    "billed",
)
SUMS = ("requests", *SUMMED, "unpriced_requests")


def _narrow(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        organization(),
        instant("starting_at", primary_key=True),
        sa.Column("mode", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        *_sums(),
    )


def _detailed(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        organization(),
        instant("starting_at", primary_key=True),
        # Of the dimensions, because a key cannot hold nulls.
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("endpoint_id", sa.Text),
        sa.Column("feature", sa.Text),
        sa.Column("credential_id", UUID),
        sa.Column("key_version", sa.Integer),
        sa.Column("outcome", sa.Text, nullable=False),
        *_sums(),
    )


usage_hour = _narrow("usage_hour")
usage_day = _narrow("usage_day")
usage_hour_detail = _detailed("usage_hour_detail")
usage_day_detail = _detailed("usage_day_detail")

# Rows of the ledger with a smaller `ingest_xid` are in the sums, all others are not.
usage_fold = sa.Table(
    "usage_fold",
    metadata,
    organization(),
    sa.Column("folded_before", sa.BigInteger, nullable=False),
    instant("folded_at"),
)
