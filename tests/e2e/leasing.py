"""The service as a process over a Vault, real or fake, and the example consumer beside it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests import fake_vault
from tests.e2e.commands import PATIENCE_SECONDS, Ended
from tests.e2e.service import Service, running
from tests.integration.secret_store.server import real_server
from tests.integration.secret_store.vaults import Prepared, prepared_vault

CONSUMER = Path(__file__).parents[2] / "docs" / "examples" / "lease_consumer.py"


@dataclass(frozen=True, kw_only=True)
class Leasing:
    """A service that can lease, and its Vault."""

    service: Service
    vault: Prepared

    async def in_force(self, organization: str, key: str, **fields: str) -> str:
        """The path of a new credential, in force."""
        saved = await self.service.save(organization, key, **fields)
        assert saved.status_code == 201, saved.text
        path = f"/v1/organizations/{organization}/usage-mode"
        body = {"mode": "byo", "credential_id": saved.json()["id"]}
        switched = await self.service.request("PUT", path, json=body)
        assert switched.status_code == 200, switched.text
        return saved.headers["Location"]

    async def lease(self, organization: str) -> httpx.Response:
        """As an internal service."""
        headers = {"Authorization": f"Bearer {await self.service.token('service')}"}
        path = f"/v1/organizations/{organization}/credential-leases"
        return await self.service.http.post(path, json={}, headers=headers)

    async def consume(self, organization: str, question: str, **variables: str) -> Ended:
        """Run the example as whoever copies it would: its own process, with httpx and nothing of ours."""
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
        async with asyncio.timeout(PATIENCE_SECONDS):
            stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return Ended(code=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


@asynccontextmanager
async def leasing(*, real: bool, provider_url: str, **settings: str) -> AsyncIterator[Leasing]:
    """Set up as production is: a log-in for each role, with its own policy."""
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
        yield Leasing(service=service, vault=vault)


async def settings_of(vault: Prepared) -> dict[str, str]:
    """What the service needs to log in to a Vault after set-up, without the prefix."""
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
