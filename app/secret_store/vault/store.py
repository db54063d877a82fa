"""The secret store over HashiCorp Vault or OpenBao. Reading a key needs permissions on both engines.

Transit encrypts; KV holds the ciphertext, and its version numbers are the store versions. Metadata
is never deleted, so a number is used only once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.secret_store.port import CasMismatch, SecretMissing, SecretRef, WrappedSecret
from app.secret_store.vault.engines import KvEngine, TransitEngine, VaultMounts
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.roles import VaultRole, VaultSessions

P = ParamSpec("P")
T = TypeVar("T")

# With the provider's 15 seconds, a validation stays within its own deadline of 20 seconds.
_DEADLINE_SECONDS = 4.0
_CIPHERTEXT = "ct"
_INTENT = "intent_id"
_TOMBSTONE = "tombstone"


def _bounded(
    method: "Callable[Concatenate[VaultSecretStore, P], Awaitable[T]]",
) -> "Callable[Concatenate[VaultSecretStore, P], Coroutine[Any, Any, T]]":
    """Apply the store's deadline to a method as a whole, however many requests it sends."""

    @wraps(method)
    async def bounded_method(store: "VaultSecretStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with asyncio.timeout(store.deadline_seconds):
                return await method(store, *args, **kwargs)
        except TimeoutError:
            pass  # raised below, so that the exception has no context
        raise VaultUnavailable(VaultReason.TIMEOUT)

    return bounded_method


class VaultSecretStore:
    """`SecretStore` over Vault, with leases: keys that a consumer fetches from Vault without this service reading them.

    Args:
        sessions: a login for each role. Every request uses the role with the least permissions for it.
        mounts: where the engines are mounted.
        deadline_seconds: limit for every method.
    """

    def __init__(
        self, sessions: VaultSessions, mounts: VaultMounts, *, deadline_seconds: float = _DEADLINE_SECONDS
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self._sessions = sessions
        self._kv = KvEngine(sessions, mounts.kv)
        self._transit = TransitEngine(sessions, mounts.transit)

    async def close(self) -> None:
        await self._sessions.close()

    @_bounded
    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        return await self._transit.fingerprint(organization_id.encode(), key.reveal().encode())

    @_bounded
    async def current_version(self, ref: SecretRef) -> int:
        return await self._kv.current_version(VaultRole.WRITER, ref)

    @_bounded
    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        ciphertext = await self._transit.encrypt(ref, secret.reveal().encode())
        return await self._put(VaultRole.WRITER, ref, ciphertext, intent_id, expected_version)

    @_bounded
    async def tombstone(self, ref: SecretRef, *, intent_id: UUID, expected_version: int) -> bool:
        content = {_TOMBSTONE: str(intent_id)}
        if await self._kv.put(VaultRole.SWEEPER, ref, content, expected_version=expected_version):
            return True
        found = await self._kv.read_version(VaultRole.SWEEPER, ref, expected_version + 1)
        return found is not None and _TOMBSTONE in found

    @_bounded
    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        return await self._intent(VaultRole.SWEEPER, ref, store_version)

    @_bounded
    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        ciphertext = await self._ciphertext(VaultRole.PROBER, ref, store_version)
        return ApiKey((await self._transit.decrypt(ref, ciphertext)).decode())

    @_bounded
    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        ciphertext = await self._ciphertext(VaultRole.PROBER, ref, store_version)
        return SigningSecret((await self._transit.decrypt(ref, ciphertext)).decode())

    @_bounded
    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        await self._kv.destroy(ref, store_versions)

    @_bounded
    async def destroy_all(self, ref: SecretRef) -> None:
        await self._kv.destroy_all(ref)

    @_bounded
    async def ping(self) -> None:
        await self._kv.check()
        await self._transit.check()

    @_bounded
    async def wrap_for_lease(self, ref: SecretRef, store_version: int, ttl_seconds: int) -> WrappedSecret:
        """Wrap the base64-encoded key in a single-use token.

        Raises:
            SecretMissing, SecretCorrupt, SecretStoreUnavailable
        """
        ciphertext = await self._ciphertext(VaultRole.BROKER, ref, store_version)
        wrapped = await self._transit.decrypt_wrapped(ref, ciphertext, ttl_seconds)
        return WrappedSecret(
            token=wrapped["token"], accessor=wrapped["accessor"], creation_path=wrapped["creation_path"]
        )

    @_bounded
    async def has(self, ref: SecretRef, store_version: int) -> bool:
        """Whether the store version has a ciphertext. A version that is soft-deleted in Vault has none."""
        found = await self._kv.read_version(VaultRole.BROKER, ref, store_version)
        return found is not None and _CIPHERTEXT in found

    @_bounded
    async def revoke_wrapping(self, accessor: str) -> None:
        """Revoke a wrapping token. A token that was unwrapped or has expired is ignored."""
        await self._transit.revoke_wrapped(accessor)

    @_bounded
    async def rewrap(
        self, ref: SecretRef, store_version: int, *, intent_id: UUID, expected_version: int
    ) -> int:
        """Write the same key, under the newest transit key, as store version `expected_version + 1`.

        A version in KV cannot change, so a rewrap takes a new number and an intent, like every write.
        Returns `store_version` if the key is under the newest transit key already. The plaintext stays in Vault.

        Raises:
            SecretMissing, SecretCorrupt, CasMismatch, SecretStoreUnavailable
        """
        old = await self._ciphertext(VaultRole.SWEEPER, ref, store_version)
        new = await self._transit.rewrap(ref, old)
        if _key_version(new) == _key_version(old):
            return store_version
        return await self._put(VaultRole.SWEEPER, ref, new, intent_id, expected_version)

    @_bounded
    async def is_outdated(self, ref: SecretRef, store_version: int) -> bool:
        """Whether the organization's transit key has a newer version than the one that encrypted this secret.

        Raises:
            SecretMissing, SecretCorrupt, SecretStoreUnavailable
        """
        old = await self._ciphertext(VaultRole.SWEEPER, ref, store_version)
        return _key_version(await self._transit.rewrap(ref, old)) != _key_version(old)

    @_bounded
    async def rotate_key(self, organization_id: str) -> None:
        """Add a version to the organization's transit key. It encrypts from now on; older versions still decrypt."""
        await self._transit.rotate(organization_id)

    async def _put(
        self, role: VaultRole, ref: SecretRef, ciphertext: str, intent_id: UUID, expected_version: int
    ) -> int:
        version = expected_version + 1
        content = {_CIPHERTEXT: ciphertext, _INTENT: str(intent_id)}
        # If the number is taken, an earlier attempt of the same intent may have succeeded without a response.
        if (
            await self._kv.put(role, ref, content, expected_version=expected_version)
            or await self._intent(role, ref, version) == intent_id
        ):
            return version
        raise CasMismatch

    async def _intent(self, role: VaultRole, ref: SecretRef, store_version: int) -> UUID | None:
        found = await self._kv.read_version(role, ref, store_version)
        return UUID(found[_INTENT]) if found and _INTENT in found else None

    async def _ciphertext(self, role: VaultRole, ref: SecretRef, store_version: int) -> str:
        found = await self._kv.read_version(role, ref, store_version)
        if found is None or _CIPHERTEXT not in found:
            raise SecretMissing
        return str(found[_CIPHERTEXT])


def _key_version(ciphertext: str) -> str:
    """`vault:v3` of `vault:v3:...`."""
    return ciphertext.rpartition(":")[0]
