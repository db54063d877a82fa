"""A real server fails while the service runs on it: sealed, gone, stopped, without token, policy or mounts."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from app.core.services import Services
from app.database.engine import Database
from app.secret_store.vault.roles import VaultRole
from tests.api.rotating import refusal
from tests.conftest import MakeToken, Tenant
from tests.integration.secret_store.server import RealServer, dev_server, is_there
from tests.integration.secret_store.serving import Serving, serving
from tests.integration.secret_store.vaults import Prepared, prepared_vault

# What a role may do with its own token: without it, Vault's answer could not be told from a dead token's.
OWN_TOKEN = 'path "auth/token/lookup-self" { capabilities = ["read"] }'


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A service over a real server that a test may break. `end` ends the server."""

    served: Serving
    vault: Prepared
    server: RealServer
    end: Callable[[], None]

    async def seal(self) -> None:
        await self.vault.write("sys/seal")

    async def go_away(self) -> None:
        self.end()

    async def stop(self) -> None:
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGSTOP)

    async def revoke_tokens(self) -> None:
        """And take the log-ins away, so that no new ones are to be had."""
        for role in VaultRole:
            await self.vault.delete(f"auth/approle/role/{self.vault.prefix}-{role}")
        await self.vault.write("sys/leases/revoke-prefix/auth/approle/login")

    async def remove_policies(self) -> None:
        for role in VaultRole:
            await self.vault.write(f"sys/policies/acl/{self.vault.prefix}-{role}", policy=OWN_TOKEN)

    async def unmount(self) -> None:
        for mount in (self.vault.mounts.kv, self.vault.mounts.transit):
            await self.vault.delete(f"sys/mounts/{mount}")


Happening = Callable[[Outage], Awaitable[None]]
OUTAGES: dict[str, tuple[Happening, str]] = {
    "sealed": (Outage.seal, "secret_store_sealed"),
    "gone": (Outage.go_away, "secret_store_unavailable"),
    "stopped": (Outage.stop, "secret_store_timeout"),
    "token revoked": (Outage.revoke_tokens, "secret_store_login_refused"),
    "policy removed": (Outage.remove_policies, "secret_store_permission_denied"),
    "mounts disabled": (Outage.unmount, "secret_store_misconfigured"),
}


@pytest.fixture
async def outage(
    services: Services, database: Database, tenant: Tenant, make_token: MakeToken
) -> AsyncIterator[Outage]:
    if not is_there():
        pytest.skip("needs a real Vault or OpenBao")
    with ExitStack() as running:
        server = running.enter_context(dev_server())
        async with (
            prepared_vault(server.address, server.token) as vault,
            vault.store(await vault.logins(), deadline_seconds=1.0) as store,
            serving(
                services, database, tenant, make_token, store=store, vault_address=server.address
            ) as served,
        ):
            yield Outage(served=served, vault=vault, server=server, end=running.close)
            running.close()


class TestRealServer:
    @pytest.mark.parametrize(
        ("happen", "code"), [pytest.param(happen, code, id=name) for name, (happen, code) in OUTAGES.items()]
    )
    async def test_that_fails_is_told_from_others_that_do(
        self, outage: Outage, happen: Happening, code: str
    ) -> None:
        served = outage.served
        assert (await served.lease()).status_code == 201

        await happen(outage)

        readiness = await served.readyz()
        kept = await served.manage_without_vault()
        answers = await served.use_vault()
        assert {name: refusal(response) for name, response in answers.items()} == dict.fromkeys(
            answers, (503, code)
        )
        assert (readiness.status_code, readiness.json()["problems"]) == (503, {"secret_store": code})
        assert {name: response.status_code for name, response in kept.items()} == dict.fromkeys(kept, 200)

    async def test_that_comes_to_itself_is_used_again(self, outage: Outage) -> None:
        served = outage.served
        await outage.stop()
        stopped = await served.lease()
        assert outage.server.pid is not None
        os.kill(outage.server.pid, signal.SIGCONT)

        assert refusal(stopped) == (503, "secret_store_timeout")
        assert (await served.lease()).status_code == 201
        assert (await served.readyz()).status_code == 200
