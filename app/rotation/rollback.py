"""Put the key before back into use."""

from datetime import datetime, timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import now
from app.core.errors import CredentialDeleted, NoPreviousVersion, NotFound, RotationInProgress
from app.credentials.activation import destruction_of
from app.credentials.records import CredentialRecord, CredentialState, VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.version_repository import VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import QueueRepository

_GONE = (CredentialState.DELETING, CredentialState.DELETED)


class RollbackService:
    """One use case.

    Args:
        units: where credentials are.
        retention: how long the key that was in use is kept.
    """

    def __init__(self, units: UnitsOfWork, *, retention: timedelta) -> None:
        self._units = units
        self._retention = retention

    async def roll_back(
        self, caller: Caller, credential_id: UUID, *, revisions: frozenset[int] | None = None
    ) -> CredentialRecord:
        """The version before is in use again, with its number and destination; the other is kept in its stead.

        Raises:
            NotFound, CredentialDeleted, NoPreviousVersion, RotationInProgress, PreconditionFailed, DatabaseUnavailable
        """
        organization_id, instant = caller.organization_id, now()
        retention_until = instant + self._retention
        async with self._units.writing(organization_id) as uow:
            standing = {
                version.key_version: version
                for version in await uow[VersionRepository].lock_standing(credential_id)
            }
            record = await uow[CredentialRepository].find(credential_id)
            if record is None:
                raise NotFound
            if record.state in _GONE:
                raise CredentialDeleted
            record.require_revision(revisions)
            if any(v.state in (VersionState.INTENT, VersionState.STORED) for v in standing.values()):
                raise RotationInProgress
            before = await uow[VersionRepository].newest_previous(credential_id)
            if before is None or _is_over(standing[before].retires_at, instant):
                raise NoPreviousVersion
            old, new = standing[record.current.key_version], standing[before]
            await uow[VersionRepository].move(
                credential_id,
                old.key_version,
                expected=VersionState.ACTIVE,
                to=VersionState.PREVIOUS,
                retires_at=retention_until,
                replaced_at=instant,
            )
            await uow[VersionRepository].move(
                credential_id,
                new.key_version,
                expected=VersionState.PREVIOUS,
                to=VersionState.ACTIVE,
                activated_at=instant,
            )
            await uow[QueueRepository].remove(destruction_of(organization_id, new.intent_id))
            await uow[QueueRepository].schedule(
                destruction_of(organization_id, old.intent_id), due_at=retention_until
            )
            await uow[CredentialRepository].set_current(
                credential_id, current=new.key_version, previous=old.key_version, now=instant
            )
            await audit.record(
                uow,
                caller,
                AuditAction.ROLLED_BACK,
                credential_id,
                key_version=new.key_version,
                replaces=old.key_version,
            )
            rolled_back = await uow[CredentialRepository].find(credential_id)
            assert rolled_back is not None
            await uow.commit()
        return rolled_back


def _is_over(retires_at: datetime | None, instant: datetime) -> bool:
    """Whether its retention is: the job that destroys it may be late, and the promise was until then."""
    return retires_at is not None and retires_at <= instant
