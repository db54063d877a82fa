"""Who does what in Vault: a log-in for each role, so that processes can be given one each."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.session import VaultLogin, VaultSession
from app.settings.environment import SettingsRefused, VaultSettings

_KUBERNETES_JWT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
# What each way of logging in cannot do without. The names are those of the settings.
_NEEDED = {
    "token": ("token",),
    "approle": ("role_id", "secret_id"),
    "kubernetes": ("role",),
    "jwt": ("role", "jwt_file"),
}


class VaultRole(StrEnum):
    """Each has a policy in docs/vault/policies; none can do another's work."""

    WRITER = "writer"  # seals, and can never unseal
    BROKER = "broker"  # hands keys over wrapped, and never sees them
    PROBER = "prober"  # unseals for egress
    SWEEPER = "sweeper"  # tombstones, destroys, rewraps
    PROVISIONER = "provisioner"  # makes organizations' transit keys


class VaultSessions:
    """A session for each role; roles with the same log-in share one."""

    def __init__(self, server: VaultServer, logins: Mapping[VaultRole, VaultLogin]) -> None:
        self._server = server
        of_login = {login: VaultSession(server, login) for login in logins.values()}
        self._of_role = {role: of_login[login] for role, login in logins.items()}

    def __getitem__(self, role: VaultRole) -> VaultSession:
        return self._of_role[role]

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in set(self._of_role.values())))
        self._server.close()


def logins_of(settings: VaultSettings) -> dict[VaultRole, VaultLogin]:
    """`BYOK_VAULT__ROLES__<ROLE>__...` where set, else what stands under `BYOK_VAULT__...`.

    Raises:
        SettingsRefused
    """
    unknown = settings.roles.keys() - set(VaultRole)
    if unknown:
        raise SettingsRefused.of(
            "VAULT__ROLES", f"there are {', '.join(VaultRole)}; one that is set is none of them"
        )
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
    else:
        missing = [name for name in _NEEDED[settings.auth_method] if getattr(settings, name) is None]
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
            prefix + missing[0].upper(), f"needed to log in to Vault by {settings.auth_method}"
        )
    raise SettingsRefused.of(prefix + name.upper(), "is not what this setting needs")
