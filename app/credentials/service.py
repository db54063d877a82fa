"""Create, list, get and rename credentials."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.errors import SecretStoreUnavailable, TooManyCredentials
from app.core.keys.api_key import ApiKey
from app.core.revisions import require_revision
from app.credentials.key_in_fields import StoredKeyCheck
from app.credentials.records import (
    DEFAULT_PROVIDER,
    DELETED_STATES,
    CredentialRecord,
    CredentialState,
    VersionRecord,
    VersionState,
    VersionStateError,
)
from app.credentials.repository import CredentialRepository
from app.credentials.validation_results import Trigger, ValidationRecord
from app.credentials.validator import Validator, response_deadline
from app.credentials.version_repository import Intent, VersionRepository
from app.credentials.write_protocol import WriteProtocol, reconciliation_of
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import QueueRepository
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from app.provider_url.endpoint_service import EndpointService
from app.provider_url.url import ProviderURL
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.secret_store.port import SecretStore

# Longer than any write to the store may take. After it, reconciliation abandons the intent.
INTENT_DEADLINE = timedelta(seconds=30)
LISTED_STATES = (CredentialState.ACTIVE, CredentialState.DISABLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCredential:
    """The validated input of a creation."""

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
        validator: Validator,
        rate_limits: RateLimiter,
        endpoints: EndpointService,
        *,
        max_credentials: int = 200,
    ) -> None:
        self._max_credentials = max_credentials
        self._units = units
        self._store = store
        self._write_protocol = WriteProtocol(units, store)
        self._stored_keys = StoredKeyCheck(units, store)
        self._validator = validator
        self._rate_limits = rate_limits
        self._endpoints = endpoints

    async def register(
        self, caller: Caller, new: NewCredential, *, credential_id: UUID, wait: bool = True
    ) -> CredentialRecord:
        """Create a credential: store its key, activate it and validate it.

        The credential is created whatever the validation result is; a key that the provider rejects is shown
        as invalid. With `wait`, the returned record has the validation result.

        Raises:
            UrlRefused, DnsUnavailable, DuplicateKey, TooManyCredentials, RateLimited, SecretStoreUnavailable,
            DatabaseUnavailable
        """
        respond_by = response_deadline()
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.CREDENTIAL_WRITES)
        endpoint = await self._endpoints.build(
            base_url=new.base_url,
            auth_style=new.auth_style,
            workspace_id=new.workspace_id,
            probe_model=new.probe_model,
        )
        fingerprint = await self._store.fingerprint(caller.organization_id, new.key)
        intent = await self._commit_intent(
            caller, new, credential_id, endpoint=endpoint, fingerprint=fingerprint
        )
        store_version = await self._write_protocol.write_secret(caller.organization_id, intent, new.key)
        validation = await self._activate(caller, intent, store_version, key_hint=new.key.hint)
        task = self._validator.launch(caller, validation, respond_by=respond_by if wait else None)
        if wait:
            await self._validator.wait(task)
        return await self.read(caller.organization_id, credential_id)

    async def resume(self, organization_id: str, credential_id: UUID) -> CredentialRecord | None:
        """Return the credential that an interrupted request with the same Idempotency-Key created.

        If that request did not get its key into the store, remove its rows and return None, so that the key
        can be registered again.
        """
        async with self._units.reading(organization_id) as uow:
            record = await uow[CredentialRepository].find(credential_id)
            incomplete = (
                None
                if record is not None
                else await uow[VersionRepository].find_intent(credential_id, key_version=1)
            )
        if incomplete is not None:
            await self._write_protocol.reconcile(organization_id, incomplete)
        return record

    async def read(self, organization_id: str, credential_id: UUID) -> CredentialRecord:
        """Get a credential, also a deleted one. Raises NotFound."""
        return await self._units.autocommit_read(organization_id)[CredentialRepository].get(credential_id)

    async def page(
        self, organization_id: str, *, state: CredentialState | None, at_most: int, before: UUID | None
    ) -> Sequence[CredentialRecord]:
        """List credentials, newest first. Deleted ones are listed only for that state."""
        states: Sequence[CredentialState] = LISTED_STATES if state is None else (state,)
        if state is CredentialState.DELETED:
            states = DELETED_STATES
        uow = self._units.autocommit_read(organization_id, is_bulk=True)
        return await uow[CredentialRepository].page(states=states, at_most=at_most, before=before)

    async def versions(
        self, organization_id: str, credential_id: UUID, *, at_most: int, before: int
    ) -> Sequence[VersionRecord]:
        """List key versions, newest first. Raises NotFound if the credential does not exist."""
        async with self._units.reading_in_bulk(organization_id) as uow:
            await uow[CredentialRepository].get(credential_id)
            return await uow[VersionRepository].page(credential_id, at_most=at_most, before=before)

    async def rename(
        self, caller: Caller, credential_id: UUID, label: str | None, *, revisions: frozenset[int] | None
    ) -> CredentialRecord:
        """Change the label, if one is given.

        Args:
            caller: the client.
            credential_id: the credential.
            label: the new label; None to change nothing.
            revisions: the revisions that If-Match names; None accepts any.

        Raises:
            NotFound, CredentialDeleted, PreconditionFailed, SecretStoreUnavailable, DatabaseUnavailable
            InvalidInput: the label contains a part of the credential's key.
        """
        if label is not None:
            await self._stored_keys.reject_key_in(
                "label", label, organization_id=caller.organization_id, credential_id=credential_id
            )
        async with self._units.writing(caller.organization_id) as uow:
            await uow[CredentialRepository].lock(credential_id)
            record = await uow[CredentialRepository].get_live(credential_id)
            require_revision(record.revision, revisions)
            if label is not None and label != record.label:
                await uow[CredentialRepository].rename(credential_id, label, now=now())
                await audit.record(uow, caller, AuditAction.CREDENTIAL_RENAMED, credential_id)
                record = await uow[CredentialRepository].get(credential_id)
            await uow.commit()
        return record

    async def _commit_intent(
        self,
        caller: Caller,
        new: NewCredential,
        credential_id: UUID,
        *,
        endpoint: ProviderEndpoint,
        fingerprint: str,
    ) -> Intent:
        """Step 1: commit the intent, with a queue item that abandons it if this process dies."""
        instant, intent = now(), _first_intent(credential_id)
        async with self._units.writing(caller.organization_id) as uow:
            if await uow[CredentialRepository].count_for_insert() >= self._max_credentials:
                raise TooManyCredentials
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
                endpoint=endpoint,
                key_hint=new.key.hint,
                fingerprint=fingerprint,
                created_at=instant,
                created_by=caller.subject,
            )
            await uow[QueueRepository].add(
                reconciliation_of(caller.organization_id, intent.intent_id), due_at=instant + INTENT_DEADLINE
            )
            await uow.commit()
        return intent

    async def _activate(
        self, caller: Caller, intent: Intent, store_version: int, *, key_hint: str | None
    ) -> ValidationRecord:
        """Step 3: activate the first version, before its validation."""
        async with self._units.writing(caller.organization_id) as uow:
            is_active = await _move_to_active(uow, intent, store_version)
            if is_active:
                await audit.record(
                    uow,
                    caller,
                    AuditAction.CREDENTIAL_CREATED,
                    intent.credential_id,
                    key_version=intent.key_version,
                    key_hint=key_hint,
                )
                validation = await self._validator.start(
                    uow, caller, intent.credential_id, intent.key_version, trigger=Trigger.SAVE
                )
                await uow[QueueRepository].remove(reconciliation_of(caller.organization_id, intent.intent_id))
                await uow.commit()
        if not is_active:
            await self._write_protocol.discard(caller.organization_id, intent.credential_id, store_version)
            raise SecretStoreUnavailable
        if validation is None:
            raise VersionStateError("A credential that no client can see already has a pending validation.")
        return validation


def _first_intent(credential_id: UUID) -> Intent:
    return Intent(
        intent_id=new_id(),
        credential_id=credential_id,
        key_version=1,
        state=VersionState.INTENT,
        expected_store_version=0,
    )


async def _move_to_active(uow: UnitOfWork, intent: Intent, store_version: int) -> bool:
    """Activate the version and its credential. Returns False if the reconciler has abandoned the intent."""
    versions = uow[VersionRepository]
    stored = await versions.transition(
        intent.credential_id,
        intent.key_version,
        expected=VersionState.INTENT,
        to=VersionState.STORED,
        store_version=store_version,
    )
    if stored:
        await versions.transition(
            intent.credential_id,
            intent.key_version,
            expected=VersionState.STORED,
            to=VersionState.ACTIVE,
            activated_at=now(),
        )
        await uow[CredentialRepository].activate(intent.credential_id)
    return stored
