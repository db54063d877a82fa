"""The port to where secrets rest: provider keys, and what webhooks are signed with. Embedded store, Vault and the test fake keep the same promises."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from app.core.api_key import ApiKey
from app.core.signing_secret import SigningSecret


class SecretKind(StrEnum):
    """What a secret is for. One of a kind opens as nothing else."""

    PROVIDER_KEY = "provider_key"
    SIGNING_SECRET = "signing_secret"  # noqa: S105  # a name


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """Names one credential's secrets, or one webhook endpoint's. Each holds numbered store versions, starting at 1.

    The store's version is its own count and need not equal the credential's key_version:
    tombstones take numbers too.
    """

    organization_id: str
    credential_id: UUID  # or the endpoint's: ids are unique over both
    kind: SecretKind = SecretKind.PROVIDER_KEY


class CasMismatch(Exception):
    """The store is not at the expected version: another write came first."""


class SecretMissing(Exception):
    """There is no readable secret at that store version: destroyed, a tombstone, or never written."""


class SecretCorrupt(Exception):
    """What rests at that store version cannot be opened: changed, moved, or its root key is gone."""

    def __init__(self) -> None:
        super().__init__(
            "The sealed secret cannot be opened: it was changed or moved, or its root key is gone."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedSecret:
    """A key in a single-use wrapping token: whoever opens it first has the key."""

    token: str = field(repr=False)
    accessor: str  # revokes the token, and cannot open it
    creation_path: str  # what the consumer checks before it trusts what it unwrapped


class SecretStore(Protocol):
    """Seals keys and gives them back only to egress.

    Every method may raise `app.core.errors.SecretStoreUnavailable`; no other error of the
    store's client ever escapes, and no error carries a secret. Every method is bounded in time.
    """

    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        """`v1:<hex>`: HMAC of the key under the store's own key; the organization goes into the input."""
        ...

    async def current_version(self, ref: SecretRef) -> int:
        """The last store version written, destroyed and tombstones included; 0 when none ever was."""
        ...

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        """Seal the secret as store version `expected_version + 1` and return that number.

        Repeating a write with the same intent_id succeeds and changes nothing.

        Raises:
            CasMismatch: the store is past `expected_version` by somebody else's write.
        """
        ...

    async def tombstone(self, ref: SecretRef, *, intent_id: UUID, expected_version: int) -> bool:
        """Take the number `expected_version + 1` so that a late write of that intent must fail.

        Returns True when the number is now a tombstone, False when a write had taken it before
        (the caller then destroys that version if it is the intent's).
        """
        ...

    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        """Whose write made that store version; None for none, a tombstone or a destroyed one."""
        ...

    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        """Unseal. Only for handing the key to egress within the same call.

        Raises:
            SecretMissing
            SecretCorrupt
        """
        ...

    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        """The same for what deliveries to a webhook endpoint are signed with.

        Raises:
            SecretMissing
            SecretCorrupt
        """
        ...

    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        """Destroy these versions for good; those already gone are no error."""
        ...

    async def purge(self, ref: SecretRef) -> None:
        """Destroy every version of the credential. Numbers are kept, so a late write still fails."""
        ...

    async def ping(self) -> None:
        """Raise SecretStoreUnavailable unless the store can seal and unseal right now."""
        ...
