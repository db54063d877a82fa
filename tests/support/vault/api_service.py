"""The service's API over a Vault store, with an admin, an internal service and an active key."""

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
from tests.support.fault_injection import ApprovingProber
from tests.support.requests.rotation import create_credential, post_rotation, switch_to_byo
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import MakeToken, Tenant


@dataclass(frozen=True, kw_only=True)
class VaultBackedApi:
    """An organization whose active key is in Vault. `path` is the path of its credential."""

    admin: Tenant
    service: Tenant
    path: str

    async def lease(self, **body: Any) -> httpx.Response:
        return await self.service.post(f"{self.admin.path}/credential-leases", json=body)

    async def readyz(self) -> httpx.Response:
        return await self.admin.http.get("/readyz")

    async def send_requests_that_need_vault(self) -> dict[str, httpx.Response]:
        """Send one request of each operation that needs Vault. The last ones destroy the key."""
        return {
            "save": await self.admin.create(),
            "rotate": await post_rotation(self.admin, self.path),
            "lease": await self.lease(),
            "destroy": await self.admin.post(f"{self.path}/versions/1/destroy"),
            "delete": await self.admin.request("DELETE", self.path, params={"force": "true"}),
        }

    async def send_requests_without_vault(self) -> dict[str, httpx.Response]:
        """Send one request of each operation that needs only metadata."""
        admin, path = self.admin, self.path
        return {
            "read": await admin.get(path),
            "list": await admin.get(admin.credentials),
            "versions": await admin.get(f"{path}/versions"),
            "validations": await admin.get(f"{path}/validations"),
            "readiness": await admin.get(f"{admin.path}/readiness"),
            "usage mode": await admin.get(f"{admin.path}/usage-mode"),
            "audit log": await admin.get(f"{admin.path}/audit-events"),
            "rename": await admin.patch(path, json={"label": "Renamed"}),
            "disable": await admin.post(f"{path}/disable"),
            "enable": await admin.post(f"{path}/enable"),
            "roll back": await admin.post(f"{path}/rollback"),
            "roll back again": await admin.post(f"{path}/rollback"),
        }


@asynccontextmanager
async def vault_backed_api(
    services: Services,
    database: Database,
    tenant: Tenant,
    make_token: MakeToken,
    *,
    store: VaultSecretStore,
    vault_address: str,
    prober: Prober | None = None,
) -> AsyncIterator[VaultBackedApi]:
    """Build the service, save a key, rotate it once, and switch the organization to it."""
    assembled = assemble(
        services,
        units=UnitsOfWork(database),
        store=store,
        prober=prober or ApprovingProber(),
        wrapper=store,
        stored=store,
        vault_address=vault_address,
    )
    async with client_of(assembled) as client:
        admin = replace(tenant, http=client)
        path = await create_credential(admin)
        response = await post_rotation(admin, path)
        assert response.status_code == 201, response.text
        await switch_to_byo(admin, path)
        yield VaultBackedApi(admin=admin, service=replace(admin, token=make_token("service")), path=path)
        await assembled[ValidationRunner].close()
