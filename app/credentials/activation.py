"""Decides a pending rotation by a validation result, in the transaction that records the result."""

from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import now
from app.core.notifications import Event
from app.credentials.records import Activate, VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import (
    ROTATION_RETRY_PERIOD,
    RotationRecord,
    RotationState,
    activation_event,
    rejection_event,
)
from app.credentials.validation_results import (
    ResultEffect,
    ValidationRecord,
    ValidationResult,
    ValidationStatus,
    result_event,
    retry_delay,
)
from app.credentials.version_repository import Intent, VersionRepository
from app.database.unit_of_work import UnitOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository


class Notify(Protocol):
    """Adds a message about an event for all endpoints of the organization, in the transaction of the change.

    Implemented by `app.webhooks.outbox.notify`.
    """

    async def __call__(self, uow: UnitOfWork, event: Event) -> None: ...


class Activation:
    """Activates or rejects a stored version.

    Args:
        retention: how long the previous version is kept for rollback.
        notify: adds a message for the organization.
    """

    def __init__(self, *, retention: timedelta, notify: Notify) -> None:
        self._retention = retention
        self._notify = notify

    async def after_validation(
        self,
        uow: UnitOfWork,
        caller: Caller,
        record: ValidationRecord,
        result: ValidationResult,
        *,
        effect: ResultEffect,
    ) -> None:
        """Decide the pending rotation of this version, if there is one.

        The more consecutive results were indeterminate, the later is the next retry. If the result proves the active
        key, the versions are destroyed that it replaced because they leaked.
        """
        rotation = await uow[RotationRepository].find_pending(record.credential_id, record.key_version)
        if rotation is not None and rotation.version.state is VersionState.STORED:
            await self._decide(uow, caller, rotation, result, streak=effect.indeterminate_streak)
        is_active = await uow[VersionRepository].is_active(record.credential_id, record.key_version)
        if result.status is ValidationStatus.VALID and is_active:
            await self._destroy_replaced(uow, caller, record.credential_id)
        if effect.is_new_status and is_active:
            await self._notify(
                uow, result_event(uow.organization_id, record.credential_id, record.key_version, result)
            )

    async def _decide(
        self,
        uow: UnitOfWork,
        caller: Caller,
        rotation: RotationRecord,
        result: ValidationResult,
        *,
        streak: int,
    ) -> None:
        instant = now()
        if result.status is ValidationStatus.VALID or rotation.activate is Activate.IMMEDIATELY:
            await self.activate(uow, caller, rotation)
        elif (
            result.status is ValidationStatus.INVALID
            or instant >= rotation.created_at + ROTATION_RETRY_PERIOD
        ):
            await self.reject(uow, caller, rotation, RotationState.REJECTED)
            await self._notify(uow, rejection_event(rotation, result, at=instant))
        else:
            delay = retry_delay(streak, retry_after=result.retry_after)
            await uow[QueueRepository].schedule(rotation_retry_of(rotation), due_at=instant + delay)

    async def _destroy_replaced(self, uow: UnitOfWork, caller: Caller, credential_id: UUID) -> None:
        """Destroy previous versions whose rotations asked for it at once, now that a result proves the active key."""
        for intent_id in await uow[RotationRepository].to_destroy(credential_id):
            replaced = await uow[VersionRepository].lock_intent(intent_id)
            if replaced is None:
                continue
            instant = now()
            await _mark_destroyed(uow, caller, replaced, instant)
            await uow[CredentialRepository].release_unused_fingerprints(credential_id)
            await uow[CredentialRepository].set_previous(
                credential_id, await uow[VersionRepository].find_rollback_target(credential_id), now=instant
            )

    async def activate(self, uow: UnitOfWork, caller: Caller, rotation: RotationRecord) -> None:
        """Activate the new version and make the active one previous, in one transaction.

        So there is exactly one active version at any time. The previous one is kept for the retention, whatever the
        rotation asks for: only a result that proves the new key destroys it earlier.
        """
        replaced = await uow[VersionRepository].lock_active(rotation.credential_id)
        # After the lock: no call that was admitted with the replaced version started later.
        instant = await uow[VersionRepository].clock()
        await self._replace(uow, caller, replaced, instant)
        await uow[VersionRepository].transition(
            rotation.credential_id,
            rotation.key_version,
            expected=VersionState.STORED,
            to=VersionState.ACTIVE,
            activated_at=instant,
        )
        await uow[CredentialRepository].set_active_version(
            rotation.credential_id,
            active=rotation.key_version,
            previous=await uow[VersionRepository].find_rollback_target(rotation.credential_id),
            now=instant,
        )
        await uow[RotationRepository].decide(
            rotation.credential_id,
            rotation.key_version,
            RotationState.ACTIVATED,
            now=instant,
            replaced_key_version=replaced.key_version,
        )
        await uow[QueueRepository].remove(rotation_retry_of(rotation))
        await audit.record(
            uow,
            caller,
            AuditAction.ROTATION_ACTIVATED,
            rotation.credential_id,
            key_version=rotation.key_version,
            replaces=replaced.key_version,
        )
        await self._notify(uow, activation_event(rotation, replaces=replaced.key_version, at=instant))

    async def reject(
        self, uow: UnitOfWork, caller: Caller, rotation: RotationRecord, state: RotationState
    ) -> None:
        """End the rotation as `state`. The new version is never activated and its secret will be destroyed.

        The active version does not change.
        """
        instant = now()
        await uow[VersionRepository].transition(
            rotation.credential_id,
            rotation.key_version,
            expected=VersionState.STORED,
            to=VersionState.REJECTED,
        )
        await uow[RotationRepository].decide(rotation.credential_id, rotation.key_version, state, now=instant)
        await uow[QueueRepository].remove(rotation_retry_of(rotation))
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

    async def _replace(self, uow: UnitOfWork, caller: Caller, replaced: Intent, instant: datetime) -> None:
        """Make the active version previous, and schedule its destruction."""
        retention_until = instant + self._retention
        await uow[VersionRepository].transition(
            replaced.credential_id,
            replaced.key_version,
            expected=VersionState.ACTIVE,
            to=VersionState.PREVIOUS,
            retires_at=retention_until,
            replaced_at=instant,
        )
        await uow[QueueRepository].schedule(
            destruction_of(caller.organization_id, replaced.intent_id), due_at=retention_until
        )


async def _mark_destroyed(uow: UnitOfWork, caller: Caller, version: Intent, instant: datetime) -> None:
    """Make the version unusable. The queue item destroys its secret after the commit."""
    await uow[VersionRepository].transition(
        version.credential_id, version.key_version, expected=VersionState.PREVIOUS, to=VersionState.DESTROYED
    )
    await uow[QueueRepository].schedule(
        destruction_of(caller.organization_id, version.intent_id), due_at=instant
    )
    await audit.record(
        uow, caller, AuditAction.VERSION_DESTROYED, version.credential_id, key_version=version.key_version
    )


def rotation_retry_of(rotation: RotationRecord) -> DueItem:
    """The queue item that validates the key of a pending rotation again."""
    return DueItem(organization_id=rotation.organization_id, kind=JobKind.RETRY_ROTATION, id=rotation.id)


def destruction_of(organization_id: str, intent_id: UUID) -> DueItem:
    """The queue item that destroys a version's secret when it is due."""
    return DueItem(organization_id=organization_id, kind=JobKind.DESTROY_VERSION, id=intent_id)
