"""The service's API over a fake store with leases."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.core.errors import SecretStoreUnavailable
from app.secret_store.port import SecretRef, WrappedSecret
from tests.support.fakes import FakeSecretStore
from tests.support.requests.rotation import create_credential, switch_to_byo
from tests.support.tenant import Tenant

ADDRESS = "https://vault.example.com:8200"


@dataclass
class FakeKeyWrapper:
    """Wraps keys of the fake store, as Vault would.

    Each call pops and runs one callback of `before_wrapping` and one of `after_wrapping`.
    """

    store: FakeSecretStore
    wrapped: list[tuple[SecretRef, int, int]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    before_wrapping: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)
    after_wrapping: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)

    async def wrap_for_lease(self, ref: SecretRef, store_version: int, ttl_seconds: int) -> WrappedSecret:
        if self.before_wrapping:
            await self.before_wrapping.pop()()
        await self.store.read(ref, store_version)  # raises SecretMissing
        self.wrapped.append((ref, store_version, ttl_seconds))
        number = len(self.wrapped)
        if self.after_wrapping:
            await self.after_wrapping.pop()()
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
class LeaseApi:
    """The service's API with leases: an organization's admin, and an internal service."""

    admin: Tenant
    service: Tenant
    wrapper: FakeKeyWrapper

    async def lease(self, **body: Any) -> httpx.Response:
        return await self.service.post(f"{self.admin.path}/credential-leases", json=body)

    async def save_active_credential(self, **fields: Any) -> str:
        """Save a new credential and switch the organization to it. Returns its path."""
        path = await create_credential(self.admin, **fields)
        await switch_to_byo(self.admin, path)
        return path
