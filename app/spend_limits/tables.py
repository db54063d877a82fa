"""Spend limits, what they have counted by period, reservations, and which thresholds were told. Amounts in pico-USD."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.database.columns import UUID, instant, metadata, one_of, organization
from app.spend_limits.limits import Enforcement, LimitMode, LimitPeriod
from app.spend_limits.reservations import ReservationState
from app.usage_mode.modes import UsageMode

# Sums of bigints.
_SUM = sa.Numeric(38, 0)

spend_limit = sa.Table(
    "spend_limit",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("scope_mode", sa.Text, nullable=False),
    sa.Column("scope_model", sa.Text),
    sa.Column("scope_endpoint_id", sa.Text),
    sa.Column("scope_feature", sa.Text),
    sa.Column("enforcement", sa.Text, nullable=False),
    sa.Column("thresholds", postgresql.ARRAY(sa.Integer), nullable=False),
    # Periods that began before are not counted: part of their events came before the limit.
    instant("counts_from"),
    sa.Column("revision", sa.Integer, nullable=False),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    instant("updated_at"),
    one_of("period", *LimitPeriod),
    one_of("scope_mode", *LimitMode),
    one_of("enforcement", *Enforcement),
)

spend_counter = sa.Table(
    "spend_counter",
    metadata,
    organization(),
    sa.Column("limit_id", UUID, primary_key=True),
    instant("period_starts_at", primary_key=True),
    sa.Column("settled_managed", _SUM, nullable=False),
    sa.Column("settled_byo", _SUM, nullable=False),
    # Always the sum of the open reservations that the limit covers.
    sa.Column("reserved", _SUM, nullable=False),
    # Events without a known price, less those that a correction priced.
    sa.Column("unpriced", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["organization_id", "limit_id"],
        ["spend_limit.organization_id", "spend_limit.id"],
        ondelete="CASCADE",
    ),
)

spend_alert = sa.Table(
    "spend_alert",
    metadata,
    organization(),
    sa.Column("limit_id", UUID, primary_key=True),
    instant("period_starts_at", primary_key=True),
    # The key is what lets each fire once.
    sa.Column("threshold", sa.Integer, primary_key=True, autoincrement=False),
    instant("crossed_at"),
    sa.Column("spent", _SUM, nullable=False),
    sa.ForeignKeyConstraint(
        ["organization_id", "limit_id"],
        ["spend_limit.organization_id", "spend_limit.id"],
        ondelete="CASCADE",
    ),
)

spend_reservation = sa.Table(
    "spend_reservation",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    # Null: no price is known.
    sa.Column("amount", sa.BigInteger),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("endpoint_id", sa.Text),
    sa.Column("feature", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    instant("expires_at"),
    instant("ended_at", nullable=True),
    one_of("mode", *UsageMode),
    one_of("state", *ReservationState),
    # What a new limit starts from.
    sa.Index(
        "ix_spend_reservation_open",
        "organization_id",
        "created_at",
        postgresql_where=sa.text("state = 'open'"),
    ),
    sa.Index("ix_spend_reservation_ended", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
)
