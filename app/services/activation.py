"""What a verdict does to a key on its way into use, within the transaction that records it."""

from datetime import datetime, timedelta
from uuid import UUID

from app.domain.audit import AuditAction
from app.domain.auth import Caller
from app.domain.clock import now
from app.domain.credentials import VersionState
from app.domain.rotation import (
    UNDECIDED_FOR,
    Activate,
    DestroyPrevious,
    RotationRecord,
    RotationState,
)
from app.domain.validation import ValidationRecord, ValidationStatus, Verdict
from app.repositories.queue import DueItem, JobKind
from app.repositories.unit_of_work import UnitOfWork
from app.repositories.versions import Intent
from app.services import audit

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
        rotation = await uow.rotations.find_pending(record.credential_id, record.key_version)
        if rotation is None or rotation.version.state is not VersionState.STORED:
            return
        instant = now()
        if verdict.status is ValidationStatus.VALID or rotation.activate is Activate.IMMEDIATELY:
            await self.activate(uow, caller, rotation)
        elif verdict.status is ValidationStatus.INVALID or instant >= rotation.created_at + UNDECIDED_FOR:
            await self.turn_down(uow, caller, rotation, RotationState.REJECTED)
        else:
            pause = min(LONGEST_PAUSE, FIRST_RETRY * 2 ** min(max(streak - 1, 0), 10))
            await uow.queue.schedule(retry_of(rotation), due_at=instant + pause)

    async def activate(self, uow: UnitOfWork, caller: Caller, rotation: RotationRecord) -> None:
        """STORED becomes ACTIVE, ACTIVE becomes PREVIOUS; in one transaction, so there is always exactly one."""
        instant = now()
        old = await uow.versions.lock_active(rotation.credential_id)
        await self._retire(uow, caller, old, rotation, instant)
        await uow.versions.move(
            rotation.credential_id,
            rotation.key_version,
            expected=VersionState.STORED,
            to=VersionState.ACTIVE,
            activated_at=instant,
        )
        if rotation.destroy_previous is DestroyPrevious.IMMEDIATELY:
            await _destroy_row(uow, caller, old, instant)
            await uow.credentials.release_unused_fingerprints(rotation.credential_id)
        await uow.credentials.set_current(
            rotation.credential_id,
            current=rotation.key_version,
            previous=await uow.versions.newest_previous(rotation.credential_id),
            now=instant,
        )
        await uow.rotations.decide(
            rotation.credential_id, rotation.key_version, RotationState.ACTIVATED, now=instant
        )
        await uow.queue.remove(retry_of(rotation))
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
        await uow.versions.move(
            rotation.credential_id,
            rotation.key_version,
            expected=VersionState.STORED,
            to=VersionState.REJECTED,
        )
        await uow.rotations.decide(rotation.credential_id, rotation.key_version, state, now=instant)
        await uow.queue.remove(retry_of(rotation))
        intent_id = await uow.versions.find_intent(rotation.credential_id, key_version=rotation.key_version)
        assert intent_id is not None
        await uow.queue.schedule(destruction_of(caller.organization_id, intent_id), due_at=instant)
        await uow.credentials.release_unused_fingerprints(rotation.credential_id)
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
        await uow.versions.move(
            old.credential_id,
            old.key_version,
            expected=VersionState.ACTIVE,
            to=VersionState.PREVIOUS,
            retires_at=retires_at,
            replaced_at=instant,
        )
        await uow.queue.schedule(destruction_of(caller.organization_id, old.intent_id), due_at=retires_at)


async def _destroy_row(uow: UnitOfWork, caller: Caller, version: Intent, instant: datetime) -> None:
    """From now on nobody may use it; the secret itself goes once this is committed."""
    await uow.versions.move(
        version.credential_id, version.key_version, expected=VersionState.PREVIOUS, to=VersionState.DESTROYED
    )
    await uow.queue.schedule(destruction_of(caller.organization_id, version.intent_id), due_at=instant)
    await audit.record(
        uow, caller, AuditAction.VERSION_DESTROYED, version.credential_id, key_version=version.key_version
    )


def retry_of(rotation: RotationRecord) -> DueItem:
    """The queue item of a rotation that is to be checked again."""
    return DueItem(organization_id=rotation.organization_id, kind=JobKind.RETRY_ROTATION, id=rotation.id)


def destruction_of(organization_id: str, intent_id: UUID) -> DueItem:
    """The queue item of a version whose secret is to be destroyed at its time."""
    return DueItem(organization_id=organization_id, kind=JobKind.DESTROY_VERSION, id=intent_id)
