"""Who pays the provider: the usage mode of an organization, its timeline, and whether work may start."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from app.domain.credentials import CredentialState
from app.domain.validation import ValidationStatus


class UsageMode(StrEnum):
    """Who pays the provider."""

    MANAGED = "managed"  # Pharaoh does, and bills it
    BYO = "byo"  # the organization does, with its own key


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageModePoint:
    """A point of the timeline: from this instant on, inclusive, until the next point."""

    mode: UsageMode
    credential_id: UUID | None
    effective_from: datetime | None
    changed_by: str | None

    @property
    def microseconds(self) -> int:
        """Since 1970; 0 before anybody chose."""
        if self.effective_from is None:
            return 0
        return (self.effective_from - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# How far ahead a switch may be scheduled.
FURTHEST_SCHEDULED = timedelta(days=366)


# What an organization is before anybody chose.
INITIAL_MODE = UsageModePoint(
    mode=UsageMode.MANAGED, credential_id=None, effective_from=None, changed_by=None
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageModeState:
    """The point in force, and the one that is still to come, if any."""

    in_force: UsageModePoint
    scheduled: UsageModePoint | None

    @property
    def revision(self) -> int:
        """For the ETag: says the same for the same state. 0 before anybody chose."""
        if self.scheduled is None:
            return self.in_force.microseconds
        coming = self.scheduled
        named = f"{self.in_force.microseconds} {coming.microseconds} {coming.mode} {coming.credential_id}"
        return int.from_bytes(hashlib.sha256(named.encode()).digest()[:8])

    def names(self, credential_id: UUID) -> bool:
        """Whether that credential pays now, or will."""
        named = {self.in_force.credential_id} | ({self.scheduled.credential_id} if self.scheduled else set())
        return credential_id in named


class Blocker(StrEnum):
    """Why provider-backed work must not start. Stable codes of the contract."""

    CREDENTIAL_MISSING = "credential_missing"
    CREDENTIAL_NOT_VALID = "credential_not_valid"
    CREDENTIAL_DISABLED = "credential_disabled"
    CREDENTIAL_DELETED = "credential_deleted"
    SPEND_LIMIT_REACHED = "spend_limit_reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether provider-backed work may start right now."""

    mode: UsageMode
    credential_id: UUID | None
    blockers: tuple[Blocker, ...]

    @property
    def is_ready(self) -> bool:
        return not self.blockers


def blockers_of(
    mode: UsageMode,
    state: CredentialState | None,
    verdict: ValidationStatus | None,
    *,
    is_limit_reached: bool = False,
) -> tuple[Blocker, ...]:
    """Everything in the way. There is no fallback between modes: BYO without a working key means no work.

    Args:
        mode: the mode in force.
        state: of the credential in force; None where none is named.
        verdict: the last definite verdict on its key in use; None while there is none.
        is_limit_reached: a blocking spend limit on everything in this mode leaves nothing.
    """
    reached = (Blocker.SPEND_LIMIT_REACHED,) if is_limit_reached else ()
    return _blockers_of_key(mode, state, verdict) + reached


def _blockers_of_key(
    mode: UsageMode, state: CredentialState | None, verdict: ValidationStatus | None
) -> tuple[Blocker, ...]:
    if mode is UsageMode.MANAGED:
        return ()
    match state:
        case None | CredentialState.CREATING:
            return (Blocker.CREDENTIAL_MISSING,)
        case CredentialState.DELETING | CredentialState.DELETED:
            return (Blocker.CREDENTIAL_DELETED,)
    disabled = (Blocker.CREDENTIAL_DISABLED,) if state is CredentialState.DISABLED else ()
    not_valid = () if verdict is ValidationStatus.VALID else (Blocker.CREDENTIAL_NOT_VALID,)
    return disabled + not_valid
