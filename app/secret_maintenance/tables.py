"""Unfinished rewraps: secrets that are being written under a newer transit key, and their store versions."""

import sqlalchemy as sa

from app.database.columns import UUID, metadata, one_of, organization
from app.secret_maintenance.records import RewrapState

secret_rewrap = sa.Table(
    "secret_rewrap",
    metadata,
    organization(),
    sa.Column("intent_id", UUID, primary_key=True),
    sa.Column("credential_id", UUID, nullable=False),
    # Null if `credential_id` is an endpoint's id. The foreign key does not apply to those rows.
    sa.Column("key_version", sa.Integer),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("from_store_version", sa.Integer, nullable=False),
    sa.Column("expected_store_version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id", "key_version"],
        [
            "credential_version.organization_id",
            "credential_version.credential_id",
            "credential_version.key_version",
        ],
    ),
    one_of("state", *RewrapState),
    # One at a time, because each takes the next store version of the credential.
    sa.Index("uq_secret_rewrap_credential", "organization_id", "credential_id", unique=True),
)
