"""What a verdict does to a key on its way into use, within the transaction that records it."""

from datetime import datetime, timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import now
from app.credentials.records import VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import UNDECIDED_FOR, Activate, DestroyPrevious, RotationRecord, RotationState
from app.credentials.verdicts import ValidationRecord, ValidationStatus, Verdict
from app.credentials.version_repository import Intent, VersionRepository
from app.database.unit_of_work import UnitOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository

FIRST_RETRY = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)


class Activation:
    """Puts a stored version into use, or turns it down.

    Args:
        retention: how long the version before is kept for rollback.
    """

    def __init__(self, *, retention: timedelta) -> None:
        self._retention = retention

    async def after_verdict(
        self, uow: UnitOfWork, caller: Caller, record: ValidationRecord, verdict: Verdict, *, streak: int
    ) -> None:
        """Decide the pending rotation that brings this version, if there is one."""
        rotation = await uow[RotationRepository].find_pending(record.credential_id, record.key_version)
        if rotation is None or rotation.version.state is not VersionState.STORED:
            return
        instant = now()
        if verdict.status is ValidationStatus.VALID or rotation.activate is Activate.IMMEDIATELY:
            await self.activate(uow, caller, rotation)
        elif verdict.status is ValidationStatus.INVALID or instant >= rotation.created_at + UNDECIDED_FOR:
            await self.turn_down(uow, caller, rotation, RotationState.REJECTED)
        else:
            pause = min(LONGEST_PAUSE, FIRST_RETRY * 2 ** min(max(streak - 1, 0), 10))
            await uow[QueueRepository].schedule(retry_of(rotation), due_at=instant + pause)

    async def activate(self, uow: UnitOfWork, caller: Caller, rotation: RotationRecord) -> None:
        """STORED becomes ACTIVE, ACTIVE becomes PREVIOUS; in one transaction, so there is always exactly one."""
        instant = now()
        old = await uow[VersionRepository].lock_active(rotation.credential_id)
        await self._retire(uow, caller, old, rotation, instant)
        await uow[VersionRepository].move(
            rotation.credential_id,
            rotation.key_version,
            expected=VersionState.STORED,
            to=VersionState.ACTIVE,
            activated_at=instant,
        )
        if rotation.destroy_previous is DestroyPrevious.IMMEDIATELY:
            await _destroy_row(uow, caller, old, instant)
            await uow[CredentialRepository].release_unused_fingerprints(rotation.credential_id)
        await uow[CredentialRepository].set_current(
            rotation.credential_id,
            current=rotation.key_version,
            previous=await uow[VersionRepository].newest_previous(rotation.credential_id),
            now=instant,
        )
        await uow[RotationRepository].decide(
            rotation.credential_id, rotation.key_version, RotationState.ACTIVATED, now=instant
        )
        await uow[QueueRepository].remove(retry_of(rotation))
        await audit.record(
            uow,
            caller,
            AuditAction.ROTATION_ACTIVATED,
            rotation.credential_id,
            key_version=rotation.key_version,
            replaces=old.key_version,
        )

    async def turn_down(
        self, uow: UnitOfWork, caller: Caller, rotation: RotationRecord, state: RotationState
    ) -> None:
        """The version never goes into use, and its secret is destroyed. The one in use is not touched."""
        instant = now()
        await uow[VersionRepository].move(
            rotation.credential_id,
            rotation.key_version,
            expected=VersionState.STORED,
            to=VersionState.REJECTED,
        )
        await uow[RotationRepository].decide(rotation.credential_id, rotation.key_version, state, now=instant)
        await uow[QueueRepository].remove(retry_of(rotation))
        intent_id = await uow[VersionRepository].find_intent(
            rotation.credential_id, key_version=rotation.key_version
        )
        assert intent_id is not None
        await uow[QueueRepository].schedule(destruction_of(caller.organization_id, intent_id), due_at=instant)
        await uow[CredentialRepository].release_unused_fingerprints(rotation.credential_id)
        action = AuditAction.ROTATION_REJECTED
        if state is RotationState.CANCELLED:
            action = AuditAction.ROTATION_CANCELLED
        await audit.record(uow, caller, action, rotation.credential_id, key_version=rotation.key_version)

    async def _retire(
        self, uow: UnitOfWork, caller: Caller, old: Intent, rotation: RotationRecord, instant: datetime
    ) -> None:
        retires_at = instant
        if rotation.destroy_previous is DestroyPrevious.AFTER_RETENTION:
            retires_at += self._retention
        await uow[VersionRepository].move(
            old.credential_id,
            old.key_version,
            expected=VersionState.ACTIVE,
            to=VersionState.PREVIOUS,
            retires_at=retires_at,
            replaced_at=instant,
        )
        await uow[QueueRepository].schedule(
            destruction_of(caller.organization_id, old.intent_id), due_at=retires_at
        )


async def _destroy_row(uow: UnitOfWork, caller: Caller, version: Intent, instant: datetime) -> None:
    """From now on nobody may use it; the secret itself goes once this is committed."""
    await uow[VersionRepository].move(
        version.credential_id, version.key_version, expected=VersionState.PREVIOUS, to=VersionState.DESTROYED
    )
    await uow[QueueRepository].schedule(
        destruction_of(caller.organization_id, version.intent_id), due_at=instant
    )
    await audit.record(
        uow, caller, AuditAction.VERSION_DESTROYED, version.credential_id, key_version=version.key_version
    )


def retry_of(rotation: RotationRecord) -> DueItem:
    """The queue item of a rotation that is to be checked again."""
    return DueItem(organization_id=rotation.organization_id, kind=JobKind.RETRY_ROTATION, id=rotation.id)


def destruction_of(organization_id: str, intent_id: UUID) -> DueItem:
    """The queue item of a version whose secret is to be destroyed at its time."""
    return DueItem(organization_id=organization_id, kind=JobKind.DESTROY_VERSION, id=intent_id)
