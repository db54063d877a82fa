"""The table of leases, for revocation. The wrapping token itself is never stored."""

import sqlalchemy as sa

from app.database.columns import UUID, instant, metadata, organization

credential_lease = sa.Table(
    "credential_lease",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    sa.Column("credential_id", UUID, nullable=False),
    sa.Column("key_version", sa.Integer, nullable=False),
    sa.Column("accessor", sa.Text, nullable=False),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    instant("expires_at"),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id", "key_version"],
        [
            "credential_version.organization_id",
            "credential_version.credential_id",
            "credential_version.key_version",
        ],
    ),
    sa.Index("ix_credential_lease_version", "organization_id", "credential_id", "expires_at"),
)
