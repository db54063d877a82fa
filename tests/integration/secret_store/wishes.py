"""Requests that a policy must bar, each from the roles that it is not for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.secret_store.vault.roles import VaultRole

WRITER, BROKER, PROBER, SWEEPER, PROVISIONER = VaultRole


@dataclass(frozen=True, kw_only=True)
class Place:
    """A key that rests in Vault, in the words of Vault's API."""

    kv: str
    transit: str
    secret: str
    transit_key: str
    ciphertext: str
    context: str

    @property
    def sealed(self) -> dict[str, object]:
        return {"ciphertext": self.ciphertext, "context": self.context}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A request that is well-formed and that only the policy bars."""

    name: str
    roles: tuple[VaultRole, ...]
    path: str
    body: Callable[[Place], Mapping[str, object]] | None = lambda _place: {}
    method: str = "post"
    wrap_ttl: str | None = None


WISHES = [
    Wish(
        name="unseal",
        roles=(WRITER, BROKER, SWEEPER, PROVISIONER),
        path="{transit}/decrypt/{transit_key}",
        body=lambda place: place.sealed,
    ),
    Wish(
        name="unseal wrapped",
        roles=(WRITER, SWEEPER, PROVISIONER),
        path="{transit}/decrypt/{transit_key}",
        body=lambda place: place.sealed,
        wrap_ttl="60s",
    ),
    Wish(
        name="wrap for an hour",
        roles=(BROKER,),
        path="{transit}/decrypt/{transit_key}",
        body=lambda place: place.sealed,
        wrap_ttl="1h",
    ),
    Wish(
        name="seal",
        roles=(BROKER, PROBER, SWEEPER, PROVISIONER),
        path="{transit}/encrypt/{transit_key}",
        body=lambda place: {"plaintext": "", "context": place.context},
    ),
    Wish(
        name="seal with a new key",
        roles=(WRITER, BROKER, PROBER, SWEEPER, PROVISIONER),
        path="{transit}/encrypt/org.nobody.key",
        body=lambda place: {"plaintext": "", "context": place.context},
    ),
    Wish(
        name="rewrap",
        roles=(WRITER, BROKER, PROBER, PROVISIONER),
        path="{transit}/rewrap/{transit_key}",
        body=lambda place: place.sealed,
    ),
    Wish(
        name="take a data key",
        roles=tuple(VaultRole),
        path="{transit}/datakey/plaintext/{transit_key}",
        body=lambda place: {"context": place.context},
    ),
    Wish(
        name="take a fingerprint",
        roles=(BROKER, PROBER, SWEEPER, PROVISIONER),
        path="{transit}/hmac/fingerprint",
        body=lambda _place: {"input": ""},
    ),
    Wish(
        name="make a transit key",
        roles=(WRITER, BROKER, PROBER, SWEEPER),
        path="{transit}/keys/org.other.key",
        body=lambda _place: {"type": "aes256-gcm96", "derived": True},
    ),
    Wish(
        name="make a transit key that can be exported",
        roles=tuple(VaultRole),
        path="{transit}/keys/org.exportable.key",
        body=lambda _place: {"type": "aes256-gcm96", "derived": True, "exportable": True},
    ),
    Wish(
        name="make a transit key without context",
        roles=tuple(VaultRole),
        path="{transit}/keys/org.underived.key",
        body=lambda _place: {"type": "aes256-gcm96", "derived": False},
    ),
    Wish(
        name="make a transit key of the default kind",
        roles=tuple(VaultRole),
        path="{transit}/keys/org.default.key",
    ),
    Wish(
        name="make the transit key exportable",
        roles=tuple(VaultRole),
        path="{transit}/keys/{transit_key}/config",
        body=lambda _place: {"exportable": True},
    ),
    Wish(
        name="rotate the transit key",
        roles=(WRITER, BROKER, PROBER, SWEEPER),
        path="{transit}/keys/{transit_key}/rotate",
    ),
    Wish(
        name="export the transit key",
        roles=tuple(VaultRole),
        path="{transit}/export/encryption-key/{transit_key}",
        method="get",
        body=None,
    ),
    Wish(
        name="delete the transit key",
        roles=tuple(VaultRole),
        path="{transit}/keys/{transit_key}",
        method="delete",
        body=None,
    ),
    Wish(
        name="read ciphertext",
        roles=(PROVISIONER,),
        path="{kv}/data/{secret}",
        method="get",
        body=None,
    ),
    Wish(
        name="write ciphertext",
        roles=(BROKER, PROBER, PROVISIONER),
        path="{kv}/data/{secret}",
        body=lambda _place: {"data": {}, "options": {"cas": 1}},
    ),
    Wish(
        name="destroy",
        roles=(WRITER, BROKER, PROBER, PROVISIONER),
        path="{kv}/destroy/{secret}",
        body=lambda _place: {"versions": [1]},
    ),
    Wish(
        name="forget the numbers",
        roles=tuple(VaultRole),
        path="{kv}/metadata/{secret}",
        method="delete",
        body=None,
    ),
    Wish(
        name="keep fewer versions",
        roles=tuple(VaultRole),
        path="{kv}/metadata/{secret}",
        body=lambda _place: {"max_versions": 1},
    ),
    Wish(
        name="configure the mount",
        roles=tuple(VaultRole),
        path="{kv}/config",
        body=lambda _place: {"max_versions": 100, "cas_required": True},
    ),
    Wish(
        name="list organizations",
        roles=tuple(VaultRole),
        path="{kv}/metadata/orgs",
        method="list",
        body=None,
    ),
    Wish(
        name="end a token by accessor",
        roles=(WRITER, PROBER, SWEEPER, PROVISIONER),
        path="auth/token/revoke-accessor",
        body=lambda _place: {"accessor": "nobody's"},
    ),
    Wish(
        name="make a token",
        roles=tuple(VaultRole),
        path="auth/token/create",
    ),
    Wish(
        name="see the mounts",
        roles=tuple(VaultRole),
        path="sys/mounts",
        method="get",
        body=None,
    ),
]
