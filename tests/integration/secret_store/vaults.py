"""Vaults set up for a test, and stores over them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from app.secret_store.vault.client import Question, VaultServer
from app.secret_store.vault.responses import Answer, expect, part
from app.secret_store.vault.roles import VaultRole, VaultSessions
from app.secret_store.vault.session import VaultLogin, VaultSession
from app.secret_store.vault.setup import VaultSetup
from app.secret_store.vault.store import VaultMounts, VaultSecretStore


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A Vault after set-up, with names of its own so that several fit on one server."""

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
        """A store whose roles all log in as given; by default as root."""
        logins = logins or dict.fromkeys(VaultRole, self.root)
        store = VaultSecretStore(VaultSessions(self.connect(), logins), self.mounts, **options)
        yield store
        await store.close()

    async def login(self, role: VaultRole) -> VaultLogin:
        """A new secret id for a role."""
        path = f"auth/approle/role/{self.prefix}-{role}/secret-id"
        secret_id = part(await self.write(path), "secret_id")
        return VaultLogin(
            method="approle",
            namespace=self.root.namespace,
            role_id=self.role_ids[role],
            secret_id=secret_id,
        )

    async def logins(self) -> dict[VaultRole, VaultLogin]:
        return {role: await self.login(role) for role in VaultRole}

    async def as_root(self, question: Question, *others: int) -> Answer:
        return expect(await self.root_session.call(question), *others)

    async def write(self, path: str, /, **data: object) -> Answer:
        return await self.as_root(lambda vault: vault.write_data(path, data=data))

    async def read(self, path: str) -> Answer:
        return await self.as_root(lambda vault: vault.read(path))

    async def delete(self, path: str) -> Answer:
        # hvac's own delete gives nothing back.
        return await self.as_root(lambda vault: vault.adapter.delete(f"/v1/{path}"))

    async def put(self, path: str, content: Mapping[str, object], *, cas: int) -> None:
        """Change a secret as an intruder in Vault's storage would."""
        await self.write(f"{self.mounts.kv}/data/{path}", data=content, options={"cas": cas})

    async def get(self, path: str, version: int) -> Mapping[str, Any]:
        """What rests there."""
        answer = await self.as_root(
            lambda vault: vault.secrets.kv.v2.read_secret_version(
                path, version=version, mount_point=self.mounts.kv, raise_on_deleted_version=False
            )
        )
        content: Mapping[str, Any] = answer.data["data"]
        return content

    async def opens(self, wrapping_token: str) -> bool:
        """Whether it does, as its consumer would find out; it opens no second time."""
        unwrap = {"token": wrapping_token}
        answer = await self.root_session.call(
            lambda vault: vault.write_data("sys/wrapping/unwrap", data=unwrap)
        )
        return answer.is_success

    async def secrets_of(self, organization_id: str) -> set[tuple[UUID, int]]:
        """Every version of this organization's in which a secret rests, found by looking as root."""
        folders = [f"orgs/{organization_id}/{kind}" for kind in ("creds", "webhooks")]
        return {secret for folder in folders for secret in await self._secrets_in(folder)}

    async def _secrets_in(self, folder: str) -> set[tuple[UUID, int]]:
        under = f"{self.mounts.kv}/metadata/{folder}"
        found = set()
        for name in (await self.as_root(lambda vault: vault.list(under), 404)).data.get("keys", ()):
            metadata = await self.read(f"{under}/{name}")
            for number, version in metadata.data["versions"].items():
                if not version["destroyed"]:
                    content = await self.get(f"{folder}/{name}", int(number))
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
) -> AsyncIterator[Prepared]:
    """Set up under names that nobody has. `connect` makes another way there than by HTTP to the address."""
    unique = uuid4().hex[:8]
    root = VaultLogin(method="token", token=token, namespace=namespace)
    mounts = VaultMounts(kv=f"kv-{unique}", transit=f"transit-{unique}")
    connect = connect or partial(VaultServer, address)
    server = connect()
    session = VaultSession(server, root)
    yield Prepared(
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
