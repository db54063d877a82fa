"""`byok vault-setup`: creates mounts, keys, policies and AppRole roles in Vault. Repeating it changes nothing."""

import re
from collections.abc import Callable, Mapping
from importlib import resources
from string import Template
from types import MappingProxyType
from typing import Any, Final

from app.secret_store.vault.client import VaultRequest
from app.secret_store.vault.engines import (
    FINGERPRINT_KEY,
    KEPT_VERSIONS,
    ORGANIZATION_KEY_TYPE,
    PING_KEY,
    VaultMounts,
)
from app.secret_store.vault.responses import VaultResponse, expect_success, text_field
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.session import VaultSession

_NOT_FOUND = 404
_FORBIDDEN = 403
# The mounts for which a policy of the writer was written: KV and transit.
_MOUNTS_IN_POLICY = (re.compile(r'path "(.+)/config"'), re.compile(rf'path "(.+)/encrypt/{PING_KEY}"'))
_TOKEN_TTL = "1h"  # noqa: S105  # a duration
_TOKEN_MAX_TTL = "24h"  # noqa: S105
_TRANSIT_KEYS: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        FINGERPRINT_KEY: {"type": "hmac", "key_size": 32},
        PING_KEY: {"type": ORGANIZATION_KEY_TYPE},
    }
)


class SetUpRefused(Exception):
    """What the setup would create already exists, for another purpose. The setup does not change it.

    Attributes:
        path: the mount or key of another type; None for a policy of another installation.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path

    @classmethod
    def for_path(cls, path: str) -> "SetUpRefused":
        """A path that the setup needs holds a mount or key of another type."""
        return cls(
            f"{path} already exists and has another type. Choose another path, or remove it.", path=path
        )


def policy(role: VaultRole, mounts: VaultMounts) -> str:
    """The text of a role's policy for these mounts."""
    file = resources.files("app.secret_store.vault").joinpath("policies", f"{role}.hcl")
    return Template(file.read_text(encoding="utf-8")).substitute(
        kv_mount=mounts.kv, transit_mount=mounts.transit
    )


class VaultSetup:
    """One run of the setup.

    Args:
        session: logged in with permission to mount engines and write policies.
        mounts: where to mount the engines.
        prefix: starts the names of policies and AppRole roles.
        progress: called with one line for each step. The lines hold no secrets.
    """

    def __init__(
        self,
        session: VaultSession,
        mounts: VaultMounts,
        *,
        prefix: str = "byok",
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._session = session
        self._mounts = mounts
        self._prefix = prefix
        self._progress = progress

    async def run(self) -> Mapping[VaultRole, str]:
        """Set up the server. Returns each role's AppRole role id; the operator creates the secret ids.

        Raises:
            SetUpRefused: a mount or key of another type is at a path that the setup needs, or the policies are those of
                another installation.
            VaultUnavailable
        """
        await self._check_policy()
        await self._mount(self._mounts.kv, "kv", version="2")
        await self._configure_kv()
        await self._mount(self._mounts.transit, "transit")
        await self._write(f"{self._mounts.transit}/config/keys", disable_upsert=True)
        for name, options in _TRANSIT_KEYS.items():
            await self._create_key(name, options)
        for role in VaultRole:
            await self._write_policy(role)
        await self._enable_approle()
        return {role: await self._write_role(role) for role in VaultRole}

    async def _check_policy(self) -> None:
        """Refuse to replace the policies of an installation with other mounts, whose roles would lose all permissions."""
        name = self._name(VaultRole.WRITER)
        response = expect_success(
            await self._call(lambda vault: vault.read(f"sys/policies/acl/{name}")), _NOT_FOUND, _FORBIDDEN
        )
        if response.is_denied:
            self._progress(f"cannot read the policy {name}, so it is replaced whatever its mounts are")
            return
        found = [pattern.search(str(response.data.get("policy", ""))) for pattern in _MOUNTS_IN_POLICY]
        mounts = tuple(match[1] for match in found if match is not None)
        if len(mounts) == len(found) and mounts != (self._mounts.kv, self._mounts.transit):
            msg = (
                f"the policy {name} already exists for the mounts {' and '.join(mounts)}. If they are this installation's, set"
                f" BYOK_VAULT__KV_MOUNT={mounts[0]} and BYOK_VAULT__TRANSIT_MOUNT={mounts[1]}. If another installation uses"
                " them, run byok vault-setup --prefix with another name."
            )
            raise SetUpRefused(msg)

    async def _mount(self, path: str, engine: str, **options: str) -> None:
        response = expect_success(await self._call(lambda vault: vault.read("sys/mounts")))
        existing: Any = response.data.get(f"{path}/")
        if existing is None:
            await self._write(f"sys/mounts/{path}", type=engine, options=options)
            self._progress(f"mounted {engine} at {path}/")
            return
        if existing.get("type") != engine or options.items() - (existing.get("options") or {}).items():
            raise SetUpRefused.for_path(path)
        self._progress(f"{engine} is mounted at {path}/")

    async def _configure_kv(self) -> None:
        path = f"{self._mounts.kv}/config"
        config = expect_success(await self._call(lambda vault: vault.read(path))).data
        kept = config.get("max_versions", 0)
        if kept < KEPT_VERSIONS or not config.get("cas_required"):
            await self._write(path, max_versions=max(kept, KEPT_VERSIONS), cas_required=True)
        self._progress(
            f"{self._mounts.kv}/ keeps {max(kept, KEPT_VERSIONS)} versions and requires check-and-set"
        )

    async def _create_key(self, name: str, options: Mapping[str, object]) -> None:
        path = f"{self._mounts.transit}/keys/{name}"
        found = expect_success(await self._call(lambda vault: vault.read(path)), _NOT_FOUND)
        if found.status == _NOT_FOUND:
            await self._write(path, **options)
            self._progress(f"created the transit key {name}")
            return
        if text_field(found, "type") != options["type"]:
            raise SetUpRefused.for_path(path)
        self._progress(f"the transit key {name} exists")

    async def _write_policy(self, role: VaultRole) -> None:
        name, text = self._name(role), policy(role, self._mounts)
        expect_success(await self._call(lambda vault: vault.sys.create_or_update_acl_policy(name, text)))
        self._progress(f"wrote the policy {name}")

    async def _enable_approle(self) -> None:
        methods = expect_success(await self._call(lambda vault: vault.read("sys/auth"))).data
        if "approle/" not in methods:
            await self._write("sys/auth/approle", type="approle")
            self._progress("enabled AppRole")

    async def _write_role(self, role: VaultRole) -> str:
        name = self._name(role)
        await self._write(
            f"auth/approle/role/{name}",
            token_policies=[name],
            token_no_default_policy=True,
            token_ttl=_TOKEN_TTL,
            token_max_ttl=_TOKEN_MAX_TTL,
        )
        response = expect_success(
            await self._call(lambda vault: vault.read(f"auth/approle/role/{name}/role-id"))
        )
        self._progress(f"wrote the AppRole role {name}")
        return text_field(response, "role_id")

    def _name(self, role: VaultRole) -> str:
        return f"{self._prefix}-{role}"

    async def _write(self, path: str, /, **data: object) -> None:
        expect_success(await self._call(lambda vault: vault.write_data(path, data=data)))

    async def _call(self, request: VaultRequest) -> VaultResponse:
        return await self._session.call(request)
