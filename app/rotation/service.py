"""Rotate a key without downtime: store the new key, validate it, activate it, destroy the previous one later."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.errors import (
    NotFound,
    RateLimited,
    RotationInProgress,
    RotationNotPending,
    TooManyVersions,
    Unavailable,
)
from app.core.keys.api_key import ApiKey
from app.core.revisions import require_revision
from app.credentials.activation import Activation, rotation_retry_of
from app.credentials.deletion import DeletionService
from app.credentials.records import Activate, DestroyPrevious, VersionState, VersionStateError
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import RotationRecord, RotationState, has_store_capacity
from app.credentials.service import INTENT_DEADLINE
from app.credentials.validation_results import Trigger, ValidationRecord
from app.credentials.validator import response_deadline
from app.credentials.version_repository import Intent, VersionRepository
from app.credentials.write_protocol import WriteProtocol, reconciliation_of
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.provider_url.endpoint_service import EndpointService
from app.provider_url.url import ProviderURL
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.secret_store.port import SecretRef, SecretStore
from app.validation.runner import ValidationRunner

_NOT_STORED = (VersionState.INTENT, VersionState.ABANDONED)
_BEING_ACTIVATED = (VersionState.INTENT, VersionState.STORED)
# Events of this time may still arrive. Recording one reads all versions that were activated since it started.
_COUNTED = timedelta(days=35)
_RETRY_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """The validated input of a rotation. Endpoint fields outside `provided_fields` are copied."""

    key: ApiKey
    activate: Activate
    destroy_previous: DestroyPrevious
    provided_fields: frozenset[str]
    base_url: ProviderURL | None
    auth_style: AuthStyle | None
    workspace_id: str | None
    probe_model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """The inputs of step 1 of the write protocol that are read before its transaction."""

    replaces: int
    endpoint: ProviderEndpoint
    fingerprint: str
    expected_store_version: int


class RotationService:
    """One public method per use case. The queue worker calls `retry`."""

    def __init__(
        self,
        units: UnitsOfWork,
        store: SecretStore,
        *,
        validator: ValidationRunner,
        activation: Activation,
        deletion: DeletionService,
        rate_limits: RateLimiter,
        endpoints: EndpointService,
        max_rotations: int = 5000,
    ) -> None:
        self._max_rotations = max_rotations
        self._units = units
        self._store = store
        self._write_protocol = WriteProtocol(units, store)
        self._validator = validator
        self._activation = activation
        self._deletion = deletion
        self._rate_limits = rate_limits
        self._endpoints = endpoints

    async def rotate(
        self,
        caller: Caller,
        credential_id: UUID,
        new: NewKey,
        *,
        rotation_id: UUID,
        wait: bool = True,
        revisions: frozenset[int] | None = None,
    ) -> RotationRecord:
        """Rotate to a new key. The active version stays active until the new one is activated.

        Args:
            caller: the client.
            credential_id: the credential.
            new: the new key.
            rotation_id: the id of the new rotation.
            wait: wait for the validation result, up to the response deadline.
            revisions: the revisions that If-Match names; None accepts any.

        Raises:
            NotFound, CredentialDeleted, PreconditionFailed, RotationInProgress, TooManyVersions, DuplicateKey,
            UrlRefused, DnsUnavailable, RateLimited, SecretStoreUnavailable, DatabaseUnavailable
        """
        organization_id = caller.organization_id
        respond_by = response_deadline()
        await self._rate_limits.admit(organization_id, RateLimitKind.CREDENTIAL_WRITES)
        prepared = await self._prepare(organization_id, credential_id, new)
        intent = await self._commit_intent(
            caller, credential_id, new, rotation_id, prepared=prepared, revisions=revisions
        )
        store_version = await self._write_protocol.write_secret(organization_id, intent, new.key)
        validation = await self._complete_write(caller, intent, store_version)
        task = self._validator.launch(caller, validation, respond_by=respond_by if wait else None)
        if wait:
            await self._validator.wait(task)
        rotation = await self.read(organization_id, credential_id, rotation_id)
        if rotation.state is RotationState.ACTIVATED and new.destroy_previous is DestroyPrevious.IMMEDIATELY:
            await self._destroy_replaced(organization_id, credential_id)
        return rotation

    async def read(self, organization_id: str, credential_id: UUID, rotation_id: UUID) -> RotationRecord:
        """Get a rotation. Raises NotFound."""
        async with self._units.reading(organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
        if rotation is None or rotation.credential_id != credential_id:
            raise NotFound
        return rotation

    async def resume(self, organization_id: str, rotation_id: UUID) -> RotationRecord | None:
        """Return the rotation that an interrupted request with the same Idempotency-Key created.

        If that request did not get its key into the store, abandon its rotation and return None, so that the
        client can rotate to the key again.
        """
        async with self._units.reading(organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
            if rotation is None or rotation.version.state not in _NOT_STORED:
                return rotation
            incomplete = await uow[VersionRepository].find_intent(
                rotation.credential_id, key_version=rotation.key_version
            )
        assert incomplete is not None
        await self._write_protocol.reconcile(organization_id, incomplete)
        return None

    async def cancel(self, caller: Caller, credential_id: UUID, rotation_id: UUID) -> RotationRecord:
        """Cancel a pending rotation. The new key is never activated, and is destroyed.

        Raises:
            NotFound, RotationNotPending, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
            if rotation is None or rotation.credential_id != credential_id:
                raise NotFound
            await uow[VersionRepository].lock_live_versions(credential_id)
            pending = await uow[RotationRepository].find_pending(credential_id, rotation.key_version)
            if pending is None or pending.version.state is not VersionState.STORED:
                raise RotationNotPending
            await self._activation.reject(uow, caller, pending, RotationState.CANCELLED)
            await uow.commit()
        return await self.read(caller.organization_id, credential_id, rotation_id)

    async def retry(self, organization_id: str, rotation_id: UUID) -> None:
        """Validate the key of a pending rotation again. The result decides the rotation or schedules the next retry."""
        caller = Caller.system(organization_id)
        async with self._units.writing(organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
            validation = None
            if rotation is not None and rotation.state is RotationState.PENDING:
                if rotation.version.state is VersionState.STORED:
                    validation = await self._validator.start(
                        uow, caller, rotation.credential_id, rotation.key_version, trigger=Trigger.ROTATION
                    )
            else:
                await uow[QueueRepository].remove(
                    DueItem(organization_id=organization_id, kind=JobKind.RETRY_ROTATION, id=rotation_id)
                )
            await uow.commit()
        if validation is not None:
            await self._validator.wait(self._validator.launch(caller, validation))

    async def _prepare(self, organization_id: str, credential_id: UUID, new: NewKey) -> _Prepared:
        async with self._units.reading(organization_id) as uow:
            credential = await uow[CredentialRepository].get_live(credential_id)
        endpoint = await self._endpoints.build_for_rotation(
            credential.active_version.endpoint,
            new.provided_fields,
            base_url=new.base_url,
            auth_style=new.auth_style,
            workspace_id=new.workspace_id,
            probe_model=new.probe_model,
        )
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        fingerprint, store_version = await asyncio.gather(
            self._store.fingerprint(organization_id, new.key), self._store.current_version(ref)
        )
        return _Prepared(
            replaces=credential.active_version.key_version,
            endpoint=endpoint,
            fingerprint=fingerprint,
            expected_store_version=store_version,
        )

    async def _commit_intent(
        self,
        caller: Caller,
        credential_id: UUID,
        new: NewKey,
        rotation_id: UUID,
        *,
        prepared: _Prepared,
        revisions: frozenset[int] | None,
    ) -> Intent:
        """Step 1 of the write protocol: commit the intent and the pending rotation."""
        instant = now()
        async with self._units.writing(caller.organization_id) as uow:
            await _lock_for_rotation(uow, credential_id, prepared, revisions)
            await self._require_room(uow)
            intent = Intent(
                intent_id=new_id(),
                credential_id=credential_id,
                key_version=await uow[VersionRepository].highest_key_version(credential_id) + 1,
                state=VersionState.INTENT,
                expected_store_version=prepared.expected_store_version,
            )
            await uow[CredentialRepository].claim_fingerprint(prepared.fingerprint, credential_id)
            await _insert_rotation(
                uow, caller, intent, new, rotation_id=rotation_id, prepared=prepared, instant=instant
            )
            await uow[QueueRepository].add(
                reconciliation_of(caller.organization_id, intent.intent_id), due_at=instant + INTENT_DEADLINE
            )
            await audit.record(
                uow,
                caller,
                AuditAction.ROTATION_STARTED,
                credential_id,
                key_version=intent.key_version,
                key_hint=new.key.hint,
            )
            await uow.commit()
        return intent

    async def _require_room(self, uow: UnitOfWork) -> None:
        rotations = await uow[RotationRepository].count_since(now() - _COUNTED, at_most=self._max_rotations)
        if rotations >= self._max_rotations:
            raise RateLimited(retry_after_seconds=_RETRY_SECONDS)

    async def _complete_write(self, caller: Caller, intent: Intent, store_version: int) -> ValidationRecord:
        """Step 3: mark the version as stored, start its validation, and activate it if that must not wait."""
        async with self._units.writing(caller.organization_id) as uow:
            await uow[VersionRepository].lock(intent.credential_id)
            stored = await uow[VersionRepository].transition(
                intent.credential_id,
                intent.key_version,
                expected=VersionState.INTENT,
                to=VersionState.STORED,
                store_version=store_version,
            )
            validation = None
            if stored:
                rotation = await uow[RotationRepository].find_pending(
                    intent.credential_id, intent.key_version
                )
                if rotation is None:
                    raise VersionStateError("A version that was just stored has no pending rotation.")
                # If this process dies before the validation ends, the retry validates the key again.
                await uow[QueueRepository].schedule(
                    rotation_retry_of(rotation), due_at=now() + INTENT_DEADLINE
                )
                if rotation.activate is Activate.IMMEDIATELY:
                    await self._activation.activate(uow, caller, rotation)
                validation = await self._validator.start(
                    uow, caller, intent.credential_id, intent.key_version, trigger=Trigger.ROTATION
                )
                await uow[QueueRepository].remove(reconciliation_of(caller.organization_id, intent.intent_id))
                await uow.commit()
        if validation is None:
            await self._write_protocol.discard(caller.organization_id, intent.credential_id, store_version)
            raise await self._write_protocol.refusal(caller.organization_id, intent.credential_id)
        return validation

    async def _destroy_replaced(self, organization_id: str, credential_id: UUID) -> None:
        """Destroy the replaced version before the response is sent, because it leaked. If that fails, the queue item does it later."""
        with suppress(Unavailable):
            await self._destroy_marked(organization_id, credential_id)

    async def _destroy_marked(self, organization_id: str, credential_id: UUID) -> None:
        async with self._units.writing(organization_id) as uow:
            marked = [
                v
                for v in await uow[VersionRepository].lock_live_versions(credential_id)
                if v.state is VersionState.DESTROYED
            ]
        for version in marked:
            await self._deletion.reconcile_version(organization_id, version.intent_id)


async def _lock_for_rotation(
    uow: UnitOfWork, credential_id: UUID, prepared: _Prepared, revisions: frozenset[int] | None
) -> None:
    """Lock the credential and its versions, and check that a rotation may start."""
    live_versions = await uow[VersionRepository].lock_live_versions(credential_id)
    await uow[CredentialRepository].lock(credential_id)
    credential = await uow[CredentialRepository].get_live(credential_id)
    require_revision(credential.revision, revisions)
    pending = None if credential.rotation is None else credential.rotation.id
    if credential.active_version.key_version != prepared.replaces:
        # Endpoint fields were copied from a version that is not active any more.
        raise RotationInProgress(pending)
    _require_store_capacity(live_versions, prepared.expected_store_version, pending)


async def _insert_rotation(
    uow: UnitOfWork,
    caller: Caller,
    intent: Intent,
    new: NewKey,
    *,
    rotation_id: UUID,
    prepared: _Prepared,
    instant: datetime,
) -> None:
    """Insert the new version, and the pending rotation to it."""
    await uow[VersionRepository].insert_intent(
        intent,
        endpoint=prepared.endpoint,
        key_hint=new.key.hint,
        fingerprint=prepared.fingerprint,
        created_at=instant,
        created_by=caller.subject,
    )
    await uow[RotationRepository].insert(
        rotation_id,
        intent.credential_id,
        intent.key_version,
        activate=new.activate,
        destroy_previous=new.destroy_previous,
        created_at=instant,
        created_by=caller.subject,
    )


def _require_store_capacity(
    live_versions: Sequence[Intent], expected_store_version: int, pending_rotation: UUID | None
) -> None:
    if any(v.state in _BEING_ACTIVATED for v in live_versions):
        raise RotationInProgress(pending_rotation)
    if any(v.store_version is not None and v.store_version > expected_store_version for v in live_versions):
        raise RotationInProgress  # another rotation ran after `_prepare` read the store's version
    oldest = min((v.store_version for v in live_versions if v.store_version is not None), default=None)
    if not has_store_capacity(oldest, expected_store_version):
        raise TooManyVersions
