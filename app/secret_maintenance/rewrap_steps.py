"""The order of writes of a rewrap: the same secret under a newer key of the store, at the next number there.

1. The rewrap is committed with the number that it builds on, and with a job that settles it.
2. The store writes it anew at the next number, with that number as check-and-set.
3. In one transaction the row points to the new number, if its secret has not ended and it points where it did.
4. The old number is destroyed.

Whoever dies before step 3 is settled as an intent is: marked abandoned, its number barred by a
tombstone, what it wrote destroyed. After step 3, the old number is destroyed. See `secret_writes`.
"""

from uuid import UUID

from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_maintenance.records import Rewrap, RewrapState
from app.secret_maintenance.repository import RewrapRepository
from app.secret_store.port import SecretKind, SecretRef, SecretStore


class RewrapSteps:
    """What brings one to its end, whoever began it."""

    def __init__(self, units: UnitsOfWork, store: SecretStore) -> None:
        self._units = units
        self._store = store

    async def settle(self, organization_id: str, intent_id: UUID) -> None:
        """The queue's, and the last step of each. Repeatable at any point.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: repeat later.
        """
        rewrap = await self._give_up_or_go_on(organization_id, intent_id)
        if rewrap is not None:
            ref = _ref_of(organization_id, rewrap)
            if rewrap.state is RewrapState.MOVED:
                await self._store.destroy(ref, rewrap.from_store_version)
            else:
                await self._bar(ref, rewrap)
        async with self._units.writing(organization_id) as uow:
            await uow[RewrapRepository].delete(intent_id)
            await uow[QueueRepository].remove(settling_of(organization_id, intent_id))
            await uow.commit()

    async def _give_up_or_go_on(self, organization_id: str, intent_id: UUID) -> Rewrap | None:
        async with self._units.writing(organization_id) as uow:
            rewrap = await uow[RewrapRepository].lock(intent_id)
            if rewrap is not None and rewrap.state is RewrapState.INTENT:
                await uow[RewrapRepository].move(
                    intent_id, expected=RewrapState.INTENT, to=RewrapState.ABANDONED
                )
                await uow.commit()
        return rewrap

    async def _bar(self, ref: SecretRef, rewrap: Rewrap) -> None:
        expected, intent_id = rewrap.expected_store_version, rewrap.intent_id
        barred = await self._store.tombstone(ref, intent_id=intent_id, expected_version=expected)
        if not barred and await self._store.intent_at(ref, expected + 1) == intent_id:
            await self._store.destroy(ref, expected + 1)


def _ref_of(organization_id: str, rewrap: Rewrap) -> SecretRef:
    return SecretRef(
        organization_id=organization_id,
        credential_id=rewrap.credential_id,
        kind=SecretKind.SIGNING_SECRET if rewrap.is_of_endpoint else SecretKind.PROVIDER_KEY,
    )


def settling_of(organization_id: str, intent_id: UUID) -> DueItem:
    """The queue item of a rewrap that was announced."""
    return DueItem(organization_id=organization_id, kind=JobKind.SETTLE_REWRAP, id=intent_id)
