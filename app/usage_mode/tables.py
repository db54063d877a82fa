"""The timeline of usage modes: points that hold until the next one. They cannot overlap by construction."""

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
    # Of a switch that was put for later. It may be taken away until its instant; no other point ever.
    sa.Column("is_scheduled", sa.Boolean, nullable=False, server_default="false"),
    one_of("mode", *UsageMode),
    sa.CheckConstraint("mode = 'byo' OR credential_id IS NULL", name="managed_names_no_credential"),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id"],
        ["provider_credential.organization_id", "provider_credential.id"],
    ),
)
