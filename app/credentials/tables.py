"""Tables of credentials, key versions, fingerprint claims, rotations and validations. No column holds a key."""

import sqlalchemy as sa

from app.credentials.records import Activate, CredentialState, DestroyPrevious, VersionState
from app.credentials.rotations import RotationState
from app.credentials.validation_results import Reason, Trigger, ValidationStatus
from app.database.columns import UUID, instant, metadata, one_of, organization
from app.provider_url.endpoint import AuthStyle

provider_credential = sa.Table(
    "provider_credential",
    metadata,
    organization(),
    sa.Column("id", UUID, primary_key=True),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    # The active (or last active) version and the one that a rollback would restore: reads join by primary key.
    sa.Column("current_key_version", sa.Integer, nullable=False),
    sa.Column("previous_key_version", sa.Integer),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    instant("updated_at"),
    instant("rotated_at", nullable=True),
    instant("last_used_at", nullable=True),
    instant("deleted_at", nullable=True),
    sa.Column("deleted_by", sa.Text),
    one_of("state", *CredentialState),
    # Deleted credentials stay, so an organization may have any number of them.
    sa.Index(
        "ix_provider_credential_live",
        "organization_id",
        "id",
        postgresql_where=sa.text("state NOT IN ('deleting', 'deleted')"),
    ),
)

credential_version = sa.Table(
    "credential_version",
    metadata,
    organization(),
    sa.Column("credential_id", UUID, primary_key=True),
    sa.Column("key_version", sa.Integer, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    # The write protocol: the writer, the store version before its write, and the store version of its write.
    sa.Column("intent_id", UUID, nullable=False),
    sa.Column("expected_store_version", sa.Integer, nullable=False),
    sa.Column("store_version", sa.Integer),
    # The endpoint is bound to the key version.
    sa.Column("base_url", sa.Text),
    sa.Column("messages_url", sa.Text, nullable=False),
    sa.Column("auth_style", sa.Text, nullable=False),
    sa.Column("workspace_id", sa.Text),
    sa.Column("probe_model", sa.Text),
    sa.Column("key_hint", sa.Text),
    sa.Column("fingerprint", sa.Text, nullable=False),
    instant("created_at"),
    sa.Column("created_by", sa.Text, nullable=False),
    instant("activated_at", nullable=True),
    instant("retires_at", nullable=True),
    instant("destroyed_at", nullable=True),
    instant("last_used_at", nullable=True),
    # When it was last replaced, and when its last lease expires. They decide when it is safe to revoke.
    instant("replaced_at", nullable=True),
    instant("leased_until", nullable=True),
    # The last definite validation result of this version, and the latest result of any kind.
    sa.Column("definite_status", sa.Text),
    sa.Column("definite_reason", sa.Text),
    instant("definite_checked_at", nullable=True),
    sa.Column("definite_request_id", sa.Text),
    sa.Column("latest_status", sa.Text, nullable=False),
    sa.Column("latest_reason", sa.Text),
    instant("latest_checked_at", nullable=True),
    sa.Column("latest_request_id", sa.Text),
    # Consecutive results that were not definite. They decide how long to wait before the next validation.
    sa.Column("indeterminate_streak", sa.Integer, nullable=False, server_default="0"),
    # The first of two results that together make a valid key invalid. Null unless a second probe is scheduled.
    sa.Column("suspected_reason", sa.Text),
    instant("suspected_at", nullable=True),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id"],
        ["provider_credential.organization_id", "provider_credential.id"],
    ),
    sa.CheckConstraint("key_version >= 1", name="key_version"),
    sa.CheckConstraint("state IN ('intent', 'abandoned') OR store_version IS NOT NULL", name="store_version"),
    one_of("state", *VersionState),
    one_of("auth_style", *AuthStyle),
    one_of("definite_status", ValidationStatus.VALID, ValidationStatus.INVALID),
    one_of("latest_status", *ValidationStatus),
    sa.CheckConstraint("(suspected_reason IS NULL) = (suspected_at IS NULL)", name="suspicion"),
    # Not beginning with the organization, so that the checks of foreign keys use the primary key (`found_for_each`).
    sa.Index("uq_credential_version_intent", "intent_id", "organization_id", unique=True),
    sa.Index(
        "uq_credential_version_active",
        "organization_id",
        "credential_id",
        unique=True,
        postgresql_where=sa.text("state = 'active'"),
    ),
    # At most one version of a credential is being activated.
    sa.Index(
        "uq_credential_version_pending",
        "organization_id",
        "credential_id",
        unique=True,
        postgresql_where=sa.text("state IN ('intent', 'stored')"),
    ),
)

# Which live credential has a key. It makes `duplicate_key` exact under concurrency, while the versions of
# one credential may have the same key.
fingerprint_claim = sa.Table(
    "fingerprint_claim",
    metadata,
    organization(),
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("credential_id", UUID, nullable=False),
    sa.ForeignKeyConstraint(
        ["organization_id", "credential_id"],
        ["provider_credential.organization_id", "provider_credential.id"],
    ),
)

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
    # The version that was active before the activation; null until then.
    sa.Column("replaced_key_version", sa.Integer),
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
    # At most one validation of a key version is pending, so that concurrent requests share it.
    sa.Index(
        "uq_credential_validation_pending",
        "organization_id",
        "credential_id",
        "key_version",
        unique=True,
        postgresql_where=sa.text("status = 'pending'"),
    ),
)
