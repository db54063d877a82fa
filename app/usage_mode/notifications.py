"""Notifies an organization that its usage mode has changed: at once, or when a scheduled change takes effect."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.core.notifications import UsageModeChanged
from app.credentials.activation import Notify
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.usage_mode.modes import ModeChange
from app.usage_mode.repository import UsageModeRepository

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ScheduledChangeNotifier:
    """Notifies when a scheduled change has taken effect. No request happens then, so the queue has an item for it."""

    def __init__(self, units: UnitsOfWork, notify: Notify) -> None:
        self._units = units
        self._notify = notify

    async def run(self, organization_id: str, item_id: UUID) -> None:
        """Notify the organization of the change, unless it was cancelled. Can be repeated, also at the same time.

        The ledger lock excludes a cancellation that has not been committed yet. The removal of the item decides which of
        several instances notifies.

        Raises:
            DatabaseUnavailable
        """
        instant = _EPOCH + timedelta(microseconds=item_id.int)
        async with self._units.writing_with_shared_lock(organization_id) as uow:
            if instant > await uow[UsageModeRepository].clock():
                return  # the database's clock is behind; the item becomes due again
            if not await uow[QueueRepository].remove(_item(organization_id, item_id)):
                return  # another instance has notified, or the change was cancelled
            change = await uow[UsageModeRepository].find(instant)
            if change is not None:
                await self._notify(uow, change_event(organization_id, change))
            await uow.commit()


def change_event(organization_id: str, change: ModeChange) -> UsageModeChanged:
    """The mode has changed."""
    assert change.effective_from is not None
    return UsageModeChanged(
        organization_id=organization_id,
        occurred_at=change.effective_from,
        mode=change.mode,
        credential_id=change.credential_id,
        effective_from=change.effective_from,
    )


async def schedule_notification(uow: UnitOfWork, change: ModeChange) -> None:
    """Notify the organization when this change takes effect."""
    assert change.effective_from is not None
    await uow[QueueRepository].schedule(_item_of(uow, change), due_at=change.effective_from)


async def cancel_notification(uow: UnitOfWork, change: ModeChange) -> None:
    await uow[QueueRepository].remove(_item_of(uow, change))


def _item_of(uow: UnitOfWork, change: ModeChange) -> DueItem:
    """The id of the item is the time of the change, which identifies a change within its organization."""
    return _item(uow.organization_id, UUID(int=change.microseconds))


def _item(organization_id: str, item_id: UUID) -> DueItem:
    return DueItem(organization_id=organization_id, kind=JobKind.NOTIFY_USAGE_MODE, id=item_id)
