"""Ends of keys: destroy versions, delete credentials. The row first, then the secret, then the row again.

Once the row says destroyed nobody may use the key; the queue item is what finishes the work after a
crash at any point.
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
    PreconditionFailed,
    SecretStoreUnavailable,
    VersionInUse,
)
from app.credentials.activation import destruction_of
from app.credentials.records import CredentialState, VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import RotationState
from app.credentials.version_repository import Intent, VersionRepository
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_store.port import SecretRef, SecretStore

_GONE = (CredentialState.DELETING, CredentialState.DELETED)
_DESTROYABLE = (VersionState.STORED, VersionState.PREVIOUS, VersionState.REJECTED)
_DUE = (VersionState.PREVIOUS, VersionState.REJECTED, VersionState.DESTROYED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionReceipt:
    """What a deletion destroyed, and when."""

    id: UUID
    deleted_at: datetime
    versions_destroyed: tuple[int, ...]


class LeaseRevoker(Protocol):
    """Ends leases of a key that are not opened yet."""

    async def revoke(
        self, organization_id: str, credential_id: UUID, key_version: int | None = None
    ) -> None: ...


class PayingCredential(Protocol):
    """Which credential pays: that one is not deleted by accident."""

    async def hold(self, uow: UnitOfWork) -> None: ...

    async def names(self, uow: UnitOfWork, credential_id: UUID) -> bool: ...


class DeletionService:
    """One public method per use case; `settle_*` are the queue's."""

    def __init__(
        self, units: UnitsOfWork, store: SecretStore, leases: LeaseRevoker, payer: PayingCredential
    ) -> None:
        self._units = units
        self._store = store
        self._leases = leases
        self._payer = payer

    async def delete(
        self,
        caller: Caller,
        credential_id: UUID,
        *,
        force: bool,
        revisions: frozenset[int] | None = None,
    ) -> DeletionReceipt:
        """Destroy every version, keep the masked record. A second time gives the same receipt.

        Raises:
            NotFound, CredentialInUse, PreconditionFailed, SecretStoreUnavailable, DatabaseUnavailable
        """
        organization_id = caller.organization_id
        async with self._units.writing(organization_id) as uow:
            await self._payer.hold(uow)  # nobody switches to it while it goes
            standing = await uow[VersionRepository].lock_standing(credential_id)
            found = await uow[CredentialRepository].lock(credential_id)
            if found is None or found[0] is CredentialState.CREATING:
                raise NotFound
            if found[0] not in _GONE:
                if revisions is not None and found[1] not in revisions:
                    raise PreconditionFailed
                if not force and await self._payer.names(uow, credential_id):
                    raise CredentialInUse
                await self._mark_deleted(uow, caller, credential_id, standing)
            await uow.commit()
        await self.settle_deletion(organization_id, credential_id)
        return await self._receipt(organization_id, credential_id)

    async def destroy_version(
        self,
        caller: Caller,
        credential_id: UUID,
        key_version: int,
        *,
        revisions: frozenset[int] | None = None,
    ) -> None:
        """Destroy a version that is not in use; one destroyed before is no error. A pending rotation to it is cancelled.

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
                found = await uow[CredentialRepository].lock(credential_id)
                if revisions is not None and (found is None or found[1] not in revisions):
                    raise PreconditionFailed
                await uow[RotationRepository].decide(
                    credential_id, key_version, RotationState.CANCELLED, now=instant
                )
                await self._mark_destroyed(uow, caller, version)
                await uow[QueueRepository].schedule(
                    destruction_of(organization_id, version.intent_id), due_at=instant
                )
            await uow.commit()
        await self.settle_version(organization_id, version.intent_id)

    async def settle_version(self, organization_id: str, intent_id: UUID) -> None:
        """Destroy what is due: a version kept long enough, turned down, or marked and not yet gone.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: repeat later.
        """
        caller = Caller(subject=audit.SYSTEM_ACTOR, organization_id=organization_id, request_id="")
        async with self._units.writing(organization_id) as uow:
            version = await uow[VersionRepository].lock_intent(intent_id)
            if version is not None and version.retires_at is not None and version.retires_at > now():
                return  # back in use and replaced again since this was due: it comes again at its new time
            is_due = version is not None and version.state in _DUE
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
            await uow[VersionRepository].stamp_destroyed(
                version.credential_id, version.key_version, now=now()
            )
            await uow[QueueRepository].remove(destruction_of(organization_id, intent_id))
            await uow.commit()

    async def settle_deletion(self, organization_id: str, credential_id: UUID) -> None:
        """Destroy a deleted credential's secrets, for good.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: repeat later.
        """
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        await self._leases.revoke(organization_id, credential_id)
        await self._store.purge(ref)
        instant = now()
        async with self._units.writing(organization_id) as uow:
            for version in await uow[VersionRepository].lock_standing(credential_id):
                await uow[VersionRepository].stamp_destroyed(credential_id, version.key_version, now=instant)
                await uow[QueueRepository].remove(destruction_of(organization_id, version.intent_id))
            found = await uow[CredentialRepository].lock(credential_id)
            if found is not None and found[0] is CredentialState.DELETING:
                await uow[CredentialRepository].set_state(credential_id, CredentialState.DELETED, now=instant)
            await uow[QueueRepository].remove(_purge_of(organization_id, credential_id))
            await uow.commit()

    async def _mark_destroyed(self, uow: UnitOfWork, caller: Caller, version: Intent) -> None:
        instant = now()
        was_previous = version.state is VersionState.PREVIOUS
        await uow[VersionRepository].move(
            version.credential_id, version.key_version, expected=version.state, to=VersionState.DESTROYED
        )
        if was_previous:
            kept = await uow[VersionRepository].newest_previous(version.credential_id)
            await uow[CredentialRepository].set_previous(version.credential_id, kept, now=instant)
        await uow[CredentialRepository].release_unused_fingerprints(version.credential_id)
        await audit.record(
            uow, caller, AuditAction.VERSION_DESTROYED, version.credential_id, key_version=version.key_version
        )

    async def _mark_deleted(
        self, uow: UnitOfWork, caller: Caller, credential_id: UUID, standing: Sequence[Intent]
    ) -> None:
        instant = now()
        destroyed = []
        for version in standing:
            await uow[RotationRepository].decide(
                credential_id, version.key_version, RotationState.CANCELLED, now=instant
            )
            if version.state is VersionState.INTENT:
                # A write that is under way cannot be called back: the sweep bars it, or its writer discards it.
                await uow[VersionRepository].move(
                    credential_id,
                    version.key_version,
                    expected=VersionState.INTENT,
                    to=VersionState.ABANDONED,
                )
                continue
            if version.state is not VersionState.DESTROYED:
                await uow[VersionRepository].move(
                    credential_id, version.key_version, expected=version.state, to=VersionState.DESTROYED
                )
            destroyed.append(version.key_version)
        await uow[CredentialRepository].release_fingerprints(credential_id)
        await uow[CredentialRepository].set_previous(credential_id, None, now=instant)
        await uow[CredentialRepository].set_state(
            credential_id, CredentialState.DELETING, now=instant, deleted_by=caller.subject
        )
        await uow[QueueRepository].schedule(_purge_of(caller.organization_id, credential_id), due_at=instant)
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
            destroyed = await uow[VersionRepository].destroyed_numbers(credential_id)
        if deleted_at is None:
            raise SecretStoreUnavailable
        return DeletionReceipt(id=credential_id, deleted_at=deleted_at, versions_destroyed=tuple(destroyed))


def _purge_of(organization_id: str, credential_id: UUID) -> DueItem:
    return DueItem(organization_id=organization_id, kind=JobKind.PURGE_CREDENTIAL, id=credential_id)
