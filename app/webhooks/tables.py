"""Tables of webhook endpoints and of the outbox. Signing secrets are in the secret store."""

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
    # The version of the secret in the store. A rewrap increments it.
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
    # Text, not JSON: parsing and serializing again could change the signed bytes.
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    # The outcome of the last attempt. Never text of the receiver.
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
    # For each message: whether its endpoints are full.
    sa.Index(
        "ix_webhook_delivery_pending",
        "organization_id",
        "endpoint_id",
        postgresql_where=sa.text("state = 'pending'"),
    ),
    sa.Index("ix_webhook_delivery_ended", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
)
