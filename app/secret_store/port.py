"""The port of the secret stores, which keep provider keys and webhook signing secrets.

The embedded store, Vault and the tests' fake all keep the promises written here.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret


class SecretKind(StrEnum):
    """What a secret is used for. A secret of one kind cannot be read as the other."""

    PROVIDER_KEY = "provider_key"
    SIGNING_SECRET = "signing_secret"  # noqa: S105  # a name


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """Names the secrets of one credential or one webhook endpoint: store versions, numbered from 1.

    The store version is the store's own count and may differ from the credential's key_version,
    because tombstones take numbers too.
    """

    organization_id: str
    credential_id: UUID  # or the endpoint's id: ids are unique across both
    kind: SecretKind = SecretKind.PROVIDER_KEY


class CasMismatch(Exception):
    """The store is not at the expected version, because another write came first."""


class SecretMissing(Exception):
    """The store version holds no secret: it was destroyed, is a tombstone, or was never written."""


class SecretCorrupt(Exception):
    """The secret at that store version cannot be decrypted: it was changed or moved, or its key is gone."""

    def __init__(self) -> None:
        super().__init__(
            "The encrypted secret cannot be decrypted. It was changed or moved, or its key-encryption key is gone."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedSecret:
    """A key in a single-use wrapping token. The first caller to unwrap it gets the key."""

    token: str = field(repr=False)
    accessor: str  # can revoke the token, but not unwrap it
    creation_path: str  # the consumer compares it before it trusts the key


class SecretStore(Protocol):
    """Encrypts secrets, and decrypts them only for egress and for comparing a key with a text.

    Every method may raise `app.core.errors.SecretStoreUnavailable`. No other error of the store's
    client escapes, and no error carries a secret. Every method has a deadline.
    """

    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        """Return `v1:<hex>`: the HMAC of organization and key under the store's own fingerprint key."""
        ...

    async def current_version(self, ref: SecretRef) -> int:
        """Return the last store version, counting destroyed ones and tombstones, or 0."""
        ...

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        """Encrypt the secret as store version `expected_version + 1` and return that number.

        A repeated write with the same intent_id succeeds and changes nothing.

        Raises:
            CasMismatch: another write has taken that number.
        """
        ...

    async def tombstone(self, ref: SecretRef, *, intent_id: UUID, expected_version: int) -> bool:
        """Take the number `expected_version + 1`, so that a late write of that intent must fail.

        Returns True if the number is now a tombstone, False if a write had taken it before.
        In the second case the caller destroys that version if the intent wrote it.
        """
        ...

    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        """Return the intent that wrote that store version; None if it is a tombstone, destroyed or unwritten."""
        ...

    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        """Decrypt a key. The caller must use it within the same call, for egress or for a comparison, and not keep it.

        Raises:
            SecretMissing
            SecretCorrupt
        """
        ...

    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        """Decrypt the secret that signs deliveries to a webhook endpoint. The rules of `read` apply.

        Raises:
            SecretMissing
            SecretCorrupt
        """
        ...

    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        """Destroy these versions permanently. Versions without a secret are ignored."""
        ...

    async def destroy_all(self, ref: SecretRef) -> None:
        """Destroy every version of the credential. Their numbers stay taken, so a late write still fails."""
        ...

    async def ping(self) -> None:
        """Raise SecretStoreUnavailable unless the store can encrypt and decrypt now."""
        ...
