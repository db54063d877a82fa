"""Requests that the policies must deny, each with the roles that must not be able to send it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.secret_store.vault.roles import VaultRole

WRITER, BROKER, PROBER, SWEEPER, PROVISIONER = VaultRole


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """A key that is stored in Vault: the names of its mounts, its paths and its ciphertext."""

    kv: str
    transit: str
    secret: str
    transit_key: str
    ciphertext: str
    context: str

    @property
    def ciphertext_body(self) -> dict[str, object]:
        return {"ciphertext": self.ciphertext, "context": self.context}


@dataclass(frozen=True, kw_only=True)
class ForbiddenRequest:
    """A valid request that only the policy denies."""

    name: str
    roles: tuple[VaultRole, ...]
    path: str
    body: Callable[[StoredKey], Mapping[str, object]] | None = lambda _stored: {}
    method: str = "post"
    wrap_ttl: str | None = None


FORBIDDEN_REQUESTS = [
    ForbiddenRequest(
        name="decrypt",
        roles=(WRITER, BROKER, SWEEPER, PROVISIONER),
        path="{transit}/decrypt/{transit_key}",
        body=lambda stored: stored.ciphertext_body,
    ),
    ForbiddenRequest(
        name="decrypt wrapped",
        roles=(WRITER, SWEEPER, PROVISIONER),
        path="{transit}/decrypt/{transit_key}",
        body=lambda stored: stored.ciphertext_body,
        wrap_ttl="60s",
    ),
    ForbiddenRequest(
        name="wrap for an hour",
        roles=(BROKER,),
        path="{transit}/decrypt/{transit_key}",
        body=lambda stored: stored.ciphertext_body,
        wrap_ttl="1h",
    ),
    ForbiddenRequest(
        name="encrypt",
        roles=(BROKER, PROBER, SWEEPER, PROVISIONER),
        path="{transit}/encrypt/{transit_key}",
        body=lambda stored: {"plaintext": "", "context": stored.context},
    ),
    ForbiddenRequest(
        name="encrypt with a new key",
        roles=(WRITER, BROKER, PROBER, SWEEPER, PROVISIONER),
        path="{transit}/encrypt/org.unknown.key",
        body=lambda stored: {"plaintext": "", "context": stored.context},
    ),
    ForbiddenRequest(
        name="rewrap",
        roles=(WRITER, BROKER, PROBER, PROVISIONER),
        path="{transit}/rewrap/{transit_key}",
        body=lambda stored: stored.ciphertext_body,
    ),
    ForbiddenRequest(
        name="generate a data key",
        roles=tuple(VaultRole),
        path="{transit}/datakey/plaintext/{transit_key}",
        body=lambda stored: {"context": stored.context},
    ),
    ForbiddenRequest(
        name="compute a fingerprint",
        roles=(BROKER, PROBER, SWEEPER, PROVISIONER),
        path="{transit}/hmac/fingerprint",
        body=lambda _stored: {"input": ""},
    ),
    ForbiddenRequest(
        name="create a transit key",
        roles=(WRITER, BROKER, PROBER, SWEEPER),
        path="{transit}/keys/org.other.key",
        body=lambda _stored: {"type": "aes256-gcm96", "derived": True},
    ),
    ForbiddenRequest(
        name="create a transit key that can be exported",
        roles=tuple(VaultRole),
        path="{transit}/keys/org.exportable.key",
        body=lambda _stored: {"type": "aes256-gcm96", "derived": True, "exportable": True},
    ),
    ForbiddenRequest(
        name="create a transit key without context",
        roles=tuple(VaultRole),
        path="{transit}/keys/org.underived.key",
        body=lambda _stored: {"type": "aes256-gcm96", "derived": False},
    ),
    ForbiddenRequest(
        name="create a transit key of the default type",
        roles=tuple(VaultRole),
        path="{transit}/keys/org.default.key",
    ),
    ForbiddenRequest(
        name="make the transit key exportable",
        roles=tuple(VaultRole),
        path="{transit}/keys/{transit_key}/config",
        body=lambda _stored: {"exportable": True},
    ),
    ForbiddenRequest(
        name="rotate the transit key",
        roles=(WRITER, BROKER, PROBER, SWEEPER),
        path="{transit}/keys/{transit_key}/rotate",
    ),
    ForbiddenRequest(
        name="export the transit key",
        roles=tuple(VaultRole),
        path="{transit}/export/encryption-key/{transit_key}",
        method="get",
        body=None,
    ),
    ForbiddenRequest(
        name="delete the transit key",
        roles=tuple(VaultRole),
        path="{transit}/keys/{transit_key}",
        method="delete",
        body=None,
    ),
    ForbiddenRequest(
        name="read ciphertext",
        roles=(PROVISIONER,),
        path="{kv}/data/{secret}",
        method="get",
        body=None,
    ),
    ForbiddenRequest(
        name="write ciphertext",
        roles=(BROKER, PROBER, PROVISIONER),
        path="{kv}/data/{secret}",
        body=lambda _stored: {"data": {}, "options": {"cas": 1}},
    ),
    ForbiddenRequest(
        name="destroy",
        roles=(WRITER, BROKER, PROBER, PROVISIONER),
        path="{kv}/destroy/{secret}",
        body=lambda _stored: {"versions": [1]},
    ),
    ForbiddenRequest(
        name="delete the metadata",
        roles=tuple(VaultRole),
        path="{kv}/metadata/{secret}",
        method="delete",
        body=None,
    ),
    ForbiddenRequest(
        name="keep fewer versions",
        roles=tuple(VaultRole),
        path="{kv}/metadata/{secret}",
        body=lambda _stored: {"max_versions": 1},
    ),
    ForbiddenRequest(
        name="configure the mount",
        roles=tuple(VaultRole),
        path="{kv}/config",
        body=lambda _stored: {"max_versions": 100, "cas_required": True},
    ),
    ForbiddenRequest(
        name="list organizations",
        roles=tuple(VaultRole),
        path="{kv}/metadata/orgs",
        method="list",
        body=None,
    ),
    ForbiddenRequest(
        name="revoke a token by accessor",
        roles=(WRITER, PROBER, SWEEPER, PROVISIONER),
        path="auth/token/revoke-accessor",
        body=lambda _stored: {"accessor": "unknown"},
    ),
    ForbiddenRequest(
        name="create a token",
        roles=tuple(VaultRole),
        path="auth/token/create",
    ),
    ForbiddenRequest(
        name="list the mounts",
        roles=tuple(VaultRole),
        path="sys/mounts",
        method="get",
        body=None,
    ),
]
