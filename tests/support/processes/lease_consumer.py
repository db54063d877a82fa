"""Runs the service with a real or a fake Vault, and the example lease consumer."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.processes.commands import TIMEOUT_SECONDS, CommandResult
from tests.support.processes.service import Service, running
from tests.support.vault import fake as fake_vault
from tests.support.vault.prepared import PreparedVault, prepared_vault
from tests.support.vault.real_server import real_server

CONSUMER = Path(__file__).parents[3] / "docs" / "examples" / "lease_consumer.py"


@dataclass(frozen=True, kw_only=True)
class LeasingService:
    """A service that can create leases, and its Vault."""

    service: Service
    vault: PreparedVault

    async def save_active_credential(self, organization: str, key: str, **fields: str) -> str:
        """Save a credential, make it the active one of its organization, and return its path."""
        saved = await self.service.save(organization, key, **fields)
        assert saved.status_code == 201, saved.text
        path = f"/v1/organizations/{organization}/usage-mode"
        body = {"mode": "byo", "credential_id": saved.json()["id"]}
        switched = await self.service.request("PUT", path, json=body)
        assert switched.status_code == 200, switched.text
        return saved.headers["Location"]

    async def lease(self, organization: str) -> httpx.Response:
        """Request a lease as an internal service."""
        headers = {"Authorization": f"Bearer {await self.service.token('service')}"}
        path = f"/v1/organizations/{organization}/credential-leases"
        return await self.service.http.post(path, json={}, headers=headers)

    async def consume(self, organization: str, question: str, **variables: str) -> CommandResult:
        """Run the example as a user would: in a separate process that imports httpx but not this service."""
        given = {
            "PATH": os.environ["PATH"],
            "BYOK_URL": self.service.url,
            "BYOK_TOKEN": await self.service.token("service"),
            "VAULT_ADDR": self.vault.address,
            "TRANSIT_MOUNT": self.vault.mounts.transit,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-W", "error", str(CONSUMER), organization, question),
            env=given | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_SECONDS):
            stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return CommandResult(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


@asynccontextmanager
async def leasing_service(*, real: bool, provider_url: str, **settings: str) -> AsyncIterator[LeasingService]:
    """Set up a service as in production: each Vault role has a separate login and policy."""
    async with AsyncExitStack() as stack:
        if real:
            server = stack.enter_context(real_server())
            address, token = server.address, server.token
        else:
            served = await stack.enter_async_context(fake_vault.serve())
            address, token = served.address, fake_vault.ROOT
        vault = await stack.enter_async_context(prepared_vault(address, token))
        service = await stack.enter_async_context(
            running(PROVIDER__DEFAULT_BASE_URL=provider_url, **await settings_of(vault), **settings)
        )
        yield LeasingService(service=service, vault=vault)


async def settings_of(vault: PreparedVault) -> dict[str, str]:
    """The settings for a Vault after its setup, without the prefix."""
    settings = {
        "VAULT__ADDRESS": vault.address,
        "VAULT__AUTH_METHOD": "approle",
        "VAULT__KV_MOUNT": vault.mounts.kv,
        "VAULT__TRANSIT_MOUNT": vault.mounts.transit,
    }
    for role, login in (await vault.logins()).items():
        prefix = f"VAULT__ROLES__{role.upper()}__"
        settings |= {f"{prefix}ROLE_ID": login.role_id, f"{prefix}SECRET_ID": login.secret_id}
    return settings
