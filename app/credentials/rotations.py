"""Rotations: a new key on its way into use, and what becomes of the one before."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from app.credentials.records import VersionRecord

# How long a rotation that could not be checked is retried before it counts as rejected.
UNDECIDED_FOR = timedelta(hours=24)
# Vault keeps this many versions of a secret; one more pushes out the oldest.
MOST_STORE_VERSIONS = 100


class RotationState(StrEnum):
    """PENDING ends as one of the others, for good."""

    PENDING = "pending"
    ACTIVATED = "activated"
    REJECTED = (
        "rejected"  # refused by the provider, never checked in time, or interrupted before it was stored
    )
    CANCELLED = "cancelled"


class Activate(StrEnum):
    """When the new key goes into use."""

    WHEN_VALID = "when_valid"
    IMMEDIATELY = "immediately"


class DestroyPrevious(StrEnum):
    """What becomes of the key before: kept for rollback, or gone at once because it leaked."""

    AFTER_RETENTION = "after_retention"
    IMMEDIATELY = "immediately"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRecord:
    """One rotation. `version` is what it brings, masked."""

    id: UUID
    organization_id: str
    credential_id: UUID
    key_version: int
    state: RotationState
    activate: Activate
    destroy_previous: DestroyPrevious
    created_at: datetime
    created_by: str
    decided_at: datetime | None
    version: VersionRecord


def has_room(oldest_kept: int | None, store_version: int) -> bool:
    """Whether the store can take one more version without pushing out the oldest that is kept."""
    return oldest_kept is None or store_version + 1 - oldest_kept < MOST_STORE_VERSIONS
