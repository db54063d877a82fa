"""The secret stores with which the write protocol is tested."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from app.secret_store.port import SecretStore
from app.secret_store.vault.store import VaultSecretStore
from tests.support.fault_injection import FaultSchedule, fault_injecting_store
from tests.support.vault.fault_injection import interrupted_vault
from tests.support.vault.prepared import PreparedVault

Secret = tuple[UUID, int]


@dataclass(frozen=True, kw_only=True)
class StoreVariant:
    """A secret store, and functions that inspect it past its port.

    `secrets` returns the credential and store version of each secret that an organization has in the store.
    """

    name: str
    store: SecretStore
    secrets: Callable[[str], Awaitable[set[Secret]]]
    inject_faults: Callable[[SecretStore, FaultSchedule], SecretStore] = fault_injecting_store
    # Whether a wrapping token can be unwrapped, which works once. None: the store does not support leases.
    opens_token: Callable[[str], Awaitable[bool]] | None = None


def over_vault(name: str, vault: PreparedVault, store: VaultSecretStore) -> StoreVariant:
    return StoreVariant(
        name=name,
        store=store,
        secrets=vault.secrets_of,
        inject_faults=interrupted_vault,
        opens_token=vault.opens,
    )
