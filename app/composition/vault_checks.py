"""Checks of Vault for `byok doctor`."""

from collections.abc import AsyncIterator

from app.composition.vault import FIXES, vault_mounts, vault_server
from app.secret_store.vault.permissions import missing_permissions
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.roles import VaultRole, VaultSessions, logins_from_settings
from app.settings.settings import Settings

# Reasons that need not be the same for all roles.
_OF_ONE_LOGIN = (VaultReason.TOKEN_REVOKED, VaultReason.LOGIN_REFUSED, VaultReason.MOUNT_MISSING)


async def vault_problems(settings: Settings) -> AsyncIterator[str]:
    """One sentence for each role that cannot log in to Vault or lacks a permission, with what to do about it.

    Raises:
        SettingsRefused: a login lacks a setting.
    """
    sessions = VaultSessions(vault_server(settings), logins_from_settings(settings.vault))
    try:
        refused = await _login_problems(sessions)
        for role, reason in refused.items():
            yield f"the role {role} cannot log in: {reason}; {FIXES[reason]}"
        if refused:
            return
        for role, paths in (await missing_permissions(sessions, vault_mounts(settings))).items():
            yield f"the role {role} may not use {', '.join(paths)}; {FIXES[VaultReason.PERMISSION_DENIED]}"
    except VaultUnavailable as error:
        yield f"the server cannot be used: {error.reason}; {FIXES[error.reason]}"
    finally:
        await sessions.close()


async def _login_problems(sessions: VaultSessions) -> dict[VaultRole, VaultReason]:
    problems: dict[VaultRole, VaultReason] = {}
    for role in VaultRole:
        try:
            await sessions[role].call(lambda vault: vault.auth.token.lookup_self())
        except VaultUnavailable as error:
            if error.reason not in _OF_ONE_LOGIN:
                raise  # the other roles would only repeat it, each after a timeout
            problems[role] = error.reason
    return problems
