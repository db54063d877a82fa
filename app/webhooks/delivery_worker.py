"""Empties the webhook outbox. Any number of instances may; each delivery is made at least once, under the same id."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias
from uuid import UUID

import structlog

from app.core.clock import now
from app.core.errors import Unavailable
from app.database.unit_of_work import UnitsOfWork
from app.egress.webhooks import Attempt, WebhookClient
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.observability.metrics import WEBHOOKS
from app.secret_store.port import SecretCorrupt, SecretMissing, SecretStore
from app.secret_store.read_retry import read_with_retry
from app.webhooks.endpoints import Delivery, DeliveryState, pause_after
from app.webhooks.repository import WebhookRepository
from app.webhooks.signing_secrets import ref_of

AT_ONCE = 16
# Of those, for one organization: what many messages or slow receivers of its own can hold up is itself.
PER_ORGANIZATION = 4
# How long slow receivers may keep what became due meanwhile from being seen.
_LOOK_AGAIN_SECONDS = 1.0
# Longer than an attempt may take with reading its secret and noting its end: then the taker counts as dead.
_AGAIN_AFTER = timedelta(seconds=45)

log = structlog.get_logger(__name__)

_Running: TypeAlias = dict[asyncio.Task[None], str]  # attempts, and whose they are


class DeliveryWorker:
    """Sends what is due, within bounds.

    Args:
        units: where the outbox is.
        store: where endpoints' secrets are.
        client: who sends.
        at_once: attempts at once in this instance.
        per_organization: of those, for one organization.
    """

    def __init__(
        self,
        units: UnitsOfWork,
        store: SecretStore,
        client: WebhookClient,
        *,
        at_once: int = AT_ONCE,
        per_organization: int = PER_ORGANIZATION,
    ) -> None:
        self._units = units
        self._store = store
        self._client = client
        self._at_once = at_once
        self._per_organization = per_organization

    async def run(self, stop: asyncio.Event | None = None) -> int:
        """Until nothing is due, or `stop` is set: then what is under way is finished and nothing more taken.

        Returns how many attempts were made.

        Raises:
            DatabaseUnavailable
        """
        attempts = 0
        running: _Running = {}
        try:
            while True:
                if stop is None or not stop.is_set():
                    attempts += await self._fill(running)
                if not running:
                    return attempts
                done, _ = await asyncio.wait(
                    running, timeout=_LOOK_AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    del running[attempt]
                    attempt.result()
        finally:
            await asyncio.gather(*running, return_exceptions=True)

    async def _fill(self, running: _Running) -> int:
        """Begin what is due while there is room; returns how many."""
        begun = 0
        while room := self._at_once - len(running):
            full = self._full(running)
            due = await self._take(room, list(running.values()))
            running |= {asyncio.create_task(self._attempt(item)): item.organization_id for item in due}
            begun += len(due)
            if self._full(running) == full:  # so nobody's items hid those of others
                break
        return begun

    def _full(self, running: _Running) -> set[str]:
        counts = Counter(running.values())
        return {organization for organization, count in counts.items() if count >= self._per_organization}

    async def _take(self, at_most: int, under_way: list[str]) -> Sequence[DueItem]:
        async with self._units.across(QueueRepository) as (queue, session):
            # No more than are attempted at once: none must wait until another taker thinks it forgotten.
            due = await queue.take_fairly(
                JobKind.DELIVER_WEBHOOK,
                now=now(),
                at_most=at_most,
                again_after=_AGAIN_AFTER,
                under_way=under_way,
                share=self._per_organization,
            )
            await session.commit()
        return due

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
                await uow[QueueRepository].remove(item)
                await uow.commit()
            return
        attempt = await self._send(item.organization_id, delivery)
        await self._note(item, delivery, attempt)

    async def _find(self, organization_id: str, delivery_id: UUID) -> Delivery | None:
        async with self._units.reading(organization_id) as uow:
            return await uow[WebhookRepository].find_delivery(delivery_id)

    async def _send(self, organization_id: str, delivery: Delivery) -> Attempt:
        try:
            ref = ref_of(organization_id, delivery.endpoint_id)
            secret = await read_with_retry(
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
            noted = await uow[WebhookRepository].note_attempt(
                item.id,
                attempts=attempts,
                state=state,
                outcome=attempt.outcome,
                ended_at=None if state is DeliveryState.PENDING else instant,
            )
            if noted and pause is not None:
                await uow[QueueRepository].schedule(item, due_at=instant + pause)
            elif noted:
                await uow[QueueRepository].remove(item)
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
