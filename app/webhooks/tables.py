"""Webhook endpoints and the outbox of deliveries to them. Signing secrets rest in the secret store."""

import sqlalchemy as sa

from app.database.columns import UUID, instant, metadata, one_of, organization
from app.webhooks.endpoints import DeliveryState, EndpointState

webhook_endpoint = sa.Table(
    "webhook_endpoint",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("intent_id", UUID, nullable=False),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    # Where the secret lies in the store: a rewrap moves it on.
    sa.Column("store_version", sa.Integer, nullable=False, server_default="1"),
    one_of("state", *EndpointState),
)

webhook_delivery = sa.Table(
    "webhook_delivery",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    sa.Column("endpoint_id", UUID, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    # The text itself: what is signed must not change by being parsed and written again.
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    # Of the last attempt, in our words: never what the receiver said.
    sa.Column("last_outcome", sa.Text),
    instant("created_at"),
    instant("ended_at", nullable=True),
    one_of("state", *DeliveryState),
    sa.ForeignKeyConstraint(
        ["organization_id", "endpoint_id"],
        ["webhook_endpoint.organization_id", "webhook_endpoint.id"],
        ondelete="CASCADE",
    ),
    sa.Index("ix_webhook_delivery_endpoint", "organization_id", "endpoint_id"),
    sa.Index("ix_webhook_delivery_ended", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
)
