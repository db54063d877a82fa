"""Sends due webhook deliveries from the outbox. Any number of instances may run this worker.

Each delivery is sent at least once, always with the same message id.
"""

import asyncio
from datetime import timedelta
from uuid import UUID

import structlog

from app.core.clock import now
from app.core.errors import Unavailable
from app.database.unit_of_work import UnitsOfWork
from app.egress.webhooks import AttemptResult, WebhookClient
from app.jobs.fair_runner import FairConcurrency, FairRunner
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.observability.metrics import WEBHOOKS
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretStore
from app.secret_store.read_retry import read_with_retry
from app.webhooks.endpoints import Delivery, DeliveryState, retry_delay_after
from app.webhooks.repository import WebhookRepository
from app.webhooks.signing_secrets import signing_secret_ref

CONCURRENCY = 16
# The per-organization quota of these slots. Many messages or slow receivers delay only their own organization.
MAX_PER_ORGANIZATION = 4
# Longer than reading the secret, sending, and recording the attempt can take. After it, the worker counts as dead.
_VISIBILITY_TIMEOUT = timedelta(seconds=45)

log = structlog.get_logger("byok.webhooks")


class DeliveryWorker:
    """Sends due deliveries, up to a concurrency limit and a per-organization quota.

    Args:
        units: opens transactions on the outbox and the queue.
        store: holds the endpoints' signing secrets.
        client: sends one delivery.
        concurrency: the limit of concurrent attempts in this instance.
        per_organization: the limit for one organization.
    """

    def __init__(
        self,
        units: UnitsOfWork,
        store: SecretStore,
        client: WebhookClient,
        *,
        concurrency: int = CONCURRENCY,
        per_organization: int = MAX_PER_ORGANIZATION,
    ) -> None:
        self._units = units
        self._store = store
        self._client = client
        self._runner = FairRunner(
            units,
            JobKind.DELIVER_WEBHOOK,
            self._attempt,
            concurrency=FairConcurrency(total=concurrency, per_organization=per_organization),
            visibility_timeout=_VISIBILITY_TIMEOUT,
        )

    async def run(self, stop: asyncio.Event | None = None) -> int:
        """Run until nothing is due or `stop` is set. Returns the number of attempts.

        Raises:
            DatabaseUnavailable
        """
        return await self._runner.run(stop)

    async def _attempt(self, item: DueItem) -> None:
        try:
            await self._deliver(item)
        except Unavailable as error:
            log.warning("webhook_postponed", organization_id=item.organization_id, code=error.code)
        except Exception as error:  # noqa: BLE001  # one bad delivery must not stop the others
            log.error("webhook_failed", id=str(item.id), error=type(error).__name__)  # noqa: TRY400

    async def _deliver(self, item: DueItem) -> None:
        delivery = await self._find(item.organization_id, item.id)
        if delivery is None:  # already delivered, or its endpoint was deleted
            async with self._units.writing(item.organization_id) as uow:
                await uow[QueueRepository].remove(item)
                await uow.commit()
            return
        result = await self._send(item.organization_id, delivery)
        await self._record(item, delivery, result)

    async def _find(self, organization_id: str, delivery_id: UUID) -> Delivery | None:
        async with self._units.reading(organization_id) as uow:
            return await uow[WebhookRepository].find_delivery(delivery_id)

    async def _send(self, organization_id: str, delivery: Delivery) -> AttemptResult:
        try:
            ref = signing_secret_ref(organization_id, delivery.endpoint_id)
            secret = await read_with_retry(
                delivery,
                lambda store_version: self._store.read_signing_secret(ref, store_version),
                lambda: self._find(organization_id, delivery.id),
            )
        except SecretMissing:
            return AttemptResult(is_delivered=False, outcome="secret_missing")
        except SecretCorrupt:
            return AttemptResult(is_delivered=False, outcome="secret_corrupt")
        return await self._client.deliver(
            delivery.url, secret, message_id=delivery.message_id, body=delivery.body
        )

    async def _record(self, item: DueItem, delivery: Delivery, result: AttemptResult) -> None:
        """Record the attempt. If this does not commit, the delivery is sent again."""
        instant, attempts = now(), delivery.attempts + 1
        delay = None if result.is_delivered else retry_delay_after(attempts)
        if result.is_delivered:
            state = DeliveryState.DELIVERED
        else:
            state = DeliveryState.DEAD if delay is None else DeliveryState.PENDING
        async with self._units.writing(item.organization_id) as uow:
            recorded = await uow[WebhookRepository].record_attempt(
                item.id,
                attempts=attempts,
                state=state,
                outcome=result.outcome,
                ended_at=None if state is DeliveryState.PENDING else instant,
            )
            if recorded and delay is not None:
                await uow[QueueRepository].schedule(item, due_at=instant + delay)
            elif recorded:
                await uow[QueueRepository].remove(item)
            await uow.commit()
        WEBHOOKS.labels(state).inc()
        log.info(
            "webhook_attempted",
            organization_id=item.organization_id,
            endpoint_id=str(delivery.endpoint_id),
            message_id=delivery.message_id,
            attempts=attempts,
            outcome=result.outcome,
        )
