"""Spend limits, their counters by period, crossed thresholds and reservations. Amounts are in pico-USD."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.database.columns import UUID, instant, metadata, one_of, organization
from app.spend_limits.limits import Enforcement, LimitMode, LimitPeriod
from app.spend_limits.reservations import StoredReservationState
from app.usage_mode.modes import UsageMode

# Sums of bigints may exceed a bigint.
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
    # Spend before this time is not counted.
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
    # The sum of the open reservations that match the limit's scope.
    sa.Column("reserved", _SUM, nullable=False),
    # Requests without a known price, minus those that a correction priced.
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
    # The primary key makes each threshold notify once in a period.
    sa.Column("threshold", sa.Integer, primary_key=True, autoincrement=False),
    instant("crossed_at"),
    sa.Column("spent", _SUM, nullable=False),
    # The limit's amount at that time. Null: an earlier release recorded the crossing.
    sa.Column("amount", sa.BigInteger),
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
    # Null if the price is not known.
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
    # The number of ledger rows that name the reservation and have no price yet.
    sa.Column("unpriced_rows", sa.Integer, nullable=False, server_default="0"),
    # The journal of relayed calls: an open reservation with `last_seen_at` is a call of `app.relay`. Null in all others.
    sa.Column("session_id", sa.Text),
    sa.Column("prompt_id", sa.Text),
    sa.Column("credential_id", UUID),
    sa.Column("key_version", sa.Integer),
    sa.Column("input_estimate", sa.Integer),
    instant("last_seen_at", nullable=True),
    sa.Column("usage_so_far", sa.Text),
    one_of("mode", *UsageMode),
    one_of("state", *StoredReservationState),
    # The reservations that are still charged, for lists and for counting a new limit.
    sa.Index(
        "ix_spend_reservation_held",
        "organization_id",
        "id",
        postgresql_where=sa.text("state IN ('open', 'unpriced')"),
    ),
    # The open calls with a key version, to know when it is safe to revoke, and the calls that no process handles any more.
    sa.Index(
        "ix_spend_reservation_version",
        "organization_id",
        "credential_id",
        "key_version",
        postgresql_where=sa.text("state = 'open' AND credential_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_spend_reservation_last_seen",
        "last_seen_at",
        postgresql_where=sa.text("state = 'open' AND last_seen_at IS NOT NULL"),
    ),
    sa.Index("ix_spend_reservation_ended", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
)
