"""The order of writes of a rewrap: the same secret under a newer transit key, at the next store version.

1. Commit the rewrap with the store version that it builds on, and a job that reconciles it.
2. Write the secret in the store at the next number, with check-and-set.
3. In one transaction set the row's store version, if its secret exists and its store version has not changed.
4. Destroy the old store version.

A rewrap that was interrupted before step 3 is reconciled like an intent: it is marked abandoned, then
a tombstone takes its number or what it wrote is destroyed. After step 3 only step 4 remains. See
`app.credentials.write_protocol`.
"""

from uuid import UUID

from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_maintenance.records import Rewrap, RewrapState
from app.secret_maintenance.repository import RewrapRepository
from app.secret_store.port import SecretKind, SecretRef, SecretStore


class RewrapSteps:
    """Completes or abandons a rewrap."""

    def __init__(self, units: UnitsOfWork, store: SecretStore) -> None:
        self._units = units
        self._store = store

    async def reconcile(self, organization_id: str, intent_id: UUID) -> None:
        """Complete a rewrap that passed step 3, abandon any other. May be repeated after an interruption at any point.

        The last step of every rewrap, and the job that follows an interruption.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: repeat later.
        """
        rewrap = await self._abandon_if_unfinished(organization_id, intent_id)
        if rewrap is not None:
            ref = _ref_of(organization_id, rewrap)
            if rewrap.state is RewrapState.MOVED:
                await self._store.destroy(ref, rewrap.from_store_version)
            else:
                await self._block_late_write(ref, rewrap)
        async with self._units.writing(organization_id) as uow:
            await uow[RewrapRepository].delete(intent_id)
            await uow[QueueRepository].remove(reconcile_item(organization_id, intent_id))
            await uow.commit()

    async def _abandon_if_unfinished(self, organization_id: str, intent_id: UUID) -> Rewrap | None:
        async with self._units.writing(organization_id) as uow:
            rewrap = await uow[RewrapRepository].lock(intent_id)
            if rewrap is not None and rewrap.state is RewrapState.INTENT:
                await uow[RewrapRepository].transition(
                    intent_id, expected=RewrapState.INTENT, to=RewrapState.ABANDONED
                )
                await uow.commit()
        return rewrap

    async def _block_late_write(self, ref: SecretRef, rewrap: Rewrap) -> None:
        expected, intent_id = rewrap.expected_store_version, rewrap.intent_id
        is_blocked = await self._store.tombstone(ref, intent_id=intent_id, expected_version=expected)
        if not is_blocked and await self._store.intent_at(ref, expected + 1) == intent_id:
            await self._store.destroy(ref, expected + 1)


def _ref_of(organization_id: str, rewrap: Rewrap) -> SecretRef:
    return SecretRef(
        organization_id=organization_id,
        credential_id=rewrap.credential_id,
        kind=SecretKind.SIGNING_SECRET if rewrap.is_signing_secret else SecretKind.PROVIDER_KEY,
    )


def reconcile_item(organization_id: str, intent_id: UUID) -> DueItem:
    """The job that reconciles a rewrap."""
    return DueItem(organization_id=organization_id, kind=JobKind.SETTLE_REWRAP, id=intent_id)
