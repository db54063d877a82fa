"""`byok vault-setup` on an empty server, on a finished one, and where something is in the way."""

from uuid import uuid4

import pytest

from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.setup import SetUpRefused, VaultSetup, policy
from app.secret_store.vault.store import VaultMounts
from tests.integration.secret_store.server import RealServer
from tests.integration.secret_store.vaults import Prepared, prepared_vault


class TestSetUp:
    async def test_tells_each_step_and_no_secret(self, any_vault: Prepared) -> None:
        lines: list[str] = []
        mounts = VaultMounts(kv=f"kv-{uuid4().hex[:8]}", transit=f"transit-{uuid4().hex[:8]}")

        async with any_vault.session() as session:
            role_ids = await VaultSetup(session, mounts, prefix=mounts.kv, progress=lines.append).run()

        assert f"mounted kv at {mounts.kv}/" in lines
        assert f"wrote the policy {mounts.kv}-writer" in lines
        assert not any(secret in line for line in lines for secret in (*role_ids.values(), "s."))

    async def test_repeated_changes_nothing(self, any_vault: Prepared) -> None:
        lines: list[str] = []

        async with any_vault.session() as session:
            role_ids = await VaultSetup(
                session, any_vault.mounts, prefix=any_vault.prefix, progress=lines.append
            ).run()

        assert role_ids == any_vault.role_ids
        assert not any(line.startswith(("mounted", "made", "enabled")) for line in lines)

    async def test_mends_a_mount_that_keeps_too_few_versions(self, any_vault: Prepared) -> None:
        await any_vault.write(f"{any_vault.mounts.kv}/config", max_versions=5, cas_required=True)
        async with any_vault.store() as store:
            with pytest.raises(VaultUnavailable) as refusal:
                await store.ping()

            async with any_vault.session() as session:
                await VaultSetup(session, any_vault.mounts, prefix=any_vault.prefix).run()

            assert refusal.value.reason is VaultReason.NOT_SET_UP
            await store.ping()

    async def test_leaves_another_engine_alone(self, any_vault: Prepared) -> None:
        crossed = VaultMounts(kv=any_vault.mounts.transit, transit=any_vault.mounts.kv)

        async with any_vault.session() as session:
            with pytest.raises(SetUpRefused, match=any_vault.mounts.transit):
                await VaultSetup(session, crossed, prefix=any_vault.prefix).run()

    async def test_leaves_a_key_of_another_kind_alone(self, any_vault: Prepared) -> None:
        mounts = VaultMounts(kv=any_vault.mounts.kv, transit=f"transit-{uuid4().hex[:8]}")
        await any_vault.write(f"sys/mounts/{mounts.transit}", type="transit")
        await any_vault.write(f"{mounts.transit}/keys/fingerprint", type="aes256-gcm96")

        async with any_vault.session() as session:
            with pytest.raises(SetUpRefused, match="fingerprint"):
                await VaultSetup(session, mounts, prefix=any_vault.prefix).run()

    async def test_needs_the_rights_for_it(self, prepared: Prepared) -> None:
        async with prepared.session(await prepared.login(VaultRole.WRITER)) as session:
            with pytest.raises(VaultUnavailable) as refusal:
                await VaultSetup(session, prepared.mounts, prefix=prepared.prefix).run()

        assert refusal.value.reason is VaultReason.PERMISSION_DENIED

    async def test_works_in_a_namespace(self, vault_server: RealServer, prepared: Prepared) -> None:
        name = f"team-{uuid4().hex[:8]}"
        try:
            await prepared.write(f"sys/namespaces/{name}")
        except VaultUnavailable:
            pytest.skip("this server has no namespaces")

        async with (
            prepared_vault(vault_server.address, vault_server.token, namespace=name) as inside,
            inside.store(await inside.logins()) as store,
        ):
            await store.ping()


class TestPolicies:
    @pytest.mark.parametrize("role", VaultRole)
    def test_name_the_mounts_given(self, role: VaultRole) -> None:
        text = policy(role, VaultMounts(kv="here", transit="there"))

        assert "${" not in text
        assert 'path "there/' in text
        assert "byok" not in text.partition("path ")[2]
