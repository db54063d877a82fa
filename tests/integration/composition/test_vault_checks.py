"""What `byok doctor` and `byok vault-setup` say about a Vault that is not set up as they need."""

from typing import Any

import pytest

from app.composition.vault import set_up_vault
from app.composition.vault_checks import vault_problems
from app.secret_store.vault.permissions import _PROBES
from app.secret_store.vault.roles import VaultRole
from app.settings.environment import SettingsRefused, load_settings
from app.settings.settings import Settings
from tests.support.vault.prepared import PreparedVault


async def settings_of(vault: PreparedVault, roles: dict[str, Any] | None = None, **changed: Any) -> Settings:
    """The settings of a service with a login for each role."""
    logins = {
        str(role): {"auth_method": "approle", "role_id": login.role_id, "secret_id": login.secret_id}
        for role, login in (await vault.logins()).items()
    }
    mounts = {"kv_mount": vault.mounts.kv, "transit_mount": vault.mounts.transit}
    given = {"address": vault.address, "token": "unused", "roles": logins | (roles or {})} | mounts | changed
    return load_settings(_env_file=None, vault=given)


async def token_without_policy(vault: PreparedVault) -> dict[str, str]:
    """A login with a token that may only look at itself."""
    created = await vault.as_root(lambda it: it.auth.token.create(policies=["default"]))
    return {"auth_method": "token", "token": created.auth["client_token"]}


async def problems(settings: Settings) -> list[str]:
    return [problem async for problem in vault_problems(settings)]


class TestDoctor:
    async def test_finds_nothing_after_the_setup(self, real_vault: PreparedVault) -> None:
        assert await problems(await settings_of(real_vault)) == []

    async def test_finds_nothing_with_one_token_for_all_roles(self, real_vault: PreparedVault) -> None:
        login = {"auth_method": "token", "token": real_vault.root.token}
        settings = await settings_of(real_vault, {str(role): login for role in VaultRole})

        assert await problems(settings) == []

    @pytest.mark.parametrize("role", VaultRole)
    async def test_names_a_role_whose_policy_is_missing(
        self, real_vault: PreparedVault, role: VaultRole
    ) -> None:
        login = await token_without_policy(real_vault)

        (problem,) = await problems(await settings_of(real_vault, {str(role): login}))

        assert problem.startswith(f"the role {role} may not use ")
        shown = {probe.shown(real_vault.mounts) for probe in _PROBES[role]}
        assert all(path in problem for path in shown)
        assert problem.endswith(
            "run byok vault-setup, with the same --prefix as before, which writes the policies again"
        )

    @pytest.mark.parametrize("setting", ["kv_mount", "transit_mount"])
    async def test_names_the_settings_of_a_wrong_mount(self, real_vault: PreparedVault, setting: str) -> None:
        found = await problems(await settings_of(real_vault, None, **{setting: "elsewhere"}))

        assert all("elsewhere/" in problem for problem in found)
        assert all(f"BYOK_VAULT__{setting.upper()}" in problem for problem in found)
        assert len(found) == (4 if setting == "kv_mount" else 5)

    async def test_names_the_settings_of_a_wrong_mount_with_a_token_that_may_do_everything(
        self, real_vault: PreparedVault
    ) -> None:
        login = {"auth_method": "token", "token": real_vault.root.token}
        roles = {str(role): login for role in VaultRole}

        (problem,) = await problems(await settings_of(real_vault, roles, kv_mount="elsewhere"))

        assert problem.startswith("the server cannot be used: mount_missing; check BYOK_VAULT__KV_MOUNT")

    async def test_names_a_server_that_does_not_listen_once(self, real_vault: PreparedVault) -> None:
        (problem,) = await problems(await settings_of(real_vault, address="http://127.0.0.1:1"))

        assert problem == (
            "the server cannot be used: unreachable; check BYOK_VAULT__ADDRESS, BYOK_VAULT__CA_FILE and the network"
        )

    async def test_names_each_role_whose_login_is_refused(self, real_vault: PreparedVault) -> None:
        refused = {"auth_method": "approle", "role_id": "none", "secret_id": "none"}

        found = await problems(await settings_of(real_vault, {"broker": refused, "prober": refused}))

        assert [problem.partition(":")[0] for problem in found] == [
            "the role broker cannot log in",
            "the role prober cannot log in",
        ]

    async def test_changes_nothing_on_the_server(self, real_vault: PreparedVault) -> None:
        async def content() -> list[Any]:
            paths = (f"{real_vault.mounts.transit}/keys", f"{real_vault.mounts.kv}/metadata/orgs")
            lists = [await real_vault.as_root(lambda it, path=path: it.list(path), 404) for path in paths]  # type: ignore[misc]  # bound now
            return [found.data.get("keys") for found in lists]

        before = await content()

        login = {"auth_method": "token", "token": real_vault.root.token}
        await problems(await settings_of(real_vault, {str(role): login for role in VaultRole}))
        await problems(await settings_of(real_vault))

        assert await content() == before


class TestSetUp:
    async def test_says_which_login_it_needs(self, real_vault: PreparedVault) -> None:
        """With the settings of the service, the setup logs in as a role."""
        settings = await settings_of(real_vault)

        with pytest.raises(SettingsRefused) as refusal:
            await set_up_vault(settings, lambda _line: None)

        assert str(refusal.value).startswith(
            "BYOK_VAULT__ADDRESS: the setup of Vault failed: permission_denied; "
        )
        assert "set BYOK_VAULT__AUTH_METHOD=token and BYOK_VAULT__TOKEN" in str(refusal.value)

    async def test_names_the_setting_of_a_mount_of_another_type(self, real_vault: PreparedVault) -> None:
        login = {"auth_method": "token", "token": real_vault.root.token}
        settings = await settings_of(
            real_vault,
            {"provisioner": login},
            transit_mount=real_vault.mounts.kv,
            kv_mount=f"{real_vault.mounts.kv}-2",
        )

        with pytest.raises(SettingsRefused) as refusal:
            await set_up_vault(settings, lambda _line: None)

        assert str(refusal.value).startswith("BYOK_VAULT__TRANSIT_MOUNT: ")
