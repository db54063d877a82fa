"""Notifies webhook endpoints of crossed thresholds, once in a period, in the transaction that crosses them."""

from collections.abc import Sequence
from datetime import datetime

from app.core.notifications import ThresholdCrossed
from app.database.unit_of_work import UnitOfWork
from app.spend_limits.limits import Crossing, SpendLimit
from app.spend_limits.repository import LimitRepository
from app.webhooks import outbox


async def notify(
    uow: UnitOfWork,
    limit: SpendLimit,
    period_starts_at: datetime,
    thresholds: Sequence[int],
    *,
    spent: int,
) -> None:
    """Record the crossed thresholds, and add a webhook delivery for each one that was not recorded before."""
    if not thresholds:
        return
    now = await uow[LimitRepository].clock()
    for threshold in thresholds:
        crossing = Crossing(threshold=threshold, crossed_at=now, spent=spent, amount=limit.terms.amount)
        if await uow[LimitRepository].record_crossing(limit.id, period_starts_at, crossing):
            await outbox.notify(uow, _event(uow.organization_id, limit, period_starts_at, crossing))


def _event(
    organization_id: str, limit: SpendLimit, period_starts_at: datetime, crossing: Crossing
) -> ThresholdCrossed:
    """It leaves out the limit's name, because receivers may log messages."""
    has_period = limit.terms.period.end_of(period_starts_at) is not None
    return ThresholdCrossed(
        organization_id=organization_id,
        occurred_at=crossing.crossed_at,
        spend_limit_id=limit.id,
        threshold=crossing.threshold,
        amount=limit.terms.amount,
        spent=crossing.spent,
        period=limit.terms.period,
        period_starts_at=period_starts_at if has_period else None,
    )
