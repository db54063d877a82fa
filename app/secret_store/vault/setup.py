"""What `byok vault-setup` does on a Vault: mounts, keys, policies and AppRole roles. Repeating it changes nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, Final

from app.secret_store.vault.client import Question
from app.secret_store.vault.engines import FINGERPRINT_KEY, KEPT_VERSIONS, ORGANIZATION_KEY_TYPE, PING_KEY
from app.secret_store.vault.responses import Answer, expect, part
from app.secret_store.vault.roles import VaultRole
from app.secret_store.vault.session import VaultSession
from app.secret_store.vault.store import VaultMounts

POLICIES = Path(__file__).parents[3] / "docs" / "vault" / "policies"

_NOT_FOUND = 404
_TOKEN_TTL = "1h"  # noqa: S105  # a duration
_TOKEN_MAX_TTL = "24h"  # noqa: S105
_KEYS: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        FINGERPRINT_KEY: {"type": "hmac", "key_size": 32},
        PING_KEY: {"type": ORGANIZATION_KEY_TYPE},
    }
)


class SetUpRefused(Exception):
    """Something is in the way that must not be changed."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is there already and is of another kind. Choose another path, or remove it."
        )


def policy(role: VaultRole, mounts: VaultMounts) -> str:
    """A role's policy for these mounts."""
    text = (POLICIES / f"{role}.hcl").read_text(encoding="utf-8")
    return Template(text).substitute(kv_mount=mounts.kv, transit_mount=mounts.transit)


class VaultSetup:
    """One run.

    Args:
        session: logged in as somebody who may mount engines and write policies.
        mounts: where to mount the engines.
        prefix: begins the names of policies and AppRole roles.
        progress: told each step, in words without secrets.
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
        """The AppRole role id of each role. Secret ids are for the operator to fetch.

        Raises:
            SetUpRefused
            VaultUnavailable
        """
        await self._mount(self._mounts.kv, "kv", version="2")
        await self._configure_kv()
        await self._mount(self._mounts.transit, "transit")
        await self._do(f"{self._mounts.transit}/config/keys", disable_upsert=True)
        for name, kind in _KEYS.items():
            await self._make_key(name, kind)
        for role in VaultRole:
            await self._write_policy(role)
        await self._enable_approle()
        return {role: await self._make_role(role) for role in VaultRole}

    async def _mount(self, path: str, engine: str, **options: str) -> None:
        answer = expect(await self._call(lambda vault: vault.read("sys/mounts")))
        there: Any = answer.data.get(f"{path}/")
        if there is None:
            await self._do(f"sys/mounts/{path}", type=engine, options=options)
            self._progress(f"mounted {engine} at {path}/")
            return
        if there.get("type") != engine or options.items() - (there.get("options") or {}).items():
            raise SetUpRefused(path)
        self._progress(f"{engine} is mounted at {path}/")

    async def _configure_kv(self) -> None:
        path = f"{self._mounts.kv}/config"
        config = expect(await self._call(lambda vault: vault.read(path))).data
        kept = config.get("max_versions", 0)
        if kept < KEPT_VERSIONS or not config.get("cas_required"):
            await self._do(path, max_versions=max(kept, KEPT_VERSIONS), cas_required=True)
        self._progress(
            f"{self._mounts.kv}/ keeps {max(kept, KEPT_VERSIONS)} versions and requires check-and-set"
        )

    async def _make_key(self, name: str, kind: Mapping[str, object]) -> None:
        path = f"{self._mounts.transit}/keys/{name}"
        found = expect(await self._call(lambda vault: vault.read(path)), _NOT_FOUND)
        if found.status == _NOT_FOUND:
            await self._do(path, **kind)
            self._progress(f"made the transit key {name}")
            return
        if part(found, "type") != kind["type"]:
            raise SetUpRefused(path)
        self._progress(f"the transit key {name} is there")

    async def _write_policy(self, role: VaultRole) -> None:
        name, text = self._name(role), policy(role, self._mounts)
        expect(await self._call(lambda vault: vault.sys.create_or_update_acl_policy(name, text)))
        self._progress(f"wrote the policy {name}")

    async def _enable_approle(self) -> None:
        methods = expect(await self._call(lambda vault: vault.read("sys/auth"))).data
        if "approle/" not in methods:
            await self._do("sys/auth/approle", type="approle")
            self._progress("enabled AppRole")

    async def _make_role(self, role: VaultRole) -> str:
        name = self._name(role)
        await self._do(
            f"auth/approle/role/{name}",
            token_policies=[name],
            token_no_default_policy=True,
            token_ttl=_TOKEN_TTL,
            token_max_ttl=_TOKEN_MAX_TTL,
        )
        answer = expect(await self._call(lambda vault: vault.read(f"auth/approle/role/{name}/role-id")))
        self._progress(f"wrote the AppRole role {name}")
        return part(answer, "role_id")

    def _name(self, role: VaultRole) -> str:
        return f"{self._prefix}-{role}"

    async def _do(self, path: str, /, **data: object) -> None:
        expect(await self._call(lambda vault: vault.write_data(path, data=data)))

    async def _call(self, question: Question) -> Answer:
        return await self._session.call(question)
