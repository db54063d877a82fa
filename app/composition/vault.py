"""Vault or OpenBao as the secret store. Imported only if its address is set, because its client is slow to import."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Final

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.engines import VaultMounts
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.roles import VaultRole, VaultSessions, logins_from_settings
from app.secret_store.vault.session import VaultSession
from app.secret_store.vault.setup import SetUpRefused, VaultSetup
from app.secret_store.vault.store import VaultSecretStore
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings

_MOUNTS = "BYOK_VAULT__KV_MOUNT, BYOK_VAULT__TRANSIT_MOUNT and BYOK_VAULT__NAMESPACE"
FIXES: Final[Mapping[VaultReason, str]] = MappingProxyType(
    {
        VaultReason.UNREACHABLE: "check BYOK_VAULT__ADDRESS, BYOK_VAULT__CA_FILE and the network",
        VaultReason.TIMEOUT: "check BYOK_VAULT__ADDRESS and the network",
        VaultReason.SEALED: "run `operator unseal` on the Vault server",
        VaultReason.STANDBY: "set BYOK_VAULT__ADDRESS to the active server or to the load balancer before the servers",
        VaultReason.QUOTA: "raise the rate limit quota of the Vault server",
        VaultReason.TOKEN_REVOKED: "set a valid token, and check BYOK_VAULT__NAMESPACE",
        VaultReason.LOGIN_REFUSED: "check the role's id, secret id or JWT, and BYOK_VAULT__NAMESPACE",
        VaultReason.PERMISSION_DENIED: f"check {_MOUNTS}, and run byok vault-setup, with the same --prefix as before, which writes the policies again",
        VaultReason.MOUNT_MISSING: f"check {_MOUNTS}, and run byok vault-setup, which mounts what is missing",
        VaultReason.NOT_SET_UP: f"run byok vault-setup, and check {_MOUNTS}",
        VaultReason.UNEXPECTED: "check that BYOK_VAULT__ADDRESS is that of a Vault server",
    }
)
# `byok vault-setup` needs other permissions than the roles.
_SETUP_FIXES: Final[Mapping[VaultReason, str]] = MappingProxyType(
    {
        **FIXES,
        VaultReason.PERMISSION_DENIED: "log in with a token that may mount engines, write policies and enable AppRole:"
        " set BYOK_VAULT__AUTH_METHOD=token and BYOK_VAULT__TOKEN, and unset BYOK_VAULT__ROLES__PROVISIONER__...",
        VaultReason.MOUNT_MISSING: "check BYOK_VAULT__NAMESPACE",
    }
)


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


async def set_up_vault(
    settings: Settings, progress: Callable[[str], None], *, prefix: str = "byok"
) -> Mapping[str, str]:
    """Create engines, keys, policies and roles on the Vault server; returns the role ids by role.

    The names of policies and AppRole roles begin with the prefix.

    Raises:
        SettingsRefused: no address is set, the login lacks a permission, or the server has conflicting objects.
    """
    if settings.vault.address is None:
        raise SettingsRefused.of("VAULT__ADDRESS", "set it to the address of the Vault server")
    server = vault_server(settings)
    session = VaultSession(server, logins_from_settings(settings.vault)[VaultRole.PROVISIONER])
    try:
        found = await VaultSetup(session, vault_mounts(settings), prefix=prefix, progress=progress).run()
    except SetUpRefused as error:
        mounts = vault_mounts(settings)
        variable = "VAULT__KV_MOUNT" if error.path in {mounts.kv, None} else "VAULT__TRANSIT_MOUNT"
        raise SettingsRefused.of(variable, str(error)) from None
    except VaultUnavailable as error:
        raise SettingsRefused.of(
            "VAULT__ADDRESS", f"the setup of Vault failed: {error.reason}; {_SETUP_FIXES[error.reason]}"
        ) from None
    finally:
        await session.close()
        server.close()
    return {str(role): role_id for role, role_id in found.items()}
