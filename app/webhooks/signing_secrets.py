"""Signing secrets of webhook endpoints: their references in the store, and the reconciliation of interrupted writes."""

from uuid import UUID

from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.endpoints import EndpointState, WebhookEndpoint
from app.webhooks.repository import WebhookRepository

# An endpoint keeps its secret until it is deleted. Only a rewrap writes it a second time.
FIRST_VERSION = 1
BEFORE_FIRST = 0


class SigningSecrets:
    """Reconciles endpoints with the secret store. Also used by background jobs and CLI commands."""

    def __init__(self, units: UnitsOfWork, store: SecretStore) -> None:
        self._units = units
        self._store = store

    async def reconcile(self, organization_id: str, endpoint_id: UUID) -> None:
        """Abandon an endpoint whose writer crashed, or finish deleting one. Can be retried at any point.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: retry later.
        """
        async with self._units.writing(organization_id) as uow:
            endpoint = await uow[WebhookRepository].lock(endpoint_id)
            if endpoint is not None and endpoint.state is EndpointState.INTENT:
                await uow[WebhookRepository].transition(
                    endpoint_id, expected=EndpointState.INTENT, to=EndpointState.ABANDONED
                )
                await uow.commit()
        if endpoint is not None and endpoint.state is not EndpointState.ACTIVE:
            await self._destroy_secret(organization_id, endpoint)
        async with self._units.writing(organization_id) as uow:
            if endpoint is not None and endpoint.state is not EndpointState.ACTIVE:
                await uow[WebhookRepository].delete(endpoint_id)
            await uow[QueueRepository].remove(reconciliation_of(organization_id, endpoint_id))
            await uow.commit()

    async def _destroy_secret(self, organization_id: str, endpoint: WebhookEndpoint) -> None:
        """Destroy the secret. If the creation was abandoned, write a tombstone first, so that a late write fails."""
        ref = signing_secret_ref(organization_id, endpoint.id)
        if endpoint.state is not EndpointState.DELETING:
            await self._store.tombstone(ref, intent_id=endpoint.intent_id, expected_version=BEFORE_FIRST)
        await self._store.destroy_all(ref)


def signing_secret_ref(organization_id: str, endpoint_id: UUID) -> SecretRef:
    """Return the reference of an endpoint's signing secret in the store."""
    return SecretRef(
        organization_id=organization_id, credential_id=endpoint_id, kind=SecretKind.SIGNING_SECRET
    )


def reconciliation_of(organization_id: str, endpoint_id: UUID) -> DueItem:
    """Return the queue item that reconciles an endpoint."""
    return DueItem(organization_id=organization_id, kind=JobKind.SETTLE_WEBHOOK, id=endpoint_id)
