"""Adds messages to the outbox, in the transaction of the change."""

import json

from app.core.clock import new_id
from app.core.notifications import Message, timestamp
from app.database.unit_of_work import UnitOfWork
from app.webhooks.repository import WebhookRepository


async def notify(uow: UnitOfWork, message: Message) -> None:
    """Add one delivery for each active endpoint of the organization, due now. They are sent after the commit.

    Takes two round trips, however many endpoints there are: callers hold locks that other requests wait for.
    """
    endpoint_ids = await uow[WebhookRepository].lock_active_endpoints()
    if not endpoint_ids:
        return
    body = json.dumps(
        {"type": message.type, "timestamp": timestamp(message.occurred_at), "data": message.data},
        separators=(",", ":"),
    )
    deliveries = {endpoint_id: new_id() for endpoint_id in endpoint_ids}
    await uow[WebhookRepository].add_deliveries(
        deliveries, kind=message.type, body=body, now=message.occurred_at
    )
