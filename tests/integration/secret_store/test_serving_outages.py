"""A real Vault fails while the service uses it: the server is sealed, shut down or suspended, or lacks tokens, policies or mounts."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from app.core.services import Services
from app.database.engine import Database
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.store import VaultSecretStore
from tests.support.requests.rotation import status_and_code
from tests.support.tenant import MakeToken, Tenant
from tests.support.vault.api_service import VaultBackedApi, vault_backed_api
from tests.support.vault.prepared import PreparedVault, prepared_vault
from tests.support.vault.real_server import RealServer, dev_server, is_real_vault_available

DEADLINE_SECONDS = 20.0  # longer than a healthy server takes on a busy machine
# Lets a role look up its own token. Without it, a missing permission looks like a revoked token.
OWN_TOKEN = 'path "auth/token/lookup-self" { capabilities = ["read"] }'


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A service over a real server that a test may break. `stop_server` shuts the server down."""

    api: VaultBackedApi
    vault: PreparedVault
    server: RealServer
    store: VaultSecretStore
    stop_server: Callable[[], None]

    async def seal_vault(self) -> None:
        await self.vault.write("sys/seal")

    async def shut_down(self) -> None:
        self.stop_server()

    async def suspend(self) -> None:
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGSTOP)
        # Only a server that does not respond uses up the deadline.
        self.store.deadline_seconds = 1.0

    async def resume(self) -> None:
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGCONT)
        self.store.deadline_seconds = DEADLINE_SECONDS

    async def revoke_tokens(self) -> None:
        """Revoke the tokens and delete the roles, so that new logins fail."""
        for role in VaultRole:
            await self.vault.delete(f"auth/approle/role/{self.vault.prefix}-{role}")
        await self.vault.write("sys/leases/revoke-prefix/auth/approle/login")

    async def remove_policies(self) -> None:
        for role in VaultRole:
            await self.vault.write(f"sys/policies/acl/{self.vault.prefix}-{role}", policy=OWN_TOKEN)

    async def remove_the_mounts(self) -> None:
        for mount in (self.vault.mounts.kv, self.vault.mounts.transit):
            await self.vault.delete(f"sys/mounts/{mount}")


Fault = Callable[[Outage], Awaitable[None]]
OUTAGES: dict[str, tuple[Fault, str]] = {
    "sealed": (Outage.seal_vault, "secret_store_sealed"),
    "gone": (Outage.shut_down, "secret_store_unavailable"),
    "stopped": (Outage.suspend, "secret_store_timeout"),
    "token revoked": (Outage.revoke_tokens, "secret_store_login_refused"),
    "policy removed": (Outage.remove_policies, "secret_store_permission_denied"),
    "mounts disabled": (Outage.remove_the_mounts, "secret_store_misconfigured"),
}


@pytest.fixture
async def outage(
    services: Services, database: Database, tenant: Tenant, make_token: MakeToken
) -> AsyncIterator[Outage]:
    if not is_real_vault_available():
        pytest.skip("needs a real Vault or OpenBao")
    with ExitStack() as running:
        server = running.enter_context(dev_server())
        async with (
            prepared_vault(server.address, server.token) as vault,
            vault.store(await vault.logins(), deadline_seconds=DEADLINE_SECONDS) as store,
            vault_backed_api(
                services, database, tenant, make_token, store=store, vault_address=server.address
            ) as api,
        ):
            yield Outage(api=api, vault=vault, server=server, store=store, stop_server=running.close)
            running.close()


class TestRealServer:
    @pytest.mark.parametrize(
        ("fault", "code"), [pytest.param(fault, code, id=name) for name, (fault, code) in OUTAGES.items()]
    )
    async def test_gives_each_failure_its_own_code(self, outage: Outage, fault: Fault, code: str) -> None:
        api = outage.api
        assert (await api.lease()).status_code == 201

        await fault(outage)

        readiness = await api.readyz()
        metadata_responses = await api.send_requests_without_vault()
        responses = await api.send_requests_that_need_vault()
        assert {name: status_and_code(response) for name, response in responses.items()} == dict.fromkeys(
            responses, (503, code)
        )
        assert (readiness.status_code, readiness.json()["problems"]) == (503, {"secret_store": code})
        assert {name: response.status_code for name, response in metadata_responses.items()} == dict.fromkeys(
            metadata_responses, 200
        )

    async def test_is_used_again_after_it_resumes(self, outage: Outage) -> None:
        api = outage.api
        await outage.suspend()
        stopped = await api.lease()
        await outage.resume()

        assert status_and_code(stopped) == (503, "secret_store_timeout")
        assert (await api.lease()).status_code == 201
        assert (await api.readyz()).status_code == 200
