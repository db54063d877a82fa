"""The order of writes between the database and the secret store, and what undoes what.

A row and its secret live in two systems, and a crash may fall between any two steps:

1. The intent is committed, with the store version it builds on.
2. The secret is written with that version as check-and-set.
3. The version moves on only from the state that this writer left it in.

An intent that never got to step 3 is abandoned: first the row says so, then a tombstone takes the
store version, so that a late write must fail, then a write that came before the tombstone is
destroyed. Other orders leave orphans or dangling rows.
"""

from uuid import UUID

from app.core.api_key import ApiKey
from app.core.clock import now
from app.core.errors import SecretStoreUnavailable
from app.credentials.records import VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import RotationState
from app.credentials.version_repository import Intent, VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_store.port import CasMismatch, SecretRef, SecretStore


class WriteProtocol:
    """Steps shared by every use case that writes a secret."""

    def __init__(self, units: UnitsOfWork, store: SecretStore) -> None:
        self._units = units
        self._store = store

    async def seal(self, organization_id: str, intent: Intent, key: ApiKey) -> int:
        """Step 2. Returns the store version.

        Raises:
            SecretStoreUnavailable: not written as far as is known; the intent is abandoned.
        """
        ref = SecretRef(organization_id=organization_id, credential_id=intent.credential_id)
        try:
            return await self._store.write(
                ref, key, intent_id=intent.intent_id, expected_version=intent.expected_store_version
            )
        except CasMismatch:
            # A sweep took this writer for dead and barred its write.
            raise SecretStoreUnavailable from None
        except SecretStoreUnavailable:
            await self._give_up(organization_id, intent.intent_id)
            raise

    async def discard(self, organization_id: str, credential_id: UUID, store_version: int) -> None:
        """The row did not move on: destroy the own write."""
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        await self._store.destroy(ref, store_version)

    async def settle(self, organization_id: str, intent_id: UUID) -> None:
        """Abandon an intent whose writer vanished, or finish abandoning it. Repeatable at any point.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: repeat later.
        """
        intent = await self._give_up(organization_id, intent_id)
        if intent is not None:
            await self._bar(organization_id, intent)
        async with self._units.writing(organization_id) as uow:
            if intent is not None and intent.key_version == 1:  # later numbers stay: they are never reused
                await uow[VersionRepository].delete(intent.credential_id, intent.key_version)
                await uow[CredentialRepository].delete_unborn(intent.credential_id)
            await uow[QueueRepository].remove(
                DueItem(organization_id=organization_id, kind=JobKind.SETTLE_INTENT, id=intent_id)
            )
            await uow.commit()

    async def _give_up(self, organization_id: str, intent_id: UUID) -> Intent | None:
        """Mark the intent abandoned and free its key; None where it got to step 3 or is gone."""
        async with self._units.writing(organization_id) as uow:
            intent = await uow[VersionRepository].lock_intent(intent_id)
            if intent is None or intent.state not in (VersionState.INTENT, VersionState.ABANDONED):
                return None
            if intent.state is VersionState.INTENT:
                await uow[VersionRepository].move(
                    intent.credential_id,
                    intent.key_version,
                    expected=VersionState.INTENT,
                    to=VersionState.ABANDONED,
                )
                await uow[CredentialRepository].release_unused_fingerprints(intent.credential_id)
                await uow[RotationRepository].decide(
                    intent.credential_id, intent.key_version, RotationState.REJECTED, now=now()
                )
            await uow.commit()
        return intent

    async def _bar(self, organization_id: str, intent: Intent) -> None:
        ref = SecretRef(organization_id=organization_id, credential_id=intent.credential_id)
        expected = intent.expected_store_version
        barred = await self._store.tombstone(ref, intent_id=intent.intent_id, expected_version=expected)
        if not barred and await self._store.intent_at(ref, expected + 1) == intent.intent_id:
            await self._store.destroy(ref, expected + 1)
