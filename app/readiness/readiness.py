"""The readiness of an organization, and the rules that decide which blockers it has."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.credentials.records import CredentialState
from app.credentials.validation_results import Reason, ValidationStatus
from app.usage_mode.modes import UsageMode


class Blocker(StrEnum):
    """Why provider-backed work must not start. Stable codes of the contract."""

    CREDENTIAL_MISSING = "credential_missing"
    CREDENTIAL_NOT_VALID = "credential_not_valid"
    CREDENTIAL_DISABLED = "credential_disabled"
    CREDENTIAL_DELETED = "credential_deleted"
    SPEND_LIMIT_REACHED = "spend_limit_reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockerDetail:
    """What is behind a blocker: the credential and the reason of its last result, or the limit and when its period ends."""

    code: Blocker
    credential_id: UUID | None = None
    reason: Reason | None = None
    limit_id: UUID | None = None
    limit_name: str | None = None
    period_ends_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether provider-backed work may start right now.

    `reason` is that of the last definite result of the active key.
    """

    mode: UsageMode
    credential_id: UUID | None
    blockers: tuple[Blocker, ...]
    reason: Reason | None = None
    full_limits: tuple[BlockerDetail, ...] = ()

    @property
    def is_ready(self) -> bool:
        return not self.blockers

    @property
    def details(self) -> tuple[BlockerDetail, ...]:
        """One entry for each blocker, and one for each limit that is used up."""
        of_key = tuple(
            BlockerDetail(
                code=code,
                credential_id=self.credential_id,
                reason=self.reason if code is Blocker.CREDENTIAL_NOT_VALID else None,
            )
            for code in self.blockers
            if code is not Blocker.SPEND_LIMIT_REACHED
        )
        return of_key + self.full_limits


def blockers_of(
    mode: UsageMode,
    state: CredentialState | None,
    validation_status: ValidationStatus | None,
    *,
    is_limit_reached: bool = False,
) -> tuple[Blocker, ...]:
    """All blockers. Neither mode falls back to the other: without a valid key, BYO work must not start.

    Args:
        mode: the usage mode.
        state: the state of the credential that the mode names; `None` if it names no credential.
        validation_status: the last definite validation result of its active key version; `None` before the first one.
        is_limit_reached: whether a blocking spend limit without a narrower scope is used up in this mode.
    """
    reached = (Blocker.SPEND_LIMIT_REACHED,) if is_limit_reached else ()
    return _blockers_of_key(mode, state, validation_status) + reached


def _blockers_of_key(
    mode: UsageMode, state: CredentialState | None, validation_status: ValidationStatus | None
) -> tuple[Blocker, ...]:
    if mode is UsageMode.MANAGED:
        return ()
    match state:
        case None | CredentialState.CREATING:
            return (Blocker.CREDENTIAL_MISSING,)
        case CredentialState.DELETING | CredentialState.DELETED:
            return (Blocker.CREDENTIAL_DELETED,)
    disabled = (Blocker.CREDENTIAL_DISABLED,) if state is CredentialState.DISABLED else ()
    not_valid = () if validation_status is ValidationStatus.VALID else (Blocker.CREDENTIAL_NOT_VALID,)
    return disabled + not_valid
