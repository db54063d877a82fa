"""Webhook endpoints. The signing secret follows the order of writes: intent, secret, row; and back: row, secret, row."""

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
from app.core.signing_secret import SigningSecret
from app.core.url_errors import UrlRefused
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import QueueRepository
from app.provider_url.service import HostGuard
from app.provider_url.url_policy import OutboundUrl
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.secret_store.port import CasMismatch, SecretStore
from app.webhooks.endpoints import MOST_ENDPOINTS, EndpointState, WebhookEndpoint
from app.webhooks.repository import WebhookRepository
from app.webhooks.signing_secrets import BEFORE_FIRST, FIRST_VERSION, SigningSecrets, ref_of, settling_of

# Longer than any write to the store may take; after it the writer counts as dead.
INTENT_DEADLINE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedEndpoint:
    """Gone for good, its secret and its deliveries with it."""

    id: UUID
    deleted_at: datetime


class WebhookService:
    """One public method per use case; `settle` is the queue's."""

    def __init__(
        self, units: UnitsOfWork, store: SecretStore, guard: HostGuard, rate_limits: RateLimiter
    ) -> None:
        self._units = units
        self._store = store
        self._secrets = SigningSecrets(units, store)
        self._guard = guard
        self._rate_limits = rate_limits

    async def add(self, caller: Caller, url: OutboundUrl) -> tuple[WebhookEndpoint, SigningSecret]:
        """An endpoint, and its secret, which nobody can ask for again.

        Raises:
            RateLimited, UrlRefused, DnsUnavailable, TooManyEndpoints, SecretStoreUnavailable, DatabaseUnavailable
        """
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.URL_CHECKS)
        await self._vet(url)
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
        await self._intend(caller, endpoint)
        await self._seal(caller.organization_id, endpoint, secret)
        await self._activate(caller, endpoint)
        return endpoint, secret

    async def read(self, organization_id: str, endpoint_id: UUID) -> WebhookEndpoint:
        """Raises NotFound or DatabaseUnavailable."""
        async with self._units.reading(organization_id) as uow:
            found = await uow[WebhookRepository].find(endpoint_id)
        if found is None:
            raise NotFound
        return found

    async def page(
        self, organization_id: str, *, at_most: int, before: UUID | None
    ) -> Sequence[WebhookEndpoint]:
        """Newest first."""
        async with self._units.reading(organization_id) as uow:
            return await uow[WebhookRepository].page(at_most=at_most, before=before)

    async def delete(self, caller: Caller, endpoint_id: UUID) -> DeletedEndpoint:
        """Nothing is delivered from now on. The secret goes at once or, where the store is down, when it is back.

        Raises:
            NotFound, DatabaseUnavailable
        """
        instant = now()
        async with self._units.writing(caller.organization_id) as uow:
            moved = await uow[WebhookRepository].move(
                endpoint_id, expected=EndpointState.ACTIVE, to=EndpointState.DELETING
            )
            if not moved:
                raise NotFound
            await uow[QueueRepository].schedule(
                settling_of(caller.organization_id, endpoint_id), due_at=instant
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
            await self.settle(caller.organization_id, endpoint_id)
        return DeletedEndpoint(id=endpoint_id, deleted_at=instant)

    async def settle(self, organization_id: str, endpoint_id: UUID) -> None:
        """Abandon an endpoint whose writer vanished, or finish deleting one. Repeatable at any point.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: repeat later.
        """
        await self._secrets.settle(organization_id, endpoint_id)

    async def _vet(self, url: OutboundUrl) -> None:
        try:
            await self._guard.vet(url.host)
        except UrlRefused as refusal:
            raise UrlRefused(refusal.reason, field="url") from None

    async def _intend(self, caller: Caller, endpoint: WebhookEndpoint) -> None:
        async with self._units.writing(caller.organization_id) as uow:
            await uow[WebhookRepository].lock_number()
            if await uow[WebhookRepository].count() >= MOST_ENDPOINTS:
                raise TooManyEndpoints
            await uow[WebhookRepository].insert(endpoint)
            item = settling_of(caller.organization_id, endpoint.id)
            await uow[QueueRepository].add(item, due_at=endpoint.created_at + INTENT_DEADLINE)
            await uow.commit()

    async def _seal(self, organization_id: str, endpoint: WebhookEndpoint, secret: SigningSecret) -> None:
        try:
            await self._store.write(
                ref_of(organization_id, endpoint.id),
                secret,
                intent_id=endpoint.intent_id,
                expected_version=BEFORE_FIRST,
            )
        except CasMismatch:
            # A sweep took this writer for dead and barred its write.
            raise SecretStoreUnavailable from None

    async def _activate(self, caller: Caller, endpoint: WebhookEndpoint) -> None:
        async with self._units.writing(caller.organization_id) as uow:
            moved = await uow[WebhookRepository].move(
                endpoint.id, expected=EndpointState.INTENT, to=EndpointState.ACTIVE
            )
            if moved:
                await uow[QueueRepository].remove(settling_of(caller.organization_id, endpoint.id))
                await audit.record(
                    uow,
                    caller,
                    AuditAction.WEBHOOK_ENDPOINT_CREATED,
                    None,
                    webhook_endpoint_id=str(endpoint.id),
                )
                await uow.commit()
        if not moved:
            await self._store.destroy(ref_of(caller.organization_id, endpoint.id), FIRST_VERSION)
            raise SecretStoreUnavailable
