"""Disable a credential without destroying its key, and enable it again."""

from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import now
from app.core.revisions import require_revision
from app.credentials.records import CredentialRecord, CredentialState
from app.credentials.repository import CredentialRepository
from app.credentials.validator import periodic_validation_of
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import QueueRepository


class EnablementService:
    """One public method per use case."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def disable(
        self, caller: Caller, credential_id: UUID, *, revisions: frozenset[int] | None = None
    ) -> CredentialRecord:
        """Disable a credential. Its key is kept but not used. Repeatable.

        Raises:
            NotFound, CredentialDeleted, PreconditionFailed, DatabaseUnavailable
        """
        return await self._set_state(
            caller, credential_id, CredentialState.DISABLED, AuditAction.CREDENTIAL_DISABLED, revisions
        )

    async def enable(
        self, caller: Caller, credential_id: UUID, *, revisions: frozenset[int] | None = None
    ) -> CredentialRecord:
        """Enable a disabled credential and schedule a validation of its key. Repeatable.

        Raises:
            NotFound, CredentialDeleted, PreconditionFailed, DatabaseUnavailable
        """
        return await self._set_state(
            caller, credential_id, CredentialState.ACTIVE, AuditAction.CREDENTIAL_ENABLED, revisions
        )

    async def _set_state(
        self,
        caller: Caller,
        credential_id: UUID,
        state: CredentialState,
        action: AuditAction,
        revisions: frozenset[int] | None,
    ) -> CredentialRecord:
        instant = now()
        async with self._units.writing(caller.organization_id) as uow:
            await uow[CredentialRepository].lock(credential_id)
            record = await uow[CredentialRepository].get_live(credential_id)
            require_revision(record.revision, revisions)
            if record.state is not state:
                await uow[CredentialRepository].set_state(credential_id, state, now=instant)
                if state is CredentialState.ACTIVE:
                    await uow[QueueRepository].schedule(
                        periodic_validation_of(caller.organization_id, credential_id), due_at=instant
                    )
                await audit.record(uow, caller, action, credential_id)
                record = await uow[CredentialRepository].get(credential_id)
            await uow.commit()
        return record
