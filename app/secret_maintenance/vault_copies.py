"""Copies secrets to another store with the same store versions and intents. For the move to Vault."""

from collections.abc import Sequence
from dataclasses import replace

from app.core.keys.api_key import ApiKey
from app.credentials.rotations import MAX_STORE_VERSIONS
from app.secret_maintenance.inventory import read_secret
from app.secret_maintenance.inventory_repository import StoredSecret
from app.secret_store.embedded.table import TakenVersion
from app.secret_store.port import (
    CasMismatch,
    SecretCorrupt,
    SecretKind,
    SecretMissing,
    SecretRef,
    SecretStore,
)


class CannotMove(Exception):
    """A credential or endpoint cannot be moved. The message is the reason."""


class VaultCopies:
    """Copies and verifies. A repeated call changes nothing.

    Args:
        source: the embedded store.
        target: Vault.
    """

    def __init__(self, source: SecretStore, target: SecretStore) -> None:
        self._source = source
        self._target = target

    async def copy_and_verify(
        self, ref: SecretRef, taken_versions: Sequence[TakenVersion], secrets: Sequence[StoredSecret]
    ) -> Sequence[StoredSecret]:
        """Copy the secrets and verify the copies. Returns the secrets with their fingerprints in the target.

        Raises:
            CannotMove, SecretStoreUnavailable
        """
        try:
            await self._copy(ref, taken_versions, secrets)
            return [await self._verify(ref, taken_versions, secret) for secret in secrets]
        except CasMismatch:
            raise CannotMove("Vault holds other secrets at its version numbers") from None
        except SecretMissing:
            raise CannotMove("a secret is missing") from None
        except SecretCorrupt:
            raise CannotMove("a secret cannot be decrypted") from None

    async def _copy(
        self, ref: SecretRef, taken_versions: Sequence[TakenVersion], secrets: Sequence[StoredSecret]
    ) -> None:
        """Write every store version in order, each with its own intent."""
        if not secrets:
            # Copied by an earlier run and destroyed since. The row may be gone, and with it the kind.
            for kind in SecretKind:
                await self._target.destroy_all(replace(ref, kind=kind))
            return
        numbers = {secret.store_version for secret in secrets}
        if taken_versions[-1].store_version - min(numbers) >= MAX_STORE_VERSIONS:
            raise CannotMove("too many versions: rotate it, then destroy the previous version")
        destroyed = []
        for taken in taken_versions:
            number, intent_id = taken.store_version, taken.intent_id
            if number in numbers:
                if intent_id is None:
                    raise SecretMissing
                secret = await read_secret(self._source, ref, number)
                await self._target.write(ref, secret, intent_id=intent_id, expected_version=number - 1)
            elif not await self._target.tombstone(
                ref, intent_id=intent_id or ref.credential_id, expected_version=number - 1
            ):
                destroyed.append(number)
        await self._target.destroy(ref, *destroyed)
        if await self._target.current_version(ref) > taken_versions[-1].store_version:
            raise CasMismatch

    async def _verify(
        self, ref: SecretRef, taken_versions: Sequence[TakenVersion], secret: StoredSecret
    ) -> StoredSecret:
        """Check that the copy was written by the same intent and equals the row's secret."""
        number, organization_id = secret.store_version, ref.organization_id
        expected_intents = [taken.intent_id for taken in taken_versions if taken.store_version == number]
        if await self._target.intent_at(ref, number) not in expected_intents:
            raise CasMismatch
        copy = await read_secret(self._target, ref, number)
        if not isinstance(copy, ApiKey):  # without a fingerprint, the secrets are compared
            if copy != await read_secret(self._source, ref, number):
                raise CannotMove("its copy in Vault differs")
            return secret
        if await self._source.fingerprint(organization_id, copy) != secret.fingerprint:
            raise CannotMove("its copy in Vault differs")
        return replace(secret, fingerprint=await self._target.fingerprint(organization_id, copy))
