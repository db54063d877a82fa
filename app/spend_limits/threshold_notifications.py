"""What is told when a threshold is crossed: once in a period, in the transaction of the crossing itself."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from app.core.clock import new_id
from app.core.money import to_usd
from app.database.unit_of_work import UnitOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.spend_limits.limits import Crossing, SpendLimit
from app.spend_limits.repository import LimitRepository
from app.webhooks.endpoints import EventType, Message
from app.webhooks.repository import WebhookRepository


async def notify(
    uow: UnitOfWork,
    limit: SpendLimit,
    period_starts_at: datetime,
    thresholds: Sequence[int],
    *,
    spent: int,
) -> None:
    """Note these crossings, and put those that were not noted before into the outbox."""
    if not thresholds:
        return
    now = await uow[LimitRepository].clock()
    for threshold in thresholds:
        crossing = Crossing(threshold=threshold, crossed_at=now, spent=spent)
        if await uow[LimitRepository].alert(limit.id, period_starts_at, crossing):
            await _send(uow, _message(uow.organization_id, limit, period_starts_at, crossing))


async def _send(uow: UnitOfWork, message: Message) -> None:
    """One delivery to each endpoint, due at once."""
    body = json.dumps(
        {"type": message.type, "timestamp": _instant(message.occurred_at), "data": message.data},
        separators=(",", ":"),
    )
    for endpoint_id in await uow[WebhookRepository].active():
        delivery_id = new_id()
        await uow[WebhookRepository].add_delivery(
            delivery_id, endpoint_id, kind=message.type, body=body, now=message.occurred_at
        )
        item = DueItem(organization_id=uow.organization_id, kind=JobKind.DELIVER_WEBHOOK, id=delivery_id)
        await uow[QueueRepository].add(item, due_at=message.occurred_at)


def _message(
    organization_id: str, limit: SpendLimit, period_starts_at: datetime, crossing: Crossing
) -> Message:
    """Ids and amounts: the name of a limit is the customer's business, not that of whoever reads a log of webhooks."""
    has_period = limit.terms.period.end_of(period_starts_at) is not None
    return Message(
        type=EventType.THRESHOLD_CROSSED,
        occurred_at=crossing.crossed_at,
        data={
            "organization_id": organization_id,
            "spend_limit_id": str(limit.id),
            "threshold": crossing.threshold,
            "amount": _money(limit.terms.amount),
            "spent": _money(crossing.spent),
            "period": limit.terms.period,
            "period_starts_at": _instant(period_starts_at) if has_period else None,
        },
    )


def _money(pico: int) -> dict[str, str]:
    return {"amount": to_usd(pico), "currency": "USD"}


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
