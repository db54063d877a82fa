"""The write protocol: the order of writes to the database and the secret store, and how each is undone.

A row and its secret are in two systems, and the process may crash between any two steps:

1. Commit the intent, with the latest store version.
2. Write the secret, with that version as check-and-set.
3. Change the state of the version, only from the state in which this writer left it.

Reconciliation abandons an intent that did not reach step 3: it marks the row as abandoned, writes a
tombstone at the next store version so that a late write fails, and destroys a write that arrived
before the tombstone. Other orders leave orphaned secrets or dangling rows.
"""

from uuid import UUID

from app.core.clock import now
from app.core.errors import ByokError, CredentialDeleted, RotationInProgress, SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.credentials.records import DELETED_STATES, VersionState
from app.credentials.repository import CredentialRepository
from app.credentials.rotation_repository import RotationRepository
from app.credentials.rotations import RotationState
from app.credentials.version_repository import Intent, VersionRepository
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_store.port import CasMismatch, SecretRef, SecretStore


def reconciliation_of(organization_id: str, intent_id: UUID) -> DueItem:
    """The queue item that abandons an intent whose writer did not finish."""
    return DueItem(organization_id=organization_id, kind=JobKind.SETTLE_INTENT, id=intent_id)


class WriteProtocol:
    """The steps that all use cases share that write a secret."""

    def __init__(self, units: UnitsOfWork, store: SecretStore) -> None:
        self._units = units
        self._store = store

    async def write_secret(self, organization_id: str, intent: Intent, key: ApiKey) -> int:
        """Step 2: write the secret. Returns its store version.

        Raises:
            RotationInProgress, CredentialDeleted: another request came first; the intent is abandoned.
            SecretStoreUnavailable: the write failed or its outcome is unknown; the intent is abandoned.
        """
        ref = SecretRef(organization_id=organization_id, credential_id=intent.credential_id)
        try:
            return await self._store.write(
                ref, key, intent_id=intent.intent_id, expected_version=intent.expected_store_version
            )
        except CasMismatch:
            abandoned = await self._abandon(organization_id, intent.intent_id)
            if abandoned is not None and abandoned.state is VersionState.INTENT:
                # Another rotation took the number after this one read it, and has ended since.
                raise RotationInProgress from None
            raise await self.refusal(organization_id, intent.credential_id) from None
        except SecretStoreUnavailable:
            await self._abandon(organization_id, intent.intent_id)
            raise

    async def refusal(self, organization_id: str, credential_id: UUID) -> ByokError:
        """Return the error for a writer whose intent was abandoned: by a deletion, or because it took too long."""
        async with self._units.reading(organization_id) as uow:
            credential = await uow[CredentialRepository].find(credential_id)
        if credential is not None and credential.state in DELETED_STATES:
            return CredentialDeleted()
        return SecretStoreUnavailable()

    async def discard(self, organization_id: str, credential_id: UUID, store_version: int) -> None:
        """Destroy this writer's secret, because step 3 failed."""
        ref = SecretRef(organization_id=organization_id, credential_id=credential_id)
        await self._store.destroy(ref, store_version)

    async def reconcile(self, organization_id: str, intent_id: UUID) -> None:
        """Abandon an intent whose writer did not finish. Repeatable after an interruption at any step.

        Raises:
            SecretStoreUnavailable, DatabaseUnavailable: retry later.
        """
        intent = await self._abandon(organization_id, intent_id)
        if intent is not None:
            await self._block_late_write(organization_id, intent)
        async with self._units.writing(organization_id) as uow:
            # Rows of later versions stay, because version numbers are never reused.
            if intent is not None and intent.key_version == 1:
                await uow[VersionRepository].delete(intent.credential_id, intent.key_version)
                await uow[CredentialRepository].delete_incomplete(intent.credential_id)
            await uow[QueueRepository].remove(reconciliation_of(organization_id, intent_id))
            await uow.commit()

    async def _abandon(self, organization_id: str, intent_id: UUID) -> Intent | None:
        """Mark the intent as abandoned and release its key. Returns None if it reached step 3 or does not exist."""
        async with self._units.writing(organization_id) as uow:
            intent = await uow[VersionRepository].lock_intent(intent_id)
            if intent is None or intent.state not in (VersionState.INTENT, VersionState.ABANDONED):
                return None
            if intent.state is VersionState.INTENT:
                await uow[VersionRepository].transition(
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

    async def _block_late_write(self, organization_id: str, intent: Intent) -> None:
        """Write a tombstone in place of the secret, or destroy the secret if its write was earlier."""
        ref = SecretRef(organization_id=organization_id, credential_id=intent.credential_id)
        expected = intent.expected_store_version
        is_blocked = await self._store.tombstone(ref, intent_id=intent.intent_id, expected_version=expected)
        if not is_blocked and await self._store.intent_at(ref, expected + 1) == intent.intent_id:
            await self._store.destroy(ref, expected + 1)
