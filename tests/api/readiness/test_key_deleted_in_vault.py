"""A key that an operator deletes in Vault: readiness and leases give the same blockers, and the log names the key."""

import json
from collections.abc import AsyncIterator

import pytest

from app.core.services import Services
from app.database.engine import Database
from tests.support.output_sinks import log_lines
from tests.support.tenant import MakeToken, Tenant
from tests.support.vault.api_service import VaultBackedApi, vault_backed_api
from tests.support.vault.prepared import PreparedVault


@pytest.fixture
async def api(
    any_vault: PreparedVault, services: Services, database: Database, tenant: Tenant, make_token: MakeToken
) -> AsyncIterator[VaultBackedApi]:
    async with (
        any_vault.store(await any_vault.logins()) as store,
        vault_backed_api(
            services, database, tenant, make_token, store=store, vault_address=any_vault.address
        ) as found,
    ):
        yield found


async def delete_softly(vault: PreparedVault, api: VaultBackedApi) -> None:
    """Delete the latest version, as `vault kv delete` does."""
    credential = api.path.rpartition("/")[2]
    await vault.delete(f"{vault.mounts.kv}/data/orgs/{api.admin.organization}/creds/{credential}")


async def undelete(vault: PreparedVault, api: VaultBackedApi) -> None:
    credential = api.path.rpartition("/")[2]
    await vault.write(
        f"{vault.mounts.kv}/undelete/orgs/{api.admin.organization}/creds/{credential}", versions=[2]
    )


async def readiness(api: VaultBackedApi) -> list[str]:
    found = (await api.admin.get(f"{api.admin.path}/readiness")).json()
    assert found["ready"] is (not found["blockers"])
    blockers: list[str] = found["blockers"]
    return blockers


class TestKeySoftDeletedInVault:
    async def test_blocks_readiness_and_leases_alike(
        self, api: VaultBackedApi, any_vault: PreparedVault
    ) -> None:
        assert await readiness(api) == []

        await delete_softly(any_vault, api)

        lease = await api.lease()
        assert (lease.status_code, lease.json()["code"]) == (409, "not_ready")
        assert await readiness(api) == lease.json()["blockers"] == ["credential_deleted"]

    async def test_is_named_in_the_log(self, api: VaultBackedApi, any_vault: PreparedVault) -> None:
        await delete_softly(any_vault, api)

        with log_lines(level="error") as written:
            await readiness(api)
            await api.lease()

        lines = [json.loads(line) for line in written().splitlines()]
        assert [(line["logger"], line["event"]) for line in lines] == [
            ("byok.readiness", "key_missing_in_store"),
            ("byok.leases", "key_missing_in_store"),
        ]
        for line in lines:
            assert line["credential_id"] == api.path.rpartition("/")[2]
            assert (line["key_version"], line["store_version"]) == (2, 2)

    async def test_is_ready_again_after_it_was_undeleted(
        self, api: VaultBackedApi, any_vault: PreparedVault
    ) -> None:
        await delete_softly(any_vault, api)
        assert await readiness(api) == ["credential_deleted"]

        await undelete(any_vault, api)

        assert await readiness(api) == []
        assert (await api.lease()).status_code == 201
