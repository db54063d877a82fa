"""The rate limiter's counters: requests per organization, kind and minute."""

import sqlalchemy as sa

from app.database.columns import instant, metadata, organization

rate_counter = sa.Table(
    "rate_counter",
    metadata,
    organization(),
    sa.Column("kind", sa.Text, primary_key=True),
    instant("minute", primary_key=True, index=True),
    sa.Column("requests", sa.Integer, nullable=False),
)
