"""Where data and keys are stored: the database and the secret store."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from app.settings.groups.group import Group
from app.settings.operator_urls import VaultAddress
from app.settings.types import (
    DatabaseUrl,
    Duration,
    LoginText,
    SecretLoginText,
    VaultNamespace,
    VaultPath,
    VaultToken,
)


class DatabaseSettings(Group):
    """The PostgreSQL database of the service."""

    url: DatabaseUrl | None = Field(
        default=None,
        description="URL of the service's login, such as"
        " `postgresql://user:password@host:5432/name?sslmode=verify-full`. Set certificates with `PGSSLROOTCERT`,"
        " `PGSSLCERT` and `PGSSLKEY`. If unset, an embedded PostgreSQL runs under the data directory.",
    )
    migration_url: DatabaseUrl | None = Field(
        default=None,
        description="URL of the login that owns the tables, for `byok migrate`, which needs no other setting; the other"
        " commands also require `BYOK_DATABASE__URL`. If unset, the login of `BYOK_DATABASE__URL` owns the tables. It must"
        " lead to the server itself, not to a pooler.",
    )
    direct_url: DatabaseUrl | None = Field(
        default=None,
        description="URL of the service's login that leads to the server itself. Required if `BYOK_DATABASE__URL` leads to a"
        " pooler in transaction mode, which it says with `?pgbouncer=true`: each process keeps one connection there, for the"
        " lock that belongs to its session. If unset, `BYOK_DATABASE__URL` leads to the server itself.",
    )
    reports_url: DatabaseUrl | None = Field(
        default=None,
        description="URL of a streaming replica from which usage reports and lists of usage events are read, such as"
        " `postgresql://user:password@replica:5432/name`. Requires `BYOK_DATABASE__URL`. `data_as_of` in the responses says"
        " up to when they include all events. While the replica does not respond, they are read from"
        " `BYOK_DATABASE__URL`. If unset, they always are.",
    )
    pool_size: int = Field(
        default=10, ge=1, le=200, description="Maximum number of database connections per process."
    )
    connections_per_organization: int | None = Field(
        default=None,
        ge=1,
        le=200,
        description="How many connections of a process one organization may use at the same time. If unset, half of"
        " `BYOK_DATABASE__POOL_SIZE`.",
    )
    reserved_connections: int | None = Field(
        default=None,
        ge=0,
        le=200,
        description="Connections of a process that lists, reports, exports and statements never use, so that readiness,"
        " reservations and saves find one. If unset, 30 % of `BYOK_DATABASE__POOL_SIZE`.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=5),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="Timeout that applies separately to connecting, to waiting for a free connection, to each statement"
        " and to waiting for a lock. 1 second to 1 hour.",
    )


class VaultSettings(Group):
    """The HashiCorp Vault or OpenBao server that stores the keys."""

    address: VaultAddress | None = Field(
        default=None,
        description="Address of the server, such as `https://vault.example.com:8200`. A `/v1` at its end is removed. Plain"
        " HTTP is allowed only for loopback addresses in development. If unset, the embedded secret store is used.",
    )
    namespace: VaultNamespace | None = Field(
        default=None, description="Vault namespace of the engines and of the login. If unset, none is sent."
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of the certificates to trust for the Vault server. If unset, the public roots are trusted.",
    )
    kv_mount: VaultPath = Field(default="byok", description="Mount path of the KV version 2 engine.")
    transit_mount: VaultPath = Field(default="byok-transit", description="Mount path of the transit engine.")
    auth_method: Literal["token", "approle", "kubernetes", "jwt"] = Field(
        default="token",
        description="How the service logs in: with a token, with AppRole, or with a Kubernetes or other JWT.",
    )
    token: VaultToken | None = Field(default=None, description="Vault token, for the auth method `token`.")
    role_id: LoginText | None = Field(
        default=None, description="AppRole role id, for the auth method `approle`."
    )
    secret_id: SecretLoginText | None = Field(
        default=None, description="AppRole secret id, for the auth method `approle`."
    )
    role: LoginText | None = Field(
        default=None, description="Name of the Vault role, for the auth methods `kubernetes` and `jwt`."
    )
    jwt_file: Path | None = Field(
        default=None,
        description="File with the JWT, for the auth methods `kubernetes` and `jwt`; it is read at each login. If unset,"
        " `kubernetes` reads the service account's token.",
    )
    roles: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        repr=False,  # contains secret ids
        description="Separate login of one role: `BYOK_VAULT__ROLES__<ROLE>__ROLE_ID` and so on, where `<ROLE>` is"
        " `WRITER`, `BROKER`, `PROBER`, `SWEEPER` or `PROVISIONER`. Values that are not set for a role are those of"
        " `BYOK_VAULT__...`.",
    )


class SecretStoreSettings(Group):
    """The choice of the secret store."""

    allow_embedded: bool = Field(
        default=False,
        description="Whether production may use the embedded secret store. Not needed with Vault or in development.",
    )
