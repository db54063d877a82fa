"""`byok vault-setup` on an empty server, on a server that is set up, and with conflicting mounts and keys."""

from uuid import uuid4

import pytest

from app.secret_store.vault.engines import VaultMounts
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.setup import SetUpRefused, VaultSetup, policy
from tests.support.vault.prepared import PreparedVault, prepared_vault
from tests.support.vault.real_server import RealServer


class TestSetUp:
    async def test_reports_each_step_without_secrets(self, any_vault: PreparedVault) -> None:
        lines: list[str] = []
        mounts = VaultMounts(kv=f"kv-{uuid4().hex[:8]}", transit=f"transit-{uuid4().hex[:8]}")

        async with any_vault.session() as session:
            role_ids = await VaultSetup(session, mounts, prefix=mounts.kv, progress=lines.append).run()

        assert f"mounted kv at {mounts.kv}/" in lines
        assert f"wrote the policy {mounts.kv}-writer" in lines
        assert not any(secret in line for line in lines for secret in (*role_ids.values(), "s."))

    async def test_repeated_changes_nothing(self, any_vault: PreparedVault) -> None:
        lines: list[str] = []

        async with any_vault.session() as session:
            role_ids = await VaultSetup(
                session, any_vault.mounts, prefix=any_vault.prefix, progress=lines.append
            ).run()

        assert role_ids == any_vault.role_ids
        assert not any(line.startswith(("mounted", "created", "enabled")) for line in lines)

    async def test_raises_max_versions_of_an_existing_mount(self, any_vault: PreparedVault) -> None:
        await any_vault.write(f"{any_vault.mounts.kv}/config", max_versions=5, cas_required=True)
        async with any_vault.store() as store:
            with pytest.raises(VaultUnavailable) as refusal:
                await store.ping()

            async with any_vault.session() as session:
                await VaultSetup(session, any_vault.mounts, prefix=any_vault.prefix).run()

            assert refusal.value.reason is VaultReason.NOT_SET_UP
            await store.ping()

    async def test_refuses_a_mount_of_another_engine(self, any_vault: PreparedVault) -> None:
        crossed = VaultMounts(kv=any_vault.mounts.transit, transit=any_vault.mounts.kv)

        async with any_vault.session() as session:
            with pytest.raises(SetUpRefused, match=any_vault.mounts.transit):
                await VaultSetup(session, crossed, prefix=f"{any_vault.prefix}-crossed").run()

    async def test_refuses_a_key_of_another_type(self, any_vault: PreparedVault) -> None:
        mounts = VaultMounts(kv=any_vault.mounts.kv, transit=f"transit-{uuid4().hex[:8]}")
        await any_vault.write(f"sys/mounts/{mounts.transit}", type="transit")
        await any_vault.write(f"{mounts.transit}/keys/fingerprint", type="aes256-gcm96")

        async with any_vault.session() as session:
            with pytest.raises(SetUpRefused, match="fingerprint"):
                await VaultSetup(session, mounts, prefix=mounts.transit).run()

    async def test_refuses_to_replace_the_policies_of_another_installation(
        self, any_vault: PreparedVault
    ) -> None:
        """Its roles would lose all their permissions."""
        mounts = VaultMounts(kv=f"kv-{uuid4().hex[:8]}", transit=f"transit-{uuid4().hex[:8]}")

        async with any_vault.session() as session:
            with pytest.raises(SetUpRefused, match="run byok vault-setup --prefix") as refusal:
                await VaultSetup(session, mounts, prefix=any_vault.prefix).run()
            await VaultSetup(session, mounts, prefix=mounts.kv).run()

        assert f"{any_vault.mounts.kv} and {any_vault.mounts.transit}" in str(refusal.value)
        async with any_vault.store(await any_vault.logins()) as store:
            await store.ping()

    async def test_fails_without_permission(self, real_vault: PreparedVault) -> None:
        async with real_vault.session(await real_vault.login(VaultRole.WRITER)) as session:
            with pytest.raises(VaultUnavailable) as refusal:
                await VaultSetup(session, real_vault.mounts, prefix=real_vault.prefix).run()

        assert refusal.value.reason is VaultReason.PERMISSION_DENIED

    async def test_works_in_a_namespace(self, vault_server: RealServer, real_vault: PreparedVault) -> None:
        name = f"team-{uuid4().hex[:8]}"
        try:
            await real_vault.write(f"sys/namespaces/{name}")
        except VaultUnavailable:
            pytest.skip("this server has no namespaces")

        async with (
            prepared_vault(vault_server.address, vault_server.token, namespace=name) as inside,
            inside.store(await inside.logins()) as store,
        ):
            await store.ping()


class TestPolicies:
    @pytest.mark.parametrize("role", VaultRole)
    def test_use_the_configured_mounts(self, role: VaultRole) -> None:
        text = policy(role, VaultMounts(kv="here", transit="there"))

        assert "${" not in text
        assert 'path "there/' in text
        assert "byok" not in text.partition("path ")[2]
