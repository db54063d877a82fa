"""Which key pays: read and switch the usage mode, its history, and whether work may start."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.domain.audit import AuditAction
from app.domain.auth import Caller
from app.domain.billing import Readiness, UsageMode, UsageModePoint
from app.domain.credentials import CredentialState
from app.domain.errors import CredentialDeleted, InvalidInput, PreconditionFailed
from app.repositories.unit_of_work import UnitOfWork, UnitsOfWork
from app.services import audit


class Billing:
    """Switches count from their instant on; what came before keeps its mode for good."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def read(self, organization_id: str) -> UsageModePoint:
        """The mode in force. An organization that never chose is managed."""
        async with self._units.reading(organization_id) as uow:
            return await uow.billing.in_force()

    async def switch(
        self,
        caller: Caller,
        mode: UsageMode,
        credential_id: UUID | None,
        *,
        revisions: frozenset[int] | None = None,
    ) -> UsageModePoint:
        """Switch now. Naming what is in force already changes nothing.

        BYO may be chosen before its key is saved or valid: readiness then says what is missing.

        Raises:
            InvalidInput, CredentialDeleted, PreconditionFailed, DatabaseUnavailable
        """
        if mode is UsageMode.MANAGED and credential_id is not None:
            raise InvalidInput.of(
                "credential_id", "credential_not_used", "Managed usage names no credential: leave it out."
            )
        async with self._units.writing(caller.organization_id) as uow:
            await uow.billing.lock()
            last = await uow.billing.in_force()
            if revisions is not None and revision_of(last) not in revisions:
                raise PreconditionFailed
            if (last.mode, last.credential_id) == (mode, credential_id):
                return last
            if credential_id is not None:
                await _check_credential(uow, credential_id)
            point = await uow.billing.append(mode, credential_id, changed_by=caller.subject)
            await audit.record(
                uow, caller, AuditAction.USAGE_MODE_CHANGED, credential_id, mode=mode, previous_mode=last.mode
            )
            await uow.commit()
        return point

    async def history(
        self, organization_id: str, *, at_most: int, before: datetime
    ) -> Sequence[UsageModePoint]:
        """Newest first."""
        async with self._units.reading(organization_id) as uow:
            return await uow.billing.page(at_most=at_most, before=before)

    async def readiness(self, organization_id: str) -> Readiness:
        """Other services ask this before they start provider-backed work."""
        async with self._units.reading(organization_id) as uow:
            return await uow.billing.readiness()


def revision_of(point: UsageModePoint) -> int:
    """For the ETag: microseconds since 1970 of the point in force; 0 before anybody chose."""
    if point.effective_from is None:
        return 0
    return (point.effective_from - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


async def _check_credential(uow: UnitOfWork, credential_id: UUID) -> None:
    credential = await uow.credentials.find(credential_id)
    if credential is None:
        raise InvalidInput.of(
            "credential_id", "credential_not_found", "This organization has no such credential."
        )
    if credential.state in (CredentialState.DELETING, CredentialState.DELETED):
        raise CredentialDeleted
