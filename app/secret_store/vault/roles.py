"""The roles in Vault, each with a separate login, so that processes can be given only the roles they need."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.session import VaultLogin, VaultSession
from app.settings.environment import SettingsRefused
from app.settings.groups.storage import VaultSettings
from app.settings.invalid_values import lines_of

_KUBERNETES_JWT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
# The settings that each login method requires.
_REQUIRED_SETTINGS = {
    "token": ("token",),
    "approle": ("role_id", "secret_id"),
    "kubernetes": ("role",),
    "jwt": ("role", "jwt_file"),
}


# What the login of one role may have. The rest is the same for all roles.
_LOGIN_SETTINGS = ("auth_method", "namespace", "token", "role_id", "secret_id", "role", "jwt_file")


class VaultRole(StrEnum):
    """The roles. Each has a policy in `policies/`; no role can do another's work."""

    WRITER = "writer"  # encrypts, and cannot decrypt
    BROKER = "broker"  # hands out wrapped keys, and cannot read them
    PROBER = "prober"  # decrypts for egress, and to compare a key with a text
    SWEEPER = "sweeper"  # reconciles interrupted writes: tombstones, destruction, rewrapping
    PROVISIONER = "provisioner"  # creates and rotates the organizations' transit keys


class VaultSessions:
    """A session for each role. Roles with the same login share one."""

    def __init__(self, server: VaultServer, logins: Mapping[VaultRole, VaultLogin]) -> None:
        self._server = server
        by_login = {login: VaultSession(server, login) for login in logins.values()}
        self._by_role = {role: by_login[login] for role, login in logins.items()}

    def __getitem__(self, role: VaultRole) -> VaultSession:
        return self._by_role[role]

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in set(self._by_role.values())))
        self._server.close()


def logins_from_settings(settings: VaultSettings) -> dict[VaultRole, VaultLogin]:
    """The login of each role: `BYOK_VAULT__ROLES__<ROLE>__...` over the general `BYOK_VAULT__...`.

    Raises:
        SettingsRefused: a role or a setting of a role is unknown, or a login lacks a setting.
    """
    unknown = settings.roles.keys() - set(VaultRole)
    if unknown:
        raise SettingsRefused.of("VAULT__ROLES", f"unknown role; the roles are {', '.join(VaultRole)}")
    known = set(_LOGIN_SETTINGS)
    for variable in (
        f"VAULT__ROLES__{role.upper()}" for role, login in settings.roles.items() if login.keys() - known
    ):
        raise SettingsRefused.of(variable, f"unknown setting; the settings are {', '.join(_LOGIN_SETTINGS)}")
    general = settings.model_dump(exclude={"roles"})
    return {
        role: _login(general | settings.roles[role], f"VAULT__ROLES__{role.upper()}__")
        if role in settings.roles
        else _login(general, "VAULT__")
        for role in VaultRole
    }


def _login(values: Mapping[str, object], prefix: str) -> VaultLogin:
    try:
        settings = VaultSettings.model_validate(values)
    except ValidationError as error:
        name = str(error.errors(include_input=False, include_context=False)[0]["loc"][0])
        sentence = next(lines_of(error)).partition(": ")[2]
    else:
        missing = [name for name in _REQUIRED_SETTINGS[settings.auth_method] if not getattr(settings, name)]
        if not missing:
            return VaultLogin(
                method=settings.auth_method,
                namespace=settings.namespace,
                token=settings.token.get_secret_value() if settings.token else "",
                role_id=settings.role_id or "",
                secret_id=settings.secret_id.get_secret_value() if settings.secret_id else "",
                role=settings.role or "",
                jwt_file=settings.jwt_file or _KUBERNETES_JWT,
            )
        raise SettingsRefused.of(
            prefix + missing[0].upper(), f"required to log in to Vault with {settings.auth_method}"
        )
    raise SettingsRefused.of(prefix + name.upper(), sentence)
