"""Signing secrets of webhook endpoints: where they rest, and what brings one to its end, whoever began it."""

from uuid import UUID

from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.endpoints import EndpointState, WebhookEndpoint
from app.webhooks.repository import WebhookRepository

# An endpoint has one secret for good. Only a rewrap writes it a second time.
FIRST_VERSION = 1
BEFORE_FIRST = 0


class SigningSecrets:
    """Needs neither the internet nor a customer: jobs and an operator's commands settle too."""

    def __init__(self, units: UnitsOfWork, store: SecretStore) -> None:
        self._units = units
        self._store = store

    async def settle(self, organization_id: str, endpoint_id: UUID) -> None:
        """Abandon an endpoint whose writer vanished, or finish deleting one. Repeatable at any point.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: repeat later.
        """
        async with self._units.writing(organization_id) as uow:
            endpoint = await uow[WebhookRepository].lock(endpoint_id)
            if endpoint is not None and endpoint.state is EndpointState.INTENT:
                await uow[WebhookRepository].move(
                    endpoint_id, expected=EndpointState.INTENT, to=EndpointState.ABANDONED
                )
                await uow.commit()
        if endpoint is not None and endpoint.state is not EndpointState.ACTIVE:
            await self._empty(organization_id, endpoint)
        async with self._units.writing(organization_id) as uow:
            if endpoint is not None and endpoint.state is not EndpointState.ACTIVE:
                await uow[WebhookRepository].delete(endpoint_id)
            await uow[QueueRepository].remove(settling_of(organization_id, endpoint_id))
            await uow.commit()

    async def _empty(self, organization_id: str, endpoint: WebhookEndpoint) -> None:
        """Nothing is left in the store, and a late write must fail: the first number is taken either way."""
        ref = ref_of(organization_id, endpoint.id)
        if endpoint.state is not EndpointState.DELETING:
            await self._store.tombstone(ref, intent_id=endpoint.intent_id, expected_version=BEFORE_FIRST)
        await self._store.purge(ref)


def ref_of(organization_id: str, endpoint_id: UUID) -> SecretRef:
    """Where an endpoint's secret rests."""
    return SecretRef(
        organization_id=organization_id, credential_id=endpoint_id, kind=SecretKind.SIGNING_SECRET
    )


def settling_of(organization_id: str, endpoint_id: UUID) -> DueItem:
    """The queue item of an endpoint whose secret is on its way in or out."""
    return DueItem(organization_id=organization_id, kind=JobKind.SETTLE_WEBHOOK, id=endpoint_id)
