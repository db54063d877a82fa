"""Credentials and their key versions: masked records by construction, and the legal moves between states."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.core.errors import PreconditionFailed
from app.credentials.verdicts import Verdict
from app.provider_url.endpoint import ProviderEndpoint

DEFAULT_PROVIDER = "anthropic"


class CredentialState(StrEnum):
    """What may be done with a credential."""

    CREATING = "creating"  # its first key is on the way to the store; not listed, cannot be read
    ACTIVE = "active"
    DISABLED = "disabled"
    DELETING = "deleting"  # the store still holds something to destroy; read as deleted
    DELETED = "deleted"


class VersionState(StrEnum):
    """Where a key version stands in the order of writes.

    INTENT -> STORED -> ACTIVE -> PREVIOUS -> DESTROYED, with REJECTED and ABANDONED as ways out.
    """

    INTENT = "intent"  # row written; nothing proves that the store has the key yet
    STORED = "stored"  # the store has the key; not yet in use
    ACTIVE = "active"
    PREVIOUS = "previous"  # kept for rollback until it retires
    REJECTED = "rejected"  # the provider refused it during a rotation
    ABANDONED = "abandoned"  # the writer vanished before STORED; a tombstone bars a late write
    DESTROYED = "destroyed"


LEGAL_MOVES: dict[VersionState, frozenset[VersionState]] = {
    VersionState.INTENT: frozenset({VersionState.STORED, VersionState.ABANDONED}),
    VersionState.STORED: frozenset({VersionState.ACTIVE, VersionState.REJECTED, VersionState.DESTROYED}),
    VersionState.ACTIVE: frozenset({VersionState.PREVIOUS, VersionState.DESTROYED}),
    VersionState.PREVIOUS: frozenset({VersionState.ACTIVE, VersionState.DESTROYED}),
    VersionState.REJECTED: frozenset({VersionState.DESTROYED}),
    VersionState.ABANDONED: frozenset(),
    VersionState.DESTROYED: frozenset(),
}

# Versions whose key is held, or may be held, by the store and used again.
LIVE_VERSION_STATES = (
    VersionState.INTENT,
    VersionState.STORED,
    VersionState.ACTIVE,
    VersionState.PREVIOUS,
)

# What a reader sees. Intents that were abandoned are not shown at all.
PUBLIC_VERSION_STATE: dict[VersionState, str] = {
    VersionState.INTENT: "pending",
    VersionState.STORED: "pending",
    VersionState.ACTIVE: "active",
    VersionState.PREVIOUS: "previous",
    VersionState.REJECTED: "rejected",
    VersionState.DESTROYED: "destroyed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One key version, masked."""

    credential_id: UUID
    key_version: int
    state: VersionState
    destination: ProviderEndpoint
    key_hint: str | None
    fingerprint: str
    verdict: Verdict
    latest: Verdict
    created_at: datetime
    created_by: str
    activated_at: datetime | None
    retires_at: datetime | None
    destroyed_at: datetime | None
    last_used_at: datetime | None
    replaced_at: datetime | None
    leased_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRecord:
    """A credential as anybody may see it. There is no field for a key.

    `current` is the version in use, or last in use. `revision` counts changes of what is shown,
    uses aside; it becomes the ETag. `previous_checked_until`: a check of the one before is under way.
    """

    organization_id: str
    id: UUID
    provider: str
    label: str
    state: CredentialState
    revision: int
    current: VersionRecord
    previous: VersionRecord | None
    previous_checked_until: datetime | None
    created_at: datetime
    created_by: str
    updated_at: datetime
    rotated_at: datetime | None
    last_used_at: datetime | None

    def require_revision(self, revisions: frozenset[int] | None) -> None:
        """Raise PreconditionFailed unless this is one of the revisions that If-Match names; None is any."""
        if revisions is not None and self.revision not in revisions:
            raise PreconditionFailed
