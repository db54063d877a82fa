"""Record audit events inside a unit of work, and list them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from app.audit.events import AuditAction, AuditEvent
from app.audit.repository import AuditRepository
from app.auth.principal import Caller
from app.core.admission import AdmissionQueue
from app.core.clock import new_id, now
from app.core.organizations import OPERATOR_ORGANIZATION
from app.database.unit_of_work import UnitOfWork, UnitsOfWork


async def record(
    uow: UnitOfWork,
    caller: Caller,
    action: AuditAction,
    credential_id: UUID | None,
    **details: str | int | bool | None,
) -> None:
    """Append an event in the transaction of the change. `details` must not contain text that a client sent."""
    await uow[AuditRepository].append(
        AuditEvent(
            id=new_id(),
            organization_id=caller.organization_id,
            occurred_at=now(),
            action=action,
            actor=caller.subject,
            credential_id=credential_id,
            request_id=caller.request_id or None,
            details=details,
        )
    )


class AuditService:
    """Lists audit events."""

    def __init__(self, units: UnitsOfWork, admission: AdmissionQueue) -> None:
        self._units = units
        self._admission = admission

    async def record_exempt_hosts(self, hosts: Sequence[str]) -> None:
        """Record at startup which host names the operator exempts from the private-address rule.

        The event is in the audit log of the reserved organization `_operator`.
        """
        caller = Caller.system(OPERATOR_ORGANIZATION)
        async with self._units.writing(OPERATOR_ORGANIZATION) as uow:
            await record(uow, caller, AuditAction.EXEMPT_HOSTS_ACTIVE, None, hosts=" ".join(hosts))
            await uow.commit()

    async def page(
        self,
        organization_id: str,
        *,
        at_most: int,
        before: UUID | None = None,
        credential_id: UUID | None = None,
        action: AuditAction | None = None,
        actor: str | None = None,
        starting_at: datetime | None = None,
        ending_at: datetime | None = None,
    ) -> Sequence[AuditEvent]:
        """One page of events, newest first. `starting_at` is inclusive, `ending_at` exclusive.

        A filter that few events match may read all of two years.

        Raises:
            ConcurrencyLimited, DatabaseUnavailable
        """
        async with (
            self._admission.slot(organization_id),
            self._units.reading_in_bulk(organization_id) as uow,
        ):
            return await uow[AuditRepository].page(
                at_most=at_most,
                before=before,
                credential_id=credential_id,
                action=action,
                actor=actor,
                starting_at=starting_at,
                ending_at=ending_at,
            )
