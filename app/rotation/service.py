"""Rotate a key without downtime: write the new one, check it, switch, then let the old one go."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.api_key import ApiKey
from app.core.clock import new_id, now
from app.core.errors import (
    CredentialDeleted,
    NotFound,
    RotationInProgress,
    RotationNotPending,
    SecretStoreUnavailable,
    TooManyVersions,
    Unavailable,
)
from app.credentials.activation import Activation, retry_of
from app.credentials.deletion import DeletionService
from app.credentials.records import CredentialRecord, CredentialState, VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import Activate, DestroyPrevious, RotationRecord, RotationState, has_room
from app.credentials.service import INTENT_DEADLINE
from app.credentials.validator import answer_time
from app.credentials.verdicts import Trigger, ValidationRecord
from app.credentials.version_repository import Intent, VersionRepository
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.provider_url.endpoint_service import EndpointService
from app.provider_url.url import ProviderURL
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.secret_store.port import SecretRef, SecretStore
from app.validation.runner import ValidationRunner

_UNBORN = (VersionState.INTENT, VersionState.ABANDONED)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What an admin entered. Fields that were not given keep what the key before has."""

    key: ApiKey
    activate: Activate
    destroy_previous: DestroyPrevious
    given: frozenset[str]
    base_url: ProviderURL | None
    auth_style: AuthStyle | None
    workspace_id: str | None
    probe_model: str | None


class RotationService:
    """One public method per use case."""

    def __init__(
        self,
        units: UnitsOfWork,
        store: SecretStore,
        *,
        checks: ValidationRunner,
        activation: Activation,
        retirement: DeletionService,
        rate_limits: RateLimiter,
        destinations: EndpointService,
    ) -> None:
        self._units = units
        self._store = store
        self._writes = WriteProtocol(units, store)
        self._checks = checks
        self._activation = activation
        self._retirement = retirement
        self._rate_limits = rate_limits
        self._destinations = destinations

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
        """Bring a new key. Until it is in use the old one is, untouched.

        Raises:
            NotFound, CredentialDeleted, PreconditionFailed, RotationInProgress, TooManyVersions, DuplicateKey,
            UrlRefused, DnsUnavailable, RateLimited, SecretStoreUnavailable, DatabaseUnavailable
        """
        organization_id = caller.organization_id
        answer_by = answer_time()
        await self._rate_limits.admit(organization_id, RateLimitKind.CREDENTIAL_WRITES)
        credential = await self._usable(organization_id, credential_id)
        destination = await self._destinations.choose_again(
            credential.current.destination,
            new.given,
            base_url=new.base_url,
            auth_style=new.auth_style,
            workspace_id=new.workspace_id,
            probe_model=new.probe_model,
        )
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        fingerprint, at = await asyncio.gather(
            self._store.fingerprint(organization_id, new.key), self._store.current_version(ref)
        )
        intent = await self._announce(
            caller,
            credential_id,
            new,
            rotation_id,
            replacing=credential.current.key_version,
            destination=destination,
            fingerprint=fingerprint,
            expected_store_version=at,
            revisions=revisions,
        )
        store_version = await self._writes.seal(organization_id, intent, new.key)
        check = await self._stored(caller, intent, store_version)
        task = self._checks.launch(caller, check, answer_by=answer_by if wait else None)
        if wait:
            await self._checks.wait(task)
        rotation = await self.read(organization_id, credential_id, rotation_id)
        if rotation.state is RotationState.ACTIVATED and new.destroy_previous is DestroyPrevious.IMMEDIATELY:
            await self._destroy_replaced(organization_id, credential_id)
        return rotation

    async def read(self, organization_id: str, credential_id: UUID, rotation_id: UUID) -> RotationRecord:
        """Raises NotFound."""
        async with self._units.reading(organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
        if rotation is None or rotation.credential_id != credential_id:
            raise NotFound
        return rotation

    async def resume(self, organization_id: str, rotation_id: UUID) -> RotationRecord | None:
        """What a vanished holder of an Idempotency-Key left behind: the rotation, if its key got to the store.

        If it did not, what there is of it is cleared away, so that the key can be brought anew.
        """
        async with self._units.reading(organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
            if rotation is None or rotation.version.state not in _UNBORN:
                return rotation
            unborn = await uow[VersionRepository].find_intent(
                rotation.credential_id, key_version=rotation.key_version
            )
        assert unborn is not None
        await self._writes.settle(organization_id, unborn)
        return None

    async def cancel(self, caller: Caller, credential_id: UUID, rotation_id: UUID) -> RotationRecord:
        """The new key never goes into use, and is destroyed.

        Raises:
            NotFound, RotationNotPending, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
            if rotation is None or rotation.credential_id != credential_id:
                raise NotFound
            await uow[VersionRepository].lock_standing(credential_id)
            pending = await uow[RotationRepository].find_pending(credential_id, rotation.key_version)
            if pending is None or pending.version.state is not VersionState.STORED:
                raise RotationNotPending
            await self._activation.turn_down(uow, caller, pending, RotationState.CANCELLED)
            await uow.commit()
        return await self.read(caller.organization_id, credential_id, rotation_id)

    async def retry(self, organization_id: str, rotation_id: UUID) -> None:
        """The queue's: check a pending rotation's key again. Its verdict decides, or puts it off."""
        caller = Caller(subject=audit.SYSTEM_ACTOR, organization_id=organization_id, request_id="")
        async with self._units.writing(organization_id) as uow:
            rotation = await uow[RotationRepository].find(rotation_id)
            check = None
            if rotation is not None and rotation.state is RotationState.PENDING:
                if rotation.version.state is VersionState.STORED:
                    check = await self._checks.start(
                        uow, caller, rotation.credential_id, rotation.key_version, trigger=Trigger.ROTATION
                    )
            else:
                await uow[QueueRepository].remove(
                    DueItem(organization_id=organization_id, kind=JobKind.RETRY_ROTATION, id=rotation_id)
                )
            await uow.commit()
        if check is not None:
            await self._checks.wait(self._checks.launch(caller, check))

    async def _usable(self, organization_id: str, credential_id: UUID) -> CredentialRecord:
        async with self._units.reading(organization_id) as uow:
            credential = await uow[CredentialRepository].find(credential_id)
        _require_usable(credential)
        assert credential is not None
        return credential

    async def _announce(
        self,
        caller: Caller,
        credential_id: UUID,
        new: NewKey,
        rotation_id: UUID,
        *,
        replacing: int,
        destination: ProviderEndpoint,
        fingerprint: str,
        expected_store_version: int,
        revisions: frozenset[int] | None,
    ) -> Intent:
        """Step 1 of the order of writes: intent and rotation, committed."""
        instant = now()
        async with self._units.writing(caller.organization_id) as uow:
            standing = await uow[VersionRepository].lock_standing(credential_id)
            await uow[CredentialRepository].lock(credential_id)
            current = _require_usable(await uow[CredentialRepository].find(credential_id))
            current.require_revision(revisions)
            if current.current.key_version != replacing:
                raise RotationInProgress  # what was not given was taken from a version that is not in use any more
            _require_room(standing, expected_store_version)
            intent = Intent(
                intent_id=new_id(),
                credential_id=credential_id,
                key_version=await uow[VersionRepository].last_number(credential_id) + 1,
                state=VersionState.INTENT,
                expected_store_version=expected_store_version,
            )
            await uow[CredentialRepository].claim_fingerprint(fingerprint, credential_id)
            await uow[VersionRepository].insert_intent(
                intent,
                destination=destination,
                key_hint=new.key.hint,
                fingerprint=fingerprint,
                created_at=instant,
                created_by=caller.subject,
            )
            await uow[RotationRepository].insert(
                rotation_id,
                credential_id,
                intent.key_version,
                activate=new.activate,
                destroy_previous=new.destroy_previous,
                created_at=instant,
                created_by=caller.subject,
            )
            await uow[QueueRepository].add(_settling(caller, intent), due_at=instant + INTENT_DEADLINE)
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

    async def _stored(self, caller: Caller, intent: Intent, store_version: int) -> ValidationRecord:
        """Step 3: the store has it; at once into use if so asked. Its check is on record from here on."""
        async with self._units.writing(caller.organization_id) as uow:
            await uow[VersionRepository].lock(intent.credential_id)
            stored = await uow[VersionRepository].move(
                intent.credential_id,
                intent.key_version,
                expected=VersionState.INTENT,
                to=VersionState.STORED,
                store_version=store_version,
            )
            check = None
            if stored:
                rotation = await uow[RotationRepository].find_pending(
                    intent.credential_id, intent.key_version
                )
                assert rotation is not None
                # Should this process die before the verdict, the retry takes over.
                await uow[QueueRepository].schedule(retry_of(rotation), due_at=now() + INTENT_DEADLINE)
                if rotation.activate is Activate.IMMEDIATELY:
                    await self._activation.activate(uow, caller, rotation)
                check = await self._checks.start(
                    uow, caller, intent.credential_id, intent.key_version, trigger=Trigger.ROTATION
                )
                await uow[QueueRepository].remove(_settling(caller, intent))
                await uow.commit()
        if check is None:
            await self._writes.discard(caller.organization_id, intent.credential_id, store_version)
            raise SecretStoreUnavailable
        return check

    async def _destroy_replaced(self, organization_id: str, credential_id: UUID) -> None:
        """A leaked key goes before the answer does; the queue finishes it if the store or the database is down."""
        with suppress(Unavailable):
            await self._destroy_marked(organization_id, credential_id)

    async def _destroy_marked(self, organization_id: str, credential_id: UUID) -> None:
        async with self._units.writing(organization_id) as uow:
            marked = [
                v
                for v in await uow[VersionRepository].lock_standing(credential_id)
                if v.state is VersionState.DESTROYED
            ]
        for version in marked:
            await self._retirement.settle_version(organization_id, version.intent_id)


def _require_usable(credential: CredentialRecord | None) -> CredentialRecord:
    if credential is None:
        raise NotFound
    if credential.state not in (CredentialState.ACTIVE, CredentialState.DISABLED):
        raise CredentialDeleted
    return credential


def _require_room(standing: Sequence[Intent], expected_store_version: int) -> None:
    if any(v.state in (VersionState.INTENT, VersionState.STORED) for v in standing):
        raise RotationInProgress
    if any(v.store_version is not None and v.store_version > expected_store_version for v in standing):
        raise RotationInProgress  # another one came and went since we looked at the store
    oldest = min((v.store_version for v in standing if v.store_version is not None), default=None)
    if not has_room(oldest, expected_store_version):
        raise TooManyVersions


def _settling(caller: Caller, intent: Intent) -> DueItem:
    return DueItem(organization_id=caller.organization_id, kind=JobKind.SETTLE_INTENT, id=intent.intent_id)
