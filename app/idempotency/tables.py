"""Responses stored for repeated requests. The Idempotency-Key and the request body are stored only as digests."""

import sqlalchemy as sa

from app.database.columns import JSONB, UUID, instant, metadata, organization

idempotency_key = sa.Table(
    "idempotency_key",
    metadata,
    organization(),
    sa.Column("key_digest", sa.LargeBinary, primary_key=True),
    sa.Column("request_digest", sa.LargeBinary, nullable=False),
    sa.Column("holder_id", UUID, nullable=False),
    instant("held_until"),
    sa.Column("resource_id", UUID, nullable=False),
    sa.Column("status_code", sa.Integer),
    sa.Column("headers", JSONB),
    sa.Column("body", sa.LargeBinary),
    instant("expires_at", index=True),
    sa.CheckConstraint("(status_code IS NULL) = (body IS NULL)", name="answer"),
)
