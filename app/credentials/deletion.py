"""Destroy key versions and delete credentials.

The row is marked first, then the secret is destroyed, then the destruction is recorded in the row. From
the first commit on the key cannot be used. A queue item completes the work after a crash at any point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import now
from app.core.errors import (
    CredentialInUse,
    NotFound,
    SecretStoreUnavailable,
    VersionInUse,
)
from app.core.revisions import require_revision
from app.credentials.activation import destruction_of
from app.credentials.records import DELETED_STATES, CredentialState, VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import RotationState
from app.credentials.version_repository import Intent, VersionRepository
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_store.port import SecretRef, SecretStore

_DESTROYABLE = (VersionState.STORED, VersionState.PREVIOUS, VersionState.REJECTED)
_DESTRUCTION_DUE = (VersionState.PREVIOUS, VersionState.REJECTED, VersionState.DESTROYED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionReceipt:
    """When a credential was deleted, and which key versions were destroyed."""

    id: UUID
    deleted_at: datetime
    versions_destroyed: tuple[int, ...]


class LeaseRevoker(Protocol):
    """Revokes leases of a key whose wrapping tokens are still unused."""

    async def revoke(
        self, organization_id: str, credential_id: UUID, key_version: int | None = None
    ) -> None: ...


class UsageModeGuard(Protocol):
    """Reports whether the usage mode uses a credential, so that it is not deleted by mistake."""

    async def lock_usage_mode(self, uow: UnitOfWork) -> None: ...

    async def uses_credential(self, uow: UnitOfWork, credential_id: UUID) -> bool: ...


class DeletionService:
    """One public method per use case. The reconciler calls `reconcile_version` and `reconcile_deletion`."""

    def __init__(
        self, units: UnitsOfWork, store: SecretStore, leases: LeaseRevoker, usage_mode: UsageModeGuard
    ) -> None:
        self._units = units
        self._store = store
        self._leases = leases
        self._usage_mode = usage_mode

    async def delete(
        self,
        caller: Caller,
        credential_id: UUID,
        *,
        force: bool,
        revisions: frozenset[int] | None = None,
    ) -> DeletionReceipt:
        """Delete a credential and destroy all its versions. The masked record stays.

        Repeating it returns the same receipt.

        Args:
            caller: the client.
            credential_id: the credential.
            force: delete it even if the active or scheduled usage mode uses it.
            revisions: the revisions that If-Match names; None accepts any.

        Raises:
            NotFound, CredentialInUse, PreconditionFailed, SecretStoreUnavailable, DatabaseUnavailable
        """
        organization_id = caller.organization_id
        async with self._units.writing(organization_id) as uow:
            await self._usage_mode.lock_usage_mode(uow)  # no switch to this credential during its deletion
            live_versions = await uow[VersionRepository].lock_live_versions(credential_id)
            locked = await uow[CredentialRepository].lock(credential_id)
            if locked is None or locked.state is CredentialState.CREATING:
                raise NotFound
            if locked.state not in DELETED_STATES:
                require_revision(locked.revision, revisions)
                if not force and await self._usage_mode.uses_credential(uow, credential_id):
                    raise CredentialInUse
                await self._mark_deleted(uow, caller, credential_id, live_versions)
            await uow.commit()
        await self.reconcile_deletion(organization_id, credential_id)
        return await self._receipt(organization_id, credential_id)

    async def destroy_version(
        self,
        caller: Caller,
        credential_id: UUID,
        key_version: int,
        *,
        revisions: frozenset[int] | None = None,
    ) -> None:
        """Destroy a version that is not active. Cancels its rotation if that is pending. Repeatable.

        Raises:
            NotFound, VersionInUse, PreconditionFailed, SecretStoreUnavailable, DatabaseUnavailable
        """
        organization_id, instant = caller.organization_id, now()
        async with self._units.writing(organization_id) as uow:
            await uow[VersionRepository].lock(credential_id)
            intent_id = await uow[VersionRepository].find_intent(credential_id, key_version=key_version)
            version = None if intent_id is None else await uow[VersionRepository].lock_intent(intent_id)
            if version is None or version.state is VersionState.ABANDONED:
                raise NotFound
            if version.state not in (*_DESTROYABLE, VersionState.DESTROYED):
                raise VersionInUse
            if version.state in _DESTROYABLE:
                locked = await uow[CredentialRepository].lock(credential_id)
                if locked is None:
                    raise NotFound
                require_revision(locked.revision, revisions)
                await uow[RotationRepository].decide(
                    credential_id, key_version, RotationState.CANCELLED, now=instant
                )
                await self._mark_destroyed(uow, caller, version)
                await uow[QueueRepository].schedule(
                    destruction_of(organization_id, version.intent_id), due_at=instant
                )
            await uow.commit()
        await self.reconcile_version(organization_id, version.intent_id)

    async def reconcile_version(self, organization_id: str, intent_id: UUID) -> None:
        """Destroy the secret of a version that is expired, rejected or marked as destroyed. Repeatable.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: retry later.
        """
        caller = Caller.system(organization_id)
        async with self._units.writing(organization_id) as uow:
            version = await uow[VersionRepository].lock_intent(intent_id)
            if version is not None and version.retires_at is not None and version.retires_at > now():
                return  # activated and replaced again in the meantime: it is due again at its new time
            is_due = version is not None and version.state in _DESTRUCTION_DUE
            if version is not None and version.state is VersionState.PREVIOUS:
                await self._mark_destroyed(uow, caller, version)
            if not is_due:
                await uow[QueueRepository].remove(destruction_of(organization_id, intent_id))
            await uow.commit()
        if version is None or not is_due:
            return
        assert version.store_version is not None
        ref = SecretRef(organization_id=organization_id, credential_id=version.credential_id)
        await self._leases.revoke(organization_id, version.credential_id, version.key_version)
        await self._store.destroy(ref, version.store_version)
        async with self._units.writing(organization_id) as uow:
            await uow[VersionRepository].set_destroyed_at(
                version.credential_id, version.key_version, now=now()
            )
            await uow[QueueRepository].remove(destruction_of(organization_id, intent_id))
            await uow.commit()

    async def reconcile_deletion(self, organization_id: str, credential_id: UUID) -> None:
        """Destroy all secrets of a deleted credential, then mark it as deleted. Repeatable.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: retry later.
        """
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        await self._leases.revoke(organization_id, credential_id)
        await self._store.destroy_all(ref)
        instant = now()
        async with self._units.writing(organization_id) as uow:
            for version in await uow[VersionRepository].lock_live_versions(credential_id):
                await uow[VersionRepository].set_destroyed_at(credential_id, version.key_version, now=instant)
                await uow[QueueRepository].remove(destruction_of(organization_id, version.intent_id))
            locked = await uow[CredentialRepository].lock(credential_id)
            if locked is not None and locked.state is CredentialState.DELETING:
                await uow[CredentialRepository].set_state(credential_id, CredentialState.DELETED, now=instant)
            await uow[QueueRepository].remove(_deletion_of(organization_id, credential_id))
            await uow.commit()

    async def _mark_destroyed(self, uow: UnitOfWork, caller: Caller, version: Intent) -> None:
        instant = now()
        was_previous = version.state is VersionState.PREVIOUS
        await uow[VersionRepository].transition(
            version.credential_id, version.key_version, expected=version.state, to=VersionState.DESTROYED
        )
        if was_previous:
            rollback_target = await uow[VersionRepository].find_rollback_target(version.credential_id)
            await uow[CredentialRepository].set_previous(version.credential_id, rollback_target, now=instant)
        await uow[CredentialRepository].release_unused_fingerprints(version.credential_id)
        await audit.record(
            uow, caller, AuditAction.VERSION_DESTROYED, version.credential_id, key_version=version.key_version
        )

    async def _mark_deleted(
        self, uow: UnitOfWork, caller: Caller, credential_id: UUID, live_versions: Sequence[Intent]
    ) -> None:
        instant = now()
        destroyed = []
        for version in live_versions:
            await uow[RotationRepository].decide(
                credential_id, version.key_version, RotationState.CANCELLED, now=instant
            )
            if version.state is VersionState.INTENT:
                # A running write cannot be stopped. Reconciliation blocks it, or its writer discards it.
                await uow[VersionRepository].transition(
                    credential_id,
                    version.key_version,
                    expected=VersionState.INTENT,
                    to=VersionState.ABANDONED,
                )
                continue
            if version.state is not VersionState.DESTROYED:
                await uow[VersionRepository].transition(
                    credential_id, version.key_version, expected=version.state, to=VersionState.DESTROYED
                )
            destroyed.append(version.key_version)
        await uow[CredentialRepository].release_fingerprints(credential_id)
        await uow[CredentialRepository].set_previous(credential_id, None, now=instant)
        await uow[CredentialRepository].set_state(
            credential_id, CredentialState.DELETING, now=instant, deleted_by=caller.subject
        )
        await uow[QueueRepository].schedule(
            _deletion_of(caller.organization_id, credential_id), due_at=instant
        )
        await audit.record(
            uow,
            caller,
            AuditAction.CREDENTIAL_DELETED,
            credential_id,
            versions_destroyed=" ".join(map(str, destroyed)),
        )

    async def _receipt(self, organization_id: str, credential_id: UUID) -> DeletionReceipt:
        async with self._units.reading(organization_id) as uow:
            deleted_at = await uow[CredentialRepository].deleted_at(credential_id)
            destroyed = await uow[VersionRepository].destroyed_key_versions(credential_id)
        if deleted_at is None:
            raise SecretStoreUnavailable
        return DeletionReceipt(id=credential_id, deleted_at=deleted_at, versions_destroyed=tuple(destroyed))


def _deletion_of(organization_id: str, credential_id: UUID) -> DueItem:
    return DueItem(organization_id=organization_id, kind=JobKind.PURGE_CREDENTIAL, id=credential_id)
