"""Roll back to the previous key version."""

from datetime import datetime, timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.errors import NoPreviousVersion, RotationInProgress
from app.core.revisions import require_revision
from app.credentials.activation import Notify, destruction_of
from app.credentials.records import CredentialRecord, VersionRecord, VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.validation_results import result_event
from app.credentials.version_repository import Intent, VersionRepository
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import QueueRepository


class RollbackService:
    """One use case.

    Args:
        units: the database.
        retention: how long the replaced version is kept.
        notify: adds a message for the organization.
    """

    def __init__(self, units: UnitsOfWork, *, retention: timedelta, notify: Notify) -> None:
        self._units = units
        self._retention = retention
        self._notify = notify

    async def roll_back(
        self, caller: Caller, credential_id: UUID, *, revisions: frozenset[int] | None = None
    ) -> CredentialRecord:
        """Activate the previous version again, with its number and endpoint. The replaced one becomes previous.

        Raises:
            NotFound, CredentialDeleted, NoPreviousVersion, RotationInProgress, PreconditionFailed, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            live_versions = {
                version.key_version: version
                for version in await uow[VersionRepository].lock_live_versions(credential_id)
            }
            # After the lock: no call that was admitted with the active version started later.
            instant = await uow[VersionRepository].clock()
            record = await uow[CredentialRepository].get_live(credential_id)
            require_revision(record.revision, revisions)
            if any(v.state in (VersionState.INTENT, VersionState.STORED) for v in live_versions.values()):
                raise RotationInProgress(None if record.rotation is None else record.rotation.id)
            target = await uow[VersionRepository].find_rollback_target(credential_id)
            if target is None or _is_expired(live_versions[target].retires_at, instant):
                raise NoPreviousVersion
            active, previous = live_versions[record.active_version.key_version], live_versions[target]
            await self._swap(uow, caller, active, previous, instant)
            rolled_back = await uow[CredentialRepository].get(credential_id)
            await self._notify_of_status(uow, record.active_version, rolled_back.active_version, instant)
            await uow.commit()
        return rolled_back

    async def _notify_of_status(
        self, uow: UnitOfWork, replaced: VersionRecord, active: VersionRecord, instant: datetime
    ) -> None:
        """Add the message about the key that is active again, if its definite status is not that of the replaced one.

        Receivers know the status of the replaced key. A later result of this key that equals its last one sends nothing.
        """
        if active.result.is_definite and active.result.status is not replaced.result.status:
            await self._notify(
                uow,
                result_event(
                    uow.organization_id,
                    active.credential_id,
                    active.key_version,
                    active.result,
                    occurred_at=instant,
                ),
            )

    async def _swap(
        self, uow: UnitOfWork, caller: Caller, active: Intent, previous: Intent, instant: datetime
    ) -> None:
        """Make `active` the previous version, and `previous` the active one."""
        credential_id, retention_until = active.credential_id, instant + self._retention
        await uow[VersionRepository].transition(
            credential_id,
            active.key_version,
            expected=VersionState.ACTIVE,
            to=VersionState.PREVIOUS,
            retires_at=retention_until,
            replaced_at=instant,
        )
        await uow[VersionRepository].transition(
            credential_id,
            previous.key_version,
            expected=VersionState.PREVIOUS,
            to=VersionState.ACTIVE,
            activated_at=instant,
        )
        await uow[QueueRepository].remove(destruction_of(caller.organization_id, previous.intent_id))
        await uow[QueueRepository].schedule(
            destruction_of(caller.organization_id, active.intent_id), due_at=retention_until
        )
        await uow[CredentialRepository].set_active_version(
            credential_id, active=previous.key_version, previous=active.key_version, now=instant
        )
        await audit.record(
            uow,
            caller,
            AuditAction.ROLLED_BACK,
            credential_id,
            key_version=previous.key_version,
            replaces=active.key_version,
        )


def _is_expired(retention_until: datetime | None, instant: datetime) -> bool:
    """Whether the retention has expired. The queue item that destroys the version may run later than that."""
    return retention_until is not None and retention_until <= instant
