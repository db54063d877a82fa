"""Credentials and their key versions as masked records, and the allowed transitions between version states.

A list makes a hundred records. That takes a third of the time for a `Struct` as for a dataclass.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from app.credentials.validation_results import ValidationResult
from app.provider_url.endpoint import ProviderEndpoint

DEFAULT_PROVIDER = "anthropic"


class Activate(StrEnum):
    """When the new key becomes active."""

    WHEN_VALID = "when_valid"
    IMMEDIATELY = "immediately"


class DestroyPrevious(StrEnum):
    """When the previous key is destroyed: after the retention, or at once because it leaked."""

    AFTER_RETENTION = "after_retention"
    IMMEDIATELY = "immediately"


class CredentialState(StrEnum):
    """The lifecycle of a credential."""

    CREATING = "creating"  # the store may not have the first key yet; invisible to clients
    ACTIVE = "active"
    DISABLED = "disabled"
    DELETING = "deleting"  # the store may still hold key material; shown as deleted
    DELETED = "deleted"


class VersionStateError(RuntimeError):
    """A key version is not in the state that the write protocol guarantees: a bug, not a client error."""


class VersionState(StrEnum):
    """The state of a key version in the write protocol.

    INTENT -> STORED -> ACTIVE -> PREVIOUS -> DESTROYED. REJECTED and ABANDONED are the failure states.
    """

    INTENT = "intent"  # the row is written; the store may or may not have the key
    STORED = "stored"  # the store has the key; it is not active yet
    ACTIVE = "active"
    PREVIOUS = "previous"  # kept for rollback until its retention expires
    REJECTED = "rejected"  # its rotation was rejected or cancelled
    ABANDONED = "abandoned"  # the write did not complete; a tombstone blocks a late write
    DESTROYED = "destroyed"


ALLOWED_TRANSITIONS: dict[VersionState, frozenset[VersionState]] = {
    VersionState.INTENT: frozenset({VersionState.STORED, VersionState.ABANDONED}),
    VersionState.STORED: frozenset({VersionState.ACTIVE, VersionState.REJECTED, VersionState.DESTROYED}),
    VersionState.ACTIVE: frozenset({VersionState.PREVIOUS, VersionState.DESTROYED}),
    VersionState.PREVIOUS: frozenset({VersionState.ACTIVE, VersionState.DESTROYED}),
    VersionState.REJECTED: frozenset({VersionState.DESTROYED}),
    VersionState.ABANDONED: frozenset(),
    VersionState.DESTROYED: frozenset(),
}

DELETED_STATES = (CredentialState.DELETING, CredentialState.DELETED)

# Versions whose key is, or may be, in the store and may be used again.
LIVE_VERSION_STATES = (
    VersionState.INTENT,
    VersionState.STORED,
    VersionState.ACTIVE,
    VersionState.PREVIOUS,
)

# The states on the wire. Abandoned versions are not shown.
PUBLIC_VERSION_STATE: dict[VersionState, str] = {
    VersionState.INTENT: "pending",
    VersionState.STORED: "pending",
    VersionState.ACTIVE: "active",
    VersionState.PREVIOUS: "previous",
    VersionState.REJECTED: "rejected",
    VersionState.DESTROYED: "destroyed",
}


class VersionRecord(Struct, frozen=True, kw_only=True):
    """One key version, masked."""

    credential_id: UUID
    key_version: int
    state: VersionState
    endpoint: ProviderEndpoint
    key_hint: str | None
    fingerprint: str
    result: ValidationResult
    latest: ValidationResult
    created_at: datetime
    created_by: str
    activated_at: datetime | None
    retires_at: datetime | None
    destroyed_at: datetime | None
    last_used_at: datetime | None
    replaced_at: datetime | None
    leased_until: datetime | None


class PreviousVersionRecord(Struct, frozen=True, kw_only=True):
    """The version that a rollback would restore, and what shows whether a consumer may still use its key.

    Attributes:
        replaced_at: when it was replaced; None if an older release replaced it, which did not record the time.
        leased_until: when its last lease expires.
        validation_deadline: when the running validation of it ends at the latest; None if none is running.
        has_open_calls: whether a relayed call with it has not ended.
    """

    key_version: int
    retires_at: datetime | None
    last_used_at: datetime | None
    replaced_at: datetime | None
    leased_until: datetime | None
    validation_deadline: datetime | None
    has_open_calls: bool

    def is_safe_to_revoke(self, now: datetime) -> bool:
        """Whether, according to the records, no consumer can still use the replaced key.

        No instance of this service keeps keys. It reads a key for one validation or one relayed call, or wraps it for
        one lease, and records each before it reads or hands over the key. So no consumer uses the replaced key any
        more once the last lease from before the replacement has expired (until then its consumer may unwrap and use
        the key), no validation of it is running, and no relayed call with it is open. A later recorded use shows that
        a consumer kept the key: then it is never safe.
        """
        if self.replaced_at is None:
            return False
        last_expected_use = max(self.replaced_at, self.leased_until or self.replaced_at)
        is_kept_by_consumer = self.last_used_at is not None and self.last_used_at > last_expected_use
        is_being_validated = self.validation_deadline is not None and self.validation_deadline > now
        is_in_use = is_kept_by_consumer or is_being_validated or self.has_open_calls
        return now >= last_expected_use and not is_in_use


class PendingRotationRecord(Struct, frozen=True, kw_only=True):
    """A rotation that is not decided yet, with its key version, masked."""

    id: UUID
    activate: Activate
    destroy_previous: DestroyPrevious
    created_at: datetime
    created_by: str
    version: VersionRecord


class CredentialRecord(Struct, frozen=True, kw_only=True):
    """The masked metadata of a credential. It has no field for a key.

    Attributes:
        revision: counts changes of the visible fields except `last_used_at`; becomes the ETag.
        active_version: the active version; after deletion, the version that was active last.
        previous_version: the version that a rollback would restore.
        rotation: the pending rotation.
        next_validation_at: when the next validation is due; None if none is.
    """

    organization_id: str
    id: UUID
    provider: str
    label: str
    state: CredentialState
    revision: int
    active_version: VersionRecord
    previous_version: PreviousVersionRecord | None
    created_at: datetime
    created_by: str
    updated_at: datetime
    rotated_at: datetime | None
    last_used_at: datetime | None
    rotation: PendingRotationRecord | None
    next_validation_at: datetime | None
