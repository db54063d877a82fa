"""Checks of key versions: pending, then a verdict for good."""

import sqlalchemy as sa

from app.domain.validation import Reason, Trigger, ValidationStatus
from app.models.base import UUID, instant, metadata, one_of, organization

credential_validation = sa.Table(
    "credential_validation",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    sa.Column("credential_id", UUID, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("provider_request_id", sa.Text),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("requested_by", sa.Text, nullable=False),
    instant("created_at"),
    instant("deadline_at"),
    instant("checked_at", nullable=True),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id", "key_version"],
        [
            "credential_version.organization_id",
            "credential_version.credential_id",
            "credential_version.key_version",
        ],
    ),
    one_of("status", *ValidationStatus),
    one_of("reason", *Reason),
    one_of("trigger", *Trigger),
    sa.CheckConstraint("(status = 'pending') = (reason IS NULL)", name="verdict"),
    sa.Index("ix_credential_validation_credential", "organization_id", "credential_id", "id"),
    # Concurrent checks of one key version coalesce: there is at most one pending.
    sa.Index(
        "uq_credential_validation_pending",
        "organization_id",
        "credential_id",
        "key_version",
        unique=True,
        postgresql_where=sa.text("status = 'pending'"),
    ),
)
