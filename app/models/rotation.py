"""Rotations of credentials."""

import sqlalchemy as sa

from app.domain.rotation import Activate, DestroyPrevious, RotationState
from app.models.base import UUID, instant, metadata, one_of, organization

credential_rotation = sa.Table(
    "credential_rotation",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    sa.Column("credential_id", UUID, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("activate", sa.Text, nullable=False),
    sa.Column("destroy_previous", sa.Text, nullable=False),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    instant("decided_at", nullable=True),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id", "key_version"],
        [
            "credential_version.organization_id",
            "credential_version.credential_id",
            "credential_version.key_version",
        ],
    ),
    one_of("state", *RotationState),
    one_of("activate", *Activate),
    one_of("destroy_previous", *DestroyPrevious),
    sa.Index(
        "uq_credential_rotation_version", "organization_id", "credential_id", "key_version", unique=True
    ),
)
