"""Vault or OpenBao as the secret store. Imported only if its address is set, because its client is slow to import."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.roles import VaultRole, VaultSessions, logins_from_settings
from app.secret_store.vault.session import VaultSession
from app.secret_store.vault.setup import SetUpRefused, VaultSetup
from app.secret_store.vault.store import VaultMounts, VaultSecretStore
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings


def open_vault(settings: Settings, resources: AsyncExitStack) -> VaultSecretStore:
    """The secret store at BYOK_VAULT__ADDRESS.

    Raises:
        SettingsRefused
    """
    store = VaultSecretStore(
        VaultSessions(vault_server(settings), logins_from_settings(settings.vault)), vault_mounts(settings)
    )
    resources.push_async_callback(store.close)
    return store


def vault_server(settings: Settings) -> VaultServer:
    """The Vault server at BYOK_VAULT__ADDRESS."""
    assert settings.vault.address is not None
    return VaultServer(settings.vault.address, ca_file=settings.vault.ca_file)


def vault_mounts(settings: Settings) -> VaultMounts:
    return VaultMounts(kv=settings.vault.kv_mount, transit=settings.vault.transit_mount)


async def set_up_vault(settings: Settings, progress: Callable[[str], None]) -> Mapping[str, str]:
    """Create engines, keys, policies and roles on the Vault server; returns the role ids by role.

    Raises:
        SettingsRefused: no address is set, the login lacks a permission, or the server has conflicting objects.
    """
    if settings.vault.address is None:
        raise SettingsRefused.of("VAULT__ADDRESS", "set it to the address of the Vault server")
    server = vault_server(settings)
    session = VaultSession(server, logins_from_settings(settings.vault)[VaultRole.PROVISIONER])
    try:
        found = await VaultSetup(session, vault_mounts(settings), progress=progress).run()
    except SetUpRefused as error:
        raise SettingsRefused.of("VAULT__KV_MOUNT", str(error)) from None
    except VaultUnavailable as error:
        raise SettingsRefused.of("VAULT__ADDRESS", f"the setup of Vault failed: {error.reason}") from None
    finally:
        await session.close()
        server.close()
    return {str(role): role_id for role, role_id in found.items()}


async def vault_login_problems(settings: Settings) -> dict[str, VaultReason]:
    """The roles that cannot log in to Vault, with the reasons, for `byok doctor`.

    Raises:
        SettingsRefused: a login lacks a setting.
    """
    server = vault_server(settings)
    sessions = VaultSessions(server, logins_from_settings(settings.vault))
    problems: dict[str, VaultReason] = {}
    try:
        for role in VaultRole:
            try:
                await sessions[role].call(lambda vault: vault.auth.token.lookup_self())
            except VaultUnavailable as error:
                problems[str(role)] = error.reason
    finally:
        await sessions.close()
    return problems
