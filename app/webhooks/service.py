"""Use cases of webhook endpoints.

Creating inserts a row in state `intent`, writes the signing secret, and then activates the row. Deleting marks the row
as `deleting`, destroys the secret, and then deletes the row. So a crash between two steps can be reconciled.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.errors import NotFound, SecretStoreUnavailable, TooManyEndpoints
from app.core.keys.signing_secret import SigningSecret
from app.core.url_errors import UrlRefused
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import QueueRepository
from app.provider_url.service import HostGuard
from app.provider_url.url_policy import OutboundUrl
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.secret_store.port import CasMismatch, SecretStore
from app.webhooks.endpoints import MAX_ENDPOINTS, EndpointState, WebhookEndpoint
from app.webhooks.repository import WebhookRepository
from app.webhooks.signing_secrets import (
    BEFORE_FIRST,
    FIRST_VERSION,
    SigningSecrets,
    reconciliation_of,
    signing_secret_ref,
)

# Longer than any write to the store can take. After it, the writer counts as dead.
INTENT_DEADLINE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedEndpoint:
    """The confirmation of a deletion."""

    id: UUID
    deleted_at: datetime


class WebhookService:
    """One public method per use case. `reconcile` is called by the job queue."""

    def __init__(
        self,
        units: UnitsOfWork,
        store: SecretStore,
        guard: HostGuard,
        rate_limits: RateLimiter,
        *,
        max_endpoints: int = MAX_ENDPOINTS,
    ) -> None:
        self._max_endpoints = max_endpoints
        self._units = units
        self._store = store
        self._secrets = SigningSecrets(units, store)
        self._guard = guard
        self._rate_limits = rate_limits

    async def create(self, caller: Caller, url: OutboundUrl) -> tuple[WebhookEndpoint, SigningSecret]:
        """Create an endpoint and its signing secret. The secret cannot be read again.

        Raises:
            RateLimited, UrlRefused, DnsUnavailable, TooManyEndpoints, SecretStoreUnavailable, DatabaseUnavailable
        """
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.URL_CHECKS)
        await self._validate_host(url)
        endpoint = WebhookEndpoint(
            id=new_id(),
            url=str(url),
            state=EndpointState.INTENT,
            intent_id=new_id(),
            created_at=now(),
            created_by=caller.subject,
            store_version=FIRST_VERSION,
        )
        secret = SigningSecret.generate()
        await self._insert_intent(caller, endpoint)
        await self._write_secret(caller.organization_id, endpoint, secret)
        await self._activate(caller, endpoint)
        return endpoint, secret

    async def get(self, organization_id: str, endpoint_id: UUID) -> WebhookEndpoint:
        """Raises NotFound or DatabaseUnavailable."""
        found = await self._units.autocommit_read(organization_id)[WebhookRepository].find(endpoint_id)
        if found is None:
            raise NotFound
        return found

    async def page(
        self, organization_id: str, *, at_most: int, before: UUID | None
    ) -> Sequence[WebhookEndpoint]:
        """Return one page of active endpoints, newest first."""
        uow = self._units.autocommit_read(organization_id, is_bulk=True)
        return await uow[WebhookRepository].page(at_most=at_most, before=before)

    async def delete(self, caller: Caller, endpoint_id: UUID) -> DeletedEndpoint:
        """Delete an endpoint and its deliveries. If the store is unavailable, the secret is destroyed later.

        Raises:
            NotFound, DatabaseUnavailable
        """
        instant = now()
        async with self._units.writing(caller.organization_id) as uow:
            changed = await uow[WebhookRepository].transition(
                endpoint_id, expected=EndpointState.ACTIVE, to=EndpointState.DELETING
            )
            if not changed:
                raise NotFound
            await uow[QueueRepository].schedule(
                reconciliation_of(caller.organization_id, endpoint_id), due_at=instant
            )
            await audit.record(
                uow,
                caller,
                AuditAction.WEBHOOK_ENDPOINT_DELETED,
                None,
                webhook_endpoint_id=str(endpoint_id),
            )
            await uow.commit()
        with suppress(SecretStoreUnavailable):
            await self.reconcile(caller.organization_id, endpoint_id)
        return DeletedEndpoint(id=endpoint_id, deleted_at=instant)

    async def reconcile(self, organization_id: str, endpoint_id: UUID) -> None:
        """Abandon an endpoint whose writer crashed, or finish deleting one. Can be retried at any point.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: retry later.
        """
        await self._secrets.reconcile(organization_id, endpoint_id)

    async def _validate_host(self, url: OutboundUrl) -> None:
        try:
            await self._guard.resolve_and_validate(url.host)
        except UrlRefused as refusal:
            raise UrlRefused(refusal.reason, field="url") from None

    async def _insert_intent(self, caller: Caller, endpoint: WebhookEndpoint) -> None:
        async with self._units.writing(caller.organization_id) as uow:
            await uow[WebhookRepository].lock_endpoint_count()
            if await uow[WebhookRepository].count() >= self._max_endpoints:
                raise TooManyEndpoints
            await uow[WebhookRepository].insert(endpoint)
            item = reconciliation_of(caller.organization_id, endpoint.id)
            await uow[QueueRepository].add(item, due_at=endpoint.created_at + INTENT_DEADLINE)
            await uow.commit()

    async def _write_secret(
        self, organization_id: str, endpoint: WebhookEndpoint, secret: SigningSecret
    ) -> None:
        try:
            await self._store.write(
                signing_secret_ref(organization_id, endpoint.id),
                secret,
                intent_id=endpoint.intent_id,
                expected_version=BEFORE_FIRST,
            )
        except CasMismatch:
            # The reconciler abandoned this endpoint because the write took too long.
            raise SecretStoreUnavailable from None

    async def _activate(self, caller: Caller, endpoint: WebhookEndpoint) -> None:
        async with self._units.writing(caller.organization_id) as uow:
            changed = await uow[WebhookRepository].transition(
                endpoint.id, expected=EndpointState.INTENT, to=EndpointState.ACTIVE
            )
            if changed:
                await uow[QueueRepository].remove(reconciliation_of(caller.organization_id, endpoint.id))
                await audit.record(
                    uow,
                    caller,
                    AuditAction.WEBHOOK_ENDPOINT_CREATED,
                    None,
                    webhook_endpoint_id=str(endpoint.id),
                )
                await uow.commit()
        if not changed:
            await self._store.destroy(signing_secret_ref(caller.organization_id, endpoint.id), FIRST_VERSION)
            raise SecretStoreUnavailable
