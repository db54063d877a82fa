"""The usage mode history. Each change applies until the next one, so changes cannot overlap."""

import sqlalchemy as sa

from app.database.columns import UUID, instant, metadata, one_of, organization
from app.usage_mode.modes import UsageMode

usage_mode_change = sa.Table(
    "usage_mode_change",
    metadata,
    organization(),
    instant("effective_from", primary_key=True),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("credential_id", UUID),
    sa.Column("changed_by", sa.Text, nullable=False),
    # A scheduled change may be cancelled until it takes effect. No other row may be deleted.
    sa.Column("is_scheduled", sa.Boolean, nullable=False, server_default="false"),
    # When the change was requested. Null in rows that are older than the column.
    instant("changed_at", nullable=True, server_default=sa.func.now()),
    one_of("mode", *UsageMode),
    sa.CheckConstraint("mode = 'byo' OR credential_id IS NULL", name="managed_names_no_credential"),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id"],
        ["provider_credential.organization_id", "provider_credential.id"],
    ),
)
