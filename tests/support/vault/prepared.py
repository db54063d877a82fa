"""Vault servers after `byok vault-setup`, and stores over them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from app.secret_store.vault.client import VaultRequest, VaultServer
from app.secret_store.vault.engines import VaultMounts
from app.secret_store.vault.responses import VaultResponse, expect_success, text_field
from app.secret_store.vault.roles import VaultRole, VaultSessions
from app.secret_store.vault.session import VaultLogin, VaultSession
from app.secret_store.vault.setup import VaultSetup
from app.secret_store.vault.store import VaultSecretStore


@dataclass(frozen=True, kw_only=True)
class PreparedVault:
    """A Vault after the setup, under unique names, so that several can share a server."""

    address: str
    connect: Callable[[], VaultServer]
    root: VaultLogin = field(repr=False)
    root_session: VaultSession = field(repr=False)
    mounts: VaultMounts
    prefix: str
    role_ids: Mapping[VaultRole, str]

    @asynccontextmanager
    async def session(self, login: VaultLogin | None = None) -> AsyncIterator[VaultSession]:
        server = self.connect()
        session = VaultSession(server, login or self.root)
        yield session
        await session.close()
        server.close()

    @asynccontextmanager
    async def store(
        self, logins: Mapping[VaultRole, VaultLogin] | None = None, **options: Any
    ) -> AsyncIterator[VaultSecretStore]:
        """A store with these logins. By default every role logs in as root."""
        logins = logins or dict.fromkeys(VaultRole, self.root)
        store = VaultSecretStore(VaultSessions(self.connect(), logins), self.mounts, **options)
        yield store
        await store.close()

    async def login(self, role: VaultRole) -> VaultLogin:
        """An AppRole login for a role, with a new secret id."""
        path = f"auth/approle/role/{self.prefix}-{role}/secret-id"
        secret_id = text_field(await self.write(path), "secret_id")
        return VaultLogin(
            method="approle",
            namespace=self.root.namespace,
            role_id=self.role_ids[role],
            secret_id=secret_id,
        )

    async def logins(self) -> dict[VaultRole, VaultLogin]:
        return {role: await self.login(role) for role in VaultRole}

    async def as_root(self, request: VaultRequest, *others: int) -> VaultResponse:
        return expect_success(await self.root_session.call(request), *others)

    async def write(self, path: str, /, **data: object) -> VaultResponse:
        return await self.as_root(lambda vault: vault.write_data(path, data=data))

    async def read(self, path: str) -> VaultResponse:
        return await self.as_root(lambda vault: vault.read(path))

    async def delete(self, path: str) -> VaultResponse:
        # hvac's own delete returns None.
        return await self.as_root(lambda vault: vault.adapter.delete(f"/v1/{path}"))

    async def put(self, path: str, content: Mapping[str, object], *, cas: int) -> None:
        """Write a secret past the store, as an attacker with access to Vault would."""
        await self.write(f"{self.mounts.kv}/data/{path}", data=content, options={"cas": cas})

    async def get(self, path: str, version: int) -> Mapping[str, Any]:
        """Read the content of a version."""
        response = await self.as_root(
            lambda vault: vault.secrets.kv.v2.read_secret_version(
                path, version=version, mount_point=self.mounts.kv, raise_on_deleted_version=False
            )
        )
        content: Mapping[str, Any] = response.data["data"]
        return content

    async def opens(self, wrapping_token: str) -> bool:
        """Unwrap the token like a consumer. Returns whether that succeeded; it succeeds only once."""
        unwrap = {"token": wrapping_token}
        response = await self.root_session.call(
            lambda vault: vault.write_data("sys/wrapping/unwrap", data=unwrap)
        )
        return response.is_success

    async def secrets_of(self, organization_id: str) -> set[tuple[UUID, int]]:
        """Every version of the organization's secrets that holds ciphertext, read as root."""
        parents = [f"orgs/{organization_id}/{kind}" for kind in ("creds", "webhooks")]
        return {secret for parent in parents for secret in await self._secrets_in(parent)}

    async def _secrets_in(self, parent: str) -> set[tuple[UUID, int]]:
        under = f"{self.mounts.kv}/metadata/{parent}"
        found = set()
        for name in (await self.as_root(lambda vault: vault.list(under), 404)).data.get("keys", ()):
            metadata = await self.read(f"{under}/{name}")
            for number, version in metadata.data["versions"].items():
                if not version["destroyed"]:
                    content = await self.get(f"{parent}/{name}", int(number))
                    if "ct" in content:
                        found.add((UUID(name), int(number)))
        return found


@asynccontextmanager
async def prepared_vault(
    address: str,
    token: str,
    *,
    namespace: str | None = None,
    connect: Callable[[], VaultServer] | None = None,
) -> AsyncIterator[PreparedVault]:
    """Set up a Vault under unique names. `connect` replaces the HTTP connection to the address."""
    unique = uuid4().hex[:8]
    root = VaultLogin(method="token", token=token, namespace=namespace)
    mounts = VaultMounts(kv=f"kv-{unique}", transit=f"transit-{unique}")
    connect = connect or partial(VaultServer, address)
    server = connect()
    session = VaultSession(server, root)
    yield PreparedVault(
        address=address,
        connect=connect,
        root=root,
        root_session=session,
        mounts=mounts,
        prefix=f"byok-{unique}",
        role_ids=await VaultSetup(session, mounts, prefix=f"byok-{unique}").run(),
    )
    await session.close()
    server.close()
