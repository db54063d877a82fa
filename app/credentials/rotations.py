"""Rotations: the replacement of the active key by a new one."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from app.core.notifications import RotationActivated, RotationRejected
from app.credentials.records import Activate, DestroyPrevious, VersionRecord
from app.credentials.validation_results import ValidationResult, ValidationStatus

# How long the validation of a rotation's key is retried before the rotation is rejected.
ROTATION_RETRY_PERIOD = timedelta(hours=24)
# The number of versions of a secret that Vault keeps. One more removes the oldest.
MAX_STORE_VERSIONS = 100


class RotationState(StrEnum):
    """PENDING changes to one of the other states, which are final."""

    PENDING = "pending"
    ACTIVATED = "activated"
    # The provider rejected the key, no validation was definite within the retry period, or the write was abandoned.
    REJECTED = "rejected"
    CANCELLED = "cancelled"


class PreviousKept(StrEnum):
    """Why the previous key still exists although the rotation asked to destroy it at once.

    It is destroyed only after a result that proves the new key. Until then, its retention applies.
    """

    NOT_VALIDATED = "new_key_not_validated"
    INVALID = "new_key_invalid"
    INDETERMINATE = "new_key_indeterminate"


_KEPT_BECAUSE = {
    ValidationStatus.PENDING: PreviousKept.NOT_VALIDATED,
    ValidationStatus.INVALID: PreviousKept.INVALID,
    ValidationStatus.INDETERMINATE: PreviousKept.INDETERMINATE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRecord:
    """One rotation.

    Attributes:
        version: the new key version, masked.
        replaced_key_version: the version that was active before; None until the activation.
        keeps_replaced: whether that version is still kept for rollback.
    """

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
    replaced_key_version: int | None
    keeps_replaced: bool
    version: VersionRecord

    @property
    def previous_kept_reason(self) -> PreviousKept | None:
        """Why the previous key was not destroyed at once; None if it was, or if that was not asked for."""
        if self.destroy_previous is not DestroyPrevious.IMMEDIATELY or not self.keeps_replaced:
            return None
        return _KEPT_BECAUSE.get(self.version.latest.status)


def has_store_capacity(oldest_kept: int | None, store_version: int) -> bool:
    """Whether the store can take one more version without removing the oldest one that is still needed."""
    return oldest_kept is None or store_version + 1 - oldest_kept < MAX_STORE_VERSIONS


def activation_event(rotation: RotationRecord, *, replaces: int, at: datetime) -> RotationActivated:
    """The new key of a rotation is active."""
    return RotationActivated(
        organization_id=rotation.organization_id,
        occurred_at=at,
        credential_id=rotation.credential_id,
        rotation_id=rotation.id,
        key_version=rotation.key_version,
        replaced_key_version=replaces,
    )


def rejection_event(rotation: RotationRecord, result: ValidationResult, *, at: datetime) -> RotationRejected:
    """The new key of a rotation will not be used. The active key stays."""
    assert result.reason is not None
    return RotationRejected(
        organization_id=rotation.organization_id,
        occurred_at=at,
        credential_id=rotation.credential_id,
        rotation_id=rotation.id,
        key_version=rotation.key_version,
        reason=result.reason,
    )
