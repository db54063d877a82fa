"""Keep a key for later use, list, read and rename credentials."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.api_key import ApiKey
from app.core.clock import new_id, now
from app.core.errors import CredentialDeleted, NotFound, SecretStoreUnavailable
from app.credentials.records import (
    DEFAULT_PROVIDER,
    CredentialRecord,
    CredentialState,
    VersionRecord,
    VersionState,
)
from app.credentials.repository import CredentialRepository
from app.credentials.validator import Validator, answer_time
from app.credentials.verdicts import Trigger, ValidationRecord
from app.credentials.version_repository import Intent, VersionRepository
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.provider_url.endpoint_service import EndpointService
from app.provider_url.url import ProviderURL
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.secret_store.port import SecretStore

# Longer than any write to the store may take; after it the writer counts as dead.
INTENT_DEADLINE = timedelta(seconds=30)
LISTED_STATES = (CredentialState.ACTIVE, CredentialState.DISABLED)
READABLE_AS_DELETED = (CredentialState.DELETING, CredentialState.DELETED)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCredential:
    """What an admin entered."""

    label: str
    key: ApiKey
    base_url: ProviderURL | None
    auth_style: AuthStyle | None
    workspace_id: str | None
    probe_model: str | None


class CredentialService:
    """One public method per use case."""

    def __init__(
        self,
        units: UnitsOfWork,
        store: SecretStore,
        checks: Validator,
        rate_limits: RateLimiter,
        destinations: EndpointService,
    ) -> None:
        self._units = units
        self._store = store
        self._writes = WriteProtocol(units, store)
        self._checks = checks
        self._rate_limits = rate_limits
        self._destinations = destinations

    async def register(
        self, caller: Caller, new: NewCredential, *, credential_id: UUID, wait: bool = True
    ) -> CredentialRecord:
        """Seal a key, put it in use, and check it; with `wait` the answer has the verdict.

        The credential stays, whatever the verdict: a refused key is shown as invalid.

        Raises:
            UrlRefused, DnsUnavailable, DuplicateKey, RateLimited, SecretStoreUnavailable, DatabaseUnavailable
        """
        answer_by = answer_time()
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.CREDENTIAL_WRITES)
        destination = await self._destinations.choose(
            base_url=new.base_url,
            auth_style=new.auth_style,
            workspace_id=new.workspace_id,
            probe_model=new.probe_model,
        )
        fingerprint = await self._store.fingerprint(caller.organization_id, new.key)
        intent = await self._announce(
            caller, new, credential_id, destination=destination, fingerprint=fingerprint
        )
        store_version = await self._writes.seal(caller.organization_id, intent, new.key)
        validation = await self._put_in_use(caller, intent, store_version, key_hint=new.key.hint)
        check = self._checks.launch(caller, validation, answer_by=answer_by if wait else None)
        if wait:
            await self._checks.wait(check)
        return await self.read(caller.organization_id, credential_id)

    async def resume(self, organization_id: str, credential_id: UUID) -> CredentialRecord | None:
        """What a vanished holder of an Idempotency-Key left behind: the credential, if it came to be.

        If it did not, what there is of it is cleared away, so that the key can be registered anew.
        """
        async with self._units.reading(organization_id) as uow:
            record = await uow[CredentialRepository].find(credential_id)
            unborn = (
                None
                if record is not None
                else await uow[VersionRepository].find_intent(credential_id, key_version=1)
            )
        if unborn is not None:
            await self._writes.settle(organization_id, unborn)
        return record

    async def read(self, organization_id: str, credential_id: UUID) -> CredentialRecord:
        """Raises NotFound; a deleted one is found."""
        async with self._units.reading(organization_id) as uow:
            record = await uow[CredentialRepository].find(credential_id)
        if record is None:
            raise NotFound
        return record

    async def page(
        self, organization_id: str, *, state: CredentialState | None, at_most: int, before: UUID | None
    ) -> Sequence[CredentialRecord]:
        """Newest first; deleted ones only when asked for."""
        states: Sequence[CredentialState] = LISTED_STATES if state is None else (state,)
        if state is CredentialState.DELETED:
            states = READABLE_AS_DELETED
        async with self._units.reading(organization_id) as uow:
            return await uow[CredentialRepository].page(states=states, at_most=at_most, before=before)

    async def versions(
        self, organization_id: str, credential_id: UUID, *, at_most: int, before: int
    ) -> Sequence[VersionRecord]:
        """Newest first. Raises NotFound where there is no such credential."""
        async with self._units.reading(organization_id) as uow:
            if await uow[CredentialRepository].find(credential_id) is None:
                raise NotFound
            return await uow[VersionRepository].page(credential_id, at_most=at_most, before=before)

    async def rename(
        self, caller: Caller, credential_id: UUID, label: str | None, *, revisions: frozenset[int] | None
    ) -> CredentialRecord:
        """Change the label, if one is given. `revisions` are those that If-Match names; None where any will do.

        Raises:
            NotFound, CredentialDeleted, PreconditionFailed, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            locked = await uow[CredentialRepository].lock(credential_id)
            record = await uow[CredentialRepository].find(credential_id)
            if locked is None or record is None:
                raise NotFound
            if record.state in READABLE_AS_DELETED:
                raise CredentialDeleted
            record.require_revision(revisions)
            if label is not None and label != record.label:
                await uow[CredentialRepository].rename(credential_id, label, now=now())
                await audit.record(uow, caller, AuditAction.CREDENTIAL_RENAMED, credential_id)
                record = await uow[CredentialRepository].find(credential_id)
                assert record is not None
            await uow.commit()
        return record

    async def _announce(
        self,
        caller: Caller,
        new: NewCredential,
        credential_id: UUID,
        *,
        destination: ProviderEndpoint,
        fingerprint: str,
    ) -> Intent:
        """Step 1: the intent, committed, with a job that abandons it should this process die."""
        instant = now()
        intent = Intent(
            intent_id=new_id(),
            credential_id=credential_id,
            key_version=1,
            state=VersionState.INTENT,
            expected_store_version=0,
        )
        async with self._units.writing(caller.organization_id) as uow:
            await uow[CredentialRepository].insert(
                credential_id,
                provider=DEFAULT_PROVIDER,
                label=new.label,
                created_at=instant,
                created_by=caller.subject,
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
            await uow[QueueRepository].add(_due(caller, intent), due_at=instant + INTENT_DEADLINE)
            await uow.commit()
        return intent

    async def _put_in_use(
        self, caller: Caller, intent: Intent, store_version: int, *, key_hint: str | None
    ) -> ValidationRecord:
        """Step 3: the first version goes into use at once, whatever its verdict will be."""
        instant = now()
        async with self._units.writing(caller.organization_id) as uow:
            stored = await uow[VersionRepository].move(
                intent.credential_id,
                intent.key_version,
                expected=VersionState.INTENT,
                to=VersionState.STORED,
                store_version=store_version,
            )
            if stored:
                await uow[VersionRepository].move(
                    intent.credential_id,
                    intent.key_version,
                    expected=VersionState.STORED,
                    to=VersionState.ACTIVE,
                    activated_at=instant,
                )
                await uow[CredentialRepository].activate(intent.credential_id)
                await audit.record(
                    uow,
                    caller,
                    AuditAction.CREDENTIAL_CREATED,
                    intent.credential_id,
                    key_version=intent.key_version,
                    key_hint=key_hint,
                )
                validation = await self._checks.start(
                    uow, caller, intent.credential_id, intent.key_version, trigger=Trigger.SAVE
                )
                await uow[QueueRepository].remove(_due(caller, intent))
                await uow.commit()
        if not stored:
            await self._writes.discard(caller.organization_id, intent.credential_id, store_version)
            raise SecretStoreUnavailable
        assert validation is not None, "a credential that nobody has seen has no check running"
        return validation


def _due(caller: Caller, intent: Intent) -> DueItem:
    return DueItem(organization_id=caller.organization_id, kind=JobKind.SETTLE_INTENT, id=intent.intent_id)
