"""A service over Vault's stand-in, for tests of what leases are and what they leave behind."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.core.errors import SecretStoreUnavailable
from app.secret_store.port import SecretRef, WrappedSecret
from tests.api.rotating import put_in_force, saved
from tests.conftest import Tenant
from tests.fakes import FakeSecretStore

ADDRESS = "https://vault.example.com:8200"


@dataclass
class FakeWrapper:
    """Wraps what the store has, as Vault would. `beforehand` and `meanwhile` happen once each, in their turns."""

    store: FakeSecretStore
    wrapped: list[tuple[SecretRef, int, int]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    beforehand: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)
    meanwhile: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)

    async def wrap_for_lease(self, ref: SecretRef, store_version: int, ttl_seconds: int) -> WrappedSecret:
        if self.beforehand:
            await self.beforehand.pop()()
        await self.store.read(ref, store_version)  # or SecretMissing
        self.wrapped.append((ref, store_version, ttl_seconds))
        number = len(self.wrapped)
        if self.meanwhile:
            await self.meanwhile.pop()()
        return WrappedSecret(
            token=f"hvs.token-of-lease-{number}",
            accessor=f"accessor-{number}",
            creation_path="transit/decrypt/x",
        )

    async def revoke_wrapping(self, accessor: str) -> None:
        if self.store.unavailable:
            raise SecretStoreUnavailable
        self.revoked.append(accessor)


@dataclass(frozen=True, kw_only=True)
class Vaulted:
    """A service over Vault's stand-in: an organization's admin, and an internal service."""

    admin: Tenant
    service: Tenant
    wrapper: FakeWrapper

    async def lease(self, **body: Any) -> httpx.Response:
        return await self.service.post(f"{self.admin.path}/credential-leases", json=body)

    async def in_force(self, **fields: Any) -> str:
        """The path of a new credential, in force."""
        path = await saved(self.admin, **fields)
        await put_in_force(self.admin, path)
        return path
