"""Subscriptions, endpoint counts by day, and closed statements."""

import sqlalchemy as sa

from app.billing.statements import LineType
from app.database.columns import instant, metadata, one_of, organization

# Sums of bigints in pico-USD may exceed a bigint.
PICO = sa.Numeric(38, 0)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


subscription = sa.Table(
    "subscription",
    metadata,
    organization(),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("monthly_fee", sa.BigInteger, nullable=False),
    sa.Column("included_endpoints", sa.Integer, nullable=False),
    sa.Column("endpoint_overage_fee", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    instant("created_at"),
    instant("updated_at"),
    sa.Column("updated_by", sa.Text, nullable=False),
    sa.CheckConstraint(
        "monthly_fee >= 0 AND included_endpoints >= 0 AND endpoint_overage_fee >= 0", name="not_negative"
    ),
)

endpoint_count = sa.Table(
    "endpoint_count",
    metadata,
    organization(),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("endpoints", sa.Integer, nullable=False),
    instant("updated_at"),
    sa.Column("updated_by", sa.Text, nullable=False),
    sa.CheckConstraint("endpoints >= 0", name="not_negative"),
)

# Closed statements only. An open statement is computed on each request.
statement = sa.Table(
    "statement",
    metadata,
    organization(),
    sa.Column("month", sa.Date, primary_key=True),
    instant("closed_at"),
    sa.Column("closed_by", sa.Text, nullable=False),
    sa.Column("total", PICO, nullable=False),
    sa.CheckConstraint("extract(day FROM month) = 1", name="first_day"),
)

statement_line = sa.Table(
    "statement_line",
    metadata,
    organization(),
    sa.Column("month", sa.Date, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("type", sa.Text, nullable=False),
    # Usage lines have a mode and a model. Later adjustments are computed per mode and model.
    sa.Column("mode", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("adjusts_month", sa.Date),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("unit_price", sa.BigInteger),
    # Before rounding, and after.
    sa.Column("exact", PICO, nullable=False),
    sa.Column("amount", PICO, nullable=False),
    sa.Column("estimated", PICO, nullable=False),
    _counter("requests"),
    _counter("unpriced_requests"),
    _counter("uncached_input_tokens"),
    _counter("cache_write_5m_tokens"),
    _counter("cache_write_1h_tokens"),
    _counter("cache_read_tokens"),
    _counter("output_tokens"),
    _counter("web_search_requests"),
    sa.ForeignKeyConstraint(["organization_id", "month"], ["statement.organization_id", "statement.month"]),
    one_of("type", *LineType),
    sa.CheckConstraint(
        "CASE type WHEN 'byo_usage' THEN mode IS NOT DISTINCT FROM 'byo'"
        " WHEN 'managed_usage' THEN mode IS NOT DISTINCT FROM 'managed'"
        " WHEN 'adjustment' THEN mode IS NOT DISTINCT FROM 'managed'"
        " ELSE mode IS NULL END",
        name="mode_of_type",
    ),
    # Pharaoh never bills usage that the organization pays its provider for.
    sa.CheckConstraint(
        "mode IS DISTINCT FROM 'byo' OR (exact = 0 AND amount = 0)", name="byo_is_never_billed"
    ),
    sa.CheckConstraint("(mode IS NULL) = (model IS NULL)", name="usage_names_a_model"),
    sa.CheckConstraint(
        "CASE type WHEN 'adjustment' THEN adjusts_month IS NOT NULL AND adjusts_month < month"
        " WHEN 'byo_usage' THEN adjusts_month IS NULL OR adjusts_month < month"
        " ELSE adjusts_month IS NULL END",
        name="adjusts_an_earlier_month",
    ),
)
