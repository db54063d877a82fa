"""Create credentials, validations, audit, idempotency, rate limits, job queue and the embedded store.

Revision ID: 5d1c2a7e9b04
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "5d1c2a7e9b04"
down_revision = None
branch_labels = None
depends_on = None

UUID = postgresql.UUID(as_uuid=True)

# What the service's role may do. The audit trail is append-only by the lack of a grant.
GRANTS = {
    "provider_credential": "SELECT, INSERT, UPDATE, DELETE",
    "credential_version": "SELECT, INSERT, UPDATE, DELETE",
    "fingerprint_claim": "SELECT, INSERT, DELETE",
    "credential_validation": "SELECT, INSERT, UPDATE",
    "audit_event": "SELECT, INSERT",
    "idempotency_key": "SELECT, INSERT, UPDATE, DELETE",
    "rate_counter": "SELECT, INSERT, UPDATE",
    "sealed_secret": "SELECT, INSERT, UPDATE",
}

# Purges cross organizations, so they run as the owner, with nothing to be led astray by.
PURGES = {
    "purge_idempotency_keys": "DELETE FROM public.idempotency_key WHERE expires_at < now()",
    "purge_rate_counters": "DELETE FROM public.rate_counter WHERE minute < now() - interval '10 minutes'",
}


PURGED = ("idempotency_key", "rate_counter")


def instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    create_role()
    create_credentials()
    create_validations()
    create_trail_and_bookkeeping()
    for table, privileges in GRANTS.items():
        op.execute(f"GRANT {privileges} ON {table} TO byok_service")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        if table not in PURGED:
            # FORCE: the owner is held to it too, so a maintenance script cannot forget its WHERE either.
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} TO byok_service "
            "USING (organization_id = current_setting('byok.org', true)) "
            "WITH CHECK (organization_id = current_setting('byok.org', true))"
        )
    # These two belong to no organization.
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON job_queue TO byok_service")
    op.execute("GRANT SELECT, INSERT ON sealing_keyset TO byok_service")
    op.execute("GRANT SELECT ON alembic_version TO byok_service")
    create_purges()


def create_role() -> None:
    """The role is the server's, not the database's: another database may have made it, even just now."""
    op.execute("""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'byok_service') THEN
                CREATE ROLE byok_service NOLOGIN NOSUPERUSER NOBYPASSRLS;
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END $$
    """)
    # SET ROLE needs membership, which a superuser has of itself. Whoever may not grant it was
    # granted it by the administrator who made the role; `byok doctor` tells otherwise.
    op.execute("""
        DO $$ BEGIN
            IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                EXECUTE format('GRANT byok_service TO %I', current_user);
            END IF;
        EXCEPTION WHEN insufficient_privilege THEN NULL;
        END $$
    """)
    op.execute("GRANT USAGE ON SCHEMA public TO byok_service")


def create_credentials() -> None:
    op.create_table(
        "provider_credential",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("id", UUID, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("current_key_version", sa.Integer, nullable=False),
        sa.Column("previous_key_version", sa.Integer),
        instant("created_at"),
        sa.Column("created_by", sa.Text, nullable=False),
        instant("updated_at"),
        instant("rotated_at", nullable=True),
        instant("last_used_at", nullable=True),
        instant("deleted_at", nullable=True),
        sa.Column("deleted_by", sa.Text),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_provider_credential"),
        sa.CheckConstraint(
            "state IN ('creating', 'active', 'disabled', 'deleting', 'deleted')",
            name=op.f("ck_provider_credential_state"),
        ),
    )
    op.create_table(
        "credential_version",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("credential_id", UUID, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("intent_id", UUID, nullable=False),
        sa.Column("expected_store_version", sa.Integer, nullable=False),
        sa.Column("store_version", sa.Integer),
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
        sa.Column("definite_status", sa.Text),
        sa.Column("definite_reason", sa.Text),
        instant("definite_checked_at", nullable=True),
        sa.Column("definite_request_id", sa.Text),
        sa.Column("latest_status", sa.Text, nullable=False),
        sa.Column("latest_reason", sa.Text),
        instant("latest_checked_at", nullable=True),
        sa.Column("latest_request_id", sa.Text),
        sa.PrimaryKeyConstraint(
            "organization_id", "credential_id", "key_version", name="pk_credential_version"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id"],
            ["provider_credential.organization_id", "provider_credential.id"],
            name=op.f("fk_credential_version_organization_id"),
        ),
        sa.CheckConstraint("key_version >= 1", name=op.f("ck_credential_version_key_version")),
        sa.CheckConstraint(
            "state IN ('intent', 'abandoned') OR store_version IS NOT NULL",
            name=op.f("ck_credential_version_store_version"),
        ),
        sa.CheckConstraint(
            "state IN ('intent', 'stored', 'active', 'previous', 'rejected', 'abandoned', 'destroyed')",
            name=op.f("ck_credential_version_state"),
        ),
        sa.CheckConstraint(
            "auth_style IN ('x_api_key', 'bearer')", name=op.f("ck_credential_version_auth_style")
        ),
        sa.CheckConstraint(
            "definite_status IN ('valid', 'invalid')", name=op.f("ck_credential_version_definite_status")
        ),
        sa.CheckConstraint(
            "latest_status IN ('pending', 'valid', 'invalid', 'indeterminate')",
            name=op.f("ck_credential_version_latest_status"),
        ),
    )
    op.create_index(
        "uq_credential_version_intent", "credential_version", ["organization_id", "intent_id"], unique=True
    )
    for name, states in (("active", "state = 'active'"), ("pending", "state IN ('intent', 'stored')")):
        op.create_index(
            f"uq_credential_version_{name}",
            "credential_version",
            ["organization_id", "credential_id"],
            unique=True,
            postgresql_where=sa.text(states),
        )
    op.create_table(
        "fingerprint_claim",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("credential_id", UUID, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "fingerprint", name="pk_fingerprint_claim"),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id"],
            ["provider_credential.organization_id", "provider_credential.id"],
            name=op.f("fk_fingerprint_claim_organization_id"),
        ),
    )
    op.create_table(
        "sealed_secret",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("credential_id", UUID, nullable=False),
        sa.Column("store_version", sa.Integer, nullable=False),
        sa.Column("intent_id", UUID),
        sa.Column("sealed", sa.LargeBinary),
        instant("created_at"),
        instant("destroyed_at", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "credential_id", "store_version", name="pk_sealed_secret"),
    )
    op.create_table(
        "sealing_keyset",
        sa.Column("singleton", sa.Boolean, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_sealing_keyset"),
        sa.CheckConstraint("singleton", name=op.f("ck_sealing_keyset_singleton")),
    )


def create_validations() -> None:
    op.create_table(
        "credential_validation",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("id", UUID, nullable=False),
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
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_credential_validation"),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id", "key_version"],
            [
                "credential_version.organization_id",
                "credential_version.credential_id",
                "credential_version.key_version",
            ],
            name=op.f("fk_credential_validation_organization_id"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'valid', 'invalid', 'indeterminate')",
            name=op.f("ck_credential_validation_status"),
        ),
        sa.CheckConstraint(
            "reason IN ('ok', 'rate_limited', 'model_not_found', 'invalid_key', 'revoked_or_disabled',"
            " 'insufficient_permission', 'workspace_required', 'billing_problem', 'not_anthropic_compatible',"
            " 'redirect_refused', 'tls_error', 'address_refused', 'timeout', 'unreachable', 'edge_blocked',"
            " 'overloaded', 'interrupted', 'secret_store_unavailable', 'dns_unavailable', 'unexpected_answer')",
            name=op.f("ck_credential_validation_reason"),
        ),
        sa.CheckConstraint("trigger IN ('save', 'request')", name=op.f("ck_credential_validation_trigger")),
        sa.CheckConstraint(
            "(status = 'pending') = (reason IS NULL)", name=op.f("ck_credential_validation_verdict")
        ),
    )
    op.create_index(
        "ix_credential_validation_credential",
        "credential_validation",
        ["organization_id", "credential_id", "id"],
    )
    op.create_index(
        "uq_credential_validation_pending",
        "credential_validation",
        ["organization_id", "credential_id", "key_version"],
        unique=True,
        postgresql_where=sa.text("status = 'pending'"),
    )


def create_trail_and_bookkeeping() -> None:
    op.create_table(
        "audit_event",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("id", UUID, nullable=False),
        instant("occurred_at"),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("credential_id", UUID),
        sa.Column("request_id", sa.Text),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_audit_event"),
    )
    op.create_index("ix_audit_event_credential", "audit_event", ["organization_id", "credential_id", "id"])
    op.create_table(
        "idempotency_key",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("key_digest", sa.LargeBinary, nullable=False),
        sa.Column("request_digest", sa.LargeBinary, nullable=False),
        sa.Column("holder_id", UUID, nullable=False),
        instant("held_until"),
        sa.Column("resource_id", UUID, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("headers", postgresql.JSONB()),
        sa.Column("body", sa.LargeBinary),
        instant("expires_at"),
        sa.PrimaryKeyConstraint("organization_id", "key_digest", name="pk_idempotency_key"),
        sa.CheckConstraint("(status_code IS NULL) = (body IS NULL)", name=op.f("ck_idempotency_key_answer")),
    )
    op.create_index("ix_idempotency_key_expires_at", "idempotency_key", ["expires_at"])
    op.create_table(
        "rate_counter",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        instant("minute"),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "kind", "minute", name="pk_rate_counter"),
    )
    op.create_index("ix_rate_counter_minute", "rate_counter", ["minute"])
    op.create_table(
        "job_queue",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("id", UUID, nullable=False),
        instant("due_at"),
        sa.PrimaryKeyConstraint("organization_id", "kind", "id", name="pk_job_queue"),
    )
    op.create_index("ix_job_queue_due", "job_queue", ["kind", "due_at"])


def create_purges() -> None:
    """SECURITY DEFINER functions of the owner, who is not held to the policies of these two tables."""
    for name, statement in PURGES.items():
        op.execute(f"""
            CREATE FUNCTION {name}() RETURNS bigint
            LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ WITH gone AS ({statement} RETURNING 1) SELECT count(*) FROM gone $$
        """)
        op.execute(f"REVOKE ALL ON FUNCTION {name}() FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name}() TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name in PURGES:
        op.execute(f"DROP FUNCTION {name}()")
    for table in (
        "job_queue",
        "rate_counter",
        "idempotency_key",
        "audit_event",
        "credential_validation",
        "sealed_secret",
        "sealing_keyset",
        "fingerprint_claim",
        "credential_version",
        "provider_credential",
    ):
        op.drop_table(table)
    # The role stays where another database of the server still uses it.
    op.execute("REVOKE ALL ON alembic_version FROM byok_service")
    op.execute("REVOKE USAGE ON SCHEMA public FROM byok_service")
    op.execute("""
        DO $$ BEGIN
            DROP ROLE byok_service;
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL;
        END $$
    """)
