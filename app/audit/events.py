"""Audit events: who did what, and when. They contain key hints, never keys."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class AuditAction(StrEnum):
    """What was done, in the past tense."""

    CREDENTIAL_CREATED = "credential.created"
    CREDENTIAL_RENAMED = "credential.renamed"
    CREDENTIAL_VALIDATED = "credential.validated"
    CREDENTIAL_LEASED = "credential.leased"
    CREDENTIAL_DISABLED = "credential.disabled"
    CREDENTIAL_ENABLED = "credential.enabled"
    CREDENTIAL_DELETED = "credential.deleted"
    ROTATION_STARTED = "rotation.started"
    ROTATION_ACTIVATED = "rotation.activated"
    ROTATION_REJECTED = "rotation.rejected"
    ROTATION_CANCELLED = "rotation.cancelled"
    ROLLED_BACK = "credential.rolled_back"
    VERSION_DESTROYED = "version.destroyed"
    SPEND_LIMIT_CREATED = "spend_limit.created"
    SPEND_LIMIT_CHANGED = "spend_limit.changed"
    SPEND_LIMIT_DELETED = "spend_limit.deleted"
    WEBHOOK_ENDPOINT_CREATED = "webhook_endpoint.created"
    WEBHOOK_ENDPOINT_DELETED = "webhook_endpoint.deleted"
    USAGE_MODE_CHANGED = "usage_mode.changed"
    PRICES_OVERRIDDEN = "prices.overridden"
    USAGE_MODE_SCHEDULED = "usage_mode.scheduled"
    USAGE_MODE_SCHEDULE_REPLACED = "usage_mode.schedule_replaced"
    USAGE_MODE_SCHEDULE_CANCELLED = "usage_mode.schedule_cancelled"
    SUBSCRIPTION_CHANGED = "subscription.changed"
    ENDPOINTS_COUNTED = "endpoints.counted"
    STATEMENT_CLOSED = "statement.closed"
    SECRET_REWRAPPED = "secret.rewrapped"  # noqa: S105  # an action, not a secret
    SECRET_MOVED = "secret.moved"  # noqa: S105
    SECRET_MOVE_CANCELLED = "secret.move_cancelled"  # noqa: S105
    ROOT_ROTATION_STARTED = "secret_store.root_rotation_started"
    ROOT_ROTATED = "secret_store.root_rotated"
    STORE_MOVE_STARTED = "secret_store.move_started"
    STORE_MOVED = "secret_store.moved"
    STORE_MOVE_CANCELLED = "secret_store.move_cancelled"
    TRANSIT_KEY_ROTATED = "secret_store.transit_key_rotated"
    EXEMPT_HOSTS_ACTIVE = "egress.exempt_hosts_in_force"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """An entry of the audit log. Each use case lists its `details` one by one: hints, versions, results, never input.

    An action that is only text comes from a later release, whose instances share the database during an upgrade.
    """

    id: UUID
    organization_id: str
    occurred_at: datetime
    action: AuditAction | str
    actor: str
    credential_id: UUID | None
    request_id: str | None
    details: dict[str, str | int | bool | None]
