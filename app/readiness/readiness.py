"""Whether provider-backed work may start, and what blocks it."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from app.credentials.records import CredentialState
from app.credentials.verdicts import ValidationStatus
from app.usage_mode.modes import UsageMode


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
