"""The stores over which the order of writes must hold, each with a look past its port."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from app.secret_store.port import SecretStore
from app.secret_store.vault.store import VaultSecretStore
from tests.integration.secret_store.vaults import Prepared
from tests.interrupted_vault import interrupted_vault
from tests.interruptions import Course, interrupted_store

Secret = tuple[UUID, int]


@dataclass(frozen=True, kw_only=True)
class Vessel:
    """A secret store, and a look past its port at which secrets of an organization rest in it."""

    name: str
    store: SecretStore
    secrets: Callable[[str], Awaitable[set[Secret]]]
    interrupted: Callable[[SecretStore, Course], SecretStore] = interrupted_store
    # Whether a wrapping token opens; it opens once. None: the store has no leases.
    opens: Callable[[str], Awaitable[bool]] | None = None


def over_vault(name: str, vault: Prepared, store: VaultSecretStore) -> Vessel:
    return Vessel(
        name=name, store=store, secrets=vault.secrets_of, interrupted=interrupted_vault, opens=vault.opens
    )
