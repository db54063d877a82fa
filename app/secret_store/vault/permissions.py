"""Finds out which permissions each role lacks, with requests that change nothing on the server.

They name secrets and keys that do not exist. With the permission, Vault says that; without it, it denies the request.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import hvac

from app.secret_store.vault.engines import FINGERPRINT_KEY, PING_KEY, VaultMounts
from app.secret_store.vault.roles import VaultRole, VaultSessions

# Ids of organizations do not begin with an underscore, except those of the service itself, which are others.
_ABSENT = "_absent"
_CIPHERTEXT = "vault:v1:" + b64encode(b"no ciphertext").decode()
_EMPTY = b64encode(b"").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A request. The path has `{kv}`, `{transit}` and, for what does not exist, `{absent}`. Without a body, it reads."""

    path: str
    body: Mapping[str, Any] | None = None
    wrap_ttl: str | None = None

    def send(self, vault: hvac.Client, mounts: VaultMounts) -> object:
        path = self.path.format(kv=mounts.kv, transit=mounts.transit, absent=_ABSENT)
        if self.body is None:
            return vault.read(path)
        return vault.write_data(path, data=dict(self.body), wrap_ttl=self.wrap_ttl)

    def shown(self, mounts: VaultMounts) -> str:
        """The path as in a policy: `*` only for the rest of a name, `+` for a whole name."""
        path = self.path.replace("org.{absent}", "org.*")
        return path.format(kv=mounts.kv, transit=mounts.transit, absent="+")


def _secrets(operation: str, body: Mapping[str, Any] | None = None) -> tuple[_Request, ...]:
    """The same request for a key and for a signing secret."""
    return tuple(
        _Request(path=f"{{kv}}/{operation}/orgs/{{absent}}/{kind}/{{absent}}", body=body)
        for kind in ("creds", "webhooks")
    )


_DECRYPT = _Request(path="{transit}/decrypt/org.{absent}", body={"ciphertext": _CIPHERTEXT})
_READ_KEY, _ = _secrets("data")
# Nothing is written, because the secret has no version 1.
_WRITE: Mapping[str, Any] = MappingProxyType({"data": {}, "options": {"cas": 1}})
_PROBES: Final[Mapping[VaultRole, tuple[_Request, ...]]] = MappingProxyType(
    {
        VaultRole.WRITER: (
            _Request(path="{kv}/config"),
            _Request(path=f"{{transit}}/encrypt/{PING_KEY}", body={"plaintext": _EMPTY}),
            _Request(path=f"{{transit}}/hmac/{FINGERPRINT_KEY}", body={"input": _EMPTY}),
            *_secrets("data"),
            *_secrets("data", _WRITE),
            *_secrets("metadata"),
        ),
        VaultRole.BROKER: (
            _READ_KEY,
            _Request(path=_DECRYPT.path, body=_DECRYPT.body, wrap_ttl="60s"),
        ),
        VaultRole.PROBER: (*_secrets("data"), _DECRYPT),
        VaultRole.SWEEPER: (
            *_secrets("data", _WRITE),
            *_secrets("metadata"),
            *_secrets("destroy", {"versions": [1]}),
            _Request(path="{transit}/rewrap/org.{absent}", body={"ciphertext": _CIPHERTEXT}),
        ),
        # A key is only rotated, because creating one would change the server.
        VaultRole.PROVISIONER: (_Request(path="{transit}/keys/{absent}/rotate", body={}),),
    }
)


async def missing_permissions(sessions: VaultSessions, mounts: VaultMounts) -> dict[VaultRole, list[str]]:
    """The paths that each role may not use, as a policy names them. Roles that lack nothing are not in it.

    Raises:
        VaultUnavailable: Vault did not process a request.
    """
    missing: dict[VaultRole, list[str]] = {}
    for role, probes in _PROBES.items():
        for probe in probes:
            response = await sessions[role].call(lambda vault, probe=probe: probe.send(vault, mounts))  # type: ignore[misc]  # bound now
            path = probe.shown(mounts)
            if response.is_denied and path not in missing.setdefault(role, []):
                missing[role].append(path)
    return {role: paths for role, paths in missing.items() if paths}
