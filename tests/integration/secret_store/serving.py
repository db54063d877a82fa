"""The service over a Vault, through its API: an admin, an internal service, and a key in force."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.secret_store.vault.store import VaultSecretStore
from app.validation.runner import Prober, ValidationRunner
from tests.api.rotating import put_in_force, rotate, saved
from tests.assembly import assemble, client_of
from tests.conftest import MakeToken, Tenant
from tests.interruptions import ApprovingProber


@dataclass(frozen=True, kw_only=True)
class Serving:
    """An organization whose key in force lies in Vault. `path` is its credential's."""

    admin: Tenant
    service: Tenant
    path: str

    async def lease(self, **body: Any) -> httpx.Response:
        return await self.service.post(f"{self.admin.path}/credential-leases", json=body)

    async def readyz(self) -> httpx.Response:
        return await self.admin.http.get("/readyz")

    async def use_vault(self) -> dict[str, httpx.Response]:
        """Every operation that cannot do without Vault. The last ones end the key."""
        return {
            "save": await self.admin.create(),
            "rotate": await rotate(self.admin, self.path),
            "lease": await self.lease(),
            "destroy": await self.admin.post(f"{self.path}/versions/1/destroy"),
            "delete": await self.admin.request("DELETE", self.path, params={"force": "true"}),
        }

    async def manage_without_vault(self) -> dict[str, httpx.Response]:
        """Everything that needs metadata alone."""
        admin, path = self.admin, self.path
        return {
            "read": await admin.get(path),
            "list": await admin.get(admin.credentials),
            "versions": await admin.get(f"{path}/versions"),
            "validations": await admin.get(f"{path}/validations"),
            "readiness": await admin.get(f"{admin.path}/readiness"),
            "usage mode": await admin.get(f"{admin.path}/usage-mode"),
            "trail": await admin.get(f"{admin.path}/audit-events"),
            "rename": await admin.patch(path, json={"label": "Renamed"}),
            "disable": await admin.post(f"{path}/disable"),
            "enable": await admin.post(f"{path}/enable"),
            "roll back": await admin.post(f"{path}/rollback"),
            "roll back again": await admin.post(f"{path}/rollback"),
        }


@asynccontextmanager
async def serving(
    services: Services,
    database: Database,
    tenant: Tenant,
    make_token: MakeToken,
    *,
    store: VaultSecretStore,
    vault_address: str,
    prober: Prober | None = None,
) -> AsyncIterator[Serving]:
    """Saved, rotated once, and switched to."""
    assembled = assemble(
        services,
        units=UnitsOfWork(database),
        store=store,
        prober=prober or ApprovingProber(),
        wrapper=store,
        vault_address=vault_address,
    )
    async with client_of(assembled) as client:
        admin = replace(tenant, http=client)
        path = await saved(admin)
        response = await rotate(admin, path)
        assert response.status_code == 201, response.text
        await put_in_force(admin, path)
        yield Serving(admin=admin, service=replace(admin, token=make_token("service")), path=path)
        await assembled[ValidationRunner].close()
