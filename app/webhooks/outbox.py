"""Adds messages to the outbox, in the transaction of the change."""

import structlog

from app.core.clock import new_id
from app.core.notifications import Event
from app.database.unit_of_work import UnitOfWork
from app.observability.metrics import WEBHOOKS_DROPPED
from app.webhooks.endpoints import MAX_PENDING
from app.webhooks.messages import message_of
from app.webhooks.repository import WebhookRepository

log = structlog.get_logger("byok.webhooks")


async def notify(uow: UnitOfWork, event: Event) -> None:
    """Add one delivery for each active endpoint of the organization, due now. They are sent after the commit.

    Adds none to an endpoint that has `MAX_PENDING` pending deliveries.

    Takes one round trip, however many endpoints there are, and the first one in a transaction two more: callers hold locks
    that other requests wait for.
    """
    pending = await uow[WebhookRepository].lock_active_endpoints()
    deliveries = {endpoint_id: new_id() for endpoint_id, number in pending.items() if number < MAX_PENDING}
    if dropped := len(pending) - len(deliveries):
        WEBHOOKS_DROPPED.inc(dropped)
        log.warning("webhook_dropped", organization_id=uow.organization_id, endpoints=dropped)
    if not deliveries:
        return
    message = message_of(event)
    await uow[WebhookRepository].add_deliveries(
        deliveries, kind=message.type, body=message.to_json().decode(), now=event.occurred_at
    )
