"""Empties the webhook outbox. Any number of instances may; each delivery is made at least once, under the same id."""

import asyncio
from datetime import timedelta
from uuid import UUID

import structlog

from app.core.metrics import WEBHOOKS
from app.domain.clock import now
from app.domain.errors import Unavailable
from app.domain.webhooks import Delivery, DeliveryState, pause_after
from app.egress.webhooks import Attempt, WebhookClient
from app.repositories.queue import DueItem, JobKind
from app.repositories.unit_of_work import UnitsOfWork
from app.secret_store.base import SecretCorrupt, SecretMissing, SecretStore
from app.services.endpoint_secrets import ref_of
from app.services.secret_reads import use_where_it_lies

AT_ONCE = 16
# Longer than an attempt may take with reading its secret and noting its end: then the taker counts as dead.
_AGAIN_AFTER = timedelta(seconds=45)

log = structlog.get_logger(__name__)


class Deliveries:
    """Sends what is due, so many at a time."""

    def __init__(
        self, units: UnitsOfWork, store: SecretStore, client: WebhookClient, *, at_once: int = AT_ONCE
    ) -> None:
        self._units = units
        self._store = store
        self._client = client
        self._at_once = at_once

    async def run(self) -> int:
        """Attempt everything that is due now; returns how many attempts were made.

        Raises:
            DatabaseUnavailable
        """
        began_at, attempts = now(), 0
        while due := await self._take():
            attempts += len(due)
            await asyncio.gather(*(self._attempt(item) for item in due))
            # What became due meanwhile is the next run's: a full outbox must not keep the jobs from stopping.
            if now() - began_at > _AGAIN_AFTER:
                break
        return attempts

    async def _take(self) -> list[DueItem]:
        async with self._units.queue() as (queue, session):
            # No more than are attempted at once: none must wait until another taker thinks it forgotten.
            due = await queue.take(
                JobKind.DELIVER_WEBHOOK, now=now(), at_most=self._at_once, again_after=_AGAIN_AFTER
            )
            await session.commit()
        return list(due)

    async def _attempt(self, item: DueItem) -> None:
        try:
            await self._deliver(item)
        except Unavailable as error:
            log.warning("webhook_postponed", organization_id=item.organization_id, code=error.code)
        except Exception as error:  # noqa: BLE001  # one bad delivery must not keep the others waiting
            log.error("webhook_failed", id=str(item.id), error=type(error).__name__)  # noqa: TRY400

    async def _deliver(self, item: DueItem) -> None:
        delivery = await self._find(item.organization_id, item.id)
        if delivery is None:  # made before, or its endpoint is gone
            async with self._units.writing(item.organization_id) as uow:
                await uow.queue.remove(item)
                await uow.commit()
            return
        attempt = await self._send(item.organization_id, delivery)
        await self._note(item, delivery, attempt)

    async def _find(self, organization_id: str, delivery_id: UUID) -> Delivery | None:
        async with self._units.reading(organization_id) as uow:
            return await uow.webhooks.find_delivery(delivery_id)

    async def _send(self, organization_id: str, delivery: Delivery) -> Attempt:
        try:
            ref = ref_of(organization_id, delivery.endpoint_id)
            secret = await use_where_it_lies(
                delivery,
                lambda at: self._store.read_signing_secret(ref, at),
                lambda: self._find(organization_id, delivery.id),
            )
        except SecretMissing:
            return Attempt(is_delivered=False, outcome="secret_missing")
        except SecretCorrupt:
            return Attempt(is_delivered=False, outcome="secret_corrupt")
        return await self._client.deliver(
            delivery.url, secret, message_id=delivery.message_id, body=delivery.body
        )

    async def _note(self, item: DueItem, delivery: Delivery, attempt: Attempt) -> None:
        """Only when this commits is the delivery made; before, it comes again."""
        instant, attempts = now(), delivery.attempts + 1
        pause = None if attempt.is_delivered else pause_after(attempts)
        if attempt.is_delivered:
            state = DeliveryState.DELIVERED
        else:
            state = DeliveryState.DEAD if pause is None else DeliveryState.PENDING
        async with self._units.writing(item.organization_id) as uow:
            noted = await uow.webhooks.note_attempt(
                item.id,
                attempts=attempts,
                state=state,
                outcome=attempt.outcome,
                ended_at=None if state is DeliveryState.PENDING else instant,
            )
            if noted and pause is not None:
                await uow.queue.schedule(item, due_at=instant + pause)
            elif noted:
                await uow.queue.remove(item)
            await uow.commit()
        WEBHOOKS.labels(state).inc()
        log.info(
            "webhook_attempted",
            organization_id=item.organization_id,
            endpoint_id=str(delivery.endpoint_id),
            message_id=delivery.message_id,
            attempts=attempts,
            outcome=attempt.outcome,
        )
