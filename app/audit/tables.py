"""The audit log. The service's role may only insert and select."""

import sqlalchemy as sa

from app.database.columns import JSONB, UUID, instant, metadata, organization

audit_event = sa.Table(
    "audit_event",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    instant("occurred_at"),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("credential_id", UUID),
    sa.Column("request_id", sa.Text),
    sa.Column("details", JSONB, nullable=False),
    sa.Index("ix_audit_event_credential", "organization_id", "credential_id", "id"),
    sa.Index("ix_audit_event_occurred_at", "occurred_at", postgresql_using="brin"),
)
